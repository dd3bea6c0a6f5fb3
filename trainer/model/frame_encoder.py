"""The frame encoder: one aligned face and its motion become two tokens and an expression.

Runs once a frame, ever. It knows nothing of time, sound or windows; those are the window model's.

Shapes: B frames, H x W pixels, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.model.extractors import FrameExtractor


class SqueezeExcite(nn.Module):
    """Channel gates from the picture's mean (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 8, 1)
        self.expand = nn.Conv2d(channels // 8, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(x_BCHW.mean((2, 3), keepdim=True)))
        return x_BCHW * torch.sigmoid(self.expand(gate))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a gate and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.gate = SqueezeExcite(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x_BCHW)))
        y = self.gate(self.second_norm(self.second(y)))
        return torch.relu(y + self.shortcut(x_BCHW))


class AppearanceEncoder(nn.Module):
    """A grey crop to an appearance token `v`.

    Each crop is brought to its own mean and deviation first, so that exposure and contrast of the
    camera do not count.
    """

    def __init__(self, channels: Sequence[int], token: int, dropout: float) -> None:
        super().__init__()
        stem, *stages = channels
        layers: list[nn.Module] = [
            nn.Conv2d(1, stem, 5, 2, 2, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
        ]
        width = stem
        for stage in stages:
            layers += [Residual(width, stage, 2), Residual(stage, stage, 1)]
            width = stage
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.token = nn.Linear(width, token)
        self.token_norm = nn.BatchNorm1d(token, affine=False)

    def forward(self, crop_B1HW: Tensor) -> Tensor:
        mean = crop_B1HW.mean((2, 3), keepdim=True)
        deviation = (crop_B1HW - mean).square().mean((2, 3), keepdim=True).sqrt()
        x = self.features((crop_B1HW - mean) / (deviation + 8.0))
        v_BD: Tensor = self.token_norm(self.token(self.dropout(x.mean((2, 3)))))
        return v_BD


class MotionEncoder(nn.Module):
    """Flow of the face (pixels per second at crop scale) to a motion token `o`.

    The place of a motion on the face matters, so the last map is flattened, not averaged.
    """

    def __init__(self, channels: tuple[int, ...], token: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 2
        for stage in channels:
            layers += [nn.Conv2d(width, stage, 3, 2, 1, bias=False), nn.BatchNorm2d(stage), nn.ReLU()]
            width = stage
        layers += [nn.Conv2d(width, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        for _ in channels:
            size = (size + 1) // 2
        self.token = nn.Linear(16 * size * size, token)
        self.token_norm = nn.BatchNorm1d(token, affine=False)

    def forward(self, flow_B2HW: Tensor) -> Tensor:
        # Signed square root: speech moves lips ten times faster than a frown moves brows.
        compressed = flow_B2HW / torch.sqrt(flow_B2HW.abs() + 4.0)
        o_BD: Tensor = self.token_norm(self.token(self.features(compressed).flatten(1)))
        return o_BD


class FrameEncoder(nn.Module):
    """`frame_encoder` of the bundle: `(crop, flow) -> (v, o, expression)`.

    crop: (B, 1, 112, 112) float32, grey, 0..255.
    flow: (B, 2, 56, 56) float32, pixels per second at crop scale.
    v: (B, appearance) float32; o: (B, motion) float32; tokens of about unit deviation.
    expression: (B, labels) float32, logits of what the face alone shows in this frame.

    extractor: gives `v` in place of an appearance encoder of our own, as wide as it is; then there are no
        `appearance_channels`. Raises ValueError where `appearance` is another width.
    """

    def __init__(
        self,
        *,
        labels: int,
        appearance: int,
        motion: int,
        flow_size: int,
        motion_channels: tuple[int, ...],
        dropout: float,
        appearance_channels: Sequence[int] = (),
        extractor: FrameExtractor | None = None,
    ) -> None:
        super().__init__()
        if extractor is not None and appearance != extractor.width:
            raise ValueError(
                f"{extractor.origin} gives {extractor.width} numbers a frame, and appearance is {appearance}."
            )
        self.appearance: nn.Module = extractor or AppearanceEncoder(appearance_channels, appearance, dropout)
        self.motion = MotionEncoder(motion_channels, motion, flow_size)
        self.expression = nn.Linear(appearance, labels)

    def forward(self, crop_B1HW: Tensor, flow_B2HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v_BD = self.appearance(crop_B1HW)
        return v_BD, self.motion(flow_B2HW), self.expression(v_BD)
