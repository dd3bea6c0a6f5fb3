"""`python benchmarks/peers.py`: what a score costs with the networks that others ship, and with ours.

Their networks with random weights, at their input sizes, on the same engines in the same run: ONNX Runtime on
one thread and eager torch. Shows tables; the last line of output is JSON. See README.md in this folder for
what each figure means.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from benchmarks.cost import measure_window
from benchmarks.eager import AbsentEngineError
from benchmarks.engines import ANEW, NOTHING, names, open_engine
from benchmarks.machine import JsonMap, add_shared, gpu, head, keep, one_thread
from benchmarks.runners import ENGINES, Runner, open_runner, operations
from benchmarks.sheet import Sheet, machine_lines, number
from benchmarks.signals import CROPS_WORDS, recorded
from engine.bundle import Bundle, load_bundle
from engine.errors import De3Error

SOUND_HZ, SCORES_HZ = 16_000, 5
QUICK_SIDE, QUICK_SOUND_S, QUICK_TICKS = 64, 0.4, 2
RUNS, QUICK_RUNS = 15, 1
SCORES, QUICK_SCORES = 20, 2
OURS = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A network. side: of its pictures, pixels; 0: it hears the window's sound. used_by: who ships it."""

    name: str
    used_by: str
    make: Callable[[bool], Any]
    side: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """How a score comes about: a network on each picture, one on the window's sound, or both."""

    name: str
    pictures: str | None = None
    sound: str | None = None


def peers() -> tuple[Peer, ...]:
    """The networks; `make` takes whether a small one will do, to try the script."""
    from benchmarks.networks import EfficientNet, Wav2Vec2

    def layers(quick: bool) -> int:
        return 1 if quick else 12

    return (
        Peer(name="EfficientNet-B0", used_by="EmotiEffLib", side=224, make=lambda _: EfficientNet()),
        Peer(name="EfficientNet-B2", used_by="EmotiEffLib", side=260, make=lambda _: EfficientNet(1.1, 1.2)),
        Peer(name="wav2vec 2.0 base", used_by="many", make=lambda quick: Wav2Vec2(layers=layers(quick))),
        Peer(
            name="wav2vec 2.0 large-robust, 12 layers",
            used_by="the paper-sized profile",
            make=lambda quick: Wav2Vec2(large=True, layers=layers(quick)),
        ),
    )


WAYS = (
    Way("EfficientNet-B0 on the face", pictures="EfficientNet-B0"),
    Way("EfficientNet-B2 on the face", pictures="EfficientNet-B2"),
    Way("wav2vec 2.0 base on the sound", sound="wav2vec 2.0 base"),
    Way("paper-sized: B2 and large-robust", "EfficientNet-B2", "wav2vec 2.0 large-robust, 12 layers"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/peers.py", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--network", action="append", metavar="WORD", help="only those whose name has it (several times)")
    add("--engine", action="append", choices=ENGINES, help="only this one (may be given several times)")
    add("--budget", type=float, metavar="S", help="after so long no network is begun on another engine")
    add("--quick", action="store_true", help="small pictures, little sound, one layer: to try the script")
    add_shared(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 2 where there is nothing to run."""
    begun = time.monotonic()
    options = parser().parse_args(arguments)
    one_thread()
    try:
        report = head("peers", options, ("network", "engine", "budget", "quick"), faces=CROPS_WORDS)
        bundle = load_bundle(options.bundle)
        report["machine"]["gpu"] = gpu()
        report["ours"] = _ours(bundle, options)
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        networks = {peer: peer.make(options.quick).eval() for peer in _chosen(options)}
    except ImportError as error:
        print(f"error: {error.name} is not installed, which makes the networks.", file=sys.stderr)
        return 2
    report["networks"] = {peer.name: _described(peer, networks[peer], bundle, options) for peer in networks}
    report["scores"] = []
    for engine, (peer, network) in product(options.engine or ENGINES, networks.items()):
        if options.budget and time.monotonic() > begun + options.budget:
            spent: JsonMap = {"left_out": "There was no time left."}
        else:
            spent = _spent(engine, peer, network, bundle, options)
        report["networks"][peer.name]["ms"][engine] = spent
        report["scores"] = scores(report["networks"], report["ours"], bundle.window.tick_hz // SCORES_HZ)
        keep(report, options)
    shown = [networks_sheet(report["networks"]).text(), scores_sheet(report).text()]
    print("\n\n".join(["\n".join(machine_lines(report)), *shown]))
    print(json.dumps(report))
    return 0


def _chosen(options: argparse.Namespace) -> list[Peer]:
    words = options.network or [""]
    return [peer for peer in peers() if any(word.lower() in peer.name.lower() for word in words)]


def _ours(bundle: Bundle, options: argparse.Namespace) -> JsonMap:
    """A score of ours, everything that the recogniser does for it, on every engine there is, in ms."""
    recording = recorded(bundle)
    found: JsonMap = {}
    for name in (name for name in names() if name not in (ANEW, NOTHING)):
        try:
            opened = open_engine(name, bundle)
        except AbsentEngineError as absent:
            found[name] = {"left_out": str(absent)}
            continue
        count = QUICK_SCORES if options.quick else SCORES
        clock = "wall" if opened.on_gpu else "cpu"
        window = measure_window(opened.backend, bundle, recording, count)
        found[name] = {
            "score_ms": window["score_ms"][clock]["p50"],
            "anew_ms": window["anew_ms"][clock]["p50"],
            "on_gpu": opened.on_gpu,
            "precision": opened.precision,
            "largest": opened.tracks,
        }
        print(f"{OURS}, {name}: done", file=sys.stderr)
    return found


def _described(peer: Peer, network: Any, bundle: Bundle, options: argparse.Namespace) -> JsonMap:
    """What a network is, with room for its times by engine."""
    first = next(iter(_shapes(peer, bundle, options.quick).values()))
    return {
        "used_by": peer.used_by,
        "input": list(first[1:]),
        "parameters": sum(each.numel() for each in network.parameters()),
        "products_m": round(operations(network, first) / 1e6, 1),
        "ms": {},
    }


def _spent(engine: str, peer: Peer, network: Any, bundle: Bundle, options: argparse.Namespace) -> JsonMap:
    """A network on an engine: one picture and a window's pictures together, or a window's sound, in ms."""
    shapes = _shapes(peer, bundle, options.quick)
    with TemporaryDirectory(prefix="de3-bench-") as folder:
        try:
            runner = open_runner(engine, network, next(iter(shapes.values())), Path(folder))
            found = {what: _timed(runner, shape, options.quick) for what, shape in shapes.items()}
        except AbsentEngineError as absent:
            found = {"left_out": str(absent)}
    print(f"{peer.name}, {engine}: done", file=sys.stderr)
    return found


def _shapes(peer: Peer, bundle: Bundle, quick: bool) -> dict[str, tuple[int, ...]]:
    """What goes in: a picture and all of a window's pictures, or a window's sound."""
    if not peer.side:
        return {"window": (1, round((QUICK_SOUND_S if quick else bundle.window.seconds) * SOUND_HZ))}
    side = QUICK_SIDE if quick else peer.side
    ticks = QUICK_TICKS if quick else bundle.window.ticks
    return {"picture": (1, 3, side, side), "window": (ticks, 3, side, side)}


def _timed(runner: Runner, shape: tuple[int, ...], quick: bool) -> JsonMap:
    runs = QUICK_RUNS if quick else max(RUNS // shape[0], 3) if len(shape) == 4 else RUNS // 3
    figures: JsonMap = runner.times(shape, runs).figures()[runner.clock]
    return figures


def scores(networks: JsonMap, ours: JsonMap, between: int) -> list[JsonMap]:
    """What a score costs, way by way and engine by engine, in ms; ours on the same engine.

    anew: the network on each of a window's pictures (together in one batch) and on its sound, as their code
    does. kept: on the `between` pictures since the score before, one by one, as if their features were kept;
    of sound nothing can be kept, every step of it attends to all others.
    """
    rows = []
    for way in WAYS:
        named = [name for name in (way.pictures, way.sound) if name is not None]
        if any(name not in networks for name in named):
            continue
        for engine in ENGINES:
            parts = [networks[name]["ms"].get(engine, {}) for name in named]
            if any("window" not in part for part in parts):
                continue
            row: JsonMap = {"way": way.name, "engine": engine}
            row["anew_ms"] = round(sum(part["window"]["p50"] for part in parts), 3)
            row["kept_ms"] = round(sum(_kept(part, between) for part in parts), 3)
            mine = ours.get(engine, {}).get("score_ms")
            if mine is not None:
                row |= {
                    "ours_ms": mine,
                    **{f"{how}_ratio": row[f"{how}_ms"] / mine for how in ("anew", "kept")},
                }
            rows.append(row)
    return rows


def _kept(part: JsonMap, between: int) -> float:
    picture = part.get("picture")
    return float(between * picture["p50"] if picture else part["window"]["p50"])


def networks_sheet(networks: JsonMap) -> Sheet:
    """For a person: one run of each."""
    table = Sheet(
        "The networks, ms p50",
        ("network", "used by", "M parameters", "GFLOP", "engine", "a picture", "a window"),
    )
    for name, case in networks.items():
        for engine, spent in case["ms"].items():
            if "left_out" in spent:
                table.notes.append(f"{name}, {engine}: {spent['left_out']}")
                continue
            sizes = (number(case["parameters"] / 1e6, 1), number(case["products_m"] / 1e3, 2))
            runs = (number(spent[what]["p50"]) if what in spent else "" for what in ("picture", "window"))
            table.add(name, case["used_by"], *sizes, engine, *runs)
    table.notes.append("GFLOP: of a picture, or of a window's sound. A window's pictures go in one batch.")
    return table


def scores_sheet(report: JsonMap) -> Sheet:
    """For a person: one score."""
    table = Sheet(
        "What a score costs, in ms",
        ("way", "engine", "anew, as their code", "features kept", "ours", "anew / ours", "kept / ours"),
    )
    for row in report["scores"]:
        table.add(
            row["way"],
            row["engine"],
            number(row["anew_ms"], 1),
            number(row["kept_ms"], 1),
            *(number(row.get(key), 1) for key in ("ours_ms", "anew_ratio", "kept_ratio")),
        )
    for name, case in report["ours"].items():
        if "left_out" in case:
            table.notes.append(f"{OURS}, {name}: {case['left_out']}")
        else:
            table.add(OURS, name, number(case["anew_ms"], 1), number(case["score_ms"], 1))
    table.notes.append("Ours: all that the recogniser does for a score, flow and log-mel included.")
    return table


if __name__ == "__main__":
    sys.exit(main())
