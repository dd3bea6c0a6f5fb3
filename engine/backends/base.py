"""What a back end does, and the half of it that every CPU engine shares.

A back end owns the tokens: `observe` writes a frame's two tokens into the ring of its slot, `score` reads
them. So a frame is encoded once, ever, and on a GPU nothing but scores would leave the device. A back end
knows nothing of streams, files or clocks; slots are plain numbers that its user hands out. Data leaves it as
`Answers`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.baseline import SlowMean
from engine.bundle import Bundle, WindowSpec
from engine.errors import BackendError
from engine.signals.flow import Flow
from engine.signals.voice import VoiceEncoder, open_voice_encoder
from engine.types import Bool, Face, Float32
from engine.window import Window

Arrays = Mapping[str, NDArray[np.generic]]

LARGEST_BATCH = 32


class Answers(NamedTuple):
    """What the window model says of B windows.

    logits: (B, heads, labels) float32. attributes: (B, heads, A) float32, A = 0 where the bundle has none.
    """

    logits: Float32
    attributes: Float32


class Backend(Protocol):
    """An inference engine with the tokens of all tracks that it serves.

    tracks: how many slots it keeps, from 0 on; None: any number. precision: of its products, "fp32",
    "fp16" or "bf16".
    """

    name: str

    @property
    def precision(self) -> str:
        """See above."""
        ...

    @property
    def tracks(self) -> int | None:
        """See above."""
        ...

    @property
    def voice(self) -> VoiceEncoder | None:
        """What makes voice tokens of sound, run by this engine; None where the bundle takes none."""
        ...

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """Encode faces in one batch; their tokens go to ring[slot, tick % ring]."""
        ...

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """The answers of a window a slot (no slot twice), in one batch.

        The ticks of each window that are final and not yet learned are folded into the slot's face
        baseline first, in the order of time. Raises BackendError where an answer is not finite.
        """
        ...

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """Another track begins in the slot, or (`keep_baseline`) the same one on a new count of ticks.

        Tokens may run ahead of the windows, so they stay: the masks say which count.
        """
        ...


class GraphBackend(Backend, Protocol):
    """A back end whose two graphs can be asked by themselves, to check and to measure them."""

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """The frame encoder. crop: (N, 1, H, W) and flow: (N, 2, h, w) float32 to v (N, Dv) and o (N, Do)."""
        ...

    def answers(self, inputs: Arrays) -> Answers:
        """The window model, inputs by their names in the graph."""
        ...


def as_answers(found: Sequence[NDArray[np.generic]]) -> Answers:
    """The outputs of a window model as `Answers`, whether it gives attributes or not."""
    logits, *rest = (np.array(each, dtype=np.float32) for each in found)
    return Answers(logits, rest[0] if rest else np.zeros((*logits.shape[:2], 0), dtype=np.float32))


def as_finite(answers: Answers, engine: str, bundle: Bundle) -> Answers:
    """`answers`, if they are numbers; raises BackendError where one is not."""
    if not all(np.isfinite(each).all() for each in answers):
        raise BackendError(f"{engine} gave a score that is not a number, from {bundle.window_model}.")
    return answers


def ring_places(window: Window, spec: WindowSpec) -> NDArray[np.int64]:
    """(T,) int64: where the ticks of a window are in a ring of tokens."""
    return np.arange(window.end_tick - spec.ticks, window.end_tick) % spec.ring_ticks


def newly_final(window: Window, folded: int) -> Bool:
    """(T,) bool: the window's ticks that the slow mean may learn now, where it knows those before
    `folded`."""
    ticks = np.arange(window.end_tick - len(window.video_mask), window.end_tick)
    return np.asarray(window.video_mask & (ticks >= folded) & (ticks < window.final_tick), dtype=np.bool_)


def folded_after(window: Window, folded: int) -> int:
    """The first tick that the slow mean has not learned after this window, `folded` before it."""
    return max(folded, min(window.final_tick, window.end_tick))


@dataclass(slots=True, eq=False)
class Slot:
    """What is kept of one track: rings of tokens, the face's slow mean, the first tick not folded into it."""

    v: Float32
    o: Float32
    baseline: SlowMean
    folded: int = 0


class HostBackend:
    """A back end whose tokens are NumPy arrays and whose flow is OpenCV's; an engine adds two graphs."""

    name = "host"
    tracks: int | None = None
    precision = "fp32"

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._flow = Flow(bundle.flow)
        self._slots: dict[int, Slot] = {}

    @property
    def voice(self) -> VoiceEncoder | None:
        """See `Backend`; by ONNX Runtime, whatever runs the two graphs."""
        bundle = self._bundle
        return None if bundle.voice is None else open_voice_encoder(bundle.voice.encoder, bundle.digest)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `GraphBackend`."""
        raise NotImplementedError

    def answers(self, inputs: Arrays) -> Answers:
        """See `GraphBackend`."""
        raise NotImplementedError

    @property
    def _outputs(self) -> tuple[str, ...]:
        """The outputs of the window model that are asked for; what is not is not computed."""
        return ("logits", "attributes") if self._bundle.attributes else ("logits",)

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`; at most 32 faces at a time go through the graph."""
        ring = self._bundle.window.ring_ticks
        for first in range(0, len(faces), LARGEST_BATCH):
            batch = faces[first : first + LARGEST_BATCH]
            crop = np.stack([face.crop for face in batch])[:, None].astype(np.float32)
            flow = np.stack([self._flow.pair(face.previous, face.crop, face.gap_ns) for face in batch])
            v, o = self.encode(crop, flow)
            for i in range(len(batch)):
                slot, place = self._slot(slots[first + i]), ticks[first + i] % ring
                slot.v[place], slot.o[place] = v[i], o[i]

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        rows = [self._tokens(self._slot(slot), window) for slot, window in zip(slots, windows, strict=True)]
        baselines = [self._slot(slot).baseline for slot in slots]
        answers = self.answers(
            {
                "v": np.stack([v for v, _ in rows]),
                "o": np.stack([o for _, o in rows]),
                "video_mask": np.stack([window.video_mask for window in windows]),
                "face_baseline": np.stack([baseline.mean for baseline in baselines]),
                "face_weight": np.array([baseline.weight for baseline in baselines], dtype=np.float32),
                self._bundle.sound: np.stack([window.sound(self._bundle.sound) for window in windows]),
                "audio_mask": np.stack([window.audio_mask for window in windows]),
                "voice_baseline": np.stack([window.voice_baseline for window in windows]),
                "voice_weight": np.array([window.voice_weight for window in windows], dtype=np.float32),
            }
        )
        return as_finite(answers, self.name, self._bundle)

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""
        state = self._slot(slot)
        state.folded = 0
        if not keep_baseline:
            state.baseline.restart()

    def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            bundle = self._bundle
            ring, tokens, baseline = bundle.window.ring_ticks, bundle.tokens, bundle.baseline
            self._slots[number] = Slot(
                v=np.zeros((ring, tokens.appearance), dtype=np.float32),
                o=np.zeros((ring, tokens.motion), dtype=np.float32),
                baseline=SlowMean(baseline.face_mean, prior_s=baseline.prior_s, tau_s=baseline.tau_s),
            )
        return self._slots[number]

    def _tokens(self, slot: Slot, window: Window) -> tuple[Float32, Float32]:
        """v (T, Dv) and o (T, Do) of a window, zero where masked; folds its final ticks into the baseline."""
        spec = self._bundle.window
        places = ring_places(window, spec)
        shown = window.video_mask[:, None]
        v = np.where(shown, slot.v[places], np.float32(0))
        o = np.where(shown, slot.o[places], np.float32(0))
        new = newly_final(window, slot.folded)
        slot.baseline.fold(np.concatenate([v[new], o[new]], axis=1), 1 / spec.tick_hz)
        slot.folded = folded_after(window, slot.folded)
        return v, o
