"""The TensorRT library, and one compiled part of a plan, ready to run on batches of any size up to its
largest.

A `Part` has a few sizes of batch (1, 2, 4, ... its largest); a batch runs at the next size up. For each size
there is an execution context and a CUDA graph that copies the inputs over, runs the part and copies back what
was asked for, so a batch costs one launch. Contexts share their working memory: all runs on one stream, one
after the other. This file knows nothing of faces, rings or windows. Results stay on the card or lie in pinned
memory; what TensorRT refuses leaves as a BackendError with TensorRT's own words.

Written against TensorRT 11.4 and what 10.16 has in common with it.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays
from engine.backends.device import INSTALL, Device, Graph
from engine.backends.layout import Field, Layout, sizes
from engine.errors import BackendError


class Library:
    """TensorRT itself: its version, its last complaint, and plans made ready.

    Raises BackendError where it is not installed.
    """

    def __init__(self) -> None:
        try:
            self.trt = importlib.import_module("tensorrt")
        except ImportError as error:
            raise BackendError(f"TensorRT is not installed ({error}): {INSTALL}.") from error
        self.version = str(self.trt.__version__)
        self.logger = _logger(self.trt)
        self._runtime = self.trt.Runtime(self.logger)

    @property
    def engine(self) -> str:
        """Name and version, as plans are keyed."""
        return f"tensorrt {self.version}"

    def complaint(self) -> str:
        """The last error that TensorRT logged, in brackets with a space before it; may be nothing."""
        return f" ({self.logger.last})" if self.logger.last else ""

    def load(self, name: str, data: bytes, rebuild: str) -> Any:
        """The ICudaEngine in `data`. Raises BackendError, which names the command that builds it anew."""
        self.logger.last = ""
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError(
                f"TensorRT {self.version} cannot load the {name} of the plan{self.complaint()}: "
                f"build it anew with {rebuild}."
            )
        return engine


def _logger(trt: Any) -> Any:
    """Keeps the last error in `last` instead of writing to stderr."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(msg.split())

    return Logger()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Size:
    """A part at one size of batch: views of pinned memory, addresses on the card, its context and graph."""

    batch: int
    staged: Mapping[str, NDArray[Any]]
    fetched: Mapping[str, NDArray[Any]]
    addresses: Mapping[str, int]
    context: Any
    graph: Graph


Prepare = Callable[[int, Mapping[str, int]], None]
"""prepare(batch, addresses) asks the stream to make inputs on the card from what was copied there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wiring:
    """Where a part's inputs come from and what is copied back; all other inputs are copied over a batch a
    time.

    resident: addresses of inputs that stay on the card. made: inputs that `prepare` makes there, from `extra`
    arrays that are copied over for it. fetched: outputs that are copied back each time. rebuild: the command
    that builds the plan anew.
    """

    rebuild: str
    resident: Mapping[str, int]
    fetched: Sequence[str] = ()
    made: Sequence[str] = ()
    extra: Sequence[Field] = ()
    prepare: Prepare | None = None


class Part:
    """One compiled part of a plan. scratch: address of its working memory, of the size the engine asks for.

    Must be made and used with the device current. Raises BackendError where TensorRT refuses or the part does
    not take what it should.
    """

    def __init__(
        self, device: Device, library: Library, engine: Any, largest: int, scratch: int, wiring: Wiring
    ) -> None:
        self._device, self._library, self._engine = device, library, engine
        self._scratch, self._wiring = scratch, wiring
        inputs, outputs = self._fields()
        moved = {field.name for field in inputs} - set(wiring.resident)
        if missing := sorted((set(wiring.resident) | set(wiring.made)) - {field.name for field in inputs}):
            raise BackendError(
                f"The plan has no input {missing[0]}, it is of another version: build it anew with "
                f"{wiring.rebuild}."
            )
        self._static = [f.name for f in inputs if f.name in wiring.resident]
        self._inputs = [field for field in inputs if field.name in moved]
        self._staged = [field for field in self._inputs if field.name not in wiring.made] + [*wiring.extra]
        self._made = [field for field in self._inputs if field.name in wiring.made]
        back = [field for field in outputs if field.name in wiring.fetched]
        self._back, self._outputs = back, [*back, *(f for f in outputs if f.name not in wiring.fetched)]
        self._blocks = [
            device.allocate(Layout(each, largest).size) for each in (self._staged, self._made, self._outputs)
        ]
        self._pinned_in = device.pinned(Layout(self._staged, largest).size)
        self._pinned_out = device.pinned(Layout(self._back, largest).size)
        self._sizes = [self._at(batch) for batch in sizes(largest)]
        self._last = self._sizes[0]

    def run(self, count: int, values: Arrays) -> None:
        """Ask for a batch: rows of `values` by the inputs' names. What it overwrites is waited for first."""
        size = self._fill(count, values)
        size.graph.launch()

    def run_given(self, count: int, values: Arrays) -> None:
        """The same with the inputs given that are otherwise made on the card; without the graph."""
        names = {field.name for field in self._made}
        size = self._fill(count, {name: value for name, value in values.items() if name not in names})
        device = self._device
        device.upload(self._blocks[0], self._pinned_in)
        held = {name: np.ascontiguousarray(values[name]) for name in names}
        for name, value in held.items():
            device.upload(size.addresses[name], value)
        self._enqueue(size.context)
        device.wait()

    def fetched(self, name: str, count: int) -> NDArray[Any]:
        """A copy of the first rows of what was copied back, when it is there."""
        self._device.wait()
        return np.array(self._last.fetched[name][:count])

    def address(self, name: str) -> int:
        """Where an input or output of the last batch is on the card."""
        return self._last.addresses[name]

    def download(self, name: str, count: int) -> NDArray[Any]:
        """The first rows of an output that is not copied back each time."""
        field = next(field for field in self._outputs if field.name == name)
        target = np.empty((count, *field.shape), field.dtype)
        self._device.download(target, self.address(name))
        self._device.wait()
        return target

    def close(self) -> None:
        """Let graphs and contexts go, before their memory does, and the back end that prepares them."""
        for size in self._sizes:
            size.graph.close()
        self._sizes = []
        del self._last, self._wiring

    def _fill(self, count: int, values: Arrays) -> Size:
        size = next(size for size in self._sizes if size.batch >= count)
        self._device.wait()
        for name, value in values.items():
            size.staged[name][:count] = value
            size.staged[name][count:] = 0  # another size of batch may have left anything there, indices too
        self._last = size
        return size

    def _fields(self) -> tuple[list[Field], list[Field]]:
        """Inputs and outputs of the engine; the free size is the batch."""
        trt, engine = self._library.trt, self._engine
        inputs: list[Field] = []
        outputs: list[Field] = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = tuple(engine.get_tensor_shape(name))
            field = Field(name, shape[1:], np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
            taken = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if taken else outputs).append(field)
        return inputs, outputs

    def _at(self, batch: int) -> Size:
        device = self._device
        staged, made, outputs, back = (
            Layout(fields, batch) for fields in (self._staged, self._made, self._outputs, self._back)
        )
        places = (staged, made, outputs)
        addresses: dict[str, int] = {}
        for layout, block in zip(places, self._blocks, strict=True):
            addresses |= layout.addresses(block)
        context = self._context(batch, addresses)
        prepare = self._wiring.prepare

        def run() -> None:
            device.upload(self._blocks[0], self._pinned_in[: staged.size])
            if prepare is not None:
                prepare(batch, addresses)
            self._enqueue(context)
            if back.size:
                device.download(self._pinned_out[: back.size], self._blocks[2])

        run()  # TensorRT and numba make things ready at the first call, which no graph can capture
        return Size(
            batch=batch,
            staged=staged.views(self._pinned_in),
            fetched=back.views(self._pinned_out),
            addresses=addresses,
            context=context,
            graph=device.capture(run),
        )

    def _context(self, batch: int, addresses: Mapping[str, int]) -> Any:
        trt, engine = self._library.trt, self._engine
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(
                f"TensorRT cannot open the plan for batches of {batch}{self._library.complaint()}: "
                "there may be not enough memory on the card; build a plan with a smaller --max-streams."
            )
        context.set_device_memory(self._scratch, int(engine.device_memory_size_v2))
        ready = [context.set_input_shape(f.name, (batch, *f.shape)) for f in self._inputs]
        ready += [context.set_tensor_address(name, self._wiring.resident[name]) for name in self._static]
        ready += [
            context.set_tensor_address(field.name, addresses[field.name])
            for field in (*self._inputs, *self._outputs)
        ]
        if not all(ready):
            raise BackendError(
                f"The plan does not take batches of {batch}{self._library.complaint()}: build it anew with "
                f"{self._wiring.rebuild}."
            )
        return context

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.handle):
            raise BackendError(f"TensorRT failed to run the plan{self._library.complaint()}.")
