"""Dense inverse search in plain NumPy, step by step, for one pair: what the CUDA kernels are held against.

Written from the paper (Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search",
ECCV 2016), for the variational part from Brox and others (ECCV 2004) with a red-black sweep, and from
`cv2.DISOpticalFlow`'s results, whose constants and rules at the borders it follows. Whole arrays instead of
threads, so that an error in the kernels is not repeated here. Results leave as arrays.

Shapes: H, W of a level, n patches a side; flows are (2, ...) float32, x to the right first, then y down.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.signals.flow import FlowParams
from engine.types import Float32, UInt8

LEAST_DETERMINANT = 1e-3
ZETA2, EPSILON2, OMEGA, SOR_SWEEPS = np.float32(0.1**2), np.float32(1e-2**2), np.float32(1.6), 5
REMAP_STEPS = np.float32(32)
"""`cv2.remap` looks between pixels at so many places only."""


def coarsest_scale(size: int, patch: int) -> int:
    """The number of halvings at which the search begins."""
    return min(int(np.log2(size / (4 * patch)) + 0.5), int(np.log2(size // patch)))


def halved(picture: UInt8, times: int) -> UInt8:
    """`picture` at 1 / 2**times by area, halves to even; a single halving rounds them up, as OpenCV's."""
    factor = 1 << times
    rows, columns = (side // factor for side in picture.shape)
    sums = picture.reshape(rows, factor, columns, factor).astype(np.int64).sum(axis=(1, 3))
    if times == 1:
        return ((sums + 2) // 4).astype(np.uint8)
    return np.rint(sums / factor**2).astype(np.uint8)


def gradients(picture: UInt8) -> NDArray[np.int16]:
    """(2, H, W): Sobel's, x then y, borders mirrored without the edge itself."""
    p = np.pad(picture.astype(np.int16), 1, mode="reflect")
    across = p[:, 2:] - p[:, :-2]
    down = p[2:] - p[:-2]
    x = across[:-2] + 2 * across[1:-1] + across[2:]
    y = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.stack([x, y])


def patches(plane: NDArray[np.generic], size: int, stride: int) -> NDArray[np.generic]:
    """(n, n, size, size) of a plane (H, W)."""
    return np.lib.stride_tricks.sliding_window_view(plane, (size, size))[::stride, ::stride]


def tensors(slopes: NDArray[np.int16], size: int, stride: int) -> Float32:
    """(5, n, n): each patch's sums of xx, yy, xy, x, y."""
    x, y = (patches(plane, size, stride).astype(np.float64) for plane in slopes)
    return np.stack([s.sum(axis=(2, 3)) for s in (x * x, y * y, x * y, x, y)]).astype(np.float32)


def bilinear(plane: NDArray[np.generic], y: Float32, x: Float32) -> Float32:
    """`plane` at (y, x), borders repeated."""
    rows, columns = plane.shape
    low_y, low_x = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    part_y, part_x = (y - low_y).astype(np.float32), (x - low_x).astype(np.float32)
    y0, y1 = (np.clip(low_y + step, 0, rows - 1) for step in (0, 1))
    x0, x1 = (np.clip(low_x + step, 0, columns - 1) for step in (0, 1))
    values = plane.astype(np.float32)
    above = (1 - part_x) * values[y0, x0] + part_x * values[y0, x1]
    below = (1 - part_x) * values[y1, x0] + part_x * values[y1, x1]
    return (1 - part_y) * above + part_y * below


def search(
    before: UInt8, after: UInt8, slopes: NDArray[np.int16], sums: Float32, start: Float32, params: FlowParams
) -> Float32:
    """(2, n, n): where each patch of `before` went, from `start` (2, H, W) downhill in its error."""
    size, stride = params.patch_size, params.patch_stride
    height, width = before.shape
    n_y, n_x = sums.shape[1:]
    top = np.arange(n_y, dtype=np.float32)[:, None] * stride
    left = np.arange(n_x, dtype=np.float32)[None, :] * stride
    inside = np.arange(size, dtype=np.float32)
    here = patches(before, size, stride).astype(np.float32)
    slope_x, slope_y = (patches(plane, size, stride).astype(np.float32) for plane in slopes)
    xx, yy, xy, x_sum, y_sum = sums
    determinant = xx * yy - xy * xy
    determinant = np.where(np.abs(determinant) < LEAST_DETERMINANT, LEAST_DETERMINANT, determinant)
    middle = slice(size // 2, None, stride)
    first = start[:, middle, middle][:, :n_y, :n_x].copy()
    found = first.copy()
    last_error = np.full((n_y, n_x), 1e10, np.float32)
    going = np.ones((n_y, n_x), bool)
    for _ in range(params.gradient_descent_iterations):
        y = np.clip(top + found[1], 1 - size, height - 1)[..., None, None] + inside[:, None]
        x = np.clip(left + found[0], 1 - size, width - 1)[..., None, None] + inside[None, :]
        off = bilinear(after, *np.broadcast_arrays(y, x)) - here
        total = off.sum(axis=(2, 3))
        error = (off * off).sum(axis=(2, 3))
        down_x, down_y = (off * slope_x).sum(axis=(2, 3)), (off * slope_y).sum(axis=(2, 3))
        if params.mean_normalisation:
            error = error - total * total / size**2
            down_x = down_x - total * x_sum / size**2
            down_y = down_y - total * y_sum / size**2
        step = np.stack([(yy * down_x - xy * down_y), (xx * down_y - xy * down_x)]) / determinant
        found = np.where(going, found - step, found).astype(np.float32)
        going &= error < last_error
        last_error = error
    far = np.hypot(*(found - first)) > size
    return np.where(far, first, found)


def dense(before: UInt8, after: UInt8, sparse: Float32, params: FlowParams) -> Float32:
    """(2, H, W): of the patches over a pixel, the mean, each by how well it fits there."""
    size, stride = params.patch_size, params.patch_stride
    height, width = before.shape
    n_y, n_x = sparse.shape[1:]
    sums = np.zeros((3, height, width), np.float32)
    for row in range(n_y):
        for column in range(n_x):
            u, v = sparse[:, row, column]
            # what lies beyond the last patch goes on with it
            bottom = height if row == n_y - 1 else row * stride + size
            right = width if column == n_x - 1 else column * stride + size
            place = np.s_[row * stride : bottom, column * stride : right]
            y, x = np.mgrid[place].astype(np.float32)
            y = np.clip(y + v, 0, np.float32(height - 1 - 1e-3))
            x = np.clip(x + u, 0, np.float32(width - 1 - 1e-3))
            weight = 1 / np.maximum(1, np.abs(bilinear(after, y, x) - before[place]))
            sums[(slice(None), *place)] += np.stack([weight * u, weight * v, weight])
    return sums[:2] / sums[2]


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """What refinement needs of the pictures, each (H, W) float32."""

    x: Float32
    y: Float32
    z: Float32
    xx: Float32
    xy: Float32
    yy: Float32
    xz: Float32
    yz: Float32


def _across(plane: Float32) -> Float32:
    p = np.pad(plane, ((0, 0), (1, 1)), mode="edge")
    return p[:, 2:] - p[:, :-2]


def _down(plane: Float32) -> Float32:
    return np.ascontiguousarray(_across(plane.T).T)


def slopes_of(before: UInt8, after: UInt8, flow: Float32) -> Slopes:
    """Of the mean of `before` and `after` brought back along `flow`, and of their difference z."""
    y, x = np.mgrid[: before.shape[0], : before.shape[1]].astype(np.float32)
    places = np.stack([y, x]) + flow[::-1]
    back = bilinear(after, *(np.rint(places * REMAP_STEPS) / REMAP_STEPS))
    mean = np.float32(0.5) * (before + back)
    z = back - before
    across, down = _across(mean), _down(mean)
    return Slopes(across, down, z, _across(across), _down(across), _down(down), _across(z), _down(z))


def refined(before: UInt8, after: UInt8, flow: Float32, params: FlowParams) -> Float32:
    """(2, H, W): brightness and its slopes constant, the flow smooth; robust norms, linearised anew."""
    s = slopes_of(before, after, flow)
    step = np.zeros_like(flow)
    for _ in range(params.variational_iterations):
        a, b = _data_term(s, step, params)
        weight = _smoothness(flow + step, params)
        _add_neighbours(a, b, weight, flow)
        _relax(step, a, b, weight)
    return flow + step


def _data_term(s: Slopes, step: Float32, params: FlowParams) -> tuple[Float32, Float32]:
    """(3, H, W) a11, a12, a22 and (2, H, W) b of each pixel's two equations."""
    u, v = step
    norm = s.x * s.x + s.y * s.y + ZETA2
    off = s.z + s.x * u + s.y * v
    w = np.float32(params.variational_delta / 2) / np.sqrt(off * off / norm + EPSILON2) / norm
    a = np.stack([w * s.x * s.x + ZETA2, w * s.x * s.y, w * s.y * s.y + ZETA2])
    b = np.stack([-w * s.z * s.x, -w * s.z * s.y])
    norm_x = s.xx * s.xx + s.xy * s.xy + ZETA2
    norm_y = s.yy * s.yy + s.xy * s.xy + ZETA2
    off_x = s.xz + s.xx * u + s.xy * v
    off_y = s.yz + s.xy * u + s.yy * v
    w = np.float32(params.variational_gamma / 2)
    w = w / np.sqrt(off_x * off_x / norm_x + off_y * off_y / norm_y + EPSILON2)
    a += w * np.stack(
        [
            s.xx * s.xx / norm_x + s.xy * s.xy / norm_y,
            s.xx * s.xy / norm_x + s.xy * s.yy / norm_y,
            s.xy * s.xy / norm_x + s.yy * s.yy / norm_y,
        ]
    )
    b -= w * np.stack(
        [s.xx * s.xz / norm_x + s.xy * s.yz / norm_y, s.xy * s.xz / norm_x + s.yy * s.yz / norm_y]
    )
    return a, b


def _smoothness(flow: Float32, params: FlowParams) -> Float32:
    """(H, W): how dear a change of flow is between a pixel and those right of it and below."""
    p = np.pad(flow, ((0, 0), (0, 1), (0, 1)), mode="edge")
    right, below = p[:, :-1, 1:] - flow, p[:, 1:, :-1] - flow
    total: Float32 = np.float32(params.variational_alpha / 2) / np.sqrt(
        (right * right + below * below).sum(axis=0) + EPSILON2
    )
    return total


def _add_neighbours(a: Float32, b: Float32, weight: Float32, flow: Float32) -> None:
    """Each pixel's bonds to its neighbours; there are none across the border."""
    across = weight[:, :-1] * (flow[:, :, 1:] - flow[:, :, :-1])
    down = weight[:-1] * (flow[:, 1:] - flow[:, :-1])
    b[:, :, :-1] += across
    b[:, :, 1:] -= across
    b[:, :-1] += down
    b[:, 1:] -= down
    for each in (a[0], a[2]):
        each[:, :-1] += weight[:, :-1]
        each[:, 1:] += weight[:, :-1]
        each[:-1] += weight[:-1]
        each[1:] += weight[:-1]


def _relax(step: Float32, a: Float32, b: Float32, weight: Float32) -> None:
    """Sweeps of successive over-relaxation in place, the pixels of even row + column first in each."""
    rows, columns = np.indices(weight.shape)
    left, above = np.zeros_like(weight), np.zeros_like(weight)
    left[:, 1:], above[1:] = weight[:, :-1], weight[:-1]
    for _ in range(SOR_SWEEPS):
        for colour in (0, 1):
            p = np.pad(step, ((0, 0), (1, 1), (1, 1)))
            pull = left * p[:, 1:-1, :-2] + weight * p[:, 1:-1, 2:] + above * p[:, :-2, 1:-1]
            pull += weight * p[:, 2:, 1:-1]
            now = (rows + columns) % 2 == colour
            u, v = step
            u += np.where(now, OMEGA * ((pull[0] + b[0] - v * a[1]) / a[0] - u), 0)
            v += np.where(now, OMEGA * ((pull[1] + b[1] - u * a[1]) / a[2] - v), 0)


def enlarged(plane: Float32, factor: int) -> Float32:
    """(H * factor, W * factor), bilinear between the pixels' centres."""
    rows, columns = (np.arange(side * factor, dtype=np.float32) for side in plane.shape)
    y, x = ((axis + np.float32(0.5)) / factor - np.float32(0.5) for axis in (rows, columns))
    return bilinear(plane, *np.broadcast_arrays(y[:, None], x[None, :]))


def level(before: UInt8, after: UInt8, start: Float32, params: FlowParams) -> Float32:
    """(2, H, W): the flow of one level, from that of the coarser one."""
    slopes = gradients(before)
    sums = tensors(slopes, params.patch_size, params.patch_stride)
    flow = dense(before, after, search(before, after, slopes, sums, start, params), params)
    return refined(before, after, flow, params) if params.variational_iterations else flow


def pixels(previous: UInt8, crop: UInt8, params: FlowParams) -> Float32:
    """(2, S, S): crop pixels, as `cv2.DISOpticalFlow.calc` gives them."""
    finest = params.finest_scale
    coarsest = coarsest_scale(crop.shape[0], params.patch_size)
    pyramid = [(halved(previous, finest), halved(crop, finest))]
    for _ in range(finest, coarsest):
        pyramid.append((halved(pyramid[-1][0], 1), halved(pyramid[-1][1], 1)))
    flow = np.zeros((2, *pyramid[-1][0].shape), np.float32)
    for before, after in reversed(pyramid):
        if flow.shape[1:] != before.shape:
            flow = np.stack([enlarged(plane, 2) * np.float32(2) for plane in flow])
        flow = level(before, after, flow, params)
    factor = 1 << finest
    return np.stack([enlarged(plane, factor) * np.float32(factor) for plane in flow])


def pair(previous: UInt8, crop: UInt8, gap_ns: int, params: FlowParams) -> Float32:
    """As `engine.signals.flow.Flow.pair`: (2, size, size), crop pixels a second."""
    if gap_ns == 0:
        return np.zeros((2, params.size, params.size), np.float32)
    flow = pixels(previous, crop, params)
    small = [cv2.resize(plane, (params.size,) * 2, interpolation=cv2.INTER_AREA) for plane in flow]
    return np.stack(small) * np.float32(1e9 / gap_ns)
