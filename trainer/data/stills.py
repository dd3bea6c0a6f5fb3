"""Still faces (FERPlus, LFW photographs), aligned exactly as live crops are.

`load_ferplus` and `load_lfw` read a folder, `aligned` finds the face points and warps every still
onto the engine's template. Knows nothing of networks. Results leave as a `Stills` and are cached
by the caller.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.signals.align import TEMPLATE, points_from_box, similarity, warp
from engine.signals.face import FaceFinder
from trainer.data.ferplus import TILE as TILE  # where faces of any set are cut out
from trainer.data.ferplus import grey, read_ferplus
from trainer.labels import LABELS

ENLARGE = 4
BORDER = 40
WEIGHT_POWER = -0.5
"""How a label's share weighs in training: rare ones more than once, common ones less."""
LABEL_SMOOTHING_LFW = 0.3  # one annotator, many mistakes: his word is worth about two votes in three


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stills:
    """Aligned stills with what their raters said.

    crops: (N, 112, 112) uint8, grey.
    votes: (N, L) float32, share of the raters' votes for each label, summing to 1.
    points: (N, 5, 2) float32, the face points in the enlarged still, the usual places where none was found.
    found: (N,) bool, whether the finder saw a face (else the whole still was taken).
    """

    crops: NDArray[np.uint8]
    votes: NDArray[np.float32]
    points: NDArray[np.float32]
    found: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.crops)


def load_ferplus(root: Path, split: str) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """Pictures (48 x 48) and vote shares of one split of a folder of FERPlus, in any of its layouts.

    Pictures that a majority calls no face or unknown are left out, as is contempt from the votes.

    Raises:
        FileNotFoundError: the folder lacks a table or a sheet.
        ValueError: it has no face of this split.
    """
    stills = [still for still in read_ferplus(root, split) if still.votes.sum() > still.others]
    if not stills:
        raise ValueError(f"{root} has no face of FERPlus whose split is {split!r}")
    votes = np.stack([still.votes for still in stills])
    return [still.picture for still in stills], votes / votes.sum(1, keepdims=True)


def load_lfw(root: Path) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """Photographs (160 x 160) and smoothed labels of the LFW expression folder."""
    pictures, votes = [], []
    with (root / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            path = root / "images" / row["image"]
            if row["label"] not in LABELS or not path.is_file():
                continue
            share = np.full(len(LABELS), LABEL_SMOOTHING_LFW / len(LABELS), np.float32)
            share[LABELS.index(row["label"])] += 1 - LABEL_SMOOTHING_LFW
            pictures.append(grey(path))
            votes.append(share)
    return pictures, np.stack(votes)


def aligned(
    pictures: Sequence[NDArray[np.uint8]], votes: NDArray[np.float32], finder: FaceFinder, enlarge: int
) -> Stills:
    """Each still on the engine's template; where no face is found the still is taken as the box."""
    crops, points, found = zip(*_align(pictures, finder, enlarge), strict=True)
    return Stills(
        crops=np.stack(crops), votes=votes, points=np.stack(points).astype(np.float32), found=np.array(found)
    )


def _align(
    pictures: Sequence[NDArray[np.uint8]], finder: FaceFinder, enlarge: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], bool]]:
    for picture in pictures:
        large = enlarged(picture, enlarge)
        detections = finder.find(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR))
        if detections:
            best = max(detections, key=lambda d: d.box[2] * d.box[3])
            points = np.asarray(best.points, np.float32)
        else:
            side = large.shape[0] - 2 * BORDER
            points = np.asarray(points_from_box((BORDER, BORDER, side, side)), np.float32)
        yield warp(large, similarity(points, TEMPLATE)), points, bool(detections)


def enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The still `factor` times as large, with a replicated border that gives the finder room."""
    large = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
