"""The edge of a worker process: how it stands towards its parent, whatever it does inside.

A worker beats from its own loop, is told what to do through a pipe, reports over the link, and ends when the
main process closes the pipe or is gone. It ignores Ctrl-C, which is the main process's to handle. This file
knows nothing about sources or models. Data leaves it through `Edge.report`.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import zmq

from engine.errors import AbsentError, BackendError, BundleError, De3Error, FinderError, SourceError
from engine.types import SECOND_NS
from realtime.config import UsageError
from realtime.link import Endpoints, Sender
from realtime.messages import Failed, Finished, Heartbeat, Message, Note, Start, Stats, decode

BEAT_NS = 500_000_000
STATS_NS = SECOND_NS
LEAST_RATED_S = 0.2
"""Rates over less time than this say nothing."""
LAST_WORDS_MS = 500
LINES = 100
_PR_SET_PDEATHSIG = 1


StatsGiver = Callable[[float], Sequence[Stats]]


class StoppedError(Exception):
    """The main process has closed the pipe, or is gone: end now, in good order."""


@dataclass(slots=True)
class Edge:
    """A worker's view of its parent. `name` is the worker's; `beat` is to be called at least every 0.25 s."""

    name: str
    pipe: "Connection[Any, Any]"
    context: "zmq.Context[Any]"
    reports: Sender
    _beaten_ns: int = 0
    _counted_ns: int = 0
    _cpu_s: float = field(default_factory=time.process_time)
    _lines: "deque[Note]" = field(default_factory=lambda: deque(maxlen=LINES))

    def report(self, message: Message) -> None:
        """Send one message to the main process."""
        self.reports.send(message)

    def log(self, record: logging.LogRecord) -> None:
        """Take a log record from any thread; it leaves with the next beat. Of too many, the newest stay."""
        level = "warning" if record.levelno >= logging.WARNING else "info"
        self._lines.append(Note(self.name, level, record.getMessage()))

    def beat(self, stats: StatsGiver | None = None) -> Start | None:
        """Say that the loop turns, about twice a second, and give `stats(seconds since last)` once a second.

        Returns a command where one has come. Raises StoppedError when the main process wants the end.
        """
        now_ns = time.monotonic_ns()
        if now_ns - self._beaten_ns >= BEAT_NS:
            self._beaten_ns = now_ns
            self.report(Heartbeat(self.name, os.getpid()))
        if stats is not None and now_ns - self._counted_ns >= STATS_NS:
            self.give(stats)
        while self._lines:
            self.report(self._lines.popleft())
        self.reports.pump()
        return self._command()

    def cpu_share(self, elapsed_s: float) -> float:
        """Share of one core used since the last call."""
        before, self._cpu_s = self._cpu_s, time.process_time()
        return (self._cpu_s - before) / elapsed_s

    def await_start(self) -> Start:
        """Beat until the main process says Start."""
        while (start := self.beat()) is None:
            with contextlib.suppress(OSError):
                self.pipe.poll(BEAT_NS / 2e9)
        return start

    def finish(self, stats: StatsGiver) -> NoReturn:
        """Say that everything has been sent, and stay: what was sent last may still wait here to be fetched.

        The last `stats` go before it, so that nothing lost at the end goes uncounted. Ends with StoppedError,
        when the main process has all that it wants.
        """
        self.give(stats)
        self.report(Finished(self.name))
        while True:
            self.await_start()

    def give(self, stats: StatsGiver) -> None:
        """Report what was counted since the last time, now."""
        now_ns = time.monotonic_ns()
        elapsed_s = (now_ns - self._counted_ns) / 1e9 if self._counted_ns else 0.0
        self._counted_ns = now_ns
        for each in stats(elapsed_s) if elapsed_s else ():
            self.report(each if elapsed_s >= LEAST_RATED_S else replace(each, rates={}))

    def _command(self) -> Start | None:
        try:
            if not self.pipe.poll(0):
                return None
            command = decode(self.pipe.recv_bytes())
        except (EOFError, OSError) as gone:
            raise StoppedError from gone
        assert isinstance(command, Start)
        return command


def stand(
    name: str,
    endpoints: Endpoints,
    pipe: "Connection[Any, Any]",
    main: Callable[[Edge], NoReturn],
    *,
    keep_all: bool = False,
) -> None:
    """Run `main` as a worker: what it raises becomes one message to the main process, no trace on a screen.

    keep_all: reports are never dropped; `main` has to stop while `edge.reports.full`. The process's exit
    status is 0 after a good end and 1 otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    context: zmq.Context[Any] = zmq.Context()
    edge = Edge(name, pipe, context, Sender.connect(context, endpoints.report, keep_all=keep_all))
    logging.basicConfig(level=logging.INFO, handlers=[_Handler(edge)], force=True)
    failed: Failed | None = None
    try:
        main(edge)
    except StoppedError:
        pass
    except De3Error as error:
        failed = Failed(name, _cause(error), str(error), traceback.format_exc())
    except Exception as error:
        failed = Failed(name, "crash", f"{type(error).__name__}: {error}", traceback.format_exc())
    if failed is not None:
        edge.report(failed)
        while edge.reports.waiting and not _closed(pipe):
            edge.reports.wait(LAST_WORDS_MS)
    context.destroy(linger=LAST_WORDS_MS if failed is not None else 0)
    sys.stdout.flush()
    # Native libraries may hold threads that never end (a camera's, a sound card's): leave without them.
    os._exit(1 if failed is not None else 0)


class _Handler(logging.Handler):
    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self._edge = edge

    def emit(self, record: logging.LogRecord) -> None:
        self._edge.log(record)


def _cause(error: De3Error) -> str:
    if isinstance(error, BundleError | BackendError):
        return "bundle"
    if isinstance(error, AbsentError | FinderError | UsageError):
        return "usage"
    return "source" if isinstance(error, SourceError) else "crash"


def _closed(pipe: "Connection[Any, Any]") -> bool:
    try:
        if pipe.poll(0):
            pipe.recv_bytes()
    except (EOFError, OSError):
        return True
    return False


def _die_with_parent(signal_number: int) -> None:
    """Ask the kernel for `signal_number` when the parent dies; elsewhere than on Linux the pipe must do."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
