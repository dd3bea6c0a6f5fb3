"""From pictures to observations: one face followed, aligned and cut out.

`FaceTracker` looks near where the face was, scans the whole picture when it is gone (and now and then in any
case), steadies the alignment, and cuts the same place out of an earlier picture for the flow. It knows
nothing of ticks, models or processes; times come with the frames. Data leaves it as `Observation`s. The
finders themselves are in `engine.signals.finder`.
"""

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from engine.signals.align import CropParams, Float64, similarity, warp
from engine.signals.finder import Detection, FaceFinder, HaarFinder, YunetFinder, load_finder
from engine.types import Face, Float32, Frame, Observation, UInt8

__all__ = ["Detection", "FaceFinder", "FaceTracker", "HaarFinder", "YunetFinder", "load_finder"]

SECOND_NS = 1_000_000_000

REGION_SIZE = 160
"""Side in pixels of the picture in which the followed face is sought."""
REGION_FACES = 2.2
"""Side of the region in face sizes: room for the way of a quick head between two pictures."""
SCAN_SIZE = 320
"""Longer side in pixels of the picture in which the whole is scanned."""
SCAN_EVERY_NS = SECOND_NS // 2
IDLE_SCAN_EVERY_NS = SECOND_NS // 16
"""With nobody in view for a while, no more scans than there are ticks."""

PATIENCE_NS = 300_000_000
"""So long a lost face may come back before one elsewhere is taken."""
LOST_NS = SECOND_NS
RIVAL_AREA = 2.0
RIVAL_SCANS = 3
"""A face so much larger, in so many scans in a row, is followed instead."""

PREVIOUS_NS = 66_666_667
PREVIOUS_LEAST_NS = 25_000_000
PREVIOUS_MOST_NS = 150_000_000
KEEP_EVERY_NS = 12_000_000
"""Earlier pictures are kept no denser than this, however fast the camera: a dozen at most."""

SMOOTH_NS = 80_000_000
JUMP_PIXELS = 8.0
"""An alignment that is off by as much, in pixels of the crop, is taken over at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """The face as last seen: where, and the smoothed transform onto the crop, (2, 3) float64."""

    t_ns: int
    detection: Detection
    matrix: Float64

    @property
    def size(self) -> float:
        return max(self.detection.box[2:])

    @property
    def centre(self) -> tuple[float, float]:
        return _centre(self.detection)


class FaceTracker:
    """Follows one face through the pictures of one camera.

    The face nearest to the last place is followed; at first, and after a loss, the largest. Its track number
    rises when it was out of sight for more than a second and when another face takes its place: one seen
    elsewhere 0.3 s after the loss, or one twice as large for a second.

    Keeps the grey pictures of the last 150 ms, at most a dozen.
    """

    def __init__(self, finder: FaceFinder, crop: CropParams | None = None) -> None:
        self._finder = finder
        self._crop = crop or CropParams()
        self._template: Float32 = np.asarray(self._crop.template, np.float32)
        self._track = 0
        self._numbered = False  # whether a face was ever seen under this number
        self._last_ns = -(1 << 63)
        self._forget()

    def clear(self) -> None:
        """Between clips: forget place and pictures, but the next face keeps the track number."""
        self._forget()
        self._numbered = False

    def observe(self, frame: Frame) -> Observation:
        """What one picture shows. Frames come in the order of time; a step backward forgets the place.

        frame.image: (H, W, 3) uint8 BGR, any size. The face's crop and previous are of the crop's size.
        """
        if frame.t_ns < self._last_ns:
            self._forget()
        self._last_ns = frame.t_ns
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        if self._kept and grey.shape != self._kept[-1][1].shape:
            self._kept.clear()
        detection = self._search(frame)
        face = None if detection is None else self._cut(frame.t_ns, grey, detection)
        self._keep(frame.t_ns, grey)
        return Observation(t_ns=frame.t_ns, seq=frame.seq, face=face)

    def _forget(self) -> None:
        self._followed: _Followed | None = None
        self._scanned_ns: int | None = None
        self._rival_scans = 0
        self._kept: deque[tuple[int, UInt8]] = deque()

    def _search(self, frame: Frame) -> Detection | None:
        """The followed face in this picture, or the one that is followed from now on."""
        last = self._followed
        if last is None:
            return self._begin(frame)
        if frame.t_ns - last.t_ns > LOST_NS:
            self._followed = None
            return self._begin(frame)
        near = [d for d in self._near(frame.image, last.detection) if _same(last, d, frame.t_ns)]
        if near:
            rival = self._rival(frame, last)
            if rival is not None:
                return self._take(rival)
            return min(near, key=lambda d: math.dist(_centre(d), last.centre))
        faces = self._scan(frame)
        again = [d for d in faces if _same(last, d, frame.t_ns)]
        if again:
            return self._refined(frame.image, min(again, key=lambda d: math.dist(_centre(d), last.centre)))
        if faces and frame.t_ns - last.t_ns > PATIENCE_NS:
            return self._take(self._refined(frame.image, max(faces, key=_area)))
        return None

    def _begin(self, frame: Frame) -> Detection | None:
        if self._scanned_ns is not None and frame.t_ns - self._scanned_ns < IDLE_SCAN_EVERY_NS:
            return None
        faces = self._scan(frame)
        return self._take(self._refined(frame.image, max(faces, key=_area))) if faces else None

    def _take(self, detection: Detection) -> Detection:
        """From now on this face is followed, under a number of its own."""
        self._followed = None
        self._rival_scans = 0
        if self._numbered:
            self._track += 1
        self._numbered = True
        return detection

    def _rival(self, frame: Frame, last: _Followed) -> Detection | None:
        """A much larger face elsewhere that has been there for a few scans in a row."""
        if self._scanned_ns is not None and frame.t_ns - self._scanned_ns < SCAN_EVERY_NS:
            return None
        larger = [
            d
            for d in self._scan(frame)
            if _area(d) > RIVAL_AREA * _area(last.detection) and not _same(last, d, frame.t_ns)
        ]
        self._rival_scans = self._rival_scans + 1 if larger else 0
        if self._rival_scans < RIVAL_SCANS:
            return None
        return self._refined(frame.image, max(larger, key=_area))

    def _scan(self, frame: Frame) -> list[Detection]:
        """All faces of the picture, which is made smaller for it."""
        self._scanned_ns = frame.t_ns
        height, width = frame.image.shape[:2]
        scale = min(1.0, SCAN_SIZE / max(height, width))
        small = _resized(frame.image, scale)
        ratio = (small.shape[1] / width, small.shape[0] / height)
        return [_placed(d, (0, 0), ratio) for d in self._finder.find(small)]

    def _near(self, image: UInt8, face: Detection) -> list[Detection]:
        """The faces around a place, sought in a square of always the same size, black beyond the picture."""
        side = max(8, round(REGION_FACES * max(face.box[2:])))
        scale = REGION_SIZE / side
        left, top = (round(middle - side / 2) for middle in _centre(face))
        x, y = max(left, 0), max(top, 0)
        part = image[y : max(top + side, 0), x : max(left + side, 0)]
        if part.size == 0:
            return []
        region = np.zeros((REGION_SIZE, REGION_SIZE, 3), np.uint8)
        inside = region[round((y - top) * scale) :, round((x - left) * scale) :]
        small = _resized(part, scale)[: inside.shape[0], : inside.shape[1]]
        inside[: small.shape[0], : small.shape[1]] = small
        return [_placed(d, (left, top), (scale, scale)) for d in self._finder.find(region)]

    def _refined(self, image: UInt8, coarse: Detection) -> Detection:
        """The same face seen closer, where it is found again."""
        limit = 0.5 * max(coarse.box[2:])
        near = [d for d in self._near(image, coarse) if math.dist(_centre(d), _centre(coarse)) < limit]
        return min(near, key=lambda d: math.dist(_centre(d), _centre(coarse))) if near else coarse

    def _cut(self, t_ns: int, grey: UInt8, detection: Detection) -> Face:
        matrix = self._steady(t_ns, similarity(detection.points, self._template), detection.points)
        self._followed = _Followed(t_ns, detection, matrix)
        crop = warp(grey, matrix, self._crop.size)
        earlier = self._earlier(t_ns)
        return Face(
            crop=crop,
            previous=crop if earlier is None else warp(earlier[1], matrix, self._crop.size),
            gap_ns=0 if earlier is None else t_ns - earlier[0],
            box=detection.box,
            confidence=detection.confidence,
            track=self._track,
        )

    def _steady(self, t_ns: int, matrix: Float64, points: Float32) -> Float64:
        """The transform, smoothed over time; the further off the old one is, the sooner the new one counts.

        Sums of similarity transforms are similarity transforms, so their entries may be averaged.
        """
        if self._followed is None:
            return matrix
        old = self._followed.matrix
        off = np.abs(points @ (matrix - old)[:, :2].T + (matrix - old)[:, 2]).max()
        share = max(-math.expm1((self._followed.t_ns - t_ns) / SMOOTH_NS), min(1.0, float(off) / JUMP_PIXELS))
        return np.asarray(old + share * (matrix - old), np.float64)

    def _earlier(self, t_ns: int) -> tuple[int, UInt8] | None:
        """The kept picture nearest to one tick ago."""
        fitting = [k for k in self._kept if PREVIOUS_LEAST_NS <= t_ns - k[0] <= PREVIOUS_MOST_NS]
        return min(fitting, key=lambda k: abs(t_ns - k[0] - PREVIOUS_NS), default=None)

    def _keep(self, t_ns: int, grey: UInt8) -> None:
        while self._kept and t_ns - self._kept[0][0] > PREVIOUS_MOST_NS:
            self._kept.popleft()
        if not self._kept or t_ns - self._kept[-1][0] >= KEEP_EVERY_NS:
            self._kept.append((t_ns, grey))


def _centre(face: Detection) -> tuple[float, float]:
    x, y, width, height = face.box
    return x + width / 2, y + height / 2


def _area(face: Detection) -> float:
    return face.box[2] * face.box[3]


def _same(last: _Followed, face: Detection, t_ns: int) -> bool:
    """Whether a face can be the followed one, by the way it would have gone since, and by its size."""
    way = math.dist(_centre(face), last.centre) / last.size
    ratio = _area(face) / max(_area(last.detection), 1e-9)
    return way <= 0.7 + 3 * (t_ns - last.t_ns) / SECOND_NS and 0.35 <= ratio <= 1 / 0.35


def _resized(image: UInt8, scale: float) -> UInt8:
    """The picture for a finder. Far too fine ones are thinned first: averaging every pixel costs too much."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    step = max(1, int(0.5 / scale))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image[::step, ::step], size, interpolation=mode), np.uint8)


def _placed(face: Detection, corner: tuple[int, int], scale: tuple[float, float]) -> Detection:
    """A detection in a scaled part of the picture, as it lies in the picture."""
    left, top, width, height = face.box
    return Detection(
        box=(corner[0] + left / scale[0], corner[1] + top / scale[1], width / scale[0], height / scale[1]),
        points=np.asarray(face.points / scale + corner, np.float32),
        confidence=face.confidence,
    )
