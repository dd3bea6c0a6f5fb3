"""One NVIDIA card through torch: memory, one stream, and CUDA graphs on it.

What torch and numba launch on the stream runs in its order; everything has to be asked for inside `current`.
The processor can stand in for the card (`kind` "cpu"): then nothing is captured, work is done when it is
asked for, and host and device memory are the same. That is how the back end is tested where there is no card;
nobody is offered it, since ONNX Runtime is faster there. This file knows nothing of models. What torch
refuses leaves as a BackendError.
"""

import ctypes
import importlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends.device_flow import nothing_freed
from engine.backends.layout import MIB
from engine.errors import BackendError
from engine.plans.store import Machine

Tensor = Any
INSTALL = 'pip install -e ".[inductor]"'
WARM_UPS = 2


class TorchDevice:
    """The first card that torch sees, and one stream on it.

    name, compute_capability: the card's. handle: the stream's CUstream. Raises BackendError where torch is
    not installed, has no CUDA, or finds no card.
    """

    def __init__(self, kind: str = "cuda") -> None:
        self.torch = _torch()
        self._on_card = kind == "cuda"
        self.handle = 0
        self.name, self.compute_capability, driver = "processor", "none", "none"
        if self._on_card:
            _card(self.torch)
            self.name = str(self.torch.cuda.get_device_name(0))
            self.compute_capability = ".".join(map(str, self.torch.cuda.get_device_capability(0)))
            self._stream = self.torch.cuda.Stream(0)
            self.handle = int(self._stream.cuda_stream)
            self._pool = self.torch.cuda.graph_pool_handle()
            driver = _driver()
        self.device = self.torch.device("cuda", 0) if self._on_card else self.torch.device("cpu")
        self.machine = Machine(
            engine=f"inductor {self.torch.__version__}",
            device=self.name,
            compute_capability=self.compute_capability,
            driver=driver,
            host=_host(self.torch),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """The card and its stream for this thread, without gradients; torch's errors come out as ours."""
        torch = self.torch
        try:
            with torch.no_grad():
                if not self._on_card:
                    yield
                    return
                with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
                    yield
        except torch.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info(self.device)
            raise BackendError(
                f"Not enough memory on {self.name} ({free // MIB} of {total // MIB} MiB are free): end other "
                "programs that use it, or build a plan with a smaller --max-streams."
            ) from error
        except RuntimeError as error:
            raise BackendError(f"{self.name} failed: {first_line(error)}.") from error

    @contextmanager
    def exact(self) -> Iterator[None]:
        """fp32 convolutions in fp32: torch would round what goes into them to TF32, ten bits. Products of
        matrices are exact unless somebody asked torch for less."""
        convolution = self.torch.backends.cudnn.conv
        before = convolution.fp32_precision
        convolution.fp32_precision = "ieee"
        try:
            yield
        finally:
            convolution.fp32_precision = before

    def free_bytes(self) -> int:
        """How much memory of the card nobody uses, torch's own reserve given back first."""
        if not self._on_card:
            return 0
        self.torch.cuda.empty_cache()
        return int(self.torch.cuda.mem_get_info(self.device)[0])

    def zeros(self, shape: tuple[int, ...], dtype: "np.dtype[Any] | type" = np.float32) -> Tensor:
        """A new tensor on the card."""
        return self.torch.zeros(shape, dtype=self.dtype(dtype), device=self.device)

    def pinned(self, size: int) -> Tensor:
        """(size,) uint8 of host memory that the card reads and writes by itself; zero."""
        return self.torch.zeros(size, dtype=self.torch.uint8, pin_memory=self._on_card)

    def opposite(self, pinned: Tensor) -> Tensor:
        """Memory on the card for what is staged in `pinned`, of its size; on the processor the same."""
        return self.zeros(tuple(pinned.shape), np.uint8) if self._on_card else pinned

    def landing(self, tensor: Tensor) -> Tensor:
        """Host memory of a result's shape that the card writes by itself."""
        return self.torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._on_card)

    def dtype(self, kind: "np.dtype[Any] | type") -> Any:
        """NumPy's type as torch's."""
        return self.torch.from_numpy(np.empty(0, kind)).dtype

    def event(self) -> "Event":
        """A mark on the stream that can be waited for."""
        return Event(self.torch.cuda.Event() if self._on_card else None)

    def wait(self) -> None:
        """Until everything that was asked of the stream is done."""
        if self._on_card:
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` asks of the stream, to be asked for again in one launch.

        It is done a few times first: libraries choose and load what they need at the first call, which no
        graph can hold. Its results keep their place from call to call, but the next graph of this device may
        overwrite what it keeps for itself.
        """
        with self.exact():
            for _ in range(WARM_UPS):
                work()
            self.wait()
            if not self._on_card:
                return work
            graph = self.torch.cuda.CUDAGraph()
            held = self.torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            )
            with nothing_freed(), held:
                work()
        replay: Callable[[], None] = graph.replay
        return replay


class Event:
    """A mark on a stream; on the processor everything is done already."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def record(self) -> None:
        """Set it behind all that was asked of the current stream so far."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Until the stream has come to it; at once where it was never set."""
        if self._event is not None:
            self._event.synchronize()


def first_line(error: BaseException) -> str:
    """The first line that says something, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BackendError(f"torch is not installed: {INSTALL}.") from error
    if not hasattr(torch.backends.cudnn, "conv"):
        raise BackendError(f"torch {torch.__version__} is too old, 2.9 or newer is needed: {INSTALL}.")
    return torch


def _driver() -> str:
    """The newest CUDA that the driver knows, as `engine.backends.device` has it; torch does not tell."""
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        raise BackendError(f"No NVIDIA driver can be asked for its version ({error}).") from error
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _host(torch: Any) -> str:
    """The processor that a plan's host code is compiled for, and the vectors that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = (names or [platform.processor()])[0]
    return f"{platform.machine()} {name} {torch.backends.cpu.get_cpu_capability()}"


def _card(torch: Any) -> None:
    if torch.version.cuda is None:
        raise BackendError(
            f"This torch ({torch.__version__}) is built without CUDA: install one that has it, {INSTALL}."
        )
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} finds no NVIDIA card, or no driver for CUDA {torch.version.cuda}."
        )
