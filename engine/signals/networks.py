"""Small networks of the host: ONNX Runtime on one thread, whatever engine runs the emotion model."""

from typing import Any


def open_network(model: bytes) -> Any:
    """A session for a graph. Raises ValueError where it is none that ONNX Runtime can run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # those of ONNX Runtime share no narrower base
        raise ValueError("it is not a network that ONNX Runtime can run") from error
