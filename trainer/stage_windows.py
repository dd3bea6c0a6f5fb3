"""Second stage: motion encoder and window model learn from moving faces and voices.

The appearance encoder comes from the first stage and stays as it is, so its tokens are kept in a cache
(`trainer.prepare_windows`). L = L_V + L_A + L_F, each head counted where its own sense was there.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data.takes import NO_LABEL
from trainer.labels import HEADS
from trainer.losses import concordance_loss, label_shares, share_loss
from trainer.metrics import unweighted_average_recall
from trainer.model.de3 import DE3, sound_kind
from trainer.prepared_sets import dev_sets, training_sets
from trainer.ranks import GatheredNorm
from trainer.stage_voices import concordances
from trainer.start import freeze, start
from trainer.still_faces import StillFaces
from trainer.window_batches import Place, WindowBatch, WindowSource


class WindowsStage:
    """`stage = "windows"`; see `trainer.train.Stage`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        starts = {"frame_encoder_weights", "start_bundle", "start_weights", "frame_extractor"}
        if not starts & config.keys():
            raise ValueError(
                "A windows stage starts from frame_encoder_weights, start_bundle, start_weights or "
                "a frame_extractor."
            )
        self.network = DE3(config)
        start(self.network, config)
        names = ["frame_encoder.appearance", "frame_encoder.expression", *config.get("frozen", [])]
        self.frozen = freeze(self.network, names)
        self.attributes = tuple(config.get("attributes", ()))
        kind = WindowSource if config.get("moving_faces", True) else StillFaces
        self.train = kind(
            sets=training_sets(config),
            splits=tuple(config["splits"]),
            shares=tuple(config["shares"]),
            speakers=config.get("speakers") or None,
            attributes=self.attributes,
            ranges=config.get("attribute_ranges"),
            varied=config.get("voice_variety", False),
            clean=config.get("clean_share", 0.0),
            sound=sound_kind(config),
        )
        self.dev = WindowSource(
            sets=dev_sets(config),
            splits=("dev",),
            shares=(1, 0, 0),
            attributes=self.attributes,
            ranges=config.get("attribute_ranges"),
            sound=sound_kind(config),
        )
        self.steps = config["steps"]
        for split, source in (("train", self.train), ("dev", self.dev)):
            if not len(source.clips.labels):
                raise ValueError(f"A windows stage learns from faces; in the split {split} there are none.")
        if self.train.heard:
            self.network.voice_mean.copy_(torch.from_numpy(self.train.voice_mean))
        self.train.voice_mean = self.network.voice_mean.numpy().copy()
        self.smoothing = config["label_smoothing"]
        self.heads = tuple(config["window_model"].get("trained_heads", HEADS))
        self.dev_rows = self._dev_rows()

    def described(self) -> str:
        return self.train.described()

    def batches(self, seed: int) -> Iterator[WindowBatch]:
        self._renew_means(seed)
        yield from self.train.batches(np.random.default_rng(seed), self.config["batch"], self.steps)

    def part(self, batch: WindowBatch, rows: slice) -> WindowBatch:
        return batch.part(rows)

    def outputs(self, batch: WindowBatch) -> tuple[Tensor, ...]:
        """Logits (B, 3, L), with voice statistics (B, 4, L), and attributes (B, 3, A) where there are any."""
        return tuple(output.float() for output in window_outputs(self.network, batch))

    def loss(self, outputs: tuple[Tensor, ...], batch: WindowBatch) -> Tensor:
        logits_BHL, *attributes = outputs
        device = logits_BHL.device
        shares_BL = label_shares(torch.from_numpy(batch.labels), logits_BHL.shape[2]).to(device)
        targets_BA = torch.from_numpy(batch.attributes).to(device)
        seen = torch.from_numpy(batch.video_mask.any(1)).to(device)
        heard = torch.from_numpy(batch.audio_mask.any(1)).to(device)
        total = torch.zeros((), device=device)
        present_of = {"video": seen, "audio": heard, "fused": seen | heard}
        for head, name in enumerate((*HEADS, "audio")[: logits_BHL.shape[1]]):
            if name not in self.heads:
                continue
            present = present_of[name]
            loss = share_loss(logits_BHL[present, head], shares_BL[present], self.smoothing)
            for answers_BHA in attributes if head < len(HEADS) else ():
                ccc = concordance_loss(answers_BHA[present, head], targets_BA[present])
                loss = loss + self.config.get("attribute_weight", 1.0) * ccc
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
        self.network.take_expression()

    def _dev_rows(self) -> dict[str, list[Place]]:
        """label, clip, take of what validates: moving faces, their faces alone, voices of unseen actors."""
        clips = self.dev.clips
        both = [
            (int(label), i, int(take))
            for i, (label, take) in enumerate(zip(clips.labels, clips.voices, strict=True))
            if label != NO_LABEL or self.attributes
        ]
        corpora = self.dev.voices.corpora
        judges = ["ravdess"] if "ravdess" in corpora else np.unique(corpora).tolist()  # it has all labels
        voices = [
            (label, None, int(take))
            for label, takes in (*enumerate(self.dev.takes), (NO_LABEL, self.dev.unlabelled))
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
            if not rows:
                continue
            logits, truth, attributes = self._dev_answers(network, rows)
            for head, scores in zip(HEADS, logits.transpose(1, 0, 2), strict=True):
                if (name, head) in (("voice", "video"), ("face", "audio")):
                    continue
                if (known := truth != NO_LABEL).any():
                    recall = unweighted_average_recall(truth[known], scores[known].argmax(1))
                    figures[f"{name}_{head}"] = recall
                for each in attributes:
                    answers = each[0][:, HEADS.index(head)]
                    ccc = concordances(self.attributes, [answers], each[1])
                    figures |= {f"{name}_{head}_{key}": value for key, value in ccc.items()}
        fused = [name for name in figures if "_fused" in name]
        return figures | {"select": float(np.mean([figures[name] for name in fused]))}

    def _dev_answers(
        self, network: DE3, windows: list[Place]
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Logits, labels, and with attributes one pair of answers (N, 3, A) and targets (N, A)."""
        found, truth, targets = [], [], []
        for batch in self.dev.calm_batches(np.random.default_rng(7), windows, 32):
            found.append([output.float().cpu().numpy() for output in window_outputs(network, batch)])
            truth.append(batch.labels)
            targets.append(batch.attributes)
        logits, *attributes = (np.concatenate(each) for each in zip(*found, strict=True))
        return logits, np.concatenate(truth), [(each, np.concatenate(targets)) for each in attributes]


def window_outputs(network: DE3, batch: WindowBatch) -> tuple[Tensor, ...]:
    """Logits (B, 3, L), and attributes (B, 3, A) where there are any; flow is encoded on the way."""
    device = network.face_mean.device
    mask_BT = torch.from_numpy(batch.video_mask).to(device)
    o = torch.zeros(*mask_BT.shape, len(network.face_mean) - batch.v.shape[2], device=device)
    motion = network.frame_encoder.motion
    # One row has no deviation to be normed by; where ranks share their norms, all must take part in them.
    if len(batch.flow) > 1 or isinstance(motion.token_norm, GatheredNorm):
        o[mask_BT] = motion(torch.from_numpy(batch.flow).to(device)).float()
    baseline = np.concatenate((batch.face_baseline_v, batch.face_baseline_o), 1)
    v, face, trust, sound, heard, voice, voice_trust = (
        torch.from_numpy(each).to(device)
        for each in (
            batch.v,
            baseline,
            batch.face_weight,
            batch.sound,
            batch.audio_mask,
            batch.voice_baseline,
            batch.voice_weight,
        )
    )
    outputs = network.window_model(v, o, mask_BT, face, trust, sound, heard, voice, voice_trust)
    return (outputs[0], *outputs[3:])


def window_logits(network: DE3, batch: WindowBatch) -> Tensor:
    """(B, 3, L) logits of a batch."""
    return window_outputs(network, batch)[0]
