"""The kernel that refines a level's flow: brightness and its slopes constant, the flow smooth.

One block a pair, one launch for all iterations: between sweeps only the threads of one pair have to wait for
one another, and nothing but the step and the weights is read across threads. Threads own two pixels beside
each other, one of each colour, and take them in turn; all else (slopes, equations) is read by its owner alone
and lies in planes of the pair's workspace, 53 kB at 28 x 28, which the caches of a multiprocessor hold for
several pairs. Two barriers a sweep, some sixty a pair.

It knows nothing of buffers or streams. The energy is that of Brox and others (ECCV 2004) as
`cv2.VariationalRefinement` weighs it, solved by red-black successive over-relaxation; NumPy literals keep all
of it in float32. Results are written in place.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from engine.cuda.kernels import HALF, ZERO, Array, Kernel, between
from engine.signals.flow import VARIATIONAL_EPSILON, FlowParams

ZETA2 = np.float32(0.1**2)
"""Keeps norms from zero, and each equation from being singular."""
EPSILON2 = np.float32(VARIATIONAL_EPSILON**2)
"""Rounds the robust norms near zero."""
OMEGA = np.float32(1.6)
SWEEPS = 5
REMAP_STEPS = np.float32(32)
"""`cv2.remap` looks between pixels at so many places only."""

PLANES = 17
MEAN, X, Y, Z, XX, XY, YY, XZ, YZ, A11, A12, A22, B1, B2, U, V, WEIGHT = range(PLANES)
"""The planes of a pair's workspace: the pictures' mean and slopes, each pixel's two equations, the step so
far, and how dear a change of flow is between a pixel and those right of it and below."""


MOST_THREADS = 512


def threads(side: int) -> tuple[int, int]:
    """Pairs of pixels across, rows down: a thread each at the shipped level, on larger ones several."""
    across = min(-(-side // 2), 32)
    return across, min(side, max(MOST_THREADS // across, 1))


def _apart(plane: Array, y: Any, x: Any) -> Any:
    """Right less left neighbour, borders repeated."""
    return plane[y, min(x + 1, plane.shape[1] - 1)] - plane[y, max(x - 1, 0)]


def _apart_down(plane: Array, y: Any, x: Any) -> Any:
    """Lower less upper neighbour, borders repeated."""
    return plane[min(y + 1, plane.shape[0] - 1), x] - plane[max(y - 1, 0), x]


apart, apart_down = cuda.jit(device=True)(_apart), cuda.jit(device=True)(_apart_down)


def _bring_back(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
    """`after` along the flow onto `before`: their mean, their difference, and no step yet."""
    from_y = np.float32(round((np.float32(y) + flow[1, y, x]) * REMAP_STEPS)) / REMAP_STEPS
    from_x = np.float32(round((np.float32(x) + flow[0, y, x]) * REMAP_STEPS)) / REMAP_STEPS
    back, here = between(after, from_y, from_x), np.float32(before[y, x])
    work[MEAN, y, x] = HALF * (back + here)
    work[Z, y, x] = back - here
    work[U, y, x] = ZERO
    work[V, y, x] = ZERO


def _first_slopes(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
    work[X, y, x], work[Y, y, x] = apart(work[MEAN], y, x), apart_down(work[MEAN], y, x)
    work[XZ, y, x], work[YZ, y, x] = apart(work[Z], y, x), apart_down(work[Z], y, x)


def _second_slopes(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
    work[XX, y, x], work[XY, y, x] = apart(work[X], y, x), apart_down(work[X], y, x)
    work[YY, y, x] = apart_down(work[Y], y, x)


def _smoothness(alpha: Any) -> Kernel:
    """Builds the step that weighs the flow so far."""

    def smoothness(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
        right, below = min(x + 1, flow.shape[2] - 1), min(y + 1, flow.shape[1] - 1)
        u, v = flow[0, y, x] + work[U, y, x], flow[1, y, x] + work[V, y, x]
        u_x, v_x = flow[0, y, right] + work[U, y, right] - u, flow[1, y, right] + work[V, y, right] - v
        u_y, v_y = flow[0, below, x] + work[U, below, x] - u, flow[1, below, x] + work[V, below, x] - v
        work[WEIGHT, y, x] = alpha / math.sqrt(u_x * u_x + v_x * v_x + u_y * u_y + v_y * v_y + EPSILON2)

    return smoothness


def _data_term(delta: Any, gamma: Any) -> Kernel:
    """Builds the step that writes each pixel's equations as far as the pictures tell."""

    def data_term(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
        u, v, i_x, i_y, i_z = work[U, y, x], work[V, y, x], work[X, y, x], work[Y, y, x], work[Z, y, x]
        norm = i_x * i_x + i_y * i_y + ZETA2
        off = i_z + i_x * u + i_y * v
        weight = delta / math.sqrt(off * off / norm + EPSILON2) / norm
        a11, a12, a22 = weight * i_x * i_x + ZETA2, weight * i_x * i_y, weight * i_y * i_y + ZETA2
        b1, b2 = -weight * i_z * i_x, -weight * i_z * i_y
        xx, xy, yy, xz, yz = work[XX, y, x], work[XY, y, x], work[YY, y, x], work[XZ, y, x], work[YZ, y, x]
        norm_x, norm_y = xx * xx + xy * xy + ZETA2, yy * yy + xy * xy + ZETA2
        off_x, off_y = xz + xx * u + xy * v, yz + xy * u + yy * v
        weight = gamma / math.sqrt(off_x * off_x / norm_x + off_y * off_y / norm_y + EPSILON2)
        weight_x, weight_y = weight / norm_x, weight / norm_y
        work[A11, y, x] = a11 + weight_x * xx * xx + weight_y * xy * xy
        work[A12, y, x] = a12 + weight_x * xx * xy + weight_y * xy * yy
        work[A22, y, x] = a22 + weight_x * xy * xy + weight_y * yy * yy
        work[B1, y, x] = b1 - weight_x * xx * xz - weight_y * xy * yz
        work[B2, y, x] = b2 - weight_x * xy * xz - weight_y * yy * yz

    return data_term


def _bonds(before: Array, after: Array, flow: Array, work: Array, y: Any, x: Any) -> None:
    """Add a pixel's bonds to its four neighbours to its equations; there are none across the border."""
    u, v, own = flow[0, y, x], flow[1, y, x], work[WEIGHT, y, x]
    total, b1, b2 = ZERO, ZERO, ZERO
    if x + 1 < flow.shape[2]:
        total += own
        b1 += own * (flow[0, y, x + 1] - u)
        b2 += own * (flow[1, y, x + 1] - v)
    if y + 1 < flow.shape[1]:
        total += own
        b1 += own * (flow[0, y + 1, x] - u)
        b2 += own * (flow[1, y + 1, x] - v)
    if x > 0:
        weight = work[WEIGHT, y, x - 1]
        total += weight
        b1 += weight * (flow[0, y, x - 1] - u)
        b2 += weight * (flow[1, y, x - 1] - v)
    if y > 0:
        weight = work[WEIGHT, y - 1, x]
        total += weight
        b1 += weight * (flow[0, y - 1, x] - u)
        b2 += weight * (flow[1, y - 1, x] - v)
    work[A11, y, x] += total
    work[A22, y, x] += total
    work[B1, y, x] += b1
    work[B2, y, x] += b2


def _relax(work: Array, y: Any, x: Any) -> None:
    """Solve a pixel's equations for its step, its neighbours' as they are, and go beyond by OMEGA."""
    own, pull_u, pull_v = work[WEIGHT, y, x], work[B1, y, x], work[B2, y, x]
    if x + 1 < work.shape[2]:
        pull_u += own * work[U, y, x + 1]
        pull_v += own * work[V, y, x + 1]
    if y + 1 < work.shape[1]:
        pull_u += own * work[U, y + 1, x]
        pull_v += own * work[V, y + 1, x]
    if x > 0:
        weight = work[WEIGHT, y, x - 1]
        pull_u += weight * work[U, y, x - 1]
        pull_v += weight * work[V, y, x - 1]
    if y > 0:
        weight = work[WEIGHT, y - 1, x]
        pull_u += weight * work[U, y - 1, x]
        pull_v += weight * work[V, y - 1, x]
    u, v = work[U, y, x], work[V, y, x]
    u += OMEGA * ((pull_u - v * work[A12, y, x]) / work[A11, y, x] - u)
    v += OMEGA * ((pull_v - u * work[A12, y, x]) / work[A22, y, x] - v)
    work[U, y, x] = u
    work[V, y, x] = v


relax = cuda.jit(device=True)(_relax)


def _for_own_pixels(step: Kernel, side: int) -> Kernel:
    """`step` for all the pixels that a thread owns."""
    across, rows = threads(side)
    at_pixel = cuda.jit(device=True)(step)

    def run(before: Array, after: Array, flow: Array, work: Array) -> None:
        for y in range(cuda.threadIdx.y, side, rows):
            for left in range(2 * cuda.threadIdx.x, side, 2 * across):
                for x in range(left, min(left + 2, side)):
                    at_pixel(before, after, flow, work, y, x)

    return cuda.jit(device=True)(run)


@cache
def refine_kernel(side: int, params: FlowParams) -> Kernel:
    """before, after, blended, work (N, PLANES, side, side) -> flow (N, 2, side, side), `blended` refined.

    Blocks of `threads(side)`, grid of (pairs,).
    """
    across, rows = threads(side)
    iterations = params.variational_iterations
    halves = (params.variational_alpha, params.variational_delta, params.variational_gamma)
    alpha, delta, gamma = (np.float32(value / 2) for value in halves)
    bring_back, first_slopes, second_slopes, smoothness, data_term, bonds = (
        _for_own_pixels(step, side)
        for step in (
            _bring_back, _first_slopes, _second_slopes, _smoothness(alpha), _data_term(delta, gamma), _bonds,
        )
    )  # fmt: skip

    def refine(
        before_all: Array, after_all: Array, blended_all: Array, work_all: Array, flow_all: Array
    ) -> None:
        pair = cuda.blockIdx.x
        before, after, work = before_all[pair], after_all[pair], work_all[pair]
        blended, flow = blended_all[pair], flow_all[pair]
        bring_back(before, after, blended, work)
        cuda.syncthreads()
        first_slopes(before, after, blended, work)
        cuda.syncthreads()
        second_slopes(before, after, blended, work)
        for _ in range(iterations):
            smoothness(before, after, blended, work)
            data_term(before, after, blended, work)
            cuda.syncthreads()
            bonds(before, after, blended, work)
            for sweep in range(2 * SWEEPS):
                for y in range(cuda.threadIdx.y, side, rows):
                    first = 2 * cuda.threadIdx.x + ((y + sweep) & 1)
                    for x in range(first, side, 2 * across):
                        relax(work, y, x)
                cuda.syncthreads()
        for y in range(cuda.threadIdx.y, side, rows):
            for left in range(2 * cuda.threadIdx.x, side, 2 * across):
                for x in range(left, min(left + 2, side)):
                    flow[0, y, x] = blended[0, y, x] + work[U, y, x]
                    flow[1, y, x] = blended[1, y, x] + work[V, y, x]

    return cuda.jit(refine)
