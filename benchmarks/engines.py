"""Every engine that the package offers, and eager torch beside them, opened by name or left out with a
reason.

It knows nothing of measuring. Data leaves it as open back ends.
"""

from dataclasses import dataclass

from benchmarks.eager import AbsentEngineError, AnewBackend, TorchBackend
from engine.backends import ENGINES, Backend, choose
from engine.bundle import Bundle
from engine.errors import BackendError

TORCH, ANEW = "torch", "anew"
CPU_ENGINES = ("onnx", "openvino")
EAGER = {TORCH: TorchBackend, ANEW: AnewBackend}


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A back end and a word about it. on_gpu: it computes there, or may."""

    backend: Backend
    note: str
    on_gpu: bool


def names() -> tuple[str, ...]:
    """Of all that can be asked for, the package's engines first, the eager network anew last."""
    return (*(name for name in ENGINES if name != "auto"), TORCH, ANEW)


def open_engine(name: str, bundle: Bundle) -> Opened:
    """An engine by name, the eager ones on the GPU where there is one.

    Raises AbsentEngineError where it cannot be had here, in one sentence.
    """
    if name in EAGER:
        device = "cuda" if gpu_there() else "cpu"
        backend = EAGER[name](bundle, device)
        return Opened(backend, f"eager torch on {device}, {backend.flow}", device != "cpu")
    try:
        choice = choose(bundle, name)
    except BackendError as error:
        raise AbsentEngineError(str(error)) from error
    return Opened(choice.backend, choice.reason, name not in CPU_ENGINES)


def largest(backend: Backend) -> int | None:
    """Most streams that a back end serves, where it has such a bound."""
    found = getattr(backend, "largest_batch", None)
    return None if found is None else int(found)


def gpu_there() -> bool:
    """True where torch can use an NVIDIA GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
