"""How good scores are: recalls, confusion, calibration, concordance, and how sure few speakers let one be.

It knows nothing of models, files or heads: arrays come in, a `Summary` goes out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How well the scores of some clips agree with their labels.

    labels: those that occur, the axes of `confusion` and the only ones that could be answered.
    clips: how many.
    uar: unweighted average recall, the mean of `recall`, 0..1.
    interval: 95 % of `uar` when speakers are drawn anew with replacement; (nan, nan) with one speaker.
    war: weighted average recall, that is accuracy, 0..1.
    ece: expected calibration error, 0..1.
    recall: per label.
    speakers: per speaker uar (over the labels that he has), war and clips.
    confusion: counts, a row per true label, a column per answer.
    """

    labels: tuple[str, ...]
    clips: int
    uar: float
    interval: tuple[float, float]
    war: float
    ece: float
    recall: dict[str, float]
    speakers: dict[str, dict[str, float]]
    confusion: tuple[tuple[int, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; what is not a number becomes None, as JSON has no NaN."""
        plain = asdict(self)
        plain["interval"] = [None if np.isnan(end) else end for end in self.interval]
        return plain


def recalls(confusion: NDArray[Any]) -> Float64:
    """(..., L): the share of each row (true label) on the diagonal; NaN where the row is empty."""
    rows = confusion.sum(axis=-1).astype(np.float64)
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return np.divide(right, rows, out=np.full_like(right, np.nan), where=rows > 0)


def mean_recall(confusion: NDArray[Any]) -> Float64:
    """(...): unweighted average recall over the labels that occur."""
    each = recalls(confusion)
    occurs = ~np.isnan(each)
    return np.asarray(np.where(occurs, each, 0.0).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def unweighted_average_recall(targets: NDArray[Any], answers: NDArray[Any]) -> float:
    """Mean over the labels that occur in `targets` (N,) of the share of them that `answers` (N,) names."""
    return float(np.mean([np.mean(answers[targets == label] == label) for label in np.unique(targets)]))


def calibration_error(probabilities: Float64, targets: Int64, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| of the answer, averaged over `bins` equal bins.

    probabilities: (N, L), rows summing to 1. targets: (N,) positions. Guo et al. 2017, equation 3. Bins
    are open below and closed above.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))


def concordance(answers: NDArray[Any], targets: NDArray[Any]) -> float:
    """Concordance correlation coefficient (Lin 1989) of one continuous attribute, -1..1.

    answers, targets: (N,); pairs whose target is NaN are left out. Population moments, as in the loss.
    NaN where fewer than two pairs are left, or both sides are one and the same constant.
    """
    known = ~np.isnan(targets)
    answers, targets = answers[known].astype(np.float64), targets[known].astype(np.float64)
    if len(targets) < 2:
        return float("nan")
    covariance = np.mean((answers - answers.mean()) * (targets - targets.mean()))
    spread = answers.var() + targets.var() + (answers.mean() - targets.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else float("nan")


def speaker_interval(confusions: Int64, seed: int, draws: int = 2000) -> tuple[float, float]:
    """The middle 95 % of the average recall over `draws` draws of speakers with replacement.

    confusions: (S, L, L), one matrix a speaker.
    """
    speakers = len(confusions)
    if speakers < 2:
        return float("nan"), float("nan")
    counts = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), size=draws)
    drawn = mean_recall(np.einsum("ds,sij->dij", counts, confusions))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def summarise(
    log_scores: Float64,
    targets: Sequence[str],
    speakers: Sequence[str],
    labels: Sequence[str],
    seed: int = 0,
) -> Summary:
    """Compares scores with labels; the answer is the best of the labels that occur in `targets`.

    log_scores: (N, len(labels)), any constant a row. targets, speakers: N each. Raises ValueError where
    there is nothing to compare or a target is not among the labels.
    """
    if not len(targets):
        raise ValueError("There is nothing to evaluate: no clip is left.")
    unknown = sorted(set(targets) - set(labels))
    if unknown:
        raise ValueError(f"The label {unknown[0]!r} is not one of the model's: {', '.join(labels)}.")
    present = tuple(label for label in labels if label in set(targets))
    scores = log_scores[:, [labels.index(label) for label in present]]
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth = np.array([present.index(target) for target in targets])
    answers = scores.argmax(axis=1)
    names = sorted(set(speakers))
    owner = np.asarray(speakers)
    places = np.arange(len(present))
    confusions = np.stack(
        [confusion_matrix(truth[owner == name], answers[owner == name], labels=places) for name in names]
    )
    whole = confusions.sum(axis=0)
    return Summary(
        labels=present,
        clips=len(targets),
        uar=float(mean_recall(whole)),
        interval=speaker_interval(confusions, seed),
        war=float(np.mean(truth == answers)),
        ece=calibration_error(probabilities, truth),
        recall=dict(zip(present, recalls(whole).tolist(), strict=True)),
        speakers={
            name: {
                "uar": float(mean_recall(matrix)),
                "war": float(np.trace(matrix) / matrix.sum()),
                "clips": int(matrix.sum()),
            }
            for name, matrix in zip(names, confusions, strict=True)
        },
        confusion=tuple(tuple(row) for row in whole.tolist()),
    )
