"""`python benchmarks/flow.py`: optical flow, OpenCV's against ours: how long it takes, how far they differ.

Shows tables; the last line of output is JSON. Without a GPU it still has OpenCV's time and the error of the
NumPy reference that the CUDA kernels are held against. What measures needs NumPy, OpenCV and numba alone. See
README.md in this folder for what each figure means.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

import cv2
import numpy as np

from benchmarks.machine import add_shared, head, keep, one_thread
from benchmarks.pairs import faces_of, warped
from benchmarks.sheet import Sheet
from engine.bundle import load_bundle
from engine.cuda.flow import CudaFlow, absent
from engine.errors import De3Error
from engine.signals.finder import load_finder
from engine.signals.flow import Flow, FlowParams
from engine.types import SECOND_NS, Float32, UInt8
from tests.engine import dis_reference

JsonMap = dict[str, Any]
Pair = tuple[UInt8, UInt8]
Given = tuple[UInt8, UInt8, Any]
GAP_NS = 66_666_667
SIZES, BATCHES = (112, 224), (1, 16, 64, 256, 512)
WARPS, FACES, REPEATS = 24, 24, 50
QUICK_BATCHES, QUICK_REPEATS = (1, 4), 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/flow.py", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--media", type=Path, metavar="DIR", help="real faces too, of every clip of this folder (needs PyAV)")
    add("--faces", type=int, default=FACES, help=f"so many faces of each clip ({FACES})")
    add("--quick", action="store_true", help="the shipped size, small batches, few repeats and warps")
    add_shared(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 2 where there is nothing to run."""
    options = parser().parse_args(arguments)
    one_thread()
    try:
        words = "" if options.media else "Faces: none; warped textures."
        report = head("flow", options, ("faces", "quick"), faces=words)
        params = load_bundle(options.bundle).flow
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report["gpu"] = gpu_name() or {"left_out": absent()}
    rows = {"time": times(params, options.quick), "error": errors(params, sets(options))}
    for name, each in rows.items():
        report[name] = []
        for row in each:
            report[name].append(row)
            keep(report, options)
    machine = report["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores; load average {machine['load_average'][0]}")
    print(f"GPU: {gpu_name() or absent()}")
    for table in (error_table(report["error"]), time_table(report["time"])):
        print(f"\n{table.text()}")
    print(json.dumps(report))
    return 0


def gpu_name() -> str | None:
    """What the GPU calls itself; None where there is none."""
    if absent() is not None:
        return None
    from numba import cuda

    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Pair], list[Float32]]]:
    """Name, pairs, and the true flow where it is known."""
    made = [warped(seed, 112) for seed in range(4 if options.quick else WARPS)]
    yield "warps", [(previous, crop) for previous, crop, _ in made], [truth for _, _, truth in made]
    if options.media is not None:
        finder, _ = load_finder(face_model=options.face_model, offline=True)
        for clip in sorted(path for path in options.media.glob("*") if path.is_file()):
            faces = faces_of(clip, finder, options.faces)
            if faces:
                yield clip.name, [(face.previous, face.crop) for face in faces], []


def errors(params: FlowParams, given: Iterator[tuple[str, list[Pair], list[Float32]]]) -> Iterator[JsonMap]:
    """A row a set: what the others differ from OpenCV, and all of them from the truth, in crop pixels."""
    for name, pairs, truths in given:
        opencv = Flow(params)
        theirs = np.stack([opencv.pair(*pair, GAP_NS) for pair in pairs])
        ours = {"reference": np.stack([dis_reference.pair(*pair, GAP_NS, params) for pair in pairs])}
        if absent() is None:
            cuda = CudaFlow(params, most_pairs=len(pairs))
            previous, crop = (np.stack([pair[which] for pair in pairs]) for which in (0, 1))
            ours["gpu"] = cuda.pairs(previous, crop, [GAP_NS] * len(pairs))
        seconds = GAP_NS / SECOND_NS
        row: JsonMap = {"set": name, "pairs": len(pairs), "moves_px": _mean(theirs * seconds)}
        for who, found in ours.items():
            off = np.abs(found - theirs) * seconds
            row[who] = {"mean_px": _mean(off), "p99_px": float(np.quantile(off, 0.99)), "max_px": _most(off)}
        if truths:
            size = (params.size, params.size)
            small = np.stack(
                [
                    [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in truth]
                    for truth in truths
                ]
            )
            every = {"opencv": theirs, **ours}
            row["from_truth_px"] = {
                who: _mean(_length(found * seconds - small)) for who, found in every.items()
            }
        yield row


def _mean(values: Float32) -> float:
    return float(np.abs(values).mean())


def _most(values: Float32) -> float:
    return float(np.abs(values).max())


def _length(values: Float32) -> Float32:
    return np.hypot(values[:, 0], values[:, 1])


def times(params: FlowParams, quick: bool) -> Iterator[JsonMap]:
    """A row a size and batch: milliseconds for the batch on one thread of OpenCV, and on the GPU."""
    repeats = QUICK_REPEATS if quick else REPEATS
    for size in SIZES[:1] if quick else SIZES:
        fitting = replace(params, size=size // 2)
        pairs = [warped(seed, size)[:2] for seed in range(8)]
        opencv = Flow(fitting)
        one_ms = _milliseconds(
            lambda turn, pairs=pairs, opencv=opencv: opencv.pair(*pairs[turn % len(pairs)], GAP_NS),
            8 * repeats,
        )
        for batch in QUICK_BATCHES if quick else BATCHES:
            previous, crop = (
                np.stack([pairs[n % len(pairs)][which] for n in range(batch)]) for which in (0, 1)
            )
            row: JsonMap = {"size": size, "pairs": batch, "opencv_ms": round(one_ms["p50"] * batch, 4)}
            row["opencv_pair_ms"] = one_ms
            if absent() is None:
                row["gpu_ms"] = gpu_times(fitting, (previous, crop, np.full(batch, GAP_NS)), repeats)
            yield row


def gpu_times(params: FlowParams, given: Given, repeats: int) -> JsonMap:
    """Milliseconds from the call until the result lies on the device: launched, and replayed as a graph."""
    from numba import cuda

    count, size = given[0].shape[:2]
    flow = CudaFlow(params, crop_size=size, most_pairs=count)
    flow.pairs(*given)
    stream = cuda.stream()

    def launched(_: int) -> None:
        flow.launch(count, stream)
        stream.synchronize()

    found = {"launched": _milliseconds(launched, repeats)}
    try:
        import torch
    except ImportError:
        return found
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flow.launch(count, cuda.external_stream(torch.cuda.current_stream().cuda_stream))

    def replayed(_: int) -> None:
        graph.replay()
        torch.cuda.synchronize()

    return {**found, "graph": _milliseconds(replayed, repeats)}


def _milliseconds(run: Callable[[int], object], repeats: int) -> JsonMap:
    """p50, p95 and max of `repeats` runs, after a tenth as many to warm up."""
    took = []
    for turn in range(-max(repeats // 10, 3), repeats):
        begun_ns = time.perf_counter_ns()
        run(turn)
        if turn >= 0:
            took.append((time.perf_counter_ns() - begun_ns) / 1e6)
    quantiles = {f"p{share}": float(np.quantile(took, share / 100)) for share in (50, 95)}
    return {name: round(value, 4) for name, value in {**quantiles, "max": max(took)}.items()}


def error_table(rows: Sequence[JsonMap]) -> Sheet:
    """The errors for a person, in crop pixels."""
    table = Sheet(
        "Difference from OpenCV's flow, px in the gap (reach: mean 0.05, p99 0.5)",
        ("pairs of", "n", "moves", "ours", "mean", "p99", "max", "from the truth", "OpenCV's"),
    )
    for row in rows:
        for who in (who for who in ("reference", "gpu") if who in row):
            figures = [f"{row[who][name]:.5f}" for name in ("mean_px", "p99_px", "max_px")]
            truth = row.get("from_truth_px", {})
            known = [f"{truth[name]:.4f}" for name in (who, "opencv") if truth]
            table.add(row["set"], str(row["pairs"]), f"{row['moves_px']:.2f}", who, *figures, *known)
    return table


def time_table(rows: Sequence[JsonMap]) -> Sheet:
    """The times for a person, in milliseconds."""
    table = Sheet(
        "Milliseconds a batch, p50",
        ("size", "pairs", "OpenCV, one thread", "GPU, launched", "GPU, graph", "times OpenCV"),
    )
    for row in rows:
        gpu = {how: each["p50"] for how, each in row.get("gpu_ms", {}).items()}
        figures = [f"{gpu[how]:.3f}" if how in gpu else "" for how in ("launched", "graph")]
        ratio = f"{row['opencv_ms'] / min(gpu.values()):.0f}" if gpu else ""
        table.add(str(row["size"]), str(row["pairs"]), f"{row['opencv_ms']:.2f}", *figures, ratio)
    if not any("gpu_ms" in row for row in rows):
        table.notes.append(f"No GPU figures: {absent()}.")
    return table


if __name__ == "__main__":
    sys.exit(main())
