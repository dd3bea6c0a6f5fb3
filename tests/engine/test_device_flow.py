"""Flow on the card, or on the host with the reason: whatever numba and CUDA's libraries lack."""

import gc
import sys
from types import ModuleType

import pytest

from engine.backends.device import Device
from engine.backends.device_flow import find_flow
from engine.cuda.flow import CudaFlow, absent
from engine.cuda.levels import levels
from engine.signals.flow import FlowParams

pytest.importorskip("numba.cuda")


def raising(error: Exception) -> object:
    def refuse(*given: object) -> None:
        raise error

    return refuse


def reason() -> str:
    flow, said = find_flow(FlowParams(), 112, 4)
    assert flow is None
    assert said.startswith("flow on the host with OpenCV: ")
    assert "\n" not in said
    return said


def test_without_a_driver_the_host_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba's own error, where it was believed to be ready and is not."""
    if absent() is None:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("engine.cuda.flow.absent", lambda: None)
    assert "CUDA does not run here: CudaSupportError" in reason()


def errors() -> list[Exception]:
    from numba.core.errors import TypingError
    from numba.cuda.cudadrv.driver import CudaAPIError, LinkerError
    from numba.cuda.cudadrv.error import NvvmSupportError

    found = [
        CudaAPIError(222, "the provided PTX was compiled with an unsupported toolchain\nptxas ..."),
        LinkerError("no libcudart"),
        NvvmSupportError("libNVVM cannot be found"),
        OSError("libnvrtc.so.13: cannot open shared object file"),
        TypingError("no such function"),
    ]
    try:
        from cuda.pathfinder import DynamicLibNotFoundError
    except ImportError:
        return found
    return [*found, DynamicLibNotFoundError('Failure finding "libnvvm.so"')]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_what_cannot_be_compiled_or_linked_falls_back(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("engine.cuda.flow.absent", lambda: None)
    monkeypatch.setattr(CudaFlow, "_allocate", lambda self, found: None)
    monkeypatch.setattr(CudaFlow, "_compile", raising(error))
    assert f"cannot compile the flow for this GPU ({type(error).__name__}: " in reason()


def test_libraries_that_cannot_be_loaded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda

    (*_, error) = errors()
    monkeypatch.setattr(cuda, "is_available", raising(error))
    assert f"numba cannot use what it finds of CUDA ({type(error).__name__}: " in str(absent())
    for broken in ("numba", "numba.cuda"):
        monkeypatch.setitem(sys.modules, broken, None)
    assert "numba is not installed" in str(absent())


def test_kernels_of_the_same_settings_are_the_same_and_are_compiled_once() -> None:
    from engine.cuda import kernels, refinement

    for level, again in zip(levels(112, FlowParams()), levels(112, FlowParams()), strict=True):
        for build in (kernels.sums_kernel, kernels.search_kernel, kernels.blend_kernel):
            assert build(level, FlowParams()) is build(again, FlowParams())
        for build in (kernels.slopes_kernel, kernels.grow_kernel):
            assert build(level.side) is build(again.side)
        refine = refinement.refine_kernel(level.side, FlowParams())
        assert refine is refinement.refine_kernel(again.side, FlowParams())
        assert refine is not refinement.refine_kernel(level.side, FlowParams(variational_iterations=1))


def test_nothing_is_collected_while_a_graph_is_captured(card: ModuleType) -> None:
    device, states = Device(), []
    with device.current():
        device.capture(lambda: states.append(gc.isenabled()))
        assert states == [False]
        assert gc.isenabled()
        with pytest.raises(KeyError):
            device.capture(raising(KeyError()))  # type: ignore[arg-type]
        assert gc.isenabled()
    device.close()
