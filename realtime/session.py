"""One run, seen from the main process: what the workers report becomes scores on the feed and an exit status.

It does no heavy work and knows nothing about devices or models. Data leaves it through the `Outlet` of each
stream.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import zmq

from engine.types import SECOND_NS
from realtime.capture import CaptureJob, capture_main
from realtime.config import Config, Exit
from realtime.lines import Lines
from realtime.link import Endpoints, Receiver
from realtime.messages import (
    Failed,
    Finished,
    Heartbeat,
    Message,
    Note,
    Opened,
    Ready,
    Scored,
    Start,
    Stats,
)
from realtime.outlet import Outlet
from realtime.parts import Part
from realtime.places import Place, StreamState
from realtime.recognise import RECOGNISER, RecogniseJob, recognise_main
from realtime.supervisor import SILENT_NS, UNHURRIED_NS, Died, Event, Started, Supervisor

MS = 1_000_000
POLL_MS = 100
LEAD_NS = 150 * MS
PATIENCE_NS = 1500 * MS
OVERTIME_NS = 3 * SECOND_NS


@dataclass(slots=True)
class Session:
    """A run from its first worker to its exit status; `stop` ends it in good order whenever it is set.

    A stream whose source fails for good ends alone while there are others; the first failure is the status of
    a run that comes to its end by itself.
    """

    config: Config
    endpoints: Endpoints
    outlets: Mapping[str, Outlet]
    lines: Lines
    stop: threading.Event
    supervisor: Supervisor = field(init=False)
    streams: dict[str, StreamState] = field(default_factory=dict)
    _homes: dict[str, StreamState] = field(default_factory=dict)
    _down: set[str] = field(default_factory=set)
    _ready: Ready | None = None
    _start: Start | None = None
    _status: Exit = Exit.OK
    _exit: Exit | None = None
    _begun_ns: int = field(default_factory=time.monotonic_ns)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(SILENT_NS if self.config.pace else UNHURRIED_NS)

    def spawn(self, parts: tuple[Part, ...]) -> None:
        """Start the workers: first the recogniser, which takes longest to come up."""
        config, now_ns = self.config, time.monotonic_ns()
        self.streams = {name: StreamState(name, outlet) for name, outlet in self.outlets.items()}
        job = RecogniseJob(
            endpoints=self.endpoints,
            streams=tuple(self.streams),
            bundle=config.bundle,
            engine=config.engine,
            rate_hz=config.rate_hz,
            max_wait_ns=round(config.max_wait * MS),
            live=config.pace,
            faces=config.faces,
        )
        self._happened(self.supervisor.add(RECOGNISER, recognise_main, job, now_ns))
        for part in parts:
            stream, place = self.streams[part.stream], Place(part, self._job(part))
            stream.condition.live = config.pace
            stream.add(place)
            self._homes[part.worker] = stream
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
                for stream in self._living():
                    if self._start is not None:
                        stream.judge(self._down, RECOGNISER in self._down)
                    stream.outlet.tick(stream.condition)
            return Exit.OK if self._exit is None else self._exit
        finally:
            self.supervisor.close()
            for stream in self._living():
                stream.outlet.end(stream.condition)
            inbox.close()
            context.term()

    def _living(self) -> list[StreamState]:
        return [stream for stream in self.streams.values() if not stream.over]

    def _job(self, part: Part) -> CaptureJob:
        config = self.config
        return CaptureJob(
            worker=part.worker,
            stream=part.stream,
            endpoints=self.endpoints,
            sources=part.sources,
            fallback=part.fallback,
            paced=config.pace,
            duration_ns=None if config.duration is None else round(config.duration * SECOND_NS),
            bundle=config.bundle,
            faces=config.faces,
            face_model=config.face_model,
            offline=config.offline,
        )

    def _end(self, status: Exit) -> None:
        if self._exit is None:
            self._exit = status

    def _take(self, message: Message) -> None:
        match message:
            case Scored():
                stream = self.streams[message.stream]
                if not stream.over:
                    stream.outlet.scored(message, stream.condition)
            case Heartbeat(name, pid):
                self.supervisor.beat(name, pid, time.monotonic_ns())
            case Stats():
                if self.supervisor.runs(message.worker, message.pid):
                    self.streams[message.stream].condition.take(message)
            case Note(_, level, text):
                (self.lines.warning if level == "warning" else self.lines.info)(text)
            case Ready():
                self._took_ready(message)
            case Opened():
                self._took_opened(message)
            case Failed():
                self._took_failure(message)
            case Finished():
                self._took_end(message)
            case _:
                raise AssertionError(f"{type(message).__name__} has no business on the report link")

    def _took_ready(self, ready: Ready) -> None:
        if self._ready is None:
            self.lines.info(f"engine: {ready.engine}; model {ready.model}")
        self._ready = ready
        self._down.discard(RECOGNISER)
        for stream in self.streams.values():
            stream.condition.engine, stream.condition.model = ready.engine, ready.model
            if stream.all_finished:
                self._conclude(stream)  # what its sources sent went down with the last recogniser
            if self._start is not None:
                self._tell_expected(stream)

    def _took_opened(self, opened: Opened) -> None:
        stream, place = self._find(opened.worker)
        if stream is None or place is None:
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
            self._drop_unasked_sound(stream)
        if self._start is not None:
            self.supervisor.tell(opened.worker, self._start)
            self._tell_expected(stream)
            self._say_what(stream)

    def _took_failure(self, failed: Failed) -> None:
        stream, place = self._find(failed.worker)
        if failed.cause == "bundle":
            self._fail(Exit.BUNDLE, failed.text, failed.trace)
        elif stream is None and failed.cause == "usage":
            self._fail(Exit.USAGE, failed.text, failed.trace)
        elif stream is None or place is None or failed.cause == "crash":
            self._show_trace(failed.trace)
            self.lines.warning(f"The {failed.worker} worker failed: {failed.text}", worker=failed.worker)
        elif place.opened is not None or self._may_return(place, failed):
            place.failure = failed
            self.supervisor.be_patient(failed.worker)
            self.lines.warning(f"{failed.text} Trying again.", worker=failed.worker)
        elif place.part.asked or len(stream.places) == 1:
            status = Exit.USAGE if failed.cause == "usage" else Exit.SOURCE
            self._lose(stream, status, failed.text, failed.trace)
        else:
            self._go_on_without(stream, place, failed.text)

    def _may_return(self, place: Place, failed: Failed) -> bool:
        """Where there are other streams, one that cannot be opened yet is worth another try."""
        several = len(self.streams) > 1 and self.config.pace
        return several and failed.cause == "source" and place.part.may_return

    def _took_end(self, finished: Finished) -> None:
        if finished.stream:
            self._conclude(self.streams[finished.stream])
            return
        self.supervisor.finished(finished.worker)
        if finished.worker == RECOGNISER:
            self._end(self._status)
        _, place = self._find(finished.worker)
        if place is not None:
            place.finished = True

    def _happened(self, event: Event) -> None:
        name = event.worker
        stream, place = self._find(name)
        conditions = [each.condition for each in ([stream] if stream else self.streams.values())]
        if isinstance(event, Started):
            self.lines.detail(f"worker {name}: process {event.pid}", worker=name, pid=event.pid)
            if name in self._down:
                for condition in conditions:
                    condition.restarts[name] += 1
            return
        if name != RECOGNISER and place is None:
            return  # removed a moment ago, because of another worker of its stream
        self._down.add(name)
        for condition in conditions:
            condition.gone(name)
        if stream is None and all(each.all_finished for each in self.streams.values()) and self.config.pace:
            self._end(self._status)
        elif not self.config.pace:
            # The messages on their way are lost, and a file that leaves some out would look complete.
            self._lose(
                stream, Exit.DYING, f"The {name} worker {event.why}; without pacing nothing may be lost."
            )
        elif isinstance(event, Died):
            if place is None or place.failure is None:
                again = f"starting it again in {event.back_off_ns / SECOND_NS:.1f} s"
                self.lines.warning(f"The {name} worker {event.why}; {again}.", worker=name)
        elif stream is None or place is None:
            self._fail(Exit.DYING, f"The {name} worker keeps dying ({event.why}); giving up.")
        elif not place.part.asked and len(stream.places) > 1 and place.has("audio"):
            self._go_on_without(stream, place, f"The {name} worker {event.why} too often.")
        elif place.failure is not None:
            self._lose(stream, Exit.SOURCE, place.failure.text)
        else:
            self._lose(stream, Exit.DYING, f"The {name} worker keeps dying ({event.why}); giving up.")

    def _find(self, worker: str) -> tuple[StreamState | None, Place | None]:
        """The stream and the place of a capture worker; neither for the recogniser and for those removed."""
        stream = self._homes.get(worker)
        return stream, None if stream is None else stream.places[worker]

    def _lose(self, stream: StreamState | None, status: Exit, text: str, trace: str = "") -> None:
        """A stream cannot go on; nor can the run, where it is the only one or all are meant (None)."""
        if stream is None or len(self.streams) == 1:
            self._fail(status, text, trace)
            return
        self._show_trace(trace)
        self.lines.error(f"{stream.name}: {text}", stream=stream.name)
        self._status = self._status or status
        for name in list(stream.places):
            self._remove(stream, name)
        self._conclude(stream)
        if not self._living():
            self._end(self._status)

    def _conclude(self, stream: StreamState) -> None:
        """Nothing more comes of a stream."""
        if stream.over:
            return
        stream.over = True
        stream.note_sources(self._down)
        stream.outlet.end(stream.condition)
        if self._start is not None:
            self._tell_expected(stream)

    def _fail(self, status: Exit, text: str, trace: str = "") -> None:
        if self._exit is None:
            self._show_trace(trace)
            self.lines.error(text)
        self._end(status)

    def _show_trace(self, trace: str) -> None:
        if self.config.debug and trace:
            self.lines.detail(trace.rstrip())

    def _go_on_without(self, stream: StreamState, place: Place, why: str) -> None:
        """Sound that nobody asked for by name is not worth the run."""
        self.lines.warning(f"{why} Going on with video alone.")
        self._remove(stream, place.part.worker)
        if self._start is not None:
            self._tell_expected(stream)
            self._say_what(stream)

    def _drop_unasked_sound(self, stream: StreamState) -> None:
        """The demo that stands in for a camera brings its own voice."""
        for name, place in list(stream.places.items()):
            if not place.part.asked and not place.has("video"):
                self._remove(stream, name)

    def _remove(self, stream: StreamState, worker: str) -> None:
        del stream.places[worker], self._homes[worker]
        self.supervisor.remove(worker)
        stream.condition.gone(worker)
        self._down.discard(worker)

    def _maybe_start(self, now_ns: int) -> None:
        """Begin once the recogniser is ready and all sources are open, or patience is over."""
        if self._start is not None or self._ready is None:
            return
        places = [place for stream in self.streams.values() for place in stream.places.values()]
        opened = [place for place in places if place.opened is not None]
        late = now_ns - self._begun_ns > PATIENCE_NS
        if not opened or (len(opened) < len(places) and not late):
            return
        all_live = all(place.opened.live for place in opened if place.opened is not None)
        epoch_ns = (now_ns if all_live else now_ns + LEAD_NS) if self.config.pace else 0
        self._start = Start(epoch_ns, True, True, self.config.pace)
        for stream in self.streams.values():
            self._tell_expected(stream)
        for place in opened:
            self.supervisor.tell(place.part.worker, self._start)
        for stream in self._living():
            self._say_what(stream)
        seconds = (now_ns - self._begun_ns) / SECOND_NS
        self.lines.info(f"ready after {seconds:.1f} s", ready_s=round(seconds, 3))

    def _tell_expected(self, stream: StreamState) -> None:
        assert self._start is not None
        self.supervisor.tell(RECOGNISER, stream.expected(self._start))

    def _say_what(self, stream: StreamState) -> None:
        """What is seen and heard; said again where that is something else, as sources come late or go."""
        if stream.name_sources(self._down):
            seen, heard = stream.condition.picture, stream.condition.sound
            text = f"picture: {seen or 'none'}; sound: {heard or 'none'}"
            text = text if len(self.streams) == 1 else f"{stream.name}: {text}"
            self.lines.info(text, picture=seen, sound=heard, stream=stream.name)

    def _check_overtime(self, now_ns: int) -> None:
        """Sources that are dead cannot say that the duration is over."""
        if self.config.duration is None or self._start is None or not self._start.live:
            return
        if now_ns > self._start.epoch_ns + round(self.config.duration * SECOND_NS) + OVERTIME_NS:
            self._end(self._status)
