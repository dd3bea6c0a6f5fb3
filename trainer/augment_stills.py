"""What a camera may do to a still: batched, on tensors, so that two cores keep a network fed.

Knows nothing of labels or files. A batch goes in, a changed batch comes out.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Uniform = Callable[..., Tensor]  # low, high, *shape -> tensor


def augment(crops_B1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, turn, scale, squeeze, light, resolution, blur, noise and patches.

    crops: (B, 1, H, W) float32, 0..255; the result has the same shape and range.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    batch, _, size, _ = crops_B1HW.shape
    x = _moved(crops_B1HW, uniform)
    resolution = int(uniform(28, size, 1))
    half = batch // 2  # half of the batch loses resolution: far faces and cheap cameras
    small = F.interpolate(x[:half], size=(resolution, resolution), mode="area")
    x = torch.cat((F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False), x[half:]))
    if float(uniform(0, 1, 1)) < 0.3:
        x = torch.cat((x[:half], F.avg_pool2d(x[half:], 3, 1, 1, count_include_pad=False)))
    gamma = torch.exp(uniform(-0.5, 0.5, batch, 1, 1, 1))
    x = 255 * (x.clamp(0, 255) / 255).pow(gamma)
    ramp = torch.linspace(-1, 1, size)
    angle = uniform(0, 2 * math.pi, batch, 1, 1, 1)
    slope = uniform(0, 0.45, batch, 1, 1, 1)
    ramp_BHW = torch.cos(angle) * ramp.view(1, 1, 1, -1) + torch.sin(angle) * ramp.view(1, 1, -1, 1)
    x = x * (1 + slope * ramp_BHW)
    noise = uniform(0, 10, batch, 1, 1, 1) * (uniform(0, 1, batch, 1, 1, 1) < 0.5)
    x = x + noise * torch.randn(x.shape, generator=generator)
    return _patched(x, uniform).clamp(0, 255)


def _moved(x_B1HW: Tensor, uniform: Uniform) -> Tensor:
    batch = len(x_B1HW)
    angle = uniform(-0.25, 0.25, batch)
    scale = torch.exp(uniform(-0.15, 0.15, batch))
    squeeze = torch.exp(uniform(-0.12, 0.12, batch))
    flip = torch.where(uniform(0, 1, batch) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        (
            torch.stack((cos * flip * squeeze, -sin, uniform(-0.1, 0.1, batch)), 1),
            torch.stack((sin * flip, cos / squeeze, uniform(-0.1, 0.1, batch)), 1),
        ),
        1,
    )
    grid = F.affine_grid(theta, list(x_B1HW.shape), align_corners=False)
    return F.grid_sample(x_B1HW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _patched(x_B1HW: Tensor, uniform: Uniform) -> Tensor:
    """A flat patch over part of a third of the faces: hands, hair, microphones, edges."""
    batch, _, size, _ = x_B1HW.shape
    place = torch.arange(size).float()
    centre_y, centre_x = uniform(0, size, batch, 1), uniform(0, size, batch, 1)
    half_y, half_x = uniform(6, 28, batch, 1), uniform(6, 28, batch, 1)
    rows = (place - centre_y).abs() < half_y
    columns = (place - centre_x).abs() < half_x
    chosen = uniform(0, 1, batch, 1, 1) < 0.35
    mask = (rows[:, :, None] & columns[:, None, :] & chosen)[:, None]
    return torch.where(mask, uniform(0, 255, batch, 1, 1, 1), x_B1HW)
