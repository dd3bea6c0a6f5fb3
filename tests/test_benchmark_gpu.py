"""The benchmarks on a real GPU: eager torch says there what it says on the CPU, and ceilings are found."""

import os

import pytest

from benchmarks.ceilings import ceilings
from benchmarks.eager import AnewBackend, TorchBackend
from benchmarks.engines import ANEW, NOTHING, gpu_there, open_engine
from benchmarks.signals import Recording, recorded
from benchmarks.timing import second_ms
from engine.backends.base import Backend
from engine.bundle import DEFAULT_BUNDLE, MANIFEST, Bundle, load_bundle
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Float32, Observation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Grid size"),
    pytest.mark.skipif(not (DEFAULT_BUNDLE / MANIFEST).is_file(), reason="engine/bundles/live is not there"),
]


@pytest.fixture(autouse=True)
def _gpu() -> None:
    """A GPU; where FAIL_WITHOUT_GPU is 1, none is an error."""
    if not gpu_there():
        say = pytest.fail if os.environ.get("FAIL_WITHOUT_GPU") == "1" else pytest.skip
        say("torch finds no NVIDIA GPU here")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def recording(bundle: Bundle) -> Recording:
    return recorded(bundle)


def scored(bundle: Bundle, backend: Backend, recording: Recording) -> Float32:
    """(L,) float32: the scores of a window full of faces, without sound."""
    stream = Stream(Recognition(bundle, backend))
    for tick in range(bundle.window.ticks):
        face = recording.faces[tick % len(recording.faces)]
        stream.add_observation(Observation(t_ns=(2 * tick + 1) * SECOND_NS // 30, seq=tick, face=face))
    return stream.scores(bundle.window.window_ns).scores


def test_eager_torch_says_the_same_on_the_gpu(bundle: Bundle, recording: Recording) -> None:
    expected = scored(bundle, TorchBackend(bundle), recording)
    for kind in (TorchBackend, AnewBackend):
        backend = kind(bundle, "cuda")
        assert "on the card" in backend.flow
        assert scored(bundle, backend, recording) == pytest.approx(expected, abs=0.01)


def test_its_stages_are_timed(bundle: Bundle, recording: Recording) -> None:
    for name in (ANEW, NOTHING):
        opened = open_engine(name, bundle)
        spent = second_ms(bundle, opened.backend, recording, 4, 2, host=not opened.on_gpu)
        assert all(spent[stage] > 0 for stage in ("sound", "windows", "rest", "all"))


def test_its_ceilings_are_found() -> None:
    found = ceilings(0.05, 0.1)["gpu"]
    assert found["bf16"] > found["fp32"] > 1e12
    assert found["fp16"] > found["fp32"]
    assert found["copy"] > 1e11
