"""A flash on a face and a beep in the same instant, once a second: where the windows put them.

A made clip (the demo's face, lit up for 0.1 s; 1 kHz for 0.1 s) is encoded, read by the media source, looked
at by the face tracker, and given to `engine.window.Timeline`. Three things are measured against each other:

- the picture: the time of the first observation whose crop is bright;
- the sound: the time in the window's mel at which the amplitude near 1 kHz passes half of its largest,
  between the middles of two bins;
- the grid: the first tick released to the encoder whose crop is bright.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.bundle import Bundle, load_bundle
from engine.signals.face import FaceTracker, load_finder
from engine.signals.sound import MelParams, filterbank
from engine.types import Block, Face, Frame, Observation
from engine.window import Timeline, Window
from realtime.sources.demo import Performance
from realtime.sources.media import open_media
from tests.engine.small_bundle import write_bundle
from tests.peers.clip import lit, write_clip
from tests.proof.conftest import SIZE, small

BEEP_HZ = 1000
END_NS = 4_000_000_000
BIN_S = 0.010
NEAR_S = 0.010


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle, for its numbers alone."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def face(demo: Performance) -> np.ndarray:
    """The demo's face, looking ahead."""
    return small(demo.picture(0))


@dataclass(frozen=True, slots=True)
class Seen:
    """What went into the timeline, and what came out of it. Tick and bin 0 begin at time 0."""

    observations: list[Observation]
    ticks: list[tuple[int, Face]]
    window: Window


def _through(clip: Path, parts: Bundle) -> Seen:
    """A clip through reader, tracker and timeline."""
    finder, _ = load_finder(offline=True)
    tracker, timeline = FaceTracker(finder, parts.crop), Timeline(parts)
    observations, ticks = [], []
    for item in open_media(str(clip), paced=False):
        if isinstance(item, Frame):
            observations.append(tracker.observe(item))
            ticks += timeline.push_observation(observations[-1])
        elif isinstance(item, Block):
            timeline.push_block(item)
    released, window = timeline.window(END_NS)
    return Seen(observations, ticks + released, window)


def _flashes(shown: list[tuple[float, Face]]) -> list[float]:
    """When crops become bright: the times of the first bright ones."""
    light = np.array([float(face.crop.mean()) for _, face in shown])
    bright = light > (light.min() + light.max()) / 2
    return [shown[k][0] for k in range(1, len(shown)) if bright[k] and not bright[k - 1]]


def _beeps(window: Window, mel: MelParams) -> list[float]:
    """When the amplitude in the beep's band passes half of its largest, in seconds by the window's bins."""
    band = int(filterbank(mel)[:, BEEP_HZ * mel.n_fft // mel.rate_hz].argmax())
    amplitude = np.where(window.audio_mask, np.exp(window.mel[:, band] / 2), 0)
    half = amplitude.max() / 2
    before = np.flatnonzero((amplitude[:-1] < half) & (amplitude[1:] >= half))
    share = (half - amplitude[before]) / (amplitude[before + 1] - amplitude[before])
    first_bin_s = (window.t_end_ns - END_NS) * 1e-9 + BIN_S / 2
    return [float(time_s) for time_s in first_bin_s + (before + share) * BIN_S]


@pytest.mark.parametrize(
    ("name", "made", "zero_s"),
    [
        pytest.param("clip.mp4", {}, 0.0, id="plain"),
        pytest.param("clip.mp4", {"video_start_s": 0.5}, 0.0, id="picture starts later"),
        pytest.param("clip.mkv", {"audio_start_s": 0.5}, 0.0, id="sound starts later"),
        pytest.param("clip.mkv", {"video_start_s": 0.23, "audio_start_s": 0.5}, 0.233, id="both start later"),
        pytest.param("clip.mp4", {"variable": True}, 0.0, id="variable frame rate"),
        pytest.param("clip.mov", {"variable": True, "video_start_s": 0.5}, 0.0, id="variable and later"),
    ],
)
def test_windows_put_flash_and_beep_together(
    parts: Bundle,
    face: np.ndarray,
    tmp_path: Path,
    name: str,
    made: dict[str, float],
    zero_s: float,
) -> None:
    dark = cv2.convertScaleAbs(face, alpha=0.45)
    clip = write_clip(
        tmp_path / name, seconds=4.3, size=SIZE, picture=lambda time_s: face if lit(time_s) else dark, **made
    )
    seen = _through(clip, parts)
    shown = [(each.t_ns * 1e-9, each.face) for each in seen.observations if each.face is not None]
    assert len(shown) > 0.95 * len(seen.observations)
    flashes, beeps = _flashes(shown)[:3], _beeps(seen.window, parts.mel)[:3]
    assert flashes == pytest.approx(np.array([1, 2, 3]) - zero_s, abs=0.002)
    assert np.abs(np.subtract(flashes, beeps)).max() < NEAR_S

    # A tick shows the picture nearest to its centre, so it lights up less than a tick before or after.
    tick_s = 1 / parts.window.tick_hz
    ticks = _flashes([((tick + 0.5) * tick_s, face) for tick, face in seen.ticks])[:3]
    assert np.abs(np.subtract(ticks, beeps)).max() < tick_s
