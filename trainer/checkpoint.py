"""A training's state in one safetensors file: network, averaged weights, the optimiser's moments, notes.

Written beside and put in place, so that a training cut while it writes finds the last whole file.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write(
    file: Path,
    network: nn.Module,
    averaged: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    notes: dict[str, str],
) -> None:
    """Everything to go on from. Random numbers are drawn from seeds and steps, so that notes suffice."""
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"averaged/{key}": value for key, value in averaged.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{key}": value for key, value in moments.items()}
    part = file.with_suffix(".part")
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, part, notes)
    part.replace(file)


def read_notes(file: Path) -> dict[str, str]:
    """The notes alone."""
    with safe_open(file, "pt") as stored:
        notes: dict[str, str] = stored.metadata()
    return notes


def read(
    file: Path, network: nn.Module, optimiser: torch.optim.Optimizer, device: str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Put network and optimiser where they were; the averaged weights, on a device, and the notes."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "averaged": {}, "optimiser": {}}
    with safe_open(file, "pt", device=device) as stored:
        notes: dict[str, str] = stored.metadata()
        for name in stored.keys():  # noqa: SIM118 (not a dict)
            part, key = name.split("/", 1)
            parts[part][key] = stored.get_tensor(name)
    network.load_state_dict(parts["network"])
    state = optimiser.state_dict()
    state["state"] = {}
    for name, value in parts["optimiser"].items():
        index, key = name.split("/")
        state["state"].setdefault(int(index), {})[key] = value
    optimiser.load_state_dict(state)
    return parts["averaged"], notes


def best_of(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The figures of the best epoch, whose weights are kept; of equal ones the first."""
    return max(history, key=lambda row: -math.inf if math.isnan(row["select"]) else row["select"])
