"""Compiles a bundle for this machine's GPU: `python -m engine.build`.

A plan is built, checked against ONNX Runtime on the bundle's own samples, and only then kept in the user's
cache, where `--engine tensorrt`, `--engine inductor` and `--engine auto` find it. `--verify` checks an engine
the long way and measures it. This is the only file of the engine that speaks to a person; data leaves it as
files (`engine.plans.store`).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from engine.backends.base import GraphBackend
from engine.backends.card import CardBackend
from engine.backends.layout import MIB
from engine.bundle import Bundle, load_bundle
from engine.errors import BackendError, De3Error
from engine.plans.builders import TOOLCHAINS
from engine.plans.parity import check_parity
from engine.plans.store import Plan, PlanKey, plan_folder, read_plan, refuse_waveforms, write_plan
from engine.plans.verify import Check, verify

ENGINES = (*TOOLCHAINS, "onnx-cuda")
PRECISIONS = ("fp32", "fp16", "bf16")
DEFAULT_STREAMS = 32
MOST_STREAMS = 8192

Tell = Callable[[str], None]


class Progress:
    """How far a build has come: one line that is written over at a terminal, a line a phase elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def __call__(self, what: str, step: int, steps: int) -> None:
        """Step `step` of `steps` of a phase is done."""
        if self._live:
            filled = 30 * step // max(1, steps)
            bar = f"{'#' * filled}{'.' * (30 - filled)} {step}/{steps} {what}"
            sys.stderr.write(f"\r\x1b[K{bar[:100]}")
        elif what != self._last:
            sys.stderr.write(f"{what}\n")
        self._last = what
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line as if nothing had been there."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Builder:
    """Plans of one bundle for an engine of `TOOLCHAINS` on the first card. Raises BackendError where there is
    none, no such engine, or the bundle takes waveforms."""

    def __init__(self, bundle: Bundle, folder: Path | None = None, engine: str = "tensorrt") -> None:
        refuse_waveforms(bundle)
        self._bundle, self._folder = bundle, folder or plan_folder()
        self._tools = TOOLCHAINS[engine](bundle, self._folder)
        self.machine = self._tools.machine

    def file(self, precision: str, streams: int) -> Path:
        """Where the plan is, or will be."""
        return self._folder / self._key(precision, streams).file_name

    def build(self, precision: str, streams: int, tell: Tell, watch: Progress) -> Path:
        """Compile, check, keep. Raises BackendError where one of them fails; then nothing is kept."""
        from engine.plans.graphs import part_graphs

        key, parts, figures = self._key(precision, streams), {}, {}
        with self._tools.current():
            for name, graph in part_graphs(self._bundle, precision, streams).items():
                start = time.perf_counter()
                parts[name] = self._tools.compile(name, graph, streams, watch)
                figures[f"{name}_s"] = round(time.perf_counter() - start, 2)
                watch.end()
                tell(f"{name}: {len(parts[name]) / MIB:.1f} MiB in {figures[f'{name}_s']:.1f} s")
        backend = self.open(Plan(key=key, parts=parts, figures={}))
        try:
            found = check_parity(backend, self._bundle, precision)
        finally:
            backend.close()
        tell(f"against ONNX Runtime: {found}")
        return write_plan(Plan(key=key, parts=parts, figures={**figures, **asdict(found)}), self._folder)

    def open(self, plan: Plan) -> CardBackend:
        """The back end on a plan; closing it gives back what it holds of the card."""
        return self._tools.open(plan)

    def verify(self, file: Path, tell: Tell) -> bool:
        """Check the plan in `file` the long way and tell the outcome; whether all of it is as promised."""
        plan, before = read_plan(file), self._free_bytes()
        start = time.perf_counter()
        backend = self.open(plan)
        opened_s, used = time.perf_counter() - start, (before - self._free_bytes()) / MIB
        tracks = plan.key.largest_batch
        tell(f"memory: {used:.0f} MiB on the card for {tracks} tracks; {backend.flow}")
        tell(f"ready {opened_s:.1f} s after it was asked for")
        try:
            return told(backend, self._bundle, plan.key.precision, tracks, tell)
        finally:
            backend.close()

    def _free_bytes(self) -> int:
        with self._tools.current():
            return self._tools.free_bytes()

    def _key(self, precision: str, streams: int) -> PlanKey:
        return PlanKey(
            bundle=self._bundle.digest, precision=precision, largest_batch=streams, **asdict(self.machine)
        )


def told(backend: GraphBackend, bundle: Bundle, precision: str, largest: int, tell: Tell) -> bool:
    """Check a back end the long way and tell the outcome; whether all of it is as promised."""
    checks = verify(backend, bundle, precision, largest)
    for check in checks:
        tell(_line(check))
    return all(check.passed for check in checks)


def _line(check: Check) -> str:
    return f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.figure}"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m engine.build`."""
    made = argparse.ArgumentParser(
        prog="python -m engine.build",
        description="Compile a bundle for this machine's GPU. The plan is checked against ONNX Runtime "
        "before it is kept in your cache, where --engine NAME and --engine auto find it. onnx-cuda needs no "
        "plan: it is checked and measured alone.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--engine", choices=ENGINES, default="tensorrt", help="what compiles and runs it (tensorrt)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of convolutions and matrix products (fp32)")
    most = f"most tracks at once, 1 to {MOST_STREAMS} ({DEFAULT_STREAMS})"
    add("--max-streams", type=_streams, default=DEFAULT_STREAMS, metavar="N", help=most)
    add("--bundle", type=Path, metavar="DIR", help="the trained model (the bundled one)")
    add(
        "--verify", action="store_true", help="check a plan the long way, and measure it; build it if need be"
    )
    add("--anew", action="store_true", help="build even where there is such a plan already")
    return made


def _streams(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MOST_STREAMS:
        raise argparse.ArgumentTypeError(f"{count} is not between 1 and {MOST_STREAMS}")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 a plan is there (and holds), 1 it is not."""
    given = parser().parse_args(arguments)
    progress = Progress()
    try:
        return _main(given, progress)
    except De3Error as error:
        progress.end()
        print(error, file=sys.stderr)
        return 1


def _main(given: argparse.Namespace, progress: Progress) -> int:
    bundle = load_bundle(given.bundle)
    if given.engine not in TOOLCHAINS:
        return _verdict(_unplanned(bundle, given.max_streams))
    builder = Builder(bundle, engine=given.engine)
    here = builder.machine
    print(
        f"{here.engine} on {here.device} (compute capability {here.compute_capability}, CUDA {here.driver})"
    )
    file = builder.file(given.precision, given.max_streams)
    if file.exists() and not given.anew:
        print(f"There is a plan already: {file}")
    else:
        _need_onnx(given.engine)
        file = builder.build(given.precision, given.max_streams, print, progress)
        print(f"Kept: {file}")
    return _verdict(not given.verify or builder.verify(file, print))


def _unplanned(bundle: Bundle, largest: int) -> bool:
    """ONNX Runtime on the card needs no plan; there is something to check all the same."""
    from engine.backends.onnx import OnnxCudaBackend

    backend = OnnxCudaBackend(bundle)
    print("ONNX Runtime reads the bundle as it is, in fp32; there is nothing to build.")
    return told(backend, bundle, "fp32", largest, print)


def _verdict(holds: bool) -> int:
    if not holds:
        words = "This engine does not hold what it promises here; please report it with your versions."
        print(words, file=sys.stderr)
    return 0 if holds else 1


def _need_onnx(engine: str) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f'onnx is not installed, which writes the graphs: pip install -e ".[{engine}]".'
        ) from error


if __name__ == "__main__":
    sys.exit(main())
