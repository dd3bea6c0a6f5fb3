"""A still face as a mesh: its points are moved, and it is painted as a camera near it would see it.

`FaceMesh` lays a mean shape of 68 points on a still by its five found points; `paint` moves the points and
warps the still piece by piece (one affine map a triangle). Pictures are painted on a canvas: the engine's
crop with a margin, at the camera's scale. Knows nothing of labels, sound or time. Pictures leave it as uint8.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from engine.signals.align import TEMPLATE

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

CROP = 112
MARGIN = 20
LIPS = np.arange(48, 68)
INNER_LIPS = np.arange(60, 68)
LIP_PAIRS = ((61, 67), (62, 66), (63, 65))
SUBPIXEL_BITS = 4
FOLDED = 0.3  # a triangle that keeps less of its area looks torn
RELAXATIONS = 12
LEAST_GAP_PX = 0.6


def similarities(points: Float32, target: Float32) -> Float32:
    """(N, 2, 3) float32: least-squares similarities (no reflection) that take each points[n] to `target`.

    points: (N, 5, 2); target: (5, 2).
    """
    z, w = points[..., 0] + 1j * points[..., 1], target[..., 0] + 1j * target[..., 1]
    centre, goal = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
    a = ((z - centre).conj() * (w - goal)).sum(-1) / (np.abs(z - centre) ** 2).sum(-1)
    b = goal[..., 0] - a * centre[..., 0]
    rows = np.stack((a.real, -a.imag, b.real, a.imag, a.real, b.imag), -1)
    return rows.reshape(*rows.shape[:-1], 2, 3).astype(np.float32)


def five_of(points: Float32) -> Float32:
    """(..., 5, 2): eye centres, nose tip and mouth corners of (..., 68, 2) points."""
    left, right = points[..., 36:42, :].mean(-2), points[..., 42:48, :].mean(-2)
    return np.stack((left, right, points[..., 30, :], points[..., 48, :], points[..., 54, :]), -2)


def depths(shape: Float32) -> Float32:
    """(68,) float32: how far each point of a mean face lies before the eyes, eye distances (a rough head)."""
    depth = 0.1 - 0.75 * shape[:, 0] ** 2 - 0.12 * np.maximum(shape[:, 1] - 0.9, 0)
    depth[27:31] += (0.05, 0.18, 0.32, 0.45)
    depth[31:36] += (0.1, 0.2, 0.25, 0.2, 0.1)
    depth[48:68] += 0.08
    return depth.astype(np.float32)


def turned(shape: Float32, pose: Float32) -> Float32:
    """(F, 68, 2) float32: what turning the head by pitch and yaw adds to the points.

    pose: (F, 3) radians; roll is left to the camera.
    """
    z = depths(shape) + 0.9
    pitch, yaw = pose[:, :1], pose[:, 1:2]
    x, y = shape[:, 0], shape[:, 1] - 0.5
    moved_x = x * np.cos(yaw) + z * np.sin(yaw)
    moved_y = y * np.cos(pitch) - z * np.sin(pitch) - x * np.sin(yaw) * np.sin(pitch)
    offsets = np.stack((moved_x - x, moved_y - y), -1)
    return (offsets - offsets.mean(1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _net(key: bytes) -> tuple[Float32, NDArray[np.int32]]:
    """Outer ring (R, 2) round a mean shape, and triangles (T, 3) over both."""
    shape = np.frombuffer(key, np.float32).reshape(68, 2)
    outline = shape[0:17:2] * 1.45 - np.float32((0, 0.3))
    top = np.array([(x, -1.25 + 0.25 * x * x) for x in (-1.3, -0.7, 0, 0.7, 1.3)], np.float32)
    frame = np.array([(x, y) for x in (-3, 0, 3) for y in (-2.5, 0.9, 4.3) if (x, y) != (0, 0.9)], np.float32)
    ring = np.concatenate((outline, top, frame)).astype(np.float32)
    opened = shape.copy()
    opened[65:68, 1] += 0.1  # parted lips give the net its triangles inside the mouth
    triangles = Delaunay(np.concatenate((opened, ring))).simplices.astype(np.int32)
    return ring, triangles


def _areas(corners: Float32) -> Float32:
    """(...,) float32: twice the signed areas of triangles (..., 3, 2)."""
    ab, ac = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    return np.asarray(ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0], np.float32)


class FaceMesh:
    """One still, ready to be moved.

    five: (5, 2) float32, its own points in crop pixels (near the template).
    to_crop: (2, 2) float32, turns offsets in eye distances into crop pixels on this face.
    """

    def __init__(
        self, picture: UInt8, points: Float32, shape: Float32, scale: float, mirrored_border: bool = False
    ) -> None:
        """picture: (H, W) grey; points: (5, 2) in it; shape: (68, 2) mean face; scale: canvas over crop;
        mirrored_border: what lies beyond the still is its mirror image, else its stretched edge."""
        self.scale = scale
        self._side = round((CROP + 2 * MARGIN) * scale)
        to_crop = similarities(points[None], TEMPLATE)[0]
        self.five: Float32 = points @ to_crop[:, :2].T + to_crop[:, 2]
        to_canvas = to_crop * scale
        to_canvas[:, 2] += MARGIN * scale
        shrink = 1 / float(np.hypot(*to_canvas[0, :2]))
        if shrink > 1.5:
            picture = cv2.GaussianBlur(picture, (0, 0), 0.35 * shrink)
        border = cv2.BORDER_REFLECT_101 if mirrored_border else cv2.BORDER_REPLICATE
        self._base = cv2.warpAffine(
            picture, to_canvas, (self._side, self._side), flags=cv2.INTER_LINEAR, borderMode=border
        )
        rest = self._laid(shape)
        ring, self._triangles = _net(np.ascontiguousarray(shape, np.float32).tobytes())
        self._ring = ring @ self.to_crop.T + self._origin
        self._rest = self._canvas(np.concatenate((rest, self._ring)))
        own = self._triangles[(self._triangles < 68).all(1)]
        own = own[~np.isin(own, LIPS).all(1)]
        flipped = _areas(rest[own]) < 0
        own[flipped] = own[flipped][:, ::-1]
        self._own = own
        face = self._base[self._rows(rest)]
        self._dark = float(np.quantile(face, 0.02)) * 0.7
        self._bright = float(np.quantile(face, 0.9))
        self._points = rest
        self._rest_gap = float(np.linalg.norm(rest[66] - rest[62]))

    def _laid(self, shape: Float32) -> Float32:
        """(68, 2): the mean shape on this face: an affine map of the five points, then what it left over."""
        five = five_of(shape)
        system = np.concatenate((five, np.ones((5, 1), np.float32)), 1)
        solution = np.linalg.lstsq(system, self.five, rcond=None)[0].astype(np.float32)
        self.to_crop: Float32 = solution[:2].T.copy()
        self._origin = solution[2]
        residual = self.five - system @ solution
        near = np.exp(-(((shape[:, None] - five[None]) ** 2).sum(-1)) / (2 * 0.3**2))
        share = near / np.maximum(near.sum(1, keepdims=True), 0.3)
        return (shape @ self.to_crop.T + self._origin + share @ residual).astype(np.float32)

    def _canvas(self, points: Float32) -> Float32:
        return ((points + MARGIN) * self.scale).astype(np.float32)

    def _rows(self, rest: Float32) -> tuple[slice, slice]:
        placed = self._canvas(rest)
        x0, y0 = np.clip(placed.min(0), 0, self._side - 2).astype(int)
        x1, y1 = np.clip(placed.max(0), 2, self._side).astype(int)
        return slice(y0, y1), slice(x0, x1)

    def moved(self, offsets: Float32) -> Float32:
        """(F, 68, 2) float32: the face's points in crop pixels after offsets (F, 68, 2) in eye distances.

        Lips do not cross, and where a triangle would fold or shrink to nothing its corners move less.
        """
        moved = (self._points + offsets @ self.to_crop.T).astype(np.float32)
        for upper, lower in LIP_PAIRS:
            cross = np.maximum(moved[:, upper, 1] - moved[:, lower, 1] + LEAST_GAP_PX, 0) / 2
            moved[:, upper, 1] -= cross
            moved[:, lower, 1] += cross
        way = moved - self._points
        least = FOLDED * _areas(self._points[self._own])
        for _ in range(RELAXATIONS):
            folded = _areas((self._points + way)[:, self._own]) < least
            if not folded.any():
                break
            share = np.ones(way.shape[:2], np.float32)
            for corner in range(3):
                frame, triangle = np.nonzero(folded)
                share[frame, self._own[triangle, corner]] = 0.75
            way *= share[..., None]
        return (self._points + way).astype(np.float32)

    def paint(self, points: Float32, shade: float, teeth: float) -> UInt8:
        """(N, N) uint8: the still with its 68 points moved to `points` (crop pixels).

        shade: 0..1, how dark an opening mouth gets inside; teeth: 0..1, how bright the upper teeth are.
        """
        target = self._canvas(np.concatenate((points, self._ring)))
        owner = np.zeros((self._side, self._side), np.int32)
        fixed = np.round(target * (1 << SUBPIXEL_BITS)).astype(np.int32)
        for index, corners in enumerate(fixed[self._triangles]):
            cv2.fillConvexPoly(owner, corners, index, cv2.LINE_8, SUBPIXEL_BITS)
        maps = self._affines(target)[owner]
        place = np.arange(self._side, dtype=np.float32)
        map_x = maps[..., 0] * place + maps[..., 1] * place[:, None] + maps[..., 2]
        map_y = maps[..., 3] * place + maps[..., 4] * place[:, None] + maps[..., 5]
        picture = cv2.remap(
            self._base, map_x, map_y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        gap = float(np.linalg.norm(points[66] - points[62])) - self._rest_gap
        if gap > 1 and shade > 0:
            self._open(picture, target, gap, shade, teeth)
        return picture

    def _open(self, picture: UInt8, target: Float32, gap: float, shade: float, teeth: float) -> None:
        mask = np.zeros(picture.shape, np.float32)
        lips = np.round(target[INNER_LIPS] * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [lips], shade * min(1.0, (gap - 1) / 4), 8, SUBPIXEL_BITS)
        inside = np.full(picture.shape, self._dark, np.float32)
        if teeth > 0:
            down = (target[66] - target[62]) * min(0.45, 2.5 / (gap + 1))
            band = np.concatenate((target[60:65], (target[60:65] + down)[::-1]))
            fixed = np.round(band * (1 << SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillPoly(inside, [fixed], self._dark + teeth * (self._bright - self._dark), 8, SUBPIXEL_BITS)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.9 * self.scale)
        picture[...] = picture + mask * (cv2.GaussianBlur(inside, (3, 3), 0) - picture)

    def _affines(self, target: Float32) -> Float32:
        """(T, 6) float32: for each triangle the map from canvas pixels back to the still's own."""
        a, b, c = (target[self._triangles[:, k]] for k in range(3))
        p, q, r = (self._rest[self._triangles[:, k]] for k in range(3))
        ab, ac = b - a, c - a
        area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
        area = np.where(np.abs(area) < 1e-3, np.float32(1e-3), area)
        u = np.stack((ac[:, 1], -ac[:, 0]), 1) / area[:, None]
        v = np.stack((-ab[:, 1], ab[:, 0]), 1) / area[:, None]
        linear = (q - p)[:, :, None] * u[:, None, :] + (r - p)[:, :, None] * v[:, None, :]
        origin = p - (linear @ a[:, :, None])[:, :, 0]
        return np.concatenate((linear, origin[:, :, None]), 2).reshape(-1, 6).astype(np.float32)
