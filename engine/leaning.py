"""What a person is taken for all the time, partly taken out of what is said of them.

Some faces look angry at rest, some voices sound sad, and a language that the model never heard leans one way
as a whole: then one label is said too often, whatever happens. How far the labels lean is a slow mean of what
the heads say, in logits; the labels are brought nearer to their mean. The label of a person at rest may be
said all the time, so it is never said less; where it is said less than the others on the whole, it is
said more. It knows nothing of faces and sound; the owner folds in rows in the order of time and says which
senses they rest on. Data leaves it as rows of the same shape.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.baseline import SlowMean
from engine.types import SECOND_NS

Float64 = NDArray[np.float64]
FURTHEST = 8.0
"""Natural log of odds that one row adds at most, so that a few certain ones do not decide."""
LONGEST_S = 1.0
"""How long a row lasts at most: nobody knows what was said in a longer gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaningParams:
    """share: of the leaning, 0..1, taken out. rest: the label of a person at rest.

    prior_s, tau_s: how fast it is learned and forgotten, see `engine.baseline.SlowMean`.

    Raises ValueError where a number is out of bounds.
    """

    share: float
    rest: str
    prior_s: float
    tau_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and self.prior_s > 0 and self.tau_s > 0):
            raise ValueError(
                f"leaning has share {self.share}, prior_s {self.prior_s}, tau_s {self.tau_s}: the share goes "
                "from 0 to 1, the others are above 0"
            )


class Leaning:
    """The leaning of one person, apart for every set of senses: a face alone leans otherwise than both."""

    def __init__(self, params: LeaningParams, labels: tuple[str, ...]) -> None:
        self._params = params
        others = np.array([label != params.rest for label in labels], dtype=np.float64)
        mean = others / max(1, others.sum())
        # Products of matrices: on rows of a few numbers they take a fifth of what NumPy's means take.
        self._centred = np.eye(len(labels)) - 1 / len(labels)
        self._apart = np.diag(others) - np.outer(mean, others)  # each of the others, beside their mean
        self._rest = 1 - others
        self._above = self._rest - mean  # the label at rest, beside the same
        self.restart()

    def restart(self) -> None:
        """Forget everything: another person."""
        self._means: dict[tuple[bool, bool], SlowMean] = {}
        self._last_ns: int | None = None

    def pause(self) -> None:
        """Keep what is known; time begins again."""
        self._last_ns = None

    def take_out(self, t_ns: int, logs: Float64, senses: tuple[bool, bool]) -> Float64:
        """What is left of a row, (heads, labels) logits, once the leaning is taken out: logits again.

        t_ns: not before that of the row before. senses: whether a face was seen and a voice heard; where
        neither was, nothing is said of anybody, and the row is given back.
        """
        if not any(senses):
            return logs
        if senses not in self._means:
            start = np.zeros(logs.shape, np.float32)
            self._means[senses] = SlowMean(start, prior_s=self._params.prior_s, tau_s=self._params.tau_s)
        slow = self._means[senses]
        mean = slow.mean
        lacking = np.minimum(mean @ self._above, 0)
        leaning = mean @ self._apart + lacking[:, None] * self._rest
        left: Float64 = logs - self._params.share * leaning
        gap_s = 0.0 if self._last_ns is None else (t_ns - self._last_ns) / SECOND_NS
        self._last_ns = t_ns
        said = (logs @ self._centred).clip(-FURTHEST, FURTHEST)
        slow.fold(said[None].astype(np.float32), min(gap_s, LONGEST_S))
        return left
