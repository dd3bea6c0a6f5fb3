"""Compiling the parts of a plan with torch's Inductor, ahead of time.

A part is exported with a free batch from 1 to the largest and compiled once; the back end captures it at each
size of batch. What comes out is torch's package of machine code for this processor and this card, which runs
without a compiler. This file knows nothing of bundles' contents; compiled code leaves as bytes.
"""

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import onnx

from engine.backends.inductor import encoder_fields, voice_fields, window_fields
from engine.backends.inductor_parts import Program
from engine.backends.layout import Field
from engine.backends.torch_device import INSTALL, Tensor, TorchDevice, first_line
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.programs import OnnxProgram
from engine.plans.toolkit import lent, need_compiler

REFUSALS = (RuntimeError, OSError, ValueError, TypeError, AssertionError, AttributeError, LookupError)
"""What torch's compiler raises where it meets what it does not know: its own mistakes, too."""
LARGEST_EXAMPLE = 64
"""Rows of the example that a part is exported with: kernels are laid out for about that many."""


class Exporter:
    """The graphs of a plan as programs on a device, with the inputs that the back end will bring."""

    def __init__(self, bundle: Bundle, device: TorchDevice, largest: int) -> None:
        width = bundle.tokens.appearance + bundle.tokens.motion
        self._device, self._largest = device, largest
        self._resident: dict[str, dict[str, tuple[int, int]]] = {
            "encoder": {},
            "voice": {},
            "score": {"ring": (largest * bundle.window.ring_ticks, width), "state": (largest, width)},
        }
        self._fields: dict[str, Sequence[Field]] = {
            "encoder": encoder_fields(bundle),
            "score": window_fields(bundle),
            "voice": voice_fields(bundle),
        }

    def program(self, name: str, graph: onnx.ModelProto) -> Program:
        """A part that torch runs step by step. Raises BackendError where it cannot be translated."""
        made: Program = OnnxProgram(graph, self.names(name)).eval().to(self._device.device)
        return made

    def names(self, name: str) -> list[str]:
        """What a part takes, in its order."""
        return [*self._resident[name], *(field.name for field in self._fields[name])]

    def exported(self, name: str, program: Program) -> Tensor:
        """The part as torch's ExportedProgram, its batch free."""
        torch, device = self._device.torch, self._device
        rows = min(self._largest, LARGEST_EXAMPLE)
        resident = [device.zeros(shape) for shape in self._resident[name].values()]
        moved = [device.zeros((rows, *field.shape), field.dtype) for field in self._fields[name]]
        free = {0: torch.export.Dim("batch", min=1, max=self._largest)} if self._largest > 1 else {}
        shapes = (*({} for _ in resident), *(free for _ in moved))
        return torch.export.export(program, (*resident, *moved), dynamic_shapes=(shapes,), strict=False)


def compile_part(
    bundle: Bundle, device: TorchDevice, name: str, graph: onnx.ModelProto, largest: int
) -> bytes:
    """A plan's part. The device must be current.

    Raises BackendError where there is no compiler, the graph cannot be translated, or torch refuses it.
    """
    need_compiler()
    torch, exporter = device.torch, Exporter(bundle, device, largest)
    program = exporter.program(name, graph)
    try:
        with _lent(device), tempfile.TemporaryDirectory(prefix="de3-live-") as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of its own internals
                made = torch._inductor.aoti_compile_and_package(
                    exporter.exported(name, program), package_path=str(Path(folder, f"{name}.pt2"))
                )
            return Path(made).read_bytes()
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise BackendError(f"torch {torch.__version__} cannot compile the {name} graph: {why}.") from error


def _lent(device: TorchDevice) -> AbstractContextManager[None]:
    """What building for this device needs beside a compiler. Raises BackendError where it is missing."""
    if device.device.type != "cuda":
        return nullcontext()
    if importlib.util.find_spec("triton") is None:
        raise BackendError(f"Inductor needs Triton for a card, which comes with torch on Linux: {INSTALL}.")
    return lent(importlib.import_module("torch.utils.cpp_extension"))
