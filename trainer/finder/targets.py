"""What the finder should answer at each cell of a scene.

A face belongs to the levels that are at home near its size, and there to the cells near its middle. Cells
around those, and faces that are neither sure nor absent, are left out. Knows nothing of training.
"""

import math

import numpy as np
from numpy.typing import NDArray

from engine.signals.face_networks import SCALES, STRIDES
from trainer.finder.network import CHANNELS
from trainer.finder.teacher import SURE

Float32 = NDArray[np.float32]

HOME = math.log(1.75)
"""A level takes faces up to this factor larger or smaller than it is at home with."""
NEAR, AROUND = 0.16, 0.34
"""Of a face's size: cells so near its middle are it, those up to AROUND are neither."""
UNKNOWN = -1.0


def targets(faces: Float32, height: int, width: int) -> tuple[Float32, Float32]:
    """Over all cells of all levels, in the network's order.

    faces: (F, 15), see `trainer.finder.teacher.Seen`. Returns truth (K,): 1 face, 0 none, -1 left out; and
    values (K, 15): the 14 numbers of the face, and its size in the level's scale.
    """
    truths, values = [], []
    for level, (stride, scale) in enumerate(zip(STRIDES, SCALES, strict=True)):
        rows, columns = np.mgrid[: height // stride, : width // stride]
        middles = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride - 0.5
        truth = np.zeros(len(middles), np.float32)
        value = np.zeros((len(middles), CHANNELS), np.float32)
        for face in sorted(faces, key=lambda row: -float(row[2] * row[3])):
            _add(face, level, stride, scale, middles, truth, value)
        truths.append(truth)
        values.append(value)
    return np.concatenate(truths), np.concatenate(values)


def _add(
    face: Float32, level: int, stride: int, scale: float, middles: Float32, truth: Float32, value: Float32
) -> None:
    size = math.sqrt(float(face[2] * face[3]))
    middle = face[:2] + face[2:4] / 2
    away = np.hypot(*(middles - middle).T)
    off = math.log(size / scale)
    here = abs(off) <= HOME or (level == 0 and off < 0) or (level == len(SCALES) - 1 and off > 0)
    reach = max(AROUND * size, 0.75 * stride)
    if face[14] < SURE:
        truth[away < max(0.5 * size, reach)] = UNKNOWN
        return
    if not here:
        if abs(off) <= 1.6 * HOME:  # it may answer, and need not
            truth[(away < reach) & (truth == 0)] = UNKNOWN
        return
    truth[(away < reach) & (truth == 0)] = UNKNOWN
    chosen = away <= max(NEAR * size, 0.36 * stride)
    chosen[away.argmin()] |= bool(away.min() < stride)
    truth[chosen] = 1
    value[chosen, :2] = (middle - middles[chosen]) / scale
    value[chosen, 2:4] = np.log(face[2:4] / scale)
    points = face[4:14].reshape(5, 2)
    value[chosen, 4:14] = ((points[None] - middles[chosen][:, None]) / scale).reshape(-1, 10)
    value[chosen, 14] = size / scale
