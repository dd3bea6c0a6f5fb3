"""The training loop: it learns, a resumed run is the run never stopped, the log is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.export import best_epoch
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


def test_it_stops_when_nothing_gets_better_and_stays_stopped(config: dict[str, Any], tmp_path: Path) -> None:
    """As much again is no better: the first epoch that was so good is the one that is kept and exported."""
    still = config | {"epochs": 9, "patience": 2, "select": "uar"}
    kept = []

    class Worse:
        """The stage, whose figures get no better from the second epoch on."""

        def __init__(self) -> None:
            self.stage, self.epoch = build_stage(still), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stage, name)

        def validate(self, network: Any) -> dict[str, float]:
            kept.append({name: value.clone() for name, value in network.state_dict().items()})
            self.epoch += 1
            return {"uar": [0.3, 0.5, 0.4, 0.5][self.epoch - 1], "select": self.epoch}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.train.build_stage", lambda _: Worse())
        for _ in range(2):
            best = train(still, tmp_path / "run")
            assert (best["epoch"], best["select"]) == (1, 0.5)
            rows = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
            assert len(rows) == 4
    shipped = load_file(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(shipped[name], value) for name, value in kept[1].items())
    assert best_epoch(tmp_path / "run" / "best.safetensors") == json.loads(rows[1])
    assert best_epoch(tmp_path / "run" / "last.safetensors") is None


def test_a_figure_to_select_by_that_is_not_there_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="select is 'ccc'; this stage has accuracy, select, uar"):
        train(config | {"select": "ccc"}, tmp_path / "run", epochs=1)


def test_a_frozen_part_stays_as_it_was(config: dict[str, Any], tmp_path: Path) -> None:
    frozen = config | {"frozen": ["appearance.features"]}
    torch.manual_seed(frozen["seed"])
    before = build_stage(frozen).network.state_dict()
    train(frozen, tmp_path / "run", epochs=1)
    after = load_file(tmp_path / "run" / "last.safetensors")
    kept = {name: torch.equal(after[f"network/{name}"], value) for name, value in before.items()}
    assert all(same for name, same in kept.items() if name.startswith("appearance.features."))
    assert not kept["expression.weight"]


def test_an_unknown_stage_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'stage3'"):
        build_stage(config | {"stage": "stage3"})


def test_stills_learn_what_their_teacher_says(config: dict[str, Any], tmp_path: Path) -> None:
    """Where it alone is believed, nothing is to be learned once its word is repeated, and much elsewhere."""
    train(config, tmp_path / "teacher", epochs=1)
    taught = {"teachers": [str(tmp_path / "teacher" / "best.safetensors")], "taught_share": 1.0}
    stage = build_stage(config | taught)
    batch = next(iter(stage.batches(0)))
    (teacher,) = stage.teachers.networks
    said = teacher.expression(teacher.appearance(batch[0])).detach()
    steepness = []
    for logits in (said, torch.zeros_like(said)):
        logits.requires_grad_()
        stage.loss((logits,), batch).backward()
        assert logits.grad is not None
        steepness.append(float(logits.grad.abs().max()))
    assert steepness[0] < 1e-6 < 1e-3 < steepness[1]


def test_a_run_goes_on_only_as_it_was_begun(config: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config, out, epochs=1)
    last = (out / "last.safetensors").read_bytes()
    for changed, said in (
        ({"seed": 4}, r"seed = 3, not 4"),
        ({"frozen": ["appearance"]}, r"frozen = null, not"),
    ):
        with pytest.raises(ValueError, match=f"was begun with {said}.*name another --out, or remove"):
            train(config | changed, out, epochs=2)
        assert (out / "last.safetensors").read_bytes() == last
    train(config | {"epochs": 2, "patience": 5}, out)
    assert len((out / "history.jsonl").read_text().splitlines()) == 2


def test_a_run_goes_on_only_with_the_data_it_was_begun_with(config: dict[str, Any], tmp_path: Path) -> None:
    out, stills = tmp_path / "run", tmp_path / "dev.npz"
    train(config, out, epochs=1)
    with np.load(stills) as table:
        whole = dict(table)
    np.savez(stills, **{name: values[:-7] for name, values in whole.items()})
    with pytest.raises(ValueError, match=r"begun with other data, before .*dev\.npz changed: name another"):
        train(config, out, epochs=2)
    np.savez(stills, **whole)  # prepared anew from the same stills
    with safe_open(out / "last.safetensors", "pt") as stored:
        notes = stored.metadata()
    assert notes.pop("data")
    save_file(load_file(out / "last.safetensors"), out / "last.safetensors", notes)  # of an earlier version
    train(config, out, epochs=2)
    assert len((out / "history.jsonl").read_text().splitlines()) == 2


def test_fine_tuning_tells_what_it_started_from(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = config | {"start_bundle": "somewhere"}  # a stage that does not read it
    figures = iter((0.5, 0.4, 0.3))

    class Worse:
        """The stage, whose figures fall."""

        def __init__(self) -> None:
            self.stage = build_stage(tuned)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stage, name)

        def validate(self, _: Any) -> dict[str, float]:
            return {"select": next(figures)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.train.build_stage", lambda _: Worse())
        for epochs in (1, 2):  # the second run goes on, and does not validate the start again
            train(tuned, tmp_path / "run", epochs=epochs)
            said = capsys.readouterr().out.splitlines()
            assert "before training select 0.500" in said
            assert any(line.startswith("best epoch loss ") and " select 0.400" in line for line in said)
            assert "On dev this is no better than the bundle that it started from." in said
    assert next(figures, None) is None
