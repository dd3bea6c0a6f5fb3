"""Stage between the two: the sound branch of the window model learns from voices alone.

With no face in the window the audio head rests on the sound encoder only, so nothing else need be
computed: five times as many windows in the same time as in the stage that follows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.metrics import unweighted_average_recall
from trainer.model.de3 import DE3
from trainer.window_batches import WindowBatch, WindowSource

AUDIO = 1  # place of the audio head


class VoicesStage:
    """`stage = "voices"`; see `trainer.train.Stage`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.network = DE3(config)
        if "start_weights" in config:
            self.network.load_state_dict(load_file(config["start_weights"]))
        model = self.network.window_model
        self.network.requires_grad_(False)
        for part in (model.sound_in, model.sound_encoder, model.pools[AUDIO], model.heads[AUDIO]):
            part.requires_grad_(True)
        cache, clips = Path(config["cache"]), Path(config["dev_clips"])
        self.train = WindowSource(
            cache=cache, clips=clips, splits=tuple(config["splits"]), shares=(0.0, 1.0, 0.0)
        )
        self.dev = WindowSource(cache=cache, clips=clips, splits=("dev",), shares=(0.0, 1.0, 0.0))
        self.dev.voice_mean = self.train.voice_mean
        for source in (self.train, self.dev):
            source.face_mean = np.zeros(len(self.network.face_mean), np.float32)
        self.network.voice_mean.copy_(torch.from_numpy(self.train.voice_mean))
        self.steps = config["steps"]

    def batches(self, seed: int) -> Iterator[WindowBatch]:
        yield from self.train.batches(np.random.default_rng(seed), self.config["batch"], self.steps)

    def loss(self, batch: WindowBatch) -> Tensor:
        logits = voice_logits(self.network, batch).float()
        labels = torch.from_numpy(batch.labels)
        return F.cross_entropy(logits, labels, label_smoothing=self.config["label_smoothing"])

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, DE3)
        network.eval()
        takes = [(label, int(t)) for label, some in enumerate(self.dev.takes) for t in some]
        rng = np.random.default_rng(7)
        logits = []
        for start in range(0, len(takes), 64):
            rows = [
                self.dev.window(rng, label=label, clip=None, take=take, calm=True)
                for label, take in takes[start : start + 64]
            ]
            logits.append(voice_logits(network, self.dev.collate(rows)).float().numpy())
        truth, answers = np.array([label for label, _ in takes]), np.concatenate(logits).argmax(1)
        corpora = self.dev.voices.corpora[[take for _, take in takes]]
        figures = {
            str(corpus): unweighted_average_recall(truth[corpora == corpus], answers[corpora == corpus])
            for corpus in np.unique(corpora)
        }
        return figures | {"select": float(np.mean(list(figures.values())))}


def voice_logits(network: DE3, batch: WindowBatch) -> Tensor:
    """(B, L): what the audio head says where there is no face."""
    model = network.window_model
    heard, mask = model.sound_in(
        torch.from_numpy(batch.mel),
        torch.from_numpy(batch.audio_mask),
        torch.from_numpy(batch.voice_baseline),
        torch.from_numpy(batch.voice_weight),
    )
    sound = model.sound_encoder(heard, mask)
    logits: Tensor = model.heads[AUDIO](model.pools[AUDIO](sound, mask))
    return logits
