"""From pictures to observations: several faces of one camera, each with an identity of its own.

A face keeps its number while it is in view, through a second's absence, when another passes in front of it,
and when another leaves. Faces are told apart by place, way and looks. It knows nothing of ticks, models or
processes; times come with the frames. Data leaves it as `Observation`s. One face alone is followed by
`engine.signals.face`, which is cheaper.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engine.signals.align import CropParams
from engine.signals.assignment import assignment
from engine.signals.detection import Detection, FaceFinder
from engine.signals.face import (
    IDLE_SCAN_EVERY_NS,
    LOST_NS,
    PATIENCE_NS,
    RIVAL_AREA,
    RIVAL_SCANS,
    SCAN_EVERY_NS,
)
from engine.signals.sight import DOUBT_NS, Followed, Sight, area, centre
from engine.types import SECOND_NS, Face, Float32, Frame, Observation, UInt8

ALONE = 2.0
"""What it costs to leave a track without a face; to take one costs the way, in face sizes, and LOOKS times
the unlikeness. Dearer, and a hidden face would drive others to change their numbers."""
LOOKS = 2.0
LOOKS_SIZE = 16
LOOKS_MARGIN = 8
LOOKS_NS = SECOND_NS
ALIKE = 0.6
"""A face that was away for longer than PATIENCE_NS must look as much like itself (a correlation): after a
second the same face is at 0.9, another one mostly below 0.6."""
COASTING_NS = 400_000_000
"""So long an unseen face is thought to go on its way."""
WAY_NS = 200_000_000
COVERED = 0.4
"""Where one box covers as much of another, the surer one counts: it is a face seen twice, or a hidden one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    """A face with its number. looks: (K,) float32 of length 1; way: pixels a second, x and y."""

    number: int
    followed: Followed
    looks: Float32
    way: tuple[float, float] = (0.0, 0.0)

    def expected(self, t_ns: int) -> Detection:
        """Where it should be by now."""
        seconds = min(t_ns - self.followed.t_ns, COASTING_NS) / SECOND_NS
        last = self.followed.detection
        right, down = self.way[0] * seconds, self.way[1] * seconds
        box = (last.box[0] + right, last.box[1] + down, *last.box[2:])
        return replace(last, box=box, points=last.points + np.array((right, down), np.float32))

    def may_be(self, face: Detection, t_ns: int) -> bool:
        """Whether a face can be this one by its place, seen from where it was or from where it should be."""
        expected = replace(self.followed, detection=self.expected(t_ns))
        return self.followed.may_be(face, t_ns) or expected.may_be(face, t_ns)

    def away_ns(self, t_ns: int) -> int:
        """How long it has not been seen."""
        return t_ns - self.followed.t_ns


class FacesTracker:
    """Follows up to `most` faces through the pictures of one camera: the largest first, then those that stay.

    A face that comes is taken when it is seen in two pictures, the first ones at once. One that is gone keeps
    its seat for 0.3 s and its number for a second; so long a face where it may be by now, of which too little
    is seen to tell, is nobody yet. With every seat taken, a face twice as large as the smallest one followed
    takes its seat when it has been there for a second.
    """

    def __init__(self, finder: FaceFinder, crop: CropParams | None = None, *, most: int) -> None:
        self._sight = Sight(finder, crop)
        self._most = most
        self._next = 0
        self._last_ns = -(1 << 63)
        self._tracks: list[_Track] = []
        self._seats: set[int] = set()
        self._forget()

    def observe(self, frame: Frame) -> Observation:
        """What one picture shows, by track number. Frames come in the order of time; a step backward forgets.

        frame.image: (H, W, 3) uint8 BGR, any size. Crop and previous of the faces are of the crop's size.
        """
        if frame.t_ns < self._last_ns:
            self._forget()
        self._last_ns = frame.t_ns
        self._tracks = [track for track in self._tracks if track.away_ns(frame.t_ns) <= LOST_NS]
        grey = self._sight.grey(frame)
        found, scanned = self._look(frame)
        seen = self._match(frame.t_ns, grey, found)
        faces = self._seat(frame.t_ns, grey, found, seen, scanned)
        self._sight.keep(frame.t_ns, grey)
        first = faces[0] if faces else None
        return Observation(t_ns=frame.t_ns, seq=frame.seq, face=first, others=tuple(faces[1:]))

    def _forget(self) -> None:
        self._tracks = []
        self._seats = set()
        self._strangers: list[Detection] = []
        self._scanned_ns: int | None = None
        self._rival_scans = 0
        self._sight.clear()

    def _look(self, frame: Frame) -> tuple[list[Detection], bool]:
        """The faces of this picture, each once, and whether the whole of it was scanned."""
        found: list[Detection] = []
        all_seen = bool(self._tracks)
        places = [track.expected(frame.t_ns) for track in self._tracks]
        for track, place in zip(self._tracks, places, strict=True):
            alone = all(_covered(place, other) == 0 for other in places if other is not place)
            # Beside another face, looking where this one should be may well show that one.
            unseen_ns = frame.t_ns - track.followed.confirmed_ns if alone else DOUBT_NS
            around = self._sight.near(frame.image, place, unseen_ns)
            # Others there may be cut by the border of the part that was searched.
            near = [face for face in around if track.may_be(face, frame.t_ns)]
            all_seen &= bool(near)
            found += near
        every_ns = SCAN_EVERY_NS if all_seen else IDLE_SCAN_EVERY_NS
        due = self._scanned_ns is None or frame.t_ns - self._scanned_ns >= every_ns or bool(self._strangers)
        if due:
            self._scanned_ns = frame.t_ns
            for face in self._sight.scan(frame.image):
                if not any(_covered(face, other) > COVERED for other in found):
                    found.append(self._sight.refined(frame.image, face))
        once: list[Detection] = []
        for face in sorted(found, key=lambda each: -each.confidence):
            if not any(_covered(face, other) > COVERED for other in once):
                once.append(face)
        return once, due

    def _match(self, t_ns: int, grey: UInt8, found: list[Detection]) -> dict[int, int]:
        """Who is who: the place in `found` of each track that is seen, by its number; the tracks move on."""
        looks = [self._looks(t_ns, grey, face) for face in found]
        cost = np.full((len(self._tracks), len(found)), 2 * ALONE)
        for row, track in enumerate(self._tracks):
            place = track.expected(t_ns)
            for column, face in enumerate(found):
                alike = float(track.looks @ looks[column])
                known = track.away_ns(t_ns) <= PATIENCE_NS or alike >= ALIKE
                if known and track.may_be(face, t_ns):
                    way = math.dist(centre(place), centre(face)) / track.followed.size
                    cost[row, column] = way + LOOKS * (1 - alike)
        seen = {}
        for row, column in assignment(cost, ALONE):
            track, face = self._tracks[row], found[column]
            free = all(_covered(face, other) == 0 for other in found if other is not face)
            self._tracks[row] = self._moved(t_ns, track, face, looks[column] if free else None)
            seen[track.number] = column
        return seen

    def _moved(self, t_ns: int, track: _Track, face: Detection, looks: Float32 | None) -> _Track:
        """The track with what was just seen of it. looks: None where another face touches this one."""
        last = track.followed
        followed = self._sight.follow(t_ns, face, last)
        past_ns = max(t_ns - last.t_ns, 1)
        share = -math.expm1(-past_ns / WAY_NS)
        steps = zip(track.way, followed.centre, last.centre, strict=True)
        x, y = (old + share * ((new - before) * SECOND_NS / past_ns - old) for old, new, before in steps)
        mean = track.looks
        if looks is not None:
            mean = _unit(mean + np.float32(-math.expm1(-past_ns / LOOKS_NS)) * (looks - mean))
        return _Track(track.number, followed, mean, (x, y))

    def _seat(
        self, t_ns: int, grey: UInt8, found: list[Detection], seen: dict[int, int], scanned: bool
    ) -> list[Face]:
        """Those that are shown. Seats that are free go to faces that came back, then to new ones."""
        held = {track.number for track in self._tracks if track.away_ns(t_ns) <= PATIENCE_NS}
        self._seats &= held
        by_number = {track.number: track for track in self._tracks}
        for number in sorted(seen, key=lambda each: -area(found[seen[each]])):
            if len(self._seats) < self._most:
                self._seats.add(number)
        strangers = [face for place, face in enumerate(found) if place not in seen.values()]
        hidden = [track for track in self._tracks if track.number not in seen]
        strangers = [f for f in strangers if not any(track.may_be(f, t_ns) for track in hidden)]
        strangers.sort(key=lambda face: -area(face))
        if scanned and strangers:
            self._make_room(by_number, strangers[0])
        elif scanned:
            self._rival_scans = 0
        free = self._most - len(self._seats)
        known, self._strangers = self._strangers, strangers if free else []
        if self._tracks:
            strangers = [f for f in strangers if any(_covered(f, other) > COVERED for other in known)]
        for face in strangers[:free]:
            followed = self._sight.follow(t_ns, face, None)
            track = _Track(self._next, followed, self._looks(t_ns, grey, face))
            self._tracks.append(track)
            self._seats.add(self._next)
            self._next += 1
        return [
            self._sight.cut(t_ns, grey, track.followed, track.number)
            for track in self._tracks
            if track.number in self._seats and track.followed.t_ns == t_ns
        ]

    def _make_room(self, by_number: dict[int, _Track], rival: Detection) -> None:
        """The smallest face gives way to one that is much larger and has been there for a few scans."""
        smallest = min(
            (by_number[number] for number in self._seats),
            key=lambda track: area(track.followed.detection),
            default=None,
        )
        if smallest is None or len(self._seats) < self._most:
            return
        larger = area(rival) > RIVAL_AREA * area(smallest.followed.detection)
        self._rival_scans = self._rival_scans + 1 if larger else 0
        if self._rival_scans >= RIVAL_SCANS:
            self._rival_scans = 0
            self._seats.discard(smallest.number)
            self._tracks = [track for track in self._tracks if track.number != smallest.number]

    def _looks(self, t_ns: int, grey: UInt8, face: Detection) -> Float32:
        """(K,) float32 of length 1: the aligned face, small, without its light."""
        crop = self._sight.crop(grey, self._sight.follow(t_ns, face, None))
        inner = crop[LOOKS_MARGIN:-LOOKS_MARGIN, LOOKS_MARGIN:-LOOKS_MARGIN]
        small = cv2.resize(inner, (LOOKS_SIZE, LOOKS_SIZE), interpolation=cv2.INTER_AREA)
        return _unit(small.astype(np.float32).ravel() - np.float32(small.mean()))


def _unit(vector: Float32) -> Float32:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)


def _covered(one: Detection, other: Detection) -> float:
    """The share of the smaller box that the larger one covers."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one.box, other.box
    width = min(ax + aw, bx + bw) - max(ax, bx)
    height = min(ay + ah, by + bh) - max(ay, by)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max(min(aw * ah, bw * bh), 1e-9)
