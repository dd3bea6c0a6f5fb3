"""Of the reports of all benchmarks the few figures that matter, each beside what was to be reached.

It knows nothing of how they came about. Data leaves it as rows: what, figure, to reach.
"""

from collections.abc import Callable, Iterator

from benchmarks.engines import ANEW, CPU_ENGINES, NOTHING
from benchmarks.machine import JsonMap
from benchmarks.sheet import number

Row = tuple[str, str, str]
PAIRS = 256
WANTED_STREAMS, WANTED_MS, WANTED_RATIO = 1000, 1.5, 20.0


def of_tests(report: JsonMap) -> Iterator[Row]:
    """How many."""
    yield (
        "passed, failed, skipped",
        ", ".join(str(report[key]) for key in ("passed", "failed", "skipped")),
        "",
    )


def of_flow(report: JsonMap) -> Iterator[Row]:
    """Difference from OpenCV's, and the time of a batch."""
    for row in report["error"]:
        for who in (who for who in ("gpu", "reference") if who in row):
            figures = f"{row[who]['mean_px']:.4f} px, {row[who]['p99_px']:.4f} px"
            yield f"{row['set']}, {who}: mean, p99 off OpenCV's", figures, "0.05, 0.5"
            break
    for row in report["time"]:
        if row["size"] != 112 or row["pairs"] not in (1, 4, PAIRS, 512):
            continue
        gpu = {how: each["p50"] for how, each in row.get("gpu_ms", {}).items()}
        best = min(gpu.values()) if gpu else None
        figure = f"{number(best, 3)} ms" if gpu else f"OpenCV {row['opencv_ms']:.2f} ms"
        yield f"{row['pairs']} pairs of 112 x 112", figure, "2 ms" if row["pairs"] == PAIRS else ""


def of_throughput(report: JsonMap) -> Iterator[Row]:
    """Streams and latency by engine; streams by those of the eager network that computes windows anew."""
    engines = report["engines"]
    for name, case in engines.items():
        if "left_out" in case:
            yield name, "left out", ""
        for key in (key for key in case if key.startswith("processes_")):
            run, anew = case[key], engines.get(ANEW, {}).get(key, {})
            target = str(WANTED_STREAMS) if name not in (ANEW, NOTHING, *CPU_ENGINES) else ""
            where = "" if key == "processes_1" else f" in {key.removeprefix('processes_')} processes"
            yield f"{name}: streams sustained{where}", str(run["most_streams"]), target
            one = (run["one_stream"] or {}).get("latency_ms", {}).get("p50")
            if one is not None:
                yield f"{name}: one stream, p50", f"{one:.2f} ms", f"{WANTED_MS} ms" if target else ""
            if name not in (ANEW, NOTHING) and anew.get("most_streams"):
                ratio = run["most_streams"] / anew["most_streams"]
                yield (
                    f"{name}: times the streams of {ANEW}",
                    f"{ratio:.1f}",
                    f"{WANTED_RATIO:g}" if target else "",
                )
            elif name not in (ANEW, NOTHING) and anew.get("stream_second_ms") and run["stream_second_ms"]:
                ratio = anew["stream_second_ms"]["busy"] / run["stream_second_ms"]["busy"]
                yield f"{name}: cost of {ANEW} by its own, a stream", f"{ratio:.1f}", ""
        if "broke" in case:
            yield f"{name} broke off", case["broke"][:100], ""


def of_peers(report: JsonMap) -> Iterator[Row]:
    """Times ours, by way and engine."""
    for row in report["scores"]:
        if "anew_ratio" in row:
            figures = f"{row['anew_ratio']:.1f}, {row['kept_ratio']:.1f}"
            yield f"{row['way']}, {row['engine']}: anew, kept, times ours", figures, ""


def of_roofline(report: JsonMap) -> Iterator[Row]:
    """A stream's second, and the share of it that is spent on the host."""
    for name, case in report["engines"].items():
        for batch, spent in case.get("second_ms", {}).items():
            stages = ", ".join(
                f"{stage} {spent[stage]:.2f}" for stage in ("faces", "sound", "windows", "rest")
            )
            yield f"{name}, {batch} stream(s): a stream's second", f"{spent['all']:.2f} ms ({stages})", ""


FACTS: dict[str, Callable[[JsonMap], Iterator[Row]]] = {
    "build": lambda report: iter(()),
    "tests": of_tests,
    "flow": of_flow,
    "throughput": of_throughput,
    "processes": of_throughput,
    "peers": of_peers,
    "roofline": of_roofline,
}
