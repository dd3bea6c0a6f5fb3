"""Where the CPU time of a run goes: every step that a picture and a sound sample pass, measured alone.

The steps run in this process, one after the other, on a recording of the demo, through the very functions
that the workers call. Multiplied by how often each runs they add up to the processes' CPU shares, less what
loops, sockets and cold caches take. Data leaves it as a plain map.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cost import WARM, Times, open_backend
from benchmarks.machine import JsonMap
from benchmarks.signals import record
from engine.bundle import Bundle, load_bundle
from engine.signals.face import FaceTracker
from engine.signals.finder import FaceFinder
from engine.signals.flow import Flow
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Frame
from engine.window import UNBOUNDED_NS
from realtime import messages, wire
from realtime.sources.demo import Performance
from realtime.sources.media import open_media

FRAMES_HZ, TICKS_HZ, BLOCKS_HZ, SCORES_HZ = 30, 15, 50, 5


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the pipeline. `process`: where it runs; `hz`: how often, with 30 pictures a second."""

    name: str
    process: str
    hz: int
    calls: Iterable[Callable[[], Any]]


def measure_stages(folder: Path | None, finder: FaceFinder, clip: Path, *, seconds: float) -> JsonMap:
    """Each step's CPU milliseconds a call and share of one core, on ONNX Runtime."""
    bundle = load_bundle(folder)
    found = []
    for step in _steps(bundle, finder, clip):
        times = Times()
        for call in islice(step.calls, round(seconds * step.hz) + WARM):
            times.call(call)
        found.append(
            {
                "step": step.name,
                "process": step.process,
                "hz": step.hz,
                "ms": times.figures()["cpu"],
                "share": round(times.mean_cpu * step.hz / 1e3, 4),
            }
        )
    return {"steps": found}


def _steps(bundle: Bundle, finder: FaceFinder, clip: Path) -> Iterable[Step]:
    recording = record(bundle, finder)
    frames, faces, blocks = recording.frames, recording.faces, recording.blocks
    yield Step("demo: draw a picture", "demo", FRAMES_HZ, _each(Performance().picture, range(1 << 20)))
    yield Step("demo: speak a block", "demo", BLOCKS_HZ, _each(Performance().sound, range(1 << 20)))
    yield Step("file: decode picture and sound", "media", FRAMES_HZ, _decoded(clip))
    yield Step("find, follow, align, cut", "capture", FRAMES_HZ, _tracked(bundle, finder, frames))
    yield Step("encode an observation", "capture", FRAMES_HZ, _each(messages.encode, recording.observations))
    yield Step("encode a block", "capture", BLOCKS_HZ, _each(messages.encode, blocks))
    packed = [messages.encode(observation) for observation in recording.observations]
    yield Step("decode an observation", "recogniser", FRAMES_HZ, _each(messages.decode, packed))
    yield Step(
        "decode a block", "recogniser", BLOCKS_HZ, _each(messages.decode, [*map(messages.encode, blocks)])
    )
    flow = Flow(bundle.flow)
    pairs = ((face.previous, face.crop, face.gap_ns) for face in cycle(faces))
    yield Step("flow", "recogniser", TICKS_HZ, (partial(flow.pair, *pair) for pair in pairs))
    backend = open_backend("onnx", bundle)
    crops = [face.crop[None, None].astype(np.float32) for face in faces]
    motion = flow.pair(faces[0].previous, faces[0].crop, faces[0].gap_ns)[None]
    encode = (partial(backend.encode, crop, motion) for crop in cycle(crops))
    yield Step("frame encoder", "recogniser", TICKS_HZ, encode)
    stream = Stream(Recognition(bundle, backend))
    sound = (item for item in recording.played() if isinstance(item, Block))
    yield Step("log-mel, bins", "recogniser", BLOCKS_HZ, _heard(stream, sound))
    yield Step("window and window model", "recogniser", SCORES_HZ, _scored(stream))
    scores = stream.scores(1 << 40)
    scored = messages.Scored(scores, 1, 1, 1)
    yield Step("encode the scores", "recogniser", SCORES_HZ, _each(messages.encode, [scored]))
    yield Step("decode the scores", "main", SCORES_HZ, _each(messages.decode, [messages.encode(scored)]))
    yield Step("make and check the message", "main", SCORES_HZ, _each(_message, [scores]))


def _each(what: Callable[[Any], Any], values: Iterable[Any]) -> Iterable[Callable[[], Any]]:
    return (partial(what, value) for value in cycle(values))


def _decoded(clip: Path) -> Iterable[Callable[[], Any]]:
    """From one picture to the next, with the sound between them, over and over."""
    items = chain.from_iterable(open_media(str(clip), paced=False) for _ in count())

    def to_next_picture() -> None:
        while not isinstance(next(items), Frame):
            pass

    return cycle([to_next_picture])


def _tracked(bundle: Bundle, finder: FaceFinder, frames: list[Frame]) -> Iterable[Callable[[], Any]]:
    """Forth and back through the pictures, so that the face never jumps."""
    tracker = FaceTracker(finder, bundle.crop)
    for number, frame in enumerate(cycle([*frames, *frames[-2:0:-1]])):
        t_ns = number * SECOND_NS // FRAMES_HZ
        yield partial(tracker.observe, Frame(t_ns=t_ns, seq=number, image=frame.image))


def _heard(stream: Stream, blocks: Iterable[Block]) -> Iterable[Callable[[], Any]]:
    for block in blocks:
        yield partial(stream.add_block, block)


def _scored(stream: Stream) -> Iterable[Callable[[], Any]]:
    """Windows one after the other over the sound that is there; of the picture all is masked."""
    stream.advance_video(UNBOUNDED_NS)
    end_ns = 0
    while True:
        end_ns += SECOND_NS // SCORES_HZ
        yield partial(stream.scores, end_ns)


def _message(scores: Any) -> tuple[bytes, bytes]:
    latency_ms = {"capture": 1.0, "wait": 1.0, "score": 1.0, "publish": 1.0, "total": 1.0}
    message = wire.emotion_message(
        scores, stream="main", seq=1, t_unix_ns=1, latency_ms=latency_ms, model="0123456789ab"
    )
    return wire.encode(message)
