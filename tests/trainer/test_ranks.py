"""Two processes of `torchrun` train as one does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_windows import WINDOW_MODEL, windows_config, write_data
from torch import nn

from trainer.ranks import Ranks, gather_norms, open_ranks
from trainer.train import train

TIME_OUT_S = 600


def toml(config: dict[str, Any]) -> str:
    """Strings, numbers, flat lists and one level of tables."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in config.items() if not isinstance(v, dict)]
    tables = [f"[{k}]\n{toml(v)}" for k, v in config.items() if isinstance(v, dict)]
    return "\n".join(plain + tables) + "\n"


@pytest.mark.timeout(2 * TIME_OUT_S)  # four interpreters start
def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path) -> None:
    """Faces, voices and both; labels and an attribute; norms that learn. Dropout alone is each rank's own."""
    data = write_data(tmp_path)
    config: dict[str, Any] = windows_config(data) | {
        "epochs": 2, "steps": 2, "batch": 8, "learning_rate": 1e-3, "attributes": ["arousal"],
        "window_model": WINDOW_MODEL | {"dropout": 0.0},
    }  # fmt: skip
    (tmp_path / "config.toml").write_text(toml(config))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "trainer.train", "--config", str(tmp_path / "config.toml")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=TIME_OUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    train(config, tmp_path / "one")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    assert one[0]["loss"] != one[1]["loss"]
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    statistics = [name for name in first if name.startswith("network/") and "running_" in name]
    assert len(statistics) > 10
    for name in statistics:
        torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=1e-3)


def test_gathered_norms_are_batch_norms_in_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(144, affine=False)
    )
    other = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(144, affine=False)
    )
    other.load_state_dict(plain.state_dict())
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        gather_norms(other, None)
        x = torch.randn(5, 2, 8, 8)
        weight = torch.randn(5, 144)
        answers = [network(x) for network in (plain, other)]
        for answer in answers:
            (answer * weight).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(answers[0], answers[1])
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-4)
    assert plain.state_dict().keys() == other.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
    plain.eval(), other.eval()
    torch.testing.assert_close(plain(x), other(x))


def test_rows_are_shared_out_equally() -> None:
    cpu = torch.device("cpu")
    assert [Ranks(rank, 3, cpu).rows(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match="a batch of 7 rows cannot be cut into 2"):
        Ranks(0, 2, cpu).rows(7)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="'tpu'"), open_ranks("tpu"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds none"), open_ranks("cuda"):
            pass
