"""Sound on its way to 16 kHz mono blocks of 20 ms.

`BlockCutter` resamples and cuts what comes without gaps; `TimedSound` takes decoded media sound, which
has presentation times and may have gaps. Neither knows where sound comes from or what time it is; blocks
leave as (index or time of the first sample, samples).
"""

from typing import Any

import av
import numpy as np
import soxr

from engine.types import SECOND_NS, Float32

RATE_HZ = 16_000
BLOCK_SAMPLES = 320
BLOCK_NS = BLOCK_SAMPLES * SECOND_NS // RATE_HZ


class BlockCutter:
    """Mono sound of one rate in pieces of any size -> 16 kHz in blocks of 20 ms.

    The resampler (soxr, high quality) holds back about 20 ms, but counts: sample n that comes out is
    at n / 16,000 s after the first that went in.
    """

    def __init__(self, rate_hz: int) -> None:
        self._resampler = None if rate_hz == RATE_HZ else soxr.ResampleStream(rate_hz, RATE_HZ, 1, "float32")
        self._rest: Float32 = np.zeros(0, np.float32)
        self._index = 0

    def restart(self) -> None:
        """What follows does not follow on what came: held-back sound is dropped, counting begins anew."""
        if self._resampler is not None:
            self._resampler.clear()
        self._rest = self._rest[:0]
        self._index = 0

    def push(self, samples: Float32, *, last: bool = False) -> list[tuple[int, Float32]]:
        """samples: (N,) float32. Returns (index of the block's first sample at 16 kHz, (320,) float32) pairs.

        last: nothing follows; what was held back comes too, the last block may be shorter.
        """
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        sound = np.concatenate([self._rest, samples])
        whole = len(sound) if last else len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES
        blocks = [
            (self._index + start, sound[start : min(start + BLOCK_SAMPLES, whole)])
            for start in range(0, whole, BLOCK_SAMPLES)
        ]
        self._rest = sound[whole:]
        self._index += whole
        return blocks


class TimedSound:
    """Decoded media sound with presentation times -> (time in ns, 16 kHz mono samples) blocks.

    Times are counted in samples, so the rounding of presentation times does not jitter through; where
    they run away by more than 2 ms they are followed slowly. A gap of more than 40 ms ends the running
    sound and starts anew behind it; presentation times that go back are ignored, as sound cannot be older
    than what came before.
    """

    GAP_NS = 40_000_000
    ROUNDING_NS = 2_000_000
    STEER = 32

    def __init__(self) -> None:
        self._shape: tuple[str, str, int] | None = None
        self._mono: Any = None
        self._cutter: BlockCutter | None = None
        self._start_ns = 0
        self._taken = 0

    def push(self, frame: Any, t_ns: int | None) -> list[tuple[int, Float32]]:
        """frame: `av.AudioFrame` of any format, layout and rate; t_ns: of its first sample, if it says so."""
        blocks: list[tuple[int, Float32]] = []
        rate_hz = frame.sample_rate
        shape = (frame.format.name, frame.layout.name, rate_hz)
        off_ns = 0 if t_ns is None else t_ns - self._expected_ns()
        if self._cutter is None or shape != self._shape or off_ns > self.GAP_NS:
            blocks += self.flush()
            resumed = self._expected_ns() if self._shape else off_ns
            self._start_ns = resumed if t_ns is None else max(resumed, t_ns)
            self._shape, self._taken, self._cutter = shape, 0, BlockCutter(rate_hz)
            self._mono = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        elif self.ROUNDING_NS < abs(off_ns) < self.GAP_NS:
            self._start_ns += off_ns // self.STEER
        for mono in self._mono.resample(frame):
            samples = mono.to_ndarray().reshape(-1)
            self._taken += len(samples)
            blocks += self._timed(self._cutter.push(samples))
        return blocks

    def flush(self) -> list[tuple[int, Float32]]:
        """What was held back, when nothing follows."""
        if self._cutter is None:
            return []
        cutter, self._cutter = self._cutter, None
        return self._timed(cutter.push(np.zeros(0, np.float32), last=True))

    def _expected_ns(self) -> int:
        return self._start_ns + (self._taken * SECOND_NS // self._shape[2] if self._shape else 0)

    def _timed(self, blocks: list[tuple[int, Float32]]) -> list[tuple[int, Float32]]:
        return [(self._start_ns + index * SECOND_NS // RATE_HZ, samples) for index, samples in blocks]
