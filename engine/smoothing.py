"""What the heads say, steadied over the last windows of one stream.

Two windows that follow each other share nearly all that they rest on, yet where two labels are near each
other the lead may change with every one of them. It knows nothing of models and labels; the owner folds in
rows in the order of time and says what they rest on. Data leaves it as the mean.
"""

import math
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from engine.types import SECOND_NS

Float64 = NDArray[np.float64]


class Smoothing:
    """A mean of rows, each worth exp(-age / tau_s); with `tau_s` 0 the last row alone."""

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self._basis: Hashable = None
        self._last_ns = 0
        self._sum: Float64 = np.zeros(0)
        self._weight = 0.0

    def fold(self, t_ns: int, row: Float64, basis: Hashable) -> Float64:
        """The mean up to this row, of its shape.

        t_ns: not before that of the row before. basis: what the row rests on (whose face, which senses);
        where it differs from that of the row before, the mean begins anew, so nothing is said of who or what
        is gone.
        """
        if self._weight == 0 or basis != self._basis or self._tau_s == 0:
            self._sum, self._weight = row, 1.0
        else:
            kept = math.exp(-(t_ns - self._last_ns) / SECOND_NS / self._tau_s)
            self._sum, self._weight = kept * self._sum + row, kept * self._weight + 1.0
        self._basis, self._last_ns = basis, t_ns
        return self._sum / self._weight
