"""What a person is taken for all the time: against the same written out anew, and what stays as it is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Recognizer
from engine.baseline import SlowMean
from engine.leaning import FURTHEST, Leaning, LeaningParams
from engine.probabilities import log_softmax, softmax
from tests.engine.small_bundle import write_bundle

MS = 1_000_000
LABELS = ("neutral", "happy", "sad", "angry")
HALF = LeaningParams(share=0.5, rest="neutral", prior_s=20, tau_s=60)
BOTH = (True, True)


def log_odds(*logits: float) -> np.ndarray:
    return log_softmax(np.array([logits]))


@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=12))
def test_half_of_the_slow_mean_is_taken_out_and_the_label_at_rest_only_gains(rows: list[list[float]]) -> None:
    leaning, mean = Leaning(HALF, LABELS), SlowMean(np.zeros(4, np.float32), prior_s=20, tau_s=60)
    for place, row in enumerate(rows):
        left = leaning.take_out(place * 200 * MS, log_odds(*row), BOTH)[0]
        at_rest, *emotions = mean.mean
        usual = np.mean(emotions)
        expected = np.array(row) - 0.5 * np.array([min(0, at_rest - usual), *(emotions - usual)])
        np.testing.assert_allclose(log_softmax(left), log_softmax(expected), atol=1e-4)
        centred = np.clip(np.array(row) - np.mean(row), -FURTHEST, FURTHEST)
        mean.fold(centred[None].astype(np.float32), 0.2 if place else 0.0)


def test_a_face_that_always_looks_angry_is_less_so_after_a_minute_and_is_soon_happy_when_it_is() -> None:
    leaning = Leaning(HALF, LABELS)
    resting, smiling = log_odds(0.5, -1, -1, 1), log_odds(0.2, 0.7, -1, 1)
    first = leaning.take_out(0, resting, BOTH)
    for place in range(1, 300):
        last = leaning.take_out(place * 200 * MS, resting, BOTH)
    assert first[0].argmax() == LABELS.index("angry")
    assert last[0].argmax() == LABELS.index("neutral")
    assert leaning.take_out(300 * 200 * MS, smiling, BOTH)[0].argmax() == LABELS.index("happy")


def test_a_person_at_rest_stays_so_however_long() -> None:
    leaning, resting = Leaning(HALF, LABELS), log_odds(3, 0, 0, 0)
    for place in range(600):
        left = leaning.take_out(place * 200 * MS, resting, BOTH)
    np.testing.assert_allclose(left, resting, atol=1e-9)


def test_where_only_the_label_at_rest_is_lacking_it_gains() -> None:
    leaning, never = Leaning(HALF, LABELS), log_odds(-3, 0, 0, 0)
    for place in range(600):
        left = leaning.take_out(place * 200 * MS, never, BOTH)
    unlearned = 20 / 60 * np.exp(-(120 - 40) / 60)  # a third is left after 40 s, then it fades with tau_s
    apart = (left - left[:, 1:].mean())[0]
    np.testing.assert_allclose(apart, [-3 + 1.5 * (1 - unlearned), 0, 0, 0], atol=0.01)


def test_senses_lean_apart_gaps_teach_little_and_another_person_begins_anew() -> None:
    angry = log_odds(0, 0, 0, 4)

    def after(*steps: tuple[int, tuple[bool, bool]]) -> float:
        """Logit of angry at the last of these, each a time in ms and senses."""
        leaning = Leaning(HALF, LABELS)
        return float([leaning.take_out(t_ms * MS, angry, senses)[0, 3] for t_ms, senses in steps][-1])

    unknown = after((0, BOTH))
    assert after((0, BOTH), (900, BOTH), (1800, (True, False))) == unknown
    assert after((0, BOTH), (60_000, BOTH), (60_200, BOTH)) == after((0, BOTH), (1000, BOTH), (1200, BOTH))
    assert after((0, BOTH), (1000, BOTH), (1200, (False, False))) == float(angry[0, 3])
    leaning = Leaning(HALF, LABELS)
    leaning.take_out(0, angry, BOTH)
    leaning.take_out(1000 * MS, angry, BOTH)
    leaning.pause()
    known = float(leaning.take_out(0, angry, BOTH)[0, 3])
    assert known < unknown
    leaning.restart()
    assert float(leaning.take_out(0, angry, BOTH)[0, 3]) == unknown


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": float("nan")}, {"prior_s": 0}, {"tau_s": -1}])
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="leaning has share"):
        LeaningParams(**({"share": 0.5, "rest": "neutral", "prior_s": 20, "tau_s": 60} | wrong))


def test_a_recogniser_takes_it_out_and_keeps_it_from_clip_to_clip(tmp_path: Path) -> None:
    sound = np.random.default_rng(4).normal(0, 0.1, 64_000).astype(np.float32)
    told = {"share": 1.0, "rest": "neutral", "prior_s": 2, "tau_s": 60}
    folders = (write_bundle(tmp_path / "raw"), write_bundle(tmp_path / "level", leaning=told))
    raw, level = (Recognizer(folder, engine="onnx", has_video=False) for folder in folders)
    leaning = Leaning(LeaningParams(**told), raw.bundle.labels)
    for _ in ("first clip", "second clip"):
        leaning.pause()
        for recognizer in (raw, level):
            recognizer.clear_window(0)
            recognizer.add_audio(0, sound)
        for end in range(200 * MS, 4000 * MS, 200 * MS):
            one, other = raw.scores(end), level.scores(end)
            logs = np.stack([np.log(np.float64(one.heads[head])) for head in one.heads])
            left = leaning.take_out(one.t_ns, logs, (False, one.valid_audio > 0))
            np.testing.assert_allclose(softmax(left), np.stack([*other.heads.values()]), atol=1e-5)
    assert np.abs(one.heads["audio"] - other.heads["audio"]).max() > 0.01
