"""Cameras and microphones that are real to the program, from their socket or sound server to the feed."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.peers.clip import write_clip
from tests.peers.mjpeg import MjpegServer
from tests.peers.program import REPOSITORY, Program
from tests.peers.pulse import PulseServer, missing
from tests.peers.rtsp import RtspServer

FACES = REPOSITORY.parent / "shared" / "media" / "grid_bbaf2n.mpg"
TURNS = 100
"""Messages in which something must have been seen or heard, some twenty seconds."""


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    """(H, W, 3) uint8 pictures of a talking face."""
    if not FACES.is_file():
        pytest.skip("needs ../shared/media")
    with av.open(str(FACES)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def _until(program: Program, kind: str, share: float) -> None:
    for _ in range(TURNS):
        (message,) = program.emotions(1)
        if message.valid[kind] >= share:
            return
    pytest.fail(f"{kind} never reached {share}: {program.text()}")


def test_a_network_camera_is_seen(bundle: Path, faces: list[np.ndarray]) -> None:
    with (
        MjpegServer(lambda: itertools.cycle(faces), fps=25) as camera,
        Program("--camera", camera.url, "--mic", "none", bundle=bundle) as program,
    ):
        _until(program, "video", 0.05)
        (message,) = program.emotions(1)
        assert message.face is not None
        assert message.valid["audio"] == 0
        assert set(message.latency_ms) == {"capture", "wait", "score", "publish", "total"}
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_a_network_camera_with_sound_is_heard(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", seconds=60, fps=15)
    with RtspServer(clip) as camera, Program("--camera", camera.url, bundle=bundle) as program:
        said = program.line("picture:")
        assert said["picture"] == said["sound"] == camera.url
        _until(program, "audio", 0.3)
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_a_camera_that_comes_back_is_taken_up_again(bundle: Path, faces: list[np.ndarray]) -> None:
    lengths = iter((60, 1_000_000))

    def pictures() -> Iterable[np.ndarray]:
        return itertools.islice(itertools.cycle(faces), next(lengths))

    with (
        MjpegServer(pictures, fps=25) as camera,
        Program("--camera", camera.url, "--mic", "none", bundle=bundle) as program,
    ):
        _until(program, "video", 0.05)
        assert camera.url in program.line("Trying again")["text"]
        _until(program, "video", 0.05)
        program.interrupt()
        assert program.end() == 0


def test_a_camera_that_stays_away_ends_the_run(bundle: Path, faces: list[np.ndarray]) -> None:
    with (
        MjpegServer(lambda: faces[:30], fps=25) as camera,
        Program("--camera", camera.url, "--mic", "none", bundle=bundle) as program,
    ):
        program.emotions(1)
        camera.__exit__(None, None, None)
        assert program.end() == 3
        (error,) = program.errors()
        assert camera.url in error
        assert program.left_behind() == []


@pytest.fixture(scope="module")
def sound() -> Iterator[PulseServer]:
    if reason := missing():
        pytest.skip(reason)
    with PulseServer() as server:
        yield server


@pytest.mark.parametrize("flags", [("--camera", "none"), ("--camera", "none", "--mic", "puls")])
def test_a_microphone_is_heard(bundle: Path, sound: PulseServer, flags: tuple[str, ...]) -> None:
    with Program(*flags, bundle=bundle, env=sound.env) as program:
        _until(program, "audio", 0.3)
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_a_camera_and_a_microphone_are_one_stream(
    bundle: Path, sound: PulseServer, faces: list[np.ndarray]
) -> None:
    with (
        MjpegServer(lambda: itertools.cycle(faces), fps=25) as camera,
        Program("--camera", camera.url, "--mic", "default", bundle=bundle, env=sound.env) as program,
    ):
        _until(program, "video", 0.05)
        _until(program, "audio", 0.3)
        program.interrupt()
        assert program.end() == 0
