"""`python benchmarks/roofline.py`: how near an engine comes to what the machine can do, and where the rest
goes.

Operations and bytes are counted from the graphs, the machine's ceilings are measured, and every stage is
timed with one stream and with many. Shows tables; the last line of output is JSON. See README.md in this
folder for what each figure means.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from benchmarks.ceilings import ceilings
from benchmarks.eager import AbsentEngineError
from benchmarks.engines import ANEW, EAGER, NOTHING, gpu_there, names, open_engine
from benchmarks.machine import JsonMap, add_shared, gpu, head, keep, one_thread
from benchmarks.operations import Work, stream_second
from benchmarks.sheet import Sheet, machine_lines, number
from benchmarks.signals import CROPS_WORDS, Recording, recorded
from benchmarks.timing import STAGES, operators, second_ms
from engine.bundle import Bundle, load_bundle
from engine.errors import De3Error

SCORES_HZ = 5
BATCHES, GPU_BATCHES, QUICK_BATCHES = (1, 8), (1, 64, 512), (1, 2)
ROUNDS, QUICK_ROUNDS = 10, 2
PARTS = {
    "faces": ("flow", "frame encoder"), "sound": ("log-mel",), "voices": ("voice encoder",),
    "windows": ("window model",), "rest": (),
}  # fmt: skip
SOUND = "sound"
"""The stage that is computed on the host by NumPy, whatever the engine."""
BYTES = {"fp16": 0.5, "bf16": 0.5}
"""Of a number, beside fp32."""
MOST_OPERATORS = 6


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/roofline.py", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--engine", action="append", choices=names(), help="only this one (may be given several times)")
    add("--batches", metavar="N,N", help="so many streams go through together (1,8; on a GPU 1,64,512)")
    add("--clip", type=Path, metavar="FILE", help="faces and sound of this file, not those that travel along")
    add("--quick", action="store_true", help="small batches, few rounds, small ceilings")
    add_shared(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 2 where there is nothing to run."""
    options = parser().parse_args(arguments)
    one_thread()
    try:
        words = "" if options.clip else CROPS_WORDS
        report = head("roofline", options, ("batches", "quick"), faces=words)
        bundle = load_bundle(options.bundle)
        recording = recorded(bundle, options.clip, options.face_model)
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report["machine"]["gpu"] = gpu()
    report["ceilings"] = ceilings(0.1, 0.1) if options.quick else ceilings()
    report["work"] = {
        str(batch): {name: asdict(each) for name, each in stream_second(bundle, batch, SCORES_HZ).items()}
        for batch in batches(options)
    }
    report["engines"] = {}
    for name in options.engine or [name for name in names() if name != ANEW]:
        for case in _engine(name, bundle, recording, options):
            report["engines"][name] = case
            case["stages"] = {
                batch: stages(spent, report["work"][batch], name, report["ceilings"], case)
                for batch, spent in case.get("second_ms", {}).items()
            }
            keep(report, options)
        print(f"{name}: done", file=sys.stderr)
    shown = [sheet.text() for sheet in sheets(report)]
    print("\n\n".join(["\n".join(machine_lines(report)), *shown]))
    print(json.dumps(report))
    return 0


def batches(options: argparse.Namespace) -> tuple[int, ...]:
    """How many streams go through together, each in its turn."""
    if options.batches:
        return tuple(int(word) for word in options.batches.split(","))
    if options.quick:
        return QUICK_BATCHES
    return GPU_BATCHES if gpu_there() else BATCHES


def _engine(
    name: str, bundle: Bundle, recording: Recording, options: argparse.Namespace
) -> Iterator[JsonMap]:
    """What is known of it, ever more."""
    try:
        opened = open_engine(name, bundle)
    except AbsentEngineError as absent:
        yield {"left_out": str(absent)}
        return
    room, host = opened.tracks, not (gpu_there() and opened.on_gpu)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    fitting = [batch for batch in batches(options) if room is None or batch <= room]
    found: JsonMap = {
        "engine": opened.note,
        "host": host,
        "precision": opened.precision,
        "largest": room,
        "second_ms": {},
    }
    for batch in fitting:
        spent = second_ms(bundle, opened.backend, recording, batch, rounds, host=host)
        found["second_ms"][str(batch)] = spent
        yield found
    if name == "onnx":
        found["operators"] = operators(bundle, fitting[-1], rounds)
        yield found


def stages(spent: JsonMap, works: JsonMap, name: str, found: JsonMap, case: JsonMap) -> JsonMap:
    """Each stage of a stream's second, and "all" of it: `ms`, its `limit_ms`, the share of the limit that is
    `reached`, and the `share` of the whole second that lies beyond the limit: where the rest goes. The "rest"
    is no arithmetic to speak of. On the host, and beside
    eager torch, ONNX Runtime hears the voices.
    """
    limits = {}
    for stage in STAGES:
        parts = PARTS[stage] if name != NOTHING or stage == SOUND else ()
        work = reduce(Work.plus, (Work(**works[part]) for part in parts if part in works), Work())
        on_host = case["host"] or stage == SOUND or (stage == "voices" and name in EAGER)
        engine = {SOUND: "numpy", "voices": "onnx"}.get(stage, name)
        limits[stage] = limit_ms(work, engine, found, on_host, case["precision"])
    known = [limit for limit in limits.values() if limit is not None]
    limits["all"] = sum(known) if len(known) == len(STAGES) else None
    return {
        stage: {
            "ms": spent[stage],
            "limit_ms": limit and round(limit, 5),
            "reached": limit and spent[stage] and round(limit / spent[stage], 4),
            "share_beyond": None if limit is None else round((spent[stage] - limit) / spent["all"], 4),
        }
        for stage, limit in limits.items()
    }


def limit_ms(work: Work, name: str, found: JsonMap, host: bool, precision: str = "fp32") -> float | None:
    """The least time that it can take by the ceilings, in ms; None where there are none to go by.

    The longer of arithmetic and memory (everything moved once). On the host arithmetic is that of the
    engine's own library; on a GPU products are of this precision (fp16 and bf16 on the tensor cores, with
    half the bytes), all else fp32.
    """
    if host:
        return 1e3 * max(work.operations / found.get(name, found["numpy"]), work.least_bytes / found["copy"])
    card = found.get("gpu", {})
    if not {precision, "fp32", "copy"} <= set(card):
        return None
    arithmetic = work.products / card[precision] + work.others / card["fp32"]
    return 1e3 * max(arithmetic, work.least_bytes * BYTES.get(precision, 1.0) / card["copy"])


def sheets(report: JsonMap) -> Iterator[Sheet]:
    """For a person."""
    yield _ceilings_sheet(report["ceilings"])
    yield _work_sheet(report["work"])
    yield _stages_sheet(report)
    for name, case in report["engines"].items():
        for graph, spent in case.get("operators", {}).items():
            yield _operators_sheet(f"{name}, {graph}", spent)


def _ceilings_sheet(found: JsonMap) -> Sheet:
    table = Sheet("Ceilings of this machine", ("", "GFLOP/s", "GB/s"))
    for name in ("numpy", "onnx", "openvino", "torch"):
        if name in found:
            table.add(f"{name}, one thread, product of {found['side']}", number(found[name] / 1e9, 1))
    table.add("numpy, one thread, copy", "", number(found["copy"] / 1e9, 1))
    for name, most in found.get("gpu", {}).items():
        copied = name == "copy"
        table.add(
            f"GPU, {name}", "" if copied else number(most / 1e9, 0), number(most / 1e9, 0) if copied else ""
        )
    return table


def _work_sheet(works: JsonMap) -> Sheet:
    table = Sheet(
        "What a stream's second takes",
        (
            "stage",
            "streams",
            "MFLOP, products",
            "MFLOP, others",
            "MB at least",
            "MB, each operator",
            "FLOP/byte",
        ),
    )
    for batch, stages in works.items():
        for name, raw in stages.items():
            work = Work(**raw)
            millions = (work.products, work.others, work.least_bytes, work.bytes)
            table.add(
                name,
                batch,
                *(number(each / 1e6, 1) for each in millions),
                number(work.operations / work.least_bytes, 1),
            )
    return table


def _stages_sheet(report: JsonMap) -> Sheet:
    table = Sheet(
        "Where a stream's second goes, in ms: the share of the limit reached, and where the rest goes",
        ("engine", "streams", "stage", "ms", "limit", "reached", "of the second, beyond it"),
    )
    for name, case in report["engines"].items():
        if "left_out" in case:
            table.notes.append(f"{name}: {case['left_out']}")
            continue
        for batch, found in case["stages"].items():
            begin = (f"{name}, {case['precision']}", batch)
            for stage, each in found.items():
                shares = (each["reached"], each["share_beyond"])
                texts = ["" if share is None else f"{share:.1%}" for share in shares]
                table.add(*begin, stage, number(each["ms"]), number(each["limit_ms"], 3), *texts)
                begin = ("", "")
    table.notes += [
        "faces: flow and frame encoder of 15 crops; sound: log-mel; windows: window model, 5 times;",
        "rest: ticks, cutting windows, calibration.",
        "Limit: the longer of all arithmetic at the ceiling, and all memory moved once.",
    ]
    return table


def _operators_sheet(title: str, found: JsonMap) -> Sheet:
    table = Sheet(f"{title}: ms of a stream's second by operator", ("operator", "ms", "share"))
    total = sum(found["ms"].values())
    for name, spent in list(found["ms"].items())[:MOST_OPERATORS]:
        table.add(name, number(spent, 3), f"{spent / total:.0%}")
    table.add("all", number(total, 3))
    return table


if __name__ == "__main__":
    sys.exit(main())
