"""Of the reports of all benchmarks the few figures that matter, each beside what was to be reached.

It knows nothing of how they came about. Data leaves it as rows: what, figure, to reach.
"""

from collections.abc import Callable, Iterator

from benchmarks.engines import ANEW, CPU_ENGINES, NOTHING, absent
from benchmarks.machine import JsonMap
from benchmarks.sheet import number
from benchmarks.throughput import NO_TIME

Row = tuple[str, str, str]
PAIRS = 256
WANTED_STREAMS, WANTED_MS, WANTED_RATIO = 1000, 1.5, 20.0
REASON = 140


def of_tests(report: JsonMap) -> Iterator[Row]:
    """How many."""
    yield (
        "passed, failed, skipped",
        ", ".join(str(report[key]) for key in ("passed", "failed", "skipped")),
        "",
    )


def of_flow(report: JsonMap) -> Iterator[Row]:
    """Difference from OpenCV's, and the time of a batch."""
    for row in report.get("error", []):
        for who in (who for who in ("gpu", "reference") if who in row):
            figures = f"{row[who]['mean_px']:.4f} px, {row[who]['p99_px']:.4f} px"
            yield f"{row['set']}, {who}: mean, p99 off OpenCV's", figures, "0.05, 0.5"
            break
    for row in report.get("time", []):
        if row["size"] != 112 or row["pairs"] not in (1, 4, PAIRS, 512):
            continue
        gpu = {how: each["p50"] for how, each in row.get("gpu_ms", {}).items()}
        best = min(gpu.values()) if gpu else None
        figure = f"{number(best, 3)} ms" if gpu else f"OpenCV {row['opencv_ms']:.2f} ms"
        yield f"{row['pairs']} pairs of 112 x 112", figure, "2 ms" if row["pairs"] == PAIRS else ""


def of_throughput(report: JsonMap) -> Iterator[Row]:
    """Streams and latency by engine; streams by those of the eager network that computes windows anew."""
    engines = report.get("engines", {})
    yield from _planned(engines)
    for name, case in engines.items():
        target = str(WANTED_STREAMS) if name not in (ANEW, NOTHING, *CPU_ENGINES) else ""
        if case.get("device_a_stream_kib") is not None:
            yield f"{name}: GPU memory a stream", f"{case['device_a_stream_kib']:.0f} KiB", ""
        for key in (key for key in case if key.startswith("processes_")):
            run, anew = case[key], engines.get(ANEW, {}).get(key, {})
            where = "" if key == "processes_1" else f" in {key.removeprefix('processes_')} processes"
            yield f"{name}: streams sustained{where}", str(run["most_streams"]), target
            one = (run["one_stream"] or {}).get("latency_ms", {}).get("p50")
            if one is not None:
                yield f"{name}: one stream, p50", f"{one:.2f} ms", f"{WANTED_MS} ms" if target else ""
            if name not in (ANEW, NOTHING):
                yield from _beside_anew(name, run, anew, f"{WANTED_RATIO:g}" if target else "")
        if "broke" in case:
            yield f"{name} broke off", case["broke"][:REASON], ""
        elif not any(key.startswith("processes_") for key in case) and "left_out" not in case:
            yield name, NO_TIME, ""


def _beside_anew(name: str, run: JsonMap, anew: JsonMap, target: str) -> Iterator[Row]:
    """The ratio of streams, or where `anew` holds none, of costs."""
    if anew.get("most_streams"):
        yield (
            f"{name}: times the streams of {ANEW}",
            f"{run['most_streams'] / anew['most_streams']:.1f}",
            target,
        )
    elif anew.get("stream_second_ms") and run["stream_second_ms"]:
        ratio = anew["stream_second_ms"]["busy"] / run["stream_second_ms"]["busy"]
        yield f"{name}: cost of {ANEW} by its own, a stream", f"{ratio:.1f}", ""


def _planned(engines: JsonMap) -> Iterator[Row]:
    """What is missing, and why; which plan was measured."""
    for name, case in engines.items():
        if "left_out" in case:
            yield name, f"left out: {case['left_out'][:REASON]}", ""
        elif case.get("largest") is not None:
            yield f"{name}: plan measured", f"{case['precision']}, {case['largest']} tracks", ""


def of_peers(report: JsonMap) -> Iterator[Row]:
    """Times ours, by way and engine."""
    yield from _planned({name: case for name, case in report.get("ours", {}).items() if not absent(name)})
    for row in report.get("scores", []):
        if "anew_ratio" in row:
            figures = f"{row['anew_ratio']:.1f}, {row['kept_ratio']:.1f}"
            yield f"{row['way']}, {row['engine']}: anew, kept, times ours", figures, ""


def of_roofline(report: JsonMap) -> Iterator[Row]:
    """A stream's second, where it goes, and the share of the limit that is reached."""
    yield from _planned(report.get("engines", {}))
    for name, case in report.get("engines", {}).items():
        for batch, found in case.get("stages", {}).items():
            parts = ", ".join(f"{stage} {each['ms']:.2f}" for stage, each in found.items() if stage != "all")
            reached = found["all"]["reached"]
            share = "" if reached is None else f", {reached:.1%} of the limit"
            figure = f"{found['all']['ms']:.2f} ms ({parts}){share}"
            yield f"{name}, {batch} stream(s): a stream's second", figure, ""


FACTS: dict[str, Callable[[JsonMap], Iterator[Row]]] = {
    "build": lambda report: iter(()),
    "tests": of_tests,
    "plans": of_tests,
    "flow": of_flow,
    "throughput": of_throughput,
    "processes": of_throughput,
    "peers": of_peers,
    "roofline": of_roofline,
}
