"""The recogniser worker: observations and blocks in, scores of the windows that are due out.

It loads the model and turns the loop round `realtime.scoring`; it knows nothing about devices, files or the
feed. Data leaves it as `Scored` messages to the main process. The main process imports this file to start the
worker, so what is heavy is imported in the worker alone.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import zmq

from realtime.link import QUEUE_MESSAGES, Endpoints, Message, Ready, Receiver, Stats
from realtime.schedule import Schedule
from realtime.worker import Edge, stand

if TYPE_CHECKING:
    from realtime.scoring import Recogniser

MS = 1_000_000
WAIT_MS = 250
RECOGNISER = "recogniser"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecogniseJob:
    """What the recogniser worker has to do. max_wait_ns: see `Schedule`; used where the run is live."""

    endpoints: Endpoints
    bundle: Path | None
    engine: str
    rate_hz: Fraction
    max_wait_ns: int
    live: bool


def recognise_main(job: RecogniseJob, pipe: "Connection[Any, Any]") -> None:
    """The entry of the recogniser's process."""
    stand(RECOGNISER, job.endpoints, pipe, lambda edge: _recognise(edge, job), keep_all=not job.live)


def _recognise(edge: Edge, job: RecogniseJob) -> NoReturn:
    from engine.backends import choose
    from engine.bundle import load_bundle
    from engine.recognizer import Recognition, Stream
    from realtime.scoring import Recogniser

    bundle = load_bundle(job.bundle)
    choice = choose(bundle, job.engine)
    recognition = Recognition(bundle, choice.backend)
    recognition.warm_up()
    inbox = Receiver.bind(edge.context, job.endpoints.observe)
    edge.report(Ready(RECOGNISER, os.getpid(), bundle.digest, choice.reason))
    start = edge.await_start()
    schedule = Schedule(
        epoch_ns=start.epoch_ns,
        tick_hz=bundle.window.tick_hz,
        rate_hz=min(job.rate_hz, Fraction(bundle.window.tick_hz)),
        max_wait_ns=job.max_wait_ns if start.live else None,
    )
    if start.live:
        schedule.begin(time.monotonic_ns())
    recogniser = Recogniser(Stream(recognition, start.epoch_ns), schedule, start.live)
    recogniser.expect(video=start.has_video, audio=start.has_audio)
    _turn(edge, inbox, recogniser)


def _turn(edge: Edge, inbox: Receiver, recogniser: "Recogniser") -> NoReturn:
    """The worker's loop: wait for messages, take them, score what is due; until everything has ended."""
    counts: Counter[str] = Counter()
    poller = zmq.Poller()
    poller.register(inbox.socket, zmq.POLLIN)
    if os.name != "nt":
        poller.register(edge.pipe.fileno(), zmq.POLLIN)

    def stats(elapsed_s: float) -> Stats:
        return _stats(edge, recogniser, counts, elapsed_s)

    def beat() -> None:
        start = edge.beat(stats)
        if start is not None:
            recogniser.expect(video=start.has_video, audio=start.has_audio)

    def take(message: Message) -> None:
        recogniser.take(message, time.monotonic_ns())
        beat()  # where one face takes a tenth of a second, a full queue takes longer than silence may last

    # Without a clock each message is followed by what it makes due: so batches, and with them the last bits
    # of every score, never depend on how fast messages come.
    limit = QUEUE_MESSAGES if recogniser.live else 1
    while not recogniser.ended:
        poller.poll(_timeout_ms(recogniser.schedule.wake_ns()))
        inbox.drain(take, limit)
        beat()
        due_ns = time.monotonic_ns()
        for end_ns in recogniser.due(due_ns):
            edge.report(recogniser.score(end_ns, due_ns))
            counts["windows"] += 1
            while edge.reports.keep_all and edge.reports.full:
                edge.reports.wait(WAIT_MS)
                beat()
            beat()
    edge.finish(stats)


def _timeout_ms(wake_ns: int | None) -> int:
    if wake_ns is None:
        return WAIT_MS
    return min(max(-((time.monotonic_ns() - wake_ns) // MS), 0), WAIT_MS)


def _stats(edge: Edge, recogniser: "Recogniser", counts: Counter[str], elapsed_s: float) -> Stats:
    windows = counts.pop("windows", 0)
    drops = {cause.replace("_", " "): count for cause, count in recogniser.stream.counts.items() if count}
    if recogniser.schedule.skipped:
        drops["skipped window"] = recogniser.schedule.skipped
    rates = {"scores_hz": windows / elapsed_s, "cpu": edge.cpu_share(elapsed_s)}
    return Stats(edge.name, os.getpid(), drops, rates)
