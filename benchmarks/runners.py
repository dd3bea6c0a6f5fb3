"""One network with one input, on ONNX Runtime, in eager PyTorch, or compiled by it: what the peers run on.

It knows nothing of what the networks are for. Data leaves it as `Times`.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost import Times
from benchmarks.eager import AbsentEngineError
from benchmarks.engines import gpu_there

ENGINES = ("onnx", "torch", "inductor")
OPSET = 20


@dataclass(slots=True)
class Runner:
    """clock: which of a `Times`' figures counts, "cpu" or, where a GPU computes, "wall"."""

    clock: str
    _prepare: Callable[[Any], Callable[[], Any]]

    def times(self, shape: tuple[int, ...], runs: int) -> Times:
        """So many runs on noise of this shape, after one that does not count."""
        given = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        run, times = self._prepare(given), Times(warm=1)
        for _ in range(runs + 1):
            times.call(run)
        return times


def open_runner(name: str, network: Any, shape: tuple[int, ...], folder: Path) -> Runner:
    """A network on an engine; `folder` is for its files. Raises AbsentEngineError where it cannot be had."""
    if name == "onnx":
        return _on_onnx(network, shape, folder / "network.onnx")
    if name == "torch":
        return _in_torch(network)
    if not gpu_there():
        raise AbsentEngineError("inductor is for GPUs, and torch finds none here.")
    import torch

    return _in_torch(torch.compile(network.cuda(), mode="reduce-overhead", dynamic=False))


def operations(network: Any, shape: tuple[int, ...]) -> float:
    """Additions and multiplications in convolutions and matrix products, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape))
    return float(counter.get_total_flops())


def _in_torch(network: Any) -> Runner:
    import torch

    torch.set_num_threads(1)
    device = "cuda" if gpu_there() else "cpu"
    network = network.to(device)

    def prepare(given: Any) -> Callable[[], Any]:
        fed = torch.from_numpy(given).to(device)

        def run() -> None:
            with torch.inference_mode():
                network(fed)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    return Runner("cpu" if device == "cpu" else "wall", prepare)


def _on_onnx(network: Any, shape: tuple[int, ...], file: Path) -> Runner:
    try:
        from engine.backends.onnx import open_session

        export(network.cpu(), shape, file)
    except ImportError as error:
        raise AbsentEngineError(f"{error.name} is not installed, so nothing is exported.") from error
    session = open_session(file)
    return Runner("cpu", lambda given: lambda: session.run(None, {"given": given}))


def export(network: Any, shape: tuple[int, ...], file: Path) -> None:
    """Write the network as an ONNX graph of any batch. Raises ImportError where something lacks."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nothing needs
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            network,
            (torch.zeros(2, *shape[1:]),),
            str(file),
            input_names=["given"],
            output_names=["found"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            verbose=False,
        )
