"""What one score costs on an engine, and what it would cost to compute its whole window anew.

`measure_engine` runs one engine ("onnx", "openvino", or "torch": the PyTorch network, eager, rebuilt from the
bundle) behind the same protocol, so that everything but the engine is the same. It knows nothing of processes
or of the feed. Data leaves it as plain maps; times are milliseconds, by the CPU time of this process (`cpu`)
and by the clock (`wall`).
"""

import contextlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.eager import AbsentEngineError, TorchBackend, load_network, window_sound
from benchmarks.machine import JsonMap, quantiles, resident_mib
from benchmarks.signals import Recording, record
from engine.backends import PACKAGES
from engine.backends.base import HostBackend
from engine.bundle import Bundle, load_bundle
from engine.probabilities import softmax
from engine.signals.finder import FaceFinder
from engine.signals.sound import LogMel
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Float32, Observation
from engine.window import Window

RATE_HZ = 5
OTHER_WINDOWS_S = (2.0, 8.0)
WARM = 3
ENGINES = ("onnx", "openvino", "torch")


class Times:
    """CPU and clock times of calls, in milliseconds; the first `warm` of them do not count."""

    def __init__(self, warm: int = WARM) -> None:
        self._warm = warm
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def call(self, what: Callable[[], Any]) -> Any:
        """Call and count."""
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        answer = what()
        self.cpu.append((time.process_time_ns() - cpu) / 1e6)
        self.wall.append((time.perf_counter_ns() - wall) / 1e6)
        return answer

    @property
    def mean_cpu(self) -> float:
        """Mean of the CPU times."""
        return float(np.mean(self.cpu[self._warm :]))

    def figures(self) -> JsonMap:
        """Both, as quantiles."""
        return {"cpu": quantiles(self.cpu[self._warm :]), "wall": quantiles(self.wall[self._warm :])}


def measure_engine(
    name: str, folder: Path | None, finder: FaceFinder, *, scores: int, export_to: Path | None = None
) -> JsonMap:
    """One engine: its parts, a score and its window anew, for windows of several lengths, and its memory.

    scores: how many to measure, for the bundle's own window. Other lengths are measured where the window
    model can be had for them: in PyTorch always (same weights, more or fewer ticks), for the other engines
    if `export_to` names a folder to export to. Raises AbsentEngineError, BundleError.
    """
    bundle = load_bundle(folder)
    recording = record(bundle, finder)
    before = resident_mib()
    begun = time.perf_counter()
    backend = open_backend(name, bundle)
    _play(Stream(Recognition(bundle, backend)), recording, WARM, Times())
    load_s = time.perf_counter() - begun
    memory = resident_mib() - before
    parts = _parts(backend, bundle, recording, 5 * scores)
    windows = {f"{bundle.window.seconds:g}": measure_window(backend, bundle, recording, scores)}
    for seconds in OTHER_WINDOWS_S if name == "torch" or export_to is not None else ():
        other = with_window(bundle, seconds, export_to)
        windows[f"{seconds:g}"] = measure_window(
            open_backend(name, other), other, recording, max(scores // 4, 2 * WARM)
        )
    return {
        "load_s": round(load_s, 3),
        "memory_mib": round(memory, 1),
        "parts_ms": parts,
        "windows": dict(sorted(windows.items(), key=lambda each: float(each[0]))),
        "off_parity": _off_parity(backend, bundle),
    }


def open_backend(name: str, bundle: Bundle) -> HostBackend:
    """An engine by name. Raises AbsentEngineError where it is not installed."""
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise AbsentEngineError(f"{package} is not installed, so {name} is left out.")
    if name == "onnx":
        from engine.backends.onnx import OnnxBackend

        return OnnxBackend(bundle)
    if name == "openvino":
        from engine.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(bundle)
    return TorchBackend(bundle)


def with_window(bundle: Bundle, seconds: float, export_to: Path | None) -> Bundle:
    """The bundle for windows of another length; the window model is exported anew where a folder is given."""
    other = replace(bundle, window=replace(bundle.window, seconds=seconds))
    if export_to is None:
        return other
    file = export_to / f"window_model_{seconds:g}s.onnx"
    if not file.exists():
        _export(other, file)
    return replace(other, window_model=file)


def _export(bundle: Bundle, file: Path) -> None:
    import torch

    inputs = {
        name: torch.from_numpy(np.repeat(each, 2, axis=0)) for name, each in window_inputs(bundle).items()
    }
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            load_network(bundle).window_model,
            tuple(inputs.values()),
            str(file),
            input_names=list(inputs),
            output_names=["logits", "attention_video", "attention_audio"],
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
            dynamo=True,
            external_data=False,
            opset_version=20,
            verbose=False,
        )


def measure_window(backend: HostBackend, bundle: Bundle, recording: Recording, scores: int) -> JsonMap:
    """A score as it is computed live, and the same window computed anew.

    Live: everything the recogniser does from one score to the next, with the pictures and sound that came
    between. Anew: flow and frame encoder for all ticks of the window in batches of up to 32 (which favours
    it), the whole mel with its tokens, the window model; the face is not even sought again.
    """
    spec = bundle.window
    live, anew = Times(warm=round(spec.seconds * RATE_HZ)), Times(warm=1)
    _play(Stream(Recognition(bundle, backend)), recording, round(spec.seconds * RATE_HZ) + scores, live)
    ticks = range(spec.ticks)
    faces = list(islice(cycle(recording.faces), spec.ticks))
    samples = (spec.bins - 1) * bundle.mel.hop + bundle.mel.window  # just enough for all bins
    sound = np.resize(np.concatenate([block.samples for block in recording.blocks]), samples)
    slot = 1

    def recompute() -> None:
        backend.observe([slot] * spec.ticks, ticks, faces)
        _, mel = LogMel(bundle.mel).push(0, sound)
        backend.score([slot], [_window(bundle, mel)])
        backend.reset(slot)

    for _ in range(max(scores // 8, 3) + 1):
        anew.call(recompute)
    live_ms, anew_ms = live.figures(), anew.figures()
    return {
        "ticks": spec.ticks,
        "score_ms": live_ms,
        "anew_ms": anew_ms,
        "ratio": round(anew_ms["cpu"]["p50"] / live_ms["cpu"]["p50"], 2),
    }


def _play(stream: Stream, recording: Recording, scores: int, times: Times) -> None:
    """Play into a fresh stream, so many scores long; each with what came before it is one call."""
    played = recording.played()
    for number in range(scores):
        due_ns = (number + 1) * SECOND_NS // RATE_HZ
        items: list[Observation | Block] = []
        for item in played:
            items.append(item)
            if isinstance(item, Observation) and item.t_ns >= due_ns:
                break
        times.call(partial(_score, stream, items, due_ns))


def _score(stream: Stream, items: Sequence[Observation | Block], due_ns: int) -> None:
    for item in items:
        if isinstance(item, Observation):
            stream.add_observation(item)
        else:
            stream.add_block(item)
    stream.scores(due_ns)


def _parts(backend: HostBackend, bundle: Bundle, recording: Recording, count: int) -> JsonMap:
    """The two graphs alone: a frame in a batch of one, a window in a batch of one."""
    encoder, window_model = Times(), Times()
    faces = recording.faces
    crops = [face.crop[None, None].astype(np.float32) for face in faces]
    rng = np.random.default_rng(0)
    flow = 20 * rng.standard_normal((1, 2, bundle.flow.size, bundle.flow.size)).astype(np.float32)
    inputs = window_inputs(bundle)
    for number in range(count + WARM):
        encoder.call(partial(backend.encode, crops[number % len(crops)], flow))
    for _ in range(count // 3 + WARM):
        window_model.call(partial(backend.answers, inputs))
    return {"frame_encoder": encoder.figures(), "window_model": window_model.figures()}


def window_inputs(bundle: Bundle) -> dict[str, np.ndarray[Any, Any]]:
    """One window for the window model, in the order of its arguments."""
    rng = np.random.default_rng(0)
    spec, tokens = bundle.window, bundle.tokens
    return {
        "v": rng.standard_normal((1, spec.ticks, tokens.appearance)).astype(np.float32),
        "o": rng.standard_normal((1, spec.ticks, tokens.motion)).astype(np.float32),
        "video_mask": np.ones((1, spec.ticks), np.bool_),
        "face_baseline": bundle.baseline.face_mean[None].copy(),
        "face_weight": np.full(1, 0.5, np.float32),
        bundle.sound: rng.standard_normal((1, *bundle.sound_shape)).astype(np.float32),
        "audio_mask": np.ones((1, spec.bins), np.bool_),
        "voice_baseline": bundle.baseline.voice_mean[None].copy(),
        "voice_weight": np.full(1, 0.5, np.float32),
    }


def _window(bundle: Bundle, mel: Float32) -> Window:
    spec = bundle.window
    return Window(
        t_end_ns=spec.window_ns,
        end_tick=spec.ticks,
        final_tick=spec.ticks,
        video_mask=np.ones(spec.ticks, np.bool_),
        **window_sound(bundle, mel),
        audio_mask=np.ones(spec.bins, np.bool_),
        voice_baseline=bundle.baseline.voice_mean,
        voice_weight=0.5,
        track=0,
        face=None,
    )


def _off_parity(backend: HostBackend, bundle: Bundle) -> float:
    """The largest difference in probability from the bundle's own answers (PyTorch at full precision)."""
    with np.load(bundle.parity) as file:
        samples = dict(file)
    given = {key[len("window_") :]: value for key, value in samples.items() if key.startswith("window_")}
    wanted, found = samples["answer_logits"], backend.answers(given).logits
    off = [
        np.abs(softmax(a) - softmax(b)).max()
        for a, b in zip(found.reshape(-1, found.shape[-1]), wanted.reshape(-1, wanted.shape[-1]), strict=True)
    ]
    return round(float(max(off)), 7)
