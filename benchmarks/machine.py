"""What the figures were measured on, and the small arithmetic that all figures share.

It knows nothing of what is measured. Data leaves it as plain maps, ready for JSON.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import load_bundle
from engine.signals.finder import load_finder

JsonMap = dict[str, Any]

PACKAGES = (
    "numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch", "triton", "numba", "numba-cuda",
    "tensorrt", "av", "pyzmq",
)  # fmt: skip
MIB = 2**20


def add_shared(parser: argparse.ArgumentParser) -> None:
    """The options that the benchmarks share: where figures go, and what is measured with (see `head`)."""
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    add("--bundle", type=Path, metavar="DIR", help="the trained model (the bundled one)")
    add("--face-model", type=Path, metavar="FILE", help="YuNet's ONNX file")
    add("--offline", action="store_true", help="never try to fetch that file")


def one_thread() -> None:
    """Libraries that are loaded from now on, and processes that are started, compute on one thread."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def describe() -> JsonMap:
    """The machine, the versions, and how busy it was before anything was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "commit": _commit(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_mib() -> float:
    """This process's memory, as the system counts it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        import psutil

        return float(psutil.Process().memory_info().rss / MIB)
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def gpu() -> JsonMap | None:
    """The first NVIDIA GPU that torch can use; None where there is none. Loads torch."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "multiprocessors": found.multi_processor_count,
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }


def quantiles(values: Sequence[float]) -> JsonMap:
    """p50, p95, p99, max and n; each the smallest value that so many do not exceed. Empty: n alone."""
    if not values:
        return {"n": 0}
    ranked = np.sort(np.asarray(values, np.float64))
    found = {
        f"p{share}": round(float(np.quantile(ranked, share / 100, method="inverted_cdf")), 3)
        for share in (50, 95, 99)
    }
    return {**found, "max": round(float(ranked[-1]), 3), "n": len(values)}


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything, since it was started."""
    import psutil  # not on every machine

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    doubled = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted under user and nice
    return float(sum(times) - idle - doubled)


def keep(report: JsonMap, options: argparse.Namespace) -> None:
    """Write what has been measured so far to `--json`, whole or not at all; what is ended early leaves it."""
    if options.json is not None:
        scratch = options.json.with_name(f".{options.json.name}.new")
        scratch.write_text(json.dumps(report, indent=1) + "\n")
        scratch.replace(options.json)


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def head(benchmark: str, options: argparse.Namespace, named: Sequence[str], *, faces: str = "") -> JsonMap:
    """What is measured, on what, with which of the options.

    faces: where they come from, if none have to be found. Raises De3Error where the bundle or the face model
    cannot be used.
    """
    machine = describe()  # before anything makes it busy
    bundle = load_bundle(options.bundle)
    faces = faces or load_finder(face_model=options.face_model, offline=options.offline)[1]
    return {
        "benchmark": benchmark,
        "machine": machine,
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "faces": faces,
        "options": {name: getattr(options, name) for name in named},
    }
