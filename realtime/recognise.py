"""The recogniser worker: observations and blocks in, scores of the windows that are due out.

It serves all streams of a run: it loads the model and turns the loop round `realtime.streams`. It knows
nothing about devices, files or the feed. Data leaves it as `Scored` messages to the main process. The main
process imports this file to start the worker, so what is heavy is imported in the worker alone.
"""

import os
import time
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import zmq

from realtime.config import UsageError
from realtime.link import QUEUE_MESSAGES, Endpoints, Receiver
from realtime.messages import Finished, Message, Note, Ready, Routed, Start, Stats
from realtime.schedule import Schedule
from realtime.worker import Edge, stand

if TYPE_CHECKING:
    from engine.streams import Recognition
    from realtime.streams import Streams

MS = 1_000_000
WAIT_MS = 250
RECOGNISER = "recogniser"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecogniseJob:
    """What the recogniser worker has to do. max_wait_ns: see `Schedule`; used where the run is live.
    faces: most of a camera."""

    endpoints: Endpoints
    streams: tuple[str, ...]
    bundle: Path | None
    engine: str
    rate_hz: Fraction
    max_wait_ns: int
    live: bool
    faces: int

    @property
    def least_tracks(self) -> int:
        """Without so many the run cannot be: one a stream, and of several faces one face beside it."""
        return len(self.streams) * min(self.faces, 2)

    @property
    def most_tracks(self) -> int:
        """With so many every face has its own."""
        return len(self.streams) * (1 + self.faces if self.faces > 1 else 1)


def recognise_main(job: RecogniseJob, pipe: "Connection[Any, Any]") -> None:
    """The entry of the recogniser's process."""
    stand(RECOGNISER, job.endpoints, pipe, lambda edge: _recognise(edge, job), keep_all=not job.live)


def _recognise(edge: Edge, job: RecogniseJob) -> NoReturn:
    from engine.backends import choose
    from engine.bundle import load_bundle
    from engine.streams import Recognition

    bundle = load_bundle(job.bundle)
    if job.rate_hz > bundle.window.tick_hz:
        raise UsageError(
            f"--rate is at most {bundle.window.tick_hz} scores a second, as often as this model looks, "
            f"not {float(job.rate_hz):g}."
        )
    choice = choose(bundle, job.engine, job.least_tracks)
    recognition = Recognition(bundle, choice.backend)
    recognition.warm_up()
    inbox = Receiver.bind(edge.context, job.endpoints.observe)
    edge.report(Ready(RECOGNISER, os.getpid(), bundle.digest, choice.reason))
    if (scarce := _scarce(recognition, job)) is not None:
        edge.report(Note(RECOGNISER, "warning", scarce))
    starts: dict[str, Start] = {}
    while len(starts) < len(job.streams):
        start = edge.await_start()
        starts[start.stream] = start
    _turn(edge, inbox, _streams(recognition, job, starts))


def _scarce(recognition: "Recognition", job: RecogniseJob) -> str | None:
    """That not all faces can be followed at once, in a sentence; None where they can."""
    kept, wanted = recognition.backend.tracks, job.most_tracks
    if kept is None or kept >= wanted:
        return None
    beyond = "each stream has one face for certain, those beyond the tracks are left out and counted"
    return f"{recognition.too_few(wanted)[:-1]}; until then {beyond}."


def _streams(recognition: "Recognition", job: RecogniseJob, starts: "dict[str, Start]") -> "Streams":
    from engine.streams import Stream
    from realtime.scoring import Recogniser, Room
    from realtime.streams import Pace, Streams

    begun_ns = time.perf_counter_ns()
    recognition.warm_up()  # a face and a window take no longer than this
    pace = Pace(time.perf_counter_ns() - begun_ns)
    tick_hz, tracks = recognition.bundle.window.tick_hz, recognition.backend.tracks
    room = Room(None if tracks is None else tracks - job.least_tracks)
    recognisers = {}
    for name in job.streams:
        start = starts[name]
        schedule = Schedule(
            epoch_ns=start.epoch_ns,
            tick_hz=tick_hz,
            rate_hz=job.rate_hz,
            max_wait_ns=job.max_wait_ns if start.live else None,
        )
        if start.live:
            schedule.begin(time.monotonic_ns())
        stream = Stream(recognition, start.epoch_ns, at_once=not start.live)
        recognisers[name] = Recogniser(stream, schedule, start.live, name, job.faces > 1, room)
        recognisers[name].expect(video=start.has_video, audio=start.has_audio)
    return Streams(recognition, recognisers, job.live, faces=pace)


def _turn(edge: Edge, inbox: Receiver, streams: "Streams") -> NoReturn:
    """The worker's loop: wait for messages, take them, score what is due; until everything has ended."""
    poller = zmq.Poller()
    poller.register(inbox.socket, zmq.POLLIN)
    if os.name != "nt":
        poller.register(edge.pipe.fileno(), zmq.POLLIN)

    def stats(elapsed_s: float) -> list[Stats]:
        return _stats(edge, streams, elapsed_s)

    def beat() -> None:
        start = edge.beat(stats)
        if start is not None:
            streams.expect(start.stream, video=start.has_video, audio=start.has_audio)

    def take(message: Message) -> None:
        assert isinstance(message, Routed)
        streams.take(message, time.monotonic_ns())
        beat()

    # Without a clock each message is followed by what it makes due: so batches, and with them the last bits
    # of every score, never depend on how fast messages come.
    limit = QUEUE_MESSAGES * len(streams.recognisers) if streams.live else 1
    while not streams.ended:
        poller.poll(_timeout_ms(streams.wake_ns()))
        inbox.drain(take, limit)
        streams.encode()
        beat()
        due_ns = time.monotonic_ns()
        for batch in streams.due(due_ns):
            for scored in streams.score(batch, due_ns):
                edge.report(scored)
            while edge.reports.keep_all and edge.reports.full:
                edge.reports.wait(WAIT_MS)
                beat()
            beat()
        for name in streams.newly_over():
            edge.give(stats)  # what was lost at the very end counts too
            edge.report(Finished(RECOGNISER, name))
    edge.finish(stats)


def _timeout_ms(wake_ns: int | None) -> int:
    if wake_ns is None:
        return WAIT_MS
    return min(max(-((time.monotonic_ns() - wake_ns) // MS), 0), WAIT_MS)


def _stats(edge: Edge, streams: "Streams", elapsed_s: float) -> list[Stats]:
    """One for each stream; the worker's own share of a core, and of its reports those lost, stand in each."""
    cpu = edge.cpu_share(elapsed_s)
    found = []
    for name, recogniser in streams.recognisers.items():
        windows, skipped = streams.counted(name)
        drops = {cause.replace("_", " "): count for cause, count in recogniser.stream.counts.items() if count}
        if recogniser.schedule.skipped:
            drops["skipped window"] = recogniser.schedule.skipped
        if edge.reports.dropped:
            drops["report link full"] = edge.reports.dropped
        overload = skipped / max(windows + skipped, 1)
        rates = {"scores_hz": windows / elapsed_s, "overload": overload, "cpu": cpu}
        found.append(Stats(edge.name, os.getpid(), drops, rates, name))
    return found
