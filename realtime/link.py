"""Between processes: the sockets that carry their messages.

Two links, `observe` (sources to recogniser) and `report` (every worker to the main process), both ZeroMQ
PUSH/PULL in a private directory, so a process that dies leaves nothing broken and its successor is found
again by itself. This file knows nothing about cameras, models or supervision. Data leaves it as the messages
of `realtime.messages`.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from realtime.messages import Message, decode, encode, passes

QUEUE_MESSAGES = 64
SOCKET_MESSAGES = 16
RECONNECT_MS = 20
LONGEST_IPC_PATH = 100


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
        self._queue.append((passes(message), encode(message)))
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
