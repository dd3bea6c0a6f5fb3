"""`python benchmarks/latency.py`: how old the scores are when they come, what they cost, how many go through.

Runs every case in a process of its own and shows tables; the last line of output is JSON. See README.md in
this folder for what each figure means.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from rich.console import Console

from benchmarks.machine import JsonMap, add_shared, head, one_thread
from benchmarks.tables import ENGINES, LIVE, tables
from engine.bundle import load_bundle
from engine.errors import De3Error
from engine.signals.finder import load_finder

CASES = (*LIVE, "throughput", *ENGINES, "stages")
SECONDS, QUICK_SECONDS = 6.0, 3.0
CLIP_FRAMES_HZ = 30.0
WARM_S = 1.5
START_S = 4.0
SCORES = 40
STAGE_SECONDS = 4.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/latency.py", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--case", action="append", choices=CASES, help="only this one (may be given several times)")
    add("--seconds", type=float, help=f"how long to watch each live case ({SECONDS:g})")
    add("--quick", action="store_true", help=f"{QUICK_SECONDS:g} seconds each, and fewer repeats")
    add("--engine", default="onnx", help="of the live cases and the throughput (onnx)")
    add("--clip", type=Path, metavar="FILE", help="the media file (made from the demo); 30 pictures a second")
    add("--export", action="store_true", help="export other window lengths too (needs torch; a minute more)")
    add_shared(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; returns the exit status: 1 where a case broke, 2 where there is nothing to run."""
    options = parser().parse_args(arguments)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    names = tuple(dict.fromkeys(options.case or CASES))
    one_thread()
    try:
        report = head("latency", options, ("seconds", "engine", "quick"))
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.offline = True  # the face model has been fetched, or cannot be had
    with _clip(options, names) as clip:
        options.clip = clip
        if len(names) == 1:
            report["cases"] = {names[0]: _measured(names[0], options)}
        else:
            report["cases"] = _in_processes(names, options)
    console = Console(width=None if sys.stdout.isatty() else 120)
    machine = report["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores; load average {machine['load_average'][0]}")
    console.print(f"{report['faces']} Bundle: {report['bundle']['name']} {report['bundle']['digest']}")
    for table in tables(report["cases"]):
        console.print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return int(any("broke" in case for case in report["cases"].values()))


def _in_processes(names: Sequence[str], options: argparse.Namespace) -> JsonMap:
    """Each case by this program itself, in a process of its own."""
    cases: JsonMap = {}
    shared = ["--seconds", f"{options.seconds:g}", "--engine", options.engine, "--clip", str(options.clip)]
    shared += ["--quick"] if options.quick else []
    shared += ["--export"] if options.export else []
    shared += ["--offline"]
    for flag in ("bundle", "face_model"):
        if (value := getattr(options, flag)) is not None:
            shared += [f"--{flag.replace('_', '-')}", str(value)]
    status = Console(stderr=True)
    with status.status("") as shown:
        for number, name in enumerate(names):
            shown.update(f"{name} ({number + 1} of {len(names)})")
            command = [sys.executable, str(Path(__file__)), "--case", name, *shared]
            done = subprocess.run(command, capture_output=True, text=True)
            try:
                cases[name] = json.loads(done.stdout.splitlines()[-1])["cases"][name]
            except (IndexError, ValueError, KeyError):
                why = (done.stderr.strip().splitlines() or ["it said nothing."])[-1]
                cases[name] = {"left_out": why, "broke": True}
    return cases


def _measured(name: str, options: argparse.Namespace) -> JsonMap:
    """One case, in this process."""
    from benchmarks.cost import AbsentEngineError
    from benchmarks.pipeline import MeasurementError

    try:
        if name in LIVE:
            return _live(name, options)
        if name == "throughput":
            return _throughput(options)
        return _alone(name, options)
    except AbsentEngineError as absent:
        return {"left_out": str(absent)}
    except MeasurementError as error:
        return {"left_out": str(error), "broke": True}


def _live(name: str, options: argparse.Namespace) -> JsonMap:
    from benchmarks.pipeline import measure_live, mjpeg_camera

    with contextlib.ExitStack() as stack:
        camera = name
        if name == "file":
            camera = str(options.clip)
        elif name == "mjpeg":
            camera = stack.enter_context(mjpeg_camera(options.clip))
        flags = ("--camera", camera, *_flags(options))
        return measure_live(flags, seconds=options.seconds, warm_s=WARM_S)


def _throughput(options: argparse.Namespace) -> JsonMap:
    from benchmarks.pipeline import measure_throughput

    flags = ("--camera", str(options.clip), *_flags(options))
    runs = [measure_throughput(flags, rate_hz=rate, frames_hz=CLIP_FRAMES_HZ) for rate in (5, 15)]
    return {"runs": runs}


def _alone(name: str, options: argparse.Namespace) -> JsonMap:
    """What is measured without the runtime's processes."""
    finder, _ = load_finder(face_model=options.face_model, offline=options.offline)
    if name == "stages":
        from benchmarks.stages import measure_stages

        return measure_stages(
            options.bundle, finder, options.clip, seconds=min(options.seconds, STAGE_SECONDS)
        )
    from benchmarks.cost import measure_engine

    with tempfile.TemporaryDirectory(prefix="de3-bench-") as folder:
        export_to = Path(folder) if options.export else None
        scores = SCORES // 2 if options.quick else SCORES
        found = measure_engine(name, options.bundle, finder, scores=scores, export_to=export_to)
    return {"window_s": load_bundle(options.bundle).window.seconds, **found}


def _flags(options: argparse.Namespace) -> tuple[str, ...]:
    """What every run of the program gets."""
    flags = ["--engine", options.engine, "--offline"]
    if options.bundle is not None:
        flags += ["--bundle", str(options.bundle.resolve())]
    if options.face_model is not None:
        flags += ["--face-model", str(options.face_model.resolve())]
    return tuple(flags)


@contextlib.contextmanager
def _clip(options: argparse.Namespace, names: Sequence[str]) -> Iterator[Path | None]:
    """The media file, made where none was named and one is needed."""
    if options.clip is not None or not {"file", "mjpeg", "throughput", "stages"} & set(names):
        yield options.clip and options.clip.resolve()
        return
    from benchmarks.clip import write_clip

    with tempfile.TemporaryDirectory(prefix="de3-bench-") as folder:
        yield write_clip(Path(folder) / "clip.mp4", options.seconds + WARM_S + START_S)


if __name__ == "__main__":
    sys.exit(main())
