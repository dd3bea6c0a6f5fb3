"""When a window is due: the grid of window ends, and the rule that decides which are scored when.

A small state machine that takes time as an argument. It knows nothing about sockets, processes or models.
Data leaves it as the window ends that `due` returns.
"""

from dataclasses import dataclass, field
from fractions import Fraction

from engine.types import SECOND_NS


@dataclass(slots=True)
class Schedule:
    """The window ends of one stream: `epoch_ns + k / rate_hz`, k = 1, 2, ..., each floored to a tick.

    A window is due when every modality's bound has reached its end, or, where `max_wait_ns` is not None,
    `max_wait_ns` after its end by the clock. When more than one is due by then, only the newest is scored and
    the others are counted in `skipped`; without `max_wait_ns` nothing is ever skipped.

    epoch_ns: time of tick 0. tick_hz: ticks a second. rate_hz: windows a second, at most tick_hz.
    """

    epoch_ns: int
    tick_hz: int
    rate_hz: Fraction
    max_wait_ns: int | None
    skipped: int = 0
    _next: int = field(init=False)
    _next_ns: int = field(init=False)  # its end, which is asked for far more often than it changes

    def __post_init__(self) -> None:
        self._go_to(1)

    def end_ns(self, k: int) -> int:
        """The end of window `k`, on a tick."""
        tick = k * self.tick_hz * self.rate_hz.denominator // self.rate_hz.numerator
        return self.epoch_ns + tick * SECOND_NS // self.tick_hz

    def begin(self, now_ns: int) -> None:
        """Leave out, uncounted, the windows that ended before `now_ns`: nobody was there to score them."""
        if now_ns > self.epoch_ns:
            self._go_to(max(self._next, int(Fraction(now_ns - self.epoch_ns, SECOND_NS) * self.rate_hz)))

    def due(self, now_ns: int, bound_ns: int) -> list[int]:
        """The ends of the windows to score now, oldest first; each is returned once.

        bound_ns: nothing older will come of any modality that is present.
        """
        ends: list[int] = []
        while self._next_ns <= bound_ns or self._waited(now_ns):
            ends.append(self._next_ns)
            self._go_to(self._next + 1)
        if self.max_wait_ns is not None and len(ends) > 1:
            self.skipped += len(ends) - 1
            del ends[:-1]
        return ends

    def rest(self, last_ns: int) -> list[int]:
        """The ends that are left up to `last_ns`, the end of everything; none of them is skipped."""
        ends: list[int] = []
        while self._next_ns <= last_ns:
            ends.append(self._next_ns)
            self._go_to(self._next + 1)
        return ends

    def wake_ns(self) -> int | None:
        """When, by the clock, `due` has something to say at the latest; None: only bounds count."""
        return None if self.max_wait_ns is None else self._next_ns + self.max_wait_ns

    def _waited(self, now_ns: int) -> bool:
        return self.max_wait_ns is not None and now_ns >= self._next_ns + self.max_wait_ns

    def _go_to(self, k: int) -> None:
        self._next, self._next_ns = k, self.end_ns(k)
