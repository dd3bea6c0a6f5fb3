"""One take as the live engine sees and hears it, kept on disk once for every setting of preprocessing.

`observe` plays a take through the code that runs live: decoding, `FaceTracker`, `Timeline`. `Store` names the
file of a take by the digest of everything that shaped it, so that a changed setting, finder, program or
recording never meets old crops. It knows nothing of sets, splits or models. Data leaves as `Observed`.
"""

import hashlib
import inspect
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import engine.grid
import engine.picture
import engine.signals.align
import engine.signals.face
import engine.signals.face_networks
import engine.signals.finder
import engine.signals.sight
import engine.signals.sound
import engine.signals.yunet
import engine.sound_lane
import engine.video_lane
import engine.window
import trainer.data.clips
from engine.bundle import Bundle
from engine.signals.face import FaceFinder, FaceTracker
from engine.types import SECOND_NS, Face, Frame
from engine.window import UNBOUNDED_NS, Timeline
from trainer.data.clips import contents, in_words, play
from trainer.data.sound import RATE_HZ, as_int16
from trainer.data.takes import Take
from trainer.moving_faces import MovingClip

FORMAT = 1
CODE: tuple[ModuleType, ...] = (
    trainer.data.clips,
    engine.picture,
    engine.signals.align,
    engine.signals.face_networks,
    engine.signals.finder,
    engine.signals.yunet,
    engine.signals.sight,
    engine.signals.face,
    engine.signals.sound,
    engine.grid,
    engine.video_lane,
    engine.sound_lane,
    engine.window,
)
"""What a take goes through; their constants are settings too."""
SHORTEST_S = 0.1
UNREADABLE = (av.FFmpegError, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """A take after preprocessing.

    clip: its ticks, maybe none; of several tracks the one seen longest, the others count as lost.
    samples: (N,) int16, 16 kHz mono, from the clip's time 0 on, silence where the file has none; maybe none.
    pictures: how many there were; found: in how many of them a face was found.
    damage: why one of its two files could not be read, where the other could.
    """

    clip: MovingClip
    samples: NDArray[np.int16]
    pictures: int
    found: int
    damage: str = ""


def observe(take: Take, finder: FaceFinder, bundle: Bundle) -> Observed:
    """Plays a take as live; of one with two files of which one cannot be read, the other.

    Raises av.FFmpegError, OSError or ValueError where nothing can be read.
    """
    sound, damage = take.sound or take.file, ""
    try:
        samples = _heard(sound) if contents(sound).has_audio else np.zeros(0, np.int16)
    except UNREADABLE as error:
        if take.sound is None:
            raise
        samples, damage = np.zeros(0, np.int16), why(error)
    try:
        clip, pictures, found = _seen(take.file, finder, bundle)
    except UNREADABLE as error:
        if not len(samples) or take.sound is None:
            raise
        clip, pictures, found = _clip([], 0, bundle.crop.size), 0, 0
        damage = why(error)
    return Observed(clip=clip, samples=samples, pictures=pictures, found=found, damage=damage)


def why(error: Exception) -> str:
    """Why a take could not be read, in one line."""
    return f"{type(error).__name__}: {in_words(error)}".splitlines()[0]


def _seen(file: Path, finder: FaceFinder, bundle: Bundle) -> tuple[MovingClip, int, int]:
    """The ticks of a file's pictures, how many pictures there were, and in how many there was a face."""
    tracker, timeline = FaceTracker(finder, bundle.crop), Timeline(bundle, has_audio=False)
    faces: list[tuple[int, Face]] = []
    pictures = found = last = 0
    for item in play(file, sound=False):
        assert isinstance(item, Frame)
        observation = tracker.observe(item)
        pictures, found = pictures + 1, found + (observation.face is not None)
        faces += timeline.push_observation(observation)
        faces += timeline.window(timeline.floor_ns(item.t_ns))[0]
        last = item.t_ns
    ticks = 0
    if pictures:
        faces += timeline.advance_video(UNBOUNDED_NS)
        tick_ns = SECOND_NS // bundle.window.tick_hz
        released, window = timeline.window(last + tick_ns)
        faces += released
        ticks = window.end_tick
    return _clip(faces, ticks, bundle.crop.size), pictures, found


def _heard(file: Path) -> NDArray[np.int16]:
    parts = [(item.t_ns, item.samples) for item in play(file, picture=False) if not isinstance(item, Frame)]
    starts = [round(t_ns * RATE_HZ / 1e9) for t_ns, _ in parts]
    ends = [start + len(samples) for start, (_, samples) in zip(starts, parts, strict=True)]
    whole = np.zeros(max(ends, default=0), np.float32)
    for start, end, (_, samples) in zip(starts, ends, parts, strict=True):
        whole[start:end] = samples
    return as_int16(whole)


def _clip(faces: list[tuple[int, Face]], ticks: int, size: int) -> MovingClip:
    crops = np.zeros((ticks, size, size), np.uint8)
    previous, gap_ns, seen = np.zeros_like(crops), np.zeros(ticks, np.int64), np.zeros(ticks, bool)
    tracks = [face.track for _, face in faces]
    longest = max(tracks, key=tracks.count, default=-1)
    for tick, face in faces:
        if face.track == longest:
            crops[tick], previous[tick], gap_ns[tick], seen[tick] = (
                face.crop,
                face.previous,
                face.gap_ns,
                True,
            )
    return MovingClip(crops=crops, previous=previous, gap_ns=gap_ns, seen=seen)


def settings_of(bundle: Bundle, finder: FaceFinder) -> dict[str, Any]:
    """Everything that shapes a take but the take itself, as plain values."""
    return {
        "format": FORMAT,
        "crop": asdict(bundle.crop),
        "flow": asdict(bundle.flow),
        "mel": asdict(bundle.mel),
        "window": asdict(bundle.window),
        "finder": type(finder).__name__,
        "finder_file": finder.digest,
        "opencv": cv2.__version__,
        "code": digest([inspect.getsource(module) for module in CODE]),
    }


def digest(*values: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """SHA-256 of what is in a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of takes that were made with the same settings. key: the settings' digest."""

    folder: Path
    key: str

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> "Store":
        """The store in `out` for these settings; they are written beside it, to be read by people."""
        key = digest(settings)
        folder = out / "takes" / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return cls(folder, key)

    def file(self, take: Take) -> Path:
        """Where a take is kept; another file, size or time of change is another place. Raises OSError."""
        states = [(os.fspath(file), file.stat()) for file in (take.file, take.sound) if file is not None]
        which = digest([(path, state.st_size, state.st_mtime_ns) for path, state in states])
        return self.folder / f"{take.file.stem}_{which}.npz"

    def save(self, take: Take, observed: Observed) -> None:
        """Keeps a take; the file appears whole or not at all."""
        file = self.file(take)
        part = file.with_name(f"part_{os.getpid()}_{file.name}")
        clip = observed.clip
        np.savez_compressed(
            part,
            sizes=np.array((len(clip.seen), len(observed.samples), observed.pictures, observed.found)),
            crops=clip.crops,
            previous=clip.previous,
            gap_ns=clip.gap_ns,
            seen=clip.seen,
            samples=observed.samples,
            damage=np.array(observed.damage),
        )
        part.replace(file)

    def sizes(self, take: Take) -> tuple[int, int, int, int]:
        """Ticks, samples, pictures and pictures with a face of a take that is kept."""
        with np.load(self.file(take)) as table:
            ticks, samples, pictures, found = (int(size) for size in table["sizes"])
        return ticks, samples, pictures, found

    def damage(self, take: Take) -> str:
        """Why one of the two files of a take that is kept could not be read; empty where both could."""
        with np.load(self.file(take)) as table:
            return str(table["damage"]) if "damage" in table else ""  # an earlier version kept no such takes

    def clip(self, take: Take) -> MovingClip:
        """The ticks of a take that is kept."""
        with np.load(self.file(take)) as table:
            return MovingClip(**{name: table[name] for name in ("crops", "previous", "gap_ns", "seen")})

    def samples(self, take: Take) -> NDArray[np.int16]:
        """The sound of a take that is kept."""
        with np.load(self.file(take)) as table:
            samples: NDArray[np.int16] = table["samples"]
            return samples
