"""`python -m realtime.listen` as a user starts it: in a pipe, at a terminal, with nothing there."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from feed_peers import emotion, status

from realtime.feed import Publisher
from realtime.wire import to_map

pytestmark = pytest.mark.skipif(os.name == "nt", reason="these need Unix signals and terminals")

ROOT = Path(__file__).parents[2]
LONG_S = 30.0


@pytest.fixture
def feed() -> Iterator[Publisher]:
    with Publisher("tcp://127.0.0.1:*") as made:
        yield made


def listen(*words: str, stdout: int = subprocess.PIPE, **extra: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "realtime.listen", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | extra,
    )


def publish_until(feed: Publisher, file: int, wanted: bytes) -> bytes:
    """What the listener writes while messages are sent, up to and with `wanted`."""
    end, read = time.monotonic() + LONG_S, b""
    while wanted not in read:
        assert time.monotonic() < end, read
        feed.publish(emotion())
        feed.publish(status())
        if select.select([file], [], [], 0.05)[0]:
            read += os.read(file, 65_536)
    return read


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LONG_S)
    return process.returncode, errors


def test_json_lines_are_those_of_a_recording_and_ctrl_c_is_a_good_end(feed: Publisher) -> None:
    with listen(feed.endpoint, "--json") as process:
        assert process.stdout is not None
        read = publish_until(feed, process.stdout.fileno(), b"\n")
        assert json.loads(read.splitlines()[0]) == to_map(emotion())
        assert finish(process) == (0, "")


def test_plain_lines_of_the_topics_asked_for(feed: Publisher) -> None:
    with listen(feed.endpoint, "--newest", "--topic", "status/main") as process:
        assert process.stdout is not None
        read = publish_until(feed, process.stdout.fileno(), b"\n").decode()
        assert read.startswith("main  degraded")
        assert "happy" not in read
        assert finish(process) == (0, "")


def test_a_reader_that_leaves_is_a_good_end(feed: Publisher) -> None:
    with listen(feed.endpoint) as process:
        assert process.stdout is not None
        publish_until(feed, process.stdout.fileno(), b"happy")
        process.stdout.close()
        end = time.monotonic() + LONG_S
        while process.poll() is None:
            assert time.monotonic() < end
            feed.publish(emotion())
            select.select([], [], [], 0.02)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (0, "")


def test_a_terminal_shows_a_live_view_and_gets_its_cursor_back(feed: Publisher) -> None:
    ours, theirs = os.openpty()
    try:
        extra = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
        with listen(feed.endpoint, stdout=theirs, **extra) as process:
            read = publish_until(feed, ours, b"missing: audio")
            assert "happy" in read.decode("utf-8", "replace")
            assert b"\x1b[?25l" in read
            assert finish(process) == (0, "")
            while select.select([ours], [], [], 0.2)[0]:
                read += os.read(ours, 65_536)
        assert read.rindex(b"\x1b[?25h") > read.rindex(b"\x1b[?25l")
    finally:
        os.close(ours)
        os.close(theirs)


def test_silence_is_explained(tmp_path: Path) -> None:
    with listen(f"ipc://{tmp_path}/nobody") as process:
        assert process.stderr is not None
        assert "is python -m realtime.run on?" in process.stderr.readline()
        assert finish(process)[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [(["5560"], "not an endpoint"), (["--secret", "mine.key_secret"], "--server-key go together")],
)
def test_a_mistake_is_one_line(words: list[str], says: str) -> None:
    with listen(*words) as process:
        _, errors = process.communicate(timeout=LONG_S)
    assert process.returncode == 1
    assert says in errors
    assert errors.count("\n") == 1
