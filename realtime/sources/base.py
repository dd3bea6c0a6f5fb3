"""What every source is: an iterator of frames and blocks that never goes silent.

It knows nothing about cameras, files, faces or processes. Data leaves a source by iteration; a source
that reads a device in a thread of its own hands over through an `Inbox`, the one bounded queue here.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engine.errors import SourceError
from engine.types import Block, Frame

IDLE_S = 0.25
"""The longest time in seconds that a source keeps its reader waiting without a word."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source is.

    name: for people and logs.
    has_video, has_audio: what will come out.
    live: True for devices and live URLs, False for files (paced or not).
    epoch_ns: the time of presentation time 0 of a media file (monotonic when paced, 0 when not);
        None for what is live.
    """

    name: str
    has_video: bool
    has_audio: bool
    live: bool
    epoch_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Nothing came for a while; the source is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something did not arrive as it was recorded.

    cause: a few words, the same for every loss of its kind, so that they can be counted.
    count: how many (frames, blocks or events, as the cause says).
    """

    cause: str
    count: int


Item = Frame | Block | Idle | Loss


class Source(Protocol):
    """Frames and blocks with capture times.

    Iterating yields `Frame` and `Block` in time order: after an item at t, nothing older than t comes
    (live sources with picture and sound promise it for each of the two alone). Something is yielded at
    least every `IDLE_S` seconds. Raises SourceError when the source breaks; ends when the media ends.
    """

    @property
    def info(self) -> SourceInfo: ...

    def __iter__(self) -> Iterator[Item]: ...

    def close(self) -> None:
        """Ends the iteration soon and lets the device go. May be called from any thread, and twice."""
        ...


class Inbox(Generic[T]):
    """A bounded queue from one reading thread to one iterator.

    Drop rule: newest wins. When full, the oldest go until `keep` remain (all but one, unless told), and
    are counted (`take_dropped`).
    """

    def __init__(self, length: int, keep: int | None = None) -> None:
        self._items: deque[T] = deque()
        self._length = length
        self._keep = length - 1 if keep is None else keep
        self._ready = threading.Condition()
        self._dropped = 0
        self._over = False
        self._error: SourceError | None = None

    @property
    def closed(self) -> bool:
        """True when nothing more is wanted or expected."""
        return self._over

    def put(self, item: T) -> None:
        with self._ready:
            if len(self._items) >= self._length:
                while len(self._items) > self._keep:
                    self._items.popleft()
                    self._dropped += 1
            self._items.append(item)
            self._ready.notify()

    def end(self, error: SourceError | None = None) -> None:
        """No more items; `error` is raised to the reader once it has what came before."""
        with self._ready:
            if not self._over:
                self._over, self._error = True, error
            self._ready.notify()

    def close(self) -> None:
        """As `end`, and what waits is thrown away."""
        with self._ready:
            self._over, self._error = True, None
            self._items.clear()
            self._ready.notify()

    def take_dropped(self) -> int:
        """How many items were dropped since the last call."""
        with self._ready:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def items(self, *, cause: str, stall: str, stall_s: float) -> Iterator[T | Idle | Loss]:
        """Yields what comes, `Loss(cause)` where it was dropped and `Idle` while nothing comes.

        Raises SourceError(stall) after `stall_s` seconds of silence, and whatever error `end` was given.
        """
        last = time.monotonic()
        while True:
            with self._ready:
                if not self._items and not self._over:
                    self._ready.wait(IDLE_S)
                item = self._items.popleft() if self._items else None
                over, error = self._over, self._error
            if dropped := self.take_dropped():
                yield Loss(cause=cause, count=dropped)
            if item is not None:
                yield item
                last = time.monotonic()
            elif over:
                if error is not None:
                    raise error
                return
            else:
                if time.monotonic() - last > stall_s:
                    raise SourceError(stall)
                yield Idle()
