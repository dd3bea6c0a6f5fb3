"""The kernels of the search, one a step: shrink, slopes, sums, grow, search, blend, deliver.

Each `..._kernel` function builds one step for one level: sizes are constants of the compiled code, so that
no thread divides by a number that it has to load. The last index of every grid is the pair. A thread is a
pixel, and neighbours in a row lie side by side in memory; in the search a thread is a column of a patch, so
that the eight lanes of a patch read eight bytes beside each other, and a patch's sums meet in shared memory
with one barrier an iteration. Everything that a pair touches stays in the caches.

A kernel is compiled once for all that ask for the same one. It knows nothing of buffers, streams or time.
What the steps compute is `cv2.DISOpticalFlow`'s, after Kroeger and others (ECCV 2016); NumPy literals
keep all of it in float32. Results are written in place.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32

from engine.cuda.levels import Level
from engine.signals.flow import FlowParams
from engine.types import SECOND_NS

Kernel = Any
Array = Any
"""A device array inside a kernel."""

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
LEAST_DETERMINANT = np.float32(1e-3)
FIRST_ERROR = np.float32(1e10)
INSIDE = np.float32(1e-3)
"""So far from the last pixel a place between pixels is kept."""
PATCHES_A_BLOCK = 32
GOES, RESTS = np.int32(1), np.int32(0)


def _between(plane: Array, y: Any, x: Any) -> Any:
    """`plane`, square, at (y, x), borders repeated."""
    last = plane.shape[0] - 1
    low_y, low_x = math.floor(y), math.floor(x)
    part_y, part_x = y - np.float32(low_y), x - np.float32(low_x)
    y0, x0 = min(max(int(low_y), 0), last), min(max(int(low_x), 0), last)
    y1, x1 = min(max(int(low_y) + 1, 0), last), min(max(int(low_x) + 1, 0), last)
    above = (ONE - part_x) * np.float32(plane[y0, x0]) + part_x * np.float32(plane[y0, x1])
    below = (ONE - part_x) * np.float32(plane[y1, x0]) + part_x * np.float32(plane[y1, x1])
    return (ONE - part_y) * above + part_y * below


between = cuda.jit(device=True)(_between)


@cache
def shrink_kernel(halvings: int, side: int) -> Kernel:
    """(previous, crop (N, S, S) uint8) -> before, after (N, side, side) uint8, by area.

    Halves round to even, but up in a single halving: as OpenCV's two paths do.
    """
    factor, bits = 1 << halvings, 2 * halvings
    half, rest = (1 << bits) >> 1, (1 << bits) - 1

    def rounded(total: Any) -> Any:
        over, whole = total & rest, total >> bits
        if bits == 0 or over < half:
            return whole
        if over > half or bits == 2:
            return whole + 1
        return whole + (whole & 1)

    rounded = cuda.jit(device=True)(rounded)

    def shrink(previous: Array, crop: Array, before: Array, after: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= side or y >= side:
            return
        earlier: Any = 0
        later: Any = 0
        for row in range(y * factor, (y + 1) * factor):
            for column in range(x * factor, (x + 1) * factor):
                earlier += np.int32(previous[pair, row, column])  # a byte has no sign to add with
                later += np.int32(crop[pair, row, column])
        before[pair, y, x] = rounded(earlier)
        after[pair, y, x] = rounded(later)

    return cuda.jit(shrink)


@cache
def slopes_kernel(side: int) -> Kernel:
    """before -> slope (N, 2, side, side) float32: Sobel's, x then y; borders mirrored without the edge."""
    last = side - 1

    def slopes(before: Array, slope: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= side or y >= side:
            return
        left, right = abs(x - 1), last - abs(last - x - 1)
        above, below = abs(y - 1), last - abs(last - y - 1)
        falling = np.float32(before[pair, below, right]) - np.float32(before[pair, above, left])
        rising = np.float32(before[pair, above, right]) - np.float32(before[pair, below, left])
        across = np.float32(before[pair, y, right]) - np.float32(before[pair, y, left])
        down = np.float32(before[pair, below, x]) - np.float32(before[pair, above, x])
        slope[pair, 0, y, x] = falling + rising + TWO * across
        slope[pair, 1, y, x] = falling - rising + TWO * down

    return cuda.jit(slopes)


@cache
def sums_kernel(level: Level, params: FlowParams) -> Kernel:
    """slope -> total (N, 5, n, n) float32: of each patch xx, yy, xy, x, y."""
    count, size, stride = level.patches, params.patch_size, params.patch_stride

    def sums(slope: Array, total: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= count or y >= count:
            return
        xx = yy = xy = sum_x = sum_y = ZERO
        for row in range(y * stride, y * stride + size):
            for column in range(x * stride, x * stride + size):
                slope_x, slope_y = slope[pair, 0, row, column], slope[pair, 1, row, column]
                xx += slope_x * slope_x
                yy += slope_y * slope_y
                xy += slope_x * slope_y
                sum_x += slope_x
                sum_y += slope_y
        total[pair, 0, y, x] = xx
        total[pair, 1, y, x] = yy
        total[pair, 2, y, x] = xy
        total[pair, 3, y, x] = sum_x
        total[pair, 4, y, x] = sum_y

    return cuda.jit(sums)


@cache
def grow_kernel(side: int) -> Kernel:
    """The coarser level's flow (N, 2, side / 2, side / 2) -> start (N, 2, side, side), twice as long."""

    def grow(flow: Array, start: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= side or y >= side:
            return
        from_y = (np.float32(y) + HALF) * HALF - HALF
        from_x = (np.float32(x) + HALF) * HALF - HALF
        start[pair, 0, y, x] = TWO * between(flow[pair, 0], from_y, from_x)
        start[pair, 1, y, x] = TWO * between(flow[pair, 1], from_y, from_x)

    return cuda.jit(grow)


def patches_a_block(level: Level) -> int:
    """So that the blocks of one pair are about equally full."""
    patches = level.patches**2
    blocks = -(-patches // PATCHES_A_BLOCK)
    return -(-patches // blocks)


def _column_of(side: int, size: int) -> Kernel:
    """Builds what a thread of the search does: add up one column of a patch."""

    def column(
        before: Array, after: Array, slope: Array, y: Any, x: Any, top: Any, left: Any, sums: Array
    ) -> None:
        """-> sums (4,): of off, off * off, off * slope x, off * slope y."""
        low_y, low_x = math.floor(y), math.floor(x)
        part_y, part_x = y - np.float32(low_y), x - np.float32(low_x)
        x0, x1 = min(max(int(low_x), 0), side - 1), min(max(int(low_x) + 1, 0), side - 1)
        row = min(max(int(low_y), 0), side - 1)
        above = (ONE - part_x) * np.float32(after[row, x0]) + part_x * np.float32(after[row, x1])
        total, error, down_x, down_y = ZERO, ZERO, ZERO, ZERO
        for step in range(size):
            row = min(max(int(low_y) + step + 1, 0), side - 1)
            below = (ONE - part_x) * np.float32(after[row, x0]) + part_x * np.float32(after[row, x1])
            off = (ONE - part_y) * above + part_y * below - np.float32(before[top + step, left])
            total += off
            error += off * off
            down_x += off * slope[0, top + step, left]
            down_y += off * slope[1, top + step, left]
            above = below
        sums[0], sums[1], sums[2], sums[3] = total, error, down_x, down_y

    return cuda.jit(device=True)(column)


@cache
def search_kernel(level: Level, params: FlowParams) -> Kernel:
    """before, after, slope, total, start -> sparse (N, 2, n, n) float32: where each patch went.

    Blocks of (patch_size, patches_a_block), grid of (blocks a pair, pairs). From the start in the patch's
    middle downhill, the tensor taken once; a patch rests when its error no longer falls, and falls back to
    its start when it went further than its own size. All patches of a block leave together.
    """
    side, count, size, stride = level.side, level.patches, params.patch_size, params.patch_stride
    together, iterations = patches_a_block(level), params.gradient_descent_iterations
    normalised, area = params.mean_normalisation, np.float32(params.patch_size**2)
    least, most, furthest = np.float32(1 - size), np.float32(side - 1), np.float32(size)

    column = _column_of(side, size)

    def search(before: Array, after: Array, slope: Array, total: Array, start: Array, sparse: Array) -> None:
        lane, place, pair = cuda.threadIdx.x, cuda.threadIdx.y, cuda.blockIdx.y
        shared = cuda.shared.array((2, together, size, 4), float32)
        patch = min(cuda.blockIdx.x * together + place, count * count - 1)
        row, number = patch // count, patch % count
        top, left = row * stride, number * stride
        xx, yy, xy = total[pair, 0, row, number], total[pair, 1, row, number], total[pair, 2, row, number]
        determinant = xx * yy - xy * xy
        if abs(determinant) < LEAST_DETERMINANT:
            determinant = LEAST_DETERMINANT
        first_u = start[pair, 0, top + size // 2, left + size // 2]
        first_v = start[pair, 1, top + size // 2, left + size // 2]
        u, v, last_error = first_u, first_v, FIRST_ERROR
        going: Any = GOES
        for turn in range(iterations):
            sums = shared[turn & 1, place]
            y = min(max(np.float32(top) + v, least), most)
            x = min(max(np.float32(left) + u, least), most) + np.float32(lane)
            column(before[pair], after[pair], slope[pair], y, x, top, left + lane, sums[lane])
            if cuda.syncthreads_or(going) == 0:
                break
            off, error, down_x, down_y = ZERO, ZERO, ZERO, ZERO
            for each in range(size):
                off += sums[each, 0]
                error += sums[each, 1]
                down_x += sums[each, 2]
                down_y += sums[each, 3]
            if normalised:
                error -= off * off / area
                down_x -= off * total[pair, 3, row, number] / area
                down_y -= off * total[pair, 4, row, number] / area
            if going == GOES:
                u -= (yy * down_x - xy * down_y) / determinant
                v -= (xx * down_y - xy * down_x) / determinant
                going = GOES if error < last_error else RESTS
            last_error = error
        if lane == 0:
            far = (u - first_u) * (u - first_u) + (v - first_v) * (v - first_v) > furthest * furthest
            sparse[pair, 0, row, number] = first_u if far else u
            sparse[pair, 1, row, number] = first_v if far else v

    return cuda.jit(search)


@cache
def blend_kernel(level: Level, params: FlowParams) -> Kernel:
    """before, after, sparse -> flow (N, 2, side, side): of the patches over a pixel, each by its fit.

    What lies beyond the last patch goes on with it.
    """
    side, count, size, stride = level.side, level.patches, params.patch_size, params.patch_stride
    most = np.float32(side - 1) - INSIDE

    def blend(before: Array, after: Array, sparse: Array, flow: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= side or y >= side:
            return
        here = np.float32(before[pair, y, x])
        sum_u, sum_v, sum_weight = ZERO, ZERO, ZERO
        for row in range(min(max((y - size) // stride + 1, 0), count - 1), min(y // stride, count - 1) + 1):
            for column in range(
                min(max((x - size) // stride + 1, 0), count - 1), min(x // stride, count - 1) + 1
            ):
                u, v = sparse[pair, 0, row, column], sparse[pair, 1, row, column]
                to_y = min(max(np.float32(y) + v, ZERO), most)
                to_x = min(max(np.float32(x) + u, ZERO), most)
                weight = ONE / max(ONE, abs(between(after[pair], to_y, to_x) - here))
                sum_u += weight * u
                sum_v += weight * v
                sum_weight += weight
        flow[pair, 0, y, x] = sum_u / sum_weight
        flow[pair, 1, y, x] = sum_v / sum_weight

    return cuda.jit(blend)


@cache
def deliver_kernel(side: int, crop_size: int, size: int) -> Kernel:
    """flow (N, 2, side, side), gap_ns (N,) int64 -> speed (N, 2, size, size) float32, crop pixels a second.

    Enlarged to the crop between the pixels' centres, then the mean of the crop pixels under each; zeros where
    the gap is 0.
    """
    factor, under = crop_size // side, crop_size // size
    scale, part = np.float32(factor), np.float32(1 / factor)
    share = np.float32(1 / under**2)

    def deliver(flow: Array, gap_ns: Array, speed: Array) -> None:
        x, y, pair = cuda.grid(3)
        if x >= size or y >= size:
            return
        u, v = ZERO, ZERO
        gap = gap_ns[pair]
        if gap != 0:
            for row in range(y * under, (y + 1) * under):
                for column in range(x * under, (x + 1) * under):
                    from_y = (np.float32(row) + HALF) * part - HALF
                    from_x = (np.float32(column) + HALF) * part - HALF
                    u += between(flow[pair, 0], from_y, from_x)
                    v += between(flow[pair, 1], from_y, from_x)
            rate = share * scale * np.float32(SECOND_NS / gap)
            u *= rate
            v *= rate
        speed[pair, 0, y, x] = u
        speed[pair, 1, y, x] = v

    return cuda.jit(deliver)
