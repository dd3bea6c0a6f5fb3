"""The Inductor engine without a card: what is built, kept and refused, and in which words.

`inductor_standin.py` says what its stand-in leaves out; `test_inductor_gpu.py` has that. One test here
compiles for real, on the processor, where it is asked for: that takes minutes.
"""

import ctypes
import gc
import os
import platform
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, astuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from opened_engines import opened
from test_backends import faces, window_at

import engine.backends
from engine.backends import choose, torch_device
from engine.backends.inductor import (
    InductorBackend,
    encoder_fields,
    open_plan,
    voice_fields,
    window_fields,
)
from engine.backends.onnx import OnnxBackend
from engine.build import main
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.graph import read_ports
from engine.plans.parity import check_parity
from engine.plans.store import PlanKey, read_key, read_plan
from engine.signals.flow import Flow

pytest.importorskip("torch")
pytest.importorskip("onnx")

from engine.backends.torch_device import TorchDevice
from engine.plans.graphs import part_graphs
from engine.plans.inductor_build import compile_part

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: None) -> Path:
    """Where the command keeps its plans, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "de3-live" / "plans"


@pytest.fixture
def command(small: Bundle, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command on the small bundle: status, output, errors."""

    def run(*flags: str) -> tuple[int, str, str]:
        arguments = ["--engine", "inductor", "--bundle", str(small.path), "--max-streams", "2", *flags]
        return (main(arguments), *capfd.readouterr())

    return run


def test_a_plan_is_built_checked_kept_and_used(folder: Path, command: Command, small: Bundle) -> None:
    status, out, err = command()
    assert status == 0, err
    assert out.startswith("inductor ")
    assert "against ONNX Runtime: tokens' cosine 1.0000" in out
    assert "encoder: compiling, a minute or more" in err
    (file,) = folder.glob("*.plan")
    key = read_key(file)
    assert (key.bundle, key.precision, key.largest_batch) == (small.digest, "fp32", 2)
    assert set(read_plan(file).parts) == {"encoder", "score"}
    assert choose(small, "inductor").backend.name == "inductor"
    status, out, _ = command()
    assert f"There is a plan already: {file}" in out


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_half_precision_holds_parity(folder: Path, command: Command, kind: str) -> None:
    status, _, err = command("--precision", kind)
    assert status == 0, err
    (file,) = folder.glob("*.plan")
    assert read_key(file).precision == kind


def test_verify_checks_all_that_is_promised(folder: Path, command: Command) -> None:
    status, out, err = command("--verify")
    assert status == 0, out + err
    assert sum(line.startswith("ok   ") for line in out.splitlines()) >= 9
    assert "FAIL" not in out
    assert "2 at once: " in out


def test_auto_takes_it_where_a_plan_is_there(
    processor: None, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(small, "inductor")
    for package in ("tensorrt", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    choice = choose(small)
    assert choice.backend.name == "inductor"
    assert choice.reason.startswith("inductor: a plan for this machine is there (fp32, up to 4 tracks on ")
    monkeypatch.setattr("torch.__version__", "2.9.1")
    choice = choose(small)
    assert choice.backend.name == "onnx"
    assert "; not inductor: The plan of this bundle was built for inductor 2." in choice.reason
    assert "build one with python -m engine.build --engine inductor" in choice.reason


def test_auto_prefers_tensorrt_and_tries_inductor_behind_it(
    card: ModuleType, processor: None, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "inductor"):
        opened(small, name)
    assert choose(small).backend.name == "tensorrt"
    monkeypatch.setattr(sys.modules["pycuda.driver"].card, "name", "Other card")
    choice = choose(small)
    assert choice.backend.name == "inductor"
    assert "; not tensorrt: The plan of this bundle was built for Stand-in card" in choice.reason


def test_without_a_plan_auto_is_silent_of_it_and_the_engine_names_the_command(
    folder: Path, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.backends, "MEASURE_S", 0.05)
    assert "inductor" not in choose(small).reason  # torch may be there to train with
    with pytest.raises(BackendError, match="no inductor plan of this bundle yet: build one with python"):
        choose(small, "inductor")


def test_without_torch_or_a_card_it_says_so(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match=r"This torch .* is built without CUDA: install one"):
        choose(small, "inductor")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"finds no NVIDIA card, or no driver for CUDA 13\.0"):
        choose(small, "inductor")
    monkeypatch.setattr(torch.backends, "cudnn", ModuleType("of an older version"))
    with pytest.raises(BackendError, match=r"torch .* is too old, 2\.9 or newer is needed"):
        choose(small, "inductor")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"torch is not installed: pip install -e \"\.\[inductor\]\""):
        choose(small, "inductor")


def test_without_a_compiler_it_says_so(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = part_graphs(small, "fp32", 2)["encoder"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="no no-such-compiler here: install one"):
        compile_part(small, TorchDevice("cpu"), "encoder", graph, 2)


def test_what_torch_cannot_load_is_told_with_its_words(small: Bundle) -> None:
    device = TorchDevice("cpu")
    with pytest.raises(BackendError, match=r"cannot load the encoder of the plan \(.*: build it anew with"):
        open_plan(small, key(device, small), {"encoder": b"PK of another build", "score": b""}, device)
    with pytest.raises(BackendError, match="The plan has no score: build it anew"):
        open_plan(small, key(device, small), {"encoder": b""}, device)


def test_a_plan_cut_short_names_its_own_engine(folder: Path, command: Command, small: Bundle) -> None:
    assert command()[0] == 0
    (file,) = folder.glob("*.plan")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BackendError, match=r"cut short or altered: .* with .* --engine inductor"):
        choose(small, "inductor")


def test_a_precision_that_misses_parity_is_not_kept(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = InductorBackend._encoded
    monkeypatch.setattr(InductorBackend, "_encoded", lambda self, *given: -real(self, *given))
    status, _, err = command("--precision", "bf16")
    assert status == 1
    assert "bf16 misses parity with ONNX Runtime: " in err
    assert not list(folder.glob("*.plan"))


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "CUDA out of memory. Tried to allocate 20.00 GiB",
            "Not enough memory on processor (3 of 80 MiB are",
        ),
        ("CUDA error: an illegal memory access\nCompile with", "processor failed: CUDA error: an illegal"),
    ],
)
def test_what_the_card_refuses_is_told_in_a_sentence(
    processor: None, small: Bundle, monkeypatch: pytest.MonkeyPatch, message: str, sentence: str
) -> None:
    import torch

    backend = opened(small, "inductor")
    kind = torch.OutOfMemoryError if "memory." in message else RuntimeError
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 20, 80 << 20))

    def refuse(values: object) -> None:
        raise kind(message)

    monkeypatch.setattr(backend._encoder, "run", refuse)  # type: ignore[attr-defined]
    with pytest.raises(BackendError) as caught:
        backend.observe([0], [0], faces(1))
    assert str(caught.value).startswith(sentence)


def test_flow_made_where_the_crops_are_gives_the_same_scores(processor: None, small: Bundle) -> None:
    from inductor_standin import MemoryFlow

    backend, shown = opened(small, "inductor"), faces(7)
    assert isinstance(backend, InductorBackend)
    flow = MemoryFlow(Flow(small.flow).pair)
    other = InductorBackend(
        small, backend.key, backend._programs, backend._device, (flow, "flow on the card")
    )
    ready = flow.pairs
    for each in (backend, other):
        each.observe([0] * 7, range(53, 60), shown)
    window = window_at(small, 60, np.arange(60) >= 53)
    assert np.array_equal(backend.score([0], [window]).logits, other.score([0], [window]).logits)
    assert flow.pairs == ready + 8  # a batch of four, and three that run as four
    with np.load(small.parity) as samples:
        tokens = [each.encode(samples["crop"], samples["flow"]) for each in (backend, other)]
    assert np.array_equal(tokens[0][1], tokens[1][1])


def test_what_is_closed_is_let_go_at_once(processor: None, small: Bundle) -> None:
    """The collector would free what is on the card when it likes, also while a graph is captured."""
    from inductor_standin import MemoryFlow

    first, flow = opened(small, "inductor"), MemoryFlow(Flow(small.flow).pair)
    assert isinstance(first, InductorBackend)
    backend = InductorBackend(small, first.key, first._programs, first._device, (flow, "flow on the card"))
    left = [weakref.ref(flow), weakref.ref(backend)]
    gc.collect()
    gc.disable()
    try:
        backend.close()
        del flow
        assert left[0]() is None
        del backend
        assert left[1]() is None
    finally:
        gc.enable()


def test_nothing_is_collected_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    device, states = TorchDevice("cpu"), []
    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *given, **named: nullcontext())
    device._on_card, device._pool = True, None
    device._stream = SimpleNamespace(synchronize=lambda: None)
    assert device.capture(lambda: states.append(gc.isenabled())) is graph.replay
    assert states == [True, True, False]
    assert gc.isenabled()


def test_an_update_of_the_driver_or_another_processor_is_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert platform.machine() in TorchDevice("cpu").machine.host

    def tell(version: Any) -> int:
        version._obj.value = 13010
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=tell))
    assert torch_device._driver() == "13.1"

    def refuse(name: str) -> None:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(BackendError, match="No NVIDIA driver can be asked for its version"):
        torch_device._driver()


@pytest.mark.parametrize("error", [AssertionError(), KeyError("s0"), AttributeError("no 'meta'")])
def test_what_torchs_compiler_trips_over_is_told_in_a_sentence(
    small: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import torch

    def refuse(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("engine.plans.inductor_build.need_compiler", lambda: None)
    monkeypatch.setattr(torch.export, "export", refuse)
    graph = part_graphs(small, "fp32", 2)["encoder"]
    with pytest.raises(BackendError, match=rf"cannot compile the encoder graph: {type(error).__name__}"):
        compile_part(small, TorchDevice("cpu"), "encoder", graph, 2)


def test_convolutions_are_exact_for_the_time_being(processor: None) -> None:
    import torch

    before = torch.backends.cudnn.conv.fp32_precision
    with TorchDevice("cpu").exact():
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == before


@pytest.mark.parametrize("kind", ["rated", "spoken"])
def test_what_a_program_takes_is_what_its_graph_takes(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = request.getfixturevalue(kind)
    for name, graph in part_graphs(bundle, "fp32", 2).items():
        inputs, _ = read_ports(graph.SerializeToString())
        fields = {"encoder": encoder_fields, "score": window_fields, "voice": voice_fields}[name](bundle)
        for field in fields:
            port = inputs.pop(field.name)
            assert (port.dtype, port.shape[1:]) == (field.dtype.name, field.shape)
        assert set(inputs) == ({"ring", "state"} if name == "score" else set())


def key(device: TorchDevice, bundle: Bundle, precision: str = "fp32", streams: int = 4) -> PlanKey:
    return PlanKey(bundle=bundle.digest, precision=precision, largest_batch=streams, **asdict(device.machine))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torchs_compiler_for_the_processor_gives_the_same(spoken: Bundle, precision: str) -> None:
    """The real compiler and the real loader, which the stand-in leaves out."""
    if os.environ.get("DE3_COMPILE") != "1":
        pytest.skip("compiling takes minutes: DE3_COMPILE=1 asks for it")
    device = TorchDevice("cpu")
    graphs = part_graphs(spoken, precision, 4)
    with device.current():
        parts = {name: compile_part(spoken, device, name, graph, 4) for name, graph in graphs.items()}
    backend = open_plan(spoken, key(device, spoken, precision), parts, device)
    probabilities, logits = {"fp32": (1e-4, 1e-4), "fp16": (1e-2, 1e-2), "bf16": (1e-2, 5e-2)}[precision]
    assert max(astuple(check_parity(backend, spoken, precision))[1:]) < probabilities
    reference, shown = OnnxBackend(spoken), faces(9)
    windows = [window_at(spoken, 60, np.arange(60) >= 57)] * 3
    found: list[Any] = []
    for slot in range(3):
        backend.reset(slot)  # parity has overwritten the slow means
    for each in (backend, reference):
        each.observe([0, 1, 2] * 3, [57] * 3 + [58] * 3 + [59] * 3, shown)
        found.append(each.score([0, 1, 2], windows).logits)
    assert np.abs(found[0] - found[1]).max() < logits
    backend.close()
