"""How good scores are: recalls, confusion, calibration, concordance, and how sure few speakers let one be.

It knows nothing of models, files or heads: arrays come in, a `Summary` goes out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

BINS = 15
"""Of the confidence, for the calibration error and the reliability diagram."""
DRAWS = 2000
"""Of speakers with replacement, for every interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How well the scores of some clips agree with their labels.

    labels: those that occur, the axes of `confusion` and the only ones that could be answered.
    clips: how many.
    uar: unweighted average recall, the mean of `recall`, 0..1.
    interval: 95 % of `uar` when speakers are drawn anew with replacement; (nan, nan) with one speaker.
    war: weighted average recall, that is accuracy, 0..1.
    macro_f1: mean of the labels' F1, 0..1. micro_f1: F1 of all answers together; it is `war` where each clip
        has one label, as here, and stands here because papers quote it by that name.
    ece: expected calibration error, 0..1.
    intervals: as `interval`, of uar, war, macro_f1, micro_f1 and ece.
    recall: per label.
    speakers: per speaker uar (over the labels that he has), war and clips.
    groups: per column and value uar, its interval, war, clips and how many speakers.
    confusion: counts, a row per true label, a column per answer.
    reliability: per bin of confidence that holds any, its mean confidence, accuracy and clips.
    """

    labels: tuple[str, ...]
    clips: int
    uar: float
    interval: tuple[float, float]
    war: float
    macro_f1: float
    micro_f1: float
    ece: float
    intervals: dict[str, tuple[float, float]]
    recall: dict[str, float]
    speakers: dict[str, dict[str, float]]
    groups: dict[str, dict[str, dict[str, Any]]]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[dict[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; what is not a number becomes None, as JSON has no NaN."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


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


def accuracy(confusion: NDArray[Any]) -> Float64:
    """(...): the share of all counts on the diagonal."""
    right = np.trace(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return np.asarray(right / np.maximum(confusion.sum(axis=(-2, -1)), 1))


def macro_f1(confusion: NDArray[Any]) -> Float64:
    """(...): mean over the labels that occur of 2 right / (labelled so + answered so)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    labelled, answered = confusion.sum(axis=-1), confusion.sum(axis=-2)
    each = 2 * right / np.maximum(labelled + answered, 1)
    return np.asarray((each * (labelled > 0)).sum(axis=-1) / np.maximum((labelled > 0).sum(axis=-1), 1))


def unweighted_average_recall(targets: NDArray[Any], answers: NDArray[Any]) -> float:
    """Mean over the labels that occur in `targets` (N,) of the share of them that `answers` (N,) names."""
    return float(np.mean([np.mean(answers[targets == label] == label) for label in np.unique(targets)]))


def calibration_error(probabilities: Float64, targets: Int64, bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - confidence| of the answer, averaged over `bins` equal bins.

    probabilities: (N, L), rows summing to 1. targets: (N,) positions. Guo et al. 2017, equation 3. Bins
    are open below and closed above.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    gap = np.bincount(_bin(confidence, bins), weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))


def _bin(confidence: Float64, bins: int) -> NDArray[np.intp]:
    return np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)


def reliability(probabilities: Float64, targets: Int64, bins: int = BINS) -> tuple[dict[str, float], ...]:
    """The bins of `calibration_error` that hold any: mean confidence, accuracy, clips."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    place = _bin(confidence, bins)
    return tuple(
        {
            "confidence": float(confidence[place == each].mean()),
            "accuracy": float(right[place == each].mean()),
            "clips": int((place == each).sum()),
        }
        for each in np.unique(place)
    )


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


def concordance_interval(
    answers: NDArray[Any], targets: NDArray[Any], speakers: Sequence[str], seed: int
) -> tuple[float, float]:
    """The middle 95 % of `concordance` over draws of speakers; (nan, nan) with one speaker."""
    known = ~np.isnan(targets)
    x, y, owner = answers[known].astype(np.float64), targets[known].astype(np.float64), np.asarray(speakers)
    names = np.unique(owner[known])
    rows = np.stack((np.ones_like(x), x, y, x * x, y * y, x * y), axis=1)
    sums = np.stack([rows[owner[known] == name].sum(axis=0) for name in names]) if len(names) else rows
    counts = _draws(len(names), seed)
    if counts is None:
        return float("nan"), float("nan")
    n, sx, sy, sxx, syy, sxy = (counts @ sums).T
    covariance = sxy / n - sx * sy / n**2
    spread = sxx / n + syy / n - 2 * sx * sy / n**2
    return _middle(2 * covariance / np.maximum(spread, 1e-12))


def _draws(speakers: int, seed: int) -> Int64 | None:
    """(DRAWS, speakers): how often each speaker is drawn; None where there are not two."""
    if speakers < 2:
        return None
    even = np.full(speakers, 1 / speakers)
    return np.asarray(np.random.default_rng(seed).multinomial(speakers, even, size=DRAWS))


def _middle(drawn: Float64) -> tuple[float, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def speaker_interval(
    confusions: Int64, seed: int, measure: Callable[[NDArray[Any]], Float64] = mean_recall
) -> tuple[float, float]:
    """The middle 95 % of a measure of the confusion over draws of speakers; (nan, nan) with one speaker.

    confusions: (S, L, L), one matrix a speaker. measure: (..., L, L) to (...).
    """
    counts = _draws(len(confusions), seed)
    if counts is None:
        return float("nan"), float("nan")
    return _middle(measure(np.einsum("ds,sij->dij", counts, confusions)))


def _calibration_interval(
    confidence: Float64, right: NDArray[np.bool_], owner: NDArray[np.intp], speakers: int, seed: int
) -> tuple[float, float]:
    counts = _draws(speakers, seed)
    if counts is None:
        return float("nan"), float("nan")
    gaps = np.zeros((speakers, BINS))
    np.add.at(gaps, (owner, _bin(confidence, BINS)), right - confidence)
    clips = np.bincount(owner, minlength=speakers)
    return _middle(np.abs(counts @ gaps).sum(axis=1) / (counts @ clips))


def summarise(
    log_scores: Float64,
    targets: Sequence[str],
    speakers: Sequence[str],
    labels: Sequence[str],
    seed: int = 0,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Summary:
    """Compares scores with labels; the answer is the best of the labels that occur in `targets`.

    log_scores: (N, len(labels)), any constant a row. targets, speakers, and each of groups: N. Raises
    ValueError where there is nothing to compare or a target is not among the labels.
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
    names, owner = np.unique(np.asarray(speakers), return_inverse=True)
    confusions = _confusions(truth, answers, owner, len(names), len(present))
    whole = confusions.sum(axis=0)
    measures = {"uar": mean_recall, "war": accuracy, "macro_f1": macro_f1, "micro_f1": accuracy}
    intervals = {name: speaker_interval(confusions, seed, each) for name, each in measures.items()}
    confidence = probabilities.max(axis=1)
    intervals["ece"] = _calibration_interval(confidence, answers == truth, owner, len(names), seed)
    return Summary(
        labels=present,
        clips=len(targets),
        interval=intervals["uar"],
        ece=calibration_error(probabilities, truth),
        intervals=intervals,
        recall=dict(zip(present, recalls(whole).tolist(), strict=True)),
        speakers={
            str(name): {
                "uar": float(mean_recall(matrix)),
                "war": float(accuracy(matrix)),
                "clips": int(matrix.sum()),
            }
            for name, matrix in zip(names, confusions, strict=True)
        },
        groups={
            column: _by_group(np.asarray(values), truth, answers, owner, len(present), seed)
            for column, values in (groups or {}).items()
        },
        confusion=tuple(tuple(row) for row in whole.tolist()),
        reliability=reliability(probabilities, truth),
        **{name: float(each(whole)) for name, each in measures.items()},
    )


def _confusions(
    truth: NDArray[Any], answers: NDArray[Any], owner: NDArray[Any], owners: int, labels: int
) -> Int64:
    """(owners, labels, labels): one matrix an owner, a row per true label."""
    counts = np.zeros((owners, labels, labels), np.int64)
    np.add.at(counts, (owner, truth, answers), 1)
    return counts


def _by_group(
    values: NDArray[Any],
    truth: NDArray[Any],
    answers: NDArray[Any],
    owner: NDArray[Any],
    labels: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The figures of every value of a column; the answers are those given among all labels."""
    table = {}
    for value in np.unique(values):
        own = values == value
        speakers, place = np.unique(owner[own], return_inverse=True)
        confusions = _confusions(truth[own], answers[own], place, len(speakers), labels)
        whole = confusions.sum(axis=0)
        table[str(value)] = {
            "uar": float(mean_recall(whole)),
            "interval": speaker_interval(confusions, seed),
            "war": float(accuracy(whole)),
            "clips": int(own.sum()),
            "speakers": len(speakers),
        }
    return table
