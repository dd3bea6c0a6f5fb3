"""The check for GPU machines: parts that end, fail or hang, on a machine as bare as it is meant for."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu_check, parts
from benchmarks.engines import gpu_there
from benchmarks.gpu_facts import FACTS
from benchmarks.parts import ROOT, counted, run_part
from benchmarks.throughput import NO_TIME
from tests.engine.small_bundle import write_bundle

SCRIPTS = (
    "gpu_check",
    "throughput",
    "load",
    "peers",
    "crops",
    "roofline",
    "flow",
    "timing",
    "runners",
    "ceilings",
)
ABSENT = (
    "psutil", "rich", "av", "zmq", "soxr", "sounddevice", "safetensors", "timm", "transformers", "hypothesis",
    "openvino", "onnx", "onnxscript", "tensorrt", "pycuda", "scipy", "sklearn",
)  # fmt: skip


def test_it_imports_on_a_bare_machine() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
    code += "\n".join(f"import benchmarks.{name}" for name in SCRIPTS)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


BARE = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
INSTALLED = ("onnx", "hypothesis")
"""Of ABSENT, what may be imported here: the machine to measure on has the one, and the other brings a plugin
for pytest that cannot do without it."""


def test_all_of_it_runs_on_a_bare_machine(tmp_path: Path) -> None:
    """Every script with its smallest sizes, where packages are absent and one has the name of our tests."""
    packages, out = tmp_path / "packages", tmp_path / "out"
    (packages / "tests").mkdir(parents=True)
    (packages / "tests" / "__init__.py").touch()
    (packages / "sitecustomize.py").write_text(BARE.format(absent={*ABSENT} - {*INSTALLED}))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--cpu", "--out", str(out)]
    command += ["--bundle", str(write_bundle(tmp_path / "bundle"))]
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    parts = json.loads((out / "gpu_check.json").read_text())["parts"]
    assert list(parts) == list(gpu_check.SHARES_S)
    assert parts.pop("build")["state"] == "left out"
    assert {name: part["why"] for name, part in parts.items() if part["state"] != "ok"} == {}
    assert all(part["report"] for part in parts.values())
    assert parts["roofline"]["report"]["ceilings"]["onnx"] > 0
    assert done.returncode == 0, done.stderr


def test_what_a_part_has_measured_outlives_it(tmp_path: Path) -> None:
    """Whatever ends it before its last line: its time, or an error."""
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); sys.exit('ended')"
    command = [sys.executable, "-c", code, str(tmp_path / "part.json"), '{"rows": 3}']
    found = run_part("part", command, 60.0, tmp_path)
    assert (found.state, found.why, found.report) == ("failed", "ended", {"rows": 3})
    assert all(list(facts({})) == [] for name, facts in FACTS.items() if name not in ("tests", "plans"))


def test_a_part_finds_our_packages_its_own_and_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(parts, "CUDA", tmp_path)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    found = run_part("part", [sys.executable, "-c", code], 60.0, tmp_path, {"MORE": "1"}).report
    assert found["PYTHONPATH"] == os.pathsep.join([str(ROOT), "theirs"])
    assert (found["CUDA_HOME"], found["MORE"]) == (str(tmp_path), "1")
    monkeypatch.setenv("CUDA_HOME", "elsewhere")
    assert run_part("part", [sys.executable, "-c", code], 60.0, tmp_path).report["CUDA_HOME"] == "elsewhere"


def test_tests_keep_their_plans_to_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`find_plan` takes the newest of the user's, which has to be the one that is measured."""
    called: list[tuple[list[str], dict[str, str]]] = []

    def run(name: str, command: list[str], limit_s: float, folder: Path, more: dict[str, str]) -> object:
        called.append(([Path(word).name for word in command if word.endswith(".py")], more))
        return parts.Outcome("ok", 0.0)

    monkeypatch.setattr(parts, "run_part", run)
    for plans in (False, True):
        parts.run_tests(1.0, tmp_path, needs_gpu=True, plans=plans)
    quick, slow = called
    assert slow[0] == list(parts.PLAN_TESTS)
    assert {"test_benchmark_gpu.py", "test_cuda_flow_gpu.py"} <= {*quick[0]}
    assert not {*quick[0]} & {*slow[0]}
    for _, more in called:
        assert Path(more["XDG_CACHE_HOME"]).is_relative_to(tmp_path)
        assert more["FAIL_WITHOUT_GPU"] == "1"


def test_the_time_is_shared_in_the_order_of_what_matters(tmp_path: Path) -> None:
    assert sum(gpu_check.SHARES_S.values()) == gpu_check.TOTAL_S <= 480
    assert list(gpu_check.SHARES_S)[:2] == ["tests", "build"]
    assert list(gpu_check.SHARES_S)[-1] == "plans"


def test_an_engine_that_was_built_and_left_out_is_a_failure_with_its_reason() -> None:
    report = {"engines": {"inductor": {"left_out": "No plan."}, "nothing": {"left_out": "Never mind."}}}
    judged = gpu_check.judged(parts.Outcome("ok", 1.0, report=report))
    assert (judged.state, judged.why) == ("failed", "inductor was left out: No plan.")
    assert gpu_check.judged(parts.Outcome("ok", 1.0, report={"engines": {"inductor": {}}})).state == "ok"
    rows = [row[:2] for row in FACTS["throughput"](report)]
    assert rows == [("inductor", "left out: No plan."), ("nothing", "left out: Never mind.")]
    plan = {"engines": {"inductor": {"precision": "fp16", "largest": 1024, "device_a_stream_kib": 7.0}}}
    rows = [row[:2] for row in FACTS["throughput"](plan)]
    assert rows == [
        ("inductor: plan measured", "fp16, 1024 tracks"),
        ("inductor: GPU memory a stream", "7 KiB"),
        ("inductor", NO_TIME),
    ]


def test_parts_end_fail_or_are_ended(tmp_path: Path) -> None:
    def python(code: str, limit_s: float = 60.0) -> gpu_check.Outcome:
        return run_part("part", [sys.executable, "-c", code], limit_s, tmp_path)

    good = python("print('a table'); print('{\"figure\": 1}')")
    assert (good.state, good.report, good.text) == ("ok", {"figure": 1}, "a table")
    bad = python("print('so far'); raise SystemExit('no such thing')")
    assert (bad.state, bad.why, bad.report) == ("failed", "no such thing", {})
    assert "so far" in bad.text
    child = "subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])"
    late = python(f"import subprocess, sys; p = {child}; print(p.pid, flush=True); p.wait()", limit_s=3.0)
    assert late.state == "out of time"
    assert "ended after 3 s" in late.why
    if late.text.split()[:1] and late.text.split()[0].isdigit():  # else it had not come so far
        with contextlib.suppress(psutil.NoSuchProcess):  # gone, or about to be
            psutil.Process(int(late.text.split()[0])).wait(20.0)


def test_the_tests_are_counted_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\ndef test_c(): pytest.skip('no')\n"
    )
    results = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}"]
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True)
    found = counted(results)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert "assert 1 == 2" in found["broken"][0]
    assert list(FACTS["tests"](found)) == [("passed, failed, skipped", "1, 1, 1", "")]


@pytest.mark.skipif(gpu_there(), reason="there is a GPU here")
def test_without_a_gpu_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_on_a_cpu_it_writes_what_it_would_on_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    arguments = ["--cpu", "--out", str(tmp_path / "out"), "--bundle", str(bundle)]
    assert gpu_check.main([*arguments, "--part", "build", "--part", "flow"]) == 0
    report = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert report["parts"]["build"]["state"] == "left out"
    assert report["parts"]["flow"]["report"]["benchmark"] == "flow"
    page = (tmp_path / "out" / "gpu_check.md").read_text()
    assert "pairs of 112 x 112" in page
    assert "## flow: ok" in page
    assert capsys.readouterr().out.rstrip().splitlines()[-1].strip().startswith("4 pairs of 112 x 112")
