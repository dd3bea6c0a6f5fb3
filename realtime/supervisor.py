"""Keeps the workers alive: starts them, listens for their heartbeats, replaces those that die, ends them all.

It takes time as an argument and knows nothing about what a worker does. Data leaves it as the events that
`advance` returns; what they mean for the run is for `realtime.run` to say.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from typing import Any

from realtime.messages import Message, encode

SILENT_NS = 2_000_000_000
UNHURRIED_NS = 60_000_000_000
STARTING_NS = 60_000_000_000
AWAY_NS = 500_000_000
LAST_WORDS_NS = 50_000_000
FIRST_BACK_OFF_NS = 100_000_000
LONGEST_BACK_OFF_NS = 2_000_000_000
PATIENT_BACK_OFF_NS = 26_000_000_000
MINUTE_NS = 60_000_000_000
MOST_RESTARTS_A_MINUTE = 5
GRACE_S = 0.6

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has been started, for the first time or again."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is dead and will be replaced after `back_off_ns`."""

    worker: str
    why: str
    back_off_ns: int


@dataclass(frozen=True, slots=True)
class Dying:
    """A worker died once too often; it is not replaced any more."""

    worker: str
    why: str


Event = Started | Died | Dying


@dataclass(slots=True)
class _Worker:
    target: Callable[..., None]
    job: Any
    process: Any = None
    pipe: Any = None
    begun_ns: int = 0
    beaten_ns: int | None = None
    dead_since_ns: int | None = None
    again_ns: int | None = None
    done: bool = False
    patient: bool = False
    restarts_ns: deque[int] = field(default_factory=deque)


@dataclass(slots=True)
class Supervisor:
    """The workers by name. Each runs `target(job, pipe)` in a process of its own.

    A worker that has not beaten for `silent_ns` (or `STARTING_NS` before its first heartbeat) is killed and
    replaced. That is `SILENT_NS` where a camera waits, and `UNHURRIED_NS` where nothing does: there a busy
    machine or a long search in a file is no reason to end a run. The back-off doubles from
    `FIRST_BACK_OFF_NS` with each restart within a minute (see also `be_patient`); more than
    `MOST_RESTARTS_A_MINUTE` of them and the worker stays dead. Time in which nobody called `advance` (the
    main process itself was stopped, or got no processor) is held against no worker.
    """

    silent_ns: int = SILENT_NS
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _looked_ns: int | None = None

    def add(self, name: str, target: Callable[..., None], job: Any, now_ns: int) -> Started:
        """Start a worker. `target` and `job` must be importable and picklable (processes are spawned)."""
        worker = _Worker(target, job)
        self._workers[name] = worker
        return self._start(name, worker, now_ns)

    def beat(self, name: str, pid: int, now_ns: int) -> None:
        """A heartbeat has come; one of a predecessor that is already dead does not count."""
        if self.runs(name, pid):
            self._workers[name].beaten_ns = now_ns

    def be_patient(self, name: str) -> None:
        """What it works on is away, as a camera that starts anew: its successors come four times later each,
        so that the last one comes after half a minute."""
        worker = self._workers.get(name)
        if worker is not None:
            worker.patient = True

    def runs(self, name: str, pid: int) -> bool:
        """Whether this is the worker's process now; a predecessor's words may come late."""
        worker = self._workers.get(name)
        return worker is not None and worker.process is not None and worker.process.pid == pid

    def tell(self, name: str, message: Message) -> None:
        """Send a command to a worker; a dead one is told nothing."""
        worker = self._workers[name]
        if worker.pipe is not None:
            with contextlib.suppress(OSError):
                worker.pipe.send_bytes(encode(message))

    def renew(self, name: str, job: Any) -> None:
        """Whatever replaces the worker gets this job."""
        self._workers[name].job = job

    def finished(self, name: str) -> None:
        """The worker has said that it is done: its end is no death."""
        if name in self._workers:
            self._workers[name].done = True

    def remove(self, name: str) -> None:
        """End a worker for good, at once: nobody waits for what it still has."""
        worker = self._workers.pop(name, None)
        if worker is not None and worker.process is not None:
            self._bury(worker)

    def advance(self, now_ns: int) -> list[Event]:
        """Look at every worker; kill, restart or give up where needed."""
        self._forgive(now_ns)
        events: list[Event] = []
        for name, worker in self._workers.items():
            if worker.process is not None and not worker.done:
                events += self._look(name, worker, now_ns)
            elif worker.again_ns is not None and now_ns >= worker.again_ns:
                events.append(self._start(name, worker, now_ns))
        return events

    def close(self) -> None:
        """End all workers: ask, wait at most `GRACE_S`, kill. Nothing is left when this returns."""
        self._end(list(self._workers.values()))
        self._workers.clear()

    def _forgive(self, now_ns: int) -> None:
        """Take the time in which the main process itself did not run off every worker's silence."""
        away_ns = 0 if self._looked_ns is None else now_ns - self._looked_ns
        self._looked_ns = now_ns
        if away_ns > AWAY_NS:
            for worker in self._workers.values():
                worker.begun_ns += away_ns
                if worker.beaten_ns is not None:
                    worker.beaten_ns = min(worker.beaten_ns + away_ns, now_ns)

    def _look(self, name: str, worker: _Worker, now_ns: int) -> Sequence[Event]:
        why = ""
        if not worker.process.is_alive():
            # Its last words may still be on the way; they say whether to start it again.
            if worker.dead_since_ns is None:
                worker.dead_since_ns = now_ns
            if now_ns - worker.dead_since_ns >= LAST_WORDS_NS:
                why = _how(worker.process.exitcode)
        elif worker.beaten_ns is None:
            if now_ns - worker.begun_ns > STARTING_NS:
                why = f"did not come up within {STARTING_NS // 10**9} s"
        elif now_ns - worker.beaten_ns > self.silent_ns:
            why = f"was silent for {self.silent_ns // 10**9} s"
        if not why:
            return ()
        self._bury(worker)
        return (self._again(name, worker, why, now_ns),)

    def _again(self, name: str, worker: _Worker, why: str, now_ns: int) -> Event:
        restarts = worker.restarts_ns
        while restarts and now_ns - restarts[0] > MINUTE_NS:
            restarts.popleft()
        if len(restarts) >= MOST_RESTARTS_A_MINUTE:
            worker.done = True
            return Dying(name, why)
        doublings, longest_ns = (2, PATIENT_BACK_OFF_NS) if worker.patient else (1, LONGEST_BACK_OFF_NS)
        back_off_ns = min(FIRST_BACK_OFF_NS << doublings * len(restarts), longest_ns)
        restarts.append(now_ns)
        worker.again_ns = now_ns + back_off_ns
        return Died(name, why, back_off_ns)

    def _start(self, name: str, worker: _Worker, now_ns: int) -> Started:
        worker.pipe, theirs = _SPAWN.Pipe()
        worker.process = _SPAWN.Process(
            target=worker.target, args=(worker.job, theirs), name=name, daemon=True
        )
        with _interrupts_blocked():
            worker.process.start()
        theirs.close()
        worker.begun_ns, worker.beaten_ns = now_ns, None
        worker.dead_since_ns = worker.again_ns = None
        worker.patient = False
        return Started(name, worker.process.pid)

    def _bury(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.process.close()
        worker.pipe.close()
        worker.process = worker.pipe = None

    def _end(self, workers: list[_Worker]) -> None:
        alive = [worker for worker in workers if worker.process is not None]
        for worker in alive:
            worker.pipe.close()
            if worker.beaten_ns is None:
                worker.process.kill()  # it is still loading, and would not look at the pipe for a while
        deadline = time.monotonic() + GRACE_S
        waiting = {worker.process.sentinel for worker in alive}
        while waiting and (left := deadline - time.monotonic()) > 0:
            waiting -= set(connection.wait(list(waiting), left))
        for worker in alive:
            self._bury(worker)


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is spawned in here never sees Ctrl-C, not even before its first line runs."""
    if os.name == "nt":
        yield
        return
    # The tracker unblocks signals when it is started: have it running before they are blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
