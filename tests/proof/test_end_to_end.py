"""The whole program with live sources: a network camera and its sound, a network camera beside a microphone.

Real servers (MJPEG over HTTP, RTSP) show the demo's face, a private PulseAudio's microphone hears its voice,
`python -m realtime.run` is a process of its own, and a subscriber reads the feed.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from realtime.feed import Subscriber
from realtime.sources.demo import Performance
from realtime.sources.demo_voice import RATE_HZ as VOICE_HZ
from realtime.wire import Emotion, Status
from tests.peers.clip import RATE_HZ, write_clip
from tests.peers.mjpeg import MjpegServer, file_pictures
from tests.peers.program import PATIENCE_S, Program
from tests.peers.pulse import PulseServer, missing
from tests.peers.rtsp import RtspServer
from tests.proof.conftest import SIZE, MakeClip

SPEECH_S = 4.0


@pytest.fixture(scope="module")
def loop(talking: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cameras show, over and over."""
    return talking(tmp_path_factory.mktemp("loop") / "loop.mp4", SPEECH_S)


@pytest.fixture(scope="module")
def voice(demo: Performance) -> np.ndarray:
    """(N,) float32 at RATE_HZ: two minutes of speech, for as long as a test may have to wait."""
    once = np.concatenate([demo.sound(block) for block in range(round(SPEECH_S * 50))])
    return np.tile(soxr.resample(once, VOICE_HZ, RATE_HZ), 30)


def _both_senses(program: Program, share: float = 0.4) -> list[Emotion]:
    """The feed's messages until one rests on so much of both face and voice."""
    end = time.monotonic() + PATIENCE_S
    messages = program.emotions(1)
    while min(messages[-1].valid.values()) < share:
        messages += program.emotions(1)
        assert time.monotonic() < end, f"{messages[-1].valid}: {program.text()}"
    return messages


def _judge(messages: list[Emotion], size: tuple[int, int]) -> None:
    """What every message promises, and what the last one says of a face that is there."""
    assert [message.seq for message in messages] == list(range(len(messages)))
    times = [message.t_ns for message in messages]
    assert times == sorted(set(times))
    for message in messages:
        assert message.latency_ms["total"] > 0, "no window is published before it is over"
        for probabilities in (message.scores, *message.heads.values()):
            assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    newest = messages[-1]
    assert newest.t_ns < time.monotonic_ns()
    assert newest.t_ns > time.monotonic_ns() - PATIENCE_S * 1e9
    assert newest.top in newest.labels
    assert newest.face is not None
    x, y, width, height = newest.face.box
    assert 0 <= x + width / 2 <= size[0]
    assert 0 <= y + height / 2 <= size[1]


def _status(program: Program) -> Status:
    with Subscriber(program.endpoint, topics=("status/",)) as feed:
        status = feed.receive(PATIENCE_S)
    assert isinstance(status, Status), program.text()
    return status


@contextlib.contextmanager
def _camera(kind: str, loop: Path) -> Iterator[str]:
    if kind == "rtsp":
        with RtspServer(loop, loop=True) as camera:
            yield camera.url
    else:
        with MjpegServer(lambda: file_pictures(str(loop)), fps=30) as camera:
            yield camera.url


def test_an_rtsp_camera_with_its_own_sound(bundle: Path, loop: Path) -> None:
    with _camera("rtsp", loop) as url, Program("--camera", url, bundle=bundle) as program:
        _judge(_both_senses(program), SIZE)
        status = _status(program)
        assert (status.state, status.missing) == ("running", ())
        assert status.source["camera"] == status.source["microphone"] == url
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_an_mjpeg_camera_beside_the_sound_of_a_file(
    bundle: Path, loop: Path, voice: np.ndarray, tmp_path: Path
) -> None:
    sound = write_clip(tmp_path / "voice.m4a", video=False, sound=voice)
    with (
        _camera("mjpeg", loop) as url,
        Program("--camera", url, "--mic", sound, bundle=bundle) as program,
    ):
        _judge(_both_senses(program), SIZE)
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


@pytest.mark.parametrize(("kind", "spec"), [("mjpeg", "default"), ("rtsp", "pulse")])
def test_a_camera_beside_a_real_microphone(
    bundle: Path, loop: Path, voice: np.ndarray, kind: str, spec: str
) -> None:
    if reason := missing():
        pytest.skip(reason)
    with PulseServer() as server, _camera(kind, loop) as url:
        speaking = server.play(voice, RATE_HZ)
        try:
            flags = ("--camera", url, "--mic", spec)
            with Program(*flags, bundle=bundle, env=server.env) as program:
                _judge(_both_senses(program), SIZE)
                status = _status(program)
                assert (status.state, status.missing) == ("running", ())
                assert status.source == {"camera": url, "microphone": spec}
                program.interrupt()
                assert program.end() == 0
                assert program.left_behind() == []
        finally:
            speaking.terminate()
            speaking.wait()
