"""Every engine that the package offers, opened by name or left out with a reason, and three beside them.

Eager torch with tokens kept, eager torch that computes each window anew, and one that computes nothing. It
knows nothing of measuring. Data leaves it as open back ends.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.eager import AbsentEngineError, AnewBackend, TorchBackend
from engine.backends import ENGINES, PLANNERS, Backend, choose
from engine.backends.base import Answers
from engine.backends.onnx import available_providers, without_cuda
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.signals.voice import TOKENS, VoiceEncoder
from engine.types import Face, Float32
from engine.window import Window

TORCH, ANEW, NOTHING = "torch", "anew", "nothing"
CPU_ENGINES = ("onnx", "openvino")
PACKAGES = {"openvino": "openvino", TORCH: "torch", ANEW: "torch"}
EAGER = {TORCH: TorchBackend, ANEW: AnewBackend}


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A back end and a word about it. on_gpu: it computes there, or may.

    precision: of its products, as the ceilings are named. tracks: the most it serves, where that is bounded.
    """

    backend: Backend
    note: str
    on_gpu: bool
    precision: str = "fp32"

    @property
    def tracks(self) -> int | None:
        """Most streams that it serves, where it has such a bound."""
        return self.backend.tracks


class NothingBackend:
    """Takes everything and answers zeros at once: what is left is what the host does for any engine."""

    name = NOTHING
    tracks: int | None = None
    precision = "fp32"

    def __init__(self, bundle: Bundle) -> None:
        self._heads, self._sizes = len(bundle.heads), (len(bundle.labels), len(bundle.attributes))
        self.voice: VoiceEncoder | None = None
        if bundle.voice is not None:
            said = bundle.voice.said
            self.voice = VoiceEncoder(partial(_nothing, said), bundle.mel.bands, said)

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`."""

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        return Answers(*(np.zeros((len(slots), self._heads, size), np.float32) for size in self._sizes))

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""


def _nothing(said: int, heard: Float32) -> Float32:
    return np.zeros((len(heard), TOKENS, said), np.float32)


def names() -> tuple[str, ...]:
    """All that can be asked for, the package's engines first."""
    return (*(name for name in ENGINES if name != "auto"), TORCH, ANEW, NOTHING)


def open_engine(name: str, bundle: Bundle) -> Opened:
    """An engine by name, the eager ones on the GPU where there is one.

    Raises AbsentEngineError where it cannot be had here, in one sentence.
    """
    if name == NOTHING:
        return Opened(NothingBackend(bundle), "it computes nothing", False)
    if name in EAGER:
        device = "cuda" if gpu_there() else "cpu"
        backend = EAGER[name](bundle, device)
        on_gpu = device != "cpu"
        # Torch rounds what goes into its convolutions there, unless it is told not to.
        precision = "tf32" if on_gpu else "fp32"
        return Opened(backend, f"eager torch on {device}, {backend.flow}", on_gpu, precision)
    try:
        choice = choose(bundle, name)
    except BackendError as error:
        raise AbsentEngineError(str(error)) from error
    return Opened(choice.backend, choice.reason, name not in CPU_ENGINES, choice.backend.precision)


def absent(name: str) -> bool:
    """True where an engine plainly cannot be had here; False promises nothing. It opens none."""
    if name == "onnx-cuda":
        return without_cuda(available_providers()) is not None
    if name in PLANNERS and not gpu_there():
        return True
    package = {**PLANNERS, **PACKAGES}.get(name)
    return package is not None and importlib.util.find_spec(package) is None


def gpu_there() -> bool:
    """True where torch can use an NVIDIA GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
