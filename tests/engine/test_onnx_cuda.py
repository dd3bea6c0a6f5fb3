"""ONNX Runtime's CUDA provider: what is said where it is missing, and what it keeps to where it is there."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_backends import faces, window_at

import engine.backends.onnx as onnx_module
from engine.backends import choose
from engine.backends.onnx import (
    CPU,
    CUDA,
    OnnxBackend,
    OnnxCudaBackend,
    available_providers,
    fallen_back,
    without_cuda,
)
from engine.build import main
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.plans.verify import verify


@pytest.mark.parametrize(
    ("available", "word"),
    [
        ([CUDA, CPU], None),
        (["TensorrtExecutionProvider", CUDA, CPU], None),
        (["AzureExecutionProvider", CPU], "computes on Azure, CPU alone: pip install onnxruntime-gpu"),
        ([], "computes on nothing alone"),
    ],
)
def test_a_provider_that_is_missing_is_told(available: list[str], word: str | None) -> None:
    found = without_cuda(available)
    assert found is None if word is None else word in str(found)


@pytest.mark.parametrize(("taken", "fell"), [([CUDA, CPU], False), ([CPU], True), ([], True)])
def test_a_session_that_fell_back_is_told(taken: list[str], fell: bool) -> None:
    found = fallen_back(taken)
    assert (found is not None) == fell
    assert not fell or "fell back to the processor" in str(found)


def test_without_the_provider_the_engine_is_refused_and_auto_is_silent(
    small: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if CUDA in available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(BackendError, match=r"This ONNX Runtime computes on .*CPU alone"):
        choose(small, "onnx-cuda")
    for package in ("tensorrt", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    assert choose(small).reason == "onnx: the only engine installed"
    assert main(["--engine", "onnx-cuda", "--bundle", str(small.path), "--verify"]) == 1
    assert capsys.readouterr().err.startswith("This ONNX Runtime computes on ")


def test_a_provider_that_does_not_load_is_passed_over_and_named(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session on the CPU alone is what ONNX Runtime opens where CUDA's libraries cannot be loaded."""
    for package in ("tensorrt", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(onnx_module, "available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(OnnxCudaBackend, "providers", (CPU,))
    choice = choose(small)
    assert choice.backend.name == "onnx"
    assert "; not onnx-cuda: ONNX Runtime fell back to the processor" in choice.reason
    with pytest.raises(BackendError, match="fell back to the processor"):
        choose(small, "onnx-cuda")


@pytest.fixture
def backend(any_bundle: Bundle) -> Iterator[OnnxCudaBackend]:
    """On the card, or not at all."""
    try:
        yield OnnxCudaBackend(any_bundle)
    except BackendError as error:
        pytest.skip(str(error))


def test_on_a_card_it_keeps_what_is_promised(backend: OnnxCudaBackend, any_bundle: Bundle) -> None:
    assert [check for check in verify(backend, any_bundle, "fp32", 16) if not check.passed] == []


def test_on_a_card_tracks_are_those_of_the_cpu(backend: OnnxCudaBackend, any_bundle: Bundle) -> None:
    found: list[Any] = []
    for each in (backend, OnnxBackend(any_bundle)):
        each.observe([0, 1] * 30, [tick for tick in range(30, 60) for _ in range(2)], faces(60))
        mask = np.arange(60) >= 30
        found.append(each.score([0, 1], [window_at(any_bundle, 60, mask)] * 2).logits)
    assert np.abs(found[0] - found[1]).max() < 1e-3


def test_auto_takes_it_where_it_opens(backend: OnnxCudaBackend, small: Bundle) -> None:
    assert choose(small, "onnx-cuda").reason.startswith("onnx-cuda: asked for (fp32, flow on the host")
