"""What the status says of a run: whole, without one of its senses, or ended."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from realtime.feed import Subscriber
from realtime.wire import Status
from tests.peers.clip import write_clip
from tests.peers.mjpeg import MjpegServer
from tests.peers.program import Program

PATIENCE_S = 60.0


def _wait_for(state: str, feed: Subscriber) -> Status:
    seen = []
    while True:
        status = feed.receive(PATIENCE_S)
        assert isinstance(status, Status), f"no status {state!r} came, only {seen}"
        if status.state == state:
            return status
        seen.append(status.state)


def test_a_run_that_has_all_it_expects_is_running(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        with Subscriber(program.endpoint, topics=("status/",)) as feed:
            status = _wait_for("running", feed)
            assert status.missing == ()
            program.interrupt()
            assert _wait_for("ended", feed).source["camera"] == str(long_clip)
        assert program.end() == 0


def test_a_run_without_its_sound_is_degraded_and_says_so(bundle: Path, tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", seconds=30, fps=15, audio=False)
    with (
        Program("--camera", silent, bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("status/",)) as feed,
    ):
        assert _wait_for("degraded", feed).missing == ("audio",)


def test_sound_that_nobody_wants_is_not_missing(bundle: Path, long_clip: Path) -> None:
    with (
        Program("--camera", long_clip, "--mic", "none", bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("status/",)) as feed,
    ):
        assert _wait_for("running", feed).missing == ()


def test_a_camera_that_comes_late_is_named_when_it_comes(bundle: Path, long_clip: Path) -> None:
    there = threading.Event()

    def pictures() -> Iterator[np.ndarray]:
        there.wait(PATIENCE_S)
        while True:
            yield np.zeros((48, 64, 3), np.uint8)

    with (
        MjpegServer(pictures) as camera,
        Program("--camera", camera.url, "--mic", long_clip, bundle=bundle) as program,
    ):
        begun = program.line("picture:")
        assert (begun["picture"], begun["sound"]) == (None, str(long_clip))
        there.set()
        assert program.line("picture:")["picture"] == camera.url
        with Subscriber(program.endpoint, topics=("status/",)) as feed:
            assert _wait_for("running", feed).source == {"camera": camera.url, "microphone": str(long_clip)}
