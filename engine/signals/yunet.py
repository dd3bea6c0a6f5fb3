"""YuNet, an option: a 233 kB network that OpenCV runs, named as a file or fetched once into the user's cache.

Nothing here knows of time, tracks or crops. Results leave as `Detection`s in the coordinates of the picture.
"""

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.cache import cache_folder
from engine.errors import FinderError
from engine.signals.detection import Detection
from engine.types import Float32, UInt8

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_FILE}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

CONNECT_S = 5.0
DOWNLOAD_S = 20.0
LARGEST_BYTES = 4_000_000

YUNET_CONFIDENCE = 0.6
YUNET_SIZES = 4
YUNET_LEAST = 64
"""OpenCV 4.14 reads memory it never wrote, and finds faces there, in pictures of 32 pixels or less a side."""


class YunetFinder:
    """YuNet through OpenCV. Some 1.5 ms for 160 x 160 and 5 ms for 320 x 240 on one core.

    Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023. The network is prepared once for each
    of the last few sizes of picture.

    Raises FinderError where `model` is not such a network.
    """

    name = "YuNet"

    def __init__(self, model: bytes) -> None:
        self._model = np.frombuffer(model, np.uint8)
        self.digest = hashlib.sha256(model).hexdigest()
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


def cached_yunet(offline: bool, url: str = YUNET_URL) -> tuple[YunetFinder, str]:
    """YuNet from the user's cache, or once from `url` (never where `offline`), and a line that says so.

    It is used only if its SHA-256 is the pinned one. Raises FinderError where it cannot be had.
    """
    file = cache_folder() / YUNET_FILE
    model = _cached(file)
    if model is not None:
        return YunetFinder(model), "Faces: YuNet, from the cache."
    if offline:
        raise FinderError(
            "YuNet is not in the cache and --offline forbids fetching it: run once without, or name its file "
            "with --face-model, or leave that out for the bundle's own finder."
        )
    try:
        model = fetch(url)
    except OSError as error:
        raise FinderError(
            f"YuNet could not be fetched ({error}): be online once, or name its file with --face-model, or "
            "leave that out for the bundle's own finder."
        ) from error
    finder = YunetFinder(model)
    try:
        _keep(model, file)
    except OSError as error:
        return (
            finder,
            f"Faces: YuNet, fetched for this run only: {file.parent} cannot be written ({error.strerror}).",
        )
    return finder, f"Faces: YuNet, fetched once ({len(model) // 1000} kB) into {file}."


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
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(str(error)) from error
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except http.client.HTTPException as error:
        raise OSError(f"the server's answer is broken: {error!r}") from error
    if hashlib.sha256(model).hexdigest() != YUNET_SHA256:
        raise OSError("what came is another file: its SHA-256 is not the pinned one")
    return bytes(model)


def named_yunet(file: Path) -> YunetFinder:
    """YuNet from a file. Raises FinderError, one sentence, where it cannot be read or used."""
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
