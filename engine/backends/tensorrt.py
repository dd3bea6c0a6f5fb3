"""TensorRT on an NVIDIA card: crops in, scores out; flow, tokens and slow means never leave the card.

It runs a plan that `python -m engine.build` has made. `engine.backends.card` is the half that it shares with
other engines on a card, and `engine.backends.base` says how data leaves it.

Written against TensorRT 11.4 and what 10.16 has in common with it; `python -m engine.build --verify` shows
whether it holds on a machine.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays
from engine.backends.card import CardBackend
from engine.backends.device import Device
from engine.backends.device_flow import DeviceFlow, find_flow
from engine.backends.layout import MIB
from engine.backends.tensorrt_parts import Library, Part, Wiring
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import (
    ENCODER,
    SCORE,
    VOICE,
    Machine,
    Plan,
    find_plan,
    part_names,
    plan_folder,
    read_plan,
    rebuild_command,
    refuse_waveforms,
)
from engine.types import Float32, UInt8

WORDS = {ENCODER: "encoder", SCORE: "window model", VOICE: "voice encoder"}


def machine(library: Library, device: Device) -> Machine:
    """What a plan for this card and this TensorRT is keyed by."""
    return Machine(
        engine=library.engine,
        device=device.name,
        compute_capability=device.compute_capability,
        driver=device.driver,
    )


def open_tensorrt(bundle: Bundle, folder: Path | None = None, tracks: int = 1) -> "TensorRtBackend":
    """The back end on the newest plan of a bundle for this machine and at least so many tracks.

    Raises BackendError: a bundle that takes waveforms, no TensorRT, no pycuda, no driver or card, no plan or
    one for another machine, a plan that is cut short, not enough memory.
    """
    refuse_waveforms(bundle)
    library, device = Library(), Device()
    plan = read_plan(find_plan(bundle, machine(library, device), folder or plan_folder(), tracks))
    with device.current():
        flow = find_flow(bundle.flow, bundle.crop.size, plan.key.largest_batch)
    return TensorRtBackend(bundle, plan, library, device, flow)


class TensorRtBackend(CardBackend):
    """Both parts of a plan on a card. flow: see `CardBackend`.

    Raises BackendError where TensorRT or the card refuses.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        plan: Plan,
        library: Library,
        device: Device,
        flow: tuple[DeviceFlow | None, str],
    ) -> None:
        super().__init__(bundle, plan.key, flow)
        self._device, self._rebuild = device, rebuild_command(bundle, plan.key)
        with device.current():
            self._open(plan, library)

    @property
    def row_bytes(self) -> int:
        """A token's size on the card."""
        return self._width * 4

    def close(self) -> None:
        """See `CardBackend`."""
        with self._device.current():
            self._device.wait()
            self._encoder.close()
            self._window_model.close()
            if self._voice is not None:
                self._voice.close()
            self._device_flow = None
        self._device.close()

    def _current(self) -> AbstractContextManager[None]:
        return self._device.current()

    def _encode_into(self, rows: Sequence[int], values: Arrays) -> None:
        self._encoder.run(len(rows), values)
        self._spread(self._encoder.address("token"), self._tokens, rows)

    def _encoded(self, crop: UInt8, flow: Float32) -> Float32:
        self._encoder.run_given(len(crop), {"crop": crop, "flow": flow})
        return self._encoder.download("token", len(crop))

    def _scored(self, slots: Sequence[int], values: Arrays) -> Sequence[NDArray[np.generic]]:
        self._window_model.run(len(slots), values)
        self._spread(self._window_model.address("mean"), self._state, slots)
        return [self._window_model.fetched(name, len(slots)) for name in self._fetched]

    def _said_of(self, heard: Float32) -> Float32:
        assert self._voice is not None
        self._voice.run(len(heard), {"mel": heard})
        return self._voice.fetched("tokens", len(heard))

    def _restart(self, slot: int) -> None:
        self._device.copy(self._state + slot * self.row_bytes, self._start, self.row_bytes)

    def _place(self, tokens: Float32, means: Float32) -> None:
        for slot, rows in enumerate(tokens):
            self._device.upload(self._tokens + slot * self._ring * self.row_bytes, rows)
        self._device.upload(self._state, means)

    def _open(self, plan: Plan, library: Library) -> None:
        bundle, device, largest = self._bundle, self._device, self._largest
        names = part_names(bundle)
        if missing := sorted(set(names) - set(plan.parts)):
            raise BackendError(f"The plan has no {missing[0]}: build it anew with {self._rebuild}.")
        engines = {name: library.load(WORDS[name], plan.parts[name], self._rebuild) for name in names}
        scratch = max(int(engine.device_memory_size_v2) for engine in engines.values())
        rings = largest * (self._ring + 1) * self.row_bytes
        if (free := device.free_bytes()) < scratch + rings:
            raise BackendError(
                f"Not enough memory on {device.name}: the plan needs {(scratch + rings) // MIB + 1} MiB and "
                f"more, {free // MIB} MiB are free; build one with a smaller --max-streams."
            )
        self._tokens = device.allocate(largest * self._ring * self.row_bytes)
        self._state, self._start = device.allocate(largest * self.row_bytes), device.allocate(self.row_bytes)
        start = np.ascontiguousarray(bundle.baseline.face_mean)
        device.upload(self._start, start)
        for slot in range(largest):
            self._restart(slot)
        device.wait()
        memory = device.allocate(scratch)
        self._encoder = Part(device, library, engines[ENCODER], largest, memory, self._encoder_wiring())
        resident = {"ring": self._tokens, "state": self._state}
        wiring = Wiring(rebuild=self._rebuild, resident=resident, fetched=self._fetched)
        self._window_model = Part(device, library, engines[SCORE], largest, memory, wiring)
        self._voice: Part | None = None
        if VOICE in engines:
            wiring = Wiring(rebuild=self._rebuild, resident={}, fetched=("tokens",))
            self._voice = Part(device, library, engines[VOICE], largest, memory, wiring)

    def _encoder_wiring(self) -> Wiring:
        if self._device_flow is None:
            return Wiring(rebuild=self._rebuild, resident={})
        return Wiring(
            rebuild=self._rebuild,
            resident={},
            made=("flow",),
            extra=self._flow_fields(),
            prepare=lambda batch, addresses: self._make_flow(batch, self._device.handle, addresses),
        )

    def _spread(self, source: int, base: int, rows: Sequence[int]) -> None:
        """Copy the rows at `source` to these rows of the array at `base`, neighbours together."""
        first = 0
        for i in range(1, len(rows) + 1):
            if i == len(rows) or rows[i] != rows[i - 1] + 1:
                target = base + rows[first] * self.row_bytes
                self._device.copy(target, source + first * self.row_bytes, (i - first) * self.row_bytes)
                first = i
