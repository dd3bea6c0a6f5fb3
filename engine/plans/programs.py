"""The graphs of a plan as torch programs: what ONNX says, in torch's words, ready to be compiled.

Why exported programs are made here and do not lie in the bundle: torch reads its own files of them with
pickle (up to 2.13 at least, which falls back to unsafe reading where the safe one fails), while a bundle is
data that executes nothing; a file of one version of torch need not open in an older one; and the weights
would lie in the bundle twice. So a program is made from the bundle's ONNX graph where it is compiled, and
every plan, TensorRT's too, begins with the same graphs (`engine.plans.graphs`), precision included. This file
knows nothing of bundles, devices or batches; a torch module leaves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, numpy_helper

from engine.errors import BackendError

Tensor = Any
Attributes = Mapping[str, Any]

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
}

NUMBERS = {
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceLogSumExp", "Reshape"), (1,)),
    **dict.fromkeys(("Unsqueeze", "Squeeze", "Split", "Expand"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
}
"""By operator, the inputs that shape the program instead of flowing through it; they have to be constants."""


class OnnxProgram(torch.nn.Module):  # type: ignore[misc]
    """An ONNX model as a torch module: its inputs in the order of `inputs` in, a tuple of its outputs out.

    Raises BackendError where the model has an operator, or a shape, that is not translated.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[str]) -> None:
        super().__init__()
        graph = model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs, self._outputs = list(inputs), [value.name for value in graph.output]
        self._steps: list[_Step] = []
        held: dict[str, str] = {}
        for node in graph.node:
            self._steps.append(_step(node, constants))
            for name in self._steps[-1].inputs:
                if name in constants and name not in held:
                    held[name] = f"constant_{len(held)}"
                    self.register_buffer(held[name], as_tensor(constants[name]))
        self._held = held

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One row of the batch after the other in the first size of each."""
        values = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: getattr(self, buffer) for name, buffer in self._held.items()}
        for step in self._steps:
            made = step.run([values[name] if name else None for name in step.inputs])
            found = made if isinstance(made, tuple | list) else (made,)
            values |= dict(zip(step.outputs, found, strict=False))
        return tuple(values[name] for name in self._outputs)


def as_tensor(constant: onnx.TensorProto) -> Tensor:
    """An ONNX constant in torch, bf16 bit by bit, since NumPy has none of its own."""
    values = np.array(numpy_helper.to_array(constant), order="C")
    if constant.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


class _Step:
    """A node: which values it takes and gives, and what it does."""

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], run: Callable[[list[Tensor]], Any]
    ) -> None:
        self.inputs, self.outputs, self.run = list(inputs), list(outputs), run


def _step(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> _Step:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    make = OPERATORS.get(node.op_type)
    if make is None or node.domain not in ("", "ai.onnx"):
        raise BackendError(f"The graph has the operator {node.op_type}, which is not translated to torch.")
    numbers = {}
    shaping = NUMBERS.get(node.op_type, ())
    if node.op_type == "Gather" and node.input[1] in constants and not constants[node.input[1]].dims:
        shaping = (1,)
    for at in shaping:
        name = node.input[at] if at < len(node.input) else ""
        if name and name not in constants:
            raise BackendError(f"{node.op_type} in the graph takes a shape that is worked out on the way.")
        numbers[at] = numpy_helper.to_array(constants[name]).tolist() if name else None
    flowing = [name for at, name in enumerate(node.input) if at not in numbers]
    return _Step(flowing, node.output, make(attributes, numbers, len(node.output)))


Numbers = Mapping[int, Any]
Make = Callable[[Attributes, Numbers, int], Callable[[list[Tensor]], Any]]


def _plain(function: Callable[..., Tensor]) -> Make:
    """An operator that takes tensors alone."""
    return lambda attributes, numbers, outputs: lambda x: function(*x)


def _along(function: Callable[..., Tensor], axis: int) -> Make:
    """An operator along one axis, `axis` where the graph names none."""

    def make(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
        return lambda x: function(x[0], attributes.get("axis", axis))

    return make


def _reduced(function: Callable[..., Tensor]) -> Make:
    """An operator over axes, all of them where the graph names none."""

    def make(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
        axes = numbers.get(1) or attributes.get("axes")
        keep = bool(attributes.get("keepdims", 1))
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return lambda x: x[0]
        return lambda x: function(x[0], list(axes or range(x[0].dim())), keep)

    return make


def _cast(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    dtype = DTYPES.get(attributes["to"])
    if dtype is None:
        raise BackendError(f"The graph casts to the ONNX type {attributes['to']}, which torch has not.")
    return lambda x: x[0].to(dtype)


def _clip(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    def run(x: list[Tensor]) -> Tensor:
        least, most = (*x[1:], None, None)[:2]
        low = x[0] if least is None else torch.maximum(x[0], least)
        return low if most is None else torch.minimum(low, most)

    return run


def _concat(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda x: torch.cat(x, attributes["axis"])


def _conv(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    around, before = _pads(attributes)
    strides, group = attributes.get("strides", [1]), attributes.get("group", 1)

    def run(x: list[Tensor]) -> Tensor:
        weight, bias = x[1], x[2] if len(x) > 2 else None
        function = F.conv1d if weight.dim() == 3 else F.conv2d
        spread = attributes.get("dilations", [1] * (weight.dim() - 2))
        data = F.pad(x[0], before) if before else x[0]
        return function(data, weight, bias, strides, around, spread, group)

    return run


def _average(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    around, before = _pads(attributes)
    kernel = attributes["kernel_shape"]
    if before or len(kernel) > 2:
        raise BackendError(f"The graph averages over {kernel} with uneven borders, which is not translated.")
    function, sides = (F.avg_pool1d, [1]) if len(kernel) == 1 else (F.avg_pool2d, [1, 1])
    around = around[: len(kernel)]  # where the graph names none there are two
    ceil, count = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    return lambda x: function(x[0], kernel, attributes.get("strides", sides), around, ceil, count)


def _gelu(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    kind = attributes.get("approximate", b"none").decode()
    return lambda x: F.gelu(x[0], approximate=kind)


def _pads(attributes: Attributes) -> tuple[list[int], list[int]]:
    """Borders as torch's own padding, and what has to be put around before where the two sides differ."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise BackendError("The graph leaves the borders of a convolution open, which is not translated.")
    pads = list(attributes.get("pads", [0, 0]))
    half = len(pads) // 2
    first, last = pads[:half], pads[half:]
    if first == last:
        return first, []
    return [0] * half, [side for pair in zip(first[::-1], last[::-1], strict=True) for side in pair]


def _expand(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda x: x[0].expand([-1 if size == 1 else size for size in numbers[1]])


def _flatten(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    if attributes.get("axis", 1) != 1:
        raise BackendError("The graph flattens the batch away, which is not translated.")
    return lambda x: x[0].flatten(1)


def _gather(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    axis, at = attributes.get("axis", 0), numbers.get(1)
    if isinstance(at, int):
        return lambda x: x[0].select(axis, at)

    def run(x: list[Tensor]) -> Tensor:
        data, index = x
        shape = [*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]]
        return data.index_select(axis, index.reshape(-1)).reshape(shape)

    return run


def _gemm(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)

    def run(x: list[Tensor]) -> Tensor:
        left = x[0].t() if attributes.get("transA", 0) else x[0]
        right = x[1].t() if attributes.get("transB", 0) else x[1]
        if len(x) < 3:
            return (left @ right) * alpha if alpha != 1 else left @ right
        return torch.addmm(x[2], left, right, beta=beta, alpha=alpha)

    return run


def _layer_norm(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    epsilon = attributes.get("epsilon", 1e-5)

    def run(x: list[Tensor]) -> Tensor:
        axis = attributes.get("axis", -1) % x[0].dim()
        return F.layer_norm(x[0], x[0].shape[axis:], x[1], x[2] if len(x) > 2 else None, epsilon)

    return run


def _pad(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    if attributes.get("mode", b"constant") != b"constant":
        raise BackendError("The graph pads with more than a constant, which is not translated.")

    def run(x: list[Tensor]) -> Tensor:
        axes = numbers.get(3) or range(x[0].dim())
        half, sides = len(numbers[1]) // 2, [0] * (2 * x[0].dim())
        for i, axis in enumerate(axes):
            at = 2 * (x[0].dim() - 1 - axis % x[0].dim())
            sides[at : at + 2] = numbers[1][i], numbers[1][half + i]
        return F.pad(x[0], sides, value=0.0) if len(x) < 2 else _padded(x[0], sides, x[1])

    return run


def _padded(x: Tensor, sides: list[int], value: Tensor) -> Tensor:
    """With a number that is a tensor: where the padding is not, `x`."""
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), sides, value=False)
    return torch.where(inside, F.pad(x, sides), value)


def _reshape(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    shape, zero = numbers[1], attributes.get("allowzero", 0)

    def run(x: list[Tensor]) -> Tensor:
        sizes = [x[0].shape[i] if size == 0 and not zero else size for i, size in enumerate(shape)]
        return x[0].reshape(sizes)

    return run


def _slice(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    starts, ends = numbers[1], numbers[2]
    steps = numbers.get(4) or [1] * len(starts)

    def run(x: list[Tensor]) -> Tensor:
        found, axes = [slice(None)] * x[0].dim(), numbers.get(3) or range(len(starts))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            found[axis] = slice(start, end, step)
        return x[0][tuple(found)]

    return run


def _split(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Any]:
    axis, sizes = attributes.get("axis", 0), numbers.get(1)

    def run(x: list[Tensor]) -> Any:
        return torch.split(x[0], sizes or -(-x[0].shape[axis] // outputs), axis)

    return run


def _squeeze(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda x: x[0].squeeze(tuple(numbers[1]))


def _transpose(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda x: x[0].permute(attributes["perm"])


def _unsqueeze(attributes: Attributes, numbers: Numbers, outputs: int) -> Callable[[list[Tensor]], Tensor]:
    def run(x: list[Tensor]) -> Tensor:
        rank = x[0].dim() + len(numbers[1])
        found = x[0]
        for axis in sorted(each % rank for each in numbers[1]):
            found = found.unsqueeze(axis)
        return found

    return run


OPERATORS: dict[str, Make] = {
    **{
        name: _plain(function)
        for name, function in {
            "Abs": torch.abs,
            "Add": torch.add,
            "And": torch.logical_and,
            "Div": torch.div,
            "Identity": lambda x: x,
            "Log": torch.log,
            "MatMul": torch.matmul,
            "Max": torch.maximum,
            "Mul": torch.mul,
            "Or": torch.logical_or,
            "Pow": torch.pow,
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "Sqrt": torch.sqrt,
            "Sub": torch.sub,
            "Tanh": torch.tanh,
            "Where": torch.where,
        }.items()
    },
    "AveragePool": _average,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along(torch.log_softmax, -1),
    "Pad": _pad,
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _along(torch.softmax, -1),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What is translated: all that the trainer's exports use, and nothing else."""
