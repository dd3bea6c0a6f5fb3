"""The parts in one process: pictures and sound in, calibrated scores out.

`Recognizer` is the library's front door: it checks what comes in, finds and aligns the face, and scores.
`Stream` is one timeline with its slot in a back end, `Recognition` a bundle with its back end and the
streams that share it; the runtime uses these two with observations made elsewhere. No clocks, threads or
processes here. Data leaves as `engine.types.Scores`.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.backends import Backend, choose
from engine.bundle import Bundle, load_bundle
from engine.lanes import SECOND_NS, Released
from engine.resampler import Resampler
from engine.signals.face import FaceTracker, load_finder
from engine.types import Block, Face, Float32, Frame, Observation, Scores, UInt8
from engine.window import UNBOUNDED_NS, Timeline, Window


class Recognition:
    """A bundle with its back end, shared by any number of streams. choice: why this back end, in words."""

    def __init__(self, bundle: Bundle, backend: Backend, choice: str = "") -> None:
        self.bundle = bundle
        self.backend = backend
        self.choice = choice
        self._free: list[int] = []
        self._slots = 0

    def warm_up(self) -> None:
        """Run both graphs once on nothing: an engine's first call takes longer than those that follow."""
        size = self.bundle.crop.size
        grey = np.zeros((size, size), dtype=np.uint8)
        face = Face(crop=grey, previous=grey, gap_ns=0, box=(0, 0, 1, 1), confidence=0, track=0)
        stream = Stream(self)
        self.observe([(stream.slot, [(0, face)])])
        stream.scores(SECOND_NS)
        stream.close()

    def take_slot(self) -> int:
        """The lowest free slot of the back end, fresh."""
        if self._free:
            return heapq.heappop(self._free)
        self._slots += 1
        return self._slots - 1

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

    def scores(self, due: "Sequence[tuple[Stream, int]]") -> list[Scores]:
        """The scores of several streams (none twice), each up to its own end in ns, in one batch."""
        cut = [(stream, *stream.timeline.window(end_ns)) for stream, end_ns in due]
        for stream, _, window in cut:
            stream.follow(window.track)
        self.observe((stream.slot, released) for stream, released, _ in cut)
        answers = self.backend.score([stream.slot for stream, _, _ in cut], [window for _, _, window in cut])
        return [
            self._calibrated(stream, window, *rows)
            for (stream, _, window), *rows in zip(cut, *answers, strict=True)
        ]

    def _calibrated(self, stream: "Stream", window: Window, logits: Float32, attributes: Float32) -> Scores:
        bundle = self.bundle
        lead = attributes[bundle.heads.index(bundle.lead)].tolist()
        return Scores(
            t_ns=window.t_end_ns,
            window_ns=bundle.window.window_ns,
            labels=bundle.labels,
            heads={
                head: softmax(row, bundle.temperatures[head])
                for head, row in zip(bundle.heads, logits, strict=True)
            },
            lead=bundle.lead,
            valid_video=float(window.video_mask.mean()),
            valid_audio=float(window.audio_mask.mean()),
            face=window.face,
            track=stream.track,
            attributes=dict(zip(bundle.attributes, lead, strict=True)),
        )


def open_recognition(bundle: str | Path | None = None, engine: str = "auto") -> Recognition:
    """A bundle (None: the one in the package) on an engine ("auto", "tensorrt", "onnx", "openvino").

    Raises BundleError or BackendError where a part cannot be had, ValueError for an unknown engine.
    """
    loaded = load_bundle(bundle)
    choice = choose(loaded, engine)
    return Recognition(loaded, choice.backend, choice.reason)


class Stream:
    """One camera with its microphone: a timeline, and a slot in the back end for its face."""

    def __init__(
        self, recognition: Recognition, epoch_ns: int = 0, *, has_video: bool = True, has_audio: bool = True
    ) -> None:
        self._recognition = recognition
        self.timeline = Timeline(
            recognition.bundle, epoch_ns=epoch_ns, has_video=has_video, has_audio=has_audio
        )
        self.slot = recognition.take_slot()
        self.track = -1

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
        """What was late or lost, by cause (see `engine.lanes`)."""
        return self.timeline.counts

    def add_observation(self, observation: Observation) -> None:
        """Take what one picture showed; ticks that close are encoded at once."""
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

    def follow(self, track: int) -> None:
        """Take note of a window's track (-1: none in view); another face starts with a fresh baseline."""
        if track in (-1, self.track):
            return
        if self.track != -1:
            self._recognition.backend.reset(self.slot)
        self.track = track

    def clear(self, epoch_ns: int | None = None) -> None:
        """Forget pictures and sound, keep both baselines; time begins again, at `epoch_ns` if given."""
        self.timeline.clear(epoch_ns)
        self._recognition.backend.reset(self.slot, keep_baseline=True)

    def close(self) -> None:
        """Hand the slot back. The stream is of no use afterwards."""
        self._recognition.give_slot(self.slot)

    def _encode(self, released: Released) -> None:
        self._recognition.observe([(self.slot, released)])


class Recognizer:
    """Emotion scores from a face and a voice, in one process.

        with Recognizer() as recognizer:
            recognizer.add_frame(t_ns, image)        # as they come, each kind in the order of time
            recognizer.add_audio(t_ns, samples)
            scores = recognizer.scores(recognizer.ready_ns)

    Times are nanoseconds of one clock of your choice. Pictures and sound may arrive in any order against
    each other; a window is complete once `ready_ns` has passed its end, and asked for earlier it is scored
    with what is there. Ask at least once in four seconds: the slow baselines learn from windows alone, and
    pictures more than some twenty seconds ahead of the last window are lost (counted in `counts`).

    bundle: a folder, None for the one in the package. engine: "auto", "tensorrt", "onnx" or "openvino".
    face_model: a YuNet file; offline: never fetch one. epoch_ns: where the grid of ticks begins; nothing
    before it is used. has_video, has_audio: False where that kind will never come.

    Raises BundleError, BackendError or FinderError where a part cannot be had, ValueError for an unknown
    engine. `reasons` says in words which engine and which face finder were taken, and why.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        engine: str = "auto",
        face_model: str | Path | None = None,
        offline: bool = False,
        epoch_ns: int = 0,
        has_video: bool = True,
        has_audio: bool = True,
    ) -> None:
        recognition = open_recognition(bundle, engine)
        self.bundle = recognition.bundle
        reasons = [recognition.choice]
        self._tracker: FaceTracker | None = None
        if has_video:
            finder, notice = load_finder(face_model=face_model, offline=offline)
            self._tracker = FaceTracker(finder, self.bundle.crop)
            reasons.append(notice)
        self.reasons = tuple(reason for reason in reasons if reason)
        self._has_audio = has_audio
        self._resampler = Resampler(self.bundle.mel.rate_hz)
        self._stream = Stream(recognition, epoch_ns, has_video=has_video, has_audio=has_audio)
        self._frames = self._faces = self._blocks = 0
        self._last_frame_ns: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the scores, in their order."""
        return self.bundle.labels

    @property
    def counts(self) -> Counter[str]:
        """What was late or lost, by cause (see `engine.lanes`)."""
        return self._stream.counts

    @property
    def frames(self) -> int:
        """How many pictures have come."""
        return self._frames

    @property
    def faces(self) -> int:
        """In how many of them a face was found."""
        return self._faces

    @property
    def ready_ns(self) -> int:
        """Up to here everything has come, of both kinds: the latest end of a complete window."""
        return min(self._stream.video_bound_ns, self._stream.audio_bound_ns)

    def add_frame(self, t_ns: int, image: UInt8) -> None:
        """Take a picture.

        t_ns: capture time, not before that of the last picture.
        image: (H, W, 3) uint8 BGR, or (H, W) uint8 grey.

        Raises ValueError for another shape, dtype or order.
        """
        if self._tracker is None:
            raise ValueError("this Recognizer was opened with has_video=False, so it takes no pictures")
        t_ns = _time(t_ns)
        if self._last_frame_ns is not None and t_ns < self._last_frame_ns:
            raise ValueError(f"a picture at {t_ns} ns came after one at {self._last_frame_ns} ns")
        frame = Frame(t_ns=t_ns, seq=self._frames, image=_bgr(image))
        self._frames += 1
        self._last_frame_ns = t_ns
        observation = self._tracker.observe(frame)
        self._faces += observation.face is not None
        self._stream.add_observation(observation)

    def add_audio(self, t_ns: int, samples: ArrayLike, rate_hz: int = 16000) -> None:
        """Take sound, in blocks of any size, in the order of time.

        t_ns: capture time of samples[0]. samples: (N,) float32 in [-1, 1] or int16, mono.
        rate_hz: of the samples; other than 16,000 they are resampled as a stream, whose filter holds the
            last milliseconds back until more comes.

        Raises ValueError for another shape or dtype, samples that are not finite, or a rate that is not
        positive.
        """
        if not self._has_audio:
            raise ValueError("this Recognizer was opened with has_audio=False, so it takes no sound")
        t_ns, sound = self._resampler.push(_time(t_ns), _mono(samples), _rate(rate_hz))
        self._add_sound(t_ns, sound)

    def finish(self) -> None:
        """Nothing more will come: every window is complete, and `ready_ns` is later than any end.

        At the end of a file, before its last windows: so their ticks count for the baselines too, as they do
        live. `clear_window` begins again.
        """
        self._add_sound(*self._resampler.flush())
        self._stream.advance_video(UNBOUNDED_NS)
        self._stream.advance_audio(UNBOUNDED_NS)

    def scores(self, t_ns: int) -> Scores:
        """The scores of the window that ends with the last tick (1/15 s) ended by `t_ns`.

        Raises ValueError for a time before the epoch, or before the one asked for last.
        """
        return self._stream.scores(_time(t_ns))

    def clear_window(self, epoch_ns: int | None = None) -> None:
        """Forget pictures and sound, but not this person: baselines and track stay.

        Time begins again, at `epoch_ns` if given, so that the next clip may start at 0.
        """
        self._stream.clear(epoch_ns)
        self._resampler = Resampler(self.bundle.mel.rate_hz)
        self._last_frame_ns = None
        if self._tracker is not None:
            self._tracker.clear()

    def close(self) -> None:
        """Let the back end's slot go. The recognizer is of no use afterwards."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add_sound(self, t_ns: int, samples: Float32) -> None:
        """samples: (N,) float32 at the engine's rate, maybe none."""
        if len(samples):
            self._stream.add_block(Block(t_ns=t_ns, seq=self._blocks, samples=samples))
            self._blocks += 1


def softmax(logits: Float32, temperature: float = 1.0) -> Float32:
    """(L,) logits to (L,) float32 probabilities; computed in double precision."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max())
    probabilities: NDArray[np.float64] = powers / powers.sum()
    return probabilities.astype(np.float32)


def _time(t_ns: int) -> int:
    if isinstance(t_ns, bool) or not isinstance(t_ns, int | np.integer):
        raise ValueError(f"a time must be a whole number of nanoseconds, not {t_ns!r}")
    return int(t_ns)


def _rate(rate_hz: int) -> int:
    if rate_hz != int(rate_hz) or rate_hz <= 0:
        raise ValueError(f"rate_hz must be a positive whole number, not {rate_hz!r}")
    return int(rate_hz)


def _bgr(image: UInt8) -> UInt8:
    shape, dtype = np.shape(image), getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
        raise ValueError(f"a picture must be (H, W, 3) or (H, W) uint8, not {shape} {dtype}")
    return np.repeat(image[:, :, None], 3, axis=2) if len(shape) == 2 else image


def _mono(samples: ArrayLike) -> Float32:
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype not in (np.float32, np.int16):
        raise ValueError(f"sound must be (N,) float32 or int16, mono, not {array.shape} {array.dtype}")
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32768)
    if not np.isfinite(array).all():
        raise ValueError("sound must be finite, but some samples are not a number or infinite")
    return array
