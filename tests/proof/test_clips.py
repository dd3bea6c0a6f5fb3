"""The clips of ../shared/media through the library, and the benchmark that plays them to their ends."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.media import changes, main, played
from engine import Recognizer, Scores
from engine.bundle import load_bundle
from tests.proof.conftest import MEDIA, MakeClip

CLIPS = sorted(path.name for path in MEDIA.glob("*")) if MEDIA.is_dir() else ["absent"]
SPEAKERS = [name for name in CLIPS if name.startswith("grid_")] or ["absent"]


def _windows(bundle: Path, name: str, seconds: float | None = None) -> tuple[list[Scores], Recognizer]:
    if not (MEDIA / name).is_file():
        pytest.skip("needs ../shared/media")
    with Recognizer(bundle, engine="onnx", offline=True) as recognizer:
        return list(played(recognizer, MEDIA / name, seconds)), recognizer


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_opens_and_its_first_seconds_are_scored(bundle: Path, name: str) -> None:
    windows, recognizer = _windows(bundle, name, seconds=2.0)
    assert len(windows) in (9, 10, 11)
    assert recognizer.frames in range(28, 62)
    assert not +recognizer.counts
    for window in windows:
        for probabilities in window.heads.values():
            assert np.isfinite(probabilities).all()
            assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
    # A face that is found is in the window, and so is a voice.
    assert (windows[-1].valid_video > 0) == (recognizer.faces > 0)


def test_with_nobody_in_view_no_window_has_a_face(bundle: Path) -> None:
    windows, recognizer = _windows(bundle, "no_face.mp4")
    assert len(windows) >= 18
    assert recognizer.frames > 80
    assert recognizer.faces == 0
    assert {window.valid_video for window in windows} == {0.0}
    assert {window.face for window in windows} == {None}
    assert windows[-1].valid_audio > 0.9


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_speaker_who_reads_a_sentence_does_not_flicker(bundle: Path, name: str) -> None:
    if load_bundle(bundle).name in ("provisional", "small"):
        pytest.skip("needs a trained bundle")
    windows, recognizer = _windows(bundle, name)
    assert recognizer.faces > 0.95 * recognizer.frames
    assert changes(windows) <= windows[-1].t_ns / 1e9


def _scores(top: str | None) -> Scores:
    labels = ("sad", "happy")
    probabilities = np.array([top == "sad", top != "sad"], np.float32)
    return Scores(
        t_ns=0,
        window_ns=0,
        labels=labels,
        heads={"fused": probabilities},
        lead="fused",
        valid_video=float(top is not None),
        valid_audio=0.0,
        face=None,
        track=-1,
    )


@pytest.mark.parametrize(
    ("tops", "count"),
    [((), 0), (("sad",), 0), (("sad", "sad", "happy", "happy"), 1), (("sad", None, "sad", None, "happy"), 1)],
)
def test_changes_are_counted_between_what_was_seen(tops: Sequence[str | None], count: int) -> None:
    assert changes([_scores(top) for top in tops]) == count


def test_the_benchmark_plays_a_folder_and_names_what_it_cannot(
    bundle: Path, talking: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    talking(folder / "speech.mp4", 1.5)
    (folder / "notes.txt").write_text("This is no film.\n")
    flags = ["--media", str(folder), "--jobs", "1", "--bundle", str(bundle), "--offline"]
    assert main([*flags, "--json", str(tmp_path / "figures.json")]) == 1
    said = capsys.readouterr().out
    report = json.loads(said.splitlines()[-1])
    assert report == json.loads((tmp_path / "figures.json").read_text())
    notes, speech = report["clips"]
    assert "notes.txt cannot be opened" in notes["broke"]
    assert (speech["frames"], speech["windows"], speech["lost"]) == (45, 7, {})
    assert speech["faces"] > 0.95
    assert speech["ms_a_frame"] > 0
    assert (report["all"]["clips"], report["all"]["played"]) == (2, 1)
    assert main(["--media", str(tmp_path / "none")]) == 2
    assert "There are no clips" in capsys.readouterr().err
