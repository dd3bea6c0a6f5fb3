"""Pictures to learn from: faces at random places of varied scenes, and close crops of single faces.

Draws from what the teacher saw (`trainer.finder.teacher.Seen`): clip frames turned and scaled, stills pasted
into other pictures, scenes with nobody but scrambled or upturned faces, and whatever a camera does to them.
Knows nothing of networks. Scenes leave it as (picture, faces), crops as (crop, points, whether a face).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.signals.align import similarity, warp
from engine.signals.face_networks import ALIGNER_TEMPLATE, CROP
from trainer.finder.scenery import Source, scenery, scrambled, shot
from trainer.finder.teacher import MIRRORED, SURE, Seen

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LEAST_FACE, MOST_FACE = 14.0, 185.0
MOST_ENLARGED = {"clip": 2.0, "lfw": 1.6, "ferplus": 3.2}
SHIFT_MOST, SCALE_MOST, TURN_MOST = 14.0, 0.4, 35.0
"""How far from its template a face may lie in a crop (pixels, natural log, degrees) and still be one."""


def scene(rng: np.random.Generator, source: Source, height: int, width: int) -> tuple[UInt8, Float32]:
    """A picture and its faces, (F, 15) as `Seen` has them; confidences below SURE are left out."""
    kind = rng.random()
    base = scenery(rng, source, height, width)
    faces = np.zeros((0, 15), np.float32)
    if kind < 0.5:
        index = source.draw(rng, ("clip",), (1.0,))
        base, faces = _laid(rng, base, source.seen, index)
    elif kind < 0.9:
        if rng.random() < 0.4:
            base, faces = _laid(rng, base, source.seen, source.draw(rng, ("clip",), (1.0,)))
        for _ in range(int(rng.integers(1, 4))):
            index = source.draw(rng, ("lfw", "ferplus"), (0.5, 0.5))
            base, faces = _pasted(rng, base, faces, source.seen, index)
    if kind > 0.82:
        base, faces = _decoys(rng, base, faces, source)
    base = _covered(rng, base, faces)
    inside = _inside(faces, height, width)
    return shot(rng, base), inside


def crop(rng: np.random.Generator, source: Source) -> tuple[UInt8, Float32, float]:
    """(80, 80) uint8; (14,) the middle and size of the box and the five points; 1 for a face, 0 for none."""
    index = source.draw(rng, ("clip", "lfw", "ferplus"), (0.4, 0.4, 0.2))
    picture, faces = source.seen.pictures[index], source.seen.faces[index]
    sure = faces[faces[:, 14] >= SURE]
    face = sure[int(rng.integers(len(sure)))][None]
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
        face = _carried(face, np.array([[-1.0, 0, picture.shape[1] - 1], [0, 1, 0]]))
    matrix = similarity(face[0, 4:14].reshape(5, 2), ALIGNER_TEMPLATE)
    if rng.random() < 0.25:
        return _no_face(rng, source, picture, matrix), np.zeros(14, np.float32), 0.0
    wide = rng.random() < 0.25
    turn = rng.uniform(-TURN_MOST, TURN_MOST) if wide else rng.normal(0, 5)
    scale = rng.uniform(-SCALE_MOST, SCALE_MOST) if wide else np.clip(rng.normal(0, 0.07), -0.3, 0.3)
    shift = rng.uniform(-SHIFT_MOST, SHIFT_MOST, 2) if wide else np.clip(rng.normal(0, 2.5, 2), -13, 13)
    matrix = _moved(matrix, CROP / 2, turn, math.exp(scale), shift)
    image = warp(picture, matrix, CROP)
    if rng.random() < 0.5:
        image = _on_scenery(rng, source, image, picture.shape, matrix)
    face = _carried(face, matrix)
    image = _covered(rng, image, face)
    if rng.random() < 0.3:  # a face of fewer pixels than the crop has
        fewer = rng.uniform(0.2, 0.6)
        small = cv2.resize(image, None, fx=fewer, fy=fewer, interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    image = shot(rng, image)
    return image, np.concatenate([face[0, :2] + face[0, 2:4] / 2, face[0, 2:14]]), 1.0


def _no_face(rng: np.random.Generator, source: Source, picture: UInt8, matrix: Float64) -> UInt8:
    kind = rng.random()
    if kind < 0.3:
        return shot(rng, scenery(rng, source, CROP, CROP))
    if kind < 0.65:  # beside the face, or part of it
        away = rng.uniform(30, 60) * _unit(rng.uniform(0, 2 * math.pi))
        moved = _moved(matrix, CROP / 2, rng.normal(0, 15), math.exp(rng.normal(0, 0.2)), away)
    elif kind < 0.85:  # far too large or small
        size = math.exp(rng.choice([-1, 1]) * rng.uniform(0.9, 1.6))
        moved = _moved(matrix, CROP / 2, rng.normal(0, 15), size, rng.normal(0, 5, 2))
    else:  # upside down
        moved = _moved(
            matrix, CROP / 2, rng.uniform(120, 240), math.exp(rng.normal(0, 0.2)), rng.normal(0, 6, 2)
        )
    image = warp(picture, moved, CROP)
    if rng.random() < 0.5:
        image = _on_scenery(rng, source, image, picture.shape, moved)
    return shot(rng, scrambled(rng, image) if rng.random() < 0.15 else image)


def _moved(
    matrix: Float64, middle: float, degrees: float, scale: float, shift: NDArray[np.float64]
) -> Float64:
    """A transform followed by a turn and scale about the middle, and a shift."""
    onward = cv2.getRotationMatrix2D((middle, middle), degrees, scale)
    onward[:, 2] += shift
    return np.asarray(np.vstack([onward, (0, 0, 1)])[:2] @ np.vstack([matrix, (0, 0, 1)]), np.float64)


def _unit(angle: float) -> NDArray[np.float64]:
    return np.array([math.cos(angle), math.sin(angle)])


def _on_scenery(
    rng: np.random.Generator, source: Source, image: UInt8, size: tuple[int, ...], matrix: Float64
) -> UInt8:
    """What lies beyond the picture's border becomes something else."""
    inside = cv2.warpAffine(np.full(size, 255, np.uint8), matrix, image.shape[::-1])
    if inside.min() == 255:
        return image
    other = scenery(rng, source, *image.shape)
    return np.asarray(np.where(inside > 127, image, other), np.uint8)


def _laid(rng: np.random.Generator, base: UInt8, seen: Seen, index: int) -> tuple[UInt8, Float32]:
    """A clip's frame over the scenery, so that one of its faces has a size and place of its own."""
    picture, faces = seen.pictures[index], seen.faces[index]
    height, width = base.shape
    mirrored = rng.random() < 0.5
    if rng.random() < 0.8:
        sure = faces[faces[:, 14] >= SURE]
        face = sure[int(rng.integers(len(sure)))]
        scale = _scale(rng, max(face[2:4]), "clip")
        middle = face[:2] + face[2:4] / 2
    else:
        scale = math.exp(rng.uniform(math.log(0.3), math.log(1.2)))
        middle = rng.uniform(0, picture.shape[::-1])
    place = rng.uniform(0.1, 0.9, 2) * (width, height)
    matrix = _placement(rng, middle, scale, place, mirrored)
    return _drawn(picture, faces, matrix, base, None)


def _scale(rng: np.random.Generator, side: float, kind: str) -> float:
    most = min(MOST_FACE, MOST_ENLARGED[kind] * side)
    return math.exp(rng.uniform(math.log(LEAST_FACE), math.log(max(most, LEAST_FACE + 1)))) / side


def _placement(
    rng: np.random.Generator, middle: NDArray[np.floating], scale: float, place: Float64, mirrored: bool
) -> Float64:
    degrees = float(np.clip(rng.normal(0, 10), -30, 30)) if rng.random() < 0.85 else rng.uniform(-45, 45)
    turn = cv2.getRotationMatrix2D((0, 0), degrees, scale)[:, :2]
    stretch = math.exp(rng.normal(0, 0.04))
    turn = turn @ np.diag([-stretch if mirrored else stretch, 1 / stretch])
    return np.hstack([turn, (place - turn @ np.asarray(middle, np.float64))[:, None]])


def _drawn(
    picture: UInt8, faces: Float32, matrix: Float64, base: UInt8, mask: Float32 | None
) -> tuple[UInt8, Float32]:
    """The picture through a transform over a base, and where its faces come to lie."""
    size = base.shape[::-1]
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    shown, onward = picture, matrix
    if scale < 0.6:
        factor = min(1.0, scale * 1.3)
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        ratio = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]])
        linear = matrix[:, :2] / ratio
        onward = np.hstack([linear, (matrix[:, 2] - linear @ (0.5 * (ratio - 1)))[:, None]])
        shown = np.asarray(small, np.uint8)
        mask = None if mask is None else cv2.resize(mask, small.shape[::-1], interpolation=cv2.INTER_AREA)
    laid = cv2.warpAffine(shown, onward, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    whole = np.ones(shown.shape, np.float32) if mask is None else mask
    weight = cv2.warpAffine(whole, onward, size)
    mixed = base + weight * (laid.astype(np.float32) - base)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8), _carried(faces, matrix)


def _carried(faces: Float32, matrix: Float64) -> Float32:
    """Faces through a transform; the box keeps its place about the points and takes their size."""
    if not len(faces):
        return faces
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    linear, shift = matrix[:, :2], matrix[:, 2]
    moved = faces.copy()
    middle = (faces[:, :2] + faces[:, 2:4] / 2) @ linear.T + shift
    moved[:, 2:4] = faces[:, 2:4] * scale
    moved[:, :2] = middle - moved[:, 2:4] / 2
    points = faces[:, 4:14].reshape(-1, 5, 2) @ linear.T + shift
    if np.linalg.det(linear) < 0:
        points = points[:, MIRRORED]
    moved[:, 4:14] = points.reshape(-1, 10)
    return moved


def _pasted(
    rng: np.random.Generator, base: UInt8, faces: Float32, seen: Seen, index: int
) -> tuple[UInt8, Float32]:
    """A still put into a scene, whole or only its face with soft borders; who was there before gives way."""
    picture, rows, kind = seen.pictures[index], seen.faces[index], str(seen.kinds[index])
    best = rows[rows[:, 14].argmax()][None]
    side = float(max(best[0, 2:4]))
    middle = best[0, :2] + best[0, 2:4] / 2
    place = rng.uniform(0.05, 0.95, 2) * base.shape[::-1]
    matrix = _placement(rng, middle, _scale(rng, side, kind), place, rng.random() < 0.5)
    mask = _mask(rng, picture, middle, side)
    light = rng.normal(0, 15)
    shown = np.asarray(
        np.clip(picture.astype(np.float32) * math.exp(rng.normal(0, 0.15)) + light, 0, 255), np.uint8
    )
    drawn, added = _drawn(shown, best, matrix, base, mask)
    kept = [row for row in faces if _overlap(row, added[0]) < 0.6]
    for row in kept:
        if _overlap(row, added[0]) > 0.15:
            row[14] = min(row[14], 0.5)
    return drawn, np.stack([*kept, added[0]])


def _mask(rng: np.random.Generator, picture: UInt8, middle: Float32, side: float) -> Float32:
    """Which part of a still is shown: all of it, or an oval around the face, with a soft border."""
    mask = np.ones(picture.shape, np.float32)
    if rng.random() < 0.6:
        mask[:] = 0
        axes = (int(side * rng.uniform(0.5, 0.75)), int(side * rng.uniform(0.62, 0.9)))
        cv2.ellipse(mask, tuple(int(v) for v in middle), axes, 0, 0, 360, 1.0, -1)
    edge = max(1, int(0.02 * min(picture.shape)))
    mask[:edge], mask[-edge:], mask[:, :edge], mask[:, -edge:] = 0, 0, 0, 0
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), side * rng.uniform(0.02, 0.06)), np.float32)


def _overlap(one: Float32, other: Float32) -> float:
    """The share of `one` that `other` covers."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[:2] + one[2:4], other[:2] + other[2:4])
    return float(np.clip(high - low, 0, None).prod() / max(one[2:4].prod(), 1e-6))


def _decoys(rng: np.random.Generator, base: UInt8, faces: Float32, source: Source) -> tuple[UInt8, Float32]:
    """Upturned, scrambled and partial faces, which are none."""
    for _ in range(int(rng.integers(0, 3))):
        index = source.draw(rng, ("lfw", "ferplus"), (0.5, 0.5))
        picture, rows = source.seen.pictures[index], source.seen.faces[index]
        face = rows[rows[:, 14].argmax()]
        x, y, w, h = (int(v) for v in face[:4])
        patch = picture[max(y, 0) : y + h, max(x, 0) : x + w]
        kind = rng.random()
        if kind < 0.35:
            patch = patch[::-1]
        elif kind < 0.75:
            patch = scrambled(rng, patch)
        else:
            half = patch.shape[0] // 2
            patch = patch[half:] if rng.random() < 0.5 else patch[:, : patch.shape[1] // 3]
        side = int(rng.uniform(16, 120))
        size = (side, max(4, round(side * patch.shape[0] / max(patch.shape[1], 1))))
        patch = cv2.resize(np.ascontiguousarray(patch), size, interpolation=cv2.INTER_AREA)
        top, left = (int(rng.integers(-side // 2, length)) for length in base.shape)
        part = base[max(top, 0) : top + size[1], max(left, 0) : left + size[0]]
        part[:] = patch[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
        decoy = np.array([left, top, *size], np.float32)
        faces = np.array([row for row in faces if _overlap(row, decoy) < 0.1], np.float32).reshape(-1, 15)
    return base, faces


def _covered(rng: np.random.Generator, image: UInt8, faces: Float32) -> UInt8:
    """Hands, hair, microphones and edges: a patch over part of a third of the faces, never most of it."""
    for face in faces:
        if face[14] < 0 or rng.random() > 0.3:
            continue
        image = image if image.flags.writeable else image.copy()
        x, y, w, h = face[:4]
        axes = rng.uniform(0.08, 0.26, 2) * (w, h)
        middle = (x + w * rng.uniform(-0.05, 1.05), y + h * rng.uniform(-0.05, 1.05))
        grey = float(rng.uniform(0, 255))
        where = np.zeros(image.shape, np.uint8)
        place, size = tuple(int(v) for v in middle), tuple(max(1, int(v)) for v in axes)
        cv2.ellipse(where, place, size, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        shade = grey + rng.normal(0, 12, image.shape) if rng.random() < 0.5 else np.full(image.shape, grey)
        image = np.asarray(np.where(where > 0, np.clip(shade, 0, 255), image), np.uint8)
    return image


def _inside(faces: Float32, height: int, width: int) -> Float32:
    """Faces within the picture; those cut by its border so that little is left count as neither."""
    if not len(faces):
        return faces
    faces = faces.copy()
    points = faces[:, 4:14].reshape(-1, 5, 2)
    seen = ((points >= 0) & (points < (width, height))).all(2).sum(1)
    middle = faces[:, :2] + faces[:, 2:4] / 2
    within = ((middle >= 0) & (middle < (width, height))).all(1)
    faces[:, 14] = np.where((seen >= 4) & within, faces[:, 14], np.minimum(faces[:, 14], 0.5))
    turned = np.abs(np.arctan2(points[:, 1, 1] - points[:, 0, 1], points[:, 1, 0] - points[:, 0, 0]))
    faces[:, 14] = np.where(turned < math.radians(55), faces[:, 14], np.minimum(faces[:, 14], 0.5))
    small = faces[:, 2:4].max(1) < LEAST_FACE - 1
    faces[:, 14] = np.where(small, np.minimum(faces[:, 14], 0.5), faces[:, 14])
    return faces[seen > 0]
