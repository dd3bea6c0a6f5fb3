"""Steadied scores: against a sum written out, and never beyond what they rest on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Recognizer
from engine.probabilities import log_softmax
from engine.smoothing import Smoothing
from tests.engine.small_bundle import write_bundle

MS = 1_000_000


@given(
    st.lists(st.tuples(st.integers(0, 900), st.floats(-9, 9)), min_size=1, max_size=12), st.floats(0.05, 3)
)
def test_it_is_the_mean_with_weights_that_fall_with_age(rows: list[tuple[int, float]], tau_s: float) -> None:
    smoothing, t_ns, seen = Smoothing(tau_s), 0, []
    for gap_ms, value in rows:
        t_ns += gap_ms * MS
        seen.append((t_ns, value))
        found = smoothing.fold(t_ns, np.array([value, 1.0]), "face")
    weights = [np.exp(-(t_ns - t) / 1e9 / tau_s) for t, _ in seen]
    expected = np.average([value for _, value in seen], weights=weights)
    np.testing.assert_allclose(found, [expected, 1.0], atol=1e-9)


def test_another_basis_or_a_restart_begins_anew_and_without_a_time_nothing_is_kept() -> None:
    smoothing = Smoothing(0.5)
    smoothing.fold(0, np.array([4.0]), "face and voice")
    assert smoothing.fold(200 * MS, np.array([1.0]), "voice") == 1.0
    assert 1.0 < smoothing.fold(400 * MS, np.array([2.0]), "voice") < 2.0
    smoothing.restart()
    assert smoothing.fold(600 * MS, np.array([7.0]), "voice") == 7.0
    plain = Smoothing(0.0)
    assert [float(plain.fold(k, np.array([float(k)]), "face")[0]) for k in range(3)] == [0.0, 1.0, 2.0]


def test_a_recogniser_gives_the_mean_of_its_windows_and_begins_anew_with_a_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sound = rng.normal(0, 0.1, 64_000).astype(np.float32) * np.linspace(0, 1, 64_000, dtype=np.float32)
    ends = [k * 200 * MS for k in range(5, 19)]
    folders = (write_bundle(tmp_path / "raw"), write_bundle(tmp_path / "steady", smoothing_s=0.4))
    raw, steady = (Recognizer(folder, engine="onnx", has_video=False) for folder in folders)
    for recognizer in (raw, steady):
        recognizer.add_audio(0, sound)
    smoothing = Smoothing(0.4)
    for end in ends:
        one, other = raw.scores(end), steady.scores(end)
        row = np.concatenate([np.log(np.float64(one.heads[head])) for head in one.heads])
        mean = log_softmax(smoothing.fold(one.t_ns, row, 0).reshape(3, -1))
        np.testing.assert_allclose(np.exp(mean[1]), other.heads["audio"], atol=1e-6)
    for recognizer in (raw, steady):
        recognizer.clear_window(0)
        recognizer.add_audio(0, sound[::-1].copy())
    np.testing.assert_array_equal(raw.scores(1000 * MS).scores, steady.scores(1000 * MS).scores)


def test_a_face_that_comes_is_not_mixed_with_what_was_said_without_it(tmp_path: Path) -> None:
    with Recognizer(write_bundle(tmp_path, smoothing_s=1.0), engine="onnx", has_video=False) as recognizer:
        before = recognizer.scores(200 * MS)
        recognizer.add_audio(200 * MS, np.full(16_000, 0.1, np.float32))
        after = recognizer.scores(1200 * MS)
    with Recognizer(write_bundle(tmp_path / "b"), engine="onnx", has_video=False) as recognizer:
        recognizer.add_audio(200 * MS, np.full(16_000, 0.1, np.float32))
        alone = recognizer.scores(1200 * MS)
    assert before.valid_audio == 0
    assert after.scores == pytest.approx(alone.scores)
