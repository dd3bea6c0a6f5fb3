"""Moving faces: a borrowed still moves in time with a real voice of the same label, cropped as live.

`make_clip` puts the parts together: motion for the voice (`trainer/motion.py`), the still as a mesh
(`trainer/face_mesh.py`), a camera (`trainer/augment_video.py`), the engine's alignment and ticks. It knows
nothing of which clips a set needs nor of files; that is `trainer/clip_sets.py`. Data leaves as `MovingClip`.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from engine.signals.align import TEMPLATE
from trainer.augment_video import Camera, draw_camera, film, picture_times
from trainer.data.sound import RATE_HZ
from trainer.data.takes import Take
from trainer.face_mesh import CROP, MARGIN, FaceMesh, five_of, similarities, turned
from trainer.motion import MotionLibrary

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Mode = Literal["still", "motion", "both"]

TICK_HZ = 15
LONGEST_S = 6.0
EXPRESSION: dict[Mode, tuple[float, float]] = {"still": (0.0, 0.3), "motion": (0.7, 1.3), "both": (0.2, 0.8)}
"""How much of a label's motion is put on the still: all where the still is at rest, little where not."""

SMOOTHING_S = 0.08  # of the engine's tracker
PREVIOUS_S = (0.025, 0.150)
EYES_PX = 32.0
MOST_TURN = np.array((0.22, 0.3, 0.5), np.float32)
OPEN_LABELS = frozenset(("happy", "fearful", "surprised", "angry"))
"""Stills of these labels often show teeth already; nothing dark is painted over them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BorrowedStill:
    """A still to be moved.

    picture: (H, W) uint8, grey; points: (5, 2) float32, YuNet's order, in it; label: what it shows at rest.
    """

    picture: UInt8
    points: Float32
    label: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovingClip:
    """What the engine would have observed: T ticks of 1/15 s, tick 0 from the voice's first sample on.

    crops, previous: (T, 112, 112) uint8, grey; zero where the tick was lost.
    gap_ns: (T,) int64, between the two pictures; 0 where there was no earlier one (previous is the crop).
    seen: (T,) bool, False for a lost tick.
    """

    crops: UInt8
    previous: UInt8
    gap_ns: NDArray[np.int64]
    seen: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person:
    """What stays the same in all clips of one person before one camera.

    rest: (68, 2) float32, eye distances: this face's own habit, added to the still.
    turn: (3,) float32, radians: how the head sits before the camera.
    mirrored_border: what is seen beyond the still's edges, see `FaceMesh`.
    camera: the camera, whose losses are drawn anew for each clip.
    """

    rest: Float32
    turn: Float32
    mirrored_border: bool
    camera: Camera


def draw_person(rng: np.random.Generator) -> Person:
    """A person and a camera."""
    return Person(
        rest=rng.normal(0, 0.006, (68, 2)).astype(np.float32),
        turn=rng.normal(0, (0.06, 0.12, 0.06)).astype(np.float32),
        mirrored_border=bool(rng.random() < 0.5),
        camera=draw_camera(rng),
    )


def make_clip(
    rng: np.random.Generator,
    still: BorrowedStill,
    voice: Take,
    samples: Float32,
    mode: Mode,
    library: MotionLibrary,
    person: Person | None = None,
) -> MovingClip:
    """A clip of the voice's label, as long as the voice (at most 6 s).

    samples: (N,) float32, 16 kHz, the sound of `voice`; mode: where the expression comes from.
    Raises ValueError where the voice is shorter than one tick.
    """
    ticks = int(min(len(samples) / RATE_HZ, LONGEST_S) * TICK_HZ)
    if ticks < 1:
        raise ValueError(f"{voice.file} lasts {len(samples) / RATE_HZ:.3f} s, less than one tick.")
    person = person or draw_person(rng)
    times_s = picture_times(person.camera, rng, ticks / TICK_HZ)
    motion = library.motion(rng, voice, samples, voice.label, float(rng.uniform(*EXPRESSION[mode])))
    offsets, pose = motion.at(np.maximum(times_s, 0))
    mesh = FaceMesh(still.picture, still.points, library.shape, person.camera.scale, person.mirrored_border)
    pose = np.clip(pose * np.float32(rng.uniform(0.4, 1.2)) + person.turn, -MOST_TURN, MOST_TURN)
    points = mesh.moved(offsets + person.rest + turned(library.shape, pose))
    head = _head(rng, times_s, pose[:, 2])
    to_crop = _tracked(rng, mesh, points, head, times_s)
    now, before = chosen_pictures(times_s, ticks)
    used = np.unique(np.concatenate((now, before)))
    used = used[used >= 0]
    shade = float(rng.uniform(0, 0.3) if still.label in OPEN_LABELS else rng.uniform(0.4, 0.9))
    teeth = float(max(0.0, rng.uniform(-0.5, 0.9)))
    painted = np.array([mesh.paint(points[index], shade, teeth) for index in used], np.uint8)
    if len(used):
        painted = film(person.camera, rng, painted, times_s[used])
    return _cropped(painted, used, now, before, times_s, head, to_crop, person.camera.scale)


def chosen_pictures(times_s: Float64, ticks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each tick the picture nearest to its middle (within half a tick) and the earlier one of its pair.

    Two (T,) int64 of positions in times_s (rising), -1 for none. The earlier picture is the one nearest to
    one tick before the first, 25 to 150 ms older.
    """
    now = np.full(ticks, -1, np.int64)
    before = np.full(ticks, -1, np.int64)
    for tick in range(ticks):
        middle = (tick + 0.5) / TICK_HZ
        if len(times_s) == 0:
            break
        nearest = int(np.abs(times_s - middle).argmin())
        if not -0.5 / TICK_HZ <= times_s[nearest] - middle < 0.5 / TICK_HZ:
            continue
        now[tick] = nearest
        age = times_s[nearest] - times_s
        fit = np.flatnonzero((age >= PREVIOUS_S[0]) & (age <= PREVIOUS_S[1]))
        if len(fit):
            before[tick] = fit[np.abs(age[fit] - 1 / TICK_HZ).argmin()]
    return now, before


def _wander(rng: np.random.Generator, times_s: Float64, slow_s: float, width: float) -> Float32:
    """(F,) float32: a smooth random course with this standard deviation, changing over about slow_s."""
    grid = np.arange(int((times_s[-1] - times_s[0]) * 30) + 2)
    course = gaussian_filter1d(rng.standard_normal(len(grid) + 60), slow_s * 30)[30 : 30 + len(grid)]
    course *= width * np.sqrt(2 * np.sqrt(np.pi) * slow_s * 30)
    return np.interp((times_s - times_s[0]) * 30, grid, course).astype(np.float32)


def _head(rng: np.random.Generator, times_s: Float64, roll: Float32) -> Float32:
    """(F, 2, 3) float32: where the head is, as a similarity in crop pixels round the crop's middle."""
    if len(times_s) == 0:
        return np.zeros((0, 2, 3), np.float32)
    restless = float(rng.choice((0.2, 1.0, 2.5), p=(0.4, 0.45, 0.15)))
    angle = roll + _wander(rng, times_s, 0.5, 0.02 * restless)
    size = np.exp(_wander(rng, times_s, 0.8, 0.015 * restless))
    cos, sin = size * np.cos(angle), size * np.sin(angle)
    middle = CROP / 2
    x = _wander(rng, times_s, 0.35, 0.04 * restless * EYES_PX)
    y = _wander(rng, times_s, 0.35, 0.03 * restless * EYES_PX)
    rows = (cos, -sin, x + middle - middle * (cos - sin), sin, cos, y + middle - middle * (sin + cos))
    return np.stack(rows, -1).reshape(-1, 2, 3).astype(np.float32)


def _tracked(
    rng: np.random.Generator, mesh: FaceMesh, points: Float32, head: Float32, times_s: Float64
) -> Float32:
    """(F, 2, 3) float32: the engine's smoothed similarity from each camera picture to the crop.

    The finder sees the moved face's five points, a little off: by habit, and by noise in every picture.
    """
    five = mesh.five + (five_of(points) - five_of(mesh.moved(np.zeros((1, 68, 2), np.float32))))
    five = five @ head[:, :, :2].transpose(0, 2, 1) + head[:, None, :, 2]
    five = five + rng.normal(0, 0.02 * EYES_PX, (5, 2))
    five = five + rng.normal(0, rng.uniform(0.005, 0.025) * EYES_PX, five.shape)
    smooth = five.copy()
    for index in range(1, len(smooth)):
        share = 1 - np.exp(-(times_s[index] - times_s[index - 1]) / SMOOTHING_S)
        smooth[index] = smooth[index - 1] + share * (five[index] - smooth[index - 1])
    return similarities(smooth.astype(np.float32), TEMPLATE)


def _cropped(
    pictures: UInt8,
    used: NDArray[np.int64],
    now: NDArray[np.int64],
    before: NDArray[np.int64],
    times_s: Float64,
    head: Float32,
    to_crop: Float32,
    scale: float,
) -> MovingClip:
    crops = np.zeros((len(now), CROP, CROP), np.uint8)
    previous = np.zeros_like(crops)
    gap_ns = np.zeros(len(now), np.int64)
    to_canvas = np.array(((scale, 0, MARGIN * scale), (0, scale, MARGIN * scale), (0, 0, 1)))

    def cut(source: int, at: int) -> UInt8:
        """Picture `source` through the transform that held for picture `at`."""
        from_crop = to_canvas @ np.linalg.inv(_square(head[source])) @ np.linalg.inv(_square(to_crop[at]))
        picture = pictures[np.searchsorted(used, source)]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(
            picture, from_crop[:2], (CROP, CROP), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(crop, np.uint8)

    for tick in np.flatnonzero(now >= 0):
        crops[tick] = previous[tick] = cut(now[tick], now[tick])
        if before[tick] >= 0:
            previous[tick] = cut(before[tick], now[tick])
            gap_ns[tick] = round((times_s[now[tick]] - times_s[before[tick]]) * 1e9)
    return MovingClip(crops=crops, previous=previous, gap_ns=gap_ns, seen=now >= 0)


def _square(rows: Float32) -> Float64:
    return np.vstack((rows, (0, 0, 1))).astype(np.float64)


if __name__ == "__main__":
    from trainer.clip_sets import main

    main()
