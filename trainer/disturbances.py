"""A clip as a worse camera, microphone or cable would have given it: one disturbance at one level.

`disturbed` plays a clip like `trainer.data.clips.play` with one thing made worse; the same clip and level
always give the same. It knows nothing of models and scores. Data leaves it as the engine's `Frame`s and
`Block`s in the order of time.
"""

import heapq
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from engine.signals.face import FaceFinder
from engine.types import Block, Float32, Frame, UInt8
from trainer.augment_sound import active_level_db
from trainer.data.clips import play

GAMMA = 2.2
LOOKED_AT, LOOK_EVERY = 3, 8  # pictures in which the face's width is measured, and how far apart
SMALLEST_PX = 16
Played = Callable[[bool, bool], Iterator[Frame | Block]]
"""A clip to be played: its picture, its sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """kind and level, one of:

    sound_snr_db: pink noise under the sound, against the mean level of what is not pause.
    lost_frames: share 0..1 of the pictures that never come, drawn one by one.
    offset_ms: the sound comes so much later than the picture (negative: earlier).
    light_stops: exposure in stops, in linear light, clipped to 8 bits.
    blur: deviation of a Gaussian, as a share of the face's width.
    face_px: the picture is shrunk until the face is so many pixels wide; smaller ones stay.
    window_s: the model sees the last so many seconds of its window alone (see `trainer.instruments`).
    """

    kind: str
    level: float


def disturbed(
    file: Path,
    disturbance: Disturbance,
    finder: FaceFinder,
    picture: bool = True,
    sound: bool = True,
    sound_file: Path | None = None,
) -> Iterator[Frame | Block]:
    """The clip of `play` with its disturbance. Raises ValueError for an unknown kind, else as `play` does."""
    kind, level = disturbance.kind, disturbance.level
    if kind not in CHANGES:
        raise ValueError(f"There is no disturbance {kind!r}; there are {', '.join(CHANGES)}.")
    played = partial(play, file, sound_file=sound_file)
    if kind == "window_s":
        return played(picture, sound)
    if kind == "offset_ms":
        return _apart(played, round(level * 1e6), picture, sound)
    if kind == "sound_snr_db":
        return _noisy(played, level, _seed(file), picture, sound)
    if kind == "lost_frames":
        rng = np.random.default_rng(_seed(file))
        items = played(picture, sound)
        return (item for item in items if isinstance(item, Block) or rng.random() >= level)
    width = _face_width(file, finder) if picture and kind in ("blur", "face_px") else 0.0
    return (
        replace(item, image=_changed(item.image, kind, level, width)) if isinstance(item, Frame) else item
        for item in played(picture, sound)
    )


CHANGES = ("sound_snr_db", "lost_frames", "offset_ms", "light_stops", "blur", "face_px", "window_s")


def _seed(file: Path) -> int:
    return zlib.crc32(file.name.encode())


def _apart(played: Played, sound_later_ns: int, picture: bool, sound: bool) -> Iterator[Frame | Block]:
    """Both senses shifted against each other; the one that is not late begins at zero, so none is cut."""
    shift_ns = {Block: max(sound_later_ns, 0), Frame: max(-sound_later_ns, 0)}
    senses = [played(shown, not shown) for shown in (True, False) if (picture if shown else sound)]
    moved = ((replace(item, t_ns=item.t_ns + shift_ns[type(item)]) for item in sense) for sense in senses)
    return heapq.merge(*moved, key=lambda item: item.t_ns)


def _noisy(played: Played, snr_db: float, seed: int, picture: bool, sound: bool) -> Iterator[Frame | Block]:
    blocks = [item for item in played(False, sound) if isinstance(item, Block)]
    clean = np.concatenate([block.samples for block in blocks]) if blocks else np.zeros(0, np.float32)
    level_db = active_level_db(clean) - snr_db if blocks else 0.0
    noise = _pink(len(clean), seed) * np.float32(10 ** (level_db / 20))
    at = 0
    for item in played(picture, sound):
        if isinstance(item, Block):
            own = noise[at : at + len(item.samples)]
            at += len(own)
            item = replace(item, samples=np.clip(item.samples + own, -1, 1))
        yield item


def _pink(count: int, seed: int) -> Float32:
    """(count,) float32 noise of power 1/f and mean square 1."""
    if not count:
        return np.zeros(0, np.float32)
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), count)
    return np.asarray(pink / max(float(np.sqrt(np.mean(pink**2))), 1e-12), np.float32)


def _changed(image: UInt8, kind: str, level: float, face_width: float) -> UInt8:
    if kind == "light_stops":
        table = 255 * np.minimum((np.arange(256) / 255) ** GAMMA * 2.0**level, 1) ** (1 / GAMMA)
        return np.asarray(cv2.LUT(image, np.rint(table).astype(np.uint8)), np.uint8)
    if face_width == 0:
        return image
    if kind == "blur":
        return image if level == 0 else np.asarray(cv2.GaussianBlur(image, (0, 0), level * face_width))
    scale = level / face_width
    if scale >= 1:
        return image
    size = [max(SMALLEST_PX, round(side * scale)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


@lru_cache(maxsize=4096)
def _face_width(file: Path, finder: FaceFinder) -> float:
    """Pixels: the median width of the largest face in some pictures of a clip; 0 where there is none."""
    widths: list[float] = []
    for place, frame in enumerate(play(file, True, False)):
        if place % LOOK_EVERY == 0 and isinstance(frame, Frame):
            found = finder.find(frame.image)
            widths += [max(face.box[2] for face in found)] if found else []
        if len(widths) == LOOKED_AT:
            break
    return float(np.median(widths)) if widths else 0.0
