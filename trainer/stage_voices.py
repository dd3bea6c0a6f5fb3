"""Stage between the two: the sound branch of the window model learns from voices alone.

With no face in the window the audio head rests on the sound encoder only, so nothing else need be
computed: five times as many windows in the same time as in the stage that follows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data.takes import NO_LABEL
from trainer.losses import concordance_loss, label_shares, share_loss
from trainer.metrics import concordance, unweighted_average_recall
from trainer.model.de3 import DE3, sound_kind
from trainer.prepared_sets import voice_sets
from trainer.start import OPTIONAL, fill, freeze, read_weights, start
from trainer.teachers import TAUGHT_SHARE, Teachers
from trainer.window_batches import WindowBatch, WindowSource

AUDIO = 1  # place of the audio head


class VoicesStage:
    """`stage = "voices"`; see `trainer.train.Stage`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.network = DE3(config)
        start(self.network, config)
        model = self.network.window_model
        self.network.requires_grad_(False)
        parts = [model.sound_in, model.sound_encoder, model.pools[AUDIO], model.heads[AUDIO]]
        if model.attribute_heads is not None:
            parts.append(model.attribute_heads[AUDIO])
        if model.voice_statistics is not None:
            parts.append(model.voice_statistics)
        for part in parts:
            part.requires_grad_(True)
        self.frozen = freeze(self.network, config.get("frozen", []))
        learning = [part for part in parts if any(p.requires_grad for p in part.parameters())]
        self.statistics_alone = learning == [model.voice_statistics]  # then nothing else need be computed
        self.attributes = tuple(config.get("attributes", ()))
        self.train, self.dev = (
            WindowSource(
                sets=voice_sets(config),
                splits=splits,
                shares=(0.0, 1.0, 0.0),
                speakers=speakers,
                attributes=self.attributes,
                ranges=config.get("attribute_ranges"),
                varied=config.get("voice_variety", False),
                clean=config.get("clean_share", 0.0),
                sound=sound_kind(config),
            )
            for splits, speakers in (
                (tuple(config["splits"]), config.get("speakers") or None),
                (("dev",), None),
            )
        )
        for split, source in ((", ".join(config["splits"]), self.train), ("dev", self.dev)):
            if not source.has(source.shares):
                raise ValueError(
                    f"A voices stage learns from rated voices; in the split {split} there are none."
                )
        self.dev.voice_mean = self.train.voice_mean
        for source in (self.train, self.dev):
            source.face_mean = np.zeros(len(self.network.face_mean), np.float32)
        self.network.voice_mean.copy_(torch.from_numpy(self.train.voice_mean))
        self.teachers = Teachers(
            [_teacher(config, Path(file)) for file in config.get("teachers", ())],
            config.get("taught_share", TAUGHT_SHARE),
        )
        self.steps = config["steps"]

    def described(self) -> str:
        return self.train.described()

    def batches(self, seed: int) -> Iterator[WindowBatch]:
        yield from self.train.batches(np.random.default_rng(seed), self.config["batch"], self.steps)

    def part(self, batch: WindowBatch, rows: slice) -> WindowBatch:
        return batch.part(rows)

    def outputs(self, batch: WindowBatch) -> tuple[Tensor, ...]:
        """See `voice_outputs`."""
        answers = statistics_outputs if self.statistics_alone else voice_outputs
        return tuple(output.float() for output in answers(self.network, batch))

    def loss(self, outputs: tuple[Tensor, ...], batch: WindowBatch) -> Tensor:
        logits_BWL, *attributes = outputs
        shares = label_shares(torch.from_numpy(batch.labels), logits_BWL.shape[2]).to(logits_BWL.device)
        taught = self.teachers.taught(shares, lambda teacher: agreed(voice_outputs(teacher, batch)[0]))
        smoothing = self.config["label_smoothing"]
        total = torch.stack([share_loss(way, taught, smoothing) for way in logits_BWL.unbind(1)]).sum()
        for answers in attributes:
            targets = torch.from_numpy(batch.attributes).to(answers.device)
            total = total + self.config.get("attribute_weight", 1.0) * concordance_loss(answers, targets)
        return total

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, DE3)
        network.eval()
        dev = (*enumerate(self.dev.takes), (NO_LABEL, self.dev.unlabelled))
        takes = [(label, int(t)) for label, some in dev for t in some]
        windows = [(label, None, take) for label, take in takes]
        found = [
            [agreed(logits).float().cpu().numpy(), *(each.float().cpu().numpy() for each in attributes)]
            for batch in self.dev.calm_batches(np.random.default_rng(7), windows, 64)
            for logits, *attributes in [voice_outputs(network, batch)]
        ]
        logits, *attributes = (np.concatenate(each) for each in zip(*found, strict=True))
        truth, answers = np.array([label for label, _ in takes]), logits.argmax(1)
        places = np.array([take for _, take in takes])
        corpora = np.where(truth == NO_LABEL, "", self.dev.voices.corpora[places])
        figures = {
            str(corpus): unweighted_average_recall(truth[corpora == corpus], answers[corpora == corpus])
            for corpus in np.unique(corpora[truth != NO_LABEL])
        }
        uar = {"uar": float(np.mean(list(figures.values())))} if figures else {}
        ccc = concordances(self.attributes, attributes, self.dev.attributes[places])
        return figures | uar | ccc | {"select": float(np.mean([*uar.values(), *ccc.values()]))}


def _teacher(config: dict[str, Any], file: Path) -> DE3:
    """A network of the same sizes. Raises ValueError where the file is missing or does not fit."""
    network = DE3(config)
    optional = tuple(part for part in OPTIONAL if "voice" not in part)
    fill(network, read_weights(file), file, optional)
    return network


def concordances(
    names: Sequence[str], answers: Sequence[np.ndarray], targets: np.ndarray
) -> dict[str, float]:
    """`ccc_NAME` of every attribute; answers: one (N, A), or none; 0 where it is not defined."""
    return {
        f"ccc_{name}": float(np.nan_to_num(concordance(each[:, place], targets[:, place])))
        for each in answers
        for place, name in enumerate(names)
    }


def voice_outputs(network: DE3, batch: WindowBatch) -> tuple[Tensor, ...]:
    """What is said of a voice where there is no face: logits (B, W, L) in W ways, of the audio head and of
    voice statistics where the network has them, and attributes (B, A) where it has any."""
    model, device = network.window_model, network.voice_mean.device
    sound, audio_mask, baseline, weight = (
        torch.from_numpy(each).to(device)
        for each in (batch.sound, batch.audio_mask, batch.voice_baseline, batch.voice_weight)
    )
    heard, mask = model.sound_in(sound, audio_mask, baseline, weight)
    pooled = model.pools[AUDIO](model.sound_encoder(heard, mask), mask)
    ways = [model.heads[AUDIO](pooled)]
    if model.voice_statistics is not None:
        ways.append(model.voice_statistics(sound, audio_mask, baseline))
    logits = torch.stack(ways, 1)
    if model.attribute_heads is None:
        return (logits,)
    return logits, torch.tanh(model.attribute_heads[AUDIO](pooled))


def statistics_outputs(network: DE3, batch: WindowBatch) -> tuple[Tensor]:
    """What the voice's statistics alone say: logits (B, 1, L)."""
    statistics, device = network.window_model.voice_statistics, network.voice_mean.device
    assert statistics is not None, "asked only where there are some"
    given = (batch.sound, batch.audio_mask, batch.voice_baseline)
    logits: Tensor = statistics(*(torch.from_numpy(each).to(device) for each in given))
    return (logits[:, None],)


def agreed(logits_BWL: Tensor) -> Tensor:
    """(B, L): logits of what several ways of answering come to, each as much as the others."""
    return torch.log_softmax(logits_BWL, 2).mean(1)
