"""Conformer blocks that honour masks (Gulati et al. 2020), with rotary positions (Su et al. 2021).

What stands behind a mask never reaches an output: it is put to zero at the entrance, excluded from
attention, and zero again before every convolution. Knows nothing of faces or sound.

Shapes: B windows, T steps, D width, H attention heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4  # in softmax as good as minus infinity, and finite when a whole row is masked


def masked(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Zero where the mask is false, whatever stood there (NaN too)."""
    return torch.where(mask_BT[..., None], x_BTD, torch.zeros((), dtype=x_BTD.dtype, device=x_BTD.device))


def silenced(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """`masked` for what is finite everywhere: a product, which ONNX Runtime computes far faster."""
    return x_BTD * mask_BT[..., None].to(x_BTD.dtype)


def absence(mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T): what is added before a softmax; 0 where the mask lets through, else MASKED."""
    return (1 - mask_BT.to(dtype)) * MASKED


def masked_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, D): mean over the steps that the mask lets through, zero where there are none."""
    total = masked(x_BTD, mask_BT).sum(1)
    return total / mask_BT.sum(1, keepdim=True).clamp(min=1)


def tick_times(steps: int, step_s: float) -> Tensor:
    """(T,) seconds: the centres of the ticks of a window."""
    return (torch.arange(steps) + 0.5) * step_s


class RotaryAttention(nn.Module):
    """Multi-head attention whose queries and keys are turned by their time.

    query_times, key_times: seconds of every step, so that sequences of different rates (video 15 Hz,
    sound 25 Hz) share one clock.
    """

    def __init__(self, width: int, heads: int, query_times: Tensor, key_times: Tensor) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        turns_d = torch.logspace(1.2, -0.8, self.head_width // 2)  # radians a second: 16 to 0.16
        for name, times_T in (("query", query_times), ("key", key_times)):
            angle_Td = times_T[:, None] * turns_d
            self.register_buffer(f"{name}_cos", torch.cos(angle_Td), persistent=False)
            self.register_buffer(f"{name}_sin", torch.sin(angle_Td), persistent=False)

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(x_BTD.shape[0], x_BTD.shape[1], self.heads, self.head_width).transpose(1, 2)

    def forward(self, query_BTD: Tensor, memory_BSD: Tensor, memory_mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the attended (B, T, D) and the weights, mean over heads, (B, T, S)."""
        key_BSD, value_BSD = self.key_value(memory_BSD).chunk(2, dim=-1)
        q = _turned(self._split(self.query(query_BTD)), self.query_cos, self.query_sin)
        k = _turned(self._split(key_BSD), self.key_cos, self.key_sin)
        scores = q @ k.transpose(2, 3) * self.head_width**-0.5
        weights = torch.softmax(scores + absence(memory_mask_BS, scores.dtype)[:, None, None], -1)
        attended = (weights @ self._split(value_BSD)).transpose(1, 2).flatten(2)
        return self.out(attended), weights.mean(1)


def _turned(x_BHTd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    first, second = x_BHTd.chunk(2, dim=-1)
    return torch.cat((first * cos_Td - second * sin_Td, first * sin_Td + second * cos_Td), -1)


class ChannelDropout(nn.Module):
    """Drops channels for a whole window: (B, T, D). On a CPU far cheaper than a draw for every step."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x_BTD
        kept_B1D = torch.rand(x_BTD.shape[0], 1, x_BTD.shape[2], device=x_BTD.device) >= self.share
        return x_BTD * (kept_B1D.to(x_BTD.dtype) / (1 - self.share))


class FeedForward(nn.Sequential):
    """Half-step feed-forward of a Conformer block."""

    def __init__(self, width: int, dropout: float, factor: int = 3) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, factor * width),
            nn.SiLU(),
            ChannelDropout(dropout),
            nn.Linear(factor * width, width),
            ChannelDropout(dropout),
        )


class Convolution(nn.Module):
    """Gated depthwise convolution over time; masked steps count as zero."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depth_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = ChannelDropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        y = silenced(F.glu(self.gate(self.norm(x_BTD)), -1), mask_BT)
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.out(F.silu(self.depth_norm(y))))


class ConformerBlock(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, each with a residual."""

    def __init__(self, width: int, heads: int, kernel: int, times: Tensor, dropout: float) -> None:
        super().__init__()
        self.first = FeedForward(width, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RotaryAttention(width, heads, times, times)
        self.convolution = Convolution(width, kernel, dropout)
        self.second = FeedForward(width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        x = x_BTD + 0.5 * self.first(x_BTD)
        y = self.attention_norm(x)
        x = x + self.attention(y, y, mask_BT)[0]
        x = x + self.convolution(x, mask_BT)
        x = x + 0.5 * self.second(x)
        return silenced(self.norm(x), mask_BT)


class Conformer(nn.Module):
    """A stack of blocks: (B, T, D) and its mask to (B, T, D), masked steps zero."""

    def __init__(
        self, *, blocks: int, width: int, heads: int, kernel: int, times: Tensor, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConformerBlock(width, heads, kernel, times, dropout) for _ in range(blocks)
        )

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        x = masked(x_BTD, mask_BT)
        for block in self.blocks:
            x = block(x, mask_BT)
        return x
