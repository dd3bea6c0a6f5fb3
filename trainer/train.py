"""`python -m trainer.train --config FILE`: trains one stage of the model and keeps checkpoints.

A stage ("stills", "voices" or "windows") brings its network, batches, loss and validation; this file owns the
optimiser, the schedule, averaging, resuming, early stop and the log, and knows nothing of faces or voices.
Under `torchrun` several processes train one network (`trainer.ranks`); the first one validates and writes.
Results leave as `DIR/last.safetensors` (everything to go on from), `DIR/best.safetensors` (averaged
weights of the best epoch), `DIR/history.jsonl` and a TensorBoard log.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from trainer import checkpoint
from trainer.configuration import add_config, need, read_config, run_folder
from trainer.mixed_precision import LEFT_OUT, mixed_precision, suits
from trainer.prepared_sets import learned_from, make_ready
from trainer.ranks import Outputs, Ranks, open_ranks

AVERAGE_DECAY = 0.998
MAY_CHANGE = ("epochs", "patience", "device", "threads")
"""What a run may go on with otherwise than it began: none of it is in the weights or in the moments."""


class Stage(Protocol):
    """What a stage of training brings."""

    network: nn.Module
    steps: int  # batches an epoch
    frozen: list[nn.Module]  # parts that do not learn; their norms keep what they learned before

    def described(self) -> str:
        """What it learns from, for who starts it: a set that is missing shows here, not in the figures."""

    def batches(self, seed: int) -> Iterator[Any]:
        """One epoch of batches, the same for the same seed."""

    def part(self, batch: Any, rows: slice) -> Any:
        """Some rows of a batch, as a batch."""

    def outputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What the network says of a batch, rows first."""

    def loss(self, outputs: tuple[Tensor, ...], batch: Any) -> Tensor:
        """Scalar loss of a whole batch from its outputs."""

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
    """Exponential mean of the weights and of the norms' statistics; whole numbers are taken as they are."""

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
    """Train (or go on from `out/last.safetensors`) and return the figures of the best epoch.

    Beside what its stage reads, the configuration has `device` ("cpu", "cuda" or "auto"), `bfloat16`,
    `threads`, `select` (the dev figure that decides which epoch is best; without it the stage's choice) and
    `patience` (epochs without a better one after which training stops; without it, it never does).

    A training with `start_bundle` is validated before its first epoch too, and ends with both figures.

    Under `torchrun`, `out` must be one folder for all ranks. Raises ValueError for a configuration that does
    not fit, or is not the one that `out` was begun with, and where ranks do not go on from the same epoch.
    """
    need(config)
    epochs = config["epochs"] if epochs is None else epochs
    if epochs < 1:
        raise ValueError(f"A training has one epoch or more, not {epochs}.")
    with open_ranks(config.get("device", "cpu")) as ranks:
        return _train(config, out, epochs, ranks)


def _train(config: dict[str, Any], out: Path, epochs: int, ranks: Ranks) -> dict[str, float]:
    torch.set_num_threads(config.get("threads", torch.get_num_threads()))
    if ranks.rank == 0:
        make_ready(config, device=ranks.device)
    ranks.told(0)  # the others wait
    torch.manual_seed(config["seed"])
    stage = build_stage(config)
    network = stage.network.to(ranks.device)
    run = ranks.shared(network, stage.outputs)
    total = epochs * stage.steps
    optimiser = torch.optim.AdamW(
        _decay_groups(network, config["weight_decay"]), lr=config["learning_rate"], betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _one_cycle(step, total, config.get("warm_up", 0.08))
    )
    averaged = Averaged(network)
    out.mkdir(parents=True, exist_ok=True)
    begun = {"config": json.dumps(config), "data": json.dumps(learned_from(config))}
    history, before = _resume(out, network, averaged, optimiser, schedule, begun)
    if ranks.told(len(history)) != len(history):
        raise ValueError(
            f"{out} is not the same folder for all ranks: they would go on from different epochs."
        )
    if ranks.rank == 0 and len(history) >= epochs:
        print(f"{out} has all of its {epochs} epochs; to train anew, remove it or name another --out.")
    log = SummaryWriter(str(out / "tensorboard")) if ranks.rank == 0 else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if log is not None:
        _tell(stage, config, ranks.device.type)
    if "start_bundle" in config and not history:
        before = _before(stage, config, ranks)
    with Progress(*columns, disable=log is None) as progress:
        bar = progress.add_task("training", total=total, completed=len(history) * stage.steps)
        for epoch in range(len(history), epochs):
            if _stale(history, config.get("patience")):
                progress.console.print(f"no better epoch in {config['patience']}: stopped")
                break
            started = time.monotonic()
            loss_mean = _epoch(
                stage, run, optimiser, schedule, averaged, config, epoch, ranks, lambda: progress.advance(bar)
            )
            figures = {"epoch": float(epoch), "loss": loss_mean}
            if log is not None:
                figures |= _validated(stage, averaged, config)
                figures["seconds"] = time.monotonic() - started
            figures["select"] = ranks.told(figures.get("select", 0.0))
            history.append(figures)
            if log is None:
                continue
            _save(out, network, averaged, optimiser, schedule, history, before, begun)
            for name, value in figures.items():
                log.add_scalar(name, value, epoch)
            progress.update(bar, description=f"epoch {epoch} " + _line(figures))
            progress.console.print(f"epoch {epoch} " + _line(figures))
    if log is not None:
        log.close()
        _compare(before, checkpoint.best_of(history))
    return checkpoint.best_of(history)


def _before(stage: Stage, config: dict[str, Any], ranks: Ranks) -> dict[str, float] | None:
    """Figures of the weights that the training starts from; None for ranks that do not validate."""
    next(iter(stage.batches(_seed(config, 0))))  # every epoch begins so: the network takes the data's means
    return _figures(stage, config) if ranks.rank == 0 else None


def _compare(before: dict[str, float] | None, best: dict[str, float]) -> None:
    if before is None:
        return
    print("before training " + _line(before), "best epoch " + _line(best), sep="\n")
    if not best["select"] > before["select"]:
        print("On dev this is no better than the bundle that it started from.")


def _validated(stage: Stage, averaged: Averaged, config: dict[str, Any]) -> dict[str, float]:
    """Figures of the averaged weights."""
    live = {k: v.clone() for k, v in stage.network.state_dict().items()}
    stage.network.load_state_dict(averaged.state)
    figures = _figures(stage, config)
    stage.network.load_state_dict(live)
    return figures


def _figures(stage: Stage, config: dict[str, Any]) -> dict[str, float]:
    """Figures of the weights as they are; "select" is the one that the configuration names, if any."""
    figures = stage.validate(stage.network)
    name = config.get("select", "select")
    if name not in figures:
        raise ValueError(f"select is {name!r}; this stage has {', '.join(sorted(figures))}")
    return figures | {"select": figures[name]}


def _stale(history: list[dict[str, float]], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    return len(history) - 1 - history.index(checkpoint.best_of(history)) >= patience


def _epoch(
    stage: Stage,
    run: Outputs,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    averaged: Averaged,
    config: dict[str, Any],
    epoch: int,
    ranks: Ranks,
    advance: Any,
) -> float:
    stage.network.train()
    for part in stage.frozen:
        part.eval()
    seed = _seed(config, epoch)
    torch.manual_seed(
        seed + ranks.rank * 1_000_003
    )  # dropout of a resumed run is that of a run never stopped
    own = ranks.rows(config["batch"])
    losses = []
    for batch in stage.batches(seed):
        with mixed_precision(ranks.device.type, config.get("bfloat16", False)):
            outputs = run(batch if ranks.count == 1 else stage.part(batch, own))
            loss = stage.loss(tuple(ranks.gathered(output) for output in outputs), batch)
        optimiser.zero_grad(set_to_none=True)
        (loss * ranks.count).backward()
        nn.utils.clip_grad_norm_(stage.network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        averaged.update(stage.network)
        losses.append(float(loss.detach()))
        advance()
    return sum(losses) / max(1, len(losses))


def _tell(stage: Stage, config: dict[str, Any], device: str) -> None:
    """What it learns from, and what is not done as asked."""
    print("learns from", stage.described(), sep="\n")
    if config.get("bfloat16") and not suits(device):
        print(LEFT_OUT)


def _seed(config: dict[str, Any], epoch: int) -> int:
    return int(config["seed"] * 1000 + epoch)


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
    out: Path,
    network: nn.Module,
    averaged: Averaged,
    optimiser: Any,
    schedule: Any,
    history: list,
    before: dict[str, float] | None,
    begun: dict[str, str],
) -> None:
    """Everything to go on from, and the averaged weights if their epoch is the best one."""
    if checkpoint.best_of(history) is history[-1]:
        save_file({k: v.contiguous() for k, v in averaged.state.items()}, out / "best.safetensors")
    notes = begun | {
        "history": json.dumps(history),
        "before": json.dumps(before),
        "averaged_steps": str(averaged.steps),
        "step": str(schedule.last_epoch),
    }
    checkpoint.write(out / "last.safetensors", network, averaged.state, optimiser, notes)
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))


def _resume(
    out: Path, network: nn.Module, averaged: Averaged, optimiser: Any, schedule: Any, begun: dict[str, str]
) -> tuple[list[dict[str, float]], dict[str, float] | None]:
    """The history, and the figures before the first epoch; nothing where the run only begins.

    begun: the notes of the configuration and of the data, were it to begin now.
    """
    path = out / "last.safetensors"
    if not path.is_file():
        return [], None
    _refuse_another(path, checkpoint.read_notes(path), begun)
    device = str(next(iter(averaged.state.values())).device)
    averaged.state, notes = checkpoint.read(path, network, optimiser, device)
    averaged.steps = int(notes["averaged_steps"])
    schedule.last_epoch = int(notes["step"])
    for group, base in zip(optimiser.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * schedule.lr_lambdas[0](schedule.last_epoch)
    return json.loads(notes["history"]), json.loads(notes.get("before", "null"))


def _refuse_another(path: Path, notes: dict[str, str], asked: dict[str, str]) -> None:
    """Moments belong to the very parameters and data that they were gathered on.

    Raises ValueError where the run began with another configuration or data, and names a key or a file.
    """
    instead = f"name another --out, or remove {path} to begin anew."
    notes = asked | notes  # an earlier version kept no configuration, one after it no data
    config, began = json.loads(asked["config"]), json.loads(notes["config"])
    for key in _differing(config, began):
        if key not in MAY_CHANGE:
            values = f"{json.dumps(began.get(key))}, not {json.dumps(config.get(key))}"
            raise ValueError(f"{path.parent} was begun with {key} = {values}: {instead}")
    for file in _differing(json.loads(asked["data"]), json.loads(notes["data"])):
        raise ValueError(f"{path.parent} was begun with other data, before {file} changed: {instead}")


def _differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Keys whose values are not the same, in order."""
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def _line(figures: dict[str, float]) -> str:
    return " ".join(f"{k} {v:.3f}" for k, v in figures.items() if k != "epoch")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.train", description=__doc__.splitlines()[0])
    add_config(parser, "TOML, see trainer/configs")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and logs (default runs/NAME)")
    parser.add_argument("--epochs", type=int, help="instead of the configuration's")
    parser.add_argument("--device", help="cpu, cuda or auto, instead of the configuration's")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.settings)
        config |= {"device": arguments.device} if arguments.device else {}
        best = train(config, arguments.out or run_folder(config), arguments.epochs)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    print("best: " + json.dumps(best))


if __name__ == "__main__":
    main()
