"""What the proofs share: a bundle, and the demo as a media file."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soxr

from engine.bundle import DEFAULT_BUNDLE
from realtime.sources.demo import FRAMES_HZ, Performance
from realtime.sources.demo_voice import RATE_HZ as VOICE_HZ
from tests.engine.small_bundle import write_bundle
from tests.peers.clip import RATE_HZ, write_clip
from tests.peers.program import REPOSITORY

MEDIA = REPOSITORY.parent / "shared" / "media"
SIZE = (320, 240)

MakeClip = Callable[[Path, float], Path]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ships; the small one with random weights where there is none."""
    if Path(DEFAULT_BUNDLE, "manifest.json").is_file():
        return Path(DEFAULT_BUNDLE)
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def demo() -> Performance:
    """The talking head and its voice."""
    return Performance()


@pytest.fixture(scope="session")
def talking(demo: Performance) -> MakeClip:
    """Writes so many seconds of the demo as a media file: 320 x 240 at 30 Hz, 44.1 kHz."""

    def write(path: Path, seconds: float) -> Path:
        voice = np.concatenate([demo.sound(block) for block in range(round(seconds * 50))])
        return write_clip(
            path,
            seconds=seconds,
            fps=FRAMES_HZ,
            size=SIZE,
            picture=lambda time_s: small(demo.picture(round(time_s * FRAMES_HZ))),
            sound=soxr.resample(voice, VOICE_HZ, RATE_HZ),
        )

    return write


@pytest.fixture(scope="session")
def speech(talking: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of the demo: two windows long."""
    return talking(tmp_path_factory.mktemp("speech") / "speech.mp4", 8.0)


def small(picture: np.ndarray) -> np.ndarray:
    """A picture of the demo at the clips' size."""
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)
