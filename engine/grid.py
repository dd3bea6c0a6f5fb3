"""The grid of a timeline: cells of a fixed rate, in whole nanoseconds from an epoch. Pure arithmetic."""

from dataclasses import dataclass

from engine.types import SECOND_NS

UNBOUNDED_NS = (1 << 62) - 1
"""The bound of a modality from which nothing will come any more."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of 1/hz seconds from an epoch; cell k is [start_ns(k), start_ns(k + 1)), in whole nanoseconds."""

    epoch_ns: int
    hz: int

    def start_ns(self, cell: int) -> int:
        """The first nanosecond of a cell."""
        return self.epoch_ns + cell * SECOND_NS // self.hz

    def cell(self, t_ns: int) -> int:
        """The cell that holds `t_ns`; as many cells have ended by then."""
        return (self.hz * (t_ns - self.epoch_ns + 1) - 1) // SECOND_NS

    def centre_ns(self, cell: int) -> int:
        """The middle of a cell."""
        return (self.start_ns(cell) + self.start_ns(cell + 1)) // 2
