"""Many streams on one bundle: observations and blocks in, calibrated scores out.

`Stream` is one timeline with its slot in a back end, `Recognition` a bundle with its back end and the streams
that share it: what they have for it together goes through in one batch. It knows nothing of pictures, sources
or clocks. Data leaves it as `engine.types.Scores`.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.backends import Backend, choose
from engine.backends.base import Answers
from engine.bundle import Bundle, load_bundle
from engine.errors import BackendError
from engine.evidence import evidence
from engine.leaning import Leaning
from engine.plans.store import too_few
from engine.probabilities import log_softmax, softmax
from engine.signals.voice import MEMORY
from engine.smoothing import Smoothing
from engine.types import SECOND_NS, Block, Face, Float32, Observation, Scores
from engine.video_lane import Released
from engine.window import Timeline, Window, hear


class Recognition:
    """A bundle with its back end, shared by as many streams as it keeps tracks.

    choice: why this back end, in words.
    """

    def __init__(self, bundle: Bundle, backend: Backend, choice: str = "") -> None:
        self.bundle = bundle
        self.backend = backend
        self.choice = choice
        self._free: list[int] = []
        self._slots = 0

    def warm_up(self) -> None:
        """Run every graph once on nothing: an engine's first call takes longer than those that follow."""
        size, voice = self.bundle.crop.size, self.backend.voice
        if voice is not None:
            voice.encode(np.zeros((1, MEMORY, voice.bands), np.float32), np.ones((1, MEMORY), np.bool_))
        grey = np.zeros((size, size), dtype=np.uint8)
        face = Face(crop=grey, previous=grey, gap_ns=0, box=(0, 0, 1, 1), confidence=0, track=0)
        stream = Stream(self)
        try:
            self.observe([(stream.slot, [(0, face)])])
            stream.scores(SECOND_NS)
        finally:
            stream.close()

    def take_slot(self) -> int:
        """The lowest free slot of the back end, fresh. Raises BackendError where all are taken."""
        if self._free:
            return heapq.heappop(self._free)
        tracks = self.backend.tracks
        if tracks is not None and self._slots >= tracks:
            raise BackendError(self.too_few(self._slots + 1))
        self._slots += 1
        return self._slots - 1

    def too_few(self, wanted: int) -> str:
        """That its back end keeps fewer tracks than are wanted, and what to build, in one sentence."""
        backend = self.backend
        return too_few(self.bundle, backend.name, backend.precision, backend.tracks or 0, wanted)

    def give_slot(self, slot: int) -> None:
        """Hand a slot back; its baseline is forgotten."""
        self.backend.reset(slot)
        heapq.heappush(self._free, slot)

    def observe(self, released: Iterable[tuple[int, Released]]) -> None:
        """Encode the closed ticks of several slots, in one batch."""
        pairs = [(slot, tick, face) for slot, ticks in released for tick, face in ticks]
        if pairs:
            slots, ticks, faces = zip(*pairs, strict=True)
            self.backend.observe(slots, ticks, faces)

    def encode(self, streams: "Iterable[Stream]") -> None:
        """Encode the ticks that wait in these streams, in one batch."""
        self.observe([(stream.slot, stream.take_closed()) for stream in streams])

    def scores(self, due: "Sequence[tuple[Stream, int]]") -> list[Scores]:
        """The scores of several streams (none twice), each up to its own end in ns, in one batch."""
        if not due:
            return []
        hear((stream.timeline, end_ns) for stream, end_ns in due)
        cut = [(stream, *stream.timeline.window(end_ns)) for stream, end_ns in due]
        for stream, _, window in cut:
            stream.follow(window.track)
        self.observe((stream.slot, stream.take_closed() + released) for stream, released, _ in cut)
        streams, windows = [stream for stream, _, _ in cut], [window for _, _, window in cut]
        return self._calibrated(
            streams, windows, self.backend.score([stream.slot for stream in streams], windows)
        )

    def _calibrated(
        self, streams: "Sequence[Stream]", windows: Sequence[Window], answers: Answers
    ) -> list[Scores]:
        bundle, labels = self.bundle, len(self.bundle.labels)
        temperatures = np.array([bundle.temperatures[head] for head in bundle.heads])
        shares = [(window.valid_video, window.valid_audio) for window in windows]
        sure = evidence(shares, bundle.window.seconds, bundle.sure_after_s)
        logits = log_softmax(answers.logits / temperatures[:, None]) * sure[..., None]
        rows = zip(streams, windows, shares, logits, answers.attributes, strict=True)
        said = np.stack(
            [
                each.steadied(window.t_end_ns, (seen > 0, heard > 0), *row)
                for each, window, (seen, heard), *row in rows
            ]
        )
        names, heads = bundle.attributes, bundle.heads
        rated = [
            {head: dict(zip(names, row, strict=True)) for head, row in zip(heads, rows_of_heads, strict=True)}
            for rows_of_heads in said[..., labels:].tolist()
        ]
        return [
            Scores(
                t_ns=window.t_end_ns,
                window_ns=bundle.window.window_ns,
                labels=bundle.labels,
                heads=dict(zip(bundle.heads, probabilities, strict=True)),
                lead=bundle.lead,
                valid_video=seen,
                valid_audio=heard,
                face=window.face,
                track=stream.track,
                attributes=attributes[bundle.lead],
                head_attributes=attributes,
            )
            for stream, window, (seen, heard), probabilities, attributes in zip(
                streams, windows, shares, softmax(said[..., :labels]), rated, strict=True
            )
        ]


def open_recognition(bundle: str | Path | None = None, engine: str = "auto", tracks: int = 1) -> Recognition:
    """A bundle (None: the one in the package) on an engine (one of `engine.backends.ENGINES`).

    tracks: how many streams there will be at most; an engine that keeps fewer is not taken.

    Raises BundleError or BackendError where a part cannot be had, ValueError for an unknown engine.
    """
    loaded = load_bundle(bundle)
    choice = choose(loaded, engine, tracks)
    return Recognition(loaded, choice.backend, choice.reason)


class Stream:
    """One camera with its microphone: a timeline, and a slot in the back end for its face.

    beside: the stream of another face of the same camera; sound goes to that one (see `Timeline`).
    at_once: ticks that close are encoded at once; else they wait in `closed` for `Recognition.encode`, which
    takes those of many streams in one batch.

    Raises BackendError where the back end has no slot left.
    """

    def __init__(
        self,
        recognition: Recognition,
        epoch_ns: int = 0,
        *,
        has_video: bool = True,
        has_audio: bool = True,
        at_once: bool = True,
        beside: "Stream | None" = None,
    ) -> None:
        self._recognition = recognition
        self._at_once = at_once
        self.closed: Released = []
        self.timeline: Timeline = Timeline(
            recognition.bundle,
            epoch_ns=epoch_ns,
            has_video=has_video,
            has_audio=has_audio,
            beside=beside.timeline if beside else None,
            voice=recognition.backend.voice,
        )
        self.slot = recognition.take_slot()
        self.track = -1
        bundle = recognition.bundle
        self._leaning = Leaning(bundle.leaning, bundle.labels) if bundle.leaning else None
        self._smoothing = Smoothing(bundle.smoothing_s)

    @property
    def video_bound_ns(self) -> int:
        """See `Timeline`."""
        return self.timeline.video_bound_ns

    @property
    def audio_bound_ns(self) -> int:
        """See `Timeline`."""
        return self.timeline.audio_bound_ns

    @property
    def counts(self) -> Counter[str]:
        """What was late or lost, by cause (see `engine.video_lane`, `engine.sound_lane`)."""
        return self.timeline.counts

    def beside(self, track: int) -> "Stream":
        """A stream for one more face of this camera, that of `track`; the sound of this one is for both."""
        epoch_ns = self.timeline.epoch_ns
        made = Stream(self._recognition, epoch_ns, at_once=self._at_once, beside=self)
        made.track = track
        return made

    def add_observation(self, observation: Observation) -> None:
        """Take what one picture showed."""
        self._encode(self.timeline.push_observation(observation))

    def add_block(self, block: Block) -> None:
        """Take sound, 16 kHz mono, in the order of time."""
        self.timeline.push_block(block)

    def advance_video(self, t_ns: int) -> None:
        """No picture older than `t_ns` will come (`engine.window.UNBOUNDED_NS`: none at all)."""
        self._encode(self.timeline.advance_video(t_ns))

    def advance_audio(self, t_ns: int) -> None:
        """No sound older than `t_ns` will come (`engine.window.UNBOUNDED_NS`: none at all)."""
        self.timeline.advance_audio(t_ns)

    def scores(self, end_ns: int) -> Scores:
        """The scores of the window that ends with the last tick ended by `end_ns`.

        Raises ValueError for an end before the epoch or before the last one asked for.
        """
        return self._recognition.scores([(self, end_ns)])[0]

    def thin(self, most: int) -> None:
        """Of the ticks that wait keep at most `most`, evenly, with the newest; the others are masked."""
        step = -(-len(self.closed) // most)
        if step > 1:
            kept = self.closed[::-step][::-1]
            self.timeline.forgo([pair for pair in self.closed if pair not in kept])
            self.closed = kept

    def take_closed(self) -> Released:
        """The ticks that wait; they wait no more."""
        closed, self.closed = self.closed, []
        return closed

    def follow(self, track: int) -> None:
        """Take note of a window's track (-1: none in view); another face starts with a fresh baseline."""
        if track in (-1, self.track):
            return
        if self.track != -1:
            self._recognition.backend.reset(self.slot)
            if self._leaning is not None:
                self._leaning.restart()
        self.track = track

    def steadied(
        self, t_ns: int, senses: tuple[bool, bool], logits: NDArray[np.float64], attributes: Float32
    ) -> NDArray[np.float64]:
        """What the heads say, labels before attributes: less what they say of this person all the time (see
        `Leaning`), and as a mean over the last windows of the same face and senses (see `Smoothing`).
        """
        if self._leaning is not None:
            logits = self._leaning.take_out(t_ns, logits, senses)
        row = np.concatenate((logits, attributes), axis=1, dtype=np.float64)
        return self._smoothing.fold(t_ns, row, (self.track, *senses))

    def clear(self, epoch_ns: int | None = None) -> None:
        """Forget pictures and sound, keep both baselines; time begins again, at `epoch_ns` if given."""
        self._smoothing.restart()
        if self._leaning is not None:
            self._leaning.pause()
        self.closed.clear()
        self.timeline.clear(epoch_ns)
        self._recognition.backend.reset(self.slot, keep_baseline=True)

    def close(self) -> None:
        """Hand the slot back. The stream is of no use afterwards."""
        self._recognition.give_slot(self.slot)

    def _encode(self, released: Released) -> None:
        self.closed += released
        if self._at_once:
            self._recognition.encode([self])
