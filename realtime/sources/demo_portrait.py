"""The still pictures of the demo's talking head, one for each expression, painted once at the start.

Reads the average face from `realtime/assets` (grey, one geometry for all expressions), gives it skin,
lips, hair, neck, shoulders and a wall. Knows nothing of motion or sound. Leaves as a `Portrait`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import cv2
import numpy as np

from engine.types import Float32, UInt8

LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised")
WIDTH, HEIGHT = 640, 480
SCALE = 1.25  # scene pixels for one pixel of the asset's geometry
MIDDLE_X = 320.0
TOP_Y = 8.0

FACE = (slice(45, 425), slice(195, 445))  # rows, columns in which the expressions differ
LIDS = (slice(164, 206), slice(245, 395))  # rows, columns of both eyes

# Grey level of the average face -> BGR.
SKIN = (
    (0, (22, 26, 44)),
    (70, (58, 72, 112)),
    (140, (118, 144, 196)),
    (200, (172, 196, 236)),
    (255, (222, 234, 250)),
)
HAIR = (30, 38, 52)
CLOTH = (92, 72, 58)
COLLAR = (70, 54, 44)
NECK = (128, 152, 200)
EAR = (96, 118, 168)
TEETH = (158, 176, 184)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Portrait:
    """Seven pictures in one geometry, and the points that say where things are.

    scenes: (7, 480, 640, 3) uint8, BGR, in the order of LABELS, lips closed, eyes open.
    lids: (7, rows, columns, 3) uint8, BGR, what LIDS shows of each scene with the eyes closed.
    mouth: (480, 640, 3) uint8, BGR, what is seen between open lips.
    names: name of each point (right half of the picture).
    points: (P, 2) float32, x and y of the points in the scenes, pixels.
    marked: (7, P, 2) float32, where each expression has its points, pixels.
    lip_y: row at which the closed lips meet, pixels.
    """

    scenes: UInt8
    lids: UInt8
    mouth: UInt8
    names: tuple[str, ...]
    points: Float32
    marked: Float32
    lip_y: float


def load_portrait() -> Portrait:
    """The portrait from the files that come with the package."""
    assets = resources.files("realtime") / "assets"
    geometry = json.loads((assets / "average_face.json").read_text())
    encoded = np.frombuffer((assets / "average_face.jpg").read_bytes(), np.uint8)
    strip = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    tiles = np.split(strip, len(LABELS), axis=1)

    def placed(points: list[list[float]]) -> Float32:
        shift = np.array((MIDDLE_X - SCALE * geometry["middle"], TOP_Y))
        return np.asarray(np.array(points) * SCALE + shift, np.float32)

    points = placed(geometry["common"])
    where = dict(zip(geometry["names"], points, strict=True))
    left, top = placed([geometry["corner"]])[0] - (FACE[1].start, FACE[0].start)
    faces = _coloured(tiles, float(left), float(top), where)
    scenes = _composed(_background(), faces)
    lip_y = geometry["lip_line"] * SCALE + TOP_Y
    return Portrait(
        scenes=scenes,
        lids=_closed(scenes, where),
        mouth=_mouth(lip_y),
        names=tuple(geometry["names"]),
        points=points,
        marked=np.stack([placed(geometry["expressions"][label]) for label in LABELS]),
        lip_y=lip_y,
    )


def _soft(sigma: float, *polygons: Points) -> Float32:
    """(480, 640, 1) float32, 1 inside the polygons, with an edge as soft as sigma pixels."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for polygon in polygons:
        corners = (np.array(polygon) * 16).round().astype(np.int32)
        cv2.fillPoly(mask, [corners], 1.0, cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma)[..., None], np.float32)


def _oval(x: float, y: float, rx: float, above: float, below: float, fullness: float = 2.0) -> Points:
    """A closed curve round (x, y); `fullness` above 2 makes its lower half squarer, as a jaw is."""
    t = np.linspace(-1, 1, 81)
    width = rx * np.sqrt(1 - np.abs(t) ** np.where(t > 0, fullness, 2.0))
    rows = y + np.where(t > 0, below, above) * t
    right = list(zip(x + width, rows, strict=True))
    return right + list(zip((x - width)[::-1], rows[::-1], strict=True))


def _painted(
    picture: Float32, mask: Float32, colour: tuple[int, int, int], light: Float32 | float
) -> Float32:
    return np.asarray(picture + (np.array(colour, np.float32) * light - picture) * mask, np.float32)


def _background() -> Float32:
    """(480, 640, 3) float32: wall, neck, shoulders, the hair behind the head, ears."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    glow = np.exp(-(((x - 250) / 330) ** 2 + ((y - 170) / 300) ** 2))[..., None]
    picture = np.array((104, 98, 92), np.float32) + glow * np.array((62, 60, 54), np.float32)
    side = (1.0 - 0.18 * (x - MIDDLE_X) / 200)[..., None]
    slope = [(378, 388), (464, 408), (544, 436), (580, 480)]
    picture = _painted(picture, _soft(3, _symmetric(slope)), CLOTH, side)
    neck = [(384, 280), (386, 372), (404, 394), (358, 424), (320, 432)]
    shade = np.clip(0.60 + (y - 350) / 160, 0.52, 0.95) * (1 - ((x - MIDDLE_X) / 160) ** 2)
    picture = _painted(picture, _soft(4, _symmetric(neck)), NECK, shade[..., None] * side)
    collar = [(320, 428), (358, 420), (404, 391), (422, 407), (362, 446), (320, 452)]
    picture = _painted(picture, _soft(2, _symmetric(collar)), COLLAR, side)
    picture = _painted(picture, _soft(4, _oval(MIDDLE_X, 180, 106, 146, 62)), HAIR, 1.0)
    ears = [_oval(MIDDLE_X + sign * 98, 206, 10, 22, 24) for sign in (-1, 1)]
    return _painted(picture, _soft(2, *ears), EAR, 1.0)


def _symmetric(right: Points) -> Points:
    return [*right, *((2 * MIDDLE_X - x, y) for x, y in reversed(right))]


def _coloured(tiles: list[UInt8], left: float, top: float, where: dict[str, Float32]) -> list[Float32]:
    """What FACE shows of each grey tile enlarged onto the scene: skin with a grain, lips, eyes."""
    rows, columns = FACE
    size = (columns.stop - columns.start, rows.stop - rows.start)
    random = np.random.default_rng(5).normal(0, 1, size[::-1]).astype(np.float32)
    grain = 5.0 * (cv2.GaussianBlur(random, (0, 0), 1.0) + cv2.GaussianBlur(random, (0, 0), 2.5))
    table = _skin_table()
    corner, upper, lower = (where[name] for name in ("mouth_corner", "upper_lip_top", "lower_lip_bottom"))
    right_lip = [
        (MIDDLE_X, upper[1] + 2),
        (MIDDLE_X + 12, upper[1]),
        (corner[0], corner[1]),
        (MIDDLE_X, lower[1] - 1),
    ]
    lips = 1 - _soft(3.5, _symmetric(right_lip))[FACE] * np.array((0.20, 0.23, 0.02), np.float32)
    eye_x, eye_y = where["lid_upper"][0] - MIDDLE_X, (where["lid_upper"][1] + where["lid_lower"][1]) / 2
    eyes = [_oval(MIDDLE_X + sign * eye_x, eye_y, 17, 6, 6) for sign in (-1, 1)]
    glints = [_oval(MIDDLE_X + sign * eye_x - 2.5, eye_y - 2.5, 1.8, 1.8, 1.8) for sign in (-1, 1)]
    whites, glint = 0.6 * _soft(2.5, *eyes)[FACE], 0.9 * _soft(0.8, *glints)[FACE]
    result = []
    for tile in tiles:
        matrix = np.array([[SCALE, 0, left], [0, SCALE, top]])
        large = cv2.warpAffine(tile, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        grey = large.astype(np.float32)
        grey = (
            2.25 * grey - 0.9 * cv2.GaussianBlur(grey, (0, 0), 3) - 0.35 * cv2.GaussianBlur(grey, (0, 0), 14)
        )
        level = np.clip(1.12 * (grey + grain - 128) + 128, 0, 255).astype(np.uint8)
        face = table[level] * lips
        face += (face.mean(axis=2, keepdims=True) * 1.08 - face) * whites
        result.append(face + (235 - face) * glint)
    return result


def _skin_table() -> Float32:
    """(256, 3) float32: the colour of each grey level."""
    levels, colours = [level for level, _ in SKIN], np.array([colour for _, colour in SKIN])
    ramps = [np.interp(np.arange(256), levels, colours[:, channel]) for channel in range(3)]
    return np.stack(ramps, axis=1).astype(np.float32)


def _composed(base: Float32, faces: list[Float32]) -> UInt8:
    """(7, 480, 640, 3): each face on the body, with hair over the forehead."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    skin = _soft(3.0, _oval(MIDDLE_X, 205, 96, 165, 139, 3.2))
    crown, opening = _oval(MIDDLE_X, 180, 104, 144, 60), _oval(MIDDLE_X + 6, 215, 93, 124, 200)
    hair = np.clip(_soft(3, crown) - _soft(6, opening), 0, 1)
    strands = np.random.default_rng(9).normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32)
    strands = cv2.GaussianBlur(strands, (0, 0), sigmaX=1.2, sigmaY=12)
    shine = 1 + 2.2 * strands + 0.5 * np.exp(-(((x - 285) / 60) ** 2 + ((y - 72) / 30) ** 2))
    base = _painted(base, hair * (1 - skin), HAIR, shine[..., None])
    scenes = np.repeat(np.clip(base, 0, 255).astype(np.uint8)[None], len(faces), axis=0)
    for scene, face in zip(scenes, faces, strict=True):
        picture = base[FACE] + (face - base[FACE]) * skin[FACE]
        picture = _painted(picture, hair[FACE], HAIR, shine[FACE][..., None])
        scene[FACE] = np.clip(picture, 0, 255).astype(np.uint8)
    return scenes


def _closed(scenes: UInt8, where: dict[str, Float32]) -> UInt8:
    """What LIDS shows of each scene with the eyes closed: skin over the eye, lashes along its lower edge."""
    eye_x, eye_y = where["lid_upper"][0] - MIDDLE_X, (where["lid_upper"][1] + where["lid_lower"][1]) / 2
    eyes = [_oval(MIDDLE_X + sign * (eye_x + 1), eye_y, 25, 13, 11) for sign in (-1, 1)]
    over = _soft(2.5, *eyes)[LIDS]
    y, x = np.mgrid[LIDS].astype(np.float32)
    across = (np.abs(x - MIDDLE_X) - eye_x - 1) / 24
    lash = np.exp(-(((y - eye_y - 5 + 4 * across**2) / 1.5) ** 2)) * np.clip(1.6 * (1 - across**2), 0, 1)
    share = np.clip((y - LIDS[0].start) / (LIDS[0].stop - 1 - LIDS[0].start), 0, 1)[..., None]
    result = scenes[:, LIDS[0], LIDS[1]].astype(np.float32)
    for picture in result:
        skin = cv2.GaussianBlur(picture[:1] * (1 - share) + picture[-1:] * share, (0, 0), 2.0)
        picture += (skin - picture) * over
        picture *= 1 - 0.6 * lash[..., None]
    return np.clip(result, 0, 255).astype(np.uint8)


def _mouth(lip_y: float) -> UInt8:
    """Upper teeth over the dark of the mouth, with a tongue below; it stays with the skull."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    tongue = np.exp(-(((x - MIDDLE_X) / 22) ** 2 + ((y - lip_y - 28) / 9) ** 2))[..., None]
    picture = np.array((28, 22, 52), np.float32) + tongue * np.array((36, 34, 84), np.float32)
    across = np.sqrt(np.clip(1 - ((x - MIDDLE_X) / 34) ** 2, 0, 1))
    edge = lip_y + 7.5 - 3 * ((x - MIDDLE_X) / 30) ** 2
    teeth = np.clip((edge - y) / 2, 0, 1) * across
    picture = _painted(picture, teeth[..., None], TEETH, 1.0)
    return np.asarray(np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8), 0, 255), np.uint8)
