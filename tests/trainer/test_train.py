"""The training loop: it learns, a resumed run is the run never stopped, the log is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trainer.train import build_stage, train

LABELS = 7


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Stills that tell their label by the place of a bright bar."""
    rng = np.random.default_rng(0)
    for name, count in (("train.npz", 96), ("dev.npz", 42)):
        labels = np.arange(count) % LABELS
        crops = rng.integers(60, 90, (count, 112, 112)).astype(np.uint8)
        for crop, label in zip(crops, labels, strict=True):
            crop[10 + 13 * label : 20 + 13 * label] = 220
        np.savez(tmp_path / name, crops=crops, votes=np.eye(LABELS, dtype=np.float32)[labels])
    return {
        "name": "tiny", "stage": "stills", "seed": 3, "epochs": 4, "batch": 16, "learning_rate": 1e-2,
        "weight_decay": 0.01, "cache": str(tmp_path), "train": ["train.npz"], "dev": "dev.npz", "threads": 1,
        "frame_encoder": {
            "labels": LABELS, "appearance": 16, "motion": 8, "flow_size": 56,
            "appearance_channels": [8, 8, 8], "motion_channels": [4, 4, 4], "dropout": 0.1,
        },
    }  # fmt: skip


def test_a_resumed_run_has_the_same_bits(config: dict[str, Any], tmp_path: Path) -> None:
    train(config, tmp_path / "whole", epochs=2)
    halved = config | {"epochs": 2}

    class StopError(Exception):
        pass

    class Stopping:
        """The stage of the first run, which ends after one epoch."""

        def __init__(self) -> None:
            self.stage = build_stage(halved)

        def __getattr__(self, name: str) -> Any:
            if name == "batches" and (tmp_path / "parts" / "last.safetensors").exists():
                raise StopError
            return getattr(self.stage, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.train.build_stage", lambda _: Stopping())
        with pytest.raises(StopError):
            train(halved, tmp_path / "parts")
    train(halved, tmp_path / "parts")
    whole = load_file(tmp_path / "whole" / "last.safetensors")
    parts = load_file(tmp_path / "parts" / "last.safetensors")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_it_learns_and_logs(config: dict[str, Any], tmp_path: Path) -> None:
    best = train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert best["select"] == max(row["select"] for row in rows)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_an_unknown_stage_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'stage3'"):
        build_stage(config | {"stage": "stage3"})
