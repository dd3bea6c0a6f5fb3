"""A STAND-IN for the part of `cuda.bindings.driver` that captures and launches graphs, over `pycuda_standin`.

Nothing here is CUDA: a graph is the list of what was asked of the stream while it was captured.
"""

import enum
from collections.abc import Callable
from typing import Any

import pycuda_standin


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUstream:
    def __init__(self, init_value: int = 0) -> None:
        self._stream = pycuda_standin.card.streams[init_value]


Graph = list[Callable[[], None]]
refused: set[str] = set()
"""Names of calls that fail."""


def _answer(name: str, *rest: Any) -> tuple[Any, ...]:
    failed = name in refused
    status = CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED if failed else CUresult.CUDA_SUCCESS
    return (status, *rest)


def cuStreamBeginCapture(hStream: CUstream, mode: CUstreamCaptureMode) -> tuple[Any, ...]:  # noqa: N802, N803
    assert not hStream._stream._waiting, "a capture begins on an idle stream"
    hStream._stream._captured = []
    return _answer("cuStreamBeginCapture")


def cuStreamEndCapture(hStream: CUstream) -> tuple[Any, ...]:  # noqa: N802, N803
    captured, hStream._stream._captured = hStream._stream._captured, None
    return _answer("cuStreamEndCapture", captured)


def cuGraphInstantiate(hGraph: Graph, flags: int) -> tuple[Any, ...]:  # noqa: N802, N803
    return _answer("cuGraphInstantiate", list(hGraph))


def cuGraphLaunch(hGraphExec: Graph, hStream: CUstream) -> tuple[Any, ...]:  # noqa: N802, N803
    pycuda_standin.card.launches += 1
    for work in hGraphExec:
        hStream._stream._ask(work)
    return _answer("cuGraphLaunch")


def cuGraphDestroy(hGraph: Graph) -> tuple[Any, ...]:  # noqa: N802, N803
    return _answer("cuGraphDestroy")


def cuGraphExecDestroy(hGraphExec: Graph) -> tuple[Any, ...]:  # noqa: N802, N803
    return _answer("cuGraphExecDestroy")
