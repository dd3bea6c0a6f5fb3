"""Inductor on an NVIDIA card: crops in, scores out; flow, tokens and slow means never leave the card.

It runs a plan that `python -m engine.build --engine inductor` has made: the bundle's graphs compiled ahead
of time by torch for this card. Each batch is one launch of a CUDA graph, in which tokens go into the rings
and new means into their place too. `engine.backends.card` is the half that it shares with other engines on a
card, and `engine.backends.base` says how data leaves it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays
from engine.backends.card import CardBackend
from engine.backends.device_flow import DeviceFlow, find_flow
from engine.backends.inductor_parts import Part, Program, load
from engine.backends.layout import Field
from engine.backends.torch_device import Tensor, TorchDevice
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import (
    PlanKey,
    find_plan,
    part_names,
    plan_folder,
    read_plan,
    rebuild_command,
    refuse_waveforms,
)
from engine.signals.voice import PIECE
from engine.types import Float32, UInt8


def encoder_fields(bundle: Bundle) -> tuple[Field, ...]:
    """What the encoder's program takes, in its order; it gives the token (see `engine.plans.graphs`)."""
    size, flow = bundle.crop.size, bundle.flow.size
    return (
        Field("crop", (bundle.crop.channels, size, size), np.dtype(np.uint8)),
        Field("flow", (2, flow, flow), np.dtype(np.float32)),
    )


def window_fields(bundle: Bundle) -> tuple[Field, ...]:
    """What the window model's program takes behind ring and state, in its order; it gives logits, attributes
    where the bundle has any, and mean."""
    window = bundle.window
    number, whole, truth = (np.dtype(kind) for kind in (np.float32, np.int32, np.bool_))
    return (
        Field("rows", (window.ticks,), whole),
        Field("slot", (), whole),
        Field("keep", (), number),
        Field("fold", (window.ticks,), number),
        Field("video_mask", (window.ticks,), truth),
        Field("face_weight", (), number),
        Field(bundle.sound, bundle.sound_shape, number),
        Field("audio_mask", (window.bins,), truth),
        Field("voice_baseline", (bundle.voice_width,), number),
        Field("voice_weight", (), number),
    )


def voice_fields(bundle: Bundle) -> tuple[Field, ...]:
    """What the voice encoder's program takes; it gives what it says of each."""
    return (Field("mel", (PIECE, bundle.mel.bands), np.dtype(np.float32)),)


INTO = Field("into", (), np.dtype(np.int64))
"""Which row of the rings, or of the means, a row of the batch is written to."""


def open_inductor(bundle: Bundle, folder: Path | None = None, tracks: int = 1) -> "InductorBackend":
    """The back end on the newest plan of a bundle for this machine and at least so many tracks.

    Raises BackendError: a bundle that takes waveforms, no torch, no card, no plan or one for another machine,
    a plan that is cut short, not enough memory.
    """
    refuse_waveforms(bundle)
    device = TorchDevice()
    plan = read_plan(find_plan(bundle, device.machine, folder or plan_folder(), tracks))
    return open_plan(bundle, plan.key, plan.parts, device)


def open_plan(
    bundle: Bundle, key: PlanKey, parts: Mapping[str, bytes], device: TorchDevice
) -> "InductorBackend":
    """The back end on a plan's parts. Raises BackendError."""
    names, rebuild = part_names(bundle), rebuild_command(bundle, key)
    if missing := sorted(set(names) - set(parts)):
        raise BackendError(f"The plan has no {missing[0]}: build it anew with {rebuild}.")
    with device.current():
        programs = {name: load(device, name, parts[name], rebuild) for name in names}
        flow = find_flow(bundle.flow, bundle.crop.size, key.largest_batch)
    return InductorBackend(bundle, key, programs, device, flow)


class InductorBackend(CardBackend):
    """Both programs of a plan on a card. flow: see `CardBackend`.

    Raises BackendError where torch or the card refuses.
    """

    name = "inductor"

    def __init__(
        self,
        bundle: Bundle,
        key: PlanKey,
        programs: Mapping[str, Program],
        device: TorchDevice,
        flow: tuple[DeviceFlow | None, str],
    ) -> None:
        super().__init__(bundle, key, flow)
        self._device, self._programs = device, dict(programs)
        self._windows = window_fields(bundle)
        with device.current():
            self._open()

    def close(self) -> None:
        """See `CardBackend`."""
        with self._device.current():
            self._device.wait()
            self._encoder.close()
            self._window_model.close()
            if self._voice is not None:
                self._voice.close()
            self._programs.clear()
            del self._rings, self._means, self._flows
            self._device_flow = None

    def _current(self) -> AbstractContextManager[None]:
        return self._device.current()

    def _encode_into(self, rows: Sequence[int], values: Arrays) -> None:
        last = {row: i for i, row in enumerate(rows)}
        into = [row if last[row] == i else len(self._rings) - 1 for i, row in enumerate(rows)]
        self._encoder.run({**values, "into": np.array(into, dtype=np.int64)})

    def _encoded(self, crop: UInt8, flow: Float32) -> Float32:
        device = self._device
        given = [device.torch.tensor(each, device=device.device) for each in (crop, flow)]
        with device.exact():
            (token,) = self._programs["encoder"](*given)
        found: Float32 = token.cpu().numpy()
        return found

    def _scored(self, slots: Sequence[int], values: Arrays) -> Sequence[NDArray[np.generic]]:
        self._window_model.run({**values, "into": np.array(slots, dtype=np.int64)})
        return [self._window_model.fetched(name, len(slots)) for name in self._fetched]

    def _said_of(self, heard: Float32) -> Float32:
        assert self._voice is not None
        self._voice.run({"mel": heard})
        return self._voice.fetched("tokens", len(heard))

    def _restart(self, slot: int) -> None:
        self._means[slot].copy_(self._start)

    def _place(self, tokens: Float32, means: Float32) -> None:
        torch, (count, ticks) = self._device.torch, tokens.shape[:2]
        rings = self._rings[:-1].view(self._largest, self._ring, self._width)
        rings[:count, :ticks].copy_(torch.tensor(tokens))
        self._means[:count].copy_(torch.tensor(means))

    def _open(self) -> None:
        bundle, device, largest = self._bundle, self._device, self._largest
        # One row more than there are: where what fills a batch up is written to.
        self._rings = device.zeros((largest * self._ring + 1, self._width))
        self._means = device.zeros((largest + 1, self._width))
        self._flows = device.zeros((largest, 2, bundle.flow.size, bundle.flow.size))
        self._start = device.torch.tensor(bundle.baseline.face_mean, device=device.device)
        crop, flow = encoder_fields(bundle)
        brought = (crop, flow) if self._device_flow is None else (crop, *self._flow_fields())
        spare = {"into": len(self._rings) - 1}
        self._encoder = Part(device, (*brought, INTO), largest, self._ask_tokens, spare)
        spare = {"into": largest}
        self._window_model = Part(device, (*self._windows, INTO), largest, self._ask_scores, spare)
        self._voice: Part | None = None
        if bundle.voice is not None:
            self._voice = Part(device, voice_fields(bundle), largest, self._ask_voice)
        self._rings.zero_()  # making the parts ready has written to them
        self._means.copy_(self._start.expand_as(self._means))
        device.wait()

    def _ask_tokens(self, batch: int, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        flow = given.get("flow", self._flows[:batch])
        if self._device_flow is not None:
            places = {name: tensor.data_ptr() for name, tensor in {**given, "flow": flow}.items()}
            self._make_flow(batch, self._device.handle, places)
        (token,) = self._programs["encoder"](given["crop"], flow)
        self._rings.index_copy_(0, given["into"], token)
        return {}

    def _ask_scores(self, batch: int, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        brought = [given[field.name] for field in self._windows]
        *found, mean = self._programs["score"](self._rings[:-1], self._means[:-1], *brought)
        self._means.index_copy_(0, given["into"], mean)
        return dict(zip(self._fetched, found, strict=True))

    def _ask_voice(self, batch: int, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        (tokens,) = self._programs["voice"](given["mel"])
        return {"tokens": tokens}
