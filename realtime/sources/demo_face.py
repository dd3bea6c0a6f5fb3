"""The talking head of the demo: a `FaceState` in, a picture out.

Warps the portrait's still pictures by its points: expression, jaw, lips, lids and a slight turn of the
head become one smooth map a frame, made on a coarse grid, and the lower lip lies on a sheet of its own
so that the mouth can open. Knows nothing of time or sound: the same state gives the same picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import Float32, UInt8
from realtime.sources.demo_portrait import FACE, LABELS, LIDS, MIDDLE_X, SCALE, Portrait

STEP = 5  # pixels between the nodes of the coarse grid
HEAD = (slice(10, 440), slice(140, 500))  # rows, columns that can move; multiples of STEP in size
JAW_ROW = 225  # rows below this one belong to the lower lip's sheet too
MOUTH = (slice(255, 345), slice(250, 390))  # rows, columns in which the lips part

REST_GAP = {
    "neutral": 1.0,
    "happy": 7.0,
    "sad": 1.5,
    "angry": 3.0,
    "fearful": 5.0,
    "disgust": 3.0,
    "surprised": 9.0,
}
# What is added to the averages' own points, in the asset's pixels: acting, so that it reads at a glance.
ACTING: dict[str, dict[str, tuple[float, float]]] = {
    "neutral": {},
    "happy": {"mouth_corner": (4, -5), "cheek": (1, -3), "lid_lower": (0, -1.5), "fold": (2, -2)},
    "sad": {
        "brow_inner": (1, -7), "brow_middle": (0, -2), "brow_outer": (1, 3), "mouth_corner": (0, 5),
        "lower_lip": (0, -2), "lower_lip_bottom": (0, -2), "chin": (0, -2), "lid_upper": (0, 1.5),
        "lid_outer": (0, 2),
    },
    "angry": {
        "brow_inner": (-3, 3), "brow_middle": (-1, 2), "brow_outer": (0, -2), "lid_upper": (0, 1),
        "lid_lower": (0, -1),
        "nose_wing": (2, -1), "nostril": (1, 0), "upper_lip_side": (2, -2), "mouth_corner": (-1, 2),
        "lower_lip_side": (2, 1),
    },
    "fearful": {
        "brow_inner": (-1, -3), "brow_middle": (0, -2), "lid_upper": (0, -2), "lid_lower": (0, 1),
        "mouth_corner": (4, 2),
        "lower_lip_side": (2, 2),
    },
    "disgust": {
        "brow_inner": (-1, 2), "brow_middle": (0, 2), "nose_wing": (1, -4), "nostril": (0, -3),
        "nose_base": (0, -2),
        "nose_tip": (0, -2), "upper_lip": (0, -3), "upper_lip_side": (0, -5), "upper_lip_top": (0, -4),
        "cheek": (0, -3),
        "lid_lower": (0, -2), "mouth_corner": (0, 2), "fold": (1, -3),
    },
    "surprised": {
        "brow_inner": (0, -8), "brow_middle": (0, -10), "brow_outer": (0, -7), "lid_upper": (0, -3.5),
        "lid_outer": (0, -3),
        "lid_lower": (0, 1), "mouth_corner": (-3, 2), "chin": (0, 5), "lower_lip_bottom": (0, 3),
    },
}  # fmt: skip
SPEECH: dict[str, dict[str, tuple[float, float]]] = {
    "jaw": {
        "lower_lip": (0, 13), "lower_lip_side": (-1, 11), "lower_lip_bottom": (0, 13), "chin": (0, 11),
        "jaw": (0, 4),
        "mouth_corner": (-1.5, 3), "upper_lip": (0, -2.5), "upper_lip_side": (0, -2),
        "upper_lip_top": (0, -1.5), "fold": (0, 1),
    },
    "spread": {
        "mouth_corner": (5, -0.5), "upper_lip_side": (1, 0), "lower_lip_side": (1, 0), "fold": (1.5, 0),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceState:
    """What the face does at one moment.

    first, second: indices into LABELS; share: of the second, 0..1.
    strength: of the expression, about 1.
    jaw: 0 closed .. 1 wide open; spread: -1 rounded lips .. 1 drawn wide; blink: 0 open .. 1 closed.
    x, y: pixels; roll: radians; size: 1 as painted; yaw, pitch: -1..1, about 15 degrees.
    """

    first: int
    second: int
    share: float
    strength: float
    jaw: float
    spread: float
    blink: float
    x: float
    y: float
    roll: float
    size: float
    yaw: float
    pitch: float


class TalkingHead:
    """Renders `FaceState`s; holds scratch memory only, so equal states give equal pictures."""

    def __init__(self, portrait: Portrait) -> None:
        self._portrait = portrait
        names = portrait.names
        index = {name: n for n, name in enumerate(names)}
        self._index = index
        self._offsets = self._expression_offsets()
        self._moves = {
            key: np.array([move.get(name, (0, 0)) for name in names], np.float32) * np.float32(SCALE)
            for key, move in SPEECH.items()
        }
        off = np.append(
            np.abs(portrait.points[:, 0] - MIDDLE_X) > 0.5, np.abs(ANCHORS[:, 0] - MIDDLE_X) > 0.5
        )
        count, every = len(names), range(len(names) + len(ANCHORS))
        self._upper, self._lower = (
            # columns of the points on a sheet: for x those off the middle (where x stays), for y all
            tuple(
                np.array(
                    [n for n in every if (n >= count or not names[n].startswith(lip)) and (off[n] or axis)]
                )
                for axis in (0, 1)
            )
            for lip in ("lower_lip", "upper_lip")
        )
        x = np.arange(MIDDLE_X, FACE[1].stop + 1, STEP)
        y = np.arange(FACE[0].start, FACE[0].stop + 1, STEP)
        grid = np.meshgrid(x, y)
        self._nodes = np.stack([grid[0].ravel(), grid[1].ravel()], axis=1).astype(np.float32)
        self._node_shape = (len(y), len(x))
        self._jaw_node = int((y < JAW_ROW).sum()) * len(x)
        edge_x, edge_y = np.clip((FACE[1].stop - x) / 40, 0, 1), np.clip((FACE[0].stop - y) / 40, 0, 1)
        self._taper = (edge_y[:, None] * edge_x[None, :]).astype(np.float32)[..., None]
        self._head = _HeadGrid()
        self._scene = portrait.scenes[0].copy()
        self._face = portrait.scenes[0][FACE].copy()

    def _expression_offsets(self) -> Float32:
        """(7, P, 2): what each expression adds to the points of the portrait."""
        portrait, index = self._portrait, self._index
        result = portrait.marked.copy()
        for n, label in enumerate(LABELS):
            for end in ("", "_side"):
                top, bottom = index["upper_lip" + end], index["lower_lip" + end]
                middle = (result[n, top, 1] + result[n, bottom, 1]) / 2
                gap = REST_GAP[label] * SCALE * (1.0 if end == "" else 0.8)
                result[n, top, 1], result[n, bottom, 1] = middle - gap / 2, middle + gap / 2
            for name, move in ACTING[label].items():
                result[n, index[name]] += np.array(move, np.float32) * np.float32(SCALE)
        return np.asarray(result - portrait.points, np.float32)

    def render(self, state: FaceState) -> UInt8:
        """(480, 640, 3) uint8, BGR, a new array."""
        source = self._texture(state)
        points = self._points(state)
        upper, lower = self._fields(points)
        at = self._head.posed(state)
        picture = self._portrait.scenes[0].copy()
        upper_map = self._head.full(at, _mirrored(upper * self._taper))
        picture[HEAD] = cv2.remap(source, upper_map, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._open_mouth(picture, source, at, upper_map, _mirrored(lower * self._taper), points)
        return np.asarray(picture, np.uint8)

    def _texture(self, state: FaceState) -> UInt8:
        """The still picture of the moment: one expression's, two mixed, lids down."""
        first, second, share = state.first, state.second, min(max(state.share, 0.0), 1.0)
        scenes, lids = self._portrait.scenes, self._portrait.lids
        if state.blink <= 0 and share in (0.0, 1.0):
            return np.asarray(scenes[second if share else first], np.uint8)
        cv2.addWeighted(scenes[first][FACE], 1 - share, scenes[second][FACE], share, 0, self._face)
        self._scene[FACE] = self._face
        if state.blink > 0:
            closed = cv2.addWeighted(lids[first], 1 - share, lids[second], share, 0)
            self._scene[LIDS] = cv2.addWeighted(self._scene[LIDS], 1 - state.blink, closed, state.blink, 0)
        return np.asarray(self._scene, np.uint8)

    def _points(self, state: FaceState) -> Float32:
        """(P, 2): where the points are at this moment, before the head moves."""
        index, moves = self._index, self._moves
        shift = (1 - state.share) * self._offsets[state.first] + state.share * self._offsets[state.second]
        points = self._portrait.points + state.strength * shift
        points = points + state.jaw * moves["jaw"] + state.spread * moves["spread"]
        for lid, share in (("lid_upper", 1.0), ("lid_outer", 0.8)):
            closed = points[index["lid_lower"], 1] - 8 * share
            points[index[lid], 1] += state.blink * (closed - points[index[lid], 1]) * share
        points[index["brow_middle"], 1] += 1.5 * state.blink
        return np.asarray(points, np.float32)

    def _fields(self, points: Float32) -> tuple[Float32, Float32]:
        """Two (rows, columns, 2): from where each node of the right half takes its pixel, less where it is.

        The first is that of the upper lip's sheet, the second that of the lower lip's.
        """
        places = np.vstack([points, ANCHORS])
        wanted = np.vstack([self._portrait.points, ANCHORS]) - places
        other = places * np.array((-1, 1), np.float32) + np.array((2 * MIDDLE_X, 0), np.float32)
        near, far = _distances(places, places), _distances(places, other)
        node_near, node_far = _distances(self._nodes, places), _distances(self._nodes, other)
        even, odd = node_near + node_far, node_near - node_far
        upper = np.empty((len(self._nodes), 2), np.float32)
        for column, (kernel, nodes) in enumerate(((near - far, odd), (near + far, even))):
            upper[:, column] = nodes @ _weights(kernel, wanted[:, column], self._upper[column])
        lower = upper.copy()
        part = slice(self._jaw_node, None)
        for column, (kernel, nodes) in enumerate(((near - far, odd), (near + far, even))):
            lower[part, column] = nodes[part] @ _weights(kernel, wanted[:, column], self._lower[column])
        return upper.reshape(*self._node_shape, 2), lower.reshape(*self._node_shape, 2)

    def _open_mouth(
        self, picture: UInt8, source: UInt8, at: Float32, upper_map: Float32, lower: Float32, points: Float32
    ) -> None:
        """Paint what is between the lips, then the lower lip's sheet over it."""
        rows, columns = MOUTH
        inside = (
            slice(rows.start - HEAD[0].start, rows.stop - HEAD[0].start),
            slice(columns.start - HEAD[1].start, columns.stop - HEAD[1].start),
        )
        still = self._head.full(at, None, inside)
        lower_map = self._head.full(at, lower, inside)
        upper_map = upper_map[inside]
        lip_y = self._portrait.lip_y
        corner = self._portrait.points[self._index["mouth_corner"], 0] - MIDDLE_X
        across = np.abs(upper_map[..., 0] - MIDDLE_X)
        between = np.clip((corner - across) / 4, 0, 1) * np.clip(upper_map[..., 1] - lip_y, 0, 1)
        between *= np.clip(lip_y + 6 - lower_map[..., 1], 0, 1)
        across = np.abs(lower_map[..., 0] - MIDDLE_X)
        softness = 1.2 + 0.6 * np.clip(across - corner + 3, 0, 40)
        below = np.clip((lower_map[..., 1] - lip_y) / softness + 0.3, 0, 1)
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        x = np.abs(np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - MIDDLE_X)
        below = below * np.clip((rows.stop - 2 - y) / 14, 0, 1) * np.clip((68 - x) / 14, 0, 1)
        mouth = cv2.remap(self._portrait.mouth, still, None, cv2.INTER_LINEAR)
        lip = cv2.remap(source, lower_map, None, cv2.INTER_LINEAR)
        area = picture[MOUTH].astype(np.float32)
        area += (mouth - area) * between[..., None].astype(np.float32)
        area += (lip - area) * below[..., None].astype(np.float32)
        picture[MOUTH] = np.clip(area + 0.5, 0, 255).astype(np.uint8)


class _HeadGrid:
    """The coarse grid over the part of the picture that moves with the head."""

    def __init__(self) -> None:
        rows, columns = HEAD
        middle = (STEP - 1) / 2  # where cv2.resize puts a node
        y = np.arange(rows.start, rows.stop, STEP, dtype=np.float32) + middle
        x = np.arange(columns.start, columns.stop, STEP, dtype=np.float32) + middle
        self._x, self._y = np.meshgrid(x, y)
        dx, dy = (self._x - MIDDLE_X) / 195, (self._y - 195) / np.where(self._y < 195, 180, 240)
        self._rigid = np.clip((1 - np.hypot(dx, dy)) / 0.38, 0, 1) ** 1.0
        self._rigid = self._rigid * self._rigid * (3 - 2 * self._rigid)
        self._depth = np.exp(-(((self._x - MIDDLE_X) / 62) ** 2) - ((self._y - 225) / 110) ** 2)

    def posed(self, state: FaceState) -> Float32:
        """(rows, columns, 2): the place on the unmoved head that each node shows."""
        dx, dy = self._x - MIDDLE_X - state.x, self._y - PIVOT_Y - state.y
        cos, sin = np.cos(state.roll) / state.size, np.sin(state.roll) / state.size
        x = MIDDLE_X + cos * dx + sin * dy - 13 * state.yaw * self._depth
        y = PIVOT_Y - sin * dx + cos * dy - 11 * state.pitch * self._depth
        x, y = self._x + self._rigid * (x - self._x), self._y + self._rigid * (y - self._y)
        return np.stack([x, y], axis=-1).astype(np.float32)

    def full(self, at: Float32, field: Float32 | None, part: tuple[slice, slice] | None = None) -> Float32:
        """(H, W, 2): the source of each pixel of the moving part, or of `part` of it (multiples of STEP)."""
        if part is not None:
            rows, columns = part
            at = at[rows.start // STEP : rows.stop // STEP, columns.start // STEP : columns.stop // STEP]
        if field is not None:
            node = (at - (FACE[1].start, FACE[0].start)).astype(np.float32) / STEP
            at = at + cv2.remap(field, node, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        size = (at.shape[1] * STEP, at.shape[0] * STEP)
        return np.asarray(cv2.resize(at, size, interpolation=cv2.INTER_LINEAR), np.float32)


PIVOT_Y = 330.0  # the head turns and nods about the neck
ANCHORS = np.array(
    [(320, 40), (320, 420), (360, 425), (405, 380), (440, 300), (450, 200), (440, 110), (390, 50)], np.float32
)


def _distances(a: Float32, b: Float32) -> Float32:
    """(A, B) Euclidean distances."""
    middle = a.mean(axis=0)
    a, b = a - middle, b - middle
    square = (-2 * a) @ b.T
    square += (a * a).sum(axis=1)[:, None]
    square += (b * b).sum(axis=1)
    np.maximum(square, 0, out=square)
    return np.asarray(np.sqrt(square, out=square), np.float32)


def _weights(kernel: Float32, wanted: Float32, chosen: NDArray[np.intp]) -> Float32:
    """(P,) weights of the radial functions of the chosen points, 0 for the others."""
    result = np.zeros(len(wanted), np.float32)
    result[chosen] = np.linalg.solve(kernel[np.ix_(chosen, chosen)], wanted[chosen])
    return result


def _mirrored(half: Float32) -> Float32:
    """The whole field from its right half (rows, columns, 2), column 0 on the middle."""
    left = half[:, :0:-1] * np.array((-1, 1), np.float32)
    return np.ascontiguousarray(np.concatenate([left, half], axis=1), np.float32)
