"""Running other programs each within a time of its own: benchmarks, the build of an engine, the tests for
GPUs.

Whatever a program does, what called it goes on. It knows nothing of what is measured. Data leaves it as
`Outcome`s.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import JsonMap

ROOT = Path(__file__).parents[1]
CUDA = Path("/usr/local/cuda")
"""Where NVIDIA's toolkit lies as a rule; numba looks for its compiler there when it is told to."""
MARK = "pytest.mark." + "gpu"
PLAN_TESTS = ("test_inductor_gpu.py",)
"""Of the tests for GPUs those that compile plans, which takes minutes."""
LAST_LINES = 12
GRACE_S = 4.0


@dataclass(slots=True)
class Outcome:
    """state: "ok", "failed", "out of time" or "left out"; why: a line, where it is not the first.

    report: the program's own figures. text: what it printed for people.
    """

    state: str
    seconds: float
    why: str = ""
    report: JsonMap = field(default_factory=dict)
    text: str = ""

    def figures(self) -> JsonMap:
        """For JSON."""
        return asdict(self)


def run_part(
    name: str, command: Sequence[str], limit_s: float, folder: Path, more: Mapping[str, str] | None = None
) -> Outcome:
    """Run a program; its last line is its report, where that is JSON, else what it has left in
    `folder`/`name`.json. What it started dies with it.

    Out of time it is interrupted, and ended for good a little later: pytest then says how far it came.
    more: variables of the environment.
    """
    begun = time.monotonic()
    streams = [folder / f"{name}.{kind}" for kind in ("out", "err")]
    environment = {**_environment(), **(more or {})}
    with streams[0].open("w") as out, streams[1].open("w") as err:
        process = subprocess.Popen(
            list(command), stdout=out, stderr=err, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(max(limit_s - GRACE_S, 1.0))
        except subprocess.TimeoutExpired:
            status = None
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - begun, 1)
    said, lines = streams[1].read_text(errors="replace"), streams[0].read_text(errors="replace").splitlines()
    report = _report(lines[-1:])
    text = "\n".join(lines[:-1] if report else lines)
    if not report and (kept := folder / f"{name}.json").exists():
        report = _report([kept.read_text()])
    if status == 0:
        return Outcome("ok", seconds, "", report, text)
    last = (said.strip().splitlines() or text.strip().splitlines() or ["it said nothing"])[-LAST_LINES:]
    text = "\n".join(filter(None, [text, *last]))
    if status is None:
        return Outcome("out of time", seconds, f"it was ended after {limit_s:.0f} s", report, text)
    return Outcome("failed", seconds, last[-1][:200], report, text)


def run_tests(limit_s: float, folder: Path, *, needs_gpu: bool, plans: bool) -> Outcome:
    """Run the tests that are marked `gpu`: those that compile plans, or all others.

    needs_gpu: then a missing GPU fails them; else they are skipped, which is right without one. Warnings are
    no errors here: this machine's packages are not the ones that the tests were written with. Plans are kept
    in `folder`: engines take the newest of the user's, which has to stay the one that is measured.
    """
    marked = sorted(file for file in (ROOT / "tests").rglob("test_*.py") if MARK in file.read_text())
    files = [file for file in marked if (file.name in PLAN_TESTS) == plans]
    results = folder / "tests.xml"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "default", "--continue-on-collection-errors", f"--junitxml={results}", *map(str, files)]
    more = {"XDG_CACHE_HOME": str(folder / "cache"), **({"FAIL_WITHOUT_GPU": "1"} if needs_gpu else {})}
    outcome = run_part("tests", command, limit_s, folder, more)
    if results.exists():
        outcome.report = counted(results)
        if outcome.state == "failed" and outcome.report["broken"]:
            outcome.why = outcome.report["broken"][0]
    return outcome


def counted(results: Path) -> JsonMap:
    """How many tests did what, by pytest's own file, and the first line of each that broke."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    broken = []
    for case in ET.parse(results).getroot().iter("testcase"):
        bad = case.find("failure")
        bad = case.find("error") if bad is None else bad
        if bad is not None:
            counts["failed"] += 1
            broken.append(f"{case.get('classname')}.{case.get('name')}: {_reason(bad)}"[:200])
        else:
            counts["passed" if case.find("skipped") is None else "skipped"] += 1
    return {**counts, "broken": broken}


def _reason(bad: ET.Element) -> str:
    """The last line of what pytest says of a test that marks an error, else the first line."""
    lines = [*(bad.get("message") or "").splitlines(), *(bad.text or "").splitlines()] or ["no reason given"]
    marked = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return marked[-1] if marked else lines[0]


def _environment() -> dict[str, str]:
    """This one's; our packages before all others, and where CUDA's toolkit is, if nobody has said so."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if CUDA.is_dir():
        found.setdefault("CUDA_HOME", str(CUDA))
    return found


def _report(lines: Sequence[str]) -> JsonMap:
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
