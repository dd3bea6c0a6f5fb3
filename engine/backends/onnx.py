"""ONNX Runtime: on the CPU the default engine, one thread, which sleeps when there is nothing to do; or with
its CUDA provider on an NVIDIA card, where that is installed.

With a card the graphs run there and all else stays as it is: tokens on the host, flow by OpenCV, inputs
copied over for each batch. It knows nothing but the graphs of a bundle. `engine.backends.base` says how
data leaves it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.backends.base import Answers, Arrays, HostBackend, as_answers
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.signals.voice import VoiceEncoder, session_encoder
from engine.types import Float32

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Provider = str | tuple[str, dict[str, str]]


class OnnxBackend(HostBackend):
    """Both graphs in ONNX Runtime. Raises BackendError where it is missing or refuses a graph."""

    name = "onnx"
    providers: Sequence[Provider] = (CPU,)

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._encoder = open_session(bundle.frame_encoder, self.providers)
        self._window_model = open_session(bundle.window_model, self.providers)

    def encode(self, crop: Float32, flow: Float32) -> tuple[Float32, Float32]:
        """See `HostBackend`."""
        v, o = self._encoder.run(["v", "o"], {"crop": crop, "flow": flow})
        return v, o

    def answers(self, inputs: Arrays) -> Answers:
        """See `HostBackend`."""
        return as_answers(self._window_model.run(list(self._outputs), dict(inputs)))


class OnnxCudaBackend(OnnxBackend):
    """All graphs in ONNX Runtime's CUDA provider, fp32 in fp32.

    Raises BackendError where ONNX Runtime has no such provider, or quietly fell back to the processor.
    """

    name = "onnx-cuda"
    # What the provider cannot run stays on the processor. TF32 would round what goes into convolutions.
    providers = ((CUDA, {"use_tf32": "0"}), CPU)

    def __init__(self, bundle: Bundle) -> None:
        if (why := without_cuda(available_providers())) is not None:
            raise BackendError(why)
        super().__init__(bundle)
        sessions = [self._encoder, self._window_model]
        self._voice: VoiceEncoder | None = None
        if bundle.voice is not None:
            sessions.append(open_session(bundle.voice.encoder, self.providers))
            self._voice = session_encoder(sessions[-1])
        for session in sessions:
            if (why := fallen_back(session.get_providers())) is not None:
                raise BackendError(why)

    @property
    def voice(self) -> VoiceEncoder | None:
        """See `Backend`; on the card, too."""
        return self._voice


def available_providers() -> list[str]:
    """What this ONNX Runtime could compute on; none where it is not installed."""
    try:
        return list(_onnxruntime().get_available_providers())
    except BackendError:
        return []


def without_cuda(available: Sequence[str]) -> str | None:
    """Why there is no CUDA provider among those that are available, in one sentence; None where there is."""
    if CUDA in available:
        return None
    found = ", ".join(name.removesuffix("ExecutionProvider") for name in available) or "nothing"
    return (
        f"This ONNX Runtime computes on {found} alone: pip install onnxruntime-gpu in place of onnxruntime."
    )


def fallen_back(taken: Sequence[str]) -> str | None:
    """Why a session that was to run on the card does not, in one sentence; None where it does."""
    if taken and taken[0] == CUDA:
        return None
    return (
        "ONNX Runtime fell back to the processor, so its CUDA provider cannot be loaded: check the driver, "
        "and that CUDA and cuDNN are of the versions it was built for."
    )


def _onnxruntime() -> Any:
    # Official builds since 1.29 report to their maker unless told not to before they are loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed: pip install onnxruntime.") from error
    return onnxruntime


SLOWER = ("SkipLayerNormFusion",)
"""What ONNX Runtime would fuse: the window model takes 3 to 5 % longer with it (1.32, one thread)."""


def open_session(file: Path, providers: Sequence[Provider] = (CPU,)) -> Any:
    """A session of one thread. Raises BackendError where ONNX Runtime is missing or refuses the graph."""
    onnxruntime = _onnxruntime()
    raised = onnxruntime.capi.onnxruntime_pybind11_state
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
        return onnxruntime.InferenceSession(
            str(file), options, providers=list(providers), disabled_optimizers=[*SLOWER]
        )
    except refusals as error:
        raise BackendError(f"ONNX Runtime does not run {file}: {error}") from error
