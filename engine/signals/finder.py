"""Finding faces in a picture, and getting hold of the model that does it.

Two finders behind one small contract: YuNet (a 233 kB network, kept in the user's cache) and, where it cannot
be had, the Haar cascade that comes with OpenCV. `load_finder` picks one and says why. Nothing here knows of
time, tracks or crops. Results leave as `Detection`s in the coordinates of the picture.
"""

import hashlib
import http.client
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from engine.errors import FinderError
from engine.signals.align import points_from_box
from engine.types import Float32, UInt8

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_FILE}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
MODEL_VARIABLE = "DE3_FACE_MODEL"

CONNECT_S = 5.0
DOWNLOAD_S = 20.0
LARGEST_BYTES = 4_000_000

YUNET_CONFIDENCE = 0.6
YUNET_SIZES = 4
YUNET_LEAST = 64
"""OpenCV 4.14 reads memory it never wrote, and finds faces there, in pictures of 32 pixels or less a side."""
HAAR_NEIGHBOURS = 5
HAAR_SURE = 8.0
"""A cascade's weight at which a face is as good as certain; its confidence is the share of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """A face in a picture.

    box: x, y, width, height in pixels; it may reach beyond the picture.
    points: (5, 2) float32, x and y in pixels, ordered as `engine.signals.align.TEMPLATE`.
    confidence: 0..1.
    """

    box: tuple[float, float, float, float]
    points: Float32
    confidence: float


class FaceFinder(Protocol):
    """Finds the faces of one picture; remembers nothing about it."""

    name: str

    def find(self, image: UInt8) -> list[Detection]:
        """The faces in `image`, (H, W, 3) uint8 BGR, the surest first."""
        ...


class YunetFinder:
    """YuNet through OpenCV. Some 1.5 ms for 160 x 160 and 5 ms for 320 x 240 on one core.

    Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023. The network is prepared once for each
    of the last few sizes of picture.

    Raises FinderError where `model` is not such a network.
    """

    name = "YuNet"

    def __init__(self, model: bytes) -> None:
        self._model = np.frombuffer(model, np.uint8)
        self._by_size: OrderedDict[tuple[int, int], Any] = OrderedDict()
        try:
            self.find(np.zeros((64, 64, 3), np.uint8))
        except (cv2.error, RuntimeError, ValueError) as error:
            raise FinderError("it is not a YuNet network that OpenCV can run") from error

    def find(self, image: UInt8) -> list[Detection]:
        """See `FaceFinder`."""
        low, narrow = (max(0, YUNET_LEAST - side) for side in image.shape[:2])
        if low or narrow:
            image = np.asarray(cv2.copyMakeBorder(image, 0, low, 0, narrow, cv2.BORDER_CONSTANT), np.uint8)
        _, rows = self._sized((image.shape[1], image.shape[0])).detect(image)
        if rows is None:
            return []
        found = np.asarray(rows, np.float32)
        return [_detection(row) for row in found[np.argsort(-found[:, 14], kind="stable")]]

    def _sized(self, size: tuple[int, int]) -> Any:
        detector = self._by_size.pop(size, None)
        if detector is None:
            nothing = np.zeros(0, np.uint8)
            detector = cv2.FaceDetectorYN.create("onnx", self._model, nothing, size, YUNET_CONFIDENCE)
        self._by_size[size] = detector
        if len(self._by_size) > YUNET_SIZES:
            self._by_size.popitem(last=False)
        return detector


def _detection(row: Float32) -> Detection:
    x, y, width, height = (float(value) for value in row[:4])
    confidence = min(max(float(row[14]), 0.0), 1.0)
    return Detection(box=(x, y, width, height), points=row[4:14].reshape(5, 2).copy(), confidence=confidence)


class HaarFinder:
    """The frontal Haar cascade that comes with OpenCV 4. It gives no points: they are guessed from the box.

    Raises FinderError where this OpenCV has no cascades (5 has none).
    """

    name = "Haar"

    def __init__(self) -> None:
        folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
        file = Path(folder) / "haarcascade_frontalface_default.xml"
        if not hasattr(cv2, "CascadeClassifier") or not file.is_file():
            raise FinderError(
                "This OpenCV has no Haar cascades; install opencv-python-headless<5 or name a YuNet file "
                "with --face-model."
            )
        self._cascade = cv2.CascadeClassifier(str(file))

    def find(self, image: UInt8) -> list[Detection]:
        """See `FaceFinder`."""
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        least = max(24, min(grey.shape) // 8)
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=1.15,
            minNeighbors=HAAR_NEIGHBOURS,
            minSize=(least, least),
            outputRejectLevels=True,
        )
        found = []
        for box, weight in zip(boxes, weights, strict=True):
            x, y, width, height = (float(value) for value in box)
            place = (x, y, width, height)
            confidence = min(max(float(weight) / HAAR_SURE, 0.0), 1.0)
            found.append(Detection(box=place, points=points_from_box(place), confidence=confidence))
        return sorted(found, key=lambda face: -face.confidence)


def load_finder(
    face_model: str | Path | None = None, offline: bool = False, url: str = YUNET_URL
) -> tuple[FaceFinder, str]:
    """The best finder that can be had, and one line that says which and why.

    A file named by `face_model`, or else by the environment's DE3_FACE_MODEL, is taken or refused. Without
    one, YuNet comes from the user's cache, or once from `url` into it (never where `offline`), and is used
    only if its SHA-256 is the pinned one; else the Haar cascade serves.

    Raises FinderError where a file was named that cannot be used.
    """
    if named := face_model or os.environ.get(MODEL_VARIABLE):
        return _named(Path(named)), f"Faces: YuNet, from {named}."
    file = cache_folder() / YUNET_FILE
    model = _cached(file)
    if model is not None:
        return YunetFinder(model), "Faces: YuNet, from the cache."
    if offline:
        return HaarFinder(), (
            "Faces: Haar, which misses turned faces; YuNet is not in the cache and --offline forbids "
            "fetching it (run once without, or name the file with --face-model)."
        )
    try:
        model = fetch(url)
    except OSError as error:
        return HaarFinder(), (
            f"Faces: Haar, which misses turned faces; YuNet could not be fetched ({error}): be online once "
            "or name the file with --face-model."
        )
    finder = YunetFinder(model)
    try:
        _keep(model, file)
    except OSError as error:
        return (
            finder,
            f"Faces: YuNet, fetched for this run only: {file.parent} cannot be written ({error.strerror}).",
        )
    return finder, f"Faces: YuNet, fetched once ({len(model) // 1000} kB) into {file}."


def cache_folder() -> Path:
    """Where this user's programs keep what can be fetched again."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "de3-live"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "de3-live" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "de3-live"
    return Path.home() / ".cache" / "de3-live"


def fetch(url: str) -> bytes:
    """YuNet's file from `url`; a server that does not answer in 5 s, or trickles for 20 s, is given up.

    Raises OSError where it cannot be had or has another SHA-256 than the pinned one.
    """
    deadline = time.monotonic() + DOWNLOAD_S
    model = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_S) as answer:
            while part := answer.read1(1 << 16):
                model += part
                if len(model) > LARGEST_BYTES:
                    raise OSError("the answer is far too long")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {DOWNLOAD_S:.0f} s")
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except http.client.HTTPException as error:
        raise OSError(f"the server's answer is broken: {error!r}") from error
    if hashlib.sha256(model).hexdigest() != YUNET_SHA256:
        raise OSError("what came is another file: its SHA-256 is not the pinned one")
    return bytes(model)


def _named(file: Path) -> YunetFinder:
    try:
        return YunetFinder(file.read_bytes())
    except OSError as error:
        raise FinderError(f"The face model {file} cannot be read: {error.strerror}.") from error
    except FinderError as error:
        raise FinderError(
            f"The face model {file} cannot be used: {error}; {YUNET_FILE} of opencv_zoo can."
        ) from error


def _cached(file: Path) -> bytes | None:
    """The cached model if it is there and whole; a damaged one counts as none and will be replaced."""
    try:
        model = file.read_bytes()
    except OSError:
        return None
    return model if hashlib.sha256(model).hexdigest() == YUNET_SHA256 else None


def _keep(model: bytes, file: Path) -> None:
    """Write whole or not at all: another program may be starting at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=YUNET_FILE)
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(model)
        os.replace(name, file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
