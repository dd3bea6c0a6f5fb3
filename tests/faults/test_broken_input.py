"""Broken and odd input: a clear line and the right status, or scores from what there is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.clip import write_clip
from tests.peers.program import Program
from tests.realtime.test_media import fast_start


def _records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _truncated(folder: Path, clip: Path) -> Path:
    """A transport stream that ends in the middle of a packet."""
    whole = write_clip(folder / "whole.ts", seconds=3)
    part = folder / "part.ts"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2 + 77])
    return part


def _headless(folder: Path, clip: Path) -> Path:
    """An MP4 whose index, at its end, was lost."""
    part = folder / "part.mp4"
    part.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    return part


def _text(folder: Path, clip: Path) -> Path:
    path = folder / "notes.mp4"
    path.write_text("This is no film.\n" * 50)
    return path


def _empty(folder: Path, clip: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


@pytest.mark.parametrize("broken", [_headless, _text, _empty])
def test_what_is_no_media_ends_the_run_with_one_clear_line(
    bundle: Path, clip: Path, tmp_path: Path, broken: Callable[[Path, Path], Path]
) -> None:
    path = broken(tmp_path, clip)
    with Program("--camera", path, bundle=bundle) as program:
        assert program.end() == 3
        (error,) = program.errors()
        assert path.name in error
        assert "cannot be opened as media" in error
        assert "Traceback" not in program.text()
        assert program.left_behind() == []


@pytest.mark.parametrize(
    ("make", "video", "audio"),
    [
        (lambda f: write_clip(f / "silent.mp4", seconds=3, audio=False), True, False),
        (lambda f: write_clip(f / "dark.mp4", seconds=3, video=False), False, True),
        (lambda f: write_clip(f / "odd.mp4", seconds=3, size=(161, 91)), True, True),
        (lambda f: write_clip(f / "tiny.mp4", seconds=3, size=(16, 16)), True, True),
        (lambda f: write_clip(f / "slow.mp4", seconds=3, fps=1), True, True),
        (lambda f: write_clip(f / "vfr.mkv", seconds=3, variable=True), True, True),
        (lambda f: write_clip(f / "late.mp4", seconds=3, audio_start_s=1.5), True, True),
        (lambda f: _truncated(f, f), True, True),
    ],
    ids=["no sound", "no picture", "odd size", "tiny", "1 fps", "variable rate", "late sound", "truncated"],
)
@pytest.mark.parametrize("pace", [[], ["--no-pace"]], ids=["paced", "no pace"])
def test_odd_media_run_to_their_end(
    bundle: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    video: bool,
    audio: bool,
    pace: list[str],
) -> None:
    out = tmp_path / "out.jsonl"
    with Program("--camera", make(tmp_path), "--out", out, *pace, bundle=bundle) as program:
        said = program.line("picture:")
        assert (said["picture"] is not None, said["sound"] is not None) == (video, audio)
        assert program.end() == 0
        assert program.errors() == []
    records = _records(out)
    assert len(records) >= 5
    times = [record["t_ns"] for record in records]
    assert times == sorted(times)
    heard = [record["valid"]["audio"] > 0 for record in records]
    assert any(heard) == audio


def test_what_was_lost_at_the_very_end_is_told(bundle: Path, tmp_path: Path) -> None:
    whole = fast_start(write_clip(tmp_path / "whole.mp4", seconds=6, fps=10)).read_bytes()
    part = tmp_path / "part.mp4"
    part.write_bytes(whole[: len(whole) * 7 // 10])
    with Program("--camera", part, "--no-pace", bundle=bundle) as program:
        assert program.end() == 0
        assert program.lines[-1]["drops"]["truncated"] >= 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "window_model.onnx").unlink(), "window_model.onnx"),
        (lambda f: _flip(f / "frame_encoder.onnx"), "frame_encoder.onnx"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json"),
        (lambda f: shutil.rmtree(f), "bundle"),
    ],
    ids=["missing file", "flipped byte", "broken manifest", "no folder"],
)
def test_a_spoilt_bundle_ends_the_run_with_one_clear_line(
    bundle: Path, clip: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    spoil(copy)
    with Program("--camera", clip, bundle=copy) as program:
        assert program.end() == 5
        (error,) = program.errors()
        assert words in error
        assert "Traceback" not in program.text()
        assert program.left_behind() == []


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
