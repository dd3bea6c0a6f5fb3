"""Intervals of ablation tables on results whose answer is known."""

from typing import Any

import numpy as np
import pytest

from trainer.ablation_table import WHOLE, heads_of, markdown, seed_interval, speaker_difference, tabulate

LABELS = ["neutral", "happy"]


def report(right: dict[str, list[bool]]) -> dict[str, Any]:
    """A report in which a speaker's clips, neutral and happy in turn, are answered right or wrong."""
    clips = []
    for speaker, answers in right.items():
        for place, good in enumerate(answers):
            answer = place % 2 if good else 1 - place % 2
            scores = {"fused": np.eye(2)[answer].tolist()}
            clips.append({"speaker": speaker, "label": LABELS[place % 2], "heads": scores})
    every = [good for answers in right.values() for good in answers]
    fused = {"labels": LABELS, "uar": float(np.mean(every))}
    return {"model_labels": LABELS, "heads": {"fused": fused}, "clips": clips}


def run(uar: float, right: dict[str, list[bool]]) -> dict[str, Any]:
    dev = {"both_fused": uar, "both_audio": uar, "select": uar, "loss": 1.0}
    return {"dev": dev, "tests": {"real": report(right)}}


def test_one_seed_has_no_interval_and_more_have_students() -> None:
    assert seed_interval([0.5]) is None
    assert seed_interval([0.5, 0.6, 0.7]) == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-4)


def test_the_same_answers_differ_by_nothing() -> None:
    same = [report({"a": [True] * 4, "b": [False] * 4})] * 2
    assert speaker_difference(same, same, "fused") == (0.0, 0.0)
    assert speaker_difference([report({"a": [True] * 4})], [report({"a": [True] * 4})], "fused") is None


def test_a_difference_in_every_speaker_is_sure_and_in_one_is_not() -> None:
    speakers = "abcdef"
    whole = [report({name: [True] * 8 for name in speakers})] * 3
    worse = [report({name: [True] * 4 + [False] * 4 for name in speakers})] * 3
    assert speaker_difference(worse, whole, "fused") == pytest.approx((-0.5, -0.5))
    once = [report({name: [name != "a"] * 8 for name in speakers})] * 3
    low, high = speaker_difference(once, whole, "fused") or (0, 0)
    assert low < -0.2
    assert high == 0


def test_the_table_has_a_row_a_variant_and_trained_head() -> None:
    right = {"a": [True] * 4, "b": [True, True, False, False]}
    wrong = {"a": [False] * 4, "b": [False] * 4}
    results = {
        WHOLE: {
            "title": "all",
            "heads": ("video", "audio", "fused"),
            "runs": [run(0.8, right), run(0.7, right)],
        },
        "none": {"title": "nothing", "heads": ("fused",), "runs": [run(0.5, wrong), run(0.5, wrong)]},
    }
    rows = {(row["variant"], row["figure"]): row for row in tabulate(results)}
    assert set(rows) == {
        (WHOLE, "dev both fused"), (WHOLE, "dev both audio"), (WHOLE, "test real fused"),
        ("none", "dev both fused"), ("none", "test real fused"),
    }  # fmt: skip
    assert rows["none", "dev both fused"]["difference"] == pytest.approx(-0.25)
    assert rows["none", "test real fused"]["difference"] == pytest.approx(-0.75)
    low, high = rows["none", "test real fused"]["difference_over_speakers"]
    assert (low, high) == pytest.approx((-1.0, -0.5))
    text = markdown(list(rows.values()), "Ablation", "Two seeds.")
    assert "| nothing | 0.500 | 0.500 to 0.500 | -0.250 |" in text
    assert heads_of({"heads": ("audio",)}) == ("audio", "fused")
