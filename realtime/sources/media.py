"""Media files: picture and sound in presentation order, paced by the clock or as fast as they are pulled.

Knows containers, codecs and presentation times (PyAV); nothing of faces, scores or processes. Picture and
sound of a file are read through a container each, so that a badly interleaved file costs no memory.
"""

import heapq
import logging
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from engine.errors import SourceError
from engine.picture import upright
from engine.types import SECOND_NS, Block, Frame
from realtime.config import shown
from realtime.sources.base import IDLE_S, Idle, Item, Loss, Source, SourceInfo
from realtime.sources.sound import RATE_HZ, TimedSound

log = logging.getLogger(__name__)

_LATE_FRAME_NS = 500_000_000
_LATE_BLOCK_NS = 2_000_000_000
_SEEK_NS = 5_000_000_000
_NOT_MEDIA = {"tty", "image2", "ffmetadata"}


def open_media(
    path: str,
    *,
    paced: bool,
    anchor_ns: int | None = None,
    video: bool = True,
    audio: bool = True,
) -> Source:
    """Opens a media file or a URL.

    path: a file, or a URL (`http://`, `rtsp://` and whatever else FFmpeg reads). A URL without a known
        length is a live stream: it comes as it comes, whatever `paced` says.
    paced: times are `anchor_ns` + presentation time, and nothing comes before its time; what a slow
        reader leaves lying (frames older than 0.5 s, blocks older than 2 s) is left out and counted.
        Unpaced: times are presentation times, everything comes, as fast as it is pulled.
    anchor_ns: the monotonic time of presentation time 0 (see `zero_ns`); default: 0.1 s from now.
    video, audio: what of it is wanted.

    Raises SourceError where there is no such file, it is no media, or has nothing of what is wanted.
    """
    if "://" in path:
        from realtime.sources.network import open_url

        live = open_url(path, video=video, audio=audio)
        if live is not None:
            return live
    return MediaSource(path, paced=paced, anchor_ns=anchor_ns, video=video, audio=audio)


class MediaSource:
    """A media file as a source. See `open_media`."""

    def __init__(self, path: str, *, paced: bool, anchor_ns: int | None, video: bool, audio: bool) -> None:
        self._closed = threading.Event()
        self._reading = False
        self._pictures = _Track.open(path, "video") if video else None
        self._sound = _Track.open(path, "audio") if audio else None
        if self._pictures is None and self._sound is None:
            wanted = " or ".join(name for name, on in (("picture", video), ("sound", audio)) if on)
            raise SourceError(f"{shown(path)} holds no {wanted}.")
        if paced and anchor_ns is None:
            anchor_ns = time.monotonic_ns() + 100_000_000
        self._anchor_ns = anchor_ns if paced else None
        self.info = SourceInfo(
            name=shown(path),
            has_video=self._pictures is not None,
            has_audio=self._sound is not None,
            live=False,
            epoch_ns=self._anchor_ns or 0,
        )

    def __iter__(self) -> Iterator[Item]:
        self._reading = True
        try:
            if self._closed.is_set():
                return
            if self._anchor_ns is not None:
                self._catch_up(time.monotonic_ns() - self._anchor_ns)
            tracks = [items for items in (self._frames(), self._blocks()) if items is not None]
            merged = heapq.merge(*tracks, key=lambda timed: timed[0])
            yield from (
                self._unpaced(merged) if self._anchor_ns is None else self._paced(merged, self._anchor_ns)
            )
        finally:
            self._reading = False
            self.close()

    def close(self) -> None:
        """Lets the file go; one that is being read is let go by its reader, soon."""
        self._closed.set()
        if not self._reading:
            for track in (self._pictures, self._sound):
                if track is not None:
                    track.container.close()

    def _catch_up(self, behind_ns: int) -> None:
        """A reader that starts late (again) does not decode all that is over."""
        for track in (self._pictures, self._sound):
            if track is not None and behind_ns > _SEEK_NS:
                track.seek(behind_ns - SECOND_NS)

    def _unpaced(self, items: Iterator[tuple[int, Any]]) -> Iterator[Item]:
        for _, item in items:
            if self._closed.is_set():
                return
            yield item.frame() if isinstance(item, _Picture) else item

    def _paced(self, items: Iterator[tuple[int, Any]], anchor_ns: int) -> Iterator[Item]:
        late = 0
        spoke_ns = time.monotonic_ns()
        for t_ns, item in items:
            due_ns, bound_ns = anchor_ns + t_ns, _LATE_FRAME_NS
            if isinstance(item, Block):
                due_ns, bound_ns = due_ns + len(item.samples) * SECOND_NS // RATE_HZ, _LATE_BLOCK_NS
            now_ns = time.monotonic_ns()
            if isinstance(item, Loss):
                yield item
                continue
            if now_ns - due_ns > bound_ns and not self._closed.is_set():
                late += 1
                if now_ns - spoke_ns > IDLE_S * 0.5e9:
                    yield Loss(cause="left out, the reader was late", count=late)
                    late, spoke_ns = 0, now_ns
                continue
            if late:
                yield Loss(cause="left out, the reader was late", count=late)
                late = 0
            ready = item.frame(anchor_ns) if isinstance(item, _Picture) else _moved(item, anchor_ns)
            while (wait_s := (due_ns - time.monotonic_ns()) * 1e-9) > 0 and not self._closed.is_set():
                if not self._closed.wait(min(wait_s, IDLE_S)) and wait_s > IDLE_S:
                    yield Idle()
            if self._closed.is_set():
                return
            yield ready
            spoke_ns = time.monotonic_ns()

    def _frames(self) -> Iterator[tuple[int, "_Picture | Loss"]] | None:
        return None if self._pictures is None else _pictures(self._pictures)

    def _blocks(self) -> Iterator[tuple[int, "Block | Loss"]] | None:
        return None if self._sound is None else _blocks(self._sound)


class _Picture:
    """A decoded picture that becomes a frame only when it is wanted."""

    def __init__(self, t_ns: int, seq: int, decoded: Any, aspect: Fraction | None) -> None:
        self._t_ns, self._seq, self._decoded, self._aspect = t_ns, seq, decoded, aspect

    def frame(self, anchor_ns: int = 0) -> Frame:
        image = upright(self._decoded, self._aspect)
        return Frame(t_ns=anchor_ns + self._t_ns, seq=self._seq, image=image)


class _Track:
    """One stream of a file in a container of its own: decoded frames and what went wrong."""

    def __init__(self, container: Any, stream: Any, name: str) -> None:
        self.container, self.stream, self.name = container, stream, name
        self._zero_ns = zero_ns(container)

    @classmethod
    def open(cls, path: str, kind: str) -> "_Track | None":
        """The first stream of that kind, or None where the file has none."""
        container = open_container(path)
        stream = first_stream(container, kind)
        if stream is None:
            container.close()
            return None
        return cls(container, stream, shown(path))

    def ns(self, pts: int) -> int:
        return to_ns(pts, self.stream.time_base) - self._zero_ns

    def seek(self, t_ns: int) -> None:
        try:
            self.container.seek((t_ns + self._zero_ns) // 1000)
        except av.FFmpegError as error:
            log.info(
                "%s: cannot be searched (%s), so the part that is over is read", self.name, error.strerror
            )

    def decoded(self) -> Iterator[Any]:
        """`av` frames in presentation order, and a Loss where the file is damaged or cut short."""
        last_ns = None
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                log.warning("%s: reading ended at %s: %s", self.name, _at(last_ns), error.strerror)
                yield Loss(cause="truncated", count=1)
                return
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.FFmpegError:
                yield Loss(cause="damaged packet", count=1)
                continue
            for frame in frames:
                if frame.pts is not None:
                    last_ns = self.ns(frame.pts)
                yield frame
        if self._cut_short(last_ns):
            log.warning("%s: ends at %s, before its stated length", self.name, _at(last_ns))
            yield Loss(cause="truncated", count=1)

    def _cut_short(self, last_ns: int | None) -> bool:
        if self.stream.duration is None:
            return False
        start = self.stream.start_time or 0
        return self.ns(start + self.stream.duration) - (last_ns or 0) > SECOND_NS


def _pictures(track: _Track) -> Iterator[tuple[int, "_Picture | Loss"]]:
    rate = track.stream.average_rate or Fraction(25)
    aspect = track.stream.sample_aspect_ratio
    last_ns, seq = -(1 << 62), 0
    for decoded in track.decoded():
        if isinstance(decoded, Loss):
            yield max(last_ns, 0), decoded
            continue
        if decoded.pts is not None:
            t_ns = track.ns(decoded.pts)
        else:
            t_ns = max(last_ns, -1) + round(1e9 / rate)
        if t_ns <= last_ns:
            yield last_ns, Loss(cause="picture out of order", count=1)
            continue
        yield t_ns, _Picture(t_ns, seq, decoded, aspect)
        last_ns, seq = t_ns, seq + 1


def _blocks(track: _Track) -> Iterator[tuple[int, "Block | Loss"]]:
    sound, last_ns, seq = TimedSound(), 0, 0
    for decoded in track.decoded():
        if isinstance(decoded, Loss):
            yield last_ns, decoded
            continue
        for t_ns, samples in sound.push(decoded, None if decoded.pts is None else track.ns(decoded.pts)):
            yield t_ns, Block(t_ns=t_ns, seq=seq, samples=samples)
            last_ns, seq = t_ns, seq + 1
    for t_ns, samples in sound.flush():
        yield t_ns, Block(t_ns=t_ns, seq=seq, samples=samples)
        seq += 1


def open_container(path: str, **options: Any) -> Any:
    """An `av` container. Raises SourceError where FFmpeg cannot open it."""
    name = shown(path)
    try:
        container = av.open(path, **options)
    except av.FFmpegError as error:
        # FFmpeg's own error names the URL with its password, and a stack trace would show it.
        raise SourceError(f"{name} cannot be opened as media: {_reason(error)}.") from None
    if set(container.format.name.split(",")) & _NOT_MEDIA:
        container.close()
        raise SourceError(f"{name} cannot be opened as media: it looks like {container.format.long_name}.")
    return container


def first_stream(container: Any, kind: str) -> Any:
    """The first stream of a kind ("video", "audio") that can be decoded and is no cover picture, or None."""
    return next((stream for stream in _streams(container) if stream.type == kind), None)


def zero_ns(container: Any) -> int:
    """Presentation time 0: the container's own, or its first stream's start where that is later.

    Recordings cut out of a running broadcast start at any time up to 26 hours.
    """
    starts = [to_ns(s.start_time, s.time_base) for s in _streams(container) if s.start_time is not None]
    return max(min(starts, default=0), 0)


def to_ns(pts: int, time_base: Fraction) -> int:
    """A presentation time in ns."""
    return pts * time_base.numerator * SECOND_NS // time_base.denominator


def _streams(container: Any) -> list[Any]:
    """Pictures and sound that can be decoded, without cover pictures."""
    return [
        stream
        for stream in container.streams
        if stream.type in ("video", "audio")
        and stream.codec_context is not None
        and not stream.disposition & av.stream.Disposition.attached_pic
    ]


def _moved(block: Block, by_ns: int) -> Block:
    return Block(t_ns=block.t_ns + by_ns, seq=block.seq, samples=block.samples)


def _reason(error: av.FFmpegError) -> str:
    text = error.strerror or type(error).__name__
    return text[0].lower() + text[1:]


def _at(t_ns: int | None) -> str:
    return "its start" if t_ns is None else f"{t_ns * 1e-9:.2f} s"
