"""`python benchmarks/gpu_check.py --out DIR`: everything that has to be measured on a GPU, in eight minutes.

For a bare machine with torch, numba-cuda and pytest: runs the tests marked `gpu`, compiles the engine that
needs it, and runs the other benchmarks. A part that fails or runs out of time is reported and stops nothing.
A short table comes last; `gpu_check.json` and `gpu_check.md` in DIR hold everything. `--cpu` runs the same
parts small, without a GPU, to try the script. See README.md in this folder.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from benchmarks.engines import ANEW, CPU_ENGINES, NOTHING, TORCH, absent, names
from benchmarks.gpu_facts import FACTS
from benchmarks.machine import JsonMap, cores, describe, gpu, one_thread
from benchmarks.parts import Outcome, run_part, run_tests
from benchmarks.sheet import Sheet, machine_lines

TOTAL_S = 460.0
SHARES_S = {
    "tests": 50, "build": 160, "throughput": 110, "processes": 40, "roofline": 35, "flow": 20, "peers": 30,
    "plans": 15,
}  # fmt: skip
"""What each part may take, in the order they run; what one leaves over goes to those after it. `plans` are
the tests that compile plans of their own, in what is left."""
SCRIPTS = {"processes": "throughput"}
"""Of the parts that are not called as their script is."""
BUILT = "inductor"
STREAMS = 1024
PROCESSES, TRIED = 4, "1000,1500,500,250"
"""One card shared by so many recogniser processes with the engine that was built, and how many streams; what
matters most comes first, as the time may not do for all."""
TRIAL_S, SPARE_S = 3.0, 10.0
HERE = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/gpu_check.py", description=__doc__.split("\n\n")[0]
    )
    add = made.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where gpu_check.json and gpu_check.md go")
    add("--part", action="append", choices=tuple(SHARES_S), help="only this one (may be given several times)")
    add("--seconds", type=float, default=TOTAL_S, help=f"for all of it ({TOTAL_S:g})")
    add("--streams", type=int, default=STREAMS, help=f"the compiled engine's largest batch ({STREAMS})")
    add("--precision", default="fp32", help="of the compiled engine (fp32; fp16 or bf16)")
    add("--cpu", action="store_true", help="the same parts without a GPU, with small sizes")
    add("--bundle", type=Path, metavar="DIR", help="the trained model (the bundled one)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 1 where a part failed, 2 where there is no GPU."""
    options = parser().parse_args(arguments)
    one_thread()
    card = gpu()
    if card is None and not options.cpu:
        print(
            "error: torch finds no NVIDIA GPU here; --cpu runs the same parts without one.", file=sys.stderr
        )
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    report: JsonMap = {"benchmark": "gpu_check", "machine": {**describe(), "gpu": card}}
    report["options"] = {name: getattr(options, name) for name in ("seconds", "streams", "precision", "cpu")}
    outcomes: dict[str, Outcome] = {}
    for name, outcome in parts(options):  # written after each: whoever ends this early keeps what there is
        outcomes[name] = outcome
        report["parts"] = {each: outcomes[each].figures() for each in outcomes}
        (options.out / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "gpu_check.md").write_text(page(report, short(outcomes), outcomes))
    print("\n".join([*machine_lines(report), "", short(outcomes).text()]))
    return int(any(outcome.state not in ("ok", "left out") for outcome in outcomes.values()))


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Outcome]]:
    """The parts in their order, each with its share of the time that is left."""
    wanted = [name for name in SHARES_S if name in (options.part or SHARES_S)]
    ends = time.monotonic() + options.seconds
    with TemporaryDirectory(prefix="de3-bench-") as folder:
        for place, name in enumerate(wanted):
            share = SHARES_S[name] / sum(SHARES_S[each] for each in wanted[place:])
            limit_s = share * (ends - time.monotonic())
            print(f"{name}: up to {limit_s:.0f} s", file=sys.stderr)
            outcome = _run(name, limit_s, Path(folder), options)
            print(f"{name}: {outcome.state}, {outcome.seconds:.0f} s", file=sys.stderr)
            yield name, outcome


def _run(name: str, limit_s: float, folder: Path, options: argparse.Namespace) -> Outcome:
    bundle = [] if options.bundle is None else ["--bundle", str(options.bundle.resolve())]
    if name in ("tests", "plans"):
        return run_tests(limit_s, folder, needs_gpu=not options.cpu, plans=name == "plans")
    if name == "build":
        from engine.build import ENGINES

        if options.cpu or BUILT not in ENGINES:
            return Outcome("left out", 0.0, "it needs a GPU, and an engine that torch compiles")
        command = ["-m", "engine.build", "--engine", BUILT, "--max-streams", str(options.streams)]
        command += ["--precision", options.precision]
    else:
        command = [str(HERE / f"{SCRIPTS.get(name, name)}.py"), *_flags(name, limit_s, options), "--offline"]
        command += ["--json", str(folder / f"{name}.json")]
    outcome = run_part(name, [sys.executable, *command, *bundle], limit_s, folder)
    return outcome if options.cpu else judged(outcome)


def judged(outcome: Outcome) -> Outcome:
    """A part that went well without the engine that was built for it has failed."""
    engines = outcome.report.get("engines") or outcome.report.get("ours") or {}
    if outcome.state == "ok" and (why := engines.get(BUILT, {}).get("left_out")):
        return replace(outcome, state="failed", why=f"{BUILT} was left out: {why}")
    return outcome


def _flags(name: str, limit_s: float, options: argparse.Namespace) -> list[str]:
    """A benchmark's own."""
    flags = ["--quick"] if options.cpu else []
    if name == "throughput":
        engines = ["onnx", ANEW] if options.cpu else on_gpus()
        flags += [word for engine in engines for word in ("--engine", engine)]
        flags += ["--processes", "1", "--budget", f"{max(limit_s - SPARE_S, 1):.0f}"]
        flags += [] if options.cpu else ["--seconds", f"{TRIAL_S:g}", "--most", str(2 * options.streams)]
    if name == "processes":
        engine, count, tried = ("onnx", 2, "2") if options.cpu else (BUILT, min(PROCESSES, cores()), TRIED)
        flags += ["--engine", engine, "--processes", str(count), "--streams", tried]
        flags += ["--budget", f"{max(limit_s - SPARE_S, 1):.0f}"]
        flags += [] if options.cpu else ["--seconds", f"{TRIAL_S:g}"]
    if name == "roofline" and not options.cpu:
        engines = [engine for engine in on_gpus() if engine not in ("onnx", ANEW)]
        flags += [word for engine in (*engines, TORCH) for word in ("--engine", engine)]
    if name == "peers":
        runners = ["torch"] if options.cpu else ["torch", BUILT]
        flags += [word for engine in runners for word in ("--engine", engine)]
        flags += ["--network", "B0"] if options.cpu else []
        flags += ["--budget", f"{max(limit_s - SPARE_S, 1):.0f}"]
    return flags


def on_gpus() -> list[str]:
    """What to measure on a GPU: the engines that compute there and may be had, the one that is built here in
    any case, and what they are compared with."""
    others = (*CPU_ENGINES, TORCH, ANEW, NOTHING)
    found = [name for name in names() if name not in others and (name == BUILT or not absent(name))]
    return [*found, "onnx", ANEW, NOTHING]


def short(outcomes: dict[str, Outcome]) -> Sheet:
    """What matters of all parts, beside what was to be reached."""
    table = Sheet("GPU check", ("part", "state", "seconds", "what", "figure", "to reach"))
    for name, outcome in outcomes.items():
        rows: list[tuple[str, ...]] = [(outcome.why,)] if outcome.why else []
        rows += FACTS[name](outcome.report) if outcome.report else []
        begin = (name, outcome.state, f"{outcome.seconds:.0f}")
        for row in rows or [()]:
            table.add(*begin, *row)
            begin = ("", "", "")
    return table


def page(report: JsonMap, table: Sheet, outcomes: dict[str, Outcome]) -> str:
    """The same for reading: the table, then what each part printed."""
    machine = report["machine"]
    lines = ["# GPU check", "", f"{machine['date']}, commit {machine['commit']}", ""]
    lines += [f"- {line}" for line in machine_lines(report)]
    lines += [f"- {name} {version}" for name, version in machine["packages"].items()]
    lines += ["", table.markdown()]
    for name, outcome in outcomes.items():
        lines += ["", f"## {name}: {outcome.state}", "", "```", outcome.text, "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
