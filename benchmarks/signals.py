"""What goes through the engines when they are measured alone: a recording of the demo, played over and over.

It knows nothing of engines or of measuring. Data leaves it as pictures, observations and blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.bundle import Bundle
from engine.signals.face import FaceTracker
from engine.signals.finder import FaceFinder
from engine.types import Block, Face, Frame, Observation
from realtime.sources.demo import DemoSource

NS = 1_000_000_000


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
            shift_ns += self.seconds * NS


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


def _end_ns(item: Observation | Block) -> int:
    return item.t_ns if isinstance(item, Observation) else item.t_ns + len(item.samples) * NS // 16_000
