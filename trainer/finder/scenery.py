"""What scenes are made from: pictures of one split, scenery without faces, and what a camera does.

Knows nothing of where faces are put. Pictures leave it as (H, W) uint8, grey.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.finder.teacher import SURE, Seen

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The pictures of one split. by_kind: positions in `seen` of pictures with a sure face."""

    seen: Seen
    by_kind: dict[str, NDArray[np.int64]]
    scenery: list[UInt8]

    @classmethod
    def of(cls, seen: Seen, dev: bool) -> "Source":
        """The training pictures, or those for dev. Two photographs of scikit-learn are scenery."""
        from sklearn.datasets import load_sample_images

        sure = np.array([bool((faces[:, 14] >= SURE).any()) for faces in seen.faces])
        kinds = ("clip", "lfw", "ferplus")
        chosen = {kind: np.flatnonzero((seen.kinds == kind) & (seen.dev == dev) & sure) for kind in kinds}
        photographs = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in load_sample_images().images]
        return cls(seen, chosen, [np.asarray(p, np.uint8) for p in photographs])

    def draw(self, rng: np.random.Generator, kinds: tuple[str, ...], shares: tuple[float, ...]) -> int:
        """The position of a picture."""
        kind = kinds[int(rng.choice(len(kinds), p=shares))]
        return int(rng.choice(self.by_kind[kind]))


def scenery(rng: np.random.Generator, source: Source, height: int, width: int) -> UInt8:
    """A picture without faces: a cut of a photograph, or textures, shapes and letters."""
    kind = rng.random()
    if kind < 0.4:
        photograph = source.scenery[int(rng.integers(len(source.scenery)))]
        side = int(rng.uniform(0.15, 1.0) * min(photograph.shape))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photograph.shape)
        cut = photograph[top : top + side, left : left + side]
        cut = cut[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    image = np.full((height, width), rng.uniform(0, 255), np.float32)
    for cells in (3, 8, 24):
        if rng.random() < 0.7:
            noise = rng.normal(0, rng.uniform(5, 45), (cells, cells)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=int(rng.choice([0, 1, 2])))
    if rng.random() < 0.1:
        image += rng.uniform(15, 90) * rng.standard_normal((height, width), dtype=np.float32)
    if rng.random() < 0.2:
        period, angle = rng.uniform(4, 40), rng.uniform(0, math.pi)
        rows, columns = np.mgrid[:height, :width]
        wave = np.sin((rows * math.cos(angle) + columns * math.sin(angle)) * 2 * math.pi / period)
        image += (rng.uniform(10, 60) * wave).astype(np.float32)
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 9))):
        _shape(rng, image)
    return image


def _shape(rng: np.random.Generator, image: UInt8) -> None:
    height, width = image.shape
    x, y, grey = (int(v) for v in rng.uniform(0, (width, height, 255)))
    thick = int(rng.choice([-1, 1, 2, 4]))
    kind = int(rng.integers(5))
    if kind == 0:
        axes = tuple(int(v) for v in rng.uniform(3, 60, 2))
        cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, grey, thick)
    elif kind == 1:
        corner = (x + int(rng.uniform(3, 90)), y + int(rng.uniform(3, 90)))
        cv2.rectangle(image, (x, y), corner, grey, thick)
    elif kind == 2:
        cv2.line(image, (x, y), tuple(int(v) for v in rng.uniform(0, (width, height))), grey, max(1, thick))
    elif kind == 3:
        text = "".join(chr(c) for c in rng.integers(33, 123, int(rng.integers(1, 12))))
        cv2.putText(
            image,
            text,
            (x - 20, y),
            int(rng.integers(0, 7)),
            float(rng.uniform(0.4, 2.5)),
            grey,
            max(1, thick),
        )
    else:  # two dark dots over a dash: nearly a face
        size = rng.uniform(8, 50)
        for right in (-0.4, 0.4):
            cv2.circle(image, (int(x + right * size), y), max(1, int(size / 8)), grey // 2, -1)
        cv2.line(image, (int(x - size / 3), int(y + size)), (int(x + size / 3), int(y + size)), grey // 2, 2)


def scrambled(rng: np.random.Generator, patch: UInt8) -> UInt8:
    """The same pieces in another order."""
    cells = int(rng.integers(2, 5))
    height, width = (max(1, length // cells) for length in patch.shape)
    pieces = [
        patch[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r in range(cells)
        for c in range(cells)
    ]
    order = rng.permutation(len(pieces))
    rows = [np.hstack([pieces[order[r * cells + c]] for c in range(cells)]) for r in range(cells)]
    mixed = np.vstack(rows)
    return np.asarray(cv2.resize(mixed, patch.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def shot(rng: np.random.Generator, image: UInt8) -> UInt8:
    """As a camera might have taken it: light, blur, lost detail, noise, compression."""
    if rng.random() < 0.2:
        sharp = rng.uniform(0.3, 0.8)
        small = cv2.resize(image, None, fx=sharp, fy=sharp, interpolation=cv2.INTER_AREA)
        image = cv2.resize(
            small, image.shape[::-1], interpolation=int(rng.choice([0, 1, 2], p=[0.1, 0.6, 0.3]))
        )
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
    elif rng.random() < 0.1:
        length, angle = int(rng.integers(3, 8)), rng.uniform(0, math.pi)
        kernel = np.zeros((length, length), np.float32)
        ends = (length - 1) / 2 + (length - 1) / 2 * np.array([[-1], [1]]) * np.array(
            [math.cos(angle), math.sin(angle)]
        )
        cv2.line(kernel, *(tuple(round(float(v)) for v in end) for end in ends), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    table = np.linspace(0, 1, 256) ** math.exp(rng.normal(0, 0.35))
    contrast, light = math.exp(rng.normal(0, 0.2)), rng.normal(0, 20)
    table = (table - 0.5) * 255 * contrast + 127.5 + light
    if rng.random() < 0.03:
        table = 255 - table
    lit = cv2.LUT(np.asarray(image, np.uint8), np.clip(table, 0, 255).astype(np.float32))
    if rng.random() < 0.25:
        height, width = lit.shape
        slope = rng.uniform(-0.5, 0.5, 2)
        ramp = 1 + slope[0] * np.linspace(-1, 1, width)[None] + slope[1] * np.linspace(-1, 1, height)[:, None]
        lit = lit * ramp.astype(np.float32)
    if rng.random() < 0.35:
        lit = lit + rng.uniform(1, 11) * rng.standard_normal(lit.shape, dtype=np.float32)
    final = np.clip(lit, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, code = cv2.imencode(".jpg", final, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))))
        final = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)
    return np.asarray(final, np.uint8)
