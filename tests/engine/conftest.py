"""Bundles and back ends for the engine's tests."""

from pathlib import Path

import pytest
from small_bundle import write_bundle

from engine.backends import choose
from engine.backends.base import HostBackend
from engine.bundle import DEFAULT_BUNDLE, Bundle, load_bundle


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle, sizes as in the real one."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle")))


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


@pytest.fixture(params=["onnx", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each CPU engine that is installed."""
    name: str = request.param
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[name])
    return name


@pytest.fixture
def backend(engine: str, any_bundle: Bundle) -> HostBackend:
    """Each engine with each bundle."""
    opened = choose(any_bundle, engine).backend
    assert isinstance(opened, HostBackend)
    return opened
