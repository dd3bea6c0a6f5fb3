"""What goes through the engines when they are measured alone: real crops and sound that travel along, a clip,
or the demo, played over and over.

It knows nothing of engines or of measuring. Data leaves it as pictures, observations and blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from engine.bundle import Bundle
from engine.errors import SourceError
from engine.signals.face import FaceTracker
from engine.signals.finder import FaceFinder, load_finder
from engine.types import SECOND_NS, Block, Face, Frame, Observation
from realtime.sources.demo import DemoSource

CROPS = Path(__file__).parent / "assets" / "grid_crops.npz"
"""Two seconds of one clip of the GRID corpus (see NOTICE), written by `benchmarks/crops.py`."""
CROPS_WORDS = "Faces: crops of a clip of the GRID corpus that travel along."
SOUND_HZ, BLOCKS_HZ, SOUND_PEAK = 16_000, 50, 32_767


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`seconds` of something: pictures, what was found in them, and the sound. Times begin at 0."""

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


def recorded(bundle: Bundle, clip: Path | None = None, face_model: Path | None = None) -> Recording:
    """Faces and sound of a clip (its first seconds), or where none is named those that travel along.

    Raises SourceError where the clip cannot be read or shows no face, FinderError where it needs a finder.
    """
    if clip is None:
        return read_crops(CROPS)
    return of_clip(bundle, clip, load_finder(face_model=face_model, offline=True)[0])


def read_crops(file: Path) -> Recording:
    """What `benchmarks.crops` has written. It needs no finder and no reader of media."""
    with np.load(file) as kept:
        crops, sound = kept["crops"], kept["sound"].astype(np.float32) / SOUND_PEAK
        earlier = crops + kept["earlier_less_crops"]  # both uint8: it wraps, and so comes out exactly
        rows = list(zip(kept["t_ns"].tolist(), kept["gap_ns"].tolist(), kept["box"].tolist(), strict=True))
    observations = [
        Observation(
            t_ns=t_ns,
            seq=seq,
            face=Face(
                crop=crops[seq],
                previous=earlier[seq],
                gap_ns=gap_ns,
                box=(box[0], box[1], box[2], box[3]),
                confidence=1.0,
                track=0,
            ),
        )
        for seq, (t_ns, gap_ns, box) in enumerate(rows)
    ]
    blocks = [
        Block(t_ns=seq * SECOND_NS // BLOCKS_HZ, seq=seq, samples=samples)
        for seq, samples in enumerate(np.split(sound, len(sound) * BLOCKS_HZ // SOUND_HZ))
    ]
    return Recording(seconds=len(sound) // SOUND_HZ, frames=[], observations=observations, blocks=blocks)


def of_clip(bundle: Bundle, clip: Path, finder: FaceFinder, seconds: int = 8) -> Recording:
    """Faces and sound of a clip's first seconds, every picture of it.

    Raises SourceError where it cannot be read or shows no face.
    """
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


def _end_ns(item: Observation | Block) -> int:
    if isinstance(item, Observation):
        return item.t_ns
    return item.t_ns + len(item.samples) * SECOND_NS // SOUND_HZ
