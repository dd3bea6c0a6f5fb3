"""ONNX in torch's words: every operator that is translated says what ONNX Runtime says."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from engine.bundle import Bundle  # noqa: E402
from engine.errors import BackendError  # noqa: E402
from engine.plans.graphs import part_graphs  # noqa: E402
from engine.plans.programs import OPERATORS, OnnxProgram, as_tensor  # noqa: E402

HEAD = '<ir_version: 8, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {body}'
IMAGE, ROWS, PAIR = "float[N,4,6,8] x", "float[N,6,8] x", "float[N,8] x, float[N,8] y"

CASES: dict[str, tuple[str, str, str]] = {
    "uneven borders": (IMAGE, "y", "y = Conv <pads = [1,0,2,1], strides = [2,1]> (x, w_conv)"),
    "even borders": (IMAGE, "y", "y = Conv <pads = [1,1,1,1], dilations = [1,1]> (x, w_conv, b_conv)"),
    "one dimension": ("float[N,4,9] x", "y", "y = Conv <group = 4, pads = [1,1]> (x, w_depth)"),
    "average": (IMAGE, "y", "y = AveragePool <kernel_shape = [2,2], strides = [2,2]> (x)"),
    "average with borders": (
        IMAGE,
        "y",
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)",
    ),
    "average along one axis": ("float[N,4,9] x", "y", "y = AveragePool <kernel_shape = [3]> (x)"),
    "the larger": (PAIR, "z", 'a = Gelu (x)\nb = Gelu <approximate = "tanh"> (y)\nz = Max (a, b)'),
    "products": (PAIR, "z", "t = Gemm <alpha = 0.5, transB = 1> (x, w_gemm)\nz = MatMul (t, w_mat)"),
    "product and sum": (PAIR, "z", "z = Gemm <beta = 2.0> (x, w_square, b_gemm)"),
    "arithmetic": (
        PAIR,
        "z",
        "a = Abs (x)\nb = Add (a, one)\nc = Sqrt (b)\nd = Div (y, c)\ne = Sub (d, x)\nf = Pow (e, two)\n"
        "g1 = Mul (f, y)\nh = Tanh (g1)\ni = Sigmoid (h)\nj = Log (i)\nk = Relu (j)\nz = Identity (k)",
    ),
    "clip both": (PAIR, "z", "z = Clip (x, low, one)"),
    "clip above": (PAIR, "z", "z = Clip (x, , one)"),
    "masks": (
        "bool[N,6] m, bool[N,6] n, float[N,6] x",
        "z",
        "a = And (m, n)\nb = Or (a, m)\nc = Cast <to = 1> (b)\nd = Where (n, x, c)\nz = Add (d, c)",
    ),
    "whole numbers": ("int32[N,6] i", "z", "a = Cast <to = 7> (i)\nz = Cast <to = 1> (a)"),
    "shapes": (
        ROWS,
        "z",
        "a = Reshape (x, as_pairs)\nb = Transpose <perm = [0,2,1,3]> (a)\nc = Flatten (b)\n"
        "d = Unsqueeze (c, middle)\nz = Expand (d, wide)",
    ),
    "squeeze": ("float[N,1,8] x", "z", "z = Squeeze (x, middle)"),
    "pieces": (
        ROWS,
        "z",
        "a, b = Split <axis = 2> (x, sizes)\nc, d = Split <axis = 1, num_outputs = 2> (x)\n"
        "e = Slice (x, start, end, last, stride)\nf = Concat <axis = 2> (a, b)\n"
        "h = Concat <axis = 1> (d, c)\ni = ReduceSum (e, last)\nj = Add (f, h)\nz = Add (j, i)",
    ),
    "one of them": (ROWS, "z", "z = Gather <axis = 1> (x, third)"),
    "some of them": (ROWS, "z", "z = Gather <axis = 1> (x, chosen)"),
    "padding": ("float[N,6] x", "z", "z = Pad (x, around, one)"),
    "padding of an axis": (ROWS, "z", "z = Pad (x, side, low, last)"),
    "padding with nothing": (ROWS, "z", "z = Pad (x, all_around)"),
    "sums": (
        ROWS,
        "z",
        "a = ReduceMean (x, last)\nb = ReduceMax (x, last)\nc = ReduceLogSumExp (x, last)\n"
        "d = ReduceSum <noop_with_empty_axes = 1> (x)\ne = Add (a, b)\nf = Add (c, d)\nz = Add (e, f)",
    ),
    "shares": (ROWS, "z", "a = Softmax <axis = 1> (x)\nb = LogSoftmax (x)\nz = Add (a, b)"),
    "norm": (ROWS, "z", "z = LayerNormalization <epsilon = 0.001> (x, gain, shift)"),
    "norm without shift": (ROWS, "z", "z = LayerNormalization (x, gain)"),
}

INTEGERS = {
    "as_pairs": [0, 0, 4, 2],
    "middle": [1],
    "wide": [1, 3, 1],
    "sizes": [3, 5],
    "start": [1],
    "end": [2**63 - 1],
    "last": [2],
    "stride": [2],
    "third": 2,
    "chosen": [3, 0, 5],
    "around": [0, 1, 0, 2],
    "side": [1, 2],
    "all_around": [0, 1, 0, 0, 0, 2],
}


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {
        "w_conv": (5, 4, 3, 3),
        "b_conv": (5,),
        "w_depth": (4, 1, 3),
        "w_gemm": (3, 8),
        "w_mat": (3, 2),
        "w_square": (8, 4),
        "b_gemm": (4,),
        "gain": (8,),
        "shift": (8,),
    }
    found: dict[str, np.ndarray] = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    found |= {name: np.float32(value) for name, value in {"one": 1, "two": 2, "low": -0.5}.items()}  # type: ignore[misc]
    return found | {name: np.array(value, dtype=np.int64) for name, value in INTEGERS.items()}


def model(inputs: str, outputs: str, body: str) -> onnx.ModelProto:
    """A graph from ONNX's own text, its constants filled in, the shape of its output left to be inferred."""
    text = HEAD.format(inputs=inputs, outputs=f"float[] {outputs}", body="{" + body + "}")
    made = onnx.parser.parse_model(text)
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants().items()
        if name in used
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def drawn(graph: onnx.GraphProto, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found: dict[str, np.ndarray] = {}
    for value in graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or rows for size in kind.shape.dim]
        numbers = rng.standard_normal(shape)
        dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[value.name] = numbers > 0 if dtype == np.bool_ else (3 * numbers).astype(dtype)
    return found


@pytest.mark.parametrize("case", CASES)
def test_an_operator_does_what_onnx_runtime_does(case: str) -> None:
    made = model(*CASES[case])
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    program = OnnxProgram(made, [value.name for value in made.graph.input])
    for rows in (1, 3):
        given = drawn(made.graph, rows)
        (expected,) = session.run(None, given)
        (found,) = program(*(torch.from_numpy(value) for value in given.values()))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_every_operator_that_is_translated_was_tried() -> None:
    tried = {node.op_type for case in CASES.values() for node in model(*case).graph.node}
    assert tried == set(OPERATORS)


def test_all_graphs_of_a_plan_are_translated(any_bundle: Bundle) -> None:
    for precision in ("fp32", "fp16", "bf16"):
        for graph in part_graphs(any_bundle, precision, 2).values():
            OnnxProgram(graph, [value.name for value in graph.graph.input])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("y = Erf (x)", "has the operator Erf, which is not translated"),
        ("s = Shape (x)\ny = Reshape (x, s)", "has the operator Shape"),
        ("y = Reshape (x, x)", "Reshape in the graph takes a shape that is worked out on the way"),
        ("y = Cast <to = 8> (x)", "casts to the ONNX type 8"),
        ("y = Flatten <axis = 0> (x)", "flattens the batch away"),
        ('y = Pad <mode = "edge"> (x, all_around)', "pads with more than a constant"),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, w_conv)', "leaves the borders of a convolution open"),
        ("y = AveragePool <kernel_shape = [1, 1, 3]> (x)", r"averages over \[1, 1, 3\]"),
    ],
)
def test_what_is_not_translated_is_named(body: str, sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        OnnxProgram(model(ROWS, "y", body), ["x"])


def test_half_precision_comes_over_bit_by_bit() -> None:
    from engine.plans.precision import half_tensor

    values = np.array([1.0, -3.140625, 1e-3, 6e4], dtype=np.float32)
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        found = as_tensor(half_tensor("x", values, precision))
        assert found.dtype == dtype
        assert torch.equal(found, torch.from_numpy(values).to(dtype))
