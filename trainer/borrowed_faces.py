"""The still faces that moving faces borrow: FERPlus and LFW, enlarged, with the five points a finder sees.

`load` reads the sets, chooses clear stills, finds the points once and keeps them in a cache file. Knows
nothing of motion or sound. Stills leave it as a `Bank`.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.signals.align import TEMPLATE
from engine.signals.face import FaceFinder
from trainer.data.ferplus import grey, read_ferplus
from trainer.data.stills import BORDER, enlarged
from trainer.face_mesh import similarities
from trainer.labels import LABELS

UInt8 = NDArray[np.uint8]

MOST_OF_A_LABEL = 1500
CLEAR_SHARE = 0.5
OTHER_VOTES = ("contempt", "unknown", "no_face")
ENLARGE = {"ferplus": 4, "lfw": 2}
MOST_RESIDUAL_PX = 4.0  # at crop scale; profiles and odd finds lie further from the template
HELD_INITIALS = frozenset("JM")  # LFW people whose first names start so move only in dev and test clips


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """Stills of one split in which a face was found.

    pictures: (H, W) uint8, grey, as read.
    corpora: (N,) str, "ferplus" or "lfw".
    names: (N,) str, unique within a set.
    people: (N,) str, who is shown; empty where nobody knows.
    labels: (N,) int64, positions in `LABELS`, by the majority of the raters.
    points: (N, 5, 2) float32, in the enlarged picture.
    """

    pictures: list[UInt8]
    corpora: NDArray[np.str_]
    names: NDArray[np.str_]
    people: NDArray[np.str_]
    labels: NDArray[np.int64]
    points: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> UInt8:
        """(H, W) uint8, the enlarged still in which `points` lie."""
        factor = ENLARGE[str(self.corpora[index])]
        return np.asarray(
            cv2.resize(self.pictures[index], None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC),
            np.uint8,
        )

    def of_label(self, label: int) -> NDArray[np.int64]:
        """Positions of the stills with this label."""
        return np.flatnonzero(self.labels == label)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    picture: UInt8
    corpus: str
    name: str
    person: str
    label: int


def load(
    root: Path,
    split: str,
    cache: Path,
    finder: FaceFinder,
    progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """The stills of "train" or "dev" under `root` (`ferplus`, `lfw_expressions`).

    cache: folder for the points that the finder sees, made where absent. progress: called with (done, all).
    Raises FileNotFoundError where a set is missing.
    """
    rows = _ferplus(root / "ferplus", split) + _lfw(root / "lfw_expressions", split)
    kept = cache / f"face_points_{split}.npz"
    names = np.array([row.name for row in rows])
    points = None
    if kept.is_file():
        with np.load(kept) as table:
            same = np.array_equal(table["names"], names) and str(table.get("finder")) == finder.digest
            points = table["points"] if same else None
    if points is None:
        points = _find(rows, finder, progress)
        cache.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npz")
        np.savez(part, points=points, names=names, finder=np.array(finder.digest))
        part.replace(kept)
    found = np.flatnonzero(_frontal(points))
    rows = [rows[index] for index in found]
    return Bank(
        pictures=[row.picture for row in rows],
        corpora=np.array([row.corpus for row in rows]),
        names=np.array([row.name for row in rows]),
        people=np.array([row.person for row in rows]),
        labels=np.array([row.label for row in rows], np.int64),
        points=points[found] - BORDER,
    )


def _ferplus(folder: Path, split: str) -> list[_Row]:
    chosen: dict[int, list[_Row]] = {index: [] for index in range(len(LABELS))}
    for still in read_ferplus(folder, split):
        best = int(still.votes.argmax())
        if still.votes[best] >= CLEAR_SHARE * (still.votes.sum() + still.others):
            name = f"ferplus/{still.name}"
            row = _Row(picture=still.picture, corpus="ferplus", name=name, person="", label=best)
            chosen[best].append(row)
    rows = []
    for label, found in chosen.items():
        order = np.random.default_rng(label).permutation(len(found))[:MOST_OF_A_LABEL]
        rows += [found[index] for index in sorted(order)]
    return rows


def _lfw(folder: Path, split: str) -> list[_Row]:
    rows = []
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            path = folder / "images" / row["image"]
            person = path.stem.rpartition("_")[0]
            held = path.stem[:1] in HELD_INITIALS
            if row["label"] not in LABELS or not path.is_file() or held != (split == "dev"):
                continue
            label = LABELS.index(row["label"])
            rows.append(
                _Row(picture=grey(path), corpus="lfw", name=f"lfw/{path.stem}", person=person, label=label)
            )
    return rows


def _find(
    rows: list[_Row], finder: FaceFinder, progress: Callable[[int, int], None] | None
) -> NDArray[np.float32]:
    """(N, 5, 2) float32: the points of the face nearest to each still's middle, NaN where there is none."""
    points = np.full((len(rows), 5, 2), np.nan, np.float32)
    for index, row in enumerate(rows):
        large = enlarged(row.picture, ENLARGE[row.corpus])
        middle = np.array(large.shape[::-1]) / 2
        faces = finder.find(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR))
        if faces:
            away = [
                np.linalg.norm(np.add(face.box[:2], np.divide(face.box[2:], 2)) - middle) for face in faces
            ]
            points[index] = faces[int(np.argmin(away))].points
        if progress is not None:
            progress(index + 1, len(rows))
    return points


def _frontal(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) bool: whether the five points look like a face that sees the camera. points: (N, 5, 2)."""
    with np.errstate(invalid="ignore"):
        to_crop = similarities(points, TEMPLATE)
        laid = points @ to_crop[:, :, :2].transpose(0, 2, 1) + to_crop[:, None, :, 2]
        residual = np.sqrt(((laid - TEMPLATE) ** 2).sum(-1).mean(-1))
        return np.asarray(residual < MOST_RESIDUAL_PX)
