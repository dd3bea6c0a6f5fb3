"""The recogniser worker: observations and blocks in, scores of the windows that are due out.

`Recogniser` is the worker without its process: it takes messages and times as arguments. It knows nothing
about devices, files or the feed. Data leaves it as `Scored` messages to the main process.
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

from engine.types import Block, Observation
from engine.window import UNBOUNDED_NS
from realtime.link import QUEUE_MESSAGES, End, Endpoints, Message, Ready, Receiver, Scored, Stats
from realtime.schedule import Schedule
from realtime.worker import Edge, stand

if TYPE_CHECKING:
    from engine.recognizer import Stream

NS = 1_000_000_000
MS = 1_000_000
SOUND_HZ = 16_000
WAIT_MS = 250
ORDER_SLACK_NS = 250 * MS
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


@dataclass(slots=True)
class Recogniser:
    """One stream's messages to scores: `take` what came, ask what is `due`, `score` it. Time is an argument.

    Data that comes after its window is late: the stream masks and counts it. A modality whose source has gone
    quiet holds up the other by the schedule's `max_wait_ns` at most; where media time is the clock, all items
    come in one order of time, so an item bounds the other modality too, `ORDER_SLACK_NS` behind.
    """

    stream: "Stream"
    schedule: Schedule
    live: bool
    _last_ns: int = 0
    _video_delay_ns: int | None = None
    _audio_delay_ns: int = 0

    def expect(self, *, video: bool, audio: bool) -> None:
        """What will come; of what will not, nothing is waited for any more."""
        if not video:
            self.stream.advance_video(UNBOUNDED_NS)
        if not audio:
            self.stream.advance_audio(UNBOUNDED_NS)

    def take(self, message: Message, now_ns: int) -> None:
        """One message of the `observe` link, at its arrival."""
        if isinstance(message, Observation):
            self.stream.add_observation(message)
            self._video_delay_ns = now_ns - message.t_ns
            if not self.live:
                self.stream.advance_audio(message.t_ns - ORDER_SLACK_NS)
        elif isinstance(message, Block):
            self.stream.add_block(message)
            self._audio_delay_ns = now_ns - message.t_ns - len(message.samples) * NS // SOUND_HZ
            if not self.live:
                self.stream.advance_video(message.t_ns - ORDER_SLACK_NS)
        else:
            assert isinstance(message, End)
            self._last_ns = max(self._last_ns, message.t_ns)
            self.expect(video="video" not in message.kinds, audio="audio" not in message.kinds)

    @property
    def ended(self) -> bool:
        """True when nothing will come any more."""
        return self._bound_ns() >= UNBOUNDED_NS

    def due(self, now_ns: int) -> list[int]:
        """The ends of the windows to score now, oldest first."""
        if self.ended:
            return self.schedule.rest(self._last_ns)
        return self.schedule.due(now_ns, self._bound_ns())

    def score(self, end_ns: int, due_ns: int) -> Scored:
        """The scores of the window that ends at `end_ns`, which was found due at `due_ns`."""
        scores = self.stream.scores(end_ns)
        if not self.live:
            return Scored(scores, 0, 0, 0)
        delay_ns = self._audio_delay_ns if self._video_delay_ns is None else self._video_delay_ns
        return Scored(scores, delay_ns, due_ns, time.monotonic_ns())

    def _bound_ns(self) -> int:
        return min(self.stream.video_bound_ns, self.stream.audio_bound_ns)


def recognise_main(job: RecogniseJob, pipe: "Connection[Any, Any]") -> None:
    """The entry of the recogniser's process."""
    stand(RECOGNISER, job.endpoints, pipe, lambda edge: _recognise(edge, job), keep_all=not job.live)


def _recognise(edge: Edge, job: RecogniseJob) -> NoReturn:
    from engine.backends import choose
    from engine.bundle import load_bundle
    from engine.recognizer import Recognition, Stream

    bundle = load_bundle(job.bundle)
    choice = choose(bundle, job.engine)
    recognition = Recognition(bundle, choice.backend)
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
    edge.finish()


def _turn(edge: Edge, inbox: Receiver, recogniser: Recogniser) -> None:
    """The worker's loop: wait for messages, take them, score what is due; until everything has ended."""
    counts: Counter[str] = Counter()
    poller = zmq.Poller()
    poller.register(inbox.socket, zmq.POLLIN)
    if os.name != "nt":
        poller.register(edge.pipe.fileno(), zmq.POLLIN)

    def take(message: Message) -> None:
        recogniser.take(message, time.monotonic_ns())

    def stats(elapsed_s: float) -> Stats:
        return _stats(edge, recogniser, counts, elapsed_s)

    # Without a clock each message is followed by what it makes due: so batches, and with them the last bits
    # of every score, never depend on how fast messages come.
    limit = QUEUE_MESSAGES if recogniser.live else 1
    while not recogniser.ended:
        poller.poll(_timeout_ms(recogniser.schedule.wake_ns()))
        inbox.drain(take, limit)
        start = edge.beat(stats)
        if start is not None:
            recogniser.expect(video=start.has_video, audio=start.has_audio)
        due_ns = time.monotonic_ns()
        for end_ns in recogniser.due(due_ns):
            edge.report(recogniser.score(end_ns, due_ns))
            counts["windows"] += 1
            while edge.reports.keep_all and edge.reports.full:
                edge.reports.wait(WAIT_MS)
                edge.beat(stats)
            edge.beat(stats)


def _timeout_ms(wake_ns: int | None) -> int:
    if wake_ns is None:
        return WAIT_MS
    return min(max(-((time.monotonic_ns() - wake_ns) // MS), 0), WAIT_MS)


def _stats(edge: Edge, recogniser: Recogniser, counts: Counter[str], elapsed_s: float) -> Stats:
    windows = counts.pop("windows", 0)
    drops = {cause: count for cause, count in recogniser.stream.counts.items() if count}
    if recogniser.schedule.skipped:
        drops["skipped_window"] = recogniser.schedule.skipped
    rates = {"scores_hz": windows / elapsed_s, "cpu": edge.cpu_share(elapsed_s)}
    return Stats(edge.name, os.getpid(), drops, rates)
