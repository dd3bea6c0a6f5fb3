"""One process under the load of many cameras: what comes on a schedule is taken, encoded and scored as in a
run.

The loop is the recogniser worker's, without its sockets: `realtime.streams.Streams` takes what has come,
encodes the crops of all streams in one batch and scores the windows that are due in one batch. `serve` is the
process. It knows nothing of how many streams are wanted or why. Data leaves it as `Trial`s.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arrivals import Arrival, Rhythm, arrivals, phase_ns
from benchmarks.eager import AbsentEngineError
from benchmarks.engines import CPU_ENGINES, NOTHING, gpu_there, open_engine
from benchmarks.machine import MIB, JsonMap, quantiles, resident_mib
from benchmarks.signals import Recording
from engine.bundle import load_bundle
from engine.errors import De3Error
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Observation
from realtime.messages import Routed, Scored
from realtime.schedule import Schedule
from realtime.scoring import Recogniser
from realtime.streams import Streams

MAX_WAIT_NS = 80_000_000
PATIENCE_NS = 2 * SECOND_NS
SOUND_HZ = 16_000
WEIGHED_STREAMS = 64
LIMIT_MS, LOSS = 50.0, 0.01


@dataclass(slots=True, kw_only=True)
class Trial:
    """What became of so many streams; several processes' add up.

    latency_ms: of each score, from its last crop's coming until the score is in host memory. wanted: scores
    that were to come; crops: that came. thinned: crops that were not encoded, for want of time.
    wall_s: from the first that counts until all was done, or given up; busy_s, cpu_s: of it not asleep, and
    on a processor; all three are sums over the processes.
    """

    streams: int
    processes: int = 1
    wanted: int = 0
    crops: int = 0
    thinned: int = 0
    wall_s: float = 0.0
    busy_s: float = 0.0
    cpu_s: float = 0.0
    latency_ms: list[float] = field(default_factory=list)

    def add(self, other: "Trial") -> None:
        """Another process's part of the same trial."""
        for name in ("processes", "wanted", "crops", "thinned", "wall_s", "busy_s", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency_ms += other.latency_ms

    def cores(self, which: str) -> float:
        """Seconds of all processes in a second: of "busy" time, or of "cpu" time."""
        return self.processes * float(getattr(self, f"{which}_s")) / self.wall_s if self.wall_s else 0.0

    @property
    def sustained(self) -> bool:
        """All but one in a hundred scores and crops went through, and 95 of 100 scores within 50 ms.

        Nothing piles up in a recogniser that cannot keep pace: it skips windows and thins crops. So that is
        what a backlog would be seen by.
        """
        lost = self.wanted - len(self.latency_ms)
        if not self.latency_ms or lost > LOSS * self.wanted or self.thinned > LOSS * self.crops:
            return False
        return bool(quantiles(self.latency_ms)["p95"] <= LIMIT_MS)

    def figures(self) -> JsonMap:
        """For JSON."""
        return {
            "streams": self.streams,
            "processes": self.processes,
            "sustained": self.sustained,
            "latency_ms": quantiles(self.latency_ms),
            "lost_scores": self.wanted - len(self.latency_ms),
            "wanted_scores": self.wanted,
            "thinned_crops": self.thinned,
            "wall_s": round(self.wall_s, 3),
            "busy_s": round(self.busy_s, 3),
            "cpu_s": round(self.cpu_s, 3),
        }


class Cameras:
    """`streams` cameras, of which this process serves `mine`, from the clock's `start_ns` on."""

    def __init__(
        self,
        recognition: Recognition,
        recording: Recording,
        streams: int,
        mine: Sequence[int],
        start_ns: int,
    ) -> None:
        self.rhythm = Rhythm(tick_hz=recognition.bundle.window.tick_hz)
        self._recognition, self._streams, self._mine = recognition, streams, mine
        self._start_ns, self._tick_hz = start_ns, self.rhythm.tick_hz
        self._faces = recording.faces
        self._blocks = blocks_of(recording, SOUND_HZ // self.rhythm.blocks_hz)
        self._recognisers = {str(number): self._recogniser(number) for number in mine}
        self._turns = Streams(recognition, self._recognisers, live=True)

    def run(self, warm_s: float, seconds: float) -> Trial:
        """Serve; what comes in the first `warm_s` is served too, but not measured."""
        coming = arrivals(self._streams, warm_s + seconds, self.rhythm, self._mine)
        from_ns = self._start_ns + round(warm_s * SECOND_NS)
        trial = Trial(streams=self._streams)
        for each in coming:
            if each.kind == "crop" and self._start_ns + each.at_ns >= from_ns:
                trial.crops += 1
                trial.wanted += self._scored_with(each.number)
        until_ns = self._start_ns + round((warm_s + seconds) * SECOND_NS)
        gc.collect()
        gc.freeze()  # a run has no such list, through which the collector would go again and again
        self._serve(coming, from_ns, until_ns + PATIENCE_NS, trial)
        gc.unfreeze()
        return trial

    def close(self) -> None:
        """Hand the slots back."""
        for recogniser in self._recognisers.values():
            recogniser.stream.close()

    def _serve(self, coming: list[Arrival], from_ns: int, until_ns: int, trial: Trial) -> None:
        turns, taken, warm = self._turns, 0, True
        busy_ns, cpu_ns, thinned = 0, time.process_time_ns(), 0
        begun_ns = self._start_ns
        _sleep_until(begun_ns)
        while (now_ns := time.monotonic_ns()) < until_ns:
            if warm and now_ns >= from_ns:
                warm, thinned, begun_ns = False, self._thinned(), now_ns
                busy_ns, cpu_ns = 0, time.process_time_ns()
            while taken < len(coming) and self._start_ns + coming[taken].at_ns <= now_ns:
                self._take(coming[taken], now_ns)
                taken += 1
            turns.encode()
            due_ns = time.monotonic_ns()
            for batch in turns.due(due_ns):
                for scored in turns.score(batch, due_ns):
                    self._note(scored, from_ns, trial)
                if time.monotonic_ns() >= until_ns:
                    break
            busy_ns += time.monotonic_ns() - now_ns
            if taken == len(coming):
                break
            _sleep_until(self._start_ns + coming[taken].at_ns)
        trial.wall_s = (time.monotonic_ns() - begun_ns) / SECOND_NS
        trial.busy_s, trial.cpu_s = busy_ns / SECOND_NS, (time.process_time_ns() - cpu_ns) / SECOND_NS
        trial.thinned = self._thinned() - thinned

    def _take(self, arrival: Arrival, now_ns: int) -> None:
        name, number = str(arrival.stream), arrival.number
        epoch_ns = self._epoch_ns(arrival.stream)
        if arrival.kind == "block":
            samples = self._blocks[(number + 13 * arrival.stream) % len(self._blocks)]
            begin_ns = epoch_ns + number * SECOND_NS // self.rhythm.blocks_hz
            self._turns.take(Routed(name, Block(t_ns=begin_ns, seq=number, samples=samples)), now_ns)
            return
        face = self._faces[(number + 7 * arrival.stream) % len(self._faces)]
        centre_ns = epoch_ns + (2 * number + 1) * SECOND_NS // (2 * self._tick_hz)
        self._turns.take(Routed(name, Observation(t_ns=centre_ns, seq=number, face=face)), now_ns)
        # In a run it is the next picture that says so; here each crop is the only one of its tick.
        end_ns = epoch_ns + (number + 1) * SECOND_NS // self._tick_hz
        self._recognisers[name].stream.advance_video(end_ns)

    def _note(self, scored: Scored, from_ns: int, trial: Trial) -> None:
        came_ns = scored.scores.t_ns + self.rhythm.delay_ns
        if came_ns >= from_ns:
            trial.latency_ms.append((scored.done_ns - came_ns) / 1e6)

    def _recogniser(self, number: int) -> Recogniser:
        epoch_ns = self._epoch_ns(number)
        stream = Stream(self._recognition, epoch_ns, at_once=False)
        rate_hz = Fraction(self.rhythm.score_hz)
        schedule = Schedule(
            epoch_ns=epoch_ns, tick_hz=self._tick_hz, rate_hz=rate_hz, max_wait_ns=MAX_WAIT_NS
        )
        return Recogniser(stream, schedule, True, str(number))

    def _epoch_ns(self, number: int) -> int:
        return self._start_ns + phase_ns(number, self._streams, self.rhythm)

    def _scored_with(self, number: int) -> bool:
        """Whether a window ends with this crop's tick."""
        return (number + 1) * self.rhythm.score_hz % self._tick_hz < self.rhythm.score_hz

    def _thinned(self) -> int:
        return sum(each.stream.counts["forgone_tick"] for each in self._recognisers.values())


def memory_kib(recognition: Recognition, recording: Recording, most: int | None) -> float:
    """What one more stream of at most `most` takes of host memory: its timeline, full of sound, and its
    slot."""
    count = WEIGHED_STREAMS if most is None else min(WEIGHED_STREAMS, most)
    sound = np.concatenate(blocks_of(recording, SOUND_HZ))
    seconds = 2 * recognition.bundle.window.seconds
    sound = np.resize(sound, round(seconds * SOUND_HZ))
    gc.collect()
    before, streams = resident_mib(), []
    for _ in range(count):
        stream = Stream(recognition)
        stream.add_block(Block(t_ns=0, seq=0, samples=sound))
        recognition.observe([(stream.slot, [(0, recording.faces[0])])])
        streams.append(stream)
    kib = (resident_mib() - before) * 1024 / count
    for stream in streams:
        stream.close()
    return round(kib, 1)


def serve(pipe: "Connection[Any, Any]", name: str, folder: Path | None, recording: Recording) -> None:
    """The process: opens an engine, says how that went, and runs a trial for each request; None ends it.

    A request is (streams, mine, start_ns, warm_s, seconds); the answer a Trial, or the words of an error.
    """
    on_gpu = name not in (*CPU_ENGINES, NOTHING) and gpu_there()
    # Asking makes torch ready there; that is not the engine's.
    device_before = device_mib() if on_gpu else None
    before, begun = resident_mib(), time.monotonic()
    try:
        bundle = load_bundle(folder)
        opened = open_engine(name, bundle)
        recognition = Recognition(bundle, opened.backend, opened.note)
        recognition.warm_up()
        pipe.send(
            {
                "engine": opened.note,
                "load_s": round(time.monotonic() - begun, 2),
                "memory_mib": round(resident_mib() - before, 1),
                "memory_a_stream_kib": memory_kib(recognition, recording, opened.tracks),
                "precision": opened.precision,
                "largest": opened.tracks,
                **device_figures(device_before, opened.tracks),
            }
        )
    except (AbsentEngineError, De3Error) as error:
        pipe.send(str(error))
        return
    while (request := pipe.recv()) is not None:
        streams, mine, start_ns, warm_s, seconds = request
        try:
            cameras = Cameras(recognition, recording, streams, mine, start_ns)
            pipe.send(cameras.run(warm_s, seconds))
            cameras.close()
        except (De3Error, MemoryError) as error:
            pipe.send(str(error) or "not enough memory")
            return


def device_figures(before_mib: float | None, tracks: int | None) -> JsonMap:
    """The GPU's memory: in use by anybody, what of it opening the engine took (weights, code, buffers and the
    state of all tracks), and that for each of the tracks; None where it has none of it, or no such bound."""
    if before_mib is None:
        return dict.fromkeys(("device_mib", "device_opened_mib", "device_a_stream_kib"))
    now_mib = device_mib()
    taken_mib = now_mib - before_mib
    return {
        "device_mib": round(now_mib, 1),
        "device_opened_mib": round(taken_mib, 1),
        "device_a_stream_kib": None if tracks is None else round(1024 * taken_mib / tracks, 1),
    }


def device_mib() -> float:
    """What of the GPU's memory is in use by anybody. Needs torch and a GPU."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return float(total - free) / MIB


def blocks_of(recording: Recording, size: int) -> list[Any]:
    """The sound in pieces of one size, float32."""
    sound = np.concatenate([block.samples for block in recording.blocks]).astype(np.float32)
    return np.array_split(sound[: len(sound) // size * size], len(sound) // size)


def _sleep_until(t_ns: int) -> None:
    left_ns = t_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / SECOND_NS)
