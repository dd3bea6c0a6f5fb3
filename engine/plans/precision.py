"""Casting a graph to half precision, where that is safe.

TensorRT 11 takes strongly typed networks only: each tensor has the type that the ONNX gives it, so precision
is a matter of the graph. Convolutions and products of matrices go to fp16 or bf16, and so does what only
moves, adds or scales their results. Softmax, logarithms, normalisation, means, powers and all that sees the
raw inputs stay fp32. This file knows nothing of engines or bundles; the cast graph leaves it as an ONNX model
with the same inputs and outputs.
"""

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PRECISIONS = ("fp32", "fp16", "bf16")
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": 3.3e38}

LEAST_OPSETS = {"fp32": 13, "fp16": 13, "bf16": 22}
"""ONNX knows convolutions in bf16 from 22 on."""
HEAVY = frozenset({"Conv", "MatMul", "Gemm"})
"""Where the time goes: always cast."""
LIGHT = frozenset(
    {"Relu", "Sigmoid", "Tanh", "Add", "Sub", "Mul", "AveragePool", "Identity", "Expand", "Gather"}
    | {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Split", "Concat", "Slice"}
)
"""Cast where everything they work on is half precision already, so that nothing is cast to and fro."""


def cast(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of `model` in `precision` ("fp32": as it is); inputs and outputs keep their types.

    Raises ValueError for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if opset(model) < LEAST_OPSETS[precision]:
        made = onnx.version_converter.convert_version(made, LEAST_OPSETS[precision])
        _hold_constants(made.graph)
    if precision == "fp32":
        return made
    _Cast(made, precision).run()
    return made


def _hold_constants(graph: onnx.GraphProto) -> None:
    """The converter's nodes that give a constant become initializers, in place."""
    for node in [each for each in graph.node if each.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


class _Cast:
    """One pass over the nodes in their order. `_low` holds the tensors that are half precision."""

    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        self._graph, self._precision = model.graph, precision
        self._kind = KINDS[precision]
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._float = {
            value.name
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._constants = {t.name: t for t in self._graph.initializer if t.data_type == TensorProto.FLOAT}
        self._low: set[str] = set()
        self._made: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        wanted = {output.name for output in self._graph.output}
        for node in list(self._graph.node):
            low = self._goes_low(node)
            for i, name in enumerate(node.input):
                node.input[i] = self._as(name, low)
            for i, name in enumerate(node.output):
                if low and name in wanted:  # the world sees fp32
                    node.output[i] = f"{name}_half"
                if low and (name in self._float or name in wanted):
                    self._low.add(node.output[i])
            self._nodes.append(node)
            for i, name in enumerate(node.output):
                if name.removesuffix("_half") in wanted and name in self._low:
                    self._nodes.append(
                        _cast_node(node.output[i], name.removesuffix("_half"), TensorProto.FLOAT)
                    )
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _goes_low(self, node: onnx.NodeProto) -> bool:
        constants = [self._constants[name] for name in node.input if name in self._constants]
        if node.op_type not in HEAVY | LIGHT or not all(map(self._fits, constants)):
            return False
        if node.op_type in HEAVY:
            return True
        moving = [name for name in node.input if name in self._float and name not in self._constants]
        return bool(moving) and all(name in self._low for name in moving)

    def _fits(self, tensor: onnx.TensorProto) -> bool:
        values = numpy_helper.to_array(tensor)
        return bool(np.all(np.abs(values) <= LARGEST[self._precision]))

    def _as(self, name: str, low: bool) -> str:
        """The name under which the tensor is to be had in half precision (`low`) or in fp32."""
        if name in self._constants and low:
            return self._once(f"{name}_half", name, constant=True)
        if name in self._float and low and name not in self._low:
            return self._once(f"{name}_half", name)
        if not low and name in self._low:
            return self._once(f"{name}_full", name)
        return name

    def _once(self, made: str, name: str, *, constant: bool = False) -> str:
        if made in self._made:
            return made
        self._made.add(made)
        if constant:
            values = numpy_helper.to_array(self._constants[name])
            self._graph.initializer.append(half_tensor(made, values, self._precision))
        else:
            kind = TensorProto.FLOAT if made.endswith("_full") else self._kind
            self._nodes.append(_cast_node(name, made, kind))
        return made


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators in a model; 0 where it uses none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def half_tensor(name: str, values: NDArray[np.float32], precision: str) -> onnx.TensorProto:
    """A constant in "fp16" or "bf16", rounded to nearest, ties to even."""
    if precision == "fp16":
        return numpy_helper.from_array(values.astype(np.float16), name)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True)


def low_share(model: onnx.ModelProto) -> float:
    """Share of the convolutions and products of matrices that run in half precision."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    heavy = [kinds.get(node.output[0]) for node in graph.node if node.op_type in HEAVY]
    return sum(kind in KINDS.values() for kind in heavy) / max(1, len(heavy))


def _cast_node(source: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [made], name=f"cast_{made}", to=kind)
