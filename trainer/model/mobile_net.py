"""MobileNet (Howard et al. 2017, width 1) as the appearance half of the frame encoder.

As small as an encoder of our own, but networks of this shape have been trained on millions of faces, so it
need not begin with nothing (`trainer.face_start`). It knows nothing of time, motion or labels.

Shapes: B frames, H x W pixels, C channels, D numbers of a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
"""Channels and stride of every block."""
CONTRAST = 50.0  # deviation of grey levels within a face, as networks of faces were trained


class Layer(nn.Module):
    """A convolution with its norm. With stride 2 it begins at the first pixel, as TensorFlow does.

    While it trains, stride 2 is stride 1 of which every second pixel is taken: the same numbers, but
    PyTorch's gradient of the other takes ten times as long on a processor.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.stride == 1:
            x = self.conv(x_BCHW)
        elif self.training:
            x = self.conv(x_BCHW)[..., 1::2, 1::2].contiguous(memory_format=torch.channels_last)
        else:
            conv = self.conv
            x = F.conv2d(F.pad(x_BCHW, (0, 1, 0, 1)), conv.weight, None, self.stride, groups=conv.groups)
        return F.relu6(self.norm(x))


class MobileAppearance(nn.Module):
    """A grey crop to an appearance token `v`.

    Each crop is brought to its own mean and deviation first, so that exposure and contrast of the
    camera do not count. blocks: how many of the published ones, from the first.
    """

    def __init__(self, blocks: int, token: int, dropout: float) -> None:
        super().__init__()
        layers, width = [Layer(1, STEM, 3, 2)], STEM
        for channels, stride in BLOCKS[:blocks]:
            layers += [Layer(width, width, 3, stride, width), Layer(width, channels, 1, 1)]
            width = channels
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.token = nn.Linear(width, token)
        self.token_norm = nn.BatchNorm1d(token, affine=False)

    def forward(self, crop_B1HW: Tensor) -> Tensor:
        v_BD: Tensor = self.token_norm(self.token(self.dropout(self.seen(crop_B1HW))))
        return v_BD

    def seen(self, crop_B1HW: Tensor) -> Tensor:
        """(B, C): what is seen of a face, before it becomes a token."""
        mean = crop_B1HW.mean((2, 3), keepdim=True)
        deviation = (crop_B1HW - mean).square().mean((2, 3), keepdim=True).sqrt()
        x: Tensor = self.features(CONTRAST * (crop_B1HW - mean) / (deviation + 8.0))
        return x.mean((2, 3))
