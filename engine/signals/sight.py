"""What one camera shows of late: where faces are in a picture, and what is cut out for one of them.

`Sight` finds faces near a place or in the whole picture and keeps the last pictures for the flow; `Followed`
is one face as it was last seen. Whom to follow is decided elsewhere (`engine.signals.face`, `.faces`). It
knows nothing of ticks, models or processes. Data leaves it as `Detection`s and `Face`s.
"""

import math
from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engine.signals.align import CropParams, Float64, similarity, warp
from engine.signals.detection import Detection, FaceFinder, FaceFollower
from engine.types import SECOND_NS, Face, Float32, Frame, UInt8

REGION_SIZE = 160
"""Side in pixels of the picture in which the followed face is sought."""
REGION_FACES = 2.2
"""Side of the region in face sizes: room for the way of a quick head between two pictures."""
SCAN_SIZE = 320
"""Longer side in pixels of the picture in which the whole is scanned."""

CONFIRM_NS = SECOND_NS // 2
"""A face that was only followed for so long must be found anew."""
DOUBT_NS = 2 * SECOND_NS
"""Not found for so long, it counts as gone, whatever looks like it where it was."""

PREVIOUS_NS = 66_666_667
PREVIOUS_LEAST_NS = 25_000_000
PREVIOUS_MOST_NS = 150_000_000
KEEP_EVERY_NS = 12_000_000
"""Earlier pictures are kept no denser than this, however fast the camera: a dozen at most."""

SMOOTH_NS = 80_000_000
JUMP_PIXELS = 8.0
"""An alignment that is off by as much, in pixels of the crop, is taken over at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A face as last seen: where, and the smoothed transform onto the crop, (2, 3) float64.

    confirmed_ns: when it was last found, not only followed.
    """

    t_ns: int
    detection: Detection
    matrix: Float64
    confirmed_ns: int

    @property
    def size(self) -> float:
        """The longer side of its box."""
        return max(self.detection.box[2:])

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of its box."""
        return centre(self.detection)

    def may_be(self, face: Detection, t_ns: int) -> bool:
        """Whether a face can be this one, by the way it would have gone since, and by its size."""
        way = math.dist(centre(face), self.centre) / self.size
        ratio = area(face) / max(area(self.detection), 1e-9)
        return way <= 0.7 + 3 * (t_ns - self.t_ns) / SECOND_NS and 0.35 <= ratio <= 1 / 0.35


class Sight:
    """Finds and cuts out faces. Keeps the grey pictures of the last 150 ms, at most a dozen."""

    def __init__(self, finder: FaceFinder, crop: CropParams | None = None) -> None:
        self._finder = finder
        self._follower = finder if isinstance(finder, FaceFollower) else None
        self._now: UInt8 = np.zeros((1, 1), np.uint8)
        self._crop = crop or CropParams()
        self._template: Float32 = np.asarray(self._crop.template, np.float32)
        self._kept: deque[tuple[int, UInt8]] = deque()

    def clear(self) -> None:
        """Forget the pictures."""
        self._kept.clear()

    def grey(self, frame: Frame) -> UInt8:
        """(H, W) uint8: the picture as it is cut and kept. One of another size than before begins anew."""
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        if self._kept and grey.shape != self._kept[-1][1].shape:
            self._kept.clear()
        self._now = grey
        return grey

    def keep(self, t_ns: int, grey: UInt8) -> None:
        """Keep a picture for those that follow."""
        while self._kept and t_ns - self._kept[0][0] > PREVIOUS_MOST_NS:
            self._kept.popleft()
        if not self._kept or t_ns - self._kept[-1][0] >= KEEP_EVERY_NS:
            self._kept.append((t_ns, grey))

    def scan(self, image: UInt8) -> list[Detection]:
        """All faces of the picture, the one `grey` was asked of last; it is made smaller for it."""
        picture = image if self._follower is None else self._now
        height, width = picture.shape[:2]
        scale = min(1.0, SCAN_SIZE / max(height, width))
        small = _resized(picture, scale)
        ratio = (small.shape[1] / width, small.shape[0] / height)
        return self._agreed([_placed(d, (0, 0), ratio) for d in self._finder.find(small)])

    def near(self, image: UInt8, face: Detection, unseen_ns: int = 0) -> list[Detection]:
        """The faces around a place of the picture that `grey` was asked of last.

        A finder that can follow looks where the face was; it searches around only when it is not there, or
        when the face was not found anew for a while. unseen_ns: how long that is by now.
        """
        if self._follower is None:
            return self._around(image, face)
        if unseen_ns < CONFIRM_NS and (followed := self._follower.follow(self._now, face)) is not None:
            return [followed]
        found = self._around(self._now, face)
        if not found and CONFIRM_NS <= unseen_ns < DOUBT_NS:
            followed = self._follower.follow(self._now, face)
            return [] if followed is None else [followed]
        return found

    def refined(self, image: UInt8, coarse: Detection) -> Detection:
        """The same face seen closer, where it is found again."""
        if self._follower is not None:
            return coarse  # it was looked at closely when it was found
        limit = 0.5 * max(coarse.box[2:])
        near = [d for d in self.near(image, coarse) if math.dist(centre(d), centre(coarse)) < limit]
        return min(near, key=lambda d: math.dist(centre(d), centre(coarse))) if near else coarse

    def _around(self, picture: UInt8, face: Detection) -> list[Detection]:
        """The faces around a place, sought in a square of always the same size, black beyond the picture."""
        side = max(8, round(REGION_FACES * max(face.box[2:])))
        scale = REGION_SIZE / side
        left, top = (round(middle - side / 2) for middle in centre(face))
        x, y = max(left, 0), max(top, 0)
        part = picture[y : max(top + side, 0), x : max(left + side, 0)]
        if part.size == 0:
            return []
        region = np.zeros((REGION_SIZE, REGION_SIZE, *picture.shape[2:]), np.uint8)
        inside = region[round((y - top) * scale) :, round((x - left) * scale) :]
        small = _resized(part, scale)[: inside.shape[0], : inside.shape[1]]
        inside[: small.shape[0], : small.shape[1]] = small
        return self._agreed([_placed(d, (left, top), (scale, scale)) for d in self._finder.find(region)])

    def _agreed(self, found: list[Detection]) -> list[Detection]:
        """What was found, in the picture's own detail; there a finder that can follow must see it too."""
        if self._follower is None:
            return found
        closer = (self._follower.follow(self._now, each) for each in found)
        return [replace(each, followed=False) for each in closer if each is not None]

    def crop(self, grey: UInt8, followed: Followed) -> UInt8:
        """The followed face in the crop's size, grey."""
        return warp(grey, followed.matrix, self._crop.size)

    def cut(self, t_ns: int, grey: UInt8, followed: Followed, track: int) -> Face:
        """The followed face of this picture, and the same place a moment earlier."""
        crop = self.crop(grey, followed)
        earlier = self._earlier(t_ns)
        return Face(
            crop=crop,
            previous=crop if earlier is None else warp(earlier[1], followed.matrix, self._crop.size),
            gap_ns=0 if earlier is None else t_ns - earlier[0],
            box=followed.detection.box,
            confidence=followed.detection.confidence,
            track=track,
        )

    def follow(self, t_ns: int, detection: Detection, last: Followed | None) -> Followed:
        """The face as it is now, aligned with regard to how it was.

        The transform is smoothed over time; the further off the old one is, the sooner the new one counts.
        Sums of similarity transforms are similarity transforms, so their entries may be averaged.
        """
        points = detection.points
        matrix = similarity(points, self._template)
        if last is None:
            return Followed(t_ns, detection, matrix, t_ns)
        confirmed_ns = last.confirmed_ns if detection.followed else t_ns
        old = last.matrix
        off = np.abs(points @ (matrix - old)[:, :2].T + (matrix - old)[:, 2]).max()
        share = max(-math.expm1((last.t_ns - t_ns) / SMOOTH_NS), min(1.0, float(off) / JUMP_PIXELS))
        return Followed(t_ns, detection, np.asarray(old + share * (matrix - old), np.float64), confirmed_ns)

    def _earlier(self, t_ns: int) -> tuple[int, UInt8] | None:
        """The kept picture nearest to one tick ago."""
        fitting = [k for k in self._kept if PREVIOUS_LEAST_NS <= t_ns - k[0] <= PREVIOUS_MOST_NS]
        return min(fitting, key=lambda k: abs(t_ns - k[0] - PREVIOUS_NS), default=None)


def centre(face: Detection) -> tuple[float, float]:
    """The middle of a face's box."""
    x, y, width, height = face.box
    return x + width / 2, y + height / 2


def area(face: Detection) -> float:
    """Of a face's box, in pixels."""
    return face.box[2] * face.box[3]


def _resized(image: UInt8, scale: float) -> UInt8:
    """The picture for a finder. Far too fine ones are thinned first: averaging every pixel costs too much."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    step = max(1, int(0.5 / scale))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image[::step, ::step], size, interpolation=mode), np.uint8)


def _placed(face: Detection, corner: tuple[int, int], scale: tuple[float, float]) -> Detection:
    """A detection in a scaled part of the picture, as it lies in the picture."""
    left, top, width, height = face.box
    box = (corner[0] + left / scale[0], corner[1] + top / scale[1], width / scale[0], height / scale[1])
    return replace(face, box=box, points=np.asarray(face.points / scale + corner, np.float32))
