"""What little was seen or heard tells little: factors by hand, and a recogniser that begins unsure."""

from pathlib import Path

import numpy as np

from engine import Recognizer
from engine.evidence import evidence
from tests.engine.small_bundle import write_bundle

MS = 1_000_000


def test_factors_rise_with_what_each_head_rests_on() -> None:
    shares = [(0, 0), (0.1, 0.0), (0.1, 0.3), (0.5, 1.0)]
    by_hand = [[0, 0, 0], [0.5, 0, 0.5], [0.5, 0.75, 0.75], [1, 1, 1]]
    np.testing.assert_allclose(evidence(shares, 4.0, {"video": 0.8, "audio": 1.6}), by_hand)
    at_once = evidence(shares, 4.0, {"video": 0.0, "audio": 0.0})
    np.testing.assert_array_equal(at_once, [[0, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(evidence(shares, 4.0, {}), np.ones((4, 3)))


def test_a_recogniser_grows_sure_and_says_nothing_of_a_sense_that_is_not_there(tmp_path: Path) -> None:
    sound = np.random.default_rng(4).normal(0, 0.1, 64_000).astype(np.float32)
    folders = (
        write_bundle(tmp_path / "raw"),
        write_bundle(tmp_path / "slow", sure_after_s={"video": 1.0, "audio": 2.0}),
    )
    raw, slow = (Recognizer(folder, engine="onnx", has_video=False) for folder in folders)
    for recognizer in (raw, slow):
        recognizer.add_audio(0, sound)
    for end in (400 * MS, 1200 * MS, 2000 * MS, 3600 * MS):
        one, other = raw.scores(end), slow.scores(end)
        share = min(1.0, 4.0 * one.valid_audio / 2.0)
        expected = np.float64(one.heads["audio"]) ** share
        np.testing.assert_allclose(other.heads["audio"], expected / expected.sum(), atol=1e-6)
        np.testing.assert_allclose(other.heads["video"], 1 / len(other.labels))
