"""The front page's chapter on data of one's own: its very commands, from a folder to scores."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_media import write_media

from trainer.data.clips import list_clips

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Train on your own data")[2]
SMALLER = {"epochs": 1, "steps": 2, "batch": 8}
LABELS = ("happy", "sad")
MORE = {"trainer.prepare": ["--offline", "--jobs", "1"], "trainer.export": ["--licence", "CC0-1.0"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of links; its configuration trains for two steps."""
    for name in ("engine", "realtime"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = (ROOT / "trainer/configs/fine_tune.toml").read_text(encoding="utf-8")
    for key, value in SMALLER.items():
        config, changed = re.subn(rf"^{key} = .*$", f"{key} = {value}", config, flags=re.MULTILINE)
        assert changed == 1, key
    (tmp_path / "trainer/configs").mkdir(parents=True)
    (tmp_path / "trainer/configs/fine_tune.toml").write_text(config + "sessions = 1\nthreads = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recordings(folder: Path, sound: bool = True) -> None:
    """Four recordings and their table, two speakers."""
    rows = ["path,speaker,split,label"]
    for speaker, split in (("ann", "train"), ("bob", "dev")):
        for label in LABELS:
            write_media(folder / "recordings" / f"{speaker}_{label}.mp4", sound=sound)
            rows.append(f"{speaker}_{label}.mp4,{speaker},{split},{label}")
    (folder / "recordings/mine.csv").write_text("\n".join(rows) + "\n")


def run(monkeypatch: pytest.MonkeyPatch, module: str, options: Sequence[str]) -> None:
    monkeypatch.setattr(sys, "argv", [module, *options, *MORE.get(module, [])])
    importlib.import_module(module).main()


def test_the_five_commands_lead_from_a_folder_to_scores(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings(folder)
    block = re.search(r"```sh\n(.*?)```", CHAPTER, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    assert [command[2] for command in commands] == [
        "trainer.prepare", "trainer.train", "trainer.calibrate", "trainer.export", "realtime.run",
    ]  # fmt: skip
    monkeypatch.setattr("trainer.calibrate.STEPS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one worker does for so little
    for _, _, module, *options in commands[:4]:
        run(monkeypatch, module, options)
    said = capsys.readouterr().out
    assert "2 train, 2 dev" in said
    assert "before training both_video " in said
    assert "best epoch loss " in said
    assert [take.speaker for take in list_clips(folder / "recordings/mine.csv")] == ["bob", "bob"]
    _, _, *live = commands[4]
    clip = folder / "recordings" / "bob_happy.mp4"
    played = ["--camera", str(clip), "--no-pace", "--offline", "--bind", "tcp://127.0.0.1:*"]
    subprocess.run(
        [sys.executable, "-m", *live, *played, "--out", "scores.jsonl"],
        check=True, timeout=120, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert scores
    manifest = json.loads((folder / "runs/fine_tune/bundle/manifest.json").read_text())
    assert manifest["name"] == "fine_tune"
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["training"]["best_epoch"]["epoch"] == 0
    assert "CC0-1.0" in (folder / "runs/fine_tune/bundle/CARD.md").read_text()
    assert manifest["training"]["config"]["sets"] == ["data/mine"]
    assert all(sum(score["scores"].values()) == pytest.approx(1, abs=1e-3) for score in scores)


def test_faces_alone_are_fine_tuned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings(folder, sound=False)
    monkeypatch.setattr("trainer.calibrate.STEPS", 1)
    config = ["--config", "trainer/configs/fine_tune.toml"]
    run(monkeypatch, "trainer.prepare", ["csv", "--root", "recordings/mine.csv"])
    for module in ("trainer.train", "trainer.calibrate", "trainer.export"):
        run(monkeypatch, module, config)
    said = capsys.readouterr().out
    assert "best epoch loss " in said
    assert "face_video " in said
    assert "voice_audio" not in said
    files = ("runs/fine_tune/best.safetensors", "engine/bundles/live/model.safetensors")
    trained, started = (load_file(file)["voice_mean"] for file in files)
    torch.testing.assert_close(trained, started)
    assert (folder / "runs/fine_tune/bundle/manifest.json").is_file()
