"""A terminal that takes no output, for as long as it likes: the feed goes on, and the run ends when told."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from engine.types import SECOND_NS
from realtime.feed import Subscriber
from realtime.view import WAITING_LINES, Aside
from tests.peers.program import PATIENCE_S, REPOSITORY
from tests.realtime.feed_peers import emotion, status


class Terminal:
    """A real one. `file` is what a program writes to; `read` waits for its end, and gives what was shown."""

    def __init__(self) -> None:
        self._end, writing = pty.openpty()
        self.file: io.TextIOWrapper = os.fdopen(writing, "w", encoding="utf-8")
        self._shown = b""
        self._drew = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def stop(self) -> None:
        """Ctrl-S."""
        termios.tcflow(self.file.fileno(), termios.TCOOFF)

    def go_on(self) -> None:
        """Ctrl-Q."""
        termios.tcflow(self.file.fileno(), termios.TCOON)

    def await_output(self, text: bytes) -> None:
        """Returns when `text` has been shown."""
        while text not in self._shown:
            assert self._drew.wait(PATIENCE_S), self._shown
            self._drew.clear()

    def read(self) -> str:
        self.file.close()
        self._reader.join()
        os.close(self._end)
        return self._shown.decode()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has it open any more
            while True:
                self._shown += os.read(self._end, 65_536)
                self._drew.set()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def test_a_thread_of_its_own_draws_the_view_and_its_lines(terminal: Terminal) -> None:
    view = Aside(terminal.file)
    view.say("a line above")
    view.show(emotion())
    view.show(status(state="ended"))
    view.close()
    shown = terminal.read()
    assert shown.index("a line above") < shown.rindex("happy") < shown.rindex("ended")


def test_a_terminal_that_takes_nothing_holds_up_nobody(terminal: Terminal) -> None:
    terminal.stop()
    view = Aside(terminal.file)
    for number in range(3 * WAITING_LINES):
        view.say(f"line {number} of many")
        view.show(emotion(seq=number))
    assert not view.close()
    terminal.go_on()
    shown = terminal.read()
    assert f"line {3 * WAITING_LINES - 1} of many" in shown
    assert shown.count("of many") <= WAITING_LINES + 1, "the newest, and the one that was on its way"
    assert "happy" in shown


def test_the_feed_goes_on_and_the_run_ends_when_told_to(
    bundle: Path, long_clip: Path, tmp_path: Path, terminal: Terminal
) -> None:
    endpoint = f"ipc://{tmp_path}/feed"
    command = [sys.executable, "-m", "realtime.run", "--camera", str(long_clip), "--offline"]
    command += ["--bundle", str(bundle), "--engine", "onnx", "--bind", endpoint]
    with (
        Subscriber(endpoint, topics=("emotion/",)) as feed,
        subprocess.Popen(command, cwd=REPOSITORY, stdout=terminal.file, stderr=terminal.file) as program,
    ):
        try:
            terminal.await_output(b"heard")
            terminal.stop()
            stopped_ns, t_ns = time.monotonic_ns(), 0
            while t_ns < stopped_ns + 3 * SECOND_NS:
                message = feed.receive(PATIENCE_S)
                assert message is not None, "the feed has stopped"
                t_ns = message.t_ns
            program.send_signal(signal.SIGTERM)
            assert program.wait(PATIENCE_S) == 0
        finally:
            program.kill()
            terminal.go_on()
    assert "Traceback" not in terminal.read()
