"""Pictures of a timeline into ticks, with their time bound.

Observations come in any order and are read by the grid; what runs ahead of the last window waits within
bounds, what comes late is counted. It knows nothing of clocks, models or sound. Data leaves as released ticks
and views.

Counted, by cause: `early_observation` before the stream's epoch, `late_observation` after the window it
belonged to was made (used in later windows where there is still a place), `ahead_observation` lost because
pictures ran too far ahead of the windows (the newest stays), `skipped_observation` older than any window
asked for, `forgone_tick` given up by whoever encodes them.
"""

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from engine.bundle import Bundle
from engine.grid import Grid
from engine.types import Bool, Face, Observation

WAITING_TICKS = 256

Released = list[tuple[int, Face]]
Place = tuple[tuple[float, float, float, float], float]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The ticks of a window. mask: (T,) bool, those of `track`; place: box and confidence of the newest."""

    mask: Bool
    track: int
    place: Place | None


class VideoLane:
    """Observations into ticks: of the faces within a tick, the one nearest to its centre.

    A tick closes when the bound passes its end, or when a window needs it. Closed ticks are released (to be
    encoded, once) no further ahead of the last window than the ring of tokens reaches; up to 256 wait, and
    beyond that the oldest goes.
    """

    def __init__(self, bundle: Bundle, epoch_ns: int, counts: Counter[str]) -> None:
        self._hz = bundle.window.tick_hz
        self._span = bundle.window.ticks
        self._ring = bundle.window.ring_ticks
        self._counts = counts
        self.restart(epoch_ns)

    def restart(self, epoch_ns: int) -> None:
        """Forget all ticks and begin at `epoch_ns`."""
        self.grid = Grid(epoch_ns, self._hz)
        self.bound_ns = epoch_ns
        self._end = 0
        self._closed = 0
        self._candidate: tuple[tuple[int, int, int], int, Face] | None = None
        self._waiting: deque[tuple[int, Face]] = deque()
        self._tick = np.full(self._ring, -1, dtype=np.int64)
        self._track = np.full(self._ring, -1, dtype=np.int64)
        self._place: list[Place | None] = [None] * self._ring

    def push(self, observation: Observation) -> Released:
        """Take an observation; returns the ticks to be encoded now."""
        tick, face = self.grid.cell(observation.t_ns), observation.face
        if tick < 0:
            self._counts["early_observation"] += 1
            return []
        released = self.advance(observation.t_ns)
        if tick < self._closed:
            self._counts["late_observation"] += 1
            if face is not None and not self._taken(tick):
                self._wait(tick, face)
                released += self._release()
        elif face is not None:
            distance = abs(observation.t_ns - self.grid.centre_ns(tick))
            rank = (distance, observation.t_ns, observation.seq)
            if self._candidate is None or rank < self._candidate[0]:
                self._candidate = (rank, tick, face)
        return released

    def advance(self, t_ns: int) -> Released:
        """Nothing older than `t_ns` will come; returns the ticks to be encoded now."""
        self.bound_ns = max(self.bound_ns, t_ns)
        self._close(self.grid.cell(self.bound_ns))
        return self._release()

    def reach(self, end: int) -> Released:
        """Close the ticks before `end` (exclusive), for a window; returns ticks to be encoded."""
        self._close(end)
        self._end = end
        return self._release()

    def forgo(self, released: Released) -> None:
        """Released ticks will not be encoded: they are masked, as if nobody had been seen."""
        for tick, _ in released:
            if self._tick[tick % self._ring] == tick:
                self._tick[tick % self._ring] = -1
        self._counts["forgone_tick"] += len(released)

    def final(self, end: int) -> int:
        """The first tick, at most `end`, to which a face may still come."""
        return min(end, self.grid.cell(self.bound_ns))

    def view(self, end: int) -> View:
        """The window of ticks before `end`, of the newest track in it; released ticks alone count."""
        ticks = np.arange(end - self._span, end)
        places = ticks % self._ring
        seen = (self._tick[places] == ticks) & (ticks >= 0)
        shown = np.flatnonzero(seen)
        if not len(shown):
            return View(seen, -1, None)
        newest = places[shown[-1]]
        track = int(self._track[newest])
        return View(seen & (self._track[places] == track), track, self._place[newest])

    def _taken(self, tick: int) -> bool:
        return bool(self._tick[tick % self._ring] == tick) or any(tick == other for other, _ in self._waiting)

    def _close(self, end: int) -> None:
        if self._candidate is not None and self._candidate[1] < end:
            self._wait(self._candidate[1], self._candidate[2])
            self._candidate = None
        self._closed = max(self._closed, end)

    def _wait(self, tick: int, face: Face) -> None:
        self._waiting.append((tick, face))
        if len(self._waiting) > WAITING_TICKS:
            self._waiting.popleft()
            self._counts["ahead_observation"] += 1

    def _release(self) -> Released:
        released: Released = []
        if not self._waiting:
            return released
        still: deque[tuple[int, Face]] = deque()
        for tick, face in self._waiting:
            if tick >= self._end - self._span + self._ring:
                still.append((tick, face))
            elif tick < self._end - self._span:
                self._counts["skipped_observation"] += 1
            else:
                place = tick % self._ring
                self._tick[place], self._track[place] = tick, face.track
                self._place[place] = (face.box, face.confidence)
                released.append((tick, face))
        self._waiting = still
        return released
