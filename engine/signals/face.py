"""From pictures to observations: one face followed, aligned and cut out.

`FaceTracker` looks near where the face was, scans the whole picture when it is gone (and now and then in any
case), steadies the alignment, and cuts the same place out of an earlier picture for the flow. It knows
nothing of ticks, models or processes; times come with the frames. Data leaves it as `Observation`s. The
finders themselves are in `engine.signals.finder`; several faces are followed by `engine.signals.faces`.
"""

import math

from engine.signals.align import CropParams
from engine.signals.detection import Detection, FaceFinder
from engine.signals.finder import load_finder
from engine.signals.sight import Followed, Sight, area, centre
from engine.types import SECOND_NS, Frame, Observation

__all__ = ["Detection", "FaceFinder", "FaceTracker", "load_finder"]

SCAN_EVERY_NS = SECOND_NS // 2
IDLE_SCAN_EVERY_NS = SECOND_NS // 16
"""With nobody in view for a while, no more scans than there are ticks."""

PATIENCE_NS = 300_000_000
"""So long a lost face may come back before one elsewhere is taken."""
LOST_NS = SECOND_NS
RIVAL_AREA = 2.0
RIVAL_SCANS = 3
"""A face so much larger, in so many scans in a row, is followed instead."""


class FaceTracker:
    """Follows one face through the pictures of one camera.

    The face nearest to the last place is followed; at first, and after a loss, the largest. Its track number
    rises when it was out of sight for more than a second and when another face takes its place: one seen
    elsewhere 0.3 s after the loss, or one twice as large for a second.
    """

    def __init__(self, finder: FaceFinder, crop: CropParams | None = None) -> None:
        self._sight = Sight(finder, crop)
        self._track = 0
        self._numbered = False  # whether a face was ever seen under this number
        self._last_ns = -(1 << 63)
        self._followed: Followed | None = None
        self._forget()

    @property
    def followed(self) -> Followed | None:
        """The face as it was last seen, None where nobody is followed."""
        return self._followed

    @property
    def track(self) -> int:
        """The number of the face that is followed, or was last."""
        return self._track

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
        grey, face = self._sight.grey(frame), None
        detection = self._search(frame)
        if detection is not None:
            self._followed = self._sight.follow(frame.t_ns, detection, self._followed)
            face = self._sight.cut(frame.t_ns, grey, self._followed, self._track)
        self._sight.keep(frame.t_ns, grey)
        return Observation(t_ns=frame.t_ns, seq=frame.seq, face=face)

    def _forget(self) -> None:
        self._followed = None
        self._scanned_ns: int | None = None
        self._rival_scans = 0
        self._sight.clear()

    def _search(self, frame: Frame) -> Detection | None:
        """The followed face in this picture, or the one that is followed from now on."""
        last = self._followed
        if last is None:
            return self._begin(frame)
        if frame.t_ns - last.t_ns > LOST_NS:
            self._followed = None
            return self._begin(frame)
        around = self._sight.near(frame.image, last.detection, frame.t_ns - last.confirmed_ns)
        near = [d for d in around if last.may_be(d, frame.t_ns)]
        if near:
            rival = self._rival(frame, last)
            if rival is not None:
                return self._take(rival)
            return min(near, key=lambda d: math.dist(centre(d), last.centre))
        faces = self._scan(frame)
        again = [d for d in faces if last.may_be(d, frame.t_ns)]
        if again:
            return self._sight.refined(
                frame.image, min(again, key=lambda d: math.dist(centre(d), last.centre))
            )
        if faces and frame.t_ns - last.t_ns > PATIENCE_NS:
            return self._take(self._sight.refined(frame.image, max(faces, key=area)))
        return None

    def _begin(self, frame: Frame) -> Detection | None:
        if self._scanned_ns is not None and frame.t_ns - self._scanned_ns < IDLE_SCAN_EVERY_NS:
            return None
        faces = self._scan(frame)
        return self._take(self._sight.refined(frame.image, max(faces, key=area))) if faces else None

    def _take(self, detection: Detection) -> Detection:
        """From now on this face is followed, under a number of its own."""
        self._followed = None
        self._rival_scans = 0
        if self._numbered:
            self._track += 1
        self._numbered = True
        return detection

    def _rival(self, frame: Frame, last: Followed) -> Detection | None:
        """A much larger face elsewhere that has been there for a few scans in a row."""
        if self._scanned_ns is not None and frame.t_ns - self._scanned_ns < SCAN_EVERY_NS:
            return None
        larger = [
            d
            for d in self._scan(frame)
            if area(d) > RIVAL_AREA * area(last.detection) and not last.may_be(d, frame.t_ns)
        ]
        self._rival_scans = self._rival_scans + 1 if larger else 0
        if self._rival_scans < RIVAL_SCANS:
            return None
        return self._sight.refined(frame.image, max(larger, key=area))

    def _scan(self, frame: Frame) -> list[Detection]:
        self._scanned_ns = frame.t_ns
        return self._sight.scan(frame.image)
