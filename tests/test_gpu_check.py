"""The check for GPU machines: parts that end, fail or hang, on a machine as bare as it is meant for."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu_check
from benchmarks.engines import gpu_there
from benchmarks.gpu_facts import FACTS
from benchmarks.parts import ROOT, counted, run_part
from tests.engine.small_bundle import write_bundle

SCRIPTS = ("gpu_check", "throughput", "load", "peers", "roofline", "flow", "timing", "runners", "ceilings")
ABSENT = (
    "psutil", "rich", "av", "zmq", "soxr", "sounddevice", "safetensors", "timm", "transformers", "hypothesis",
    "openvino", "onnx", "onnxscript", "tensorrt", "pycuda", "scipy", "sklearn",
)  # fmt: skip


def test_it_imports_on_a_bare_machine() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
    code += "\n".join(f"import benchmarks.{name}" for name in SCRIPTS)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
    if late.text.strip():
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
