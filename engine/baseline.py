"""The slow mean of a face or of a voice: what this person looks and sounds like when nothing happens.

What a face does against its own mean counts more than what it is, so the mean is an input of the window
model. It knows nothing of tracks, streams or files; the owner folds new rows in, in the order of time.
"""

import numpy as np

from engine.stretches import stretches
from engine.types import Bool, Float32


class SlowSteps:
    """How fast a slow mean moves: the rule of `SlowMean`, for a mean that may be kept elsewhere."""

    def __init__(self, *, prior_s: float, tau_s: float) -> None:
        self._prior_s = prior_s
        self._tau_s = tau_s
        self.restart()

    def restart(self) -> None:
        """Nothing has been seen."""
        self._seconds = 0.0

    def rate(self, dt_s: float) -> float:
        """By what share of its distance the mean goes towards the next row, which lasts `dt_s` seconds."""
        self._seconds += dt_s
        return dt_s / min(self._seconds + self._prior_s, self._tau_s)

    def fold(self, count: int, dt_s: float) -> tuple[float, Float32]:
        """The next `count` rows in one go: new mean = keep * old mean + the sum of weights * rows.

        Returns keep and (count,) float32 weights.
        """
        keep, weights = 1.0, np.empty(count, dtype=np.float64)
        rates = [self.rate(dt_s) for _ in range(count)]
        for i in reversed(range(count)):
            weights[i] = rates[i] * keep
            keep *= 1 - rates[i]
        return keep, weights.astype(np.float32)

    @property
    def weight(self) -> float:
        """How much of the mean is this person's own, 0 (nothing seen) to nearly 1."""
        return self._seconds / (self._seconds + self._prior_s)


class SlowMean:
    """A running mean that begins at the training set's and moves with a growing, bounded memory.

    For a row x that lasts dt: seconds += dt, then mean += dt / min(seconds + prior_s, tau_s) * (x - mean).
    So `prior_s` seconds of the start are mixed in at first, and after `tau_s` seconds it forgets slowly.
    """

    def __init__(self, start: Float32, *, prior_s: float, tau_s: float) -> None:
        self._start = start.astype(np.float64)
        self._steps = SlowSteps(prior_s=prior_s, tau_s=tau_s)
        self.restart()

    def restart(self) -> None:
        """Forget everything: the start, after zero seconds."""
        self._mean = self._start.copy()
        self._steps.restart()

    def fold(self, rows: Float32, dt_s: float) -> None:
        """rows: (N, ...) float32, each of the start's shape, in the order of time, lasting `dt_s` seconds."""
        for step in rows.astype(np.float64):
            step -= self._mean
            step *= self._steps.rate(dt_s)
            self._mean += step

    @property
    def mean(self) -> Float32:
        """float32, of the start's shape."""
        return self._mean.astype(np.float32)

    @property
    def weight(self) -> float:
        """How much of the mean is this person's own, 0 (nothing seen) to nearly 1."""
        return self._steps.weight


class VoiceGate:
    """Which mel bins are voiced: those near the loudest of the `span` bins that end with them.

    A bin is voiced where its mean over bands exceeds the loudest such mean, less `floor` (natural log of
    power). Each bin looks back only, so the answer does not depend on how the bins are cut into calls.
    """

    def __init__(self, span: int, floor: float) -> None:
        self._span = span
        self._floor = floor
        self.restart()

    def restart(self) -> None:
        """Forget the bins heard so far."""
        self._levels = np.full(self._span - 1, -np.inf)

    def skip(self, bins: int) -> None:
        """Let that many bins pass unheard."""
        quiet = np.full(min(bins, self._span - 1), -np.inf)
        self._levels = np.concatenate([self._levels, quiet])[-(self._span - 1) :]

    def push(self, mel: Float32, mask: Bool) -> Bool:
        """mel: (N, F) float32, the next N bins; mask: (N,) bool, which were heard. Returns (N,) bool."""
        levels = np.where(mask, mel.mean(axis=1, dtype=np.float64), -np.inf)
        known = np.concatenate([self._levels, levels])
        loudest = stretches(known, self._span).max(axis=1)
        self._levels = known[len(mel) :]
        return np.asarray(mask & (levels > loudest - self._floor), dtype=np.bool_)
