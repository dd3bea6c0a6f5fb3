"""What each engine brings to the building of plans: its machine, its compiler, its back end.

`engine.build` does the rest, the same for all. This file imports an engine when it is asked for.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.backends.card import CardBackend
from engine.bundle import Bundle
from engine.plans.store import Machine, Plan, Watch

if TYPE_CHECKING:
    import onnx


class Toolchain(Protocol):
    """An engine on this machine. Making one raises BackendError where the engine, or a card, is missing."""

    machine: Machine

    def current(self) -> AbstractContextManager[None]:
        """The card, for whatever is done on it."""
        ...

    def compile(self, name: str, graph: "onnx.ModelProto", largest: int, watch: Watch) -> bytes:
        """A part of a plan; the card must be current. Raises BackendError where the engine refuses."""
        ...

    def open(self, plan: Plan) -> CardBackend:
        """The back end on a plan; closing it gives back what it holds of the card."""
        ...

    def free_bytes(self) -> int:
        """How much memory of the card nobody uses; it must be current."""
        ...


class TensorRt:
    """TensorRT on the first card, its timing cache in `folder`."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        from engine.backends.device import Device
        from engine.backends.tensorrt import machine
        from engine.backends.tensorrt_parts import Library

        self._bundle, self._folder = bundle, folder
        self._library, self._device = Library(), Device()
        self.machine = machine(self._library, self._device)

    def current(self) -> AbstractContextManager[None]:
        """See `Toolchain`."""
        return self._device.current()

    def compile(self, name: str, graph: "onnx.ModelProto", largest: int, watch: Watch) -> bytes:
        """See `Toolchain`."""
        from engine.plans.tensorrt_build import Compiler

        compiler = Compiler(self._library, self.machine, self._folder, watch)
        return compiler.compile(name, graph.SerializeToString(), largest)

    def open(self, plan: Plan) -> CardBackend:
        """See `Toolchain`."""
        from engine.backends.device import Device
        from engine.backends.device_flow import find_flow
        from engine.backends.tensorrt import TensorRtBackend

        bundle, device = self._bundle, Device()
        with device.current():
            flow = find_flow(bundle.flow, bundle.crop.size, plan.key.largest_batch)
        return TensorRtBackend(bundle, plan, self._library, device, flow)

    def free_bytes(self) -> int:
        """See `Toolchain`."""
        return self._device.free_bytes()


class Inductor:
    """torch's Inductor on the first card."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        from engine.backends.torch_device import TorchDevice

        self._bundle, self._device = bundle, TorchDevice()
        self.machine = self._device.machine

    def current(self) -> AbstractContextManager[None]:
        """See `Toolchain`."""
        return self._device.current()

    def compile(self, name: str, graph: "onnx.ModelProto", largest: int, watch: Watch) -> bytes:
        """See `Toolchain`."""
        from engine.plans.inductor_build import compile_part

        watch(f"{name}: compiling, a minute or more", 0, 1)
        return compile_part(self._bundle, self._device, name, graph, largest)

    def open(self, plan: Plan) -> CardBackend:
        """See `Toolchain`."""
        from engine.backends.inductor import open_plan
        from engine.backends.torch_device import TorchDevice

        return open_plan(self._bundle, plan.key, plan.parts, TorchDevice())

    def free_bytes(self) -> int:
        """See `Toolchain`."""
        return self._device.free_bytes()


TOOLCHAINS: dict[str, Callable[[Bundle, Path], Toolchain]] = {"tensorrt": TensorRt, "inductor": Inductor}
"""By engine; each may raise BackendError."""
