"""First stage: the frame encoder's appearance half learns expressions from stills.

Soft labels from all raters' votes, weighted by inverse square root of class size, and, where there are
teachers, what they say of the same still. The motion half is not touched here. Data arrives as a cache of
aligned stills (`trainer.prepare_stills`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.augment_stills import augment
from trainer.data.stills import WEIGHT_POWER
from trainer.metrics import unweighted_average_recall
from trainer.mixed_precision import mixed_precision
from trainer.model.de3 import new_frame_encoder
from trainer.model.frame_encoder import FrameEncoder
from trainer.start import freeze, start_encoder
from trainer.teachers import TAUGHT_SHARE, Teachers


class StillsStage:
    """`stage = "stills"`; see `trainer.train.Stage`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.network = new_frame_encoder(config)
        if "frame_encoder_weights" in config:
            start_encoder(self.network, Path(config["frame_encoder_weights"]))
        self.network.to(memory_format=torch.channels_last)
        train = [np.load(Path(config["cache"]) / name) for name in config["train"]]
        self.crops = torch.from_numpy(np.concatenate([a["crops"] for a in train]))
        self.votes = torch.from_numpy(np.concatenate([a["votes"] for a in train]))
        dev = np.load(Path(config["cache"]) / config["dev"])
        self.dev_crops, self.dev_votes = torch.from_numpy(dev["crops"]), torch.from_numpy(dev["votes"])
        size_L = self.votes.sum(0)
        self.weights_L = (size_L / size_L.mean()) ** WEIGHT_POWER
        self.steps = len(self.crops) // config["batch"]
        self.frozen = freeze(self.network, config.get("frozen", []))
        self.teachers = Teachers(
            [_teacher(config, Path(file)) for file in config.get("teachers", ())],
            config.get("taught_share", TAUGHT_SHARE),
        )

    def described(self) -> str:
        return f"{len(self.crops)} stills"

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.crops), generator=generator)
        size = self.config["batch"]
        for start in range(0, self.steps * size, size):
            chosen = order[start : start + size]
            crops = self.crops[chosen, None].float()
            yield augment(crops, generator), self.votes[chosen]

    def part(self, batch: tuple[Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor]:
        return batch[0][rows], batch[1][rows]

    def outputs(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, L)."""
        return (_expression(self.network, batch[0]),)

    def loss(self, outputs: tuple[Tensor, ...], batch: tuple[Tensor, Tensor]) -> Tensor:
        (logits,) = outputs
        weighted = (batch[1] * self.weights_L).to(logits.device)
        weighted = self.teachers.taught(weighted, lambda teacher: _expression(teacher, batch[0]))
        return -(weighted * F.log_softmax(logits, 1)).sum() / weighted.sum()

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        network.eval()
        device = next(network.parameters()).device
        scores = []
        for chunk in self.dev_crops.split(256):
            with mixed_precision(device.type, self.config.get("bfloat16", False)):
                crops = chunk[:, None].float().to(device).contiguous(memory_format=torch.channels_last)
                scores.append(network.expression(network.appearance(crops)).float().cpu())
        truth = self.dev_votes.argmax(1).numpy()
        guess = torch.cat(scores).argmax(1).numpy()
        accuracy = float((truth == guess).mean())
        return {
            "accuracy": accuracy,
            "uar": unweighted_average_recall(truth, guess),
            "select": accuracy,
        }


def _teacher(config: dict[str, Any], file: Path) -> FrameEncoder:
    """A frame encoder of the same sizes. Raises ValueError where the file is missing or does not fit."""
    network = new_frame_encoder(config)
    start_encoder(network, file)
    return network.to(memory_format=torch.channels_last)


def _expression(encoder: FrameEncoder, crops_B1HW: Tensor) -> Tensor:
    """Logits (B, L)."""
    crops = crops_B1HW.to(encoder.expression.weight.device)
    return encoder.expression(encoder.appearance(crops.contiguous(memory_format=torch.channels_last))).float()
