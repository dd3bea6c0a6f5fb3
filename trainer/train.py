"""`python -m trainer.train --config FILE`: trains one stage of the model and keeps checkpoints.

A stage ("stills", "voices" or "windows") brings its network, batches, loss and validation; this file owns the
optimiser, the schedule, averaging, resuming and the log, and knows nothing of faces or voices.
Results leave as `DIR/last.safetensors` (everything to go on from), `DIR/best.safetensors` (averaged
weights of the best epoch), `DIR/history.jsonl` and a TensorBoard log.
"""

import argparse
import json
import math
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

AVERAGE_DECAY = 0.998


class Stage(Protocol):
    """What a stage of training brings."""

    network: nn.Module
    steps: int  # batches an epoch

    def batches(self, seed: int) -> Iterator[Any]:
        """One epoch of batches, the same for the same seed."""

    def loss(self, batch: Any) -> Tensor:
        """Scalar loss of a batch."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures on dev; the key "select" decides which epoch is best (higher is better)."""


def build_stage(config: dict[str, Any]) -> Stage:
    """The stage that the configuration names.

    Raises:
        ValueError: the configuration names none that exists.
    """
    if config["stage"] == "stills":
        from trainer.stage_stills import StillsStage

        return StillsStage(config)
    if config["stage"] == "voices":
        from trainer.stage_voices import VoicesStage

        return VoicesStage(config)
    if config["stage"] == "windows":
        from trainer.stage_windows import WindowsStage

        return WindowsStage(config)
    raise ValueError(f"stage is {config['stage']!r}; it must be 'stills', 'voices' or 'windows'")


class Averaged:
    """Exponential mean of the weights; statistics of norms are taken as they are."""

    def __init__(self, network: nn.Module) -> None:
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.steps = 0

    def update(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(AVERAGE_DECAY, self.steps / (self.steps + 9))
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def train(config: dict[str, Any], out: Path, epochs: int | None = None) -> dict[str, float]:
    """Train (or go on from `out/last.safetensors`) and return the figures of the best epoch."""
    torch.manual_seed(config["seed"])
    torch.set_num_threads(config.get("threads", torch.get_num_threads()))
    stage = build_stage(config)
    network = stage.network
    epochs = epochs or config["epochs"]
    total = epochs * stage.steps
    optimiser = torch.optim.AdamW(
        _decay_groups(network, config["weight_decay"]), lr=config["learning_rate"], betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _one_cycle(step, total, config.get("warm_up", 0.08))
    )
    averaged = Averaged(network)
    out.mkdir(parents=True, exist_ok=True)
    history = _resume(out, network, averaged, optimiser, schedule)
    best = max(history, key=lambda row: row["select"], default=None)
    log = SummaryWriter(str(out / "tensorboard"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=total, completed=len(history) * stage.steps)
        for epoch in range(len(history), epochs):
            started = time.monotonic()
            loss_mean = _epoch(
                stage, optimiser, schedule, averaged, config, epoch, lambda: progress.advance(bar)
            )
            live = {k: v.clone() for k, v in network.state_dict().items()}
            network.load_state_dict(averaged.state)
            figures = {"epoch": float(epoch), "loss": loss_mean, **stage.validate(network)}
            figures["seconds"] = time.monotonic() - started
            network.load_state_dict(live)
            history.append(figures)
            if best is None or figures["select"] >= best["select"]:
                best = figures
                save_file({k: v.contiguous() for k, v in averaged.state.items()}, out / "best.safetensors")
            _save(out, network, averaged, optimiser, schedule, history)
            for name, value in figures.items():
                log.add_scalar(name, value, epoch)
            progress.update(bar, description=f"epoch {epoch} " + _line(figures))
            progress.console.print(f"epoch {epoch} " + _line(figures))
    log.close()
    assert best is not None
    return best


def _epoch(
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    averaged: Averaged,
    config: dict[str, Any],
    epoch: int,
    advance: Any,
) -> float:
    stage.network.train()
    seed = config["seed"] * 1000 + epoch
    torch.manual_seed(seed)  # dropout of a resumed run is that of a run never stopped
    losses = []
    for batch in stage.batches(seed):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.get("bfloat16", False)):
            loss = stage.loss(batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(stage.network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        averaged.update(stage.network)
        losses.append(float(loss.detach()))
        advance()
    return sum(losses) / max(1, len(losses))


def _decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _one_cycle(step: int, total: int, warm_up: float) -> float:
    place = step / max(1, total)
    if place < warm_up:
        return 0.05 + 0.95 * place / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (place - warm_up) / (1 - warm_up))))


def _save(
    out: Path, network: nn.Module, averaged: Averaged, optimiser: Any, schedule: Any, history: list
) -> None:
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"averaged/{k}": v for k, v in averaged.state.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{k}": v for k, v in state.items()}
    tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    notes = {
        "history": json.dumps(history),
        "averaged_steps": str(averaged.steps),
        "step": str(schedule.last_epoch),
    }
    save_file(tensors, out / "last.part", metadata=notes)
    (out / "last.part").replace(out / "last.safetensors")
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))


def _resume(
    out: Path, network: nn.Module, averaged: Averaged, optimiser: Any, schedule: Any
) -> list[dict[str, float]]:
    path = out / "last.safetensors"
    if not path.is_file():
        return []
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network/")})
    averaged.state = {k[9:]: v for k, v in tensors.items() if k.startswith("averaged/")}
    averaged.steps = int(notes["averaged_steps"])
    state = optimiser.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
    state["state"] = moments
    optimiser.load_state_dict(state)
    schedule.last_epoch = int(notes["step"])
    for group, base in zip(optimiser.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * schedule.lr_lambdas[0](schedule.last_epoch)
    history: list[dict[str, float]] = json.loads(notes["history"])
    return history


def _line(figures: dict[str, float]) -> str:
    return " ".join(f"{k} {v:.3f}" for k, v in figures.items() if k != "epoch")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML, see trainer/configs")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and logs (default runs/NAME)")
    parser.add_argument("--epochs", type=int, help="instead of the configuration's")
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text())
    best = train(config, arguments.out or Path("runs") / config["name"], arguments.epochs)
    print("best: " + json.dumps(best))


if __name__ == "__main__":
    main()
