"""Between processes: the messages of workers and main process, and the sockets that carry them.

Two links: `observe` (sources to recogniser: observations, blocks, ends) and `report` (every worker to the
main process: heartbeats, notes, scores). Both are ZeroMQ PUSH/PULL in a private directory, so a process that
dies leaves nothing broken and its successor is found again by itself. This file knows nothing about cameras,
models or supervision. Data leaves it as the frozen classes below and those of `engine.types`.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

from engine.types import Block, Face, Float32, Observation, Scores, UInt8

QUEUE_MESSAGES = 64
SOCKET_MESSAGES = 16
RECONNECT_MS = 20
LONGEST_IPC_PATH = 100


@dataclass(frozen=True, slots=True)
class End:
    """A source is at its end: everything up to `t_ns` has been sent. `kinds` are "video", "audio"."""

    kinds: tuple[str, ...]
    t_ns: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent twice a second from a worker's own loop."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A source is open. `notes` are lines for the user (which face finder, and why).

    live: a device or a live URL, whose time passes whether or not the run has begun.
    fell_back: it is not what was looked for, which does not exist.
    """

    worker: str
    pid: int
    name: str
    has_video: bool
    has_audio: bool
    live: bool
    fell_back: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The recogniser can score. `model` is the bundle's digest, `engine` says which was chosen, and why."""

    worker: str
    pid: int
    model: str
    engine: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker ends because it must. `cause` is one of `CAUSES`, `text` a sentence for the user."""

    worker: str
    cause: str
    text: str
    trace: str = ""


CAUSES = ("usage", "source", "bundle", "crash")


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log. `level` is "info" or "warning"."""

    worker: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Stats:
    """What a worker counted since it started. `drops` are by cause, `rates` per second or shares."""

    worker: str
    pid: int
    drops: dict[str, int]
    rates: dict[str, float]


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker has sent everything it had and ends in good order."""

    worker: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one window with the times at which they came about.

    capture_ns: age of the newest observation (or block) when it reached the recogniser.
    due_ns, done_ns: monotonic times at which the window was complete and scored.
    All three are 0 where media time is the clock.
    """

    scores: Scores
    capture_ns: int
    due_ns: int
    done_ns: int


@dataclass(frozen=True, slots=True)
class Start:
    """From the main process: begin. Sent again, with the same epoch, when what is expected changes.

    epoch_ns: time of tick 0 of the stream; the anchor of a paced media file; 0 where media time is the clock.
    has_video, has_audio: what the recogniser waits for before a window is complete.
    live: False where media time is the clock, nothing is dropped and nothing is waited for by the clock.
    """

    epoch_ns: int
    has_video: bool
    has_audio: bool
    live: bool


Plain = Start | End | Heartbeat | Opened | Ready | Failed | Note | Stats | Finished
Message = Plain | Observation | Block | Scored

_PLAIN: tuple[type[Any], ...] = (Start, End, Heartbeat, Opened, Ready, Failed, Note, Stats, Finished)
_PASSING = (Observation, Block, Scored, Heartbeat, Stats, Note)
_OBSERVATION, _BLOCK, _SCORED = 100, 101, 102


def encode(message: Message) -> bytes:
    """One message as msgpack bytes; pictures and sound travel as they lie in memory."""
    if isinstance(message, Observation):
        body: tuple[Any, ...] = (_OBSERVATION, message.t_ns, message.seq, _face_out(message.face))
    elif isinstance(message, Block):
        body = (_BLOCK, message.t_ns, message.seq, message.samples.tobytes())
    elif isinstance(message, Scored):
        body = (_SCORED, _scores_out(message.scores), message.capture_ns, message.due_ns, message.done_ns)
    else:
        body = (_PLAIN.index(type(message)), *astuple(message))
    packed: bytes = msgpack.packb(body)
    return packed


def decode(data: bytes) -> Message:
    """The inverse of `encode`; arrays are read-only views of `data`."""
    code, *body = msgpack.unpackb(data, use_list=False, strict_map_key=False)
    if code == _OBSERVATION:
        t_ns, seq, face = body
        return Observation(t_ns=t_ns, seq=seq, face=_face_in(face))
    if code == _BLOCK:
        t_ns, seq, samples = body
        return Block(t_ns=t_ns, seq=seq, samples=np.frombuffer(samples, np.float32))
    if code == _SCORED:
        scores, *times = body
        return Scored(_scores_in(scores), *times)
    message: Message = _PLAIN[code](*body)
    return message


def _face_out(face: Face | None) -> tuple[Any, ...] | None:
    if face is None:
        return None
    previous = None if face.gap_ns == 0 else face.previous.tobytes()
    return (
        face.crop.shape,
        face.crop.tobytes(),
        previous,
        face.gap_ns,
        face.box,
        face.confidence,
        face.track,
    )


def _face_in(body: tuple[Any, ...] | None) -> Face | None:
    if body is None:
        return None
    shape, crop_bytes, previous_bytes, gap_ns, box, confidence, track = body
    crop: UInt8 = np.frombuffer(crop_bytes, np.uint8).reshape(shape)
    previous = crop if previous_bytes is None else np.frombuffer(previous_bytes, np.uint8).reshape(shape)
    return Face(crop=crop, previous=previous, gap_ns=gap_ns, box=box, confidence=confidence, track=track)


def _scores_out(scores: Scores) -> tuple[Any, ...]:
    heads = {name: values.astype(np.float32).tobytes() for name, values in scores.heads.items()}
    return (
        scores.t_ns,
        scores.window_ns,
        scores.labels,
        heads,
        scores.lead,
        scores.valid_video,
        scores.valid_audio,
        scores.face,
        scores.track,
        scores.attributes,
    )


def _scores_in(body: tuple[Any, ...]) -> Scores:
    t_ns, window_ns, labels, heads, lead, valid_video, valid_audio, face, track, attributes = body
    arrays: dict[str, Float32] = {name: np.frombuffer(values, np.float32) for name, values in heads.items()}
    return Scores(
        t_ns=t_ns,
        window_ns=window_ns,
        labels=labels,
        heads=arrays,
        lead=lead,
        valid_video=valid_video,
        valid_audio=valid_audio,
        face=face,
        track=track,
        attributes=attributes,
    )


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the two links are. `observe`: the recogniser binds; `report`: the main process binds."""

    observe: str
    report: str


@contextlib.contextmanager
def private_endpoints() -> Iterator[Endpoints]:
    """Endpoints that nobody else on this machine can reach; what they need on disk is removed at the end.

    A directory of mode 0700 with Unix sockets, or loopback ports where there are none (Windows).
    """
    if os.name == "nt":
        yield Endpoints(f"tcp://127.0.0.1:{_free_port()}", f"tcp://127.0.0.1:{_free_port()}")
        return
    parent = tempfile.gettempdir()
    if len(parent) > LONGEST_IPC_PATH - len("/de3-live-12345678/observe"):
        parent = "/tmp"
    remove_orphans(Path(parent))
    directory = Path(tempfile.mkdtemp(prefix="de3-live-", dir=parent))
    try:
        with _hold(directory):
            yield Endpoints(f"ipc://{directory}/observe", f"ipc://{directory}/report")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_orphans(parent: Path) -> None:
    """Remove what killed main processes left in `parent`: own directories whose lock nobody holds."""
    import fcntl

    for lock in parent.glob("de3-live-*/lock"):
        with contextlib.suppress(OSError), lock.open("a") as handle:
            if lock.stat().st_uid == os.getuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def _hold(directory: Path) -> Iterator[None]:
    import fcntl

    early = directory / "early"
    with early.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        early.rename(directory / "lock")  # only ever seen by others while it is held
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(slots=True)
class Sender:
    """The sending end of a link: a bounded queue in front of a bounded socket; `send` never blocks.

    Drop rule when the receiver is slow or gone and `capacity` messages wait: newest wins, the oldest of those
    that come again and again (`_PASSING`) goes and is counted in `dropped`; the others are few and never go.
    With `keep_all` nothing goes: the caller stops at `full` and gives the socket time with `wait`.
    """

    socket: "zmq.Socket[bytes]"
    capacity: int = QUEUE_MESSAGES
    keep_all: bool = False
    dropped: int = 0
    _queue: deque[tuple[bool, bytes]] = field(default_factory=deque)

    @classmethod
    def connect(
        cls,
        context: "zmq.Context[Any]",
        endpoint: str,
        *,
        capacity: int = QUEUE_MESSAGES,
        keep_all: bool = False,
    ) -> "Sender":
        """A sender that waits for its receiver however late, and finds it again however often it dies."""
        push = context.socket(zmq.PUSH)
        push.set_hwm(SOCKET_MESSAGES)
        push.setsockopt(zmq.IMMEDIATE, 1)
        push.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        push.connect(endpoint)
        return cls(push, capacity, keep_all)

    def send(self, message: Message) -> None:
        """Queue one message and hand over as many as the receiver takes."""
        self._queue.append((isinstance(message, _PASSING), encode(message)))
        self.pump()
        if not self.keep_all and len(self._queue) > self.capacity:
            self._drop_oldest()

    def pump(self) -> None:
        """Hand over what waits, as far as the receiver takes it now."""
        with contextlib.suppress(zmq.Again):
            while self._queue:
                self.socket.send(self._queue[0][1], zmq.DONTWAIT)
                self._queue.popleft()

    @property
    def full(self) -> bool:
        """True when as many messages wait as should."""
        return len(self._queue) >= self.capacity

    @property
    def waiting(self) -> int:
        """How many messages the receiver has not taken yet."""
        return len(self._queue)

    def wait(self, timeout_ms: int) -> None:
        """Wait at most `timeout_ms` for the receiver to take something, then pump."""
        if self.socket.poll(timeout_ms, zmq.POLLOUT):
            self.pump()

    def close(self) -> None:
        """Close at once; what has not been fetched is lost."""
        self.socket.close(0)

    def _drop_oldest(self) -> None:
        for place, (may_go, _) in enumerate(self._queue):
            if may_go:
                del self._queue[place]
                self.dropped += 1
                return


@dataclass(slots=True)
class Receiver:
    """The receiving end of a link; holds `SOCKET_MESSAGES` messages, the rest waits at the senders."""

    socket: "zmq.Socket[bytes]"

    @classmethod
    def bind(cls, context: "zmq.Context[Any]", endpoint: str) -> "Receiver":
        """A receiver at `endpoint`; takes the place of a dead one."""
        pull = context.socket(zmq.PULL)
        pull.set_hwm(SOCKET_MESSAGES)
        pull.bind(endpoint)
        return cls(pull)

    def drain(self, take: Callable[[Message], None], limit: int = QUEUE_MESSAGES) -> int:
        """Give `take` what has arrived, at most `limit` messages; returns how many. Never waits."""
        for count in range(limit):
            try:
                data = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return count
            take(decode(data))
        return limit

    def close(self) -> None:
        """Close at once; what has not been read is lost."""
        self.socket.close(0)
