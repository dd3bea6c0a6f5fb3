"""Bundles and back ends for the engine's tests."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from opened_engines import STAND_INS, opened
from small_bundle import VOICE, write_bundle

from engine.backends.base import GraphBackend
from engine.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from engine.errors import BackendError


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle, sizes as in the real one."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with a voice encoder, whose tokens the window model takes."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("spoken"), voice=VOICE))


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with two continuous attributes beside the labels."""
    folder = tmp_path_factory.mktemp("rated")
    return load_bundle(write_bundle(folder, attributes=["arousal", "valence"]))


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with a window of one second and ten ticks: no size may be taken for granted."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("short"), seconds=1, tick_hz=10))


@pytest.fixture(scope="session", params=["small", "live"])
def any_bundle(request: pytest.FixtureRequest, small: Bundle) -> Bundle:
    """The small bundle, then the one that ships."""
    if request.param == "small":
        return small
    if not Path(DEFAULT_BUNDLE, "manifest.json").is_file():
        pytest.skip("engine/bundles/live is not there yet")
    return load_bundle()


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which plans stay for all tests of a session."""
    return tmp_path_factory.mktemp("plans")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, plans: Path) -> Iterator[ModuleType]:
    """The stand-ins for TensorRT, pycuda and cuda-bindings in their places; the cache is `plans`."""
    pytest.importorskip("onnx")
    tensorrt, pycuda, graphs = map(
        importlib.import_module, ("tensorrt_standin", "pycuda_standin", "cuda_bindings_standin")
    )
    for name, module in {
        "tensorrt": tensorrt,
        "pycuda": ModuleType("pycuda"),
        "pycuda.driver": pycuda,
        "cuda": ModuleType("cuda"),
        "cuda.bindings": ModuleType("cuda.bindings"),
        "cuda.bindings.driver": graphs,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    # No kernel runs on a stand-in: flow is OpenCV's, whether numba is installed or not.
    monkeypatch.setattr("engine.cuda.flow.absent", lambda: "no kernel runs on a stand-in")
    monkeypatch.setattr(pycuda, "card", pycuda._Card())
    monkeypatch.setattr(tensorrt, "_faults", {})
    monkeypatch.setattr(graphs, "refused", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(plans))
    yield tensorrt
    assert not pycuda.card.current, "a context was left behind"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, plans: Path) -> None:
    """The stand-in for Inductor in its place; the cache is `plans`."""
    for package in ("torch", "onnx"):
        pytest.importorskip(package)
    importlib.import_module("inductor_standin").install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(plans))


@pytest.fixture(params=["onnx", "openvino", "onnx-cuda", *STAND_INS])
def engine(request: pytest.FixtureRequest, small: Bundle) -> str:
    """The name of each engine: those for CPUs that are installed, ONNX Runtime's CUDA provider where it opens
    on a card, and those that run plans as their stand-ins."""
    name: str = request.param
    if name in STAND_INS:
        request.getfixturevalue(STAND_INS[name])
    elif name == "onnx-cuda":
        try:
            opened(small, name)
        except BackendError as error:
            pytest.skip(str(error))
    else:
        pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[name])
    return name


@pytest.fixture
def backend(engine: str, any_bundle: Bundle) -> GraphBackend:
    """Each engine with each bundle."""
    return opened(any_bundle, engine)
