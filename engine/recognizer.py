"""The parts in one process: pictures and sound in, calibrated scores out.

`Recognizer` is the library's front door: it checks what comes in, finds and aligns the face, and scores.
What it is made of can be had apart: `engine.streams` takes observations made elsewhere. No clocks, threads or
processes here. Data leaves as `engine.types.Scores`.
"""

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from engine.resampler import Resampler
from engine.signals.face import FaceTracker, load_finder
from engine.streams import Stream, open_recognition
from engine.types import Block, Float32, Frame, Scores, UInt8
from engine.window import UNBOUNDED_NS


class Recognizer:
    """Emotion scores from a face and a voice, in one process.

        with Recognizer() as recognizer:
            recognizer.add_frame(t_ns, image)        # as they come, each kind in the order of time
            recognizer.add_audio(t_ns, samples)
            scores = recognizer.scores(recognizer.ready_ns)

    Times are nanoseconds of one clock of your choice. Pictures and sound may arrive in any order against
    each other; a window is complete once `ready_ns` has passed its end, and asked for earlier it is scored
    with what is there. Ask at least once in four seconds: the slow baselines learn from windows alone, and
    pictures more than some twenty seconds ahead of the last window are lost, and of sound all but the newest
    eighty seconds (counted in `counts`).

    bundle: a folder, None for the one in the package. engine: "auto" or one of `engine.backends.ENGINES`.
    face_model: a YuNet file, or "yunet", instead of the bundle's finder; offline: never fetch one.
    epoch_ns: where the grid of ticks begins; nothing before it is used. has_video, has_audio: False where
    that kind will never come.

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
            finder, notice = load_finder(face_model, offline, self.bundle)
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
        """What was late or lost, by cause (see `engine.video_lane`, `engine.sound_lane`)."""
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


def _time(t_ns: int) -> int:
    if isinstance(t_ns, bool) or not isinstance(t_ns, int | np.integer):
        raise ValueError(f"a time must be a whole number of nanoseconds, not {t_ns!r}")
    return int(t_ns)


def _rate(rate_hz: int) -> int:
    if not isinstance(rate_hz, int | float | np.number) or not rate_hz > 0 or rate_hz % 1 != 0:
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
