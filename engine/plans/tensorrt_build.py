"""Compiling the parts of a plan with TensorRT.

Networks are strongly typed: precision is in the graph (`engine.plans.precision`). TF32 is off, so that fp32
means fp32. The free batch goes from 1 to the largest, tuned for the largest. What TensorRT measured of its
kernels is kept in a timing cache, which makes the next build on the same card much quicker. This file knows
nothing of bundles; compiled code leaves as bytes.
"""

import hashlib
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.backends.tensorrt_parts import Library
from engine.errors import BackendError
from engine.plans.store import Machine, Watch, write_whole


class Compiler:
    """Graphs to compiled code, for one card, with its timing cache in `folder`. The device must be
    current."""

    def __init__(self, library: Library, machine: Machine, folder: Path, watch: Watch) -> None:
        self._library, self._watch = library, watch
        name = hashlib.sha256(repr(sorted(asdict(machine).items())).encode()).hexdigest()[:12]
        self._cache_file = folder / f"timing-{name}.cache"

    def compile(self, name: str, graph: bytes, largest: int) -> bytes:
        """A plan's part. graph: an ONNX model whose inputs share one free size, their first.

        Raises BackendError with TensorRT's own words where it does not take the graph, or runs out of memory.
        """
        trt, library = self._library.trt, self._library
        library.logger.last = ""
        builder = trt.Builder(library.logger)
        if builder is None:
            raise BackendError(f"TensorRT cannot build on this machine{library.complaint()}.")
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, library.logger)
        if not parser.parse(graph):
            why = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise BackendError(f"TensorRT {library.version} does not take the {name} graph: {why}.")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.add_optimization_profile(_profile(builder, network, largest))
        self._lend_cache(config)
        monitor = _monitor(trt, name, self._watch)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._refusal(name)
        self._keep_cache(config)
        return bytes(plan)

    def _refusal(self, name: str) -> BackendError:
        said = self._library.complaint()
        if "memory" in said.lower():
            return BackendError(
                f"Not enough memory to build the {name} with TensorRT{said}: end other programs that use the "
                "card, or build with a smaller --max-streams."
            )
        return BackendError(f"TensorRT {self._library.version} cannot build the {name}{said}.")

    def _lend_cache(self, config: Any) -> None:
        """A cache that does not fit (another version, spoilt) is begun anew."""
        try:
            kept = self._cache_file.read_bytes()
        except OSError:
            kept = b""
        cache = config.create_timing_cache(kept)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _keep_cache(self, config: Any) -> None:
        """Best effort: without it the next build measures again."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        try:
            write_whole(self._cache_file, bytes(cache.serialize()))
        except OSError:
            return


def _profile(builder: Any, network: Any, largest: int) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if -1 in shape:
            least, most = ((batch, *shape[1:]) for batch in (1, largest))
            profile.set_shape(tensor.name, least, most, most)
    return profile


def _monitor(trt: Any, name: str, watch: Watch) -> Any:
    """TensorRT's outermost phase, as calls of `watch`. TensorRT calls it from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                with self._lock:
                    self._steps[phase_name] = num_steps
                    watch(f"{name}: {phase_name}", 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._steps:
                    watch(f"{name}: {phase_name}", step + 1, self._steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                if (steps := self._steps.pop(phase_name, None)) is not None:
                    watch(f"{name}: {phase_name}", steps, steps)

    return Monitor()
