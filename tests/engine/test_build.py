"""Building plans on the stand-in: the command, what is kept, what is refused and in which words."""

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from small_bundle import write_bundle

from engine.backends import choose
from engine.build import PRECISIONS, Builder, Progress, main, parser
from engine.bundle import Bundle, load_bundle
from engine.errors import BackendError
from engine.plans import precision
from engine.plans.graphs import encoder_graph, part_graphs
from engine.plans.store import (
    Machine,
    Plan,
    PlanKey,
    build_command,
    find_plan,
    read_key,
    read_plan,
    write_plan,
)

MACHINE = Machine(engine="tensorrt 11.4.0.106", device="H100", compute_capability="9.0", driver="13.0")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: ModuleType) -> Path:
    """Where the command keeps its plans, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "de3-live" / "plans"


@pytest.fixture
def command(small: Bundle, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the small bundle: status, output, errors."""

    def run(*flags: str) -> tuple[int, str, str]:
        status = main(["--bundle", str(small.path), "--max-streams", "2", *flags])
        return (status, *capfd.readouterr())

    return run


Command = Callable[..., tuple[int, str, str]]


def test_a_plan_is_built_checked_kept_and_used(
    folder: Path, command: Command, small: Bundle, card: Any
) -> None:
    status, out, err = command()
    assert status == 0, err
    assert "tensorrt 11.4.0.106 on Stand-in card (compute capability 9.0, CUDA 13.0)" in out
    assert "against ONNX Runtime: tokens' cosine 1.0000" in out
    assert "encoder: Building engine" in err
    (file,) = folder.glob("*.plan")
    key = read_key(file)
    assert (key.bundle, key.precision, key.largest_batch) == (small.digest, "fp32", 2)
    assert read_plan(file).figures["windows"] < 1e-3
    assert choose(small, "tensorrt").backend.name == "tensorrt"
    before = list(card._builds)
    status, out, _ = command()
    assert status == 0
    assert f"There is a plan already: {file}" in out
    assert card._builds == before
    assert command("--anew")[0] == 0
    assert card._builds[len(before) :] == ["from the timing cache"] * 2
    assert sorted(path.suffix for path in folder.iterdir()) == [".cache", ".plan"]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_half_precision_is_in_the_graph(folder: Path, command: Command, kind: str) -> None:
    status, _, err = command("--precision", kind)
    assert status == 0, err
    (file,) = folder.glob("*.plan")
    assert read_key(file).precision == kind


def test_verify_checks_all_that_is_promised(folder: Path, command: Command, card: Any) -> None:
    status, out, err = command("--verify")
    assert status == 0, out + err
    assert sum(line.startswith("ok   ") for line in out.splitlines()) >= 9
    assert "FAIL" not in out
    assert "2 at once: " in out
    assert "MiB on the card for 2 tracks; flow on the " in out
    card._faults["noise"] = 0.5
    status, out, err = command("--verify")
    assert status == 1
    assert "FAIL scores of sample windows agree: differ by " in out
    assert "does not hold what it promises" in err


def test_a_real_installation_holds_what_the_stand_in_promises(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status = main(["--bundle", str(small.path), "--max-streams", "4", "--verify"])
    assert status == 0, "\n".join(capsys.readouterr())


def test_a_precision_that_misses_parity_is_not_kept(folder: Path, command: Command, card: Any) -> None:
    card._faults["noise"] = 0.5
    status, _, err = command("--precision", "fp16")
    assert status == 1
    assert "fp16 misses parity with ONNX Runtime: probabilities differ by 0." in err
    assert "build with --precision bf16 or fp32." in err
    assert not list(folder.glob("*.plan"))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("Cuda out of memory", "Not enough memory to build the encoder with TensorRT (Cuda out of memory)"),
        ("No implementation", "TensorRT 11.4.0.106 cannot build the encoder (No implementation)."),
    ],
)
def test_a_build_that_fails_is_told_with_tensorrts_words(
    folder: Path, command: Command, card: Any, fault: str, sentence: str
) -> None:
    card._faults["build"] = fault
    status, _, err = command()
    assert status == 1
    assert sentence in err
    assert not list(folder.glob("*.plan"))


def test_a_timing_cache_of_another_version_is_begun_anew(folder: Path, command: Command, card: Any) -> None:
    assert command()[0] == 0
    (cache,) = folder.glob("*.cache")
    for spoilt in (b"10.16.1.11/0123456789abcdef", b"\xff\x00"):
        cache.write_bytes(spoilt)
        before = len(card._builds)
        assert command("--anew")[0] == 0
        assert card._builds[before:] == ["measured"] * 2
        assert cache.read_bytes().startswith(b"11.4.0.106/")


def test_without_tensorrt_the_command_says_so(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    status, _, err = command()
    assert status == 1
    assert err.startswith("TensorRT is not installed")


def test_a_graph_that_tensorrt_does_not_take_is_named(
    folder: Path, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.backends.tensorrt_parts import Library
    from engine.plans.tensorrt_build import Compiler

    graph = encoder_graph(small, "fp32")
    next(node for node in graph.graph.node if node.op_type == "Tanh").op_type = "Tanhh"
    builder = Builder(small, folder)
    compiler = Compiler(Library(), builder.machine, folder, Progress())
    with builder._tools.current(), pytest.raises(BackendError, match=r"not take the encoder graph.*Tanhh"):
        compiler.compile("encoder", graph.SerializeToString(), 2)


def test_a_bundle_that_cannot_be_made_into_a_plan_is_named(tmp_path: Path, card: ModuleType) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    model = onnx.load(str(bundle.window_model))
    model.opset_import[0].version = 11
    onnx.save(model, str(bundle.window_model))
    with pytest.raises(BackendError, match=r"window_model\.onnx has ONNX opset 11; a plan needs 13"):
        part_graphs(bundle, "fp32", 2)


def plan(**changes: Any) -> Plan:
    key = PlanKey(
        **{
            "bundle": "abc",
            "engine": MACHINE.engine,
            "device": MACHINE.device,
            "compute_capability": MACHINE.compute_capability,
            "driver": MACHINE.driver,
            "precision": "fp32",
            "largest_batch": 2,
            **changes,
        }
    )
    return Plan(key=key, parts={"encoder": b"e" * 1000, "score": b"s" * 500}, figures={"encoder_s": 1.5})


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    file = write_plan(plan(), tmp_path)
    found = read_plan(file)
    assert (found.key, found.parts, found.figures) == (plan().key, plan().parts, {"encoder_s": 1.5})
    assert [path.name for path in tmp_path.iterdir()] == [plan().key.file_name]


def test_every_part_of_the_key_counts() -> None:
    changes = {"bundle": "x", "engine": "x 1", "device": "x", "compute_capability": "8.6", "driver": "12.8"}
    changes["host"] = "x86_64 of another kind"
    names = {plan(**{name: value}).key.file_name for name, value in changes.items()}
    names |= {plan(precision="fp16").key.file_name, plan(largest_batch=3).key.file_name, plan().key.file_name}
    assert len(names) == 9


@pytest.mark.parametrize("keep", [0, 10, 30, 200, 600, 1300, -1])
def test_a_plan_cut_short_is_refused(tmp_path: Path, small: Bundle, keep: int) -> None:
    file = write_plan(plan(bundle=small.digest), tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BackendError, match=r"cut short or altered: build it anew, .* with python -m"):
        read_plan(find_plan(small, MACHINE, tmp_path))


def test_a_plan_that_tensorrt_cannot_load_is_told_with_its_words(
    folder: Path, command: Command, small: Bundle
) -> None:
    assert command()[0] == 0
    (file,) = folder.glob("*.plan")
    found = read_plan(file)
    write_plan(replace(found, parts={**found.parts, "score": b"of another build"}), folder)
    with pytest.raises(
        BackendError, match=r"cannot load the window model of the plan \(Serial.*: build it anew"
    ):
        choose(small, "tensorrt")
    write_plan(replace(found, parts={"score": found.parts["score"]}), folder)
    with pytest.raises(BackendError, match="The plan has no encoder: build it anew"):
        choose(small, "tensorrt")


def test_an_altered_plan_is_refused(tmp_path: Path) -> None:
    file = write_plan(plan(), tmp_path)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(BackendError, match="cut short or altered"):
        read_plan(file)


def test_the_plan_built_last_for_this_machine_is_taken(tmp_path: Path, small: Bundle) -> None:
    files = [
        write_plan(plan(bundle=small.digest, **changes), tmp_path)
        for changes in ({"precision": "fp16"}, {"precision": "fp32"}, {"device": "A100"})
    ]
    for age, file in enumerate(reversed(files)):
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    assert find_plan(small, MACHINE, tmp_path) == files[1]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("device", "A100", r"built for H100 \(here is A100\)"),
        ("engine", "tensorrt 10.16.1.11", r"built for tensorrt 11\.4\.0\.106 \(here is tensorrt 10\.16"),
        ("driver", "12.9", r"built for a driver for CUDA 13\.0 \(here is 12\.9\)"),
        ("host", "aarch64 of one kind", r"built for host \(unnamed\) \(here is aarch64 of one kind\)"),
    ],
)
def test_a_plan_of_another_machine_is_told_apart(
    tmp_path: Path, small: Bundle, field: str, value: str, words: str
) -> None:
    write_plan(plan(bundle=small.digest), tmp_path)
    with pytest.raises(BackendError, match=words + r".*: build one with python -m engine\.build"):
        find_plan(small, replace(MACHINE, **{field: value}), tmp_path)


def test_no_plan_at_all_is_told_with_the_command(tmp_path: Path, small: Bundle) -> None:
    write_plan(plan(bundle="other"), tmp_path)
    with pytest.raises(BackendError, match="no tensorrt plan of this bundle yet: build one with python"):
        find_plan(small, MACHINE, tmp_path)


@pytest.mark.parametrize(
    ("there", "precision", "streams"),
    [
        ({"bundle": "other"}, "fp32", 32),
        ({"precision": "fp16", "largest_batch": 2}, "fp16", 8),
        ({"precision": "bf16", "device": "A100", "largest_batch": 5}, "bf16", 5),
    ],
)
def test_the_command_that_is_told_builds_a_plan_of_this_bundle_like_the_one_that_was_there(
    tmp_path: Path, small: Bundle, there: dict[str, Any], precision: str, streams: int
) -> None:
    write_plan(plan(**{"bundle": small.digest, **there}), tmp_path)
    with pytest.raises(BackendError) as told:
        find_plan(small, MACHINE, tmp_path, tracks=5)
    command = str(told.value).partition("python -m engine.build ")[2].removesuffix(".")
    given = parser().parse_args(shlex.split(command))
    assert load_bundle(given.bundle).digest == small.digest
    assert (given.engine, given.precision, given.max_streams) == ("tensorrt", precision, streams)


def test_of_the_bundle_in_the_package_no_folder_is_told() -> None:
    assert build_command(load_bundle(), "inductor") == "python -m engine.build --engine inductor"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="cannot be kept in"):
        write_plan(plan(), tmp_path / "file" / "plans")


def test_softmax_logarithms_and_large_constants_stay_fp32(any_bundle: Bundle) -> None:
    for graph in part_graphs(any_bundle, "fp16", 2).values():
        kinds = {
            value.name: value.type.tensor_type.elem_type
            for value in onnx.shape_inference.infer_shapes(graph).graph.value_info
        }
        half = {
            node.op_type
            for node in graph.graph.node
            if node.op_type != "Cast" and kinds.get(node.output[0]) == onnx.TensorProto.FLOAT16
        }
        assert half <= precision.HEAVY | precision.LIGHT
        assert half & precision.HEAVY
        assert precision.low_share(graph) > 0.6
        ports = {v.name: v.type.tensor_type.elem_type for v in (*graph.graph.input, *graph.graph.output)}
        assert onnx.TensorProto.FLOAT16 not in ports.values()


def test_bf16_is_rounded_to_the_nearest() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 1e-30, 65504.0], dtype=np.float32)
    raw = np.frombuffer(precision.half_tensor("x", values, "bf16").raw_data, "<u2").astype(np.uint32) << 16
    found = raw.view(np.float32)
    assert np.array_equal(found[:3], np.array([1.0, 1.0, 1.015625], dtype=np.float32))
    assert np.abs(found / values - 1).max() < 2**-8


def test_an_unknown_precision_is_refused(small: Bundle) -> None:
    with pytest.raises(ValueError, match="precision 'int8' is none of fp32, fp16, bf16"):
        part_graphs(small, "int8", 2)
    assert PRECISIONS == precision.PRECISIONS


def test_a_bundle_that_takes_waveforms_is_refused(folder: Path, small: Bundle) -> None:
    bundle = replace(small, sound="waveform")
    with pytest.raises(
        BackendError, match=r"^Plans take log-mel or tokens, and .*: run it with --engine onnx\.$"
    ):
        Builder(bundle)
    with pytest.raises(BackendError, match="take log-mel"):
        choose(bundle, "tensorrt")
