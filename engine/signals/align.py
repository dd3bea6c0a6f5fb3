"""Faces onto one template: the best similarity transform of five points, and the warp by it.

Pure functions over arrays. This file knows nothing of finding faces, of time or of tracks; the same
functions align the trainer's stills and the live crops. Results leave as arrays.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.types import Float32, UInt8

Float64 = NDArray[np.float64]

TEMPLATE: Float32 = np.array([[40, 44], [72, 44], [56, 62.5], [43, 81], [69, 81]], np.float32)
"""(5, 2) float32, x and y in pixels of a 112 x 112 crop: the eye at the picture's left, the eye at its right,
the tip of the nose, the mouth's left and right corner."""
TEMPLATE.setflags(write=False)

BOX_POINTS: Float32 = np.array(
    [[0.32, 0.39], [0.68, 0.39], [0.50, 0.60], [0.345, 0.77], [0.655, 0.77]], np.float32
)
BOX_POINTS.setflags(write=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CropParams:
    """What an aligned face looks like. size: pixels of its side; template: the five points' places (x, y)."""

    size: int = 112
    channels: int = 1
    template: tuple[tuple[float, float], ...] = tuple((float(x), float(y)) for x, y in TEMPLATE)


def similarity(points: ArrayLike, template: ArrayLike = TEMPLATE) -> Float64:
    """The turn, scale and shift that bring `points` nearest to `template` (least squares, no reflection).

    points, template: (N, 2), N >= 2, x and y in pixels. Returns (2, 3) float64, points to template.
    The closed form in the plane of Umeyama, "Least-squares estimation of transformation parameters
    between two point patterns", 1991.

    Raises ValueError where all points lie in one place.
    """
    source = np.asarray(points, np.float64)
    target = np.asarray(template, np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    spread = float((a * a).sum())
    if not spread > 0:
        raise ValueError("the points of a face all lie in one place, so nothing can be aligned")
    cosine = float((a * b).sum()) / spread
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.hstack([turn, (target_mean - turn @ source_mean)[:, None]])


def warp(image: UInt8, matrix: Float64, size: int = 112) -> UInt8:
    """The picture through a similarity transform, replicated beyond its border.

    image: (H, W) uint8, grey. matrix: (2, 3), picture to crop. Returns (size, size) uint8.
    Where the picture is more than twice as fine as the crop, the part that is needed is first averaged over
    whole blocks of pixels, which lie on a grid that is fixed in the picture so that motion does not shimmer.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        image, matrix = _shrunk(image, matrix, size, int(1 / scale))
    result = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(result, np.uint8)


def _shrunk(image: UInt8, matrix: Float64, size: int, factor: int) -> tuple[UInt8, Float64]:
    """The part of the picture under the crop, `factor` times smaller, and the transform from there."""
    factor = min(factor, *image.shape)
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    inverse = np.linalg.inv(matrix[:, :2])
    places = (corners - matrix[:, 2]) @ inverse.T
    limit = np.array([image.shape[1] // factor, image.shape[0] // factor])
    low = np.clip(np.floor(places.min(0) / factor).astype(np.int64) - 2, 0, limit - 1)
    high = np.clip(np.ceil(places.max(0) / factor).astype(np.int64) + 2, low + 1, limit)
    (left, top), (right, bottom) = low * factor, high * factor
    width, height = high - low
    part = image[top:bottom, left:right]
    small = cv2.resize(part, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    centre = np.array([left, top]) + (factor - 1) / 2
    onward = np.hstack([matrix[:, :2] * factor, (matrix[:, :2] @ centre + matrix[:, 2])[:, None]])
    return np.asarray(small, np.uint8), onward


def points_from_box(box: ArrayLike) -> Float32:
    """Where eyes, nose and mouth corners usually are in the box of a frontal face.

    box: x, y, width, height in pixels. Returns (5, 2) float32, ordered as `TEMPLATE`.
    """
    x, y, width, height = np.asarray(box, np.float32)
    return np.asarray(BOX_POINTS * (width, height) + (x, y), np.float32)
