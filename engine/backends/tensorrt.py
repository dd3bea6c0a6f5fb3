"""TensorRT on an NVIDIA card: crops in, scores out; flow, tokens and slow means never leave the card.

It runs a plan that `python -m engine.build` has made. All tokens lie in one array of rings on the card; the
encoder's tokens are copied there on the card, and the window model gathers its windows from it. Of a face's
slow mean the host keeps the seconds only: what each tick weighs goes along with the windows, and the mean is
folded on the card. `engine.backends.base` says how data leaves it.

Written against TensorRT 11.4 and what 10.16 has in common with it; `python -m engine.build --verify` shows
whether it holds on a machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.base import (
    Answers,
    Arrays,
    as_answers,
    as_finite,
    folded_after,
    newly_final,
    ring_places,
)
from engine.backends.device import MIB, Device
from engine.backends.device_flow import DeviceArray, DeviceFlow, find_flow
from engine.backends.tensorrt_parts import REBUILD, Field, Library, Part, Wiring
from engine.baseline import SlowSteps
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import Machine, Plan, find_plan, plan_folder, read_plan, refuse_waveforms
from engine.signals.flow import Flow
from engine.types import Face, Float32, UInt8
from engine.window import Window

PER_WINDOW = ("mel", "audio_mask", "voice_baseline", "voice_weight", "video_mask")
"""What a window brings, under the names of the window model."""


@dataclass(slots=True, eq=False)
class Track:
    """What the host knows of a slot: how old its slow mean is, and the first tick not folded into it."""

    steps: SlowSteps
    folded: int = 0


def machine(library: Library, device: Device) -> Machine:
    """What a plan for this card and this TensorRT is keyed by."""
    return Machine(
        engine=library.engine,
        device=device.name,
        compute_capability=device.compute_capability,
        driver=device.driver,
    )


def open_tensorrt(bundle: Bundle, folder: Path | None = None) -> "TensorRtBackend":
    """The back end on the newest plan of a bundle for this machine.

    Raises BackendError: a bundle that takes waveforms, no TensorRT, no pycuda, no driver or card, no plan or
    one for another machine, a plan that is cut short, not enough memory.
    """
    refuse_waveforms(bundle)
    library, device = Library(), Device()
    plan = read_plan(find_plan(bundle, machine(library, device), folder or plan_folder()))
    with device.current():
        flow = find_flow(bundle.flow, bundle.crop.size, plan.key.largest_batch)
    return TensorRtBackend(bundle, plan, library, device, flow)


class TensorRtBackend:
    """Both parts of a plan on a card. flow: on the card, or None, and a word about it (see `find_flow`).

    Serves slots 0 to the plan's largest batch less one. Raises BackendError where TensorRT or the card
    refuses.
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
        self._bundle, self._device, self.key = bundle, device, plan.key
        self._largest = plan.key.largest_batch
        self._ring, self._width = bundle.window.ring_ticks, bundle.tokens.appearance + bundle.tokens.motion
        self._device_flow, self.flow = flow
        self._host_flow = Flow(bundle.flow)
        self._tracks: dict[int, Track] = {}
        with device.current():
            self._open(plan, library)

    @property
    def row_bytes(self) -> int:
        """A token's size on the card."""
        return self._width * 4

    @property
    def largest_batch(self) -> int:
        """Most faces or windows that go to the card at once, and most tracks."""
        return self._largest

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`. Returns before the card is done."""
        with self._device.current():
            for first in range(0, len(faces), self._largest):
                span = slice(first, first + self._largest)
                batch = faces[span]
                self._encoder.run(len(batch), self._pictures(batch))
                rows = [self._row(s, t) for s, t in zip(slots[span], ticks[span], strict=True)]
                self._spread(self._encoder.address("token"), self._tokens, rows)

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        found = []
        with self._device.current():
            for first in range(0, len(windows), self._largest):
                span = slice(first, first + self._largest)
                found.append(self._score(slots[span], windows[span]))
        answers = Answers(*(np.concatenate(each) for each in zip(*found, strict=True)))
        return as_finite(answers, self.name, self._bundle)

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""
        track = self._track(slot)
        track.folded = 0
        if not keep_baseline:
            track.steps.restart()
            with self._device.current():
                self._device.copy(self._state + slot * self.row_bytes, self._start, self.row_bytes)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `GraphBackend`; crops are rounded to whole numbers, which all real ones are."""
        found = []
        with self._device.current():
            for first in range(0, len(crop), self._largest):
                span = slice(first, first + self._largest)
                values: Arrays = {"crop": np.rint(crop[span]).astype(np.uint8), "flow": flow[span]}
                self._encoder.run_given(len(crop[span]), values)
                found.append(self._encoder.download("token", len(crop[span])))
        token = np.concatenate(found)
        return token[:, : self._bundle.tokens.appearance], token[:, self._bundle.tokens.appearance :]

    def answers(self, inputs: Arrays) -> Answers:
        """See `GraphBackend`. It overwrites the tokens and slow means of the first slots."""
        found = []
        with self._device.current():
            for first in range(0, len(inputs["v"]), self._largest):
                span = slice(first, first + self._largest)
                found.append(self._answers({name: value[span] for name, value in inputs.items()}))
        return Answers(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def close(self) -> None:
        """Let everything on the card go. The back end is of no use afterwards."""
        with self._device.current():
            self._device.wait()
            self._encoder.close()
            self._window_model.close()
        self._device.close()

    def _open(self, plan: Plan, library: Library) -> None:
        bundle, device, largest = self._bundle, self._device, self._largest
        if missing := sorted({"encoder", "score"} - set(plan.parts)):
            raise BackendError(f"The plan has no {missing[0]}: build it anew with {REBUILD}.")
        encoder = library.load("encoder", plan.parts["encoder"])
        score = library.load("window model", plan.parts["score"])
        scratch = max(int(encoder.device_memory_size_v2), int(score.device_memory_size_v2))
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
            device.copy(self._state + slot * self.row_bytes, self._start, self.row_bytes)
        device.wait()
        memory = device.allocate(scratch)
        self._encoder = Part(device, library, encoder, largest, memory, self._encoder_wiring())
        resident = {"ring": self._tokens, "state": self._state}
        self._fetched = ("logits", "attributes") if bundle.attributes else ("logits",)
        wiring = Wiring(resident=resident, fetched=self._fetched)
        self._window_model = Part(device, library, score, largest, memory, wiring)

    def _encoder_wiring(self) -> Wiring:
        if self._device_flow is None:
            return Wiring(resident={})
        size = self._bundle.crop.size
        extra = (
            Field("previous", (size, size), np.dtype(np.uint8)),
            Field("gap_ns", (), np.dtype(np.int64)),
        )
        return Wiring(resident={}, made=("flow",), extra=extra, prepare=self._make_flow)

    def _make_flow(self, batch: int, addresses: Mapping[str, int]) -> None:
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
        self._device_flow(batch, self._device.handle, **arrays)

    def _pictures(self, faces: Sequence[Face]) -> Arrays:
        crop: UInt8 = np.stack([face.crop for face in faces])[:, None]
        if self._device_flow is None:
            pairs = [self._host_flow.pair(face.previous, face.crop, face.gap_ns) for face in faces]
            return {"crop": crop, "flow": np.stack(pairs)}
        return {
            "crop": crop,
            "previous": np.stack([face.previous for face in faces]),
            "gap_ns": np.array([face.gap_ns for face in faces], dtype=np.int64),
        }

    def _spread(self, source: int, base: int, rows: Sequence[int]) -> None:
        """Copy the rows at `source` to these rows of the array at `base`, neighbours together."""
        first = 0
        for i in range(1, len(rows) + 1):
            if i == len(rows) or rows[i] != rows[i - 1] + 1:
                target = base + rows[first] * self.row_bytes
                self._device.copy(target, source + first * self.row_bytes, (i - first) * self.row_bytes)
                first = i

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
        values = {name: np.stack([getattr(window, name) for window in windows]) for name in PER_WINDOW}
        slot_row = np.array(slots, dtype=np.int32)
        self._window_model.run(
            len(windows),
            {**values, "rows": rows, "fold": fold, "keep": keep, "slot": slot_row, "face_weight": weight},
        )
        self._spread(self._window_model.address("mean"), self._state, slots)
        return as_answers([self._window_model.fetched(name, len(windows)) for name in self._fetched])

    def _answers(self, inputs: Arrays) -> Answers:
        count, ticks = inputs["v"].shape[:2]
        tokens = np.ascontiguousarray(np.concatenate([inputs["v"], inputs["o"]], axis=2), dtype=np.float32)
        baselines = np.ascontiguousarray(inputs["face_baseline"], dtype=np.float32)
        for slot in range(count):
            self._device.upload(self._tokens + slot * self._ring * self.row_bytes, tokens[slot])
        self._device.upload(self._state, baselines)
        slot_row = np.arange(count, dtype=np.int32)
        values = {name: inputs[name] for name in (*PER_WINDOW, "face_weight")}
        values |= {
            "rows": slot_row[:, None] * self._ring + np.arange(ticks, dtype=np.int32),
            "fold": np.zeros((count, ticks), dtype=np.float32),
            "keep": np.ones(count, dtype=np.float32),
            "slot": slot_row,
        }
        self._window_model.run(count, values)
        return as_answers([self._window_model.fetched(name, count) for name in self._fetched])

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
            raise BackendError(
                f"This plan keeps {self._largest} tracks: build one for more with {REBUILD} "
                f"--max-streams {1 << slot.bit_length()}."
            )
