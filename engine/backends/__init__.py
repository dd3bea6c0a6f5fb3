"""The inference engines, and the choice between them, with its reason.

An engine's package is imported when it is chosen, not before. Data leaves as a `Choice`.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from engine.backends.base import Backend, HostBackend
from engine.backends.card import CardBackend
from engine.bundle import Bundle
from engine.cache import cache_folder
from engine.errors import BackendError
from engine.plans.store import build_command, has_plans, plan_folder

ENGINES = ("auto", "tensorrt", "inductor", "onnx-cuda", "onnx", "openvino")
PLANNED = {"tensorrt": "TensorRT", "inductor": "Inductor"}
"""Engines that run plans, in the order in which they are tried, and their proper names."""
PLANNERS = {"tensorrt": "tensorrt", "inductor": "torch"}
"""The package that each needs."""
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}

MEASURE_S = 2.0
ENCODED_A_SCORE = 3  # 15 ticks and 5 scores a second
WORTH = 0.9
"""OpenVINO opens a second later and needs more memory: it has to take less than this share of the time."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """An open back end and why it is this one, in words for a log."""

    backend: Backend
    reason: str


def choose(bundle: Bundle, engine: str = "auto", tracks: int = 1) -> Choice:
    """Open a back end of `ENGINES` for a bundle, or with "auto" the best one, that keeps so many tracks.

    "auto" takes TensorRT, else Inductor, where a plan of this bundle for this machine and for so many tracks
    has been built: building one takes minutes, so that is left to `python -m engine.build`. Else it takes
    ONNX Runtime's CUDA provider where that is installed, else the faster CPU engine. Where both of these are
    installed, it measures them for two seconds once and keeps the result in the user's cache; OpenVINO has to
    be a tenth faster, because it opens later and needs more memory. The reason says what was passed over, and
    why.

    Raises ValueError for an unknown name, BackendError where the engine is missing or refuses.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if engine in PLANNED:
        return _planned(bundle, engine, "asked for", tracks)
    if engine == "onnx-cuda":
        return _onnx_cuda(bundle, "asked for")
    if engine != "auto":
        return Choice(_open(engine, bundle), f"{engine}: asked for")
    choice, passed_over = _on_a_card(bundle, tracks)
    choice = choice or _on_the_cpu(bundle)
    return Choice(choice.backend, "; ".join([choice.reason, *passed_over]))


def _on_a_card(bundle: Bundle, tracks: int) -> tuple[Choice | None, list[str]]:
    """The first engine on a card that opens, and what was passed over, in words."""
    passed_over = []
    for engine, name in PLANNED.items():
        if bundle.sound == "waveform" or not _installed(PLANNERS[engine]):
            continue
        if not has_plans(bundle, engine, plan_folder()):
            if engine == "tensorrt":  # torch may be there for other reasons
                build = build_command(bundle, engine)
                passed_over.append(f"{name} is installed but has no plan of this bundle: {build}")
            continue
        try:
            return _planned(bundle, engine, "a plan for this machine is there", tracks), passed_over
        except BackendError as error:
            passed_over.append(f"not {engine}: {error}")
    from engine.backends.onnx import available_providers, without_cuda

    if without_cuda(available_providers()) is None:
        try:
            return _onnx_cuda(bundle, "its CUDA provider is installed"), passed_over
        except BackendError as error:
            passed_over.append(f"not onnx-cuda: {error}")
    return None, passed_over


def _planned(bundle: Bundle, engine: str, why: str, tracks: int) -> Choice:
    backend: CardBackend
    if engine == "tensorrt":
        from engine.backends.tensorrt import open_tensorrt

        backend = open_tensorrt(bundle, tracks=tracks)
    else:
        from engine.backends.inductor import open_inductor

        backend = open_inductor(bundle, tracks=tracks)
    key = backend.key
    what = f"{key.precision}, up to {key.largest_batch} tracks on {key.device}, {backend.flow}"
    return Choice(backend, f"{engine}: {why} ({what})")


def _onnx_cuda(bundle: Bundle, why: str) -> Choice:
    from engine.backends.onnx import OnnxCudaBackend

    return Choice(OnnxCudaBackend(bundle), f"onnx-cuda: {why} (fp32, flow on the host with OpenCV)")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec is there
        return True


def _on_the_cpu(bundle: Bundle) -> Choice:
    if importlib.util.find_spec(PACKAGES["openvino"]) is None:
        return Choice(_open("onnx", bundle), "onnx: the only engine installed")
    if importlib.util.find_spec(PACKAGES["onnx"]) is None:
        return Choice(_open("openvino", bundle), "openvino: the only engine installed")
    try:
        return _faster(bundle)
    except BackendError as error:  # what is installed may still not run here
        return Choice(_open("onnx", bundle), f"onnx: openvino does not run here: {error}")


def _faster(bundle: Bundle) -> Choice:
    """The faster of both engines on the CPU. Raises BackendError where one of them does not open."""
    file = cache_folder() / "engines.json"
    kept = _read(file)
    key = _key(bundle)
    if key in kept:
        times, origin = kept[key], "measured earlier"
        taken = _taken(times)
        backend: Backend = _open(taken, bundle)
    else:
        opened = {name: _open(name, bundle) for name in PACKAGES}
        times, origin = _measure(opened, bundle), "measured now"
        taken = _taken(times)
        backend = opened[taken]
        _keep(file, {**kept, key: times})
    figures = ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(times.items()))
    why = "a tenth faster here, or more" if taken == "openvino" else "openvino is not a tenth faster here"
    return Choice(backend, f"{taken}: {why} ({figures} a score, {origin})")


def _taken(times: dict[str, float]) -> str:
    return "openvino" if times["openvino"] < WORTH * times["onnx"] else "onnx"


def _open(engine: str, bundle: Bundle) -> HostBackend:
    if engine == "onnx":
        from engine.backends.onnx import OnnxBackend

        return OnnxBackend(bundle)
    from engine.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle)


def _key(bundle: Bundle) -> str:
    """What the measurement depends on: the model, the machine and the engines' versions."""
    versions = [f"{package} {_version(package)}" for package in PACKAGES.values()]
    return ", ".join([bundle.digest, platform.node(), platform.machine(), *versions])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # of another wheel, as onnxruntime is of onnxruntime-gpu
        return str(importlib.import_module(package).__version__)


def _measure(backends: dict[str, HostBackend], bundle: Bundle) -> dict[str, float]:
    """Median milliseconds of one score and the frames between two, in turns, for two seconds in all."""
    rng = np.random.default_rng(0)
    window, size, flow = bundle.window, bundle.crop.size, bundle.flow.size

    def noise(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return rng.standard_normal(shape).astype(np.float32)

    crop, motion = 40 * noise(1, bundle.crop.channels, size, size) + 128, noise(1, 2, flow, flow)
    inputs = {
        "v": noise(1, window.ticks, bundle.tokens.appearance),
        "o": noise(1, window.ticks, bundle.tokens.motion),
        "video_mask": np.ones((1, window.ticks), dtype=np.bool_),
        "face_baseline": bundle.baseline.face_mean[None],
        "face_weight": np.zeros(1, dtype=np.float32),
        bundle.sound: noise(1, *bundle.sound_shape),
        "audio_mask": np.ones((1, window.bins), dtype=np.bool_),
        "voice_baseline": bundle.baseline.voice_mean[None],
        "voice_weight": np.zeros(1, dtype=np.float32),
    }
    taken: dict[str, list[float]] = {name: [] for name in backends}
    end = time.perf_counter() + MEASURE_S
    while time.perf_counter() < end or min(len(times) for times in taken.values()) < 3:
        for name, backend in backends.items():
            start = time.perf_counter()
            for _ in range(ENCODED_A_SCORE):
                backend.encode(crop, motion)
            backend.answers(inputs)
            taken[name].append(1000 * (time.perf_counter() - start))
    # The first turn of each also allocates.
    return {name: median(times[1:]) for name, times in taken.items()}


def _read(file: Path) -> dict[str, dict[str, float]]:
    """What was measured earlier; a file that is absent or spoilt counts as nothing."""
    try:
        kept = json.loads(file.read_text())
        return {str(key): {name: float(times[name]) for name in PACKAGES} for key, times in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _keep(file: Path, kept: dict[str, dict[str, float]]) -> None:
    """Best effort: without a cache the next start measures again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as scratch:
            json.dump(kept, scratch, indent=1)
        os.replace(scratch.name, file)
    except OSError:
        return


__all__ = ["ENGINES", "Backend", "Choice", "choose"]
