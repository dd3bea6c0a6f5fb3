"""Inductor's place taken by torch on the processor, step by step: no GPU, and no compiling, which takes
minutes.

What is real: the translation of the graphs to torch, rings, means, batches and their padding, the store of
plans, parity. What is not: torch's compiler, CUDA graphs, streams, pinned memory. `test_inductor_gpu.py` has
those. A part of a plan is an ONNX model here, its inputs in the order of the compiled program's.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from engine.backends import inductor, torch_device
from engine.backends.device_flow import DeviceArray
from engine.backends.inductor_parts import Program
from engine.backends.torch_device import TorchDevice
from engine.bundle import Bundle
from engine.plans import inductor_build
from engine.plans.programs import OnnxProgram
from engine.types import Float32, UInt8


def compiled(bundle: Bundle, device: TorchDevice, name: str, graph: onnx.ModelProto, largest: int) -> bytes:
    """In place of `compile_part`."""
    exporter = inductor_build.Exporter(bundle, device, largest)
    exporter.program(name, graph)  # refuses what cannot be translated
    inputs = {value.name: value for value in graph.graph.input}
    order = exporter.names(name)
    assert set(order) == set(inputs)
    del graph.graph.input[:]
    graph.graph.input.extend(inputs[each] for each in order)
    return bytes(graph.SerializeToString())


def loaded(device: TorchDevice, name: str, package: bytes, rebuild: str) -> Program:
    """In place of `load`."""
    graph = onnx.load_from_string(package)
    program: Program = OnnxProgram(graph, [value.name for value in graph.graph.input]).eval()
    return program


Pair = Callable[[UInt8, UInt8, int], Float32]


class MemoryFlow:
    """A `DeviceFlow` where device memory is the host's. pair: as `Flow.pair`."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.pairs = 0

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
        """At once, since nothing runs beside it here."""
        old, new, gaps, out = map(_view, (previous, crop, gap_ns, flow))
        for i in range(count):
            out[i] = self._pair(old[i], new[i], int(gaps[i]))
        self.pairs += count


def _view(array: DeviceArray) -> NDArray[Any]:
    size = int(np.prod(array.shape)) * array.dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(array.address)
    return np.frombuffer(memory, array.dtype).reshape(array.shape)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all of it in its place."""
    for module in (inductor, torch_device):
        monkeypatch.setattr(module, "TorchDevice", partial(TorchDevice, "cpu"))
    monkeypatch.setattr(inductor, "load", loaded)
    monkeypatch.setattr(inductor_build, "compile_part", compiled)
    # No kernel runs on a processor: flow is OpenCV's, whether numba is installed or not.
    monkeypatch.setattr("engine.cuda.flow.absent", lambda: "no kernel runs on a processor")
