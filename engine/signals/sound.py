"""Sound into log-mel frames, as it comes.

`LogMel` takes blocks of any size and gives every frame as soon as its last sample is there; the block sizes
change no bit of the frames. It knows nothing of ticks, masks or models: a gap is a gap in the frames' times.
Data leaves it as the frames' centres in time and their mel.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.stretches import stretches
from engine.types import SECOND_NS, Float32

GAP_NS = 20_000_000
"""A block further than this from where the samples so far end begins afresh; nearer ones only steer."""
STEER_S = 5.0
FRAMES_AT_ONCE = 256

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Tap = tuple[int, Int64, Float64]
"""From this band on: each band's place in the spectrum, and its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MelParams:
    """What training and live use must share; stored in a bundle's manifest.

    rate_hz: samples a second. window, hop, n_fft: in samples; a periodic Hann window, zeros up to n_fft.
    bands: triangles over low_hz..high_hz, evenly spaced in mel (HTK: 2595 log10(1 + f / 700)), each with a
    peak of 1 (its area is not normalised). floor: added to a band's power before the natural logarithm.

    Raises ValueError where a number makes no sense.
    """

    rate_hz: int = 16_000
    n_fft: int = 512
    window: int = 400
    hop: int = 160
    bands: int = 64
    low_hz: float = 60.0
    high_hz: float = 7_600.0
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.window <= self.n_fft <= self.rate_hz:
            raise ValueError(
                f"mel: not 0 < hop {self.hop} <= window {self.window} <= n_fft {self.n_fft} <= {self.rate_hz}"
            )
        if not 0 <= self.low_hz < self.high_hz <= self.rate_hz / 2:
            raise ValueError(f"mel: not 0 <= low_hz {self.low_hz} < high_hz {self.high_hz} <= rate_hz / 2")
        if self.bands < 1 or not self.floor > 0:
            raise ValueError(f"mel: bands {self.bands} and floor {self.floor} must be positive")


class LogMel:
    """A streaming log-mel front end for one microphone.

    Frame n of an unbroken run of samples spans samples [n * hop, n * hop + window); its time is its centre.
    The times of the blocks steer the times of the frames with a time constant of five seconds: a clock that
    is 200 ppm off is followed within 1 ms, and jitter is smoothed away. A block that is more than 20 ms from
    where the samples so far end begins a new run; the incomplete frame before it is lost.

    gaps: how often a new run was begun, the first not counted.
    """

    def __init__(self, params: MelParams | None = None) -> None:
        self.params = params or MelParams()
        self.gaps = 0
        self._start_ns: float | None = None  # where the next frame begins
        self._left = 0  # samples from there on
        self._steered = 0  # samples since the time was last compared with a block's
        self._run: list[Float32] = []  # the run's samples, from where the first frame begins that is not cut
        self._whole = 0  # frames to be cut from them
        self._cut: list[Float32] = []  # the frames of runs that are over

    def push(self, t_ns: int, samples: Float32) -> tuple[Int64, Float32]:
        """Take a block; returns the frames that it completes, as `take` and `cut` do.

        t_ns: time of samples[0]. samples: (N,) float32 in [-1, 1], mono, `rate_hz`; N may be 0.
        Returns centres_ns (M,) int64 and mel (M, bands) float32, natural log of power. Samples that are not
        finite make the frames that hold them not finite.
        """
        centres_ns = self.take(t_ns, samples)
        return np.array(centres_ns, np.int64), log_mel(self.cut(), self.params)

    def take(self, t_ns: int, samples: Float32) -> list[int]:
        """Take a block; returns the centres in ns of the frames that it completes, which wait for `cut`.

        So a block costs next to nothing; cutting and `log_mel` take a sixth of the time where they have
        twenty frames at once in place of two and two.
        """
        if len(samples) == 0:
            return []
        hop, window = self.params.hop, self.params.window
        start_ns = self._follow(t_ns)
        self._steered += len(samples)
        self._run.append(samples.astype(np.float32, casting="same_kind"))  # the caller's may change
        self._left += len(samples)
        count = max(0, (self._left - window) // hop + 1)
        self._whole += count
        self._left -= count * hop
        self._start_ns = start_ns + self._span_ns(count * hop)
        sample_ns = SECOND_NS / self.params.rate_hz
        return [round(start_ns + (place * hop + window / 2) * sample_ns) for place in range(count)]

    def cut(self) -> Float32:
        """The frames that were completed since the last call, (M, window) float32. They may overlap in memory
        and are not to be written to."""
        self._cut_run()
        frames = np.concatenate(self._cut) if len(self._cut) > 1 else self._cut[0]
        self._cut = []
        return frames

    def _cut_run(self) -> None:
        hop, window = self.params.hop, self.params.window
        sound = np.concatenate([*self._run, np.zeros(0, np.float32)])
        self._cut.append(stretches(sound, window, hop))
        self._run = [sound[self._whole * hop :].copy()]
        self._whole = 0

    def _span_ns(self, samples: float) -> float:
        return samples * SECOND_NS / self.params.rate_hz

    def _follow(self, t_ns: int) -> float:
        """Steer towards a block's time, or begin a new run there; returns when the first sample left was."""
        if self._start_ns is not None:
            error_ns = t_ns - (self._start_ns + self._span_ns(self._left))
            if abs(error_ns) <= GAP_NS:
                share = -math.expm1(-self._steered / (STEER_S * self.params.rate_hz))
                self._steered = 0
                return self._start_ns + share * error_ns
            self.gaps += 1
        if self._whole:
            self._cut_run()
        self._run.clear()
        self._left = 0
        self._steered = 0
        return float(t_ns)


def hops(frames: Float32, params: MelParams) -> Float32:
    """(M, window) frames to (M, hop): the samples around each one's centre, row after row the sound again."""
    first = (params.window - params.hop) // 2
    return frames[:, first : first + params.hop]


def log_mel(frames: Float32, params: MelParams) -> Float32:
    """(M, window) frames to (M, bands) float32, natural log of power.

    Each frame goes through the same operations in the same order however many there are (one transform a
    frame, then sums element by element; a matrix product would choose its order by the number of frames).
    """
    mel = np.empty((len(frames), params.bands), np.float32)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        mel[first : first + FRAMES_AT_ONCE] = _log_mel(frames[first : first + FRAMES_AT_ONCE], params)
    return mel


def _log_mel(frames: Float32, params: MelParams) -> Float32:
    taper, taps = _tables(params)
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # broken samples stay broken, and the caller masks them
        spectrum = np.fft.rfft(frames * taper, params.n_fft, axis=1)
        power = spectrum.real * spectrum.real + spectrum.imag * spectrum.imag
        bands = np.zeros((len(frames), params.bands))
        for first, places, weights in taps:
            bands[:, first:] += power[:, places] * weights
        return np.asarray(np.log(bands + params.floor), np.float32)


@lru_cache(maxsize=8)
def _tables(params: MelParams) -> tuple[Float64, list[Tap]]:
    """The Hann window (window,), and tap by tap what the filters take, of all bands that have so many."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(params.window) / params.window)
    bank = filterbank(params)
    first = (bank > 0).argmax(axis=1)
    longest = max(1, int((bank > 0).sum(axis=1).max()))
    places = np.minimum(first + np.arange(longest)[:, None], bank.shape[1] - 1)
    weights = bank[np.arange(params.bands), places]
    weights[1:][places[1:] == places[:-1]] = 0  # taps held at the last bin count once
    reach = (weights > 0).argmax(axis=1)  # high bands are wide: from the first on that takes anything here
    return taper, [(band, places[tap, band:], weights[tap, band:]) for tap, band in enumerate(reach.tolist())]


def filterbank(params: MelParams) -> Float64:
    """(bands, n_fft // 2 + 1) float64: the triangles, by the frequency of each bin of the transform."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (params.low_hz, params.high_hz))
    edges = 700 * (10 ** (np.linspace(low, high, params.bands + 2) / 2595) - 1)
    hz = np.arange(params.n_fft // 2 + 1) * (params.rate_hz / params.n_fft)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.clip(np.minimum(rise, fall), 0, None))
