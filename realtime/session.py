"""One run, seen from the main process: what the workers report becomes scores on the feed and an exit status.

It does no heavy work and knows nothing about devices or models. Data leaves it through its `Outlet`.
"""

import threading
import time
from dataclasses import dataclass, field, replace

import zmq

from realtime.capture import CaptureJob, capture_main
from realtime.config import Config, Exit
from realtime.lines import Lines
from realtime.link import (
    Endpoints,
    Failed,
    Finished,
    Heartbeat,
    Message,
    Note,
    Opened,
    Ready,
    Receiver,
    Scored,
    Start,
    Stats,
)
from realtime.outlet import Condition, Outlet
from realtime.parts import Part
from realtime.recognise import RECOGNISER, RecogniseJob, recognise_main
from realtime.supervisor import Died, Event, Started, Supervisor

NS = 1_000_000_000
MS = 1_000_000
POLL_MS = 100
LEAD_NS = 150 * MS
PATIENCE_NS = 1500 * MS
OVERTIME_NS = 3 * NS


@dataclass(slots=True)
class _Place:
    """A capture worker as the session sees it. `failure`: its last words, where it had to end."""

    part: Part
    job: CaptureJob
    opened: Opened | None = None
    finished: bool = False
    failure: Failed | None = None

    def has(self, kind: str) -> bool:
        """Whether "video" or "audio" comes, or is to be expected, from here."""
        if self.opened is None:
            return self.part.wants(kind)
        return self.opened.has_video if kind == "video" else self.opened.has_audio


@dataclass(slots=True)
class Session:
    """A run from its first worker to its exit status; `stop` ends it in good order whenever it is set."""

    config: Config
    endpoints: Endpoints
    outlet: Outlet
    lines: Lines
    stop: threading.Event
    supervisor: Supervisor = field(default_factory=Supervisor)
    condition: Condition = field(default_factory=Condition)
    _places: dict[str, _Place] = field(default_factory=dict)
    _wanted: tuple[str, ...] = ()
    _down: set[str] = field(default_factory=set)
    _ready: Ready | None = None
    _start: Start | None = None
    _exit: Exit | None = None
    _begun_ns: int = field(default_factory=time.monotonic_ns)

    def spawn(self, parts: tuple[Part, ...]) -> None:
        """Start the workers: first the recogniser, which takes longest to come up."""
        config, now_ns = self.config, time.monotonic_ns()
        self.condition.live = config.pace
        self._wanted = tuple(kind for kind in ("video", "audio") if any(part.wants(kind) for part in parts))
        job = RecogniseJob(
            endpoints=self.endpoints,
            bundle=config.bundle,
            engine=config.engine,
            rate_hz=config.rate_hz,
            max_wait_ns=round(config.max_wait * MS),
            live=config.pace,
        )
        self._happened(self.supervisor.add(RECOGNISER, recognise_main, job, now_ns))
        for part in parts:
            place = _Place(part, self._job(part))
            self._places[part.worker] = place
            self._happened(self.supervisor.add(part.worker, capture_main, place.job, now_ns))

    @property
    def started(self) -> bool:
        """True once the sources have been told to begin."""
        return self._start is not None

    def run(self) -> Exit:
        """Until the media end, the duration is over, `stop`, or nothing can go on."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        inbox = Receiver.bind(context, self.endpoints.report)
        poller = zmq.Poller()
        poller.register(inbox.socket, zmq.POLLIN)
        try:
            while self._exit is None and not self.stop.is_set():
                poller.poll(POLL_MS)
                inbox.drain(self._take)
                now_ns = time.monotonic_ns()
                for event in self.supervisor.advance(now_ns):
                    self._happened(event)
                self._maybe_start(now_ns)
                self._check_overtime(now_ns)
                self._judge()
                self.outlet.tick(self.condition)
            return Exit.OK if self._exit is None else self._exit
        finally:
            self.supervisor.close()
            self.outlet.end(self.condition)
            inbox.close()
            context.term()

    def _job(self, part: Part) -> CaptureJob:
        config = self.config
        return CaptureJob(
            worker=part.worker,
            endpoints=self.endpoints,
            sources=part.sources,
            fallback=part.fallback,
            paced=config.pace,
            duration_ns=None if config.duration is None else round(config.duration * NS),
            bundle=config.bundle,
            face_model=config.face_model,
            offline=config.offline,
        )

    def _end(self, status: Exit) -> None:
        if self._exit is None:
            self._exit = status

    def _take(self, message: Message) -> None:
        match message:
            case Scored():
                self.outlet.scored(message, self.condition)
            case Heartbeat(name, pid):
                self.supervisor.beat(name, pid, time.monotonic_ns())
            case Stats():
                self.condition.stats[message.worker] = message
            case Note(_, level, text):
                (self.lines.warning if level == "warning" else self.lines.info)(text)
            case Ready():
                self._took_ready(message)
            case Opened():
                self._took_opened(message)
            case Failed():
                self._took_failure(message)
            case Finished(name):
                self._took_end(name)
            case _:
                raise AssertionError(f"{type(message).__name__} has no business on the report link")

    def _took_ready(self, ready: Ready) -> None:
        if self._ready is None:
            self.lines.info(f"engine: {ready.engine}; model {ready.model}")
        self._ready = ready
        self._down.discard(RECOGNISER)
        self.condition.engine, self.condition.model = ready.engine, ready.model
        if self._start is not None:
            self.supervisor.tell(RECOGNISER, self._expected(self._start))
        if self._all_finished():
            self._end(Exit.OK)

    def _took_opened(self, opened: Opened) -> None:
        place = self._places.get(opened.worker)
        if place is None:
            return
        if place.opened is None:
            for note in opened.notes:
                self.lines.info(note)
        # What replaces it must open the same again: a camera that was unplugged is no reason for a demo.
        sources = (place.part.fallback,) if opened.fell_back and place.part.fallback else place.job.sources
        place.job = replace(place.job, sources=sources, fallback=None)
        self.supervisor.renew(opened.worker, place.job)
        place.opened, place.failure = opened, None
        self._down.discard(opened.worker)
        if opened.has_audio and opened.has_video:
            self._drop_unasked_sound()
        if self._start is not None:
            self.supervisor.tell(opened.worker, self._start)
            self._tell_expected()
            self._say_what()

    def _took_failure(self, failed: Failed) -> None:
        place = self._places.get(failed.worker)
        if failed.cause == "bundle":
            self._fail(Exit.BUNDLE, failed.text, failed.trace)
        elif place is None or failed.cause == "crash":
            self._show_trace(failed.trace)
            self.lines.warning(f"The {failed.worker} worker failed: {failed.text}", worker=failed.worker)
        elif place.opened is not None:
            place.failure = failed
            self.lines.warning(f"{failed.text} Trying again.", worker=failed.worker)
        elif place.part.asked or len(self._places) == 1:
            status = Exit.USAGE if failed.cause == "usage" else Exit.SOURCE
            self._fail(status, failed.text, failed.trace)
        else:
            self._go_on_without(place, failed.text)

    def _took_end(self, name: str) -> None:
        self.supervisor.finished(name)
        if name == RECOGNISER:
            self._end(Exit.OK)
        elif name in self._places:
            self._places[name].finished = True

    def _happened(self, event: Event) -> None:
        name, place = event.worker, self._places.get(event.worker)
        if isinstance(event, Started):
            self.lines.detail(f"worker {name}: process {event.pid}", worker=name, pid=event.pid)
            return
        self._down.add(name)
        self.condition.restarts[name] += 1
        if not self.config.pace:
            # The messages on their way are lost, and a file that leaves some out would look complete.
            self._fail(Exit.DYING, f"The {name} worker {event.why}; without pacing nothing may be lost.")
        elif name == RECOGNISER and self._all_finished():
            self._end(Exit.OK)
        elif isinstance(event, Died):
            if place is None or place.failure is None:
                again = f"starting it again in {event.back_off_ns / NS:.1f} s"
                self.lines.warning(f"The {name} worker {event.why}; {again}.", worker=name)
        elif place is not None and not place.part.asked and len(self._places) > 1 and place.has("audio"):
            self._go_on_without(place, f"The {name} worker {event.why} too often.")
        elif place is not None and place.failure is not None:
            self._fail(Exit.SOURCE, place.failure.text)
        else:
            self._fail(Exit.DYING, f"The {name} worker keeps dying ({event.why}); giving up.")

    def _fail(self, status: Exit, text: str, trace: str = "") -> None:
        if self._exit is None:
            self._show_trace(trace)
            self.lines.error(text)
        self._end(status)

    def _show_trace(self, trace: str) -> None:
        if self.config.debug and trace:
            self.lines.detail(trace.rstrip())

    def _go_on_without(self, place: _Place, why: str) -> None:
        """Sound that nobody asked for by name is not worth the run."""
        self.lines.warning(f"{why} Going on with video alone.")
        self._remove(place.part.worker)

    def _drop_unasked_sound(self) -> None:
        """The demo that stands in for a camera brings its own voice."""
        for name, place in list(self._places.items()):
            if not place.part.asked and not place.has("video"):
                self._remove(name)

    def _remove(self, name: str) -> None:
        del self._places[name]
        self.supervisor.remove(name)
        self.condition.stats.pop(name, None)
        self._down.discard(name)
        if self._start is not None:
            self._tell_expected()
            self._say_what()

    def _maybe_start(self, now_ns: int) -> None:
        """Begin once the recogniser is ready and all sources are open, or patience is over."""
        if self._start is not None or self._ready is None:
            return
        places = self._places.values()
        opened = [place for place in places if place.opened is not None]
        late = now_ns - self._begun_ns > PATIENCE_NS
        if not opened or (len(opened) < len(self._places) and not late):
            return
        all_live = all(place.opened.live for place in opened if place.opened is not None)
        epoch_ns = (now_ns if all_live else now_ns + LEAD_NS) if self.config.pace else 0
        self._start = Start(epoch_ns, True, True, self.config.pace)
        self._tell_expected()
        for place in opened:
            self.supervisor.tell(place.part.worker, self._start)
        self._say_what()
        seconds = (now_ns - self._begun_ns) / NS
        self.lines.info(f"ready after {seconds:.1f} s", ready_s=round(seconds, 3))

    def _expected(self, start: Start) -> Start:
        places = self._places.values()
        video, audio = (any(place.has(kind) for place in places) for kind in ("video", "audio"))
        return replace(start, has_video=video, has_audio=audio)

    def _tell_expected(self) -> None:
        assert self._start is not None
        self.supervisor.tell(RECOGNISER, self._expected(self._start))

    def _judge(self) -> None:
        """Once begun, a run is degraded while something that it should see or hear does not come."""
        if self._start is None:
            return
        coming = [place for name, place in self._places.items() if place.opened and name not in self._down]
        self.condition.missing = tuple(
            kind for kind in self._wanted if not any(place.has(kind) for place in coming)
        )
        whole = not self.condition.missing and RECOGNISER not in self._down
        self.condition.state = "running" if whole else "degraded"

    def _all_finished(self) -> bool:
        return bool(self._places) and all(place.finished for place in self._places.values())

    def _say_what(self) -> None:
        """What is seen and heard; said again where that is something else, as sources come late or go."""
        infos = [place.opened for place in self._places.values() if place.opened is not None]
        seen = next((info.name for info in infos if info.has_video), None)
        heard = next((info.name for info in infos if info.has_audio), None)
        if (seen, heard) != (self.condition.picture, self.condition.sound):
            self.condition.picture, self.condition.sound = seen, heard
            self.lines.info(f"picture: {seen or 'none'}; sound: {heard or 'none'}", picture=seen, sound=heard)

    def _check_overtime(self, now_ns: int) -> None:
        """Sources that are dead cannot say that the duration is over."""
        if self.config.duration is None or self._start is None or not self._start.live:
            return
        if now_ns > self._start.epoch_ns + round(self.config.duration * NS) + OVERTIME_NS:
            self._end(Exit.OK)
