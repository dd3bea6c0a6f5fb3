"""The figures as tables for a person. It measures nothing; data leaves it as rich renderables."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from benchmarks.machine import JsonMap

LIVE = ("demo", "file", "mjpeg")
ENGINES = ("onnx", "openvino", "torch")
STAGES = ("wait", "score", "publish", "total", "received", "capture")
QUANTILES = ("p50", "p95", "p99", "max")


def tables(cases: JsonMap) -> Iterator[Table | Text]:
    """What there is to show of the cases that were measured, and a line for each that was left out."""
    measured = {name: case for name, case in cases.items() if "left_out" not in case}
    live = {name: measured[name] for name in LIVE if name in measured}
    if live:
        yield _latencies(live)
        yield _shares(live)
    if "throughput" in measured:
        yield _throughput(measured["throughput"])
    engines = {name: measured[name] for name in ENGINES if name in measured}
    if engines:
        yield _costs(engines)
    if "stages" in measured:
        yield _steps(measured["stages"])
    for name, case in cases.items():
        if "left_out" in case:
            yield Text(f"{name}: {case['left_out']}")


def _latencies(live: JsonMap) -> Table:
    table = Table("", "stage", *QUANTILES, "n", title="Latency in ms, at 30 pictures and 5 scores a second")
    for name, case in live.items():
        for stage in STAGES:
            if stage not in case["latency_ms"]:
                continue
            figures = case["latency_ms"][stage]
            style = "bold" if stage == "total" else "dim" if stage == "capture" else None
            numbers = [f"{figures[each]:.1f}" for each in QUANTILES]
            table.add_row(name if stage == STAGES[0] else "", stage, *numbers, str(figures["n"]), style=style)
        table.add_section()
    table.caption = (
        "total: from the window's end until its scores are published (wait + score + publish); "
        "received: until a subscriber has them; capture: age of a picture when it reaches the recogniser"
    )
    return table


def _shares(live: JsonMap) -> Table:
    table = Table("", "process", "CPU, share of a core", "resident MiB", "of it unshared")
    table.title = "CPU time, memory, drops"
    for name, case in live.items():
        for process, share in case["cpu"].items():
            memory = case["memory_mib"].get(process, {"rss": 0, "own": 0})
            sizes = (f"{memory['rss']:.0f}", f"{memory['own']:.0f}")
            table.add_row(name if process == "main" else "", process, f"{share:.3f}", *sizes)
        own = sum(memory["own"] for memory in case["memory_mib"].values())
        table.add_row("", "all", f"{case['cpu_total']:.3f}", "", f"{own:.0f}", style="bold")
        lost = ", ".join(f"{count} {cause}" for cause, count in case["drops"].items()) or "nothing"
        table.add_row("", f"lost: {lost}")
        table.add_row("", f"ready after {case['ready_s']:.1f} s, scores after {case['first_scores_s']:.1f} s")
        table.add_row("", f"else on this machine: {case['cpu_of_others']:.2f} cores", style="dim")
        table.add_section()
    return table


def _throughput(case: JsonMap) -> Table:
    table = Table("scores a media second", "frames/s", "scores/s", "times real time", "CPU, share of a core")
    table.title = "Throughput: a file as fast as it goes"
    for run in case["runs"]:
        shares = ", ".join(f"{process} {share:.2f}" for process, share in run["cpu"].items())
        figures = (f"{run['frames_hz']:.0f}", f"{run['scores_hz']:.0f}", f"{run['times_real_time']:.1f}")
        table.add_row(f"{run['rate']:g}", *figures, shares)
    return table


def _costs(engines: JsonMap) -> Table:
    columns = ("engine", "window s", "score p50", "p95", "p99", "max", "anew p50", "ratio")
    table = Table(*columns, "frame", "model", "load s", "MiB", title="One score, in CPU ms on one thread")
    for name, case in engines.items():
        parts = [f"{case['parts_ms'][part]['cpu']['p50']:.2f}" for part in ("frame_encoder", "window_model")]
        for seconds, window in case["windows"].items():
            score = [f"{window['score_ms']['cpu'][each]:.1f}" for each in QUANTILES]
            figures = (
                *score,
                f"{window['anew_ms']['cpu']['p50']:.1f}",
                f"[bold]{window['ratio']:.1f}[/bold]",
            )
            rest = (*parts, f"{case['load_s']:.1f}", f"{case['memory_mib']:.0f}")
            own = float(seconds) == case["window_s"]
            table.add_row(name, seconds, *figures, *(rest if own else ()))
        table.add_section()
    table.caption = (
        "score: all that the recogniser does from one score to the next; anew: flow, frame encoder, mel and "
        "window model for the whole window; frame, model: one run of each graph"
    )
    return table


def _steps(case: JsonMap) -> Table:
    table = Table("process", "step", "a second", "ms p50", "p95", "share of a core")
    table.title = "Where the CPU time goes, on ONNX Runtime"
    for step in case["steps"]:
        numbers = (f"{step['ms']['p50']:.3f}", f"{step['ms']['p95']:.3f}", f"{step['share']:.4f}")
        table.add_row(step["process"], step["step"], str(step["hz"]), *numbers)
    return table
