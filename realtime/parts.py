"""Which workers a configuration needs: from `--camera` and `--mic` to sources and their processes.

Pure: it looks at nothing but the words and whether a file of that name exists. It knows nothing about devices
or processes. Data leaves it as `Part`s.
"""

import enum
import stat
from dataclasses import dataclass
from pathlib import Path

from realtime.config import Config


class Kind(enum.Enum):
    """What sort of source a word names."""

    CAMERA = "camera"
    MICROPHONE = "microphone"
    MEDIA = "media"
    DEMO = "demo"


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

    asked: the user named it, so its absence is an error.
    fallback: what it opens where what it should open does not exist.
    """

    worker: str
    sources: tuple[SourceSpec, ...]
    asked: bool
    fallback: SourceSpec | None = None

    def wants(self, kind: str) -> bool:
        """Whether "video" or "audio" is wanted of it."""
        return any(getattr(source, kind) for source in self.sources)


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
    """The capture workers of a run.

    A file, URL or the demo gives picture and sound from one worker; so do two files without pacing, whose
    items must come in one order of time. All else has a worker of its own.
    """
    picture = _picture(config)
    own_sound = picture is not None and picture.kind is not Kind.CAMERA and config.mic is None
    if picture is not None and own_sound:
        return (Part(worker=_name(picture), sources=(_with_sound(picture),), asked=True),)
    sound = _sound(config)
    if picture is None or sound is None:
        only = picture or sound
        assert only is not None
        return (_part(config, _name(only), only),)
    if not config.pace:
        return (Part(worker="media", sources=(picture, sound), asked=True),)
    names = (_name(picture), _name(sound) if sound.kind is Kind.MICROPHONE else "sound")
    return tuple(_part(config, name, source) for name, source in zip(names, (picture, sound), strict=True))


def _picture(config: Config) -> SourceSpec | None:
    if config.camera == "none":
        return None
    kind = Kind.CAMERA if config.camera is None else kind_of(config.camera, Kind.CAMERA)
    return SourceSpec(kind=kind, spec=config.camera, video=True, audio=False)


def _with_sound(source: SourceSpec) -> SourceSpec:
    return SourceSpec(kind=source.kind, spec=source.spec, video=True, audio=True)


def _sound(config: Config) -> SourceSpec | None:
    if config.mic == "none":
        return None
    if config.mic in (None, "default"):
        return SourceSpec(kind=Kind.MICROPHONE, spec=None, video=False, audio=True)
    kind = kind_of(config.mic, Kind.MICROPHONE)
    return SourceSpec(kind=kind, spec=config.mic, video=False, audio=True)


def _part(config: Config, name: str, source: SourceSpec) -> Part:
    """The demo stands in for a camera that nobody named, with its own voice unless another is wanted."""
    if source.video and config.camera is None:
        demo = SourceSpec(kind=Kind.DEMO, spec=None, video=True, audio=config.mic is None)
        return Part(worker=name, sources=(source,), asked=False, fallback=demo)
    asked = source.video or config.mic is not None or config.camera == "none"
    return Part(worker=name, sources=(source,), asked=asked)


def _name(source: SourceSpec) -> str:
    return source.kind.value
