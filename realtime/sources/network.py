"""Live pictures and sound from a URL: network cameras by MJPEG over HTTP, RTSP, and what FFmpeg reads.

A thread reads and decodes, as a camera must be read whether or not anybody looks; the iterator gives times
and hands on. Knows no faces and no processes. Times: arrival for MJPEG and bare H.264, which carry none
(FFmpeg's own stamps for MJPEG are rounded to 1/25 s), else presentation times on the least delay seen
(`ArrivalClock`).
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
from av.format import Flags

from engine.errors import SourceError
from engine.picture import upright
from engine.types import Block, Float32, Frame
from realtime.clock import ArrivalClock
from realtime.config import shown
from realtime.sources.base import Idle, Inbox, Item, Loss, Source, SourceInfo
from realtime.sources.media import first_stream, open_container, to_ns
from realtime.sources.sound import TimedSound

OPEN_S = 5.0
SILENT_S = 2.0
_SETTLING_S = 2.0
_INBOX, _KEPT = 48, 16


def open_url(url: str, *, video: bool = True, audio: bool = True) -> Source | None:
    """Opens a live URL; None where the URL turns out to be a file with a length.

    Raises SourceError when nothing answers within 5 s or nothing of what is wanted is in it.
    """
    container = open_container(
        url,
        timeout=(OPEN_S, SILENT_S),
        options={"rtsp_transport": "tcp", "fflags": "nobuffer", "analyzeduration": "1000000"},
    )
    if container.duration is not None and container.duration > 0:
        container.close()
        return None
    return NetworkSource(container, url, video=video, audio=audio)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Arrival:
    """A packet's place in time, with what was decoded from it.

    end_ns, and the first of each of `frames`: presentation times; None where the stream tells none.
    damaged: it could not be decoded.
    """

    end_ns: int | None
    arrival_ns: int
    frames: list[tuple[int | None, Any]]
    audio: bool
    damaged: bool


class NetworkSource:
    """A live URL as a source. Made by `open_url`."""

    def __init__(self, container: Any, url: str, *, video: bool, audio: bool) -> None:
        self._container = container
        self._name = shown(url)
        self._video = first_stream(container, "video") if video else None
        self._audio = first_stream(container, "audio") if audio else None
        bare = Flags.no_timestamps in Flags(container.format.flags)
        self._stampless = bare and self._video is not None
        self._aspect = None if self._video is None else self._video.sample_aspect_ratio
        self._streams = [stream for stream in (self._video, self._audio) if stream is not None]
        if not self._streams:
            container.close()
            raise SourceError(
                f"{self._name} sends nothing of what is wanted (picture: {video}, sound: {audio})."
            )
        self._inbox: Inbox[_Arrival] = Inbox(_INBOX, _KEPT)
        self._clock = ArrivalClock()
        self._settled_by_ns = 0
        self._sound = TimedSound()
        self._seq = {"frame": 0, "block": 0}
        self._last_ns = {"frame": -(1 << 62), "block": -(1 << 62)}
        self._thread: threading.Thread | None = None
        self.info = SourceInfo(
            name=self._name,
            has_video=self._video is not None,
            has_audio=self._audio is not None,
            live=True,
            epoch_ns=None,
        )

    def __iter__(self) -> Iterator[Item]:
        self._thread = threading.Thread(target=self._read, name="network", daemon=True)
        self._thread.start()
        self._settled_by_ns = time.monotonic_ns() + round(_SETTLING_S * 1e9)
        try:
            for item in self._inbox.items(
                cause="packet not read in time",
                stall=f"{self._name} sends nothing any more.",
                stall_s=SILENT_S + 1,
            ):
                if isinstance(item, _Arrival):
                    # Until a whole picture comes, packets may give nothing for many seconds.
                    yield from list(self._given(item)) or [Idle()]
                else:
                    yield item
        finally:
            self.close()

    def close(self) -> None:
        """Lets go at once; the reading thread leaves the connection after at most `SILENT_S`."""
        self._inbox.close()
        if self._thread is None:
            self._container.close()

    def _read(self) -> None:
        try:
            for packet in self._container.demux(self._streams):
                arrival_ns = time.monotonic_ns()
                if self._inbox.closed:
                    break
                if packet.size:
                    self._inbox.put(self._decoded(packet, arrival_ns))
            self._inbox.end(SourceError(f"{self._name} has ended."))
        except av.FFmpegError as error:
            silent = isinstance(error, av.error.ExitError)
            why = "sends nothing any more" if silent else f"has broken off ({error.strerror})"
            self._inbox.end(SourceError(f"{self._name} {why}."))
        finally:
            self._container.close()

    def _decoded(self, packet: Any, arrival_ns: int) -> _Arrival:
        audio = packet.stream.type == "audio"
        end_ns = self._told_ns(packet, later=(packet.duration or 0) if audio else 0)
        damaged, frames = False, []
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged = True
        timed = [(self._told_ns(frame), frame) for frame in frames]
        return _Arrival(end_ns=end_ns, arrival_ns=arrival_ns, frames=timed, audio=audio, damaged=damaged)

    def _told_ns(self, timed: Any, later: int = 0) -> int | None:
        """The presentation time of a packet or frame, or `later` of its own units behind it."""
        if self._stampless or timed.pts is None:
            return None
        return to_ns(timed.pts + later, timed.time_base)

    def _given(self, item: _Arrival) -> Iterator[Item]:
        if item.damaged:
            yield Loss(cause="damaged packet", count=1)
        if item.end_ns is not None:
            jumps, before_ns = self._clock.jumps, self._clock.time_ns(0)
            self._clock.push(item.end_ns, item.arrival_ns)
            if self._clock.jumps > jumps:
                yield Loss(cause="stream time jumped", count=1)
                # What was held back came before; what follows is not counted on from there.
                yield from self._numbered(self._sound.flush(), before_ns)
                self._sound = TimedSound()
        if self._stampless or self._clock.settled or item.arrival_ns > self._settled_by_ns:
            yield from self._blocks(item) if item.audio else self._frames(item)

    def _frames(self, item: _Arrival) -> Iterator[Frame | Loss]:
        for pts_ns, decoded in item.frames:
            t_ns = item.arrival_ns if pts_ns is None else self._clock.time_ns(pts_ns)
            if (seq := self._next("frame", t_ns)) is None:
                yield Loss(cause="picture out of order", count=1)
            else:
                yield Frame(t_ns=t_ns, seq=seq, image=upright(decoded, self._aspect))

    def _blocks(self, item: _Arrival) -> Iterator[Block | Loss]:
        for pts_ns, decoded in item.frames:
            yield from self._numbered(self._sound.push(decoded, pts_ns), self._clock.time_ns(0))

    def _numbered(self, sound: list[tuple[int, Float32]], zero_ns: int) -> Iterator[Block | Loss]:
        """sound: as `TimedSound` gives it; zero_ns: the monotonic time of its 0."""
        for start_ns, samples in sound:
            t_ns = zero_ns + start_ns
            if (seq := self._next("block", t_ns)) is None:
                yield Loss(cause="sound out of order", count=1)
            else:
                yield Block(t_ns=t_ns, seq=seq, samples=samples)

    def _next(self, kind: str, t_ns: int) -> int | None:
        """The number of what comes next of a kind; None where its time has been passed (after a jump)."""
        if t_ns <= self._last_ns[kind]:
            return None
        self._last_ns[kind] = t_ns
        self._seq[kind] += 1
        return self._seq[kind] - 1
