"""The feed's two ends over ZeroMQ PUB/SUB: `Publisher` and `Subscriber`, with CURVE keys where given.

It carries the messages of `realtime.wire` and knows nothing of how they come about. Data leaves a publisher
over its socket, and a subscriber by iteration (`for`, `async for`) or `receive`.
"""

import errno
import ipaddress
import re
import socket
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import zmq
import zmq.auth

from engine.errors import De3Error
from realtime.wire import DEFAULT_ENDPOINT, MAX_BYTES, Message, decode, encode

if TYPE_CHECKING:
    import asyncio

PUBLISHER_MESSAGES = 256
SUBSCRIBER_MESSAGES = 1024
NEWEST_MESSAGES = 4096
NEWEST_TOPICS = 256
KERNEL_BYTES = 65_536
LINGER_MS = 200
KEY_CHARACTERS = 40
LAST_PORT = 65_535
_TCP = re.compile(r"tcp://(\[[^\]]*\]|[^:\[\]]+):(\d+|\*)")


class FeedError(De3Error, ValueError):
    """An endpoint or a key of the feed cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeys:
    """What a publisher needs beyond loopback.

    secret: its own `.key_secret` file. clients: a directory with the public `.key` file of each subscriber
    that is let in, read once at the start.
    """

    secret: Path
    clients: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeys:
    """What a subscriber needs for a publisher with keys.

    secret: its own `.key_secret` file. server: the publisher's public `.key` file.
    """

    secret: Path
    server: Path


class Publisher:
    """Binds the endpoint and sends every message to whoever subscribes; `publish` never waits for anybody.

    Drop rule: each subscriber has a queue of its own of `PUBLISHER_MESSAGES`. When it is full, that
    subscriber loses what comes next until it reads again; nobody else notices.
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, *, curve: ServerKeys | None = None) -> None:
        """Raises FeedError: not an endpoint, in use, or beyond loopback without `curve`."""
        endpoint = _bindable(endpoint, secured=curve is not None)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard: Any = None
        try:
            self._socket = _socket(self._context, zmq.PUB, endpoint)
            self._socket.set(zmq.SNDHWM, PUBLISHER_MESSAGES)
            self._socket.set(zmq.SNDBUF, KERNEL_BYTES)
            if curve is not None:
                self._secure(curve)
            _bind(self._socket, endpoint)
        except BaseException:
            self._end(0)
            raise
        self.endpoint: str = self._socket.get_string(zmq.LAST_ENDPOINT)
        """Where it is bound, with the real port where `*` was asked for."""
        self._file = _socket_file(self.endpoint)

    def publish(self, message: Message) -> None:
        """Send one message. Raises WireError where a reader would refuse it."""
        self._socket.send_multipart(encode(message))

    def close(self) -> None:
        """What has been published has `LINGER_MS` to leave; the socket's file goes too, if still ours."""
        self._end(LINGER_MS)
        if self._file is not None and _socket_file(self.endpoint) == self._file:
            self._file[0].unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _secure(self, keys: ServerKeys) -> None:
        self._socket.curve_publickey, self._socket.curve_secretkey = _secret(keys.secret)
        self._socket.curve_server = True
        # Those that the guard reads, too: one that is no key would keep it from letting anybody in.
        files = sorted(file for file in keys.clients.glob("*.key") if not file.name.startswith("."))
        if not files:
            raise FeedError(
                f"{keys.clients} holds no .key file of a subscriber, so nobody could listen: put one there."
            )
        for file in files:
            _public(file)
        from zmq.auth.thread import ThreadAuthenticator

        self._guard = ThreadAuthenticator(self._context)
        self._guard.start()
        self._guard.configure_curve(domain="*", location=str(keys.clients))

    def _end(self, linger_ms: int) -> None:
        if self._guard is not None:
            self._guard.stop()
            self._guard = None
        self._context.destroy(linger_ms)


class Subscriber:
    """The messages of one or several publishers; iterate it with `for` or `async for`.

    It waits for publishers that are not there yet and finds them again when they come back. It belongs to one
    thread and one task; `async for` needs a selector event loop (on Windows: `asyncio.SelectorEventLoop`).
    Drop rules: with `newest`, of each topic only the newest message is kept, and topics take turns (at most
    `NEWEST_TOPICS`, the one waiting longest goes); otherwise every message is delivered in order, and when
    `SUBSCRIBER_MESSAGES` and the publisher's queue are full, what comes next is lost (a step in `seq`).
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        topics: Sequence[str] = ("emotion/", "status/"),
        newest: bool = False,
        curve: ClientKeys | None = None,
    ) -> None:
        """`topics` are prefixes: "emotion/main" also lets in "emotion/main2". Raises FeedError."""
        self._newest = newest
        self._pending: dict[bytes, bytes] = {}
        self._watch: tuple[asyncio.AbstractEventLoop, int, asyncio.Event] | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            named = [endpoints] if isinstance(endpoints, str) else endpoints
            self._socket = _socket(self._context, zmq.SUB, *named)
            self._socket.set(zmq.RCVHWM, NEWEST_MESSAGES if newest else SUBSCRIBER_MESSAGES)
            self._socket.set(zmq.RCVBUF, KERNEL_BYTES)
            self._socket.set(zmq.MAXMSGSIZE, 2 * MAX_BYTES)
            if curve is not None:
                self._socket.curve_publickey, self._socket.curve_secretkey = _secret(curve.secret)
                self._socket.curve_serverkey = _public(curve.server)
            for prefix in topics:
                self._socket.subscribe(prefix)
            for endpoint in named:
                _connect(self._socket, endpoint)
        except BaseException:
            self._context.destroy(0)
            raise

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None when `timeout_s` seconds have passed, or after `close`.

        Raises WireError when the next message is rubbish; the one after it can be asked for as usual.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._socket.closed:
            if (message := self._take()) is not None:
                return message
            left_ms = None if end is None else max(0, round((end - time.monotonic()) * 1000))
            if not self._socket.poll(left_ms) and left_ms is not None:
                return None
        return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._socket.closed:
            if (message := self._take()) is not None:
                return message
            await self._readable()
        raise StopAsyncIteration

    def close(self) -> None:
        """Leave; iterations end."""
        self._unwatch()
        self._context.destroy(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> Message | None:
        if not self._newest:
            parts = self._parts()
            return None if parts is None else decode(*parts)
        self._drain()
        if not self._pending:
            return None
        head = next(iter(self._pending))
        return decode(head, self._pending.pop(head))

    def _drain(self) -> None:
        """What has arrived into `_pending`; a topic that waits there keeps its turn."""
        for _ in range(2 * NEWEST_MESSAGES):  # more than can wait: a flood must not hold up the reader
            parts = self._parts()
            if parts is None:
                return
            self._pending[parts[0]] = parts[1]
            if len(self._pending) > NEWEST_TOPICS:
                del self._pending[next(iter(self._pending))]

    def _parts(self) -> tuple[bytes, bytes] | None:
        try:
            parts = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        return parts[0], parts[1] if len(parts) == 2 else b""

    async def _readable(self) -> None:
        # The descriptor only says that something happened. `_take` has found nothing, so whatever happens
        # next makes it readable; `_take` then looks again.
        import asyncio

        watch = asyncio.get_running_loop(), int(self._socket.get(zmq.FD)), asyncio.Event()
        loop, descriptor, happened = self._watch = watch
        loop.add_reader(descriptor, happened.set)
        try:
            await happened.wait()
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watch is not None:
            loop, descriptor, happened = self._watch
            self._watch = None
            loop.remove_reader(descriptor)
            happened.set()


def _socket(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, *endpoints: str) -> "zmq.Socket[bytes]":
    made = context.socket(kind)
    made.set(zmq.TCP_KEEPALIVE, 1)
    made.set(zmq.TCP_KEEPALIVE_IDLE, 30)
    made.set(zmq.IPV6, int(any("[" in endpoint for endpoint in endpoints)))
    return made


def _bindable(endpoint: str, *, secured: bool) -> str:
    """`endpoint` as ZeroMQ binds it. Raises FeedError where it is none, or where it may not be bound."""
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        return endpoint
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise FeedError(f"{endpoint} is not an endpoint: write tcp://ADDRESS:PORT or ipc://PATH.")
    host, port = match.groups()
    _refuse_port(endpoint)
    if host == "localhost":
        return f"tcp://127.0.0.1:{port}"
    if not secured and not _is_loopback(host):
        raise FeedError(
            f"{endpoint} can be reached from other machines: bind {DEFAULT_ENDPOINT}, or give CURVE keys "
            "with --secret and --listeners (see realtime/README.md)."
        )
    return endpoint


def _refuse_port(endpoint: str) -> None:
    """ZeroMQ takes the rest of a port beyond the last one, and says nothing."""
    match = _TCP.fullmatch(endpoint)
    if match is not None and match[2] != "*" and int(match[2]) > LAST_PORT:
        raise FeedError(f"{endpoint} names no port: they go up to {LAST_PORT}.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bind(made: "zmq.Socket[bytes]", endpoint: str) -> None:
    in_use = f"{endpoint} is in use, perhaps by another run: end that one, or name another with --bind."
    path = _ipc_path(endpoint)
    if path is not None and _answers(path):
        raise FeedError(in_use)
    try:
        made.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise FeedError(in_use) from error
        raise FeedError(f"{endpoint} cannot be bound: {error.strerror}.") from error


def _answers(path: Path) -> bool:
    """Whether somebody listens at `path`. Raises FeedError where something else than a socket lies there.

    ZeroMQ looks at nothing: it removes whatever is there, and takes its place.
    """
    try:
        kind = path.lstat().st_mode
    except OSError:
        return False
    if not stat.S_ISSOCK(kind):
        raise FeedError(f"{path} is no socket and would be lost: name a path with --bind where nothing lies.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) in (0, errno.EAGAIN)


def _ipc_path(endpoint: str) -> Path | None:
    """The path of an ipc endpoint that has one on disk."""
    path = endpoint.removeprefix("ipc://")
    return None if path == endpoint or path.startswith("@") else Path(path)


def _socket_file(endpoint: str) -> tuple[Path, int] | None:
    """The file of an ipc endpoint and its number on disk, where there is one."""
    path = _ipc_path(endpoint)
    return None if path is None or not path.exists() else (path, path.stat().st_ino)


def _connect(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    _refuse_port(endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise FeedError(f"{endpoint} is not an endpoint: write tcp://ADDRESS:PORT or ipc://PATH.") from error


def _secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _certificate(path)
    if secret is None:
        raise FeedError(f"{path} holds no secret key: name the .key_secret file.")
    return public, secret


def _public(path: Path) -> bytes:
    return _certificate(path)[0]


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise FeedError(f"{path} cannot be used as a CURVE key file: {error}.") from error
    for key in (public, secret or public):
        if len(key) != KEY_CHARACTERS:
            raise FeedError(
                f"{path} cannot be used as a CURVE key file: a key has {KEY_CHARACTERS} characters."
            )
    return public, secret
