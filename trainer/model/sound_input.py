"""What the window model makes of sound, at 25 Hz: voice tokens, log-mel, or an extractor's features.

It knows nothing of faces and heads. Data leaves as a sequence and its mask.

Shapes: B windows, N samples (16 kHz), M mel bins (100 Hz), S sound steps (25 Hz), F bands, W width of the
extractor, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.conformer import ChannelDropout, absence, masked, masked_mean, silenced
from trainer.model.extractors import SoundExtractor

MEL_PER_STEP = 4


class SoundInput(nn.Module):
    """Log-mel, free of the microphone's gain and beside its distance from the voice's baseline, to 25 Hz.

    own_mean: False for the log-mel alone; the gain, one number a window, is taken out all the same.
    """

    def __init__(
        self, bands: int, width: int, channels: Sequence[int], dropout: float, own_mean: bool = True
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.own_mean = own_mean
        self.first = nn.Conv2d(2 if own_mean else 1, first, 3, (2, 2), 1, bias=False)
        self.second = nn.Conv2d(first, second, 3, (2, 2), 1, bias=False)
        self.third = nn.Conv2d(second, third, 3, (1, 2), 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)  # keeps loudness, unlike a layer norm
        self.out = nn.Linear(third * (bands // 8), width)
        if own_mean:
            self.trust = nn.Linear(1, width, bias=False)
        self.dropout = ChannelDropout(dropout)

    def forward(
        self, mel_BMF: Tensor, mask_BM: Tensor, baseline_BF: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (B, S, D) and its mask (B, S)."""
        mel = masked(mel_BMF, mask_BM)
        energy_BM = mel.mean(2) + absence(mask_BM, mel.dtype)
        level_B = torch.logsumexp(energy_BM, 1) - torch.log(mask_BM.sum(1).clamp(min=1).to(mel.dtype))
        own = (mel - level_B[:, None, None]) / 3
        views = [silenced(own, mask_BM)]
        if self.own_mean:
            views.append(silenced((mel - baseline_BF[:, None]) / 3 * weight_B[:, None, None], mask_BM))
        x_BCMF = torch.stack(views, 1)
        mask = mask_BM
        for convolution, norm, stride in zip(
            (self.first, self.second, self.third), self.norms, (2, 2, 1), strict=True
        ):
            if stride == 2:
                mask = mask[:, ::2] | mask[:, 1::2]
            x_BCMF = F.silu(norm(convolution(x_BCMF)))
            heard_B1MF = mask[:, None, :, None].to(x_BCMF.dtype).expand(-1, -1, -1, x_BCMF.shape[3])
            x_BCMF = x_BCMF * heard_B1MF  # spread over the bands first: rows of a few numbers are slow
        x_BSD = self.out(x_BCMF.permute(0, 2, 1, 3).flatten(2))
        if self.own_mean:
            x_BSD = x_BSD + self.trust(weight_B[:, None])[:, None]
        return self.dropout(x_BSD), mask


class ExtractedSound(nn.Module):
    """Features of a frozen extractor beside their distance from the window's mean, at 25 Hz.

    The slow baseline is of the log-mel, which the features cannot be held against: what it says of this voice
    and microphone, free of gain, is added to every step as it is.
    own_mean: False for the features alone.
    """

    def __init__(
        self, extractor: SoundExtractor, bands: int, width: int, dropout: float, own_mean: bool = True
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.own_mean = own_mean
        self.feature = nn.Linear(extractor.width, width)
        if own_mean:
            self.from_window = nn.Linear(extractor.width, width, bias=False)
            self.colour = nn.Linear(bands, width, bias=False)
            self.trust = nn.Linear(1, width, bias=False)
        self.dropout = ChannelDropout(dropout)

    def forward(
        self, waveform_BN: Tensor, mask_BM: Tensor, baseline_BF: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (B, S, D) and its mask (B, S)."""
        x_BSW, mask_BS = self.extractor(waveform_BN, mask_BM)
        x_BSD = self.feature(x_BSW)
        if self.own_mean:
            colour_BF = (baseline_BF - baseline_BF.mean(1, keepdim=True)) / 3 * weight_B[:, None]
            voice_BD = self.colour(colour_BF) + self.trust(weight_B[:, None])
            x_BSD = x_BSD + self.from_window(x_BSW - masked_mean(x_BSW, mask_BS)[:, None]) + voice_BD[:, None]
        return self.dropout(masked(x_BSD, mask_BS)), mask_BS


class TokenSound(nn.Module):
    """Voice tokens (`engine.signals.voice`) less the slow baseline, which is of tokens too.

    What a voice is apart from that is kept out: with the tokens themselves a network learns its few speakers
    and languages by heart. own_mean: False for the tokens alone.
    """

    def __init__(self, token: int, bands: int, width: int, dropout: float, own_mean: bool = True) -> None:
        super().__init__()
        self.said = token - MEL_PER_STEP * bands
        self.token = nn.Linear(token, width)
        self.own_mean = own_mean
        self.dropout = ChannelDropout(dropout)

    def forward(
        self, tokens_BSK: Tensor, mask_BM: Tensor, baseline_BK: Tensor, weight_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (B, S, D) and its mask (B, S): steps of which any bin was heard."""
        said_BSN, bins_BSN, mask_BS = split_tokens(tokens_BSK, mask_BM, self.said)
        if self.own_mean:
            said_BSN, bins_BSN = own_tokens(said_BSN, bins_BSN, mask_BM, baseline_BK)
        of_said, of_bins = self.token.weight.split((self.said, bins_BSN.shape[2]), 1)
        x_BSD = F.linear(said_BSN, of_said, self.token.bias) + F.linear(bins_BSN, of_bins)
        return self.dropout(masked(x_BSD, mask_BS)), mask_BS


def split_tokens(tokens_BSK: Tensor, mask_BM: Tensor, said: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the voice encoder says of each step (`said` numbers), its bins' log-mel one after another, both
    zero where nothing was heard, and (B, S) bool, the steps of which any bin was."""
    mask_BS = mask_BM.unflatten(1, (-1, MEL_PER_STEP)).any(2)
    x_BSK = masked(tokens_BSK, mask_BS)
    return x_BSK[..., :said], _heard_bins(x_BSK[..., said:], mask_BM), mask_BS


def own_tokens(
    said_BSN: Tensor, bins_BSN: Tensor, mask_BM: Tensor, baseline_BK: Tensor
) -> tuple[Tensor, Tensor]:
    """Both less the voice's slow mean; bins that were not heard stay zero."""
    of_said, of_bins = baseline_BK[:, None].split((said_BSN.shape[2], bins_BSN.shape[2]), 2)
    return said_BSN - of_said, _heard_bins(bins_BSN - of_bins, mask_BM)


def _heard_bins(bins_BSN: Tensor, mask_BM: Tensor) -> Tensor:
    heard_BSP = mask_BM.unflatten(1, (-1, MEL_PER_STEP))
    bins_BSPF = bins_BSN.unflatten(2, (MEL_PER_STEP, -1))
    return (bins_BSPF * heard_BSP[..., None].to(bins_BSN.dtype)).flatten(2)
