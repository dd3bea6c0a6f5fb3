"""How many operations and bytes it takes: counted from ONNX graphs, and from the settings of flow and mel.

An operation is one addition or one multiplication of numbers. It knows nothing of time or machines. Data
leaves it as `Work`. Needs the package `onnx`, nothing else beside NumPy.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import Bundle
from engine.cuda.levels import Level, levels
from engine.signals.flow import FlowParams
from engine.signals.sound import MelParams, filterbank
from engine.signals.voice import CHUNK

PRODUCTS = ("Conv", "Gemm", "MatMul")
A_NUMBER = {"LayerNormalization": 8, "Softmax": 5, "LogSoftmax": 5, "ReduceLogSumExp": 4, "Sigmoid": 4}
"""Operations for each number that comes out; 1 where none is named, and 0 for what only moves numbers."""
MOVES = frozenset(
    ("Cast", "Concat", "Expand", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose",
     "Unsqueeze", "Where", "Shape", "Constant", "ConstantOfShape", "Flatten")
)  # fmt: skip

SEARCH, BLEND, TERMS, RELAX, SHRINK = 16, 14, 131, 28, 2
"""Operations that the kernels of `engine.cuda` spend on a pixel: of a patch in an iteration, of a patch when
all are blended, of the level before the sweeps of an iteration, in a sweep, and of the crop when it is
shrunk."""
SWEEPS = 5


@dataclass(frozen=True, slots=True)
class Work:
    """What something takes. products: operations within convolutions and matrix products; others: the rest.

    least_bytes: weights, inputs and outputs, each moved once, as if all else stayed in registers and caches.
    bytes: what moves where every operator reads its inputs from memory and writes its outputs there.
    """

    products: float = 0.0
    others: float = 0.0
    least_bytes: float = 0.0
    bytes: float = 0.0

    @property
    def operations(self) -> float:
        """All of them."""
        return self.products + self.others

    def times(self, count: float) -> "Work":
        """The same so often; each time everything moves again."""
        return Work(*(count * each for each in (self.products, self.others, self.least_bytes, self.bytes)))

    def plus(self, other: "Work") -> "Work":
        """Both."""
        return Work(
            self.products + other.products,
            self.others + other.others,
            self.least_bytes + other.least_bytes,
            self.bytes + other.bytes,
        )


def of_graph(file: Path, batch: int = 1) -> Work:
    """A whole run of an ONNX graph whose inputs' first free size is the batch.

    Raises ValueError where a size inside depends on values.
    """
    whole, least = Work(), 0.0
    for _, work in _nodes(file, batch):
        whole = whole.plus(work)
    _, sizes, weights, ports = _shaped(file, batch)
    least = sum(_bytes(sizes[name]) for name in ports) + sum(_bytes(sizes[name]) for name in weights)
    return Work(whole.products, whole.others, least, whole.bytes)


def by_operator(file: Path, batch: int = 1) -> dict[str, Work]:
    """The same by the operators' names, `least_bytes` left out."""
    found: dict[str, Work] = defaultdict(Work)
    for operator, work in _nodes(file, batch):
        found[operator] = found[operator].plus(work)
    return dict(found)


def of_flow(crop_size: int, params: FlowParams) -> Work:
    """The flow of one pair, by the loops of `engine.cuda`; every patch is taken to use all its iterations."""
    total = 2.0 * SHRINK * crop_size**2
    for level in levels(crop_size, params):
        total += _of_level(level, params)
    moved = 2 * crop_size**2 + 2 * params.size**2 * 4
    return Work(others=total + 3 * crop_size**2, least_bytes=moved, bytes=moved)


def of_mel(params: MelParams, frames: int) -> Work:
    """So many frames of log-mel: taper, transform (5/2 n log2 n), power, filters, logarithm."""
    taps = int((filterbank(params) > 0).sum())
    transform = 2.5 * params.n_fft * math.log2(params.n_fft)
    each = params.window + transform + 3 * (params.n_fft // 2 + 1) + 2 * taps + params.bands
    moved = frames * (params.hop + params.bands) * 4
    return Work(others=frames * each, least_bytes=moved, bytes=moved)


def stream_second(bundle: Bundle, batch: int, scores_hz: int) -> dict[str, Work]:
    """What a stream takes in a second, by stage, of `batch` streams that go through together."""
    window = bundle.window
    share = 1 / batch
    works = {
        "flow": of_flow(bundle.crop.size, bundle.flow).times(window.tick_hz),
        "frame encoder": of_graph(bundle.frame_encoder, batch).times(window.tick_hz * share),
        "log-mel": of_mel(bundle.mel, window.mel_hz),
        "window model": of_graph(bundle.window_model, batch).times(scores_hz * share),
    }
    if bundle.voice is not None:
        works["voice encoder"] = of_graph(bundle.voice.encoder, batch).times(window.mel_hz / CHUNK * share)
    return works


def _of_level(level: Level, params: FlowParams) -> float:
    patch_pixels = level.patches**2 * params.patch_size**2
    search = patch_pixels * (SEARCH * params.gradient_descent_iterations + BLEND)
    refinement = level.side**2 * params.variational_iterations * (TERMS + SWEEPS * RELAX)
    return float(search + refinement)


Sizes = dict[str, tuple[tuple[int, ...], int]]
"""Shape and bytes a number, by the tensor's name."""


def _shaped(file: Path, batch: int) -> tuple[Any, Sizes, list[str], list[str]]:
    """A graph, the sizes of all its tensors, the names of its weights and of its inputs and outputs."""
    import onnx
    from onnx import helper

    model = onnx.load(file)
    for port in model.graph.input:
        for size in port.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = batch
    for port in model.graph.output:
        port.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes: Sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if not all(size.HasField("dim_value") for size in tensor.shape.dim):
            raise ValueError(f"{file}: the size of {value.name} depends on values")
        shape = tuple(size.dim_value for size in tensor.shape.dim)
        sizes[value.name] = (shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize)
    weights = [each.name for each in graph.initializer]
    for each in graph.initializer:
        sizes[each.name] = (tuple(each.dims), helper.tensor_dtype_to_np_dtype(each.data_type).itemsize)
    ports = [port.name for port in (*graph.input, *graph.output) if port.name not in weights]
    return graph, sizes, weights, ports


def _nodes(file: Path, batch: int) -> Iterator[tuple[str, Work]]:
    graph, sizes, _, _ = _shaped(file, batch)
    for node in graph.node:
        named = [name for name in (*node.input, *node.output) if name]
        if missing := [name for name in named if name not in sizes]:
            raise ValueError(f"{file}: the size of {missing[0]} is not known")
        shapes = {name: sizes[name][0] for name in named}
        moved = float(sum(_bytes(sizes[name]) for name in named))
        count = _count(shapes[node.output[0]])
        if node.op_type in PRODUCTS:
            yield node.op_type, Work(products=2.0 * count * _inner(node, shapes), bytes=moved)
        elif node.op_type in MOVES:
            yield node.op_type, Work(bytes=moved)
        else:
            most = max(_count(shapes[name]) for name in named)  # a reduction goes over its input
            yield node.op_type, Work(others=float(most * A_NUMBER.get(node.op_type, 1)), bytes=moved)


def _inner(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """How many products are summed for each number that comes out."""
    first, second = (shapes[name] for name in node.input[:2])
    if node.op_type == "Conv":
        return _count(second[1:])
    if node.op_type == "Gemm":
        turned = any(each.name == "transA" and each.i for each in node.attribute)
        return first[0] if turned else first[1]
    return first[-1]


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _bytes(size: tuple[tuple[int, ...], int]) -> int:
    return _count(size[0]) * size[1]
