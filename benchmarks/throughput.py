"""`python benchmarks/throughput.py`: how many cameras one machine serves, engine by engine.

Video tokens to scores in real time: crops and sound come on a clock, whether or not anybody keeps up. Beside
the engines stands eager PyTorch that computes each window anew. Every case has processes of its own. Shows a
table; the last line of output is JSON. See README.md in this folder for what each figure means.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from benchmarks.engines import ANEW, CPU_ENGINES, NOTHING, TORCH, absent, names
from benchmarks.load import Trial, serve
from benchmarks.machine import JsonMap, add_shared, cores, gpu, head, keep, one_thread
from benchmarks.search import Search
from benchmarks.sheet import Sheet, machine_lines, number
from benchmarks.signals import CROPS_WORDS, Recording, recorded
from engine.bundle import load_bundle
from engine.errors import De3Error
from engine.types import SECOND_NS

SECONDS, QUICK_SECONDS = 6.0, 2.0
WARM_S, QUICK_WARM_S = 1.5, 0.5
MOST, QUICK_MOST = 4096, 4
LEAD_NS, LEAD_A_STREAM_NS = SECOND_NS // 5, SECOND_NS // 300
OPEN_S, TRIAL_S, UNBOUNDED_S = 180.0, 60.0, 1e9
SCORES_HZ = 5
NO_TIME = "It opened, and there was no time left for a trial."
CLEAR = 0.9
"""A failure with more of the time taken than this needs no second look."""
WEIGHTS = {ANEW: 0.6, TORCH: 0.4, NOTHING: 0.4, **dict.fromkeys(CPU_ENGINES, 0.4)}
PLANNED_WEIGHT = 2.5
"""Of the budget: the others, on GPUs, have far to search."""


class BrokenError(Exception):
    """A case cannot be measured; the text says why."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/throughput.py", description=__doc__.split("\n\n")[0]
    )
    add = made.add_argument
    add("--streams", type=_counts, metavar="N,N,...", help="try these counts (else the largest is searched)")
    add("--engine", action="append", choices=names(), help="only this one (may be given several times)")
    add("--processes", type=_counts, metavar="N,N", help=f"share the streams among so many (1,{_two()})")
    add("--seconds", type=float, help=f"how long each count is measured ({SECONDS:g})")
    add("--most", type=int, help=f"search no further ({MOST})")
    add("--budget", type=float, metavar="S", help="for all of it; the search of a case ends with its share")
    add("--clip", type=Path, metavar="FILE", help="faces and sound of this file, not those that travel along")
    add("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s each, at most {QUICK_MOST} streams")
    add_shared(made)
    return made


def _counts(text: str) -> list[int]:
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: counts begin at 1")
    return found


def _two() -> int:
    return min(2, cores())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 1 where a case broke, 2 where there is nothing to run."""
    begun = time.monotonic()
    options = parser().parse_args(arguments)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    options.most = options.most or (QUICK_MOST if options.quick else MOST)
    options.processes = options.processes or sorted({1, _two()})
    one_thread()
    try:
        named = ("streams", "processes", "seconds", "most", "budget", "quick")
        report = head("throughput", options, named, faces="" if options.clip else CROPS_WORDS)
        recording = recorded(load_bundle(options.bundle), options.clip, options.face_model)
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report["clip"] = options.clip and options.clip.name
    report["machine"]["gpu"] = gpu()
    ends = begun + (options.budget or UNBOUNDED_S)
    report["engines"] = {}
    for case in _cases(options):
        _case(case, options, replace(recording, frames=[]), ends, report["engines"])
        keep(report, options)
    print("\n".join([*machine_lines(report), "", sheet(report["engines"]).text()]))
    print(json.dumps(report))
    return int(any("broke" in case for case in report["engines"].values()))


@dataclass(frozen=True, slots=True)
class Case:
    """An engine in so many processes. share: of the time that is left once it has opened."""

    engine: str
    processes: int
    share: float


def _cases(options: argparse.Namespace) -> list[Case]:
    """Every engine with each number of processes; those that are plainly not here take no share."""
    pairs = [(name, count) for name in options.engine or names() for count in options.processes]
    weights = [0.0 if absent(name) else WEIGHTS.get(name, PLANNED_WEIGHT) for name, _ in pairs]
    return [Case(*pair, weights[n] / (sum(weights[n:]) or 1.0)) for n, pair in enumerate(pairs)]


def _case(
    case: Case, options: argparse.Namespace, recording: Recording, ends: float, engines: JsonMap
) -> None:
    """Measure it and put it among the `engines`; after `ends` (by the monotonic clock) no trial begins."""
    name, count = case.engine, case.processes
    found = engines.setdefault(name, {})
    if "left_out" in found:
        return
    trials: list[Trial] = []
    try:
        patience_s = min(OPEN_S, max(ends - time.monotonic(), 1.0))
        with _processes(name, count, options.bundle, recording, patience_s) as (pipes, opened):
            found.update({key: opened[key] for key in opened if key not in found})
            most = min(options.most, count * (opened["largest"] or options.most))
            now = time.monotonic()
            until = now + case.share * (ends - now)
            trials += _trials(pipes, options, most, until, f"{name}, {count} process(es)")
    except BrokenError as error:
        found["broke" if "memory_mib" in found else "left_out"] = str(error)
    if trials:
        room = found["largest"]
        summary = _summary(trials)
        full = room is not None and summary["most_streams"] >= count * room
        found[f"processes_{count}"] = {**summary, "full": full}


@contextmanager
def _processes(
    name: str, count: int, folder: Path | None, recording: Recording, patience_s: float
) -> Iterator[tuple[list[Any], JsonMap]]:
    """So many processes with the engine open, their pipes, and how the first one opened it."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, name, folder, recording), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        opened = [_answer(pipe, patience_s) for pipe in pipes]
        if count > 1:  # they open at once, so nobody knows whose memory of the device it is
            opened[0] |= dict.fromkeys(("device_opened_mib", "device_a_stream_kib"))
        yield pipes, opened[0]
        for pipe in pipes:
            pipe.send(None)
    finally:
        for process in processes:
            process.join(2.0)
            process.kill()


def _answer(pipe: Any, patience_s: float) -> Any:
    """What a process says. Raises BrokenError where that is an error, or nothing."""
    try:
        if not pipe.poll(patience_s):
            raise BrokenError(f"It did not answer for {patience_s:.0f} seconds.")
        answer = pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise BrokenError("Its process has died.") from error
    if isinstance(answer, str):
        raise BrokenError(answer)
    return answer


def _trials(
    pipes: list[Any], options: argparse.Namespace, most: int, until: float, case: str
) -> Iterator[Trial]:
    """The counts that were asked for, or those of a search, one after the other.

    In a search a count that failed though there was time left over is tried once more.
    """
    search, doubted = Search(most), 0
    wanted = iter(options.streams) if options.streams else iter(search.next, None)
    for streams in wanted:
        if time.monotonic() + WARM_S + options.seconds > until:
            print(f"{case}: its time is over", file=sys.stderr)
            return
        if streams > most:
            print(f"{case}: has room for {most} streams, not {streams}", file=sys.stderr)
            continue
        trial = _trial(pipes, streams, options)
        load = trial.cores("busy") / len(pipes)
        if trial.sustained or load > CLEAR or doubted == streams:
            search.told(streams, trial.sustained, load)
        else:
            doubted = streams
        latency = trial.figures()["latency_ms"].get("p95")
        held = "held" if trial.sustained else "not held"
        print(f"{case}: {streams} streams {held}, p95 {latency} ms, busy {load:.0%}", file=sys.stderr)
        yield trial


def _trial(pipes: list[Any], streams: int, options: argparse.Namespace) -> Trial:
    """So many streams shared among the processes, each taking every so manieth."""
    start_ns = time.monotonic_ns() + LEAD_NS + streams * LEAD_A_STREAM_NS
    warm_s = QUICK_WARM_S if options.quick else WARM_S
    for first, pipe in enumerate(pipes):
        mine = range(first, streams, len(pipes))
        pipe.send((streams, mine, start_ns, warm_s, options.seconds))
    whole = Trial(streams=streams, processes=0)
    for pipe in pipes:
        whole.add(_answer(pipe, TRIAL_S + options.seconds))
    return whole


def _summary(trials: list[Trial]) -> JsonMap:
    """The most that was held, what one more stream costs, and every trial."""
    held = [trial for trial in trials if trial.sustained]
    best = max(held, key=lambda trial: trial.streams, default=None)
    most = 0 if best is None else best.streams
    failed = [trial.streams for trial in trials if not trial.sustained and trial.streams > most]
    return {
        "most_streams": most,
        "not_held": min(failed, default=None),
        "one_stream": next((trial.figures() for trial in reversed(trials) if trial.streams == 1), None),
        "at_most": best and best.figures(),
        "stream_second_ms": stream_second_ms(trials),
        "trials": [trial.figures() for trial in trials],
    }


def stream_second_ms(trials: Sequence[Trial]) -> JsonMap | None:
    """What a second of one more stream takes of a thread, in milliseconds: awake (`busy`), and computing
    (`cpu`).

    Between the fewest and the most streams that were held; of one held count, or none, what the scores cost
    that there were, five of them. None: there were none.
    """
    held = sorted((trial for trial in trials if trial.sustained), key=lambda trial: trial.streams)
    scored = [trial for trial in held or trials if trial.latency_ms]
    if not scored:
        return None
    few, many = scored[0], scored[-1]

    def cost(which: str) -> float:
        if held and many.streams > few.streams:
            return (many.cores(which) - few.cores(which)) / (many.streams - few.streams)
        return SCORES_HZ * float(getattr(few, f"{which}_s")) / len(few.latency_ms)

    return {which: round(1e3 * cost(which), 3) for which in ("busy", "cpu")}


def sheet(engines: JsonMap) -> Sheet:
    """For a person."""
    table = Sheet(
        "Streams sustained: 15 crops and 5 scores a second each, p95 from crop to score within 50 ms",
        ("engine", "processes", "streams", "p50 ms", "p95", "p99", "1 stream p50", "p95", "ms a stream-s",
         "of it CPU", "anew / it", "KiB a stream", "GPU KiB a stream", "MiB"),
    )  # fmt: skip
    for name, case in engines.items():
        if "left_out" in case:
            table.notes.append(f"{name}: {case['left_out']}")
            continue
        for key in (key for key in case if key.startswith("processes_")):
            run = case[key]
            latencies = [
                (run[which] or {"latency_ms": {}})["latency_ms"] for which in ("at_most", "one_stream")
            ]
            cost = run["stream_second_ms"]
            anew = (engines.get(ANEW, {}).get(key) or {}).get("stream_second_ms")
            table.add(
                name,
                key.removeprefix("processes_"),
                _most(run),
                *(number(latencies[0].get(share)) for share in ("p50", "p95", "p99")),
                *(number(latencies[1].get(share)) for share in ("p50", "p95")),
                *(number(cost and cost[which]) for which in ("busy", "cpu")),
                number(anew["busy"] / cost["busy"], 1) if anew and cost and name != NOTHING else "",
                number(case["memory_a_stream_kib"], 0),
                number(case["device_a_stream_kib"], 0),
                number(case["memory_mib"], 0),
            )
        if "broke" in case:
            table.notes.append(f"{name} broke off: {case['broke']}")
        elif not any(key.startswith("processes_") for key in case):
            table.notes.append(f"{name}: {NO_TIME}")
    table.notes += [
        "A stream-s: a second of one more stream, in ms that a thread is awake, and of them computing.",
        "GPU KiB a stream: what opening took there, weights and all, by the tracks that there is room for.",
        "In: flow, frame encoder, log-mel, windows, window model. Out: capture, finding faces.",
        f"{ANEW}: eager torch, each window computed anew; {NOTHING}: what is left to do with any engine.",
    ]
    return table


def _most(run: JsonMap) -> str:
    """How many, and whether that was the end."""
    most = run["most_streams"]
    if run["not_held"] is not None or not most:
        return str(most)
    return f"{most} (no room for more)" if run["full"] else f">= {most}"


if __name__ == "__main__":
    sys.exit(main())
