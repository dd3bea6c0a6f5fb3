"""The networks that others put in front of emotion models, in plain PyTorch with random weights.

EfficientNet (Tan and Le, 2019), up to its pooled features, and wav2vec 2.0 (Baevski and others, 2020), up to
its hidden states. What a network costs does not depend on its weights, so nothing has to be fetched; shapes
are those of the published models, layer by layer (the tests compare the numbers of parameters). It knows
nothing of measuring.

Shapes: B batch, C channels, T steps, D width, N samples.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)
from torch import Tensor, nn

STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2,
    5), (6, 320, 1, 1, 3),
)  # fmt: skip
"""Of B0: widening, channels, blocks, stride, kernel."""
STEM, HEAD = 32, 1280
SOUND_STEM = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution over samples."""
SOUND_CHANNELS = 512
POSITIONS, POSITION_GROUPS = 128, 16


class _Normed(nn.Sequential):
    """Convolution, batch norm and, but for the last of a block, SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU() if act else nn.Identity(),
        )


class _Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        gate = F.silu(self.reduce(x_bchw.mean((2, 3), keepdim=True)))
        return x_bchw * torch.sigmoid(self.expand(gate))


class _Inverted(nn.Module):
    """An inverted bottleneck with a gate, and a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, widening: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * widening
        layers: list[nn.Module] = [_Normed(inputs, middle, 1)] if widening > 1 else []
        layers.append(_Normed(middle, middle, kernel, stride, groups=middle))
        layers += [_Gate(middle, max(1, inputs // 4)), _Normed(middle, outputs, 1, act=False)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x_bchw: Tensor) -> Tensor:
        y: Tensor = self.layers(x_bchw)
        return x_bchw + y if self.shortcut else y


class EfficientNet(nn.Module):
    """(B, 3, H, W) to (B, D). width, depth: 1 and 1 are B0, 1.1 and 1.2 B2."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        channels = _rounded(STEM * width)
        layers: list[nn.Module] = [_Normed(3, channels, 3, 2)]
        for widening, outputs, blocks, stride, kernel in STAGES:
            for number in range(math.ceil(blocks * depth)):
                wide = _rounded(outputs * width)
                layers.append(_Inverted(channels, wide, widening, kernel, stride if number == 0 else 1))
                channels = wide
        self.layers = nn.Sequential(*layers, _Normed(channels, _rounded(HEAD * width), 1))

    def forward(self, x_bchw: Tensor) -> Tensor:
        features: Tensor = self.layers(x_bchw).mean((2, 3))
        return features


def _rounded(channels: float) -> int:
    """The nearest multiple of eight that takes away no more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class _SoundStem(nn.Module):
    """Samples to steps of 20 ms. layered: layer norm and bias in each convolution, else a group norm in the
    first alone."""

    def __init__(self, layered: bool) -> None:
        super().__init__()
        channels = (1, *(SOUND_CHANNELS for _ in SOUND_STEM))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel, stride, bias=layered)
            for (inputs, outputs), (kernel, stride) in zip(pairwise(channels), SOUND_STEM, strict=True)
        )
        count = len(SOUND_STEM) if layered else 0
        self.norms = nn.ModuleList(nn.LayerNorm(SOUND_CHANNELS) for _ in range(count))
        self.first_norm = None if layered else nn.GroupNorm(SOUND_CHANNELS, SOUND_CHANNELS)

    def forward(self, samples_bn: Tensor) -> Tensor:
        x_bct = samples_bn[:, None]
        for number, convolution in enumerate(self.convolutions):
            x_bct = convolution(x_bct)
            if self.first_norm is None:
                x_bct = self.norms[number](x_bct.transpose(1, 2)).transpose(1, 2)
            elif number == 0:
                x_bct = self.first_norm(x_bct)
            x_bct = F.gelu(x_bct)
        return x_bct.transpose(1, 2)


class _Layer(nn.Module):
    """A transformer layer. before: its norms come before attention and feed-forward, else after."""

    def __init__(self, width: int, heads: int, hidden: int, before: bool) -> None:
        super().__init__()
        self.heads, self.before = heads, before
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wider, self.narrower = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_btd: Tensor) -> Tensor:
        if self.before:
            x_btd = x_btd + self._attended(self.attention_norm(x_btd))
            return x_btd + self._fed(self.norm(x_btd))
        x_btd = self.attention_norm(x_btd + self._attended(x_btd))
        found: Tensor = self.norm(x_btd + self._fed(x_btd))
        return found

    def _attended(self, x_btd: Tensor) -> Tensor:
        batch, steps, width = x_btd.shape
        q, k, v = (
            each(x_btd).view(batch, steps, self.heads, width // self.heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(q, k, v)
        attended: Tensor = self.out(found.transpose(1, 2).reshape(batch, steps, width))
        return attended

    def _fed(self, x_btd: Tensor) -> Tensor:
        fed: Tensor = self.narrower(F.gelu(self.wider(x_btd)))
        return fed


class Wav2Vec2(nn.Module):
    """(B, N) samples at 16 kHz to (B, T, D), 50 steps a second.

    large: the first `layers` layers of the large models that were pre-trained with layer norms throughout
    (large-robust is one), else of the base model.
    """

    def __init__(self, *, large: bool = False, layers: int = 12) -> None:
        super().__init__()
        width, heads, hidden = (1024, 16, 4096) if large else (768, 12, 3072)
        self.stem = _SoundStem(layered=large)
        self.stem_norm = nn.LayerNorm(SOUND_CHANNELS)
        self.widen = nn.Linear(SOUND_CHANNELS, width)
        self.positions = nn.Conv1d(width, width, POSITIONS, padding=POSITIONS // 2, groups=POSITION_GROUPS)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, before=large) for _ in range(layers))
        self.large = large

    def forward(self, samples_bn: Tensor) -> Tensor:
        x_btd = self.widen(self.stem_norm(self.stem(samples_bn)))
        x_btd = x_btd + F.gelu(self.positions(x_btd.transpose(1, 2))[..., :-1]).transpose(1, 2)
        if not self.large:
            x_btd = self.norm(x_btd)
        for layer in self.layers:
            x_btd = layer(x_btd)
        return self.norm(x_btd) if self.large else x_btd
