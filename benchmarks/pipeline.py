"""The program under measurement: `python -m realtime.run` in its own processes, its feed and CPU times.

`measure_live` watches a run at its own pace, `measure_throughput` one without pacing. This file knows nothing
of models; it reads what the program says (log lines, feed) and what the system says about its processes.
Data leaves it as plain maps.
"""

import contextlib
import json
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import JsonMap, busy_seconds, quantiles
from realtime.feed import Subscriber
from realtime.wire import Emotion, Status

ROOT = Path(__file__).parents[1]
STAGES = ("capture", "wait", "score", "publish", "total")
PATIENCE_S = 60.0
SAMPLE_S = 0.2


class MeasurementError(Exception):
    """The program did not do what was to be measured; the text says what it said instead."""


class Program:
    """One run of the program. `lines` are its log lines so far; times are `time.monotonic()` seconds."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "realtime.run", "--log-json", "--bind", "tcp://127.0.0.1:*", *flags]
        self.lines: list[JsonMap] = []
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._pending: queue.Queue[JsonMap | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, key: str) -> JsonMap:
        """Wait for the first log line that has the fact `key`; its arrival is in `arrived`."""
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if key in line:
                    return line
            seen = len(self.lines)
            try:
                line = self._pending.get(timeout=PATIENCE_S)
            except queue.Empty:
                line = None
            if line is None:
                raise MeasurementError(f"realtime.run ended, or said nothing of {key!r}: {self.text()}")
            self.lines.append(line)

    def text(self) -> str:
        """The last log lines."""
        self._drain()
        return " ".join(str(line.get("text", "")).strip() for line in self.lines[-4:]) or "(no output)"

    def workers(self) -> dict[str, psutil.Process]:
        """The running processes by what they do; what is left beside main and the workers is "other"."""
        self._drain()
        names = {line["pid"]: line["worker"] for line in self.lines if "pid" in line}
        main = psutil.Process(self.process.pid)
        found = {"main": main}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in main.children(recursive=True):
                found[names.get(child.pid, "other")] = child
        return found

    def end(self) -> JsonMap:
        """Interrupt it if it still runs; returns the facts of its last words."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self._reader.join()
        return self.line("windows")

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (line := self._pending.get_nowait()) is not None:
                self.lines.append(line)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            arrived = time.monotonic()
            try:
                line = json.loads(text)
            except ValueError:
                line = {"text": text}
            self._pending.put({**line, "arrived": arrived})
        self._pending.put(None)


@contextlib.contextmanager
def running(*flags: str) -> Iterator[Program]:
    """A program that is gone afterwards."""
    program = Program(*flags)
    try:
        yield program
    finally:
        program.close()


def measure_live(flags: Sequence[str], *, seconds: float, warm_s: float) -> JsonMap:
    """A run at its own pace: `warm_s` after its first scores, look at it for `seconds`.

    Latencies in milliseconds: `capture` (age of the newest picture when it reached the recogniser), `wait`
    (window's end until it was complete), `score`, `publish`, `total` (window's end until published), and
    `received` (window's end until a subscriber in another process had it). CPU as shares of one core.
    """
    with running(*flags) as program, Subscriber(program.line("feed")["feed"]) as feed:
        ready = program.line("ready_s")["arrived"] - program.begun
        first = _first_emotion(feed, program)
        _watch(feed, warm_s)
        before = Usage(program)
        emotions, statuses = _watch(feed, seconds)
        cpu, elapsed, others = before.until_now()
        memory = _memory(program)
        last_words = program.end()
    if not emotions:
        raise MeasurementError(f"realtime.run published nothing in {seconds:g} s: {program.text()}")
    messages = [message for _, message in emotions]
    latency = {stage: quantiles([each.latency_ms[stage] for each in messages]) for stage in STAGES}
    latency["received"] = quantiles([at * 1e3 - each.t_ns / 1e6 for at, each in emotions])
    return {
        "ready_s": round(ready, 3),
        "first_scores_s": round(first - program.begun, 3),
        "seconds": round(elapsed, 3),
        "scores": len(messages),
        "scores_hz": round(len(messages) / elapsed, 2),
        "scores_missed": messages[-1].seq - messages[0].seq + 1 - len(messages),
        "frames_hz": _mean([status.fps["camera"] for status in statuses]),
        "face_share": _mean([status.face_share for status in statuses]),
        "latency_ms": latency,
        "cpu": cpu,
        "cpu_total": round(sum(cpu.values()), 4),
        "cpu_of_others": others,
        "memory_mib": memory,
        "drops": last_words["drops"],
    }


def measure_throughput(flags: Sequence[str], *, rate_hz: float, frames_hz: float) -> JsonMap:
    """A run without pacing, from its second scores to its last: how much goes through in a second.

    frames_hz: of the media. Frames are counted by the media time that the scores cover.
    """
    flags = (*flags, "--no-pace", "--rate", f"{rate_hz:g}")
    with running(*flags) as program, Subscriber(program.line("feed")["feed"], topics=("emotion/",)) as feed:
        start = _first_emotion(feed, program)
        before = Usage(program)
        begun = last = start
        first_seq = last_seq = -1
        cpu: dict[str, float] = {}
        sampled = time.monotonic()
        while (message := feed.receive(1.0)) is not None or program.process.poll() is None:
            if isinstance(message, Emotion):
                last, last_seq = time.monotonic(), message.seq
                if first_seq < 0:
                    begun, first_seq = last, message.seq
            if time.monotonic() - sampled > SAMPLE_S:
                sampled = time.monotonic()
                cpu = before.until_now()[0] or cpu
        last_words = program.end()
    if last_seq - first_seq < 2:
        raise MeasurementError(f"the media was too short to measure on: {program.text()}")
    scores_hz = (last_seq - first_seq) / (last - begun)
    return {
        "rate": rate_hz,
        "scores": last_words["windows"],
        "seconds": round(last - begun, 3),
        "scores_hz": round(scores_hz, 1),
        "frames_hz": round(scores_hz / rate_hz * frames_hz, 1),
        "times_real_time": round(scores_hz / rate_hz, 2),
        "cpu": cpu,
        "drops": last_words["drops"],
    }


class Usage:
    """CPU times of a program's processes from now on."""

    def __init__(self, program: Program) -> None:
        self._processes = program.workers()
        self._begun, self._busy = time.monotonic(), busy_seconds()
        self._before = {name: _cpu_seconds(process) for name, process in self._processes.items()}

    def until_now(self) -> tuple[dict[str, float], float, float]:
        """Shares of one core by process (none where one has ended), seconds, and the share of all others."""
        elapsed = time.monotonic() - self._begun
        try:
            used = {name: _cpu_seconds(each) - self._before[name] for name, each in self._processes.items()}
        except psutil.NoSuchProcess:
            return {}, elapsed, 0.0
        others = max(busy_seconds() - self._busy - sum(used.values()), 0.0) / elapsed
        return {name: round(each / elapsed, 4) for name, each in used.items()}, elapsed, round(others, 3)


@contextlib.contextmanager
def mjpeg_camera(clip: Path) -> Iterator[str]:
    """The URL of an HTTP camera, in a process of its own, that shows the clip over and over."""
    command = [sys.executable, "-u", "-m", "tests.peers.mjpeg", str(clip), "30"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            raise MeasurementError("tests/peers/mjpeg.py did not come up.")
        yield url
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def _first_emotion(feed: Subscriber, program: Program) -> float:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if isinstance(feed.receive(0.5), Emotion):
            return time.monotonic()
        if program.process.poll() is not None:
            break
    raise MeasurementError(f"realtime.run published no scores: {program.text()}")


def _watch(feed: Subscriber, seconds: float) -> tuple[list[tuple[float, Emotion]], list[Status]]:
    """What the feed brings for so long, with the times of arrival."""
    end = time.monotonic() + seconds
    emotions: list[tuple[float, Emotion]] = []
    statuses: list[Status] = []
    while (left := end - time.monotonic()) > 0:
        message: Any = feed.receive(left)
        if isinstance(message, Emotion):
            emotions.append((time.monotonic(), message))
        elif isinstance(message, Status):
            statuses.append(message)
    return emotions, statuses


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(program: Program) -> dict[str, JsonMap]:
    """By process: `rss`, and `own` (pages that no other process shares), in MiB."""
    found = {}
    for name, process in program.workers().items():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            found[name] = {"rss": round(memory.rss / 2**20, 1), "own": round(memory.uss / 2**20, 1)}
    return found


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 3) if values else None
