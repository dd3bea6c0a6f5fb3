"""Where a stream's second goes, stage by stage, without a schedule: for as many streams as one likes at once.

Streams run as in the recogniser, their ticks in one batch and their windows in one batch. It knows nothing of
limits. Data leaves it as plain maps. Times are this process's CPU time, or the clock's where a GPU computes.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.arrivals import Rhythm
from benchmarks.cost import window_inputs
from benchmarks.load import blocks_of
from benchmarks.machine import JsonMap
from benchmarks.operations import by_operator as counted
from benchmarks.signals import Recording
from engine.backends.base import Answers, Backend
from engine.bundle import Bundle
from engine.signals.voice import VoiceEncoder
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Face, Float32, Observation
from engine.window import Window

STAGES = ("faces", "sound", "voices", "windows", "rest")
WARM, LEAST_ROUNDS, MOST_S = 2, 3, 8.0
SOUND_HZ = 16_000


class Watched:
    """A back end that counts the time of its calls, each until the GPU has done it too."""

    def __init__(self, backend: Backend, clock: Callable[[], int], wait: Callable[[], None]) -> None:
        self._backend, self._clock, self._wait = backend, clock, wait
        self.name, self.tracks, self.precision = backend.name, backend.tracks, backend.precision
        self.spent: Counter[str] = Counter()
        voice = backend.voice
        self.voice = None
        if voice is not None:
            self.voice = VoiceEncoder(partial(self._said, voice), voice.bands, voice.said)

    def _said(self, voice: VoiceEncoder, heard: Float32) -> Float32:
        begun = self._clock()
        answers = voice.network(heard)
        self._wait()
        self.spent["voices"] += self._clock() - begun
        return answers

    def observe(self, slots: Sequence[int], ticks: Sequence[int], faces: Sequence[Face]) -> None:
        """See `Backend`."""
        begun = self._clock()
        self._backend.observe(slots, ticks, faces)
        self._wait()
        self.spent["faces"] += self._clock() - begun

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        """See `Backend`."""
        begun = self._clock()
        answers = self._backend.score(slots, windows)
        self._wait()
        self.spent["windows"] += self._clock() - begun
        return answers

    def reset(self, slot: int, *, keep_baseline: bool = False) -> None:
        """See `Backend`."""
        self._backend.reset(slot, keep_baseline=keep_baseline)


def second_ms(
    bundle: Bundle, backend: Backend, recording: Recording, streams: int, rounds: int, *, host: bool
) -> JsonMap:
    """Milliseconds of a stream's second by stage, and `all`; the median of `rounds`, each a score of all.

    After some seconds fewer rounds have to do. host: nothing is computed on a GPU.
    """
    clock = time.process_time_ns if host else time.perf_counter_ns
    watched = Watched(backend, clock, (lambda: None) if host else _synchronize)
    rhythm = Rhythm(tick_hz=bundle.window.tick_hz)
    recognition = Recognition(bundle, watched)
    served = [Stream(recognition, at_once=False) for _ in range(streams)]
    blocks = blocks_of(recording, SOUND_HZ // rhythm.blocks_hz)
    found: dict[str, list[float]] = defaultdict(list)
    until = time.monotonic() + MOST_S
    for turn in range(WARM + rounds):
        if turn >= WARM + LEAST_ROUNDS and time.monotonic() > until:
            break
        watched.spent.clear()
        watched.spent["voices"] = 0
        begun = clock()
        _round(recognition, served, recording.faces, blocks, rhythm, turn, watched.spent, clock)
        whole = clock() - begun
        spent = {**watched.spent, "all": whole, "rest": whole - sum(watched.spent.values())}
        if turn >= WARM:
            for stage, each in spent.items():
                found[stage].append(each * rhythm.score_hz / streams / 1e6)
    for stream in served:
        stream.close()
    return {stage: round(float(np.median(found[stage])), 4) for stage in (*STAGES, "all")}


def _round(
    recognition: Recognition,
    served: list[Stream],
    faces: list[Face],
    blocks: list[Any],
    rhythm: Rhythm,
    turn: int,
    spent: "Counter[str]",
    clock: Callable[[], int],
) -> None:
    """From one score of all streams to the next."""
    ticks, pieces = rhythm.tick_hz // rhythm.score_hz, rhythm.blocks_hz // rhythm.score_hz
    begun = clock()
    for number in range(turn * pieces, (turn + 1) * pieces):
        for stream in served:
            samples = blocks[number % len(blocks)]
            stream.add_block(Block(t_ns=number * SECOND_NS // rhythm.blocks_hz, seq=number, samples=samples))
    spent["sound"] += clock() - begun
    for tick in range(turn * ticks, (turn + 1) * ticks):
        for place, stream in enumerate(served):
            face = faces[(tick + 7 * place) % len(faces)]
            centre_ns = (2 * tick + 1) * SECOND_NS // (2 * rhythm.tick_hz)
            stream.add_observation(Observation(t_ns=centre_ns, seq=tick, face=face))
            stream.advance_video((tick + 1) * SECOND_NS // rhythm.tick_hz)
        recognition.encode(served)
    end_ns = (turn + 1) * SECOND_NS // rhythm.score_hz
    recognition.scores([(stream, end_ns) for stream in served])


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()


def operators(bundle: Bundle, batch: int, rounds: int) -> JsonMap:
    """ONNX Runtime's own profile of both graphs: milliseconds of a stream's second by operator, the dearest
    first, with millions of operations as counted from the graph."""
    import onnxruntime

    size, flow, tokens = bundle.crop.size, bundle.flow.size, bundle.window
    crop = np.random.default_rng(0).uniform(0, 255, (batch, 1, size, size)).astype(np.float32)
    motion = np.random.default_rng(1).standard_normal((batch, 2, flow, flow)).astype(np.float32)
    windows = {name: np.repeat(each, batch, axis=0) for name, each in window_inputs(bundle).items()}
    found: JsonMap = {}
    for file, given, outputs, hz in (
        (bundle.frame_encoder, {"crop": crop, "flow": motion}, ["v", "o"], tokens.tick_hz),
        (bundle.window_model, windows, ["logits"], Rhythm().score_hz),
    ):
        with TemporaryDirectory(prefix="de3-bench-") as folder:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            for _ in range(WARM + rounds):
                session.run(outputs, given)
            events = json.loads(Path(session.end_profiling()).read_text())
        spent: Counter[str] = Counter()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["args"]["op_name"]] += event["dur"]
        runs = WARM + rounds
        works = counted(file, batch)
        found[file.stem] = {
            "ms": {name: round(us * hz / runs / batch / 1e3, 4) for name, us in spent.most_common()},
            "operations_m": {
                name: round(work.operations * hz / batch / 1e6, 3)
                for name, work in works.items()
                if work.operations
            },
        }
    return found
