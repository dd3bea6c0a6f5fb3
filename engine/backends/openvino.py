"""OpenVINO on the CPU: an extra, faster than ONNX Runtime on some processors.

It knows nothing but the two graphs of a bundle. `engine.backends.base` says how data leaves it.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from engine.backends.base import Answers, Arrays, HostBackend, as_answers
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.types import Float32

# Scores come one at a time: one thread, the shortest way, and fp32 wherever the processor offers less.
CONFIG = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoBackend(HostBackend):
    """Both graphs in OpenVINO. Raises BackendError where it is missing or refuses a graph."""

    name = "openvino"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        core = import_openvino().Core()
        self._encoder = _request(core, bundle.frame_encoder, ("v", "o"))
        self._window_model = _request(core, bundle.window_model, self._outputs)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `HostBackend`."""
        found = self._encoder.infer({"crop": crop, "flow": flow})
        return np.array(found["v"]), np.array(found["o"])

    def answers(self, inputs: Arrays) -> Answers:
        """See `HostBackend`."""
        found = self._window_model.infer(dict(inputs))
        return as_answers([found[name] for name in self._outputs])


def import_openvino() -> Any:
    """The package, without what it would tell its makers of every import: then it takes its own stub for it.

    Raises BackendError where it is missing or cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
            raise BackendError("OpenVINO is not installed: pip install openvino.") from error
        raise BackendError(f"OpenVINO cannot be imported ({error}): install it anew.") from error


def _request(core: Any, file: Path, outputs: tuple[str, ...]) -> Any:
    """A compiled graph that computes nothing but `outputs`."""
    openvino = import_openvino()
    try:
        model = core.read_model(str(file))
        results = [model.output(name) for name in outputs]
        wanted = openvino.Model([output.get_node() for output in results], model.get_parameters(), file.stem)
        return core.compile_model(wanted, "CPU", CONFIG).create_infer_request()
    except RuntimeError as error:
        raise BackendError(f"OpenVINO does not run {file}: {error}") from error
