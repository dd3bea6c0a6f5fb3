"""The window model of DE-III (arXiv 2405.16701): tokens and sound of four seconds become three scores.

Separate Conformer encoders for appearance, motion and sound; pair-wise O-V attention fusion;
inter-modal feature enhancement (IFE) both ways; a further fusion; heads L_V, L_A, L_F. What face and
voice do against their own mean (of the window, and the slow baseline of the track and the stream)
stands beside what they are. An absent modality is a mask: with it the other's IFE adds nothing.

Shapes: B windows, T video ticks, S sound steps (25 Hz), M mel bins (100 Hz), F bands, D width,
V and O token widths, L labels, C continuous attributes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.labels import HEADS
from trainer.model.at_once import StillExpression, VoiceStatistics
from trainer.model.conformer import (
    Conformer,
    FeedForward,
    RotaryAttention,
    absence,
    masked,
    masked_mean,
    silenced,
    tick_times,
)
from trainer.model.extractors import SoundExtractor
from trainer.model.sound_input import (
    MEL_PER_STEP,
    ExtractedSound,
    SoundInput,
    TokenSound,
)

PARTS = ("flow", "pairwise_fusion", "ife", "own_mean")
"""What `without` may name: the parts whose worth `trainer.ablate` measures."""


class VideoInput(nn.Module):
    """Tokens beside their distance from the window's mean and from the baseline, as one sequence.

    own_mean: False for the tokens alone.
    """

    def __init__(self, token: int, width: int, dropout: float, own_mean: bool = True) -> None:
        super().__init__()
        self.token = nn.Linear(token, width)
        self.own_mean = own_mean
        if not own_mean:
            return
        self.from_window = nn.Linear(token, width, bias=False)
        self.from_baseline = nn.Linear(token, width, bias=False)
        self.trust = nn.Linear(1, width, bias=False)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x_BTK: Tensor, mask_BT: Tensor, baseline_BK: Tensor, weight_B: Tensor) -> Tensor:
        x = masked(x_BTK, mask_BT)
        if not self.own_mean:
            alone_BTD: Tensor = self.token(x)
            return alone_BTD
        mean_B1K = masked_mean(x, mask_BT)[:, None]
        from_baseline = (x - baseline_BK[:, None]) * weight_B[:, None, None]
        views = (
            self.token(x),
            self.from_window(x - mean_B1K),
            self.from_baseline(from_baseline) + self.trust(weight_B[:, None])[:, None],
        )
        if not self.training:
            return sum(views[1:], views[0])
        flat_BPK = torch.stack([view.flatten(1) for view in views], 1)
        kept_BPK: Tensor = self.dropout(flat_BPK)  # drops a whole view at a time
        return kept_BPK.sum(1).view_as(views[0])


class PairwiseFusion(nn.Module):
    """Pair-wise O-V attention fusion: appearance asks motion, motion asks appearance, one sequence out."""

    def __init__(self, width: int, heads: int, times: Tensor) -> None:
        super().__init__()
        self.v_norm, self.o_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.v_asks_o = RotaryAttention(width, heads, times, times)
        self.o_asks_v = RotaryAttention(width, heads, times, times)
        self.pair = nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, v_BTD: Tensor, o_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        v_in, o_in = self.v_norm(v_BTD), self.o_norm(o_BTD)
        v = v_BTD + self.v_asks_o(v_in, o_in, mask_BT)[0]
        o = o_BTD + self.o_asks_v(o_in, v_in, mask_BT)[0]
        share = torch.sigmoid(self.pair(torch.cat((v, o, v * o), -1)))
        return silenced(self.norm(share * v + (1 - share) * o), mask_BT)


class Enhancement(nn.Module):
    """IFE: one modality asks the other; nothing is added where the other is absent."""

    def __init__(
        self, width: int, heads: int, own_times: Tensor, other_times: Tensor, dropout: float
    ) -> None:
        super().__init__()
        self.own_norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RotaryAttention(width, heads, own_times, other_times)
        self.feed_forward = FeedForward(width, dropout, factor=2)

    def forward(
        self, own_BTD: Tensor, own_mask_BT: Tensor, other_BSD: Tensor, other_mask_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the enhanced sequence and the weights (B, T, S)."""
        asked, weights = self.attention(self.own_norm(own_BTD), self.other_norm(other_BSD), other_mask_BS)
        asked = asked + self.feed_forward(asked)
        present = own_mask_BT & other_mask_BS.any(1, keepdim=True)
        return own_BTD + silenced(asked, present), weights


class Pooling(nn.Module):
    """Attention-weighted mean, plain mean and deviation over what was seen or heard."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(width, 1)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        x = silenced(x_BTD, mask_BT)
        weight_BT = torch.softmax(self.weigh(x)[..., 0] + absence(mask_BT, x.dtype), 1)
        count_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
        mean_BD = x.sum(1) / count_B1
        spread = silenced((x - mean_BD[:, None]).square(), mask_BT).sum(1) / count_B1
        return torch.cat(((weight_BT[..., None] * x).sum(1), mean_BD, torch.sqrt(spread + 1e-4)), -1)


class WindowModel(nn.Module):
    """`window_model` of the bundle; inputs and outputs carry the names of the graph.

    without: parts (see `PARTS`) that are left out, to see what they are worth. No flow: no motion sequence,
        so nothing to fuse it with. No pair-wise fusion: the two sequences are averaged. No IFE: video and
        sound meet in the joint sequence alone, attention is zero. No own mean: neither the window's mean nor
        the baselines.
    view_dropout: share of windows that lose the token, its distance from the window's mean, or from the
        baseline, so that none of the three is relied on alone; without it, `dropout`.
    trained_heads: those that learn; the fused output is the product of what these say (see `_weights`).
    voice_token: width of a voice token: `sound` is (B, S, voice_token), and so is the voice's baseline.
    extractor: what `sound` goes through, the waveform (B, 160 M) at 16 kHz. Without either it is log-mel
        (B, M, F), and goes through convolutions of `sound_channels`.
    still_expression: what stills taught the frame encoder has a say in the fused output, as much as the
        moving face. voice_statistics: so have statistics of the voice's tokens, up to as much as the sound
        branch: as much as the voice is known (`voice_weight`) that they are measured from.
    attributes: how many continuous attributes every head gives beside its labels; with none the graph has no
        such output.
    """

    def __init__(
        self,
        *,
        labels: int,
        appearance: int,
        motion: int,
        width: int,
        heads: int,
        kernel: int,
        blocks: int,
        sound_blocks: int,
        dropout: float,
        sound_channels: Sequence[int] = (),
        ticks: int = 60,
        tick_s: float = 1 / 15,
        mel_bins: int = 400,
        mel_s: float = 0.01,
        bands: int = 64,
        voice_token: int = 0,
        view_dropout: float | None = None,
        without: Sequence[str] = (),
        trained_heads: Sequence[str] = HEADS,
        still_expression: bool = False,
        voice_statistics: bool = False,
        attributes: int = 0,
        extractor: SoundExtractor | None = None,
    ) -> None:
        super().__init__()
        if unknown := sorted({*without} - {*PARTS} | {*trained_heads} - {*HEADS}):
            raise ValueError(f"The window model has no part or head {unknown[0]!r}.")
        self.without, self.trained_heads = frozenset(without), frozenset(trained_heads)
        own_mean, view_dropout = "own_mean" not in without, dropout if view_dropout is None else view_dropout
        ticks_T = tick_times(ticks, tick_s)
        steps_S = tick_times(mel_bins // MEL_PER_STEP, mel_s * MEL_PER_STEP)
        self.appearance_width = appearance
        self.appearance_in = VideoInput(appearance, width, view_dropout, own_mean)
        self.sound_in = _sound_input(voice_token, sound_channels, extractor, bands, width, dropout, own_mean)
        common = {"width": width, "heads": heads, "kernel": kernel, "dropout": dropout}
        self.appearance_encoder = Conformer(blocks=blocks, times=ticks_T, **common)
        self.sound_encoder = Conformer(blocks=sound_blocks, times=steps_S, **common)
        if "flow" not in without:
            self.motion_in = VideoInput(motion, width, view_dropout, own_mean)
            self.motion_encoder = Conformer(blocks=blocks, times=ticks_T, **common)
            if "pairwise_fusion" not in without:
                self.pairwise_fusion = PairwiseFusion(width, heads, ticks_T)
        if "ife" not in without:
            self.ife_video = Enhancement(width, heads, ticks_T, steps_S, dropout)
            self.ife_audio = Enhancement(width, heads, steps_S, ticks_T, dropout)
        self.sense = nn.Parameter(torch.zeros(2, width))  # tells video from sound in the joint sequence
        joint = torch.cat((ticks_T, steps_S))
        self.fusion = Conformer(blocks=1, times=joint, **common)
        self.pools = nn.ModuleList(Pooling(width) for _ in range(3))
        self.heads = _heads(3 * width, 2 * dropout, labels)
        self.attribute_heads = _heads(3 * width, 2 * dropout, attributes) if attributes else None
        self.still_expression = StillExpression(appearance, labels, own_mean) if still_expression else None
        self.voice_statistics = None
        if voice_statistics:
            self.voice_statistics = VoiceStatistics(voice_token, bands, width, labels, 2 * dropout, own_mean)

    def forward(
        self,
        v: Tensor,
        o: Tensor,
        video_mask: Tensor,
        face_baseline: Tensor,
        face_weight: Tensor,
        sound: Tensor,
        audio_mask: Tensor,
        voice_baseline: Tensor,
        voice_weight: Tensor,
    ) -> tuple[Tensor, ...]:
        """Returns logits (B, 3, L) of video, audio, fused, and the IFE weights (B, T, S), (B, S, T).

        With attributes a fourth: (B, 3, C), -1..1, in the same order. While it learns, a fourth row of logits
        is what voice statistics say, where there are any.
        """
        face_v, face_o = face_baseline.split(
            (self.appearance_width, face_baseline.shape[1] - self.appearance_width), 1
        )
        video = self.appearance_encoder(self.appearance_in(v, video_mask, face_v, face_weight), video_mask)
        if "flow" not in self.without:
            m = self.motion_encoder(self.motion_in(o, video_mask, face_o, face_weight), video_mask)
            fused = "pairwise_fusion" not in self.without
            video = self.pairwise_fusion(video, m, video_mask) if fused else (video + m) / 2
        heard, sound_mask = self.sound_in(sound, audio_mask, voice_baseline, voice_weight)
        at_once = self.voice_statistics and self.voice_statistics(sound, audio_mask, voice_baseline)
        sound = self.sound_encoder(heard, sound_mask)
        video_up, sound_up = video, sound
        if "ife" in self.without:
            attention_video = video.new_zeros(video.shape[0], video.shape[1], sound.shape[1])
            attention_audio = attention_video.transpose(1, 2)
        else:
            video_up, attention_video = self.ife_video(video, video_mask, sound, sound_mask)
            sound_up, attention_audio = self.ife_audio(sound, sound_mask, video, video_mask)
        joint_mask = torch.cat((video_mask, sound_mask), 1)
        joint = torch.cat((video_up + self.sense[0], sound_up + self.sense[1]), 1)
        joint = self.fusion(joint, joint_mask)
        pooled = ((video_up, video_mask), (sound_up, sound_mask), (joint, joint_mask))
        enhanced = [pool(*each) for pool, each in zip(self.pools, pooled, strict=True)]
        logits = _answers(self.heads, enhanced)
        rate = self.attribute_heads
        values = None if rate is None else torch.tanh(_answers(rate, enhanced))
        if not self.training:
            alone = (self.pools[0](video, video_mask), self.pools[1](sound, sound_mask))
            weights = self._weights(video_mask, sound_mask, logits.dtype)
            evidence = F.log_softmax(torch.cat((_answers(self.heads, alone), logits[:, 2:]), 1), 2)
            if self.still_expression is not None:
                evidence = _agreed(evidence, 0, self.still_expression(v, video_mask, face_v, face_weight))
            if at_once is not None:
                evidence = _agreed(evidence, 1, at_once, voice_weight)
            logits = self._fused(logits, evidence, weights)
            if values is not None:
                own = torch.tanh(_answers(rate, alone))
                total = (torch.cat((own, values[:, 2:]), 1) * weights).sum(1, keepdim=True)
                values = torch.cat((values[:, :2], total / weights.sum(1, keepdim=True).clamp(min=0.5)), 1)
        elif at_once is not None:
            logits = torch.cat((logits, at_once[:, None]), 1)
        return (logits, attention_video, attention_audio, *([] if values is None else [values]))

    def _fused(self, logits_B3L: Tensor, evidence_B3L: Tensor, weights_B31: Tensor) -> Tensor:
        """The logits with the product of the evidence (logarithms of probabilities) as fused answer."""
        if len(self.trained_heads) == 1:  # nothing to agree on: that head answers
            return logits_B3L[:, [0, 1, HEADS.index(*self.trained_heads)]]
        return torch.cat((logits_B3L[:, :2], (evidence_B3L * weights_B31).sum(1, keepdim=True)), 1)

    def _weights(self, video_mask: Tensor, sound_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, 3, 1): how much of what the face alone, the voice alone and both together say counts.

        With both senses half of each, so that senses which know nothing of each other add up. Each head
        learns for itself. On real faces this does better than the joint head, which learned on made ones how
        far each sense leads the other, and no worse on made ones. With one sense its own answer is all. A
        sense counts half as much again beside the other where two say what it shows.
        """
        trained = torch.tensor([head in self.trained_heads for head in HEADS], device=video_mask.device).to(
            dtype
        )
        present_B2 = torch.stack((video_mask.any(1), sound_mask.any(1)), 1).to(dtype)
        both_B1 = present_B2[:, :1] * present_B2[:, 1:]
        own_B2 = present_B2 * trained[:2]
        joint_B1 = trained[2] * (1 - (1 - both_B1) * own_B2.amax(1, keepdim=True))
        twice = [part is not None for part in (self.still_expression, self.voice_statistics)]
        own_B2 = own_B2 * (1 + torch.tensor(twice, device=video_mask.device).to(dtype) * both_B1 / 2)
        weights_B3 = torch.cat((own_B2, joint_B1), 1) / (1 + both_B1)
        return weights_B3[..., None]


def _agreed(evidence_B3L: Tensor, row: int, also_BL: Tensor, share_B: Tensor | None = None) -> Tensor:
    """The evidence, one row of it the mean of what stands there and of another answer's, which may count for
    a share of it only."""
    rows = list(evidence_B3L.unbind(1))
    share = 1.0 if share_B is None else share_B[:, None]
    rows[row] = (rows[row] + share * F.log_softmax(also_BL, 1)) / (1 + share)
    return torch.stack(rows, 1)


def _sound_input(
    voice_token: int,
    channels: Sequence[int],
    extractor: SoundExtractor | None,
    bands: int,
    width: int,
    dropout: float,
    own_mean: bool,
) -> nn.Module:
    if voice_token:
        return TokenSound(voice_token, bands, width, dropout, own_mean)
    if extractor is not None:
        return ExtractedSound(extractor, bands, width, dropout, own_mean)
    return SoundInput(bands, width, channels, dropout, own_mean)


def _answers(heads: nn.ModuleList, pooled: Sequence[Tensor]) -> Tensor:
    """(B, as many as pooled, outputs): the first heads, each of what was pooled for it."""
    return torch.stack([head(pool) for head, pool in zip(heads, pooled, strict=False)], 1)


def _heads(inputs: int, dropout: float, outputs: int) -> nn.ModuleList:
    """L_V, L_A and L_F."""
    return nn.ModuleList(
        nn.Sequential(nn.LayerNorm(inputs), nn.Dropout(dropout), nn.Linear(inputs, outputs)) for _ in HEADS
    )
