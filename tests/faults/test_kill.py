"""A worker is killed or hangs: it is replaced, the feed goes on, nothing is left behind."""

import os
import signal
from pathlib import Path

import pytest

from tests.peers.clip import write_clip
from tests.peers.program import Program


def _kill(program: Program, worker: str, number: int) -> None:
    """Strike a worker down, and wait for its successor."""
    os.kill(program.workers[worker], number)
    program.line(f"worker {worker}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
@pytest.mark.parametrize("worker", ["recogniser", "media"])
def test_a_worker_is_replaced_and_the_feed_goes_on(
    bundle: Path, long_clip: Path, worker: str, number: int
) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        before = program.emotions(8)
        assert before[-1].valid["audio"] > 0
        program.line("ready")
        _kill(program, worker, number)
        after = program.emotions(1)
        while after[-1].valid["audio"] == 0 or len(after) < 25:
            after += program.emotions(1)
        everything = before + after
        # One connection, no gap in the count, time forward on the anchor of the beginning.
        assert [message.seq for message in everything] == list(range(len(everything)))
        times = [message.t_ns for message in everything]
        assert times == sorted(set(times))
        assert all((t_ns - times[0]) % 200_000_000 in (0, 1, 199_999_999) for t_ns in times)
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_the_sound_returns_at_the_right_place_of_the_clip(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(10)
        program.line("ready")
        _kill(program, "media", signal.SIGKILL)
        messages = program.emotions(30)
        # After a full window both senses are whole again: nothing came late, nothing at a wrong time.
        assert messages[-1].valid["audio"] > 0.95
        program.interrupt()
        assert program.end() == 0


def test_a_successor_of_the_recogniser_does_not_wait_for_a_file_that_is_over(
    bundle: Path, tmp_path: Path
) -> None:
    picture = write_clip(tmp_path / "picture.mp4", seconds=1, audio=False)
    sound = write_clip(tmp_path / "sound.m4a", seconds=12, video=False)
    with Program("--camera", picture, "--mic", sound, bundle=bundle) as program:
        program.emotions(15)  # the picture is over after a third of them
        program.line("ready")
        _kill(program, "recogniser", signal.SIGKILL)
        assert program.end() == 0
        assert program.errors() == []


def test_workers_that_keep_dying_end_the_run(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(1)
        program.line("ready")
        for _ in range(5):
            _kill(program, "recogniser", signal.SIGKILL)
        os.kill(program.workers["recogniser"], signal.SIGKILL)
        assert program.end() == 4
        assert "keeps dying" in program.errors()[0]
        assert program.left_behind() == []


def test_a_death_without_pacing_ends_the_run(bundle: Path, long_clip: Path, tmp_path: Path) -> None:
    with Program("--camera", long_clip, "--no-pace", "--out", tmp_path / "o.jsonl", bundle=bundle) as program:
        program.emotions(1)
        os.kill(program.workers["recogniser"], signal.SIGKILL)
        assert program.end() == 4
        assert "without pacing nothing may be lost" in program.errors()[0]


def test_workers_end_when_the_main_process_is_gone(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(1)
        program.process.kill()
        program.end()
        assert all("de3-live-" in path for path in program.left_behind()), "only the socket's directory stays"
