"""The two small networks that find faces, run by ONNX Runtime on one thread.

`FinderNetwork` scans a picture, `AlignerNetwork` looks closely at one face. They know nothing of time, tracks
or where their files come from. Results leave as rows of numbers, (N, 15) float32: x, y, width and height of
the box, the five points' x and y in the order of `engine.signals.align.TEMPLATE`, and a confidence of 0..1.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.signals.align import TEMPLATE, similarity, warp
from engine.signals.networks import open_network
from engine.types import Float32, UInt8

CROP = 80
"""Side in pixels of the crop that the aligner sees."""
ALIGNER_TEMPLATE: Float32 = np.asarray((TEMPLATE - (56, 62.5)) * 0.75 + CROP / 2, np.float32)
"""(5, 2) float32: where the points of a face lie in it; the eyes are 24 pixels apart."""
ALIGNER_TEMPLATE.setflags(write=False)

LEVELS = ("eight", "sixteen", "thirty_two")
STRIDES = (8, 16, 32)
SCALES = (28.0, 64.0, 144.0)
"""What the boxes and points of a level are measured in, in pixels."""
ROW = 15
MULTIPLE = 32
MOST_CELLS = 300
"""So many of the surest cells of a picture are looked at."""
DARK, LIT, MOST_GAIN = 64.0, 128.0, 12.0
"""A picture whose light parts lie below DARK is made so much brighter that they lie at LIT."""
SAME, MERGED = 0.4, 0.6
"""Boxes that overlap by SAME (intersection over union) are one face; by MERGED, their mean is taken."""


class FinderNetwork:
    """All faces of a grey picture, of 16 to some 180 pixels.

    Raises ValueError where `model` is no such network.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model, "picture", (None, 1, None, None))
        self._grids: dict[tuple[int, int], tuple[Float32, Float32]] = {}

    def find(self, picture: UInt8, least: float) -> Float32:
        """(N, 15) float32, the surest first. picture: (H, W) uint8; least: the lowest confidence."""
        height, width = picture.shape
        padded = _padded(_lit(picture))
        levels = self._session.run(list(LEVELS), {"picture": padded[None, None]})
        cells = np.concatenate([level.reshape(ROW, -1) for level in levels], axis=1).T
        logits = cells[:, 0]
        chosen = np.flatnonzero(logits >= np.log(least / (1 - least)))
        if not len(chosen):
            return np.zeros((0, ROW), np.float32)
        if len(chosen) > MOST_CELLS:
            chosen = chosen[np.argpartition(-logits[chosen], MOST_CELLS)[:MOST_CELLS]]
        middles, scales = self._grid((padded.shape[0], padded.shape[1]))
        rows = _rows(cells[chosen], middles[chosen], scales[chosen])
        centres = rows[:, :2] + rows[:, 2:4] / 2
        inside = ((centres >= 0) & (centres < (width, height))).all(axis=1)
        return _once(rows[inside])

    def _grid(self, size: tuple[int, int]) -> tuple[Float32, Float32]:
        """(K, 2) and (K, 1) float32: each cell's middle, and its level's scale."""
        if size not in self._grids:
            if len(self._grids) >= 8:
                self._grids.clear()
            middles, scales = [], []
            for stride, scale in zip(STRIDES, SCALES, strict=True):
                rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
                middle = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride - 0.5
                middles.append(middle.astype(np.float32))
                scales.append(np.full((len(middle), 1), scale, np.float32))
            self._grids[size] = np.concatenate(middles), np.concatenate(scales)
        return self._grids[size]


class AlignerNetwork:
    """One face, looked at closely.

    Raises ValueError where `model` is no such network.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model, "crop", (None, 1, CROP, CROP))

    def align(self, picture: UInt8, points: Float32) -> Float32:
        """(15,) float32: the face whose points lie near `points`, (5, 2), in a grey picture.

        Raises ValueError where all points lie in one place.
        """
        matrix = similarity(points, ALIGNER_TEMPLATE)
        crop = _lit(warp(picture, matrix, CROP))
        (cells,) = self._session.run(["face"], {"crop": crop[None, None]})
        cell = cells[0]
        inverse = cv2.invertAffineTransform(matrix)
        found = cell[5:].reshape(5, 2) @ inverse[:, :2].T + inverse[:, 2]
        extent = cell[3:5] * np.sqrt(abs(np.linalg.det(inverse[:, :2])))
        corner = inverse[:, :2] @ cell[1:3] + inverse[:, 2] - extent / 2
        return np.concatenate([corner, extent, found.ravel(), [_share(cell[0])]]).astype(np.float32)


def _session(model: bytes, name: str, shape: tuple[int | None, ...]) -> Any:
    session = open_network(model)
    (port, *more) = session.get_inputs()
    found = tuple(size if isinstance(size, int) else None for size in port.shape)
    if more or port.name != name or port.type != "tensor(uint8)" or found != shape:
        raise ValueError(f"it takes {port.name} {port.type} {port.shape}, not {name} uint8 {shape}")
    return session


def _lit(picture: UInt8) -> UInt8:
    """A dark picture with more light, as hardly any was dark in training; any other as it is."""
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(picture))
    light = mean + 2 * deviation
    if light >= DARK:
        return picture
    return np.asarray(cv2.convertScaleAbs(picture, alpha=min(LIT / max(light, 1.0), MOST_GAIN)), np.uint8)


def _padded(picture: UInt8) -> UInt8:
    """With black to the right and below, to whole cells of the coarsest level."""
    low, narrow = (-side % MULTIPLE for side in picture.shape)
    if not low and not narrow:
        return np.ascontiguousarray(picture)
    return np.asarray(cv2.copyMakeBorder(picture, 0, low, 0, narrow, cv2.BORDER_CONSTANT), np.uint8)


def _share(logit: NDArray[np.floating[Any]]) -> Float32:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def _rows(cells: Float32, middles: Float32, scales: Float32) -> Float32:
    """Cells as faces in pixels. cells: (N, 15): logit, middle, logarithms of the sizes, points."""
    rows = np.empty((len(cells), ROW), np.float32)
    rows[:, 2:4] = np.exp(np.clip(cells[:, 3:5], -4, 4)) * scales
    rows[:, :2] = middles + cells[:, 1:3] * scales - rows[:, 2:4] / 2
    points = cells[:, 5:].reshape(-1, 5, 2) * scales[:, None] + middles[:, None]
    rows[:, 4:14] = points.reshape(-1, 10)
    rows[:, 14] = _share(cells[:, 0])
    return rows


def _once(rows: Float32) -> Float32:
    """Each face once: the mean of its cells by their confidence, with the surest one's confidence."""
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    faces = []
    while len(rows):
        overlap = _overlaps(rows[0], rows)
        alike = rows[(overlap >= MERGED) | (np.arange(len(rows)) == 0)]
        weights = alike[:, 14:] ** 2
        face = (alike * weights).sum(axis=0) / weights.sum()
        face[14] = rows[0, 14]
        faces.append(face)
        rest = overlap < SAME
        rest[0] = False
        rows = rows[rest]
    return np.asarray(faces, np.float32).reshape(-1, ROW)


def _overlaps(row: Float32, rows: Float32) -> Float32:
    """(N,) float32: intersection over union of one box and others."""
    low = np.maximum(row[:2], rows[:, :2])
    high = np.minimum(row[:2] + row[2:4], rows[:, :2] + rows[:, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(shared / np.maximum(row[2:4].prod() + rows[:, 2:4].prod(axis=1) - shared, 1e-6))
