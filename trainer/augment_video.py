"""What a camera does to a face: light, lens, sensor, codec, things in the way, lost pictures.

A `Camera` is drawn once a clip, so that its effects hold together through the clip as a real camera's do.
Knows nothing of faces' points, labels or sound. Pictures (F, N, N) uint8 go in with their times and come out
changed; everything random comes from the generator passed in.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

RATES_HZ = (30.0, 25.0, 15.0, 24.0, 20.0, 60.0, 10.0)
RATE_SHARES = (0.38, 0.2, 0.15, 0.08, 0.07, 0.06, 0.06)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Camera:
    """One camera in one room.

    scale: size of the face, 1 is the engine's crop (eyes 32 pixels apart), 0.45 to 1.3.
    rate_hz, jitter_s: pictures a second, and how much their times scatter.
    loss: share of pictures lost, one by one; burst: share of a clip lost at one stretch.
    gain, gamma, contrast: of the whole picture, 1 for none.
    slope, angle: a light from the side: depth 0..0.5 and direction in radians.
    flicker, flicker_hz: depth and beat of lamps against the shutter; drift: slow change of light.
    blur: sigma in crop pixels; streak: length of motion blur in crop pixels, with streak_angle.
    noise: standard deviation in grey levels.
    quality: JPEG quality or None; hold: grey levels that a codec lets pass before it renews a block.
    cover: what hides part of the face, or None.
    """

    scale: float
    rate_hz: float
    jitter_s: float
    loss: float
    burst: float
    gain: float
    gamma: float
    contrast: float
    slope: float
    angle: float
    flicker: float
    flicker_hz: float
    drift: float
    blur: float
    streak: float
    streak_angle: float
    noise: float
    quality: int | None
    hold: float
    cover: "Cover | None"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cover:
    """A thing before the face: hand, microphone, hair, edge of the picture.

    place: centre (x, y) as shares of the canvas; size: half axes as shares; turn: degrees; grey: 0..255;
    texture: depth in grey levels; box: corners or round; sway: how far it moves, share of the canvas;
    sway_hz: how often; start, end: the part of the clip in which it is there, shares.
    """

    place: tuple[float, float]
    size: tuple[float, float]
    turn: float
    grey: float
    texture: float
    box: bool
    sway: float
    sway_hz: float
    start: float
    end: float


def draw_camera(rng: np.random.Generator) -> Camera:
    """A camera as people have them: most are fair, some are bad in one way, few in several."""

    def sometimes(chance: float, low: float, high: float, otherwise: float = 0.0) -> float:
        value = rng.uniform(low, high)
        return float(value) if rng.random() < chance else otherwise

    return Camera(
        scale=float(np.exp(rng.uniform(np.log(0.45), np.log(1.3)))),
        rate_hz=float(rng.choice(RATES_HZ, p=RATE_SHARES)),
        jitter_s=sometimes(0.6, 0.0005, 0.006),
        loss=sometimes(0.3, 0.01, 0.2),
        burst=sometimes(0.15, 0.05, 0.3),
        gain=float(np.exp(rng.normal(0, 0.14))),
        gamma=float(np.exp(rng.normal(0, 0.2))),
        contrast=float(np.exp(rng.normal(0, 0.15))),
        slope=sometimes(0.6, 0.0, 0.5),
        angle=float(rng.uniform(0, 2 * np.pi)),
        flicker=sometimes(0.15, 0.01, 0.06),
        flicker_hz=float(rng.uniform(0.5, 12)),
        drift=sometimes(0.2, 0.05, 0.25),
        blur=sometimes(0.35, 0.3, 1.6),
        streak=sometimes(0.1, 1.5, 5.0),
        streak_angle=float(rng.uniform(0, np.pi)),
        noise=sometimes(0.6, 0.5, 9.0),
        quality=int(sometimes(1, 18, 92)) if rng.random() < 0.55 else None,
        hold=sometimes(0.4, 1.0, 6.0),
        cover=_draw_cover(rng) if rng.random() < 0.2 else None,
    )


def _draw_cover(rng: np.random.Generator) -> Cover:
    from_below = rng.random() < 0.6
    x, y = (rng.uniform(0.25, 0.75), rng.uniform(0.75, 1.0)) if from_below else rng.uniform(0.05, 0.95, 2)
    start, end = (0.0, 1.0) if rng.random() < 0.5 else np.sort(rng.uniform(0, 1, 2))
    return Cover(
        place=(float(x), float(y)),
        size=(float(rng.uniform(0.05, 0.2)), float(rng.uniform(0.06, 0.28))),
        turn=float(rng.uniform(-60, 60)),
        grey=float(rng.uniform(10, 230)),
        texture=float(rng.uniform(0, 25)),
        box=bool(rng.random() < 0.3),
        sway=float(rng.uniform(0, 0.06)),
        sway_hz=float(rng.uniform(0.1, 1.2)),
        start=float(start),
        end=float(end),
    )


def picture_times(camera: Camera, rng: np.random.Generator, duration_s: float) -> Float64:
    """(F,) float64, seconds, rising: when the arrived pictures were taken, from 0.2 s before the clip."""
    step = 1 / camera.rate_hz
    times = np.arange(-0.2 + rng.uniform(0, step), duration_s, step)
    times = times + np.clip(rng.normal(0, camera.jitter_s, len(times)), -0.4 * step, 0.4 * step)
    kept = rng.random(len(times)) >= camera.loss
    length = camera.burst * duration_s
    start = rng.uniform(-0.2, duration_s - length)
    kept &= (times < start) | (times >= start + length)
    return times[kept]


def film(camera: Camera, rng: np.random.Generator, pictures: UInt8, times_s: Float64) -> UInt8:
    """(F, N, N) uint8: the pictures as this camera delivers them, in order of time."""
    side = pictures.shape[1]
    phase = rng.uniform(0, 2 * np.pi, 3)
    ramp = _ramp(side, camera)
    kernel = _streak(camera)
    result = np.empty_like(pictures)
    shown: UInt8 | None = None
    for index, (picture, time_s) in enumerate(zip(pictures, times_s, strict=True)):
        light = 1 + camera.flicker * np.sin(2 * np.pi * camera.flicker_hz * time_s + phase[0])
        light *= 1 + camera.drift * np.sin(2 * np.pi * 0.25 * time_s + phase[1])
        x = picture
        cover = camera.cover
        if cover is not None and cover.start <= (index + 0.5) / len(times_s) <= cover.end:
            x = _covered(x, cover, time_s, phase[2])
        if camera.blur * camera.scale > 0.2:
            x = cv2.GaussianBlur(x, (0, 0), camera.blur * camera.scale)
        if kernel is not None:
            x = cv2.filter2D(x, -1, kernel)
        x = cv2.LUT(x, _tones(camera, float(light)))
        y = x * ramp
        if camera.noise > 0:
            top, left = rng.integers(0, NOISE_SIDE - side, 2)
            y += camera.noise * _noise()[top : top + side, left : left + side]
        shown = _coded(camera, cv2.convertScaleAbs(np.maximum(y, 0)), shown, renew=index % 30 == 0)
        result[index] = shown
    return result


def _tones(camera: Camera, light: float) -> UInt8:
    levels = (np.arange(256, dtype=np.float32) / 255) ** np.float32(camera.gamma)
    levels = levels * np.float32(camera.gain * light)
    levels = (levels - 0.45) * np.float32(camera.contrast) + 0.45
    return (np.clip(levels, 0, 1) * 255 + 0.5).astype(np.uint8)


def _ramp(side: int, camera: Camera) -> Float32:
    place = np.linspace(-1, 1, side, dtype=np.float32)
    across = np.cos(camera.angle) * place + np.sin(camera.angle) * place[:, None]
    return (1 + camera.slope * across).astype(np.float32)


def _streak(camera: Camera) -> Float32 | None:
    length = camera.streak * camera.scale
    if length < 1.2:
        return None
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    x, y = np.cos(camera.streak_angle) * length / 2, np.sin(camera.streak_angle) * length / 2
    ends = np.round(16 * np.array(((half - x, half - y), (half + x, half + y)))).astype(int).tolist()
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


NOISE_SIDE = 512


@lru_cache(maxsize=1)
def _noise() -> Float32:
    """One sheet of noise, slightly coarse as after demosaicing; clips look at moving windows of it."""
    sheet = np.random.default_rng(0).standard_normal((NOISE_SIDE, NOISE_SIDE)).astype(np.float32)
    sheet = cv2.GaussianBlur(sheet, (3, 3), 0.5)
    return sheet / sheet.std()


def _covered(picture: UInt8, cover: Cover, time_s: float, phase: float) -> UInt8:
    side = picture.shape[0]
    sway = cover.sway * np.sin(2 * np.pi * cover.sway_hz * time_s + phase)
    centre = ((cover.place[0] + sway) * side, (cover.place[1] + 0.5 * sway) * side)
    axes = (2 * cover.size[0] * side, 2 * cover.size[1] * side)
    mask = np.zeros(picture.shape, np.uint8)
    if cover.box:
        cv2.fillConvexPoly(mask, cv2.boxPoints((centre, axes, cover.turn)).round().astype(np.int32), 255)
    else:
        cv2.ellipse(mask, (centre, axes, cover.turn), 255, -1)
    share = cv2.blur(mask, (3, 3)).astype(np.float32) / 255
    pattern = cv2.resize(_noise()[:24, :24], (side, side), interpolation=cv2.INTER_CUBIC)
    thing = np.clip(cover.grey + cover.texture * pattern, 0, 255)
    return (picture + share * (thing - picture)).astype(np.uint8)


def _coded(camera: Camera, picture: UInt8, shown: UInt8 | None, renew: bool) -> UInt8:
    """The picture after the codec: blocks that changed little keep what was shown, then JPEG."""
    if camera.hold > 0 and shown is not None and not renew:
        change = cv2.absdiff(picture, shown)
        blocks = cv2.resize(change, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        keep = cv2.resize(
            (blocks < camera.hold).astype(np.uint8), picture.shape[::-1], interpolation=cv2.INTER_NEAREST
        )
        picture = np.where(keep == 1, shown, picture)
    if camera.quality is None:
        return picture
    _, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, camera.quality))
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
