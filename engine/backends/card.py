"""What every back end on a card does on the host: batches, rows of the rings, weights of the slow means.

All tokens lie in one array of rings on the card. The encoder's tokens are put there, and the window model
gathers its windows from it. Of a face's slow mean the host keeps the seconds only: what each tick weighs goes
along with the windows, and the mean is folded on the card. How a batch gets onto the card and through the
programs is the engine's own part, the methods that raise NotImplementedError. `engine.backends.base` says how
data leaves it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import (
    Answers,
    Arrays,
    as_answers,
    as_finite,
    folded_after,
    newly_final,
    ring_places,
)
from engine.backends.device_flow import DeviceArray, DeviceFlow
from engine.backends.layout import Field
from engine.baseline import SlowSteps
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import PlanKey, too_few
from engine.signals.flow import Flow
from engine.signals.voice import VoiceEncoder
from engine.types import Face, Float32, UInt8
from engine.window import Window

PER_WINDOW = ("audio_mask", "voice_baseline", "voice_weight", "video_mask")
"""What a window brings beside its sound, under the names of the window model."""


@dataclass(slots=True, eq=False)
class Track:
    """What the host knows of a slot: how old its slow mean is, and the first tick not folded into it."""

    steps: SlowSteps
    folded: int = 0


class CardBackend:
    """The host's half. flow: on the card, or None, and a word about it (see `find_flow`).

    Serves slots 0 to the plan's largest batch less one.
    """

    name = "card"

    def __init__(self, bundle: Bundle, key: PlanKey, flow: tuple[DeviceFlow | None, str]) -> None:
        self._bundle, self.key = bundle, key
        self._largest = key.largest_batch
        self._ring, self._width = bundle.window.ring_ticks, bundle.tokens.appearance + bundle.tokens.motion
        self._device_flow, self.flow = flow
        self._host_flow = Flow(bundle.flow)
        self._fetched = ("logits", "attributes") if bundle.attributes else ("logits",)
        self._tracks: dict[int, Track] = {}

    @property
    def largest_batch(self) -> int:
        """Most faces or windows that go to the card at once."""
        return self._largest

    @property
    def tracks(self) -> int:
        """See `Backend`."""
        return self._largest

    @property
    def precision(self) -> str:
        """See `Backend`."""
        return self.key.precision

    @property
    def voice(self) -> VoiceEncoder | None:
        """See `Backend`; on the card, its answers on the host, as the voice's slow mean is there."""
        voice = self._bundle.voice
        return None if voice is None else VoiceEncoder(self._said, self._bundle.mel.bands, voice.said)

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`. Returns before the card is done."""
        with self._current():
            for span in self._spans(len(faces)):
                rows = [self._row(s, t) for s, t in zip(slots[span], ticks[span], strict=True)]
                self._encode_into(rows, self._pictures(faces[span]))

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        with self._current():
            found = [self._score(slots[span], windows[span]) for span in self._spans(len(windows))]
        return as_finite(_joined(found), self.name, self._bundle)

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""
        track = self._track(slot)
        track.folded = 0
        if not keep_baseline:
            track.steps.restart()
            with self._current():
                self._restart(slot)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `GraphBackend`; crops are rounded to whole numbers, which all real ones are."""
        whole: UInt8 = np.rint(crop).astype(np.uint8)
        with self._current():
            found = [self._encoded(whole[span], flow[span]) for span in self._spans(len(crop))]
        token = np.concatenate(found)
        return token[:, : self._bundle.tokens.appearance], token[:, self._bundle.tokens.appearance :]

    def answers(self, inputs: Arrays) -> Answers:
        """See `GraphBackend`. It overwrites the tokens and slow means of the first slots."""
        with self._current():
            found = [
                self._answers({name: value[span] for name, value in inputs.items()})
                for span in self._spans(len(inputs["v"]))
            ]
        return _joined(found)

    def close(self) -> None:
        """Let everything on the card go. The back end is of no use afterwards."""
        raise NotImplementedError

    def _current(self) -> AbstractContextManager[None]:
        """The card, for the length of a call; its errors come out as BackendErrors."""
        raise NotImplementedError

    def _encode_into(self, rows: Sequence[int], values: Arrays) -> None:
        """Ask for the tokens of pictures (see `_pictures`), to be written to these rows of the rings."""
        raise NotImplementedError

    def _encoded(self, crop: UInt8, flow: Float32) -> Float32:
        """(N, D) tokens of crops whose flow is given."""
        raise NotImplementedError

    def _scored(self, slots: Sequence[int], values: Arrays) -> Sequence[NDArray[np.generic]]:
        """What the window model gives (`_fetched`) on these slots; it leaves their new slow means on the
        card."""
        raise NotImplementedError

    def _said_of(self, heard: Float32) -> Float32:
        """What the voice encoder says of a batch, see `engine.signals.voice.Network`."""
        raise NotImplementedError

    def _restart(self, slot: int) -> None:
        """Let a slot's slow mean be the bundle's again."""
        raise NotImplementedError

    def _place(self, tokens: Float32, means: Float32) -> None:
        """Write tokens (B, T, D) to the beginning of the first slots' rings, and their slow means (B, D)."""
        raise NotImplementedError

    def _flow_fields(self) -> tuple[Field, ...]:
        """What goes over with the crops where the flow is made on the card."""
        size = self._bundle.crop.size
        return (
            Field("previous", (size, size), np.dtype(np.uint8)),
            Field("gap_ns", (), np.dtype(np.int64)),
        )

    def _make_flow(self, batch: int, stream: int, addresses: Mapping[str, int]) -> None:
        """Ask the stream for the flow of a batch that is on the card."""
        assert self._device_flow is not None
        size, flow = self._bundle.crop.size, self._bundle.flow.size
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "previous": ((batch, size, size), np.uint8),
            "crop": ((batch, size, size), np.uint8),
            "gap_ns": ((batch,), np.int64),
            "flow": ((batch, 2, flow, flow), np.float32),
        }
        arrays = {
            name: DeviceArray(addresses[name], shape, np.dtype(kind))
            for name, (shape, kind) in shapes.items()
        }
        self._device_flow(batch, stream, **arrays)

    def _spans(self, count: int) -> list[slice]:
        """Batches no larger than the largest."""
        return [slice(first, first + self._largest) for first in range(0, count, self._largest)]

    def _pictures(self, faces: Sequence[Face]) -> dict[str, NDArray[Any]]:
        crop: UInt8 = np.stack([face.crop for face in faces])[:, None]
        if self._device_flow is None:
            pairs = [self._host_flow.pair(face.previous, face.crop, face.gap_ns) for face in faces]
            return {"crop": crop, "flow": np.stack(pairs)}
        return {
            "crop": crop,
            "previous": np.stack([face.previous for face in faces]),
            "gap_ns": np.array([face.gap_ns for face in faces], dtype=np.int64),
        }

    def _said(self, heard: Float32) -> Float32:
        with self._current():
            return np.concatenate([self._said_of(heard[span]) for span in self._spans(len(heard))])

    def _score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        ticks = self._bundle.window.ticks
        rows = np.empty((len(windows), ticks), dtype=np.int32)
        fold = np.zeros((len(windows), ticks), dtype=np.float32)
        keep, weight = np.empty((2, len(windows)), dtype=np.float32)
        for i, (slot, window) in enumerate(zip(slots, windows, strict=True)):
            track = self._track(slot)
            rows[i] = slot * self._ring + ring_places(window, self._bundle.window)
            new = newly_final(window, track.folded)
            keep[i], fold[i, new] = track.steps.fold(int(new.sum()), 1 / self._bundle.window.tick_hz)
            track.folded = folded_after(window, track.folded)
            weight[i] = track.steps.weight
        names = (self._bundle.sound, *PER_WINDOW)
        values = {name: np.stack([getattr(window, name) for window in windows]) for name in names}
        made = {"rows": rows, "fold": fold, "keep": keep, "slot": np.array(slots, dtype=np.int32)}
        return as_answers(self._scored(slots, {**values, **made, "face_weight": weight}))

    def _answers(self, inputs: Arrays) -> Answers:
        count, ticks = inputs["v"].shape[:2]
        tokens = np.ascontiguousarray(np.concatenate([inputs["v"], inputs["o"]], axis=2), dtype=np.float32)
        self._place(tokens, np.ascontiguousarray(inputs["face_baseline"], dtype=np.float32))
        slots = np.arange(count, dtype=np.int32)
        values = {name: inputs[name] for name in (self._bundle.sound, *PER_WINDOW, "face_weight")}
        values |= {
            "rows": slots[:, None] * self._ring + np.arange(ticks, dtype=np.int32),
            "fold": np.zeros((count, ticks), dtype=np.float32),
            "keep": np.ones(count, dtype=np.float32),
            "slot": slots,
        }
        return as_answers(self._scored(range(count), values))

    def _row(self, slot: int, tick: int) -> int:
        self._check(slot)
        return slot * self._ring + tick % self._ring

    def _track(self, slot: int) -> Track:
        if slot not in self._tracks:
            self._check(slot)
            baseline = self._bundle.baseline
            self._tracks[slot] = Track(SlowSteps(prior_s=baseline.prior_s, tau_s=baseline.tau_s))
        return self._tracks[slot]

    def _check(self, slot: int) -> None:
        if slot >= self._largest:
            raise BackendError(too_few(self._bundle, self.name, self.precision, self._largest, slot + 1))


def _joined(found: Sequence[Answers]) -> Answers:
    """Batches one after the other."""
    return Answers(*(np.concatenate(each) for each in zip(*found, strict=True)))
