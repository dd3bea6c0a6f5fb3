"""FERPlus: faces of 48 x 48 with the votes of ten raters, in either of two layouts.

As published, `fer2013new.csv` (the votes, Barsoum et al. 2016) lies beside Kaggle's `fer2013.csv` (the
pictures, Goodfellow et al. 2013), row by row; or `index.csv` names the tiles of sheets of 32 x 32 faces. It
finds no faces and chooses none. Data leaves it as `RatedStill`s.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.labels import LABELS

TILE = 48
SHEET, VOTES, PIXELS = "index.csv", "fer2013new.csv", "fer2013.csv"
SPLITS = {"Training": "train", "PublicTest": "dev", "PrivateTest": "test"}
WORDS = {
    "neutral": "neutral",
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "disgust": "disgust",
    "surprised": "surprise",
}
"""What the published table calls our labels."""
OTHERS = {"index": ("contempt", "unknown", "no_face"), "published": ("contempt", "unknown", "NF")}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatedStill:
    """A face and what its raters said.

    picture: (48, 48) uint8, grey. name: its row in FER2013, from 0.
    votes: (L,) float32, for each label; others: how many said contempt, unknown or no face.
    """

    picture: NDArray[np.uint8]
    name: str
    votes: NDArray[np.float32]
    others: float


def is_ferplus(folder: Path) -> bool:
    """Whether a folder holds FERPlus in one of its layouts."""
    return (folder / SHEET).is_file() or (folder / VOTES).is_file()


def read_ferplus(folder: Path, split: str) -> Iterator[RatedStill]:
    """All faces of one split ("train", "dev", "test"), in the order of the tables.

    Raises FileNotFoundError where a table or a sheet is missing, ValueError where tables do not agree.
    """
    if (folder / SHEET).is_file():
        return _of_sheets(folder, split)
    if (folder / VOTES).is_file() and (folder / PIXELS).is_file():
        return _as_published(folder, split)
    raise FileNotFoundError(
        f"{folder} holds neither {VOTES} with {PIXELS} of FERPlus, nor {SHEET} with sheets."
    )


def grey(path: Path) -> NDArray[np.uint8]:
    """(H, W) uint8: a picture file. Raises FileNotFoundError where it cannot be read."""
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise FileNotFoundError(f"cannot read the picture {path}")
    return np.asarray(picture, np.uint8)


def _of_sheets(folder: Path, split: str) -> Iterator[RatedStill]:
    name, sheet = "", np.zeros((0, 0), np.uint8)
    with (folder / SHEET).open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] != split:
                continue
            if row["sheet"] != name:
                name, sheet = row["sheet"], grey(folder / row["sheet"])
            top, left = (TILE * n for n in divmod(int(row["tile"]), 32))
            yield RatedStill(
                picture=sheet[top : top + TILE, left : left + TILE].copy(),
                name=row["fer2013_row"],
                votes=np.array([float(row[label]) for label in LABELS], np.float32),
                others=sum(float(row[other]) for other in OTHERS["index"]),
            )


def _as_published(folder: Path, split: str) -> Iterator[RatedStill]:
    with (folder / VOTES).open(newline="") as rated, (folder / PIXELS).open(newline="") as pictures:
        tables = csv.DictReader(rated), csv.DictReader(pictures)
        for number, (votes, row) in enumerate(zip(*tables, strict=True)):
            if votes["Usage"] != row["Usage"]:
                raise ValueError(
                    f"{folder / VOTES} and {PIXELS} differ in row {number}: they must tell of the same faces."
                )
            if SPLITS.get(row["Usage"]) != split:
                continue
            yield RatedStill(
                picture=np.array(row["pixels"].split(), np.uint8).reshape(TILE, TILE),
                name=str(number),
                votes=np.array([float(votes[WORDS[label]]) for label in LABELS], np.float32),
                others=sum(float(votes[other]) for other in OTHERS["published"]),
            )
