"""What a face and a voice say at once, without the order of time: by stills, and by statistics of the voice.

Each is one more answer beside that of the Conformers, learned apart from them, so that the two err apart. It
knows nothing of the other sense. Data leaves as logits.

Shapes: B windows, T video ticks, V width of an appearance token, S sound steps (25 Hz), M mel bins (100 Hz),
K width of a voice token, D width, L labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.signals.voice import LOG_MEL
from trainer.model.conformer import absence, masked_mean
from trainer.model.sound_input import MEL_PER_STEP, own_tokens, split_tokens

HIDDEN = 64
QUIET = 4.5
"""Natural log of power below the window's loudest step at which a step counts half."""


class StillExpression(nn.Module):
    """What the stills' expression says of the window's mean face, measured from what this face is like.

    Nothing here learns: `trainer.model.de3.DE3.take_expression` copies it from the frame encoder. common:
    the mean token of training, from which a face of unknown rest is not moved.
    """

    common: Tensor

    def __init__(self, token: int, labels: int, own_mean: bool = True) -> None:
        super().__init__()
        self.own_mean = own_mean
        self.answer = nn.Linear(token, labels).requires_grad_(False)
        self.register_buffer("common", torch.zeros(token))

    def forward(self, v_BTV: Tensor, mask_BT: Tensor, baseline_BV: Tensor, weight_B: Tensor) -> Tensor:
        """Logits (B, L)."""
        mean_BV = masked_mean(v_BTV, mask_BT)
        if self.own_mean:
            mean_BV = mean_BV - weight_B[:, None] * (baseline_BV - self.common)
        logits: Tensor = self.answer(mean_BV)
        return logits


class VoiceStatistics(nn.Module):
    """What mean and deviation of a voice's tokens say, measured from what this voice is like.

    Loud steps count, quiet ones hardly. Such statistics know little of single speakers and languages, which a
    Conformer learns by heart. own_mean: False for the tokens themselves. Raises ValueError where there are no
    tokens (of width 0).
    """

    def __init__(
        self, token: int, bands: int, width: int, labels: int, dropout: float, own_mean: bool = True
    ) -> None:
        super().__init__()
        if not token:
            raise ValueError("voice_statistics are of voice tokens: the window model needs voice_token.")
        self.said, self.own_mean = token - MEL_PER_STEP * bands, own_mean
        self.project = nn.Linear(token, width, bias=False)
        self.norm = nn.BatchNorm1d(2 * width)
        self.hidden = nn.Linear(2 * width, HIDDEN)
        self.answer = nn.Linear(HIDDEN, labels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BSK: Tensor, mask_BM: Tensor, baseline_BK: Tensor) -> Tensor:
        """Logits (B, L)."""
        said_BSN, bins_BSN, mask_BS = split_tokens(tokens_BSK, mask_BM, self.said)
        weight_BS = loudness(bins_BSN, mask_BM) * mask_BS.to(tokens_BSK.dtype)
        if self.own_mean:
            said_BSN, bins_BSN = own_tokens(said_BSN, bins_BSN, mask_BM, baseline_BK)
        of_said, of_bins = self.project.weight.split((self.said, bins_BSN.shape[2]), 1)
        x_BSD = F.linear(said_BSN, of_said) + F.linear(bins_BSN, of_bins)
        total_B1 = weight_BS.sum(1, keepdim=True).clamp(min=1)
        mean_BD = (weight_BS[..., None] * x_BSD).sum(1) / total_B1
        spread_BD = (weight_BS[..., None] * (x_BSD - mean_BD[:, None]).square()).sum(1) / total_B1
        both_BN = self._normed(torch.cat((mean_BD, torch.sqrt(spread_BD + 1e-4)), 1))
        hidden_BN = F.silu(self.hidden(self.dropout(both_BN)))
        logits: Tensor = self.answer(self.dropout(hidden_BN))
        return logits

    def _normed(self, x_BN: Tensor) -> Tensor:
        """`norm`; to infer as one product and one sum, since a graph's own operator for it wants pictures."""
        norm = self.norm
        if self.training:
            return norm(x_BN)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_N = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return x_BN * scale_N + (norm.bias - norm.running_mean * scale_N)


def loudness(mel_BSN: Tensor, mask_BM: Tensor) -> Tensor:
    """(B, S): how much a step counts, 0..1, by its log-mel against the loudest step's. mel_BSN: of a step's
    bins, one after another, zero where nothing was heard, as voice tokens hold it."""
    heard_BSP = mask_BM.unflatten(1, (-1, MEL_PER_STEP)).to(mel_BSN.dtype)
    bins_BSP = mel_BSN.unflatten(2, (MEL_PER_STEP, -1)).mean(3)
    level_BS = bins_BSP.sum(2) / heard_BSP.sum(2).clamp(min=1) + absence(heard_BSP.amax(2), mel_BSN.dtype)
    below_BS = (level_BS - level_BS.amax(1, keepdim=True)) * LOG_MEL
    return torch.sigmoid(below_BS + QUIET)
