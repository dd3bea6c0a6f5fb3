"""Finding faces in a picture, and which finder does it.

The bundle's own finder is the default: two small networks that need no download. YuNet
(`engine.signals.yunet`) is an option. `load_finder` picks one and says which. Nothing here knows of time,
tracks or crops. Results leave as `Detection`s in the coordinates of the picture.
"""

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from engine.bundle import Bundle, FaceGraphs, load_bundle
from engine.errors import FinderError
from engine.signals.detection import Detection, FaceFinder, FaceFollower
from engine.signals.face_networks import AlignerNetwork, FinderNetwork
from engine.signals.yunet import YUNET_URL, YunetFinder, cached_yunet, named_yunet
from engine.types import Float32, UInt8

__all__ = ["BundledFinder", "Detection", "FaceFinder", "FaceFollower", "YunetFinder", "load_finder"]

MODEL_VARIABLE = "DE3_FACE_MODEL"
YUNET = "yunet"
"""What to name instead of a file to have YuNet from the cache, fetched once."""

LARGE_PICTURE, LARGE_FACE = 200, 150
"""A face may fill a picture of 200 pixels and is found; the network learned none larger than 185, and places
those of 150 less well than at half the size."""
LEAST_SIDE = 8.0
"""Faces smaller than this many pixels a side are noise."""
MOST_FACES = 40
"""So many of the surest places of a picture are looked at closely."""
LEAST_POINTS = 4
"""So many points of a face lie within the picture, else too little of it is seen to follow it."""
SIZE_CHANGE = 1.8
"""A face does not grow or shrink by more between two looks."""


class BundledFinder:
    """The finder and the aligner that travel in a bundle, on one thread.

    What the finder finds is a face only if the aligner sees one there too. Some 2.5 ms to scan 320 x 240,
    and 0.3 ms to look at one face again. Raises FinderError where a file is not such a network.
    """

    name = "bundled"

    def __init__(self, graphs: FaceGraphs) -> None:
        self._find_at, self._follow_at = graphs.find_at, graphs.follow_at
        try:
            finder, aligner = graphs.finder.read_bytes(), graphs.aligner.read_bytes()
            self._finder, self._aligner = FinderNetwork(finder), AlignerNetwork(aligner)
        except (OSError, ValueError) as error:
            raise FinderError(
                f"The face finder in {graphs.finder.parent} cannot be used: {error}."
            ) from error
        self.digest = hashlib.sha256(
            finder + aligner + repr((graphs.find_at, graphs.follow_at)).encode()
        ).hexdigest()

    def find(self, image: UInt8) -> list[Detection]:
        """See `FaceFollower`. Faces near the camera are looked for again at half the size."""
        grey = image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        faces = self._scan(grey)
        small = [face for face in faces if max(face.box[2:]) < LARGE_FACE]
        done = faces and len(small) == len(faces)
        if done or max(grey.shape) <= LARGE_PICTURE or min(grey.shape) < 2:  # a line of pixels has no half
            return faces
        half = np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        near = [_enlarged(face, 2.0) for face in self.find(half)]
        near = [face for face in near if not faces or max(face.box[2:]) >= LARGE_FACE]
        return sorted([*near, *small], key=lambda face: -face.confidence) if near else faces

    def _scan(self, grey: UInt8) -> list[Detection]:
        faces = [_detection(row) for row in self._finder.find(grey, self._find_at)]
        closer = (self.follow(grey, face) for face in faces[:MOST_FACES])
        return [replace(face, followed=False) for face in closer if face is not None]

    def follow(self, image: UInt8, face: Detection) -> Detection | None:
        """See `FaceFollower`."""
        try:
            row = self._aligner.align(image, face.points)
        except ValueError:
            return None
        if row[14] < self._follow_at or min(row[2:4]) < LEAST_SIDE:
            return None
        change = math.sqrt(row[2] * row[3] / max(face.box[2] * face.box[3], 1e-6))
        points = row[4:14].reshape(5, 2)
        inside = ((points >= 0) & (points < image.shape[1::-1])).all(axis=1).sum()
        if not 1 / SIZE_CHANGE <= change <= SIZE_CHANGE or inside < LEAST_POINTS:
            return None
        return _detection(row, followed=True)


def _detection(row: Float32, followed: bool = False) -> Detection:
    x, y, width, height = (float(value) for value in row[:4])
    points = row[4:14].reshape(5, 2).copy()
    return Detection(box=(x, y, width, height), points=points, confidence=float(row[14]), followed=followed)


def _enlarged(face: Detection, factor: float) -> Detection:
    x, y, width, height = (factor * value for value in face.box)
    return replace(face, box=(x, y, width, height), points=np.asarray(face.points * factor, np.float32))


def load_finder(
    face_model: str | Path | None = None,
    offline: bool = False,
    bundle: Bundle | None = None,
    url: str = YUNET_URL,
) -> tuple[FaceFinder, str]:
    """The finder to use, and one line that says which and why.

    A file of YuNet named by `face_model`, or else by the environment's DE3_FACE_MODEL, is taken or refused;
    "yunet" there means the one of the user's cache, fetched once from `url` (never where `offline`). Without
    either, the finder of `bundle` serves, or that of the package where the bundle carries none.

    Raises FinderError where what was named cannot be had or used, BundleError where the bundle is damaged.
    """
    if named := face_model or os.environ.get(MODEL_VARIABLE):
        file = Path(named)
        if file.name.lower() == YUNET and not file.exists():
            return cached_yunet(offline, url)
        return named_yunet(file), f"Faces: YuNet, from {file}."
    if bundle is not None and bundle.faces is not None:
        return BundledFinder(bundle.faces), "Faces: the bundle's own finder."
    graphs = load_bundle().faces
    if graphs is None:
        raise FinderError(
            "No bundle here carries a face finder: name YuNet's file, or yunet, with --face-model."
        )
    return BundledFinder(graphs), "Faces: the finder that comes with the program."
