"""Recognisers that are measured: one that forgets more, one that tells what its attention rests on.

`InstrumentedRecognizer` is `engine.Recognizer` with a back end of ours in place of the one it opened; all
else is the code that runs live. It knows nothing of clips, metrics or pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import Recognizer
from engine.backends import Backend
from engine.backends.base import Answers, Arrays
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle, WindowSpec
from engine.streams import Recognition, Stream, open_recognition
from engine.types import Face, UInt8
from engine.window import Window


class InstrumentedRecognizer(Recognizer):
    """A recogniser whose back end is what `instrument` makes of the one that was opened for it."""

    def __init__(self, instrument: Callable[[Recognition], Backend], **options: Any) -> None:
        super().__init__(**options)
        recognition = open_recognition(options.get("bundle"), options.get("engine", "auto"))
        self._stream.close()
        self._stream = Stream(
            Recognition(recognition.bundle, instrument(recognition), recognition.choice),
            options.get("epoch_ns", 0),
            has_video=options.get("has_video", True),
            has_audio=options.get("has_audio", True),
        )


class ShortWindows:
    """A back end that sees only the last `seconds` of every window; baselines are kept as ever."""

    def __init__(self, backend: Backend, window: WindowSpec, seconds: float) -> None:
        self.name, self.precision = backend.name, backend.precision
        self.tracks, self.voice = backend.tracks, backend.voice
        self._backend = backend
        self._forgotten_ticks = window.ticks - round(seconds * window.tick_hz)
        self._forgotten_bins = window.bins - round(seconds * window.mel_hz)

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`."""
        self._backend.observe(slots, ticks, faces)

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        return self._backend.score(slots, [self._short(window) for window in windows])

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""
        self._backend.reset(slot, keep_baseline=keep_baseline)

    def _short(self, window: Window) -> Window:
        video_mask, audio_mask, mel = window.video_mask.copy(), window.audio_mask.copy(), window.mel.copy()
        waveform = window.waveform.copy()
        video_mask[: self._forgotten_ticks] = False
        audio_mask[: self._forgotten_bins] = False
        mel[: self._forgotten_bins] = 0
        waveform[: len(waveform) * self._forgotten_bins // len(mel)] = 0
        tokens = window.voice_tokens.copy()
        tokens[: len(tokens) * self._forgotten_bins // len(mel)] = 0
        return replace(
            window,
            video_mask=video_mask,
            audio_mask=audio_mask,
            mel=mel,
            waveform=waveform,
            voice_tokens=tokens,
        )


class AttentiveBackend(OnnxBackend):
    """ONNX Runtime that keeps the crop of every tick and the inputs of the fullest window (the last such).

    fullest: the window model's inputs, a batch of one, None before the first score.
    fullest_window: whose they are.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.crops: dict[int, UInt8] = {}
        self.fullest: Arrays | None = None
        self.fullest_window: Window | None = None
        self._filled = -1.0
        self._window: Window | None = None

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`."""
        super().observe(slots, ticks, faces)
        self.crops.update(zip(ticks, (face.crop for face in faces), strict=True))

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        self._window = windows[0]
        return super().score(slots, windows)

    def answers(self, inputs: Arrays) -> Answers:
        """See `HostBackend`."""
        filled = float(inputs["video_mask"].mean() + inputs["audio_mask"].mean())
        if filled >= self._filled:
            self._filled, self.fullest, self.fullest_window = filled, inputs, self._window
        return super().answers(inputs)

    def attention(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The IFE's weights in the fullest window: (T, S) of the picture, (S, T) of the sound.

        Raises ValueError where nothing was scored yet, or the graph does not give its attention.
        """
        if self.fullest is None:
            raise ValueError("Nothing was scored, so there is no attention to show.")
        outputs = {port.name for port in self._window_model.get_outputs()}
        names = ["attention_video", "attention_audio"]
        if not outputs >= {*names}:
            raise ValueError("The window model of this bundle does not give its attention.")
        of_video, of_audio = self._window_model.run(names, dict(self.fullest))
        return of_video[0], of_audio[0]
