"""The seam between a back end on a GPU and the optical flow there.

`DeviceFlow` is all that a back end asks for: the flow of a batch, from device memory to device memory, on its
stream, with nothing that a CUDA graph could not capture. `find_flow` gives numba's (`engine.cuda.flow`) where
it can be had, else the reason why not; the back end then computes the flow on the host with OpenCV.
"""

import contextlib
import gc
import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.cuda.flow import CudaFlow, absent
from engine.errors import BackendError
from engine.signals.flow import FlowParams


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """An array on the card that belongs to somebody else. address: of its first byte; contiguous."""

    address: int
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """As numba, cupy and torch take it (version 3 of the interface)."""
        kind = self.dtype.str
        return {
            "shape": self.shape,
            "typestr": kind,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


class DeviceFlow(Protocol):
    """Flow on the card."""

    def __call__(
        self,
        count: int,
        stream: int,
        *,
        previous: DeviceArray,
        crop: DeviceArray,
        gap_ns: DeviceArray,
        flow: DeviceArray,
    ) -> None:
        """Ask `stream` (a CUstream) to write the flow of the first `count` pairs; returns at once.

        previous, crop: (N, S, S) uint8. gap_ns: (N,) int64. flow: (N, 2, size, size) float32, pixels a
        second, zeros where the gap is 0, as `engine.signals.flow.Flow.pair` gives it. Allocates nothing after
        its first call with a `count`.
        """
        ...


class NumbaFlow:
    """`engine.cuda.flow.CudaFlow` behind the seam. Raises BackendError where it cannot run."""

    def __init__(self, params: FlowParams, crop_size: int, most_pairs: int) -> None:
        self._flow = CudaFlow(params, crop_size=crop_size, most_pairs=most_pairs)
        self._cuda = importlib.import_module("numba.cuda")

    def __call__(
        self,
        count: int,
        stream: int,
        *,
        previous: DeviceArray,
        crop: DeviceArray,
        gap_ns: DeviceArray,
        flow: DeviceArray,
    ) -> None:
        """See `DeviceFlow`."""
        given = {"previous": previous, "crop": crop, "gap_ns": gap_ns, "speed": flow}
        arrays = {name: self._cuda.as_cuda_array(array, sync=False) for name, array in given.items()}
        with warnings.catch_warnings():
            # numba warns of grids that do not fill the device; small batches never do
            warnings.filterwarnings("ignore", message="Grid size")
            self._flow.launch(count, self._cuda.external_stream(stream), **arrays)


@contextlib.contextmanager
def nothing_freed() -> Iterator[None]:
    """For the length of a capture no memory of the card is freed behind its back, which would spoil it: what
    is unreachable goes before, no garbage is collected, and numba keeps what it would free."""
    gc.collect()
    collected = gc.isenabled()
    numba = sys.modules.get("numba.cuda")
    gc.disable()
    try:
        with contextlib.nullcontext() if numba is None or absent() else numba.defer_cleanup():
            yield
    finally:
        if collected:
            gc.enable()


def find_flow(params: FlowParams, crop_size: int, most_pairs: int) -> tuple[DeviceFlow | None, str]:
    """The flow on the card and a word about it; or None, and in words what is used instead and why."""
    try:
        return NumbaFlow(params, crop_size, most_pairs), "flow on the card"
    except (ValueError, BackendError) as error:
        return None, f"flow on the host with OpenCV: {str(error).rstrip('.')}"
