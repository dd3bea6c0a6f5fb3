"""ONNX files as a bundle holds them: large weights at half precision, and nothing of where they were made."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

LEAST_HALVED = 64
ROUNDED_FROM = 20_000
"""For graphs whose weights are no halves (where norms lie in convolutions, say): small ones matter most."""
OPSET = 20


def write_graph(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    rounded_from: int | None = None,
) -> None:
    """Export a network; the first size of all inputs and outputs is free.

    inputs: examples, under `names`; outputs: the names of what it gives; rounded_from: see `halve`.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            graph,
            inputs,
            str(path),
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            verbose=False,
        )
    halve(path, rounded_from)
    forget_origins(path)


def forget_origins(path: Path) -> None:
    """Take out of a graph where each node's code lies on this machine; what it computes stays."""
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    onnx.save(model, path)


def halve(file: Path, rounded_from: int | None) -> None:
    """Keep large weights at half precision; the engine widens them once, when it loads them.

    Those that lose nothing by it, and those of at least `rounded_from` numbers, if that is given.
    """
    model = onnx.load(file)
    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= LEAST_HALVED and values.ndim > 1:
            name, half = weight.name, values.astype(np.float16)
            rounded = rounded_from is not None and values.size >= rounded_from
            if not rounded and not np.array_equal(half.astype(np.float32), values):
                continue
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    onnx.save(model, file)
