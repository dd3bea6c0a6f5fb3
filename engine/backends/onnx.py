"""ONNX Runtime on the CPU: the default engine, one thread, which sleeps when there is nothing to do.

It knows nothing but the two graphs of a bundle. `engine.backends.base` says how data leaves it.
"""

import os
from pathlib import Path
from typing import Any

from engine.backends.base import Answers, Arrays, HostBackend, as_answers
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.types import Float32


class OnnxBackend(HostBackend):
    """Both graphs in ONNX Runtime. Raises BackendError where it is missing or refuses a graph."""

    name = "onnx"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._encoder = _session(bundle.frame_encoder)
        self._window_model = _session(bundle.window_model)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `HostBackend`."""
        v, o = self._encoder.run(["v", "o"], {"crop": crop, "flow": flow})
        return v, o

    def answers(self, inputs: Arrays) -> Answers:
        """See `HostBackend`."""
        return as_answers(self._window_model.run(list(self._outputs), dict(inputs)))


def _session(file: Path) -> Any:
    # Official builds since 1.29 report to their maker unless told not to before they are loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as raised
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed: pip install onnxruntime.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread would keep a core busy between scores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    refusals = (
        raised.Fail,
        raised.InvalidArgument,
        raised.InvalidGraph,
        raised.InvalidProtobuf,
        raised.NotImplemented,
        raised.RuntimeException,
    )
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise BackendError(f"ONNX Runtime does not run {file}: {error}") from error
