"""`python -m trainer.finder.teacher --shared DIR --out FILE`: what YuNet sees, for our finder to learn.

Reads the clips of `split.json` (train and dev), the FERPlus tiles and the LFW photographs. Every face's box
and points are the mean of several looks at it (mirrored, shifted, at other sizes), which halves YuNet's own
noise. Knows nothing of networks. Pictures and faces leave it as an npz without pickles, read as `Seen`.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engine.signals.yunet import YUNET_FILE
from trainer.borrowed_faces import HELD_INITIALS
from trainer.data.stills import BORDER, TILE, grey

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

SPLIT = Path(__file__).with_name("split.json")
CLIP_FRAMES = 110
CLIP_SIDE = 480
CROWD_SIDE = 960
FERPLUS_TILES = {"train": 14000, "dev": 600}
ENLARGE = {"lfw": 2, "ferplus": 4}
LEAST_CONFIDENCE = 0.3
"""Between this and SURE a face is neither learned nor counted as background."""
SURE = 0.6
LEAST_SIDE = 10.0
LOOK = 160
LOOKS = (
    (0.46, 0.0, 0.0, False),
    (0.46, 0.03, -0.02, True),
    (0.36, -0.03, 0.03, False),
    (0.56, 0.0, 0.0, True),
)
"""Of the picture's side: the face's size, its shift right and down; and whether mirrored."""
MIRRORED = [1, 0, 2, 4, 3]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Pictures with the faces in them.

    pictures: (H, W) uint8, grey. kinds: (N,) str, "clip", "lfw", "ferplus". dev: (N,) bool.
    faces: for each picture (F, 15) float32: x, y, width, height, five points x and y, confidence.
    """

    pictures: list[UInt8]
    kinds: NDArray[np.str_]
    dev: NDArray[np.bool_]
    faces: list[Float32]

    @classmethod
    def read(cls, file: Path) -> "Seen":
        """What `write` kept."""
        with np.load(file) as table:
            ends, shapes = np.cumsum(table["sizes"].prod(1)), table["sizes"]
            pixels = table["pixels"]
            pictures = [
                pixels[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, shapes, strict=True)
            ]
            faces = np.split(table["faces"], np.cumsum(table["counts"])[:-1])
            return cls(pictures, table["kinds"], table["dev"], faces)

    def write(self, file: Path) -> None:
        """One file, whole or not at all."""
        part = file.with_suffix(".part.npz")
        np.savez(
            part,
            pixels=np.concatenate([picture.ravel() for picture in self.pictures]),
            sizes=np.array([picture.shape for picture in self.pictures]),
            counts=np.array([len(faces) for faces in self.faces]),
            faces=np.concatenate(self.faces),
            kinds=self.kinds,
            dev=self.dev,
        )
        part.replace(file)


class Teacher:
    """YuNet, asked at leisure."""

    def __init__(self, model: Path) -> None:
        self._net = cv2.FaceDetectorYN.create(str(model), "", (LOOK, LOOK), LEAST_CONFIDENCE)

    def faces(self, picture: UInt8) -> Float32:
        """(F, 15) float32, see `Seen`: the faces of a grey picture, each looked at several times."""
        found = [self.steadied(picture, row) for row in self._rows(picture)]
        return np.stack(found) if found else np.zeros((0, 15), np.float32)

    def _rows(self, picture: UInt8) -> Float32:
        self._net.setInputSize(picture.shape[::-1])
        _, rows = self._net.detect(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
        return np.zeros((0, 15), np.float32) if rows is None else np.asarray(rows, np.float32)

    def steadied(self, picture: UInt8, row: Float32) -> Float32:
        """(15,) float32: the mean of several looks at a face found in a grey picture, (15,)."""
        middle, side = row[:2] + row[2:4] / 2, float(max(row[2:4]))
        looks = []
        for size, right, down, mirrored in LOOKS:
            scale = size * LOOK / side
            shift = LOOK * np.array([0.5 + right, 0.5 + down]) - scale * middle
            matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
            if mirrored:
                matrix = np.array([[-scale, 0, LOOK - 1 - shift[0]], [0, scale, shift[1]]])
            mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            seen = cv2.warpAffine(picture, matrix, (LOOK, LOOK), flags=mode, borderMode=cv2.BORDER_REPLICATE)
            place = matrix[:, :2] @ middle + matrix[:, 2]
            rows = self._rows(np.asarray(seen, np.uint8))
            near = [r for r in rows if math.dist(r[:2] + r[2:4] / 2, place) < 0.3 * size * LOOK]
            if near:
                looks.append(_back(min(near, key=lambda r: math.dist(r[:2] + r[2:4] / 2, place)), matrix))
        if len(looks) < 2:
            return np.concatenate([row[:14], [min(float(row[14]), (LEAST_CONFIDENCE + SURE) / 2)]])
        mean = np.mean(looks, axis=0)
        mean[14] = max(mean[14], float(row[14])) if len(looks) == len(LOOKS) else mean[14]
        return np.asarray(mean, np.float32)


def _back(row: Float32, matrix: NDArray[np.float64]) -> Float32:
    """A face of a look, in the picture that was looked at."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([row[:2], row[:2] + row[2:4]]) @ inverse[:, :2].T + inverse[:, 2]
    low, high = corners.min(0), corners.max(0)
    points = row[4:14].reshape(5, 2) @ inverse[:, :2].T + inverse[:, 2]
    if matrix[0, 0] < 0:
        points = points[MIRRORED]
    return np.concatenate([low, high - low, points.ravel(), row[14:15]])


def clip_frames(file: Path, most: int, side: int) -> Iterator[UInt8]:
    """Grey frames of a clip, evenly taken, no longer than `side`."""
    with av.open(str(file)) as container:
        count = sum(1 for packet in container.demux(video=0) if packet.size)
    every = max(1, count // most)
    with av.open(str(file)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % every == 0:
                picture = frame.to_ndarray(format="gray")
                scale = side / max(picture.shape)
                if scale < 1:
                    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                yield np.asarray(picture, np.uint8)


def still_pictures(data: Path, left_out: list[str]) -> Iterator[tuple[UInt8, str, bool]]:
    """LFW photographs and FERPlus tiles: picture, kind, whether for dev."""
    for path in sorted((data / "lfw_expressions" / "images").glob("*.jpg")):
        if path.stem.rpartition("_")[0] not in left_out:
            yield grey(path), "lfw", path.stem[:1] in HELD_INITIALS
    for split, most in FERPLUS_TILES.items():
        sheets = sorted((data / "ferplus").glob(f"{split}_*.jpg"))
        places = np.random.default_rng(1).permutation(len(sheets) * 1024)[:most]
        for number, sheet in enumerate(sheets):
            picture = grey(sheet)
            for place in sorted(places[places // 1024 == number] % 1024):
                top, left = (TILE * int(n) for n in divmod(place, 32))
                tile = picture[top : top + TILE, left : left + TILE]
                if tile.shape == (TILE, TILE) and tile.std() > 1:
                    yield tile.copy(), "ferplus", split == "dev"


def of_still(teacher: Teacher, picture: UInt8, kind: str) -> Float32:
    """The faces of a small still: it is looked at enlarged, with a border that gives room."""
    factor = ENLARGE[kind]
    large = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    large = cv2.copyMakeBorder(large, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
    faces = teacher.faces(np.asarray(large, np.uint8))
    inner = (factor - 1) / (2 * factor)  # the middles of large and small pixels do not coincide
    faces[:, :2] = (faces[:, :2] - BORDER) / factor - inner
    faces[:, 2:4] /= factor
    faces[:, 4:14] = (faces[:, 4:14] - BORDER) / factor - inner
    return faces


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.finder.teacher", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/ and media/")
    parser.add_argument("--out", type=Path, required=True, help="the npz to write")
    arguments = parser.parse_args()
    console, split = Console(), json.loads(SPLIT.read_text())
    teacher = Teacher(arguments.shared / "data" / "yunet" / YUNET_FILE)
    pictures, kinds, dev, faces = [], [], [], []
    for name in split["train"] + split["dev"]:
        side = CROWD_SIDE if "crowd" in name else CLIP_SIDE
        for picture in clip_frames(arguments.shared / name, CLIP_FRAMES, side):
            pictures.append(picture)
            kinds.append("clip")
            dev.append(name in split["dev"])
            faces.append(teacher.faces(picture))
        console.print(f"{name}: {len(pictures)} pictures so far")
    stills = list(still_pictures(arguments.shared / "data", split["stills_left_out"]))
    for picture, kind, held in track(stills, console=console):
        found = of_still(teacher, picture, kind)
        if len(found) and found[:, 14].max() >= SURE:
            pictures.append(picture)
            kinds.append(kind)
            dev.append(held)
            faces.append(found)
    seen = Seen(pictures, np.array(kinds), np.array(dev), faces)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    seen.write(arguments.out)
    sure = sum(int((rows[:, 14] >= SURE).sum()) for rows in faces)
    console.print(f"{arguments.out}: {len(pictures)} pictures, {sure} faces")


if __name__ == "__main__":
    main()
