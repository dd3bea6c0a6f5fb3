"""From the times that devices tell to the one clock of the program, `time.monotonic_ns()`.

Three small state machines: `SampleClock` for microphones, `CameraClock` for pictures with or without a
driver's time, `ArrivalClock` for streams whose presentation times have a foreign zero. They know nothing
about devices and never look at a clock themselves: every time is an argument, every answer a number.
"""

from collections import deque
from itertools import pairwise
from statistics import median

import numpy as np

MS = 1_000_000
_DRIFT = 200e-6
_WORST_DRIFT = 500e-6
_APART_S = 0.015
_FEW = 10
_WANDER_S = 5e-3
"""Sound servers' own estimates of their delay wander by this much over seconds."""


class SampleClock:
    """The time of a sample, by a running robust line through (sample index, time) pairs.

    Huber's loss keeps late callbacks from pulling the line; a prior on its slope (nominal rate, standard
    deviation 200 ppm; after a restart what was learned) keeps the first seconds, which say little about
    drift, from tilting it. Pairs that lie off the line together, by more than `jump_ms`, are a jump: the
    line starts afresh through them.
    """

    def __init__(self, rate_hz: float, *, memory_s: float = 20.0, jump_ms: float = 20.0) -> None:
        self._rate_hz = rate_hz
        self._memory_s = memory_s
        self._jump_ns = round(jump_ms * MS)
        self._origin: tuple[int, int] | None = None
        self._x: deque[float] = deque()  # seconds since the origin by the nominal rate
        self._y: deque[float] = deque()  # seconds by which the told time exceeds that
        self._suspects: list[tuple[int, int]] = []
        self._offset_s = 0.0
        self._slope = 0.0
        self._expected_slope = 0.0
        self._since_fit = 0
        self.jumps = 0

    @property
    def drift_ppm(self) -> float:
        """How much longer a sample of this device takes than its nominal rate says, in parts per million."""
        return self._slope * 1e6

    def push(self, index: int, t_ns: int) -> int:
        """Takes the time of sample `index`; returns by how many ns the line jumped (nearly always 0)."""
        if self._origin is None:
            self._restart([(index, t_ns)])
            return 0
        residual_ns = t_ns - self.time_ns(index)
        if abs(residual_ns) > self._jump_ns and len(self._x) >= _FEW:
            self._suspects.append((index, t_ns))
            return self._judge()
        self._suspects.clear()
        if (index - self._origin[0]) / self._rate_hz - self._x[-1] >= _APART_S:
            self._take(index, t_ns)
            while self._x[-1] - self._x[0] > self._memory_s:
                self._x.popleft()
                self._y.popleft()
            self._since_fit += 1
            if self._since_fit >= _FEW or len(self._x) == _FEW // 2:
                self._fit()
        return 0

    def restart(self) -> None:
        """Samples are known to have been lost: what was learned about the slope stays, the rest goes."""
        self._origin = None

    def time_ns(self, index: int) -> int:
        """When sample `index` was captured. Needs one `push` before."""
        assert self._origin is not None
        index0, t0_ns = self._origin
        seconds = (index - index0) / self._rate_hz
        return t0_ns + round((self._offset_s + seconds * (1 + self._slope)) * 1e9)

    def _judge(self) -> int:
        """Are the pairs off the line a new line? Then goes over to it and returns the step in ns."""
        off_ns = [t_ns - self.time_ns(index) for index, t_ns in self._suspects[-5:]]
        if len(off_ns) < 5 or max(off_ns) - min(off_ns) > self._jump_ns:
            del self._suspects[:-20]
            return 0
        self._restart(self._suspects[-5:])
        self.jumps += 1
        return round(median(off_ns))

    def _restart(self, points: list[tuple[int, int]]) -> None:
        self._x.clear()
        self._y.clear()
        self._suspects = []
        self._origin, self._offset_s, self._expected_slope = points[0], 0.0, self._slope
        for index, t_ns in points:
            self._take(index, t_ns)
        if len(points) > 1:
            self._fit()

    def _take(self, index: int, t_ns: int) -> None:
        assert self._origin is not None
        seconds = (index - self._origin[0]) / self._rate_hz
        self._x.append(seconds)
        self._y.append((t_ns - self._origin[1]) * 1e-9 - seconds)

    def _fit(self) -> None:
        """Iterated weighted least squares for offset and slope against the nominal line."""
        x, y = np.array(self._x), np.array(self._y)
        weight = np.ones_like(x)
        offset, slope = float(np.median(y - self._slope * x)), self._slope
        for _ in range(4):
            residual = np.abs(y - offset - slope * x)
            spread = max(1.48 * float(np.median(residual)), 1e-4)
            weight = np.minimum(1.0, 1.5 * spread / np.maximum(residual, 1e-9))
            prior = (max(spread, _WANDER_S) / _DRIFT) ** 2
            mx, my = float(np.average(x, weights=weight)), float(np.average(y, weights=weight))
            dx = x - mx
            off = y - my - self._expected_slope * dx
            slope = self._expected_slope + float(np.sum(weight * dx * off) / (np.sum(weight * dx**2) + prior))
            slope = min(max(slope, -_WORST_DRIFT), _WORST_DRIFT)
            offset = my - slope * mx
        self._offset_s, self._slope, self._since_fit = offset, slope, 0


class CameraClock:
    """The time of a picture: the driver's, where it is of the monotonic clock, else arrival less a delay.

    The first `TRIAL` pictures decide, so feed it those first (`trial`, they get no time) and read `choice`
    for the log. Without a driver's time the delay is one picture's interval (a picture takes about that
    long to be read out and carried over), at most 50 ms.
    """

    TRIAL = 5

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []
        self._driver = False
        self._delay_ns = 0
        self._last_ns = -(1 << 62)
        self.choice = ""

    def trial(self, driver_ns: int, arrival_ns: int) -> bool:
        """Takes what one of the first pictures says; True once that is enough and `time_ns` may be asked."""
        self._seen.append((driver_ns, arrival_ns))
        if len(self._seen) < self.TRIAL:
            return False
        ages = [arrival - driver for driver, arrival in self._seen]
        self._driver = all(self._plausible(age) for age in ages) and all(
            earlier[0] < later[0] for earlier, later in pairwise(self._seen)
        )
        if self._driver:
            self._delay_ns = round(median(ages))
            self.choice = f"driver's buffer time, {self._delay_ns / MS:.1f} ms before arrival"
        else:
            interval = median(later[1] - earlier[1] for earlier, later in pairwise(self._seen))
            self._delay_ns = min(round(interval), 50 * MS)
            self.choice = f"arrival less {self._delay_ns / MS:.1f} ms, as the driver gives no monotonic time"
        return True

    def time_ns(self, driver_ns: int, arrival_ns: int) -> int:
        """The capture time of a picture, always later than the one before."""
        if self._driver and self._plausible(arrival_ns - driver_ns):
            t_ns = driver_ns
        else:
            t_ns = arrival_ns - self._delay_ns
        self._last_ns = max(t_ns, self._last_ns + 1)
        return self._last_ns

    @staticmethod
    def _plausible(age_ns: int) -> bool:
        return -1 * MS <= age_ns <= 1000 * MS


class ArrivalClock:
    """Presentation times on the monotonic clock, by the smallest delay seen of late.

    What arrives is late by a fixed delay and more; so the least of (arrival - presentation) over the
    last `memory_s` to twice that is the fixed part, and stays out of reach of network and load. Once it
    has settled it is followed slowly, so that times keep their order. A step of the presentation times
    themselves is followed at once and counted in `jumps`.
    """

    _FELL_NS = -1000 * MS
    _ROSE_NS = 3000 * MS
    """Steps of the foreign clock; a stall of the network can look like a rise, and repairs itself."""

    def __init__(self, *, memory_s: float = 10.0) -> None:
        self._memory_ns = round(memory_s * 1e9)
        self._older: int | None = None
        self._newer: int | None = None
        self._since_ns = 0
        self._arrival_ns = 0
        self._offset_ns = 0
        self._settled = 0
        self.jumps = 0

    @property
    def settled(self) -> bool:
        """False while a backlog is still being read, when the least delay keeps falling."""
        return self._settled >= 5

    def push(self, pts_ns: int, arrival_ns: int) -> None:
        """Takes what was complete at presentation time `pts_ns` and arrived at `arrival_ns`."""
        delay = arrival_ns - pts_ns
        elapsed_ns, self._arrival_ns = arrival_ns - self._arrival_ns, arrival_ns
        if self._newer is None or not self._FELL_NS < delay - self._offset_ns < self._ROSE_NS:
            self.jumps += self._newer is not None
            self._older, self._newer, self._since_ns = None, delay, arrival_ns
            self._offset_ns, self._settled = delay, 0
            return
        if arrival_ns - self._since_ns > self._memory_ns:
            self._older, self._newer, self._since_ns = self._newer, delay, arrival_ns
        self._newer = min(self._newer, delay)
        least = self._newer if self._older is None else min(self._newer, self._older)
        move = least - self._offset_ns
        if self.settled:
            slowest = min(elapsed_ns // 20, MS)
            move = min(max(move, -slowest), slowest)
        else:
            self._settled = 0 if move < -5 * MS else self._settled + 1
        self._offset_ns += move

    def time_ns(self, pts_ns: int) -> int:
        """The monotonic time of a presentation time. Needs one `push` before."""
        return pts_ns + self._offset_ns
