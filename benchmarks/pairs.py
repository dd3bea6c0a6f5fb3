"""Pairs of crops to try flow on: textures moved by a known warp, and faces of real clips.

It knows nothing of how flow is found. Data leaves it as arrays and as the engine's faces.
"""

from pathlib import Path

import cv2
import numpy as np

from engine.signals.align import CropParams
from engine.signals.face import FaceTracker
from engine.signals.finder import FaceFinder
from engine.types import Face, Float32, Frame, UInt8


def warped(seed: int, size: int, most: float = 3.0, grain: float = 4.0) -> tuple[UInt8, UInt8, Float32]:
    """A texture and the same turned, stretched and shifted by up to about `most` pixels.

    Returns previous, crop (size, size) uint8 and the flow (2, size, size) float32 from the one to the other.
    """
    generator = np.random.default_rng(seed)
    border = round(most) + 8
    noise = generator.integers(0, 256, (size + 2 * border,) * 2).astype(np.uint8)
    still = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), grain), None, 0, 255, cv2.NORM_MINMAX)
    reach = most / 2
    shift = generator.uniform(-reach, reach, 2)
    bend = generator.uniform(-reach, reach, (2, 2)) / size
    y, x = np.mgrid[: still.shape[0], : still.shape[1]].astype(np.float32)
    place = np.stack([x, y])
    middle = still.shape[0] / 2
    # crop(place + flow(place)) = previous(place): solved for the place, as the map is affine
    back = np.tensordot(np.linalg.inv(np.eye(2) + bend), place - middle - shift[:, None, None], 1) + middle
    moved = cv2.remap(still, *back.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    flow = np.tensordot(bend, place - middle, 1) + shift[:, None, None]
    inner = np.s_[border : border + size, border : border + size]
    return still[inner].copy(), moved[inner].copy(), flow[:, *inner].astype(np.float32)


def faces_of(clip: Path, finder: FaceFinder, count: int) -> list[Face]:
    """The first `count` faces of a clip that have an earlier picture.

    Raises SourceError where the clip cannot be read.
    """
    from realtime.sources.media import open_media  # not on every GPU machine: it needs PyAV

    tracker = FaceTracker(finder, CropParams())
    found: list[Face] = []
    for item in open_media(str(clip), paced=False, audio=False):
        face = tracker.observe(item).face if isinstance(item, Frame) else None
        if face is not None and face.gap_ns:
            found.append(face)
            if len(found) == count:
                break
    return found
