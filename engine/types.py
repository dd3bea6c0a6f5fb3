"""What flows through the engine: frames, blocks, observations, scores.

Times are `int` nanoseconds of one clock (live: `time.monotonic_ns()`; files: media time). Shapes and
dtypes are checked once, at the public edge (`engine.Recognizer`); the classes here only carry.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECOND_NS = 1_000_000_000

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """A picture with the time at which it was captured.

    t_ns: capture time.
    seq: counts the pictures of one source; a step of more than one is a loss.
    image: (H, W, 3) uint8, BGR.
    """

    t_ns: int
    seq: int
    image: UInt8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Sound with the time of its first sample.

    t_ns: capture time of samples[0].
    seq: counts the blocks of one source; a step of more than one is a loss.
    samples: (N,) float32 in [-1, 1], mono, 16,000 Hz.
    """

    t_ns: int
    seq: int
    samples: Float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Face:
    """One aligned face and the same place a moment earlier.

    crop: (112, 112) uint8, grey, eyes at the template of the manifest.
    previous: (112, 112) uint8, the earlier picture warped by the same transform as `crop`.
    gap_ns: time between the two pictures; 0 when there was no earlier picture (then previous is crop).
    box: x, y, width, height in pixels of the source picture.
    confidence: of the finder, 0..1.
    track: counts the faces followed by one tracker; another number is another (or a lost) face.
    """

    crop: UInt8
    previous: UInt8
    gap_ns: int
    box: tuple[float, float, float, float]
    confidence: float
    track: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What one picture showed. `face` is None where no face was found; the time still counts.

    others: further faces, where more than one is followed, each of another track.
    """

    t_ns: int
    seq: int
    face: Face | None
    others: tuple[Face, ...] = ()

    @property
    def faces(self) -> tuple[Face, ...]:
        """All of them."""
        return () if self.face is None else (self.face, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """The emotion scores of one window.

    t_ns: end of the window (half-open: nothing at or after it was used).
    window_ns: its length.
    labels: the names, in the order of every array here.
    heads: "fused", "video", "audio" -> (L,) float32 probabilities, calibrated, summing to 1.
    lead: which head leads the feed.
    valid_video, valid_audio: share of the window's ticks really seen and heard, 0..1.
    face: box and confidence of the newest observation in the window with a face, if any.
    track: the face's track number, -1 when there has been none.
    attributes: continuous attributes by name, of the leading head (empty where the bundle has none).
    head_attributes: the same of every head, by its name; not carried between processes nor on the feed.
    """

    t_ns: int
    window_ns: int
    labels: tuple[str, ...]
    heads: dict[str, Float32]
    lead: str
    valid_video: float
    valid_audio: float
    face: tuple[tuple[float, float, float, float], float] | None
    track: int
    attributes: dict[str, float] = field(default_factory=dict)
    head_attributes: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def scores(self) -> Float32:
        """(L,) float32: the leading head."""
        return self.heads[self.lead]

    @property
    def top(self) -> str | None:
        """The most probable label; None when nothing was seen or heard in the window."""
        if self.valid_video == 0 and self.valid_audio == 0:
            return None
        return self.labels[int(np.argmax(self.scores))]


JsonMap = dict[str, Any]
