"""The capture worker: a source's pictures become observations, its sound blocks; both go to the recogniser.

The picture itself never leaves this process. It knows nothing about the model, the feed or other workers.
Data leaves it over the `observe` link.
"""

import heapq
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import AbsentError
from engine.types import SECOND_NS, Block, Frame, Observation
from realtime.link import Endpoints, Sender
from realtime.messages import End, Opened, Routed, Start, Stats
from realtime.parts import Kind, SourceSpec
from realtime.sources.base import Idle, Item, Loss, Source, SourceInfo
from realtime.worker import Edge, stand

if TYPE_CHECKING:
    from engine.signals.face import FaceTracker
    from engine.signals.faces import FacesTracker

SOUND_HZ = 16_000
WAIT_MS = 100
LONGEST_FRAME_NS = 200_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """What one capture worker has to do.

    stream: what it captures for. faces: how many are followed at most.
    paced: False where media time is the clock; then nothing is dropped and a slow recogniser is waited for.
    fallback: opened instead of what does not exist.
    duration_ns: end so long after the epoch; None: at the source's own end.
    bundle: whose manifest says how a crop is aligned.
    """

    worker: str
    stream: str
    endpoints: Endpoints
    sources: tuple[SourceSpec, ...]
    fallback: SourceSpec | None
    paced: bool
    duration_ns: int | None
    bundle: Path | None
    faces: int
    face_model: Path | None
    offline: bool


def capture_main(job: CaptureJob, pipe: "Connection[Any, Any]") -> None:
    """The entry of a capture worker's process."""
    stand(job.worker, job.endpoints, pipe, lambda edge: _capture(edge, job))


def _capture(edge: Edge, job: CaptureJob) -> NoReturn:
    out = Sender.connect(edge.context, job.endpoints.observe, keep_all=not job.paced)
    specs, notes = _what_exists(job)
    sources = [open_source(spec, paced=job.paced, anchor_ns=None) for spec in specs]
    infos = [source.info for source in sources]
    kinds = tuple(kind for kind in ("video", "audio") if any(_has(info, kind) for info in infos))
    live = all(info.live for info in infos)
    tracker, finder_notes = _face_tracker(job) if "video" in kinds else (None, ())
    opened = Opened(
        worker=edge.name,
        pid=os.getpid(),
        picture=_name(infos, "video"),
        sound=_name(infos, "audio"),
        has_video="video" in kinds,
        has_audio="audio" in kinds,
        live=live,
        fell_back=bool(notes),
        notes=notes + finder_notes,
    )
    run = _Run(edge, out, job.stream, tracker, job.duration_ns, opened)
    if not live:
        # A file was opened to see what is in it; its clock starts with the run.
        for source in sources:
            source.close()
        run.announce()
        start = edge.await_start()
        run.begin(start)
        sources = [open_source(spec, paced=job.paced, anchor_ns=start.epoch_ns) for spec in specs]
    try:
        for item in _in_order(sources):
            if run.take(item):
                break
    finally:
        for source in sources:
            source.close()
    run.end(kinds)
    edge.finish(run.stats)


def _what_exists(job: CaptureJob) -> tuple[tuple[SourceSpec, ...], tuple[str, ...]]:
    """The sources to open, and a line where they are not those of the job."""
    first, *others = job.sources
    if first.kind is not Kind.CAMERA or first.spec is not None:
        return job.sources, ()
    from realtime.sources.camera import list_cameras

    cameras = list_cameras()
    if cameras:
        return (replace(first, spec=str(cameras[0].index)), *others), ()
    if job.fallback is None:
        raise AbsentError("There is no camera on this machine any more.")
    line = "No camera was found, so this is the demo: made by code, it shows the pipeline, not accuracy."
    return (job.fallback, *others), (line,)


def _name(infos: Sequence[SourceInfo], kind: str) -> str:
    """Of the first source that brings this kind."""
    return next((info.name for info in infos if _has(info, kind)), "")


def _has(info: SourceInfo, kind: str) -> bool:
    return info.has_video if kind == "video" else info.has_audio


def _face_tracker(job: CaptureJob) -> "tuple[FaceTracker | FacesTracker, tuple[str, ...]]":
    from engine.bundle import load_bundle
    from engine.signals.face import FaceTracker, load_finder
    from engine.signals.faces import FacesTracker

    bundle = load_bundle(job.bundle)
    finder, notice = load_finder(job.face_model, job.offline, bundle)
    if job.faces > 1:
        return FacesTracker(finder, bundle.crop, most=job.faces), (notice,)
    return FaceTracker(finder, bundle.crop), (notice,)


def open_source(spec: SourceSpec, *, paced: bool, anchor_ns: int | None) -> Source:
    """The source that `spec` names; `anchor_ns`: the time of a paced file's beginning. Raises SourceError."""
    if spec.kind is Kind.CAMERA:
        from realtime.sources.camera import open_camera

        assert spec.spec is not None
        return open_camera(spec.spec)
    if spec.kind is Kind.MICROPHONE:
        from realtime.sources.microphone import open_microphone

        return open_microphone(spec.spec or "default")
    if spec.kind is Kind.DEMO:
        from realtime.sources.demo import DemoSource

        return DemoSource(paced, anchor_ns, video=spec.video, audio=spec.audio)
    from realtime.sources.media import open_media

    assert spec.spec is not None
    return open_media(spec.spec, paced=paced, anchor_ns=anchor_ns, video=spec.video, audio=spec.audio)


@dataclass(slots=True)
class _Run:
    """What goes from the sources' items to the recogniser, and what is counted on the way.

    A device is announced as open with the first that it gives. Before `begin` everything is thrown away:
    a device gives pictures before anybody wants them.
    """

    edge: Edge
    out: Sender
    stream: str
    tracker: "FaceTracker | FacesTracker | None"
    duration_ns: int | None
    opened: Opened | None
    epoch_ns: int | None = None
    end_ns: int | None = None
    drops: Counter[str] = field(default_factory=Counter)
    _counts: Counter[str] = field(default_factory=Counter)
    _last_frame_ns: int | None = None
    _last_ns: int = 0

    def announce(self) -> None:
        """Tell the main process, once, that the source is open."""
        if self.opened is not None:
            self.edge.report(self.opened)
            self.opened = None

    def begin(self, start: Start) -> None:
        """From here on items count; those before the epoch still do not."""
        self.epoch_ns = start.epoch_ns
        self.end_ns = None if self.duration_ns is None else start.epoch_ns + self.duration_ns

    def take(self, item: Item) -> bool:
        """Deal with one item of the sources; True when the duration is over."""
        if isinstance(item, Frame | Block):
            self.announce()
        start = self.edge.beat(self.stats)
        if start is not None:
            self.begin(start)
        self.out.pump()
        if self.epoch_ns is None:
            return False
        if isinstance(item, Loss):
            self.drops[item.cause] += item.count
        elif isinstance(item, Idle):
            return self.end_ns is not None and time.monotonic_ns() > self.end_ns + LONGEST_FRAME_NS
        elif self.end_ns is not None and item.t_ns >= self.end_ns:
            return True
        elif item.t_ns >= self.epoch_ns:
            if isinstance(item, Frame):
                self._frame(item)
            else:
                self._block(item)
            self._make_room()
        return False

    def end(self, kinds: tuple[str, ...]) -> None:
        """Say where the end is, and hand over what still waits.

        What was counted goes first: the recogniser may be done with all of it, and the run be over, before
        this worker comes to its own end.
        """
        self.announce()
        self.edge.give(self.stats)
        last_ns = self._last_ns if self.end_ns is None else min(self._last_ns, self.end_ns)
        self._send(End(kinds, last_ns))
        while self.out.waiting:
            self.out.wait(WAIT_MS)
            self.edge.beat(self.stats)

    def _frame(self, frame: Frame) -> None:
        assert self.tracker is not None
        begun = time.perf_counter_ns()
        observation = self.tracker.observe(frame)
        self._counts["finding_ns"] += time.perf_counter_ns() - begun
        self._counts["frames"] += 1
        self._counts["faces"] += observation.face is not None
        self._send(observation)
        gap_ns = 0 if self._last_frame_ns is None else frame.t_ns - self._last_frame_ns
        self._last_frame_ns = frame.t_ns
        self._last_ns = max(self._last_ns, frame.t_ns + min(gap_ns, LONGEST_FRAME_NS))

    def _block(self, block: Block) -> None:
        self._counts["blocks"] += 1
        self._send(block)
        self._last_ns = max(self._last_ns, block.t_ns + len(block.samples) * SECOND_NS // SOUND_HZ)

    def _send(self, item: Observation | Block | End) -> None:
        self.out.send(Routed(self.stream, item))

    def _make_room(self) -> None:
        while self.out.keep_all and self.out.full:
            self.out.wait(WAIT_MS)
            self.edge.beat(self.stats)

    def stats(self, elapsed_s: float) -> tuple[Stats, ...]:
        """What happened since they were last given, in `elapsed_s` seconds; drops since the start."""
        counts, self._counts = self._counts, Counter()
        drops = {cause: count for cause, count in self.drops.items() if count}
        if self.out.dropped:
            drops["link full"] = self.out.dropped
        rates = {"cpu": self.edge.cpu_share(elapsed_s)}
        if self.tracker is not None:
            frames = counts["frames"]
            rates["frames_hz"] = frames / elapsed_s
            rates["faces"] = counts["faces"] / max(frames, 1)
            rates["finding_ms"] = counts["finding_ns"] / max(frames, 1) / 1e6
        return (Stats(self.edge.name, os.getpid(), drops, rates, self.stream),)


def _in_order(sources: Sequence[Source]) -> Iterator[Item]:
    """The items of one source, or of several files in one order of time."""
    if len(sources) == 1:
        return iter(sources[0])
    return (item for _, item in heapq.merge(*map(_timed, sources), key=lambda timed: timed[0]))


def _timed(source: Source) -> Iterator[tuple[int, Item]]:
    t_ns = 0
    for item in source:
        t_ns = item.t_ns if isinstance(item, Frame | Block) else t_ns
        yield t_ns, item
