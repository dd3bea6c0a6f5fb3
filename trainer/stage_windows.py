"""Second stage: motion encoder and window model learn from moving faces and voices.

The appearance encoder comes from the first stage and stays as it is, so its tokens are kept in a cache
(`trainer.prepare_windows`). L = L_V + L_A + L_F, each head counted where its own sense was there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.labels import HEADS
from trainer.metrics import unweighted_average_recall
from trainer.model.de3 import DE3
from trainer.still_faces import StillFaces
from trainer.window_batches import WindowBatch, WindowSource

SOUND_PARTS = ("sound_in", "sound_encoder", "pools.1", "heads.1")


class WindowsStage:
    """`stage = "windows"`; see `trainer.train.Stage`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.network = DE3(config)
        start = load_file(config["frame_encoder_weights"])
        self.network.frame_encoder.load_state_dict(start)
        if "start_weights" in config:
            self.network.load_state_dict(load_file(config["start_weights"]))
        if "voice_weights" in config:
            load_sound(self.network, load_file(config["voice_weights"]))
        encoder, model = self.network.frame_encoder, self.network.window_model
        self.frozen = [encoder.appearance, encoder.expression]
        self.frozen += [model.get_submodule(name) for name in config.get("frozen", [])]
        for part in self.frozen:
            part.requires_grad_(False)
        cache = Path(config["cache"])
        kind = WindowSource if config.get("moving_faces", True) else StillFaces
        self.train = kind(
            cache=cache,
            clips=Path(config["clips"]),
            splits=tuple(config["splits"]),
            shares=tuple(config["shares"]),
        )
        self.dev = WindowSource(
            cache=cache, clips=Path(config["dev_clips"]), splits=("dev",), shares=(1, 0, 0)
        )
        self.steps = config["steps"]
        self.network.voice_mean.copy_(torch.from_numpy(self.train.voice_mean))
        self.smoothing = config["label_smoothing"]
        self.heads = tuple(config["window_model"].get("trained_heads", HEADS))
        self.dev_rows = self._dev_rows()

    def batches(self, seed: int) -> Iterator[WindowBatch]:
        self._renew_means(seed)
        for part in self.frozen:
            part.eval()  # their norms keep what they learned before
        yield from self.train.batches(np.random.default_rng(seed), self.config["batch"], self.steps)

    def loss(self, batch: WindowBatch) -> Tensor:
        logits_BHL = window_logits(self.network, batch)
        labels = torch.from_numpy(batch.labels)
        seen = torch.from_numpy(batch.video_mask.any(1))
        heard = torch.from_numpy(batch.audio_mask.any(1))
        total = torch.zeros(())
        for head, present in enumerate((seen, heard, seen | heard)):
            if present.any() and HEADS[head] in self.heads:
                chosen = logits_BHL[present, head].float()
                loss = F.cross_entropy(chosen, labels[present], label_smoothing=self.smoothing)
                total = total + loss * present.float().mean()
        return total

    def _renew_means(self, seed: int) -> None:
        """Means that baselines are made of, with the motion encoder as it is now; dev uses those of train."""
        encoder = self.network.frame_encoder.motion
        self.train.renew_motion_means(encoder, seed)
        self.dev.renew_motion_means(encoder, seed)
        self.train.face_mean = self.train.clip_mean()
        self.dev.face_mean, self.dev.voice_mean = self.train.face_mean, self.train.voice_mean
        self.network.face_mean.copy_(torch.from_numpy(self.train.face_mean))

    def _dev_rows(self) -> dict[str, list[tuple[int, int | None, int | None]]]:
        """label, clip, take of what validates: moving faces, their faces alone, voices of unseen actors."""
        clips = self.dev.clips
        both = [
            (int(label), i, int(take))
            for i, (label, take) in enumerate(zip(clips.labels, clips.voices, strict=True))
            if label >= 0
        ]
        corpora = self.dev.voices.corpora
        judges = ["ravdess"] if "ravdess" in corpora else np.unique(corpora).tolist()  # it has all labels
        voices = [
            (label, None, int(take))
            for label, takes in enumerate(self.dev.takes)
            for take in takes
            if corpora[take] in judges
        ]
        return {"both": both, "face": [(label, clip, None) for label, clip, _ in both], "voice": voices}

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, DE3)
        network.eval()
        self.network.face_mean.copy_(torch.from_numpy(self.train.face_mean))
        figures: dict[str, float] = {}
        for name, rows in self.dev_rows.items():
            logits, truth = self._dev_logits(network, rows)
            for head, scores in zip(HEADS, logits.transpose(1, 0, 2), strict=True):
                if (name, head) in (("voice", "video"), ("face", "audio")):
                    continue
                figures[f"{name}_{head}"] = unweighted_average_recall(truth, scores.argmax(1))
        figures["select"] = float(
            np.mean([figures["both_fused"], figures["face_fused"], figures["voice_fused"]])
        )
        return figures

    def _dev_logits(
        self, network: DE3, rows: list[tuple[int, int | None, int | None]]
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(7)
        logits, truth = [], []
        for start in range(0, len(rows), 32):
            windows = [
                self.dev.window(rng, label=label, clip=clip, take=take, calm=True)
                for label, clip, take in rows[start : start + 32]
            ]
            batch = self.dev.collate(windows)
            logits.append(window_logits(network, batch).float().numpy())
            truth.append(batch.labels)
        return np.concatenate(logits), np.concatenate(truth)


def load_sound(network: DE3, weights: dict[str, Tensor]) -> None:
    """The sound branch, and nothing else, from weights of a whole network."""
    state = network.state_dict()
    for part in SOUND_PARTS:
        state |= {name: value for name, value in weights.items() if name.startswith(f"window_model.{part}.")}
    network.load_state_dict(state)


def window_logits(network: DE3, batch: WindowBatch) -> Tensor:
    """(B, 3, L) logits of a batch, its flow encoded on the way."""
    mask_BT = torch.from_numpy(batch.video_mask)
    o = torch.zeros(*mask_BT.shape, len(network.face_mean) - batch.v.shape[2])
    if len(batch.flow) > 1:
        o[mask_BT] = network.frame_encoder.motion(torch.from_numpy(batch.flow)).float()
    baseline = np.concatenate((batch.face_baseline_v, batch.face_baseline_o), 1)
    logits: Tensor = network.window_model(
        torch.from_numpy(batch.v),
        o,
        mask_BT,
        torch.from_numpy(baseline),
        torch.from_numpy(batch.face_weight),
        torch.from_numpy(batch.mel),
        torch.from_numpy(batch.audio_mask),
        torch.from_numpy(batch.voice_baseline),
        torch.from_numpy(batch.voice_weight),
    )[0]
    return logits
