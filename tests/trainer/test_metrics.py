"""Metrics against closed forms and against sklearn."""

import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from trainer.metrics import (
    calibration_error,
    concordance,
    concordance_interval,
    mean_recall,
    recalls,
    speaker_interval,
    summarise,
)

LABELS = ("neutral", "happy", "sad")


def test_recalls_of_a_small_table() -> None:
    table = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(recalls(table), [0.75, np.nan, 0.5])
    assert mean_recall(table) == pytest.approx(0.625)


@pytest.mark.parametrize("confidence", [0.55, 0.8, 1.0])
@pytest.mark.parametrize("accuracy", [0.0, 0.4, 1.0])
def test_one_confidence_gives_its_distance_from_the_accuracy(confidence: float, accuracy: float) -> None:
    probabilities = np.tile([confidence, 1 - confidence], (10, 1))
    targets = np.array([0] * int(10 * accuracy) + [1] * (10 - int(10 * accuracy)))
    assert calibration_error(probabilities, targets) == pytest.approx(abs(accuracy - confidence))


def test_concordance_is_correlation_less_what_scale_and_offset_cost() -> None:
    targets = np.array([0.0, 1.0, 2.0, 3.0])  # variance 1.25
    assert concordance(targets, targets) == pytest.approx(1)
    assert concordance(3 - targets, targets) == pytest.approx(-1)
    assert concordance(targets + 1, targets) == pytest.approx(2 * 1.25 / (1.25 + 1.25 + 1))
    assert concordance(targets * 2, targets) == pytest.approx(2 * 2.5 / (5 + 1.25 + 1.5**2))
    assert concordance(np.full(4, 1.5), targets) == 0


def test_pairs_without_a_target_do_not_count_for_concordance() -> None:
    answers, targets = np.array([0.1, 0.9, 0.4, 7.0]), np.array([0.0, 1.0, 0.5, np.nan])
    assert concordance(answers, targets) == concordance(answers[:3], targets[:3])
    assert np.isnan(concordance(answers[:1], targets[:1]))
    assert np.isnan(concordance(np.ones(3), np.ones(3)))


def test_gaps_of_two_bins_do_not_cancel() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 30)
    targets = np.array([0] * 5 + [1] * 5 + [0] * 30)
    assert calibration_error(probabilities, targets) == pytest.approx(0.25 * 0.4 + 0.75 * 0.4)


def test_outcomes_drawn_from_the_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, 40_000)
    targets = (rng.uniform(0, 1, 40_000) > first).astype(np.int64)
    assert calibration_error(np.stack((first, 1 - first), axis=1), targets) < 0.015


def test_summary_agrees_with_sklearn_and_counts_every_speaker() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    scores = rng.standard_normal((200, 3)) + 1.2 * np.eye(3)[truth]
    speakers = [f"s{i % 4}" for i in range(200)]
    summary = summarise(scores, [LABELS[t] for t in truth], speakers, LABELS)
    answers = scores.argmax(axis=1)
    assert summary.uar == pytest.approx(balanced_accuracy_score(truth, answers))
    assert summary.war == pytest.approx(np.mean(answers == truth))
    assert summary.interval[0] <= summary.uar <= summary.interval[1]
    assert sum(map(sum, summary.confusion)) == summary.clips == 200
    own = [i for i, speaker in enumerate(speakers) if speaker == "s2"]
    assert summary.speakers["s2"]["uar"] == pytest.approx(balanced_accuracy_score(truth[own], answers[own]))
    assert json.loads(json.dumps(summary.as_json(), allow_nan=False))["labels"] == list(LABELS)


def test_f1_agrees_with_sklearn_and_bins_with_the_calibration_error() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 90)
    scores = rng.standard_normal((90, 3)) + np.eye(3)[truth]
    summary = summarise(scores, [LABELS[t] for t in truth], ["a"] * 90, LABELS)
    answers = scores.argmax(axis=1)
    assert summary.macro_f1 == pytest.approx(f1_score(truth, answers, average="macro"))
    assert summary.micro_f1 == pytest.approx(f1_score(truth, answers, average="micro"))
    gaps = [bin_["clips"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in summary.reliability]
    assert sum(gaps) / 90 == pytest.approx(summary.ece)
    assert summary.as_json()["intervals"]["macro_f1"] == [None, None]


def test_every_figure_lies_in_its_interval_and_groups_divide_the_clips() -> None:
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 3, 300)
    scores = 3 * (rng.standard_normal((300, 3)) + np.eye(3)[truth])
    speakers, sexes = [f"s{i % 10}" for i in range(300)], ["female" if i % 2 else "male" for i in range(300)]
    summary = summarise(scores, [LABELS[t] for t in truth], speakers, LABELS, groups={"sex": sexes})
    for name in ("uar", "war", "macro_f1", "micro_f1"):
        low, high = summary.intervals[name]
        assert low < getattr(summary, name) < high

    assert 0 < summary.intervals["ece"][0] < summary.intervals["ece"][1] < 0.5
    groups = summary.groups["sex"]
    assert {name: group["speakers"] for name, group in groups.items()} == {"female": 5, "male": 5}
    own = np.array(sexes) == "male"
    answers = scores.argmax(axis=1)
    assert groups["male"]["uar"] == pytest.approx(balanced_accuracy_score(truth[own], answers[own]))
    assert groups["male"]["clips"] + groups["female"]["clips"] == 300


def test_a_group_that_lacks_a_label_may_still_be_answered_it() -> None:
    scores = np.log(np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))
    groups = {"take": ["first", "second", "second"]}
    summary = summarise(scores, ["neutral", "happy", "sad"], ["a", "b", "b"], LABELS, groups=groups)
    assert summary.groups["take"]["first"]["uar"] == 0.0


def test_the_interval_of_a_concordance_holds_it() -> None:
    rng = np.random.default_rng(8)
    targets = rng.normal(size=200)
    answers = 0.7 * targets + 0.3 * rng.normal(size=200)
    targets[::9] = np.nan
    speakers = [f"s{i % 8}" for i in range(200)]
    low, high = concordance_interval(answers, targets, speakers, 0)
    assert low < concordance(answers, targets) < high < 1
    assert np.isnan(concordance_interval(answers, targets, ["a"] * 200, 0)).all()


def test_labels_that_do_not_occur_cannot_be_answered() -> None:
    scores = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 1.0]])
    summary = summarise(scores, ["sad", "neutral"], ["a", "a"], LABELS)
    assert summary.labels == ("neutral", "sad")
    assert summary.uar == 1.0
    assert summary.as_json()["interval"] == [None, None]


def test_scores_need_no_common_constant() -> None:
    rng = np.random.default_rng(2)
    scores = rng.standard_normal((30, 3))
    targets, speakers = [LABELS[i % 3] for i in range(30)], [str(i % 5) for i in range(30)]
    shifted = scores + rng.uniform(-900, 900, (30, 1))
    plain, moved = (summarise(s, targets, speakers, LABELS) for s in (scores, shifted))
    assert plain.uar == moved.uar
    assert plain.ece == pytest.approx(moved.ece, abs=1e-9)


def test_the_interval_is_a_point_for_speakers_who_are_alike() -> None:
    alike = np.tile(np.array([[3, 1], [2, 2]]), (5, 1, 1))
    assert speaker_interval(alike, seed=0) == (0.625, 0.625)


def test_nothing_to_compare_and_unknown_labels_are_said() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        summarise(np.zeros((0, 3)), [], [], LABELS)
    with pytest.raises(ValueError, match="'bored'"):
        summarise(np.zeros((1, 3)), ["bored"], ["a"], LABELS)
