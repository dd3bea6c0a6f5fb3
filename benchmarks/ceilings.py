"""What the machine itself can do: the most operations a second in each library, and bytes a second.

A large matrix product is all arithmetic, a large copy all memory. It knows nothing of models. Data leaves it
as plain maps; one thread on a CPU, the whole of a GPU.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.machine import JsonMap, gpu
from engine.errors import BackendError

SIDE, GPU_SIDE = 1024, 8192
COPY_BYTES, GPU_COPY_BYTES = 256 * 2**20, 2 * 2**30
LEAST_RUNS = 5


def ceilings(seconds: float = 1.0, scale: float = 1.0) -> JsonMap:
    """Operations a second of a matrix product by library, and bytes a second of a copy (read and written).

    seconds: for each of them. scale: of the sizes, for a quick try. What is not installed is left out.
    """
    side = max(int(SIDE * scale), 64)
    found: JsonMap = {"side": side, "numpy": _product(_numpy(side), side, seconds)}
    for name, make in (("onnx", _onnx), ("openvino", _openvino), ("torch", _torch)):
        try:
            found[name] = _product(make(side), side, seconds)
        except (ImportError, BackendError):  # the package, or what the engine says in its place
            continue
    found["copy"] = _copied(_numpy_copy(int(COPY_BYTES * scale)), int(COPY_BYTES * scale), seconds)
    if gpu() is not None:
        found["gpu"] = _on_the_gpu(seconds)
    return found


def _product(run: Callable[[], Any], side: int, seconds: float) -> float:
    return 2.0 * side**3 / _best(run, seconds)


def _copied(run: Callable[[], Any], size: int, seconds: float) -> float:
    return 2.0 * size / _best(run, seconds)


def _best(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest run: a ceiling is what is possible, not what is usual."""
    run()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < LEAST_RUNS or time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def _numpy(side: int) -> Callable[[], Any]:
    left = np.random.default_rng(0).random((side, side), dtype=np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, left, out=out)


def _numpy_copy(size: int) -> Callable[[], Any]:
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def _torch(side: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    left = torch.rand(side, side)
    out = torch.empty(side, side)
    return lambda: torch.mm(left, left, out=out)


def _onnx(side: int) -> Callable[[], Any]:
    from engine.backends.onnx import open_session

    with TemporaryDirectory(prefix="de3-bench-") as folder:
        session = open_session(_product_graph(Path(folder) / "product.onnx", side))
    left = np.random.default_rng(0).random((side, side), dtype=np.float32)
    return lambda: session.run(None, {"left": left})


def _openvino(side: int) -> Callable[[], Any]:
    from engine.backends.openvino import CONFIG, import_openvino

    with TemporaryDirectory(prefix="de3-bench-") as folder:
        file = _product_graph(Path(folder) / "product.onnx", side)
        request = import_openvino().Core().compile_model(str(file), "CPU", CONFIG).create_infer_request()
    left = np.random.default_rng(0).random((side, side), dtype=np.float32)
    return lambda: request.infer({"left": left})


def _product_graph(file: Path, side: int) -> Path:
    """An ONNX graph that multiplies what it is given by a matrix of its own."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(1).random((side, side), dtype=np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (side, side)) for name in ("left", "out")]
    node = helper.make_node("MatMul", ["left", "right"], ["out"])
    graph = helper.make_graph(
        [node], "product", ports[:1], ports[1:], [numpy_helper.from_array(weight, "right")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)
    return file


def _on_the_gpu(seconds: float) -> JsonMap:
    """In torch: products by precision, and a copy on the device."""
    import torch

    found: JsonMap = {}
    before = torch.get_float32_matmul_precision()
    for name, dtype, precision in (
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("fp16", torch.float16, "highest"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        left = torch.rand(GPU_SIDE, GPU_SIDE, device="cuda", dtype=dtype)

        def product(left: Any = left) -> None:
            torch.mm(left, left)
            torch.cuda.synchronize()

        found[name] = _product(product, GPU_SIDE, seconds)
    torch.set_float32_matmul_precision(before)
    source = torch.ones(GPU_COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    found["copy"] = _copied(copy, GPU_COPY_BYTES, seconds)
    return found
