"""One media file through library, program and evaluator: the same scores for every window.

The file is made from the demo, encoded (H.264, AAC at 44.1 kHz) and decoded again; the bundle is the one that
ships. What is compared are the probabilities of all three heads, and how much each window saw and heard.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.media import played
from engine import Recognizer
from tests.peers.program import Program
from trainer.data.takes import Take
from trainer.trials import Setting, score_clips, score_windows

NEAR = 1e-3


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _whole_run(bundle: Path, clip: Path, out: Path) -> Path:
    with Program("--camera", clip, "--no-pace", "--out", out, bundle=bundle) as program:
        assert program.end() == 0, program.text()
    return out


@pytest.fixture(scope="module")
def whole(bundle: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program wrote of the clip without pacing."""
    return _whole_run(bundle, speech, tmp_path_factory.mktemp("whole") / "out.jsonl")


def test_twice_without_pacing_gives_the_same_bytes(
    bundle: Path, speech: Path, whole: Path, tmp_path: Path
) -> None:
    assert _whole_run(bundle, speech, tmp_path / "again.jsonl").read_bytes() == whole.read_bytes()
    records = _records(whole)
    assert len(records) == 40
    assert records[-1]["valid"]["video"] > 0.95
    assert records[-1]["valid"]["audio"] > 0.95


@pytest.mark.parametrize("way", ["library", "evaluator"])
def test_every_window_has_the_program_s_scores(bundle: Path, speech: Path, whole: Path, way: str) -> None:
    with Recognizer(bundle, engine="onnx", offline=True) as recognizer:
        if way == "library":
            windows = list(played(recognizer, speech))
        else:
            windows, _ = score_windows(recognizer, speech, Setting())
    records = _records(whole)
    assert [record["t_ns"] for record in records] == [window.t_ns for window in windows]
    assert [record["valid"]["video"] for record in records] == [window.valid_video for window in windows]
    assert [record["valid"]["audio"] for record in records] == [window.valid_audio for window in windows]
    for record, window in zip(records, windows, strict=True):
        for head, probabilities in window.heads.items():
            assert list(record["heads"][head].values()) == pytest.approx(probabilities, abs=NEAR)


def test_the_evaluator_s_score_of_a_clip_is_that_of_the_program(
    bundle: Path, speech: Path, whole: Path
) -> None:
    take = Take(file=speech, corpus="made", speaker="nobody", label="neutral", split="test")
    (score,) = score_clips([take], Setting(bundle=bundle, offline=True))
    records = _records(whole)
    assert score.windows == len(records)
    for head, expected in score.heads.items():
        published = np.array([list(record["heads"][head].values()) for record in records])
        np.testing.assert_allclose(np.exp(np.log(published).mean(axis=0)), np.exp(expected), atol=NEAR)


def test_at_its_own_pace_the_program_says_the_same(
    bundle: Path, speech: Path, whole: Path, tmp_path: Path
) -> None:
    records = _paced_run(bundle, speech, tmp_path / "out.jsonl")
    unpaced = {record["t_ns"]: record for record in _records(whole)}
    begun_ns = records[-1]["t_ns"] - max(unpaced)
    assert len(records) > 1
    for record in records:
        same = unpaced[record["t_ns"] - begun_ns]
        assert record["valid"] == same["valid"]
        for head, probabilities in same["heads"].items():
            assert record["heads"][head] == pytest.approx(probabilities, abs=NEAR)


def _paced_run(bundle: Path, clip: Path, out: Path) -> list[dict[str, Any]]:
    """What a run says that lost neither picture nor sound; windows may have been skipped.

    `--max-wait` is long, so that a busy machine makes scores late, not other ones.
    """
    flags = ("--camera", clip, "--max-wait", "10000", "--out", out)
    for _ in range(3):
        with Program(*flags, bundle=bundle) as program:
            assert program.end() == 0, program.text()
            lost = program.lines[-1]["drops"].keys() - {"skipped window"}
        if not lost:
            return _records(out)
    pytest.skip(f"this machine is too busy to play a clip at its own pace: {', '.join(lost)}")
