"""The two small networks of the face finder: one scans a picture, one looks closely at a face.

Knows nothing of data, training or files. Shape suffixes: B batch, C channels, H and W pixels or cells.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.signals.face_networks import CROP

CHANNELS = 15
"""Of a cell: logit, middle x and y, log of width and height, five points x and y."""


class Conv(nn.Sequential):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inner: int, outer: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU()
        )


class Block(nn.Module):
    """Two convolutions beside a path that passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Finder(nn.Module):
    """Grey picture to three levels of cells.

    Takes (B, 1, H, W) float32, 0..255, H and W multiples of 32. Gives for each of `STRIDES` a
    (B, 15, H / stride, W / stride), see `CHANNELS`; middles and points from the cell's middle, in `SCALES`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), Conv(16, 32))
        self.eight = nn.Sequential(Conv(32, 48, 3, 2), Block(48))
        self.sixteen = nn.Sequential(Conv(48, 64, 3, 2), Block(64), Block(64))
        self.thirty_two = nn.Sequential(Conv(64, 64, 3, 2), Block(64))
        self.down_thirty_two = nn.Conv2d(64, 64, 1)
        self.down_sixteen = nn.Conv2d(64, 48, 1)
        widths = (48, 64, 64)
        self.heads = nn.ModuleList(
            nn.Sequential(Conv(width, width), nn.Conv2d(width, CHANNELS, 1)) for width in widths
        )
        for head in self.heads:
            nn.init.normal_(head[1].weight, std=0.01)
            nn.init.zeros_(head[1].bias)
            nn.init.constant_(head[1].bias[:1], -4.0)

    def forward(self, picture_B1HW: Tensor) -> tuple[Tensor, ...]:
        x = self.stem((picture_B1HW - 128) / 64)
        eight = self.eight(x)
        sixteen = self.sixteen(eight)
        thirty_two = self.thirty_two(sixteen)
        sixteen = F.relu(sixteen + F.interpolate(self.down_thirty_two(thirty_two), scale_factor=2.0))
        eight = F.relu(eight + F.interpolate(self.down_sixteen(sixteen), scale_factor=2.0))
        return tuple(head(x) for head, x in zip(self.heads, (eight, sixteen, thirty_two), strict=True))


class Aligner(nn.Module):
    """A grey crop to the face in it.

    Takes (B, 1, 80, 80) float32, 0..255. Gives (B, 15): logit of a face, then in pixels of the crop the box's
    middle x and y, its width and height, and the five points' x and y.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            Conv(16, 32),
            Conv(32, 40, 3, 2),
            Block(40),
            Conv(40, 64, 3, 2),
            Block(64),
            Conv(64, 24, 1),
            nn.Flatten(),
        )
        self.place = nn.Sequential(nn.Linear(24 * 25, 64), nn.ReLU(), nn.Linear(64, CHANNELS - 1))
        self.face = nn.Sequential(nn.Linear(24 * 25, 32), nn.ReLU(), nn.Linear(32, 1))
        nn.init.zeros_(self.place[2].weight)
        nn.init.zeros_(self.place[2].bias)

    def forward(self, crop_B1HW: Tensor) -> Tensor:
        mean = crop_B1HW.mean((2, 3), keepdim=True)
        spread = ((crop_B1HW - mean) ** 2).mean((2, 3), keepdim=True).sqrt()
        x = self.body((crop_B1HW - mean) / (spread + 8))
        return torch.cat((self.face(x), CROP / 2 + CROP / 4 * self.place(x)), 1)


def load_network(name: str, weights: Path) -> nn.Module:
    """The finder or the aligner with trained weights, ready to answer."""
    network: nn.Module = Finder() if name == "finder" else Aligner()
    fresh = network.state_dict()
    network.load_state_dict({key: value.to(fresh[key].dtype) for key, value in load_file(weights).items()})
    return network.eval()
