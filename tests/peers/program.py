"""The program as users start it: `python -m realtime.run` in a process of its own, its lines and its feed.

    with Program("--camera", clip, bundle=bundle) as program:
        program.line("ready")
        program.emotions(3)
        assert program.end() == 0

What it leaves behind can be seen: its temporary files are in `scratch`, its processes in `workers`.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from realtime.feed import Subscriber
from realtime.wire import Emotion

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""No test asserts a time; this only ends one that hangs."""


class Program:
    """One run. `lines` are the JSON log lines so far; `workers` the newest process of each worker."""

    def __init__(self, *flags: str | Path, bundle: Path, env: Mapping[str, str] = os.environ) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="de3-test-", dir="/tmp"))
        self.endpoint = f"ipc://{self.scratch}/feed"
        temporary = self.scratch / "tmp"
        temporary.mkdir()
        self.lines: list[dict[str, Any]] = []
        self._pending: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._subscriber = Subscriber(self.endpoint, topics=("emotion/",))
        command = [sys.executable, "-m", "realtime.run", "--log-json", "--bundle", str(bundle)]
        command += ["--engine", "onnx", "--bind", self.endpoint, "--offline", *map(str, flags)]
        # Else PulseAudio's library lays its runtime folder into TMPDIR, by a link that outlives this run.
        own_sound = {"PULSE_RUNTIME_PATH": str(self.scratch / "pulse")}
        self.process = subprocess.Popen(
            command,
            cwd=self.scratch,
            env={**env, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), **own_sound},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def line(self, text: str) -> dict[str, Any]:
        """Wait for a log line that contains `text`, beyond those waited for before."""
        end = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(queue.Empty):
                line = self._pending.get(timeout=max(end - time.monotonic(), 0.01))
                assert line is not None, f"the program ended without {text!r}: {self.text()}"
                self.lines.append(line)
                if text in line["text"]:
                    return line
            assert time.monotonic() < end, f"no {text!r} came: {self.text()}"

    def emotions(self, count: int) -> list[Emotion]:
        """The next messages of the feed."""
        messages = []
        for _ in range(count):
            message = self._subscriber.receive(PATIENCE_S)
            assert isinstance(message, Emotion), f"the feed is silent: {self.text()}"
            messages.append(message)
        return messages

    @property
    def workers(self) -> dict[str, int]:
        """Process ids by the worker's name."""
        self._drain()
        return {line["worker"]: line["pid"] for line in self.lines if "pid" in line}

    @property
    def every_pid(self) -> set[int]:
        """All processes that were ever started, the program's own too."""
        self._drain()
        return {self.process.pid} | {line["pid"] for line in self.lines if "pid" in line}

    def interrupt(self) -> None:
        """Ctrl-C: the whole group of processes gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait for the end; returns the exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        self._drain()
        return status

    def left_behind(self) -> list[str]:
        """Processes and temporary files that outlived the program."""
        alive = [psutil.Process(pid) for pid in self.every_pid if psutil.pid_exists(pid)]
        _, alive = psutil.wait_procs(alive, PATIENCE_S)
        processes = [str(process) for process in alive]
        return processes + self.left_behind_files()

    def left_behind_files(self) -> list[str]:
        """What lies in the temporary directory now."""
        return [str(path) for path in (self.scratch / "tmp").iterdir()]

    def errors(self) -> list[str]:
        """The texts of the error lines so far."""
        self._drain()
        return [line["text"] for line in self.lines if line["level"] == "error"]

    def text(self) -> str:
        """All lines so far, to be shown when a test fails."""
        self._drain()
        return "\n".join(line["text"] for line in self.lines)

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (line := self._pending.get_nowait()) is not None:
                self.lines.append(line)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"level": "stray", "text": text.rstrip()}
            self._pending.put(line)
        self._pending.put(None)
