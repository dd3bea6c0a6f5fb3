"""Sound of any rate to the engine's rate, as a stream, with times that account for the filter's delay.

It knows nothing of devices, mel or windows. Data leaves it as (time, samples) pairs.
"""

import numpy as np
import soxr

from engine.types import SECOND_NS, Float32

STEP_NS = 20_000_000
"""A block that begins further than this from the end of the last one begins afresh."""


class Resampler:
    """Blocks of one source to `rate_hz`; a new rate, or a step in time of more than 20 ms, begins afresh.

    soxr holds samples back for its filter, so a block's output begins earlier than the block: the time
    returned is that of the first sample returned. What is held back when it begins afresh (some ms) is lost;
    `flush` gives it where nothing follows.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._stream: soxr.ResampleStream | None = None
        self._source_hz = 0
        self._end_ns = 0
        self._taken = self._given = 0

    def push(self, t_ns: int, samples: Float32, source_hz: int) -> tuple[int, Float32]:
        """samples: (N,) float32 at `source_hz`, the first at `t_ns`. Returns time and samples, maybe none."""
        if source_hz == self._rate_hz:
            self._stream = None
            return t_ns, samples
        if self._stream is None or source_hz != self._source_hz or abs(t_ns - self._end_ns) > STEP_NS:
            self._stream = soxr.ResampleStream(source_hz, self._rate_hz, 1, dtype="float32")
            self._source_hz = source_hz
            self._taken = self._given = 0
        sound = np.asarray(self._stream.resample_chunk(samples), dtype=np.float32)
        start_ns = self._start_ns(t_ns)
        self._taken += len(samples)
        self._given += len(sound)
        self._end_ns = t_ns + len(samples) * SECOND_NS // source_hz
        return start_ns, sound

    def flush(self) -> tuple[int, Float32]:
        """What was held back, when nothing follows: time and samples, maybe none. The next begins afresh."""
        if self._stream is None:
            return self._end_ns, np.zeros(0, np.float32)
        sound = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = None
        return self._start_ns(self._end_ns), np.asarray(sound, dtype=np.float32)

    def _start_ns(self, t_ns: int) -> int:
        """When the next sample that comes out is, where the next one that goes in is at `t_ns`.

        Output sample n stands for the source's time n / rate_hz, however late it comes out.
        """
        first_ns = (self._given * self._source_hz - self._taken * self._rate_hz) * SECOND_NS
        return t_ns + first_ns // (self._source_hz * self._rate_hz)
