"""What goes through the engines when they are measured alone: a recording of the demo, or of a clip, played
over and over.

It knows nothing of engines or of measuring. Data leaves it as pictures, observations and blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np

from engine.bundle import Bundle
from engine.errors import FinderError, SourceError
from engine.signals.align import similarity, warp
from engine.signals.face import FaceTracker
from engine.signals.finder import FaceFinder, load_finder
from engine.types import SECOND_NS, Block, Face, Frame, Observation
from realtime.sources.demo import FRAMES_HZ, DemoSource

DRAWN = ((277.0, 182.0), (366.0, 183.0), (319.5, 235.0), (282.0, 280.0), (358.0, 281.0))
"""Where YuNet finds eyes, nose and mouth of the demo's head in the mean, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`seconds` of the demo: pictures, what was found in them, and the sound. Times begin at 0."""

    seconds: int
    frames: list[Frame]
    observations: list[Observation]
    blocks: list[Block]

    @property
    def faces(self) -> list[Face]:
        """The faces that were found, with an earlier picture each."""
        return [each.face for each in self.observations if each.face is not None and each.face.gap_ns]

    def played(self) -> Iterator[Observation | Block]:
        """In the order of time, over and over, time going on."""
        items = sorted([*self.observations, *self.blocks], key=_end_ns)
        shift_ns = 0
        while True:
            for item in items:
                yield replace(item, t_ns=item.t_ns + shift_ns)
            shift_ns += self.seconds * SECOND_NS


def record(bundle: Bundle, finder: FaceFinder, seconds: int = 2) -> Recording:
    """Record the demo through the face tracker."""
    tracker = FaceTracker(finder, bundle.crop)
    items = list(DemoSource(False, 0, seconds))
    frames = [item for item in items if isinstance(item, Frame)]
    blocks = [item for item in items if isinstance(item, Block)]
    return Recording(
        seconds=seconds,
        frames=frames,
        observations=[tracker.observe(frame) for frame in frames],
        blocks=blocks,
    )


def recorded(bundle: Bundle, clip: Path | None, face_model: Path | None) -> Recording:
    """Faces and sound of a clip (its first seconds), or of the demo where none is named.

    The demo's faces are found as in a run, or, where there is no finder, cut out where they were drawn.
    Raises SourceError where the clip cannot be read or shows no face, FinderError where it needs a finder.
    """
    if clip is not None:
        return _of_clip(bundle, clip, load_finder(face_model=face_model, offline=True)[0])
    try:
        finder, _ = load_finder(face_model=face_model, offline=True)
    except FinderError:
        if face_model is not None:
            raise
        return _drawn(bundle)
    return record(bundle, finder)


def _of_clip(bundle: Bundle, clip: Path, finder: FaceFinder, seconds: int = 8) -> Recording:
    from realtime.sources.media import open_media  # not on every GPU machine: it needs PyAV

    tracker = FaceTracker(finder, bundle.crop)
    items = open_media(str(clip), paced=False)
    found: list[Observation] = []
    blocks: list[Block] = []
    for item in takewhile(lambda item: getattr(item, "t_ns", 0) < seconds * SECOND_NS, items):
        if isinstance(item, Frame):
            found.append(tracker.observe(item))
        elif isinstance(item, Block):
            blocks.append(item)
    recording = Recording(seconds=seconds, frames=[], observations=found, blocks=blocks)
    if not recording.faces:
        raise SourceError(f"No face was found in the first {seconds} seconds of {clip}: name another clip.")
    return recording


def _drawn(bundle: Bundle, seconds: int = 2) -> Recording:
    items = list(DemoSource(False, 0, seconds))
    frames = [item for item in items if isinstance(item, Frame)]
    matrix = similarity(DRAWN, bundle.crop.template)
    greys = (np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8) for frame in frames)
    crops = [warp(grey, matrix, bundle.crop.size) for grey in greys]
    found = []
    for number, (frame, crop) in enumerate(zip(frames, crops, strict=True)):
        earlier = max(number - FRAMES_HZ // bundle.window.tick_hz, 0)
        face = Face(
            crop=crop,
            previous=crops[earlier],
            gap_ns=frame.t_ns - frames[earlier].t_ns,
            box=(220, 100, 200, 260),
            confidence=1.0,
            track=0,
        )
        found.append(Observation(t_ns=frame.t_ns, seq=frame.seq, face=face))
    blocks = [item for item in items if isinstance(item, Block)]
    return Recording(seconds=seconds, frames=frames, observations=found, blocks=blocks)


def _end_ns(item: Observation | Block) -> int:
    return item.t_ns if isinstance(item, Observation) else item.t_ns + len(item.samples) * SECOND_NS // 16_000
