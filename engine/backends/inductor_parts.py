"""One compiled program of a plan, ready to run on batches of any size up to its largest.

A `Part` has a few sizes of batch (1, 2, 4, ... its largest); a batch runs at the next size up. For each size
there is a CUDA graph that copies the inputs over, runs the program and what belongs to it, and copies back
what was asked for, so a batch costs one launch. `load` makes a program ready that the plan holds. This file
knows nothing of faces, rings or windows; results lie in pinned memory, or stay on the card.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays
from engine.backends.layout import Field, Layout, sizes
from engine.backends.torch_device import Tensor, TorchDevice, first_line
from engine.errors import BackendError

Program = Callable[..., Sequence[Tensor]]
"""Tensors on the card to tensors on the card, on the current stream."""

Work = Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""work(batch, inputs) asks the stream for all there is to do with a batch; returns what is copied back."""


def load(device: TorchDevice, name: str, package: bytes, rebuild: str) -> Program:
    """A compiled program as its plan holds it. Raises BackendError where torch cannot load it, which names
    `rebuild`, the command that builds it anew."""
    torch = device.torch
    with tempfile.TemporaryDirectory(prefix="de3-live-") as folder:
        file = Path(folder, f"{name}.pt2")
        file.write_bytes(package)
        try:
            # Otherwise it sets marks on the stream between runs, which a graph cannot hold.
            program: Program = torch._inductor.aoti_load_package(str(file), run_single_threaded=True)
        except (RuntimeError, OSError) as error:
            raise BackendError(
                f"torch {torch.__version__} cannot load the {name} of the plan ({first_line(error)}): "
                f"build it anew with {rebuild}."
            ) from error
    return program


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Size:
    """A part at one size of batch: views of pinned memory, and what asks for the work."""

    batch: int
    staged: Mapping[str, NDArray[Any]]
    fetched: Mapping[str, NDArray[Any]]
    launch: Callable[[], None]


class Part:
    """A program with its inputs `fields` in pinned memory.

    padding: what stands in the rows that fill a batch up, 0 where it says nothing. Must be made and used with
    the device current. Raises BackendError where the device refuses.
    """

    def __init__(
        self,
        device: TorchDevice,
        fields: Sequence[Field],
        largest: int,
        work: Work,
        padding: Mapping[str, int] | None = None,
    ) -> None:
        self._device, self._fields, self._work = device, fields, work
        self._padding = padding or {}
        self._pinned = device.pinned(Layout(fields, largest).size)
        self._block = device.opposite(self._pinned)
        self._done = device.event()
        # The largest first: the others find room in the memory that its graph has kept.
        self._sizes = [self._at(batch) for batch in reversed(sizes(largest))][::-1]
        self._last = self._sizes[0]

    def run(self, values: Arrays) -> None:
        """Ask for a batch; the last of this part is waited for first, whose inputs lie where these go."""
        count = len(next(iter(values.values())))
        size = next(size for size in self._sizes if size.batch >= count)
        self._done.wait()
        for name, value in values.items():
            size.staged[name][:count] = value
            size.staged[name][count:] = self._padding.get(name, 0)
        size.launch()
        self._done.record()
        self._last = size

    def fetched(self, name: str, count: int) -> NDArray[Any]:
        """A copy of the first rows of what was copied back, when it is there."""
        self._done.wait()
        return np.array(self._last.fetched[name][:count])

    def close(self) -> None:
        """Let the graphs go, and the back end whose work they are."""
        self._done.wait()
        self._sizes = []
        del self._last, self._work

    def _at(self, batch: int) -> Size:
        layout, landed = Layout(self._fields, batch), {}
        pinned, block = self._pinned[: layout.size], self._block[: layout.size]
        given = {
            field.name: block[at : at + field.bytes(batch)]
            .view(self._device.dtype(field.dtype))
            .view(batch, *field.shape)
            for field, at in zip(self._fields, layout.offsets.values(), strict=True)
        }

        def ask() -> None:
            if block.data_ptr() != pinned.data_ptr():
                block.copy_(pinned, non_blocking=True)
            for name, found in self._work(batch, given).items():
                if name not in landed:
                    landed[name] = self._device.landing(found)
                landed[name].copy_(found, non_blocking=True)

        launch = self._device.capture(ask)
        return Size(
            batch=batch,
            staged=layout.views(self._pinned.numpy()),
            fetched={name: tensor.numpy() for name, tensor in landed.items()},
            launch=launch,
        )
