"""One NVIDIA card through pycuda: its primary context, memory, one stream, and graphs through cuda-bindings.

The primary context is the one that torch and numba use too, so all of them may share memory. It is pushed for
the length of a call (`with device.current():`) and never left behind, so any thread may call. Everything runs
on one stream in its order. This file knows nothing of models; addresses are plain integers. What CUDA refuses
leaves as a BackendError.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.device_flow import nothing_freed
from engine.backends.layout import ALIGNMENT, MIB
from engine.errors import BackendError
from engine.types import UInt8

_contexts: list[Any] = []
"""Kept until the program ends: pycuda leaves a context that it releases current on its thread."""

INSTALL = 'pip install -e ".[tensorrt]"'


class Device:
    """A card and one stream on it. number: as the driver counts.

    Raises BackendError where pycuda or cuda-bindings is not installed, or there is no driver or no such card.
    """

    def __init__(self, number: int = 0) -> None:
        self._cuda, self._graphs = _driver(), _graph_calls()
        try:
            self._cuda.init()
            count = int(self._cuda.Device.count())
        except self._cuda.Error as error:
            raise BackendError(f"No NVIDIA card can be used: {_words(error)}.") from error
        if number >= count:
            raise BackendError(f"There is no NVIDIA card number {number}: the driver finds {count}.")
        try:
            card = self._cuda.Device(number)
            self._context: Any = card.retain_primary_context()
            _contexts.append(self._context)
            self._context.push()
        except self._cuda.Error as error:
            raise BackendError(f"NVIDIA card number {number} cannot be used: {_words(error)}.") from error
        try:
            self.name = str(card.name())
            self.compute_capability = ".".join(str(part) for part in card.compute_capability())
            version = int(self._cuda.get_driver_version())
            self.driver = f"{version // 1000}.{version % 1000 // 10}"
            self._stream = self._cuda.Stream()
            self.handle = int(self._stream.handle)
        finally:
            self._cuda.Context.pop()
        self._held: list[Any] = []

    @contextmanager
    def current(self) -> Iterator[None]:
        """The card's context for this thread; CUDA's errors come out as BackendErrors."""
        self._context.push()
        try:
            yield
        except self._cuda.MemoryError as error:
            free, total = self._memory()
            raise BackendError(
                f"Not enough memory on {self.name} ({free // MIB} of {total // MIB} MiB are free): end other "
                "programs that use it, or build a plan with a smaller --max-streams."
            ) from error
        except self._cuda.Error as error:
            raise BackendError(f"{self.name} failed: {_words(error)}.") from error
        finally:
            self._cuda.Context.pop()

    def free_bytes(self) -> int:
        """How much memory nobody uses."""
        return self._memory()[0]

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, zero, kept for this object's life."""
        held = self._cuda.mem_alloc(max(size, ALIGNMENT))
        self._held.append(held)
        self._cuda.memset_d8_async(int(held), 0, max(size, ALIGNMENT), self._stream)
        return int(held)

    def pinned(self, size: int) -> UInt8:
        """(size,) uint8 of host memory that the card reads and writes by itself; zero."""
        array: UInt8 = self._cuda.pagelocked_empty(max(size, ALIGNMENT), np.uint8)
        array[:] = 0
        return array

    def upload(self, address: int, source: NDArray[np.generic]) -> None:
        """Copy a contiguous array to the card; it must stay as it is until `wait`."""
        self._cuda.memcpy_htod_async(address, source, self._stream)

    def download(self, target: NDArray[np.generic], address: int) -> None:
        """Copy from the card into a contiguous array; it is there after `wait`."""
        self._cuda.memcpy_dtoh_async(target, address, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes on the card."""
        self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    def wait(self) -> None:
        """Until everything that was asked of the stream is done."""
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> "Graph":
        """What `work` asks of the stream, as a graph; it is not done now. Raises BackendError."""
        calls = self._graphs
        stream = calls.CUstream(self.handle)
        self.wait()
        mode = calls.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with nothing_freed():
            _checked(calls, calls.cuStreamBeginCapture(stream, mode))
            try:
                work()
            finally:
                result, graph = calls.cuStreamEndCapture(stream)
        _checked(calls, (result,))
        (made,) = _checked(calls, calls.cuGraphInstantiate(graph, 0))
        _checked(calls, calls.cuGraphDestroy(graph))
        return Graph(calls, made, stream)

    def close(self) -> None:
        """Wait, and free all memory. The object is of no use afterwards."""
        with self.current():
            self.wait()
            for held in self._held:
                held.free()
            self._held.clear()
            self._stream = None

    def _memory(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)


class Graph:
    """Captured work, to be launched as often as one likes on the stream of its capture."""

    def __init__(self, calls: Any, graph: Any, stream: Any) -> None:
        self._calls, self._graph, self._stream = calls, graph, stream

    def launch(self) -> None:
        """Ask for the work once more; returns at once."""
        _checked(self._calls, self._calls.cuGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        """Let it go."""
        _checked(self._calls, self._calls.cuGraphExecDestroy(self._graph))


def _driver() -> Any:
    if _absent("pycuda"):
        raise BackendError(f"pycuda is not installed: {INSTALL} (it needs a CUDA toolkit to build).")
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise BackendError(
            f"No NVIDIA driver can be loaded here ({error}): install one for your card."
        ) from error


def _graph_calls() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise BackendError(f"cuda-bindings is not installed: {INSTALL}.") from error


def _absent(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except ValueError:  # a module without a spec is there
        return False


def _checked(calls: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What cuda-bindings returned beside the status; raises BackendError where that is not success."""
    status, *rest = answer
    if status != calls.CUresult.CUDA_SUCCESS:
        raise BackendError(f"CUDA graphs failed with {getattr(status, 'name', status)}: update the driver.")
    return tuple(rest)


def _words(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
