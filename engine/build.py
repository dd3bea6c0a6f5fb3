"""Compiles a bundle for this machine's GPU: `python -m engine.build`.

A plan is built, checked against ONNX Runtime on the bundle's own samples, and only then kept in the user's
cache, where `--engine tensorrt` and `--engine auto` find it. `--verify` checks a plan the long way and
measures it. This is the only file of the engine that speaks to a person; data leaves it as files
(`engine.plans.store`).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from engine.backends.device import MIB, Device
from engine.backends.device_flow import find_flow
from engine.backends.tensorrt import TensorRtBackend, machine
from engine.backends.tensorrt_parts import Library
from engine.bundle import Bundle, load_bundle
from engine.errors import BackendError, De3Error
from engine.plans.parity import check_parity
from engine.plans.store import Plan, PlanKey, plan_folder, read_plan, refuse_waveforms, write_plan
from engine.plans.verify import Check, verify

ENGINES = ("tensorrt",)
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
    """TensorRT plans of one bundle on the first card. Raises BackendError where there is none, no TensorRT,
    or the bundle takes waveforms."""

    def __init__(self, bundle: Bundle, folder: Path | None = None) -> None:
        refuse_waveforms(bundle)
        self._bundle, self._folder = bundle, folder or plan_folder()
        self._library, self._device = Library(), Device()
        self.machine = machine(self._library, self._device)

    def file(self, precision: str, streams: int) -> Path:
        """Where the plan is, or will be."""
        return self._folder / self._key(precision, streams).file_name

    def build(self, precision: str, streams: int, tell: Tell, watch: Progress) -> Path:
        """Compile, check, keep. Raises BackendError where one of them fails; then nothing is kept."""
        from engine.plans.graphs import part_graphs
        from engine.plans.tensorrt_build import Compiler

        key, parts, figures = self._key(precision, streams), {}, {}
        with self._device.current():
            compiler = Compiler(self._library, self.machine, self._folder, watch)
            for name, graph in part_graphs(self._bundle, precision, streams).items():
                start = time.perf_counter()
                parts[name] = compiler.compile(name, graph.SerializeToString(), streams)
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

    def open(self, plan: Plan) -> TensorRtBackend:
        """The back end on a plan; closing it gives back what it holds of the card."""
        bundle, device = self._bundle, Device()
        with device.current():
            flow = find_flow(bundle.flow, bundle.crop.size, plan.key.largest_batch)
        return TensorRtBackend(bundle, plan, self._library, device, flow)

    def verify(self, file: Path, tell: Tell) -> bool:
        """Check the plan in `file` the long way and tell the outcome; whether all of it is as promised."""
        plan, before = read_plan(file), self._free_bytes()
        backend = self.open(plan)
        used = (before - self._free_bytes()) / MIB
        tell(f"memory: {used:.0f} MiB on the card for {plan.key.largest_batch} tracks; {backend.flow}")
        try:
            checks = verify(backend, self._bundle, plan.key.precision)
        finally:
            backend.close()
        for check in checks:
            tell(_line(check))
        return all(check.passed for check in checks)

    def _free_bytes(self) -> int:
        with self._device.current():
            return self._device.free_bytes()

    def _key(self, precision: str, streams: int) -> PlanKey:
        return PlanKey(
            bundle=self._bundle.digest, precision=precision, largest_batch=streams, **asdict(self.machine)
        )


def _line(check: Check) -> str:
    return f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.figure}"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m engine.build`."""
    made = argparse.ArgumentParser(
        prog="python -m engine.build",
        description="Compile a bundle for this machine's GPU. The plan is checked against ONNX Runtime "
        "before it is kept in your cache, where --engine tensorrt and --engine auto find it.",
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
    builder = Builder(load_bundle(given.bundle))
    here = builder.machine
    print(
        f"{here.engine} on {here.device} (compute capability {here.compute_capability}, CUDA {here.driver})"
    )
    file = builder.file(given.precision, given.max_streams)
    if file.exists() and not given.anew:
        print(f"There is a plan already: {file}")
    else:
        _need_onnx()
        file = builder.build(given.precision, given.max_streams, print, progress)
        print(f"Kept: {file}")
    if given.verify and not builder.verify(file, print):
        print(
            "This plan does not hold what it promises; please report it with your versions.", file=sys.stderr
        )
        return 1
    return 0


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise BackendError(
            'onnx is not installed, which writes the graphs: pip install -e ".[tensorrt]".'
        ) from error


if __name__ == "__main__":
    sys.exit(main())
