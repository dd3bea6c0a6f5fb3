"""The TensorRT back end on the stand-in (no GPU, no TensorRT: `tensorrt_standin.py` says what that proves).

The fidelity tests run on it too. Here: rings, slow means, batches, flow on the card, graphs, memory.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from opened_engines import opened
from test_backends import faces, window_at

from engine.backends import choose
from engine.backends.device import Device
from engine.backends.device_flow import DeviceArray, find_flow
from engine.backends.layout import Field, Layout, sizes
from engine.backends.tensorrt import TensorRtBackend, machine
from engine.backends.tensorrt_parts import Library
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.store import find_plan, plan_folder, read_plan
from engine.signals.flow import Flow, FlowParams

TRACKS = 4


@pytest.fixture
def backend(card: ModuleType, small: Bundle) -> Iterator[TensorRtBackend]:
    found = opened(small, "tensorrt")
    assert isinstance(found, TensorRtBackend)
    yield found
    found.close()


def pycuda() -> Any:
    return sys.modules["pycuda.driver"]


def test_a_batch_costs_one_launch(backend: TensorRtBackend, small: Bundle) -> None:
    before = pycuda().card.launches
    backend.observe([0, 1, 2, 3, 0], [0, 0, 0, 0, 1], faces(5))
    assert pycuda().card.launches == before + 2
    backend.score([0, 1, 2], [window_at(small, 60)] * 3)
    assert pycuda().card.launches == before + 3


def test_closing_gives_all_memory_back(card: ModuleType, small: Bundle) -> None:
    found = opened(small, "tensorrt")
    assert isinstance(found, TensorRtBackend)
    assert pycuda().card.blocks
    found.close()
    assert not pycuda().card.blocks


class HostFlow:
    """A `DeviceFlow` for the stand-in's memory, by OpenCV."""

    def __init__(self, params: FlowParams) -> None:
        self._flow = Flow(params)
        self.calls = 0

    def __call__(
        self,
        count: int,
        stream: int,
        *,
        previous: DeviceArray,
        crop: DeviceArray,
        gap_ns: DeviceArray,
        flow: DeviceArray,
    ) -> None:
        def view(array: DeviceArray) -> Any:
            size = int(np.prod(array.shape)) * array.dtype.itemsize
            assert array.__cuda_array_interface__["data"] == (array.address, False)
            return pycuda().card.view(array.address, size).view(array.dtype).reshape(array.shape)

        def work() -> None:
            self.calls += 1
            old, new, gaps, out = map(view, (previous, crop, gap_ns, flow))
            for i in range(count):
                out[i] = self._flow.pair(old[i], new[i], int(gaps[i]))

        pycuda().card.streams[stream]._ask(work)


def test_flow_on_the_card_gives_the_same_scores(backend: TensorRtBackend, small: Bundle) -> None:
    library, device = Library(), Device()
    plan = read_plan(find_plan(small, machine(library, device), plan_folder()))
    flow = HostFlow(small.flow)
    other = TensorRtBackend(small, plan, library, device, (flow, "flow on the card"))
    ready = flow.calls
    shown = faces(7)
    for each in (backend, other):
        each.observe([0] * 7, range(53, 60), shown)
    window = window_at(small, 60, np.arange(60) >= 53)
    assert np.abs(backend.score([0], [window]).logits - other.score([0], [window]).logits).max() < 1e-5
    assert flow.calls == ready + 2
    with np.load(small.parity) as samples:
        tokens = [each.encode(samples["crop"], samples["flow"]) for each in (backend, other)]
    assert np.array_equal(tokens[0][1], tokens[1][1])
    other.close()


def test_without_numba_the_flow_is_opencvs_and_says_so(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    flow, word = find_flow(small.flow, small.crop.size, 4)
    assert flow is None
    assert word.startswith("flow on the host with OpenCV: ")


def test_too_little_memory_is_told_in_a_sentence(
    backend: TensorRtBackend, card: ModuleType, small: Bundle
) -> None:
    pycuda().card.total = sum(len(block) for block in pycuda().card.blocks.values()) + 3_000
    with pytest.raises(BackendError, match=r"Not enough memory .*: the plan needs .*--max-streams"):
        choose(small, "tensorrt")
    pycuda().card.total += 120_000
    with pytest.raises(BackendError, match=r"Not enough memory on .* \(\d+ of \d+ MiB are free\)"):
        choose(small, "tensorrt")


def test_a_context_that_cannot_be_made_is_told_with_tensorrts_words(
    backend: TensorRtBackend, card: Any, small: Bundle
) -> None:
    card._faults["context"] = "CUDA   out of memory"
    with pytest.raises(BackendError, match=r"cannot open .* \(CUDA out of memory\): there may be not"):
        choose(small, "tensorrt")


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_a_graph_that_cannot_be_made_is_told(
    backend: TensorRtBackend, small: Bundle, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "refused", {call})
    with pytest.raises(BackendError, match="CUDA graphs failed with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        choose(small, "tensorrt")


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ("tensorrt", r"TensorRT is not installed .*: pip install -e \"\.\[tensorrt\]\""),
        ("pycuda", r"pycuda is not installed: pip install"),
        ("pycuda.driver", r"No NVIDIA driver can be loaded here"),
        ("cuda.bindings.driver", r"cuda-bindings is not installed"),
    ],
)
def test_what_is_not_installed_is_named(
    card: ModuleType, small: Bundle, monkeypatch: pytest.MonkeyPatch, absent: str, sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BackendError, match=sentence):
        choose(small, "tensorrt")


def test_no_card_is_told(card: ModuleType, small: Bundle) -> None:
    pycuda().card.cards = 0
    with pytest.raises(BackendError, match="no NVIDIA card number 0: the driver finds 0"):
        choose(small, "tensorrt")


def test_auto_says_why_tensorrt_is_not_taken(
    card: ModuleType, small: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choice = choose(small)
    assert choice.backend.name == "onnx"
    command = f"python -m engine.build --engine tensorrt --bundle {small.path}"
    assert choice.reason.endswith(f"has no plan of this bundle: {command}")


def test_auto_takes_tensorrt_where_a_plan_fits(
    backend: TensorRtBackend, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = choose(small)
    assert choice.backend.name == "tensorrt"
    assert choice.reason.startswith(
        "tensorrt: a plan for this machine is there (fp32, up to 4 tracks on Stand-in card, flow on the host"
    )
    monkeypatch.setitem(sys.modules, "openvino", None)
    pycuda().card.name = "Other card"
    choice = choose(small)
    assert choice.backend.name == "onnx"
    assert "not tensorrt: The plan of this bundle was built for Stand-in card (here is" in choice.reason


def test_arrays_of_a_batch_lie_aligned_and_apart() -> None:
    fields = [Field("a", (3,), np.dtype(np.uint8)), Field("b", (), np.dtype(np.int64))]
    layout = Layout(fields, 100)
    assert layout.offsets == {"a": 0, "b": 512}
    assert layout.size == 512 + 1024
    views = layout.views(np.zeros(layout.size, np.uint8))
    assert {name: view.shape for name, view in views.items()} == {"a": (100, 3), "b": (100,)}


@pytest.mark.parametrize(("largest", "found"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_a_few_sizes_of_batch_get_a_graph(largest: int, found: list[int]) -> None:
    assert sizes(largest) == found
