"""Which workers a configuration needs: from `--camera` and `--mic` to sources and their processes.

Pure: it looks at nothing but the words and whether a file of that name exists. It knows nothing about devices
or processes. Data leaves it as `Part`s.
"""

import enum
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from realtime.config import Config, StreamConfig


class Kind(enum.Enum):
    """What sort of source a word names."""

    CAMERA = "camera"
    MICROPHONE = "microphone"
    MEDIA = "media"
    DEMO = "demo"


_DEVICES = (Kind.CAMERA, Kind.MICROPHONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One source to open. `spec`: number, name, path or URL; None for the first or default one.

    video, audio: what is wanted of it.
    """

    kind: Kind
    spec: str | None
    video: bool
    audio: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One capture worker.

    stream: what it captures for.
    asked: the user named it, so its absence is an error.
    fallback: what it opens where what it should open does not exist.
    """

    worker: str
    stream: str
    sources: tuple[SourceSpec, ...]
    asked: bool
    fallback: SourceSpec | None = None

    def wants(self, kind: str) -> bool:
        """Whether "video" or "audio" is wanted of it."""
        return any(getattr(source, kind) for source in self.sources)

    @property
    def may_return(self) -> bool:
        """Whether what cannot be opened now may be there in a moment: a device or a URL, but no file."""
        return any(source.kind in _DEVICES or "://" in (source.spec or "") for source in self.sources)


def kind_of(spec: str, device: Kind) -> Kind:
    """What `spec` names: the demo, a URL or a file (both media), else a device of the kind `device`."""
    if spec == "demo":
        return Kind.DEMO
    if "://" in spec:
        return Kind.MEDIA
    path = Path(spec)
    is_media = not spec.isdigit() and path.exists() and not stat.S_ISCHR(path.stat().st_mode)
    return Kind.MEDIA if is_media else device


def parts(config: Config) -> tuple[Part, ...]:
    """The capture workers of a run, named after what they open; of several streams, after those too."""
    return tuple(part for stream in config.streams for part in _parts(stream, config.pace))


def _parts(stream: StreamConfig, pace: bool) -> tuple[Part, ...]:
    """The capture workers of a stream.

    A file, URL or the demo gives picture and sound from one worker; so do two files without pacing, whose
    items must come in one order of time. All else has a worker of its own.
    """
    picture = _picture(stream)
    own_sound = picture is not None and picture.kind is not Kind.CAMERA and stream.mic is None
    if picture is not None and own_sound:
        return (_part(stream, _name(picture), replace(picture, audio=True)),)
    sound = _sound(stream)
    if picture is None or sound is None:
        only = picture or sound
        assert only is not None
        return (_part(stream, _name(only), only),)
    if not pace:
        return (_part(stream, "media", picture, sound),)
    names = (_name(picture), _name(sound) if sound.kind is Kind.MICROPHONE else "sound")
    return tuple(_part(stream, name, source) for name, source in zip(names, (picture, sound), strict=True))


def _picture(stream: StreamConfig) -> SourceSpec | None:
    if stream.camera == "none":
        return None
    kind = Kind.CAMERA if stream.camera is None else kind_of(stream.camera, Kind.CAMERA)
    return SourceSpec(kind=kind, spec=stream.camera, video=True, audio=False)


def _sound(stream: StreamConfig) -> SourceSpec | None:
    if stream.mic == "none" or (stream.mic is None and not stream.alone):
        return None
    if stream.mic in (None, "default"):
        return SourceSpec(kind=Kind.MICROPHONE, spec=None, video=False, audio=True)
    kind = kind_of(stream.mic, Kind.MICROPHONE)
    return SourceSpec(kind=kind, spec=stream.mic, video=False, audio=True)


def _part(stream: StreamConfig, name: str, *sources: SourceSpec) -> Part:
    """The demo stands in for a camera that nobody named, with its own voice unless another is wanted."""
    worker = name if stream.alone else f"{stream.name}/{name}"
    video = any(source.video for source in sources)
    if video and stream.camera is None:
        demo = SourceSpec(kind=Kind.DEMO, spec=None, video=True, audio=stream.mic is None)
        return Part(worker=worker, stream=stream.name, sources=sources, asked=False, fallback=demo)
    asked = video or stream.mic is not None or stream.camera == "none"
    return Part(worker=worker, stream=stream.name, sources=sources, asked=asked)


def _name(source: SourceSpec) -> str:
    return source.kind.value
