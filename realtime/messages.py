"""Between processes: the messages of workers and main process, and their bytes.

Two links carry them: `observe` (sources to recogniser: observations, blocks, ends, each with its stream) and
`report` (every worker to the main process: heartbeats, notes, scores). Pure: it knows nothing about sockets,
cameras, models or supervision. Data leaves it as the frozen classes below, or as bytes (`encode`).
"""

from dataclasses import astuple, dataclass
from typing import Any

import msgpack
import numpy as np

from engine.types import Block, Face, Float32, Observation, Scores, UInt8
from realtime.config import DEFAULT_STREAM


@dataclass(frozen=True, slots=True)
class End:
    """A source is at its end: everything up to `t_ns` has been sent. `kinds` are "video", "audio"."""

    kinds: tuple[str, ...]
    t_ns: int


@dataclass(frozen=True, slots=True)
class Routed:
    """What a source gives, with the name of the stream that it is for."""

    stream: str
    item: Observation | Block | End


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent twice a second from a worker's own loop."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A source is open. `notes` are lines for the user (which face finder, and why).

    picture, sound: the names of what is seen and heard, empty where nothing is.
    live: a device or a live URL, whose time passes whether or not the run has begun.
    fell_back: it is not what was looked for, which does not exist.
    """

    worker: str
    pid: int
    picture: str
    sound: str
    has_video: bool
    has_audio: bool
    live: bool
    fell_back: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The recogniser can score. `model` is the bundle's digest, `engine` says which was chosen, and why."""

    worker: str
    pid: int
    model: str
    engine: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker ends because it must. `cause` is one of `CAUSES`, `text` a sentence for the user."""

    worker: str
    cause: str
    text: str
    trace: str = ""


CAUSES = ("usage", "source", "bundle", "crash")


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log. `level` is "info" or "warning"."""

    worker: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Stats:
    """What a worker counted of a stream since it started. `drops` are by cause, `rates` per second or shares,
    none where too little time has passed to tell.

    rates["cpu"] is of the whole worker, however many streams it serves.
    """

    worker: str
    pid: int
    drops: dict[str, int]
    rates: dict[str, float]
    stream: str = DEFAULT_STREAM


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker has sent everything it had and ends in good order; with a `stream`: all it had of that."""

    worker: str
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one window with the times at which they came about.

    capture_ns: age of the newest observation (or block) when it reached the recogniser.
    due_ns, done_ns: monotonic times at which the window was complete and scored.
    All three are 0 where media time is the clock.
    """

    scores: Scores
    capture_ns: int
    due_ns: int
    done_ns: int
    stream: str = DEFAULT_STREAM


@dataclass(frozen=True, slots=True)
class Start:
    """From the main process: begin with this stream.

    Sent again, with the same epoch, when what is expected of it changes.

    epoch_ns: time of tick 0 of the stream; the anchor of a paced media file; 0 where media time is the clock.
    has_video, has_audio: what the recogniser waits for before a window is complete.
    live: False where media time is the clock, nothing is dropped and nothing is waited for by the clock.
    """

    epoch_ns: int
    has_video: bool
    has_audio: bool
    live: bool
    stream: str = DEFAULT_STREAM


Plain = Start | End | Heartbeat | Opened | Ready | Failed | Note | Stats | Finished
Message = Plain | Observation | Block | Routed | Scored

_PLAIN: tuple[type[Any], ...] = (Start, End, Heartbeat, Opened, Ready, Failed, Note, Stats, Finished)
_PASSING = (Observation, Block, Scored, Heartbeat, Stats, Note)
_OBSERVATION, _BLOCK, _SCORED, _ROUTED = 100, 101, 102, 103


def passes(message: Message) -> bool:
    """Whether messages of this kind come again and again, so that an old one may go for a newer."""
    return isinstance(message.item if isinstance(message, Routed) else message, _PASSING)


def encode(message: Message) -> bytes:
    """One message as msgpack bytes; pictures and sound travel as they lie in memory.

    Text is for people to read. What is no Unicode in it (a file's name may be any bytes) becomes "?".
    """
    if isinstance(message, Observation):
        others = [_face_out(face) for face in message.others]
        body: tuple[Any, ...] = (_OBSERVATION, message.t_ns, message.seq, _face_out(message.face), others)
    elif isinstance(message, Block):
        body = (_BLOCK, message.t_ns, message.seq, message.samples.tobytes())
    elif isinstance(message, Scored):
        times = (message.capture_ns, message.due_ns, message.done_ns)
        body = (_SCORED, _scores_out(message.scores), *times, message.stream)
    elif isinstance(message, Routed):
        body = (_ROUTED, message.stream, encode(message.item))
    else:
        body = (_PLAIN.index(type(message)), *astuple(message))
    packed: bytes = msgpack.packb(body, unicode_errors="replace")
    return packed


def decode(data: bytes) -> Message:
    """The inverse of `encode`; arrays are read-only views of `data`."""
    code, *body = msgpack.unpackb(data, use_list=False, strict_map_key=False)
    if code == _OBSERVATION:
        t_ns, seq, face, others = body
        further = tuple(each for each in map(_face_in, others) if each is not None)
        return Observation(t_ns=t_ns, seq=seq, face=_face_in(face), others=further)
    if code == _BLOCK:
        t_ns, seq, samples = body
        return Block(t_ns=t_ns, seq=seq, samples=np.frombuffer(samples, np.float32))
    if code == _SCORED:
        scores, *rest = body
        return Scored(_scores_in(scores), *rest)
    if code == _ROUTED:
        stream, data = body
        item = decode(data)
        assert isinstance(item, Observation | Block | End)
        return Routed(stream, item)
    message: Message = _PLAIN[code](*body)
    return message


def _face_out(face: Face | None) -> tuple[Any, ...] | None:
    if face is None:
        return None
    previous = None if face.gap_ns == 0 else face.previous.tobytes()
    return (
        face.crop.shape,
        face.crop.tobytes(),
        previous,
        face.gap_ns,
        face.box,
        face.confidence,
        face.track,
    )


def _face_in(body: tuple[Any, ...] | None) -> Face | None:
    if body is None:
        return None
    shape, crop_bytes, previous_bytes, gap_ns, box, confidence, track = body
    crop: UInt8 = np.frombuffer(crop_bytes, np.uint8).reshape(shape)
    previous = crop if previous_bytes is None else np.frombuffer(previous_bytes, np.uint8).reshape(shape)
    return Face(crop=crop, previous=previous, gap_ns=gap_ns, box=box, confidence=confidence, track=track)


def _scores_out(scores: Scores) -> tuple[Any, ...]:
    heads = {name: values.astype(np.float32).tobytes() for name, values in scores.heads.items()}
    return (
        scores.t_ns,
        scores.window_ns,
        scores.labels,
        heads,
        scores.lead,
        scores.valid_video,
        scores.valid_audio,
        scores.face,
        scores.track,
        scores.attributes,
    )


def _scores_in(body: tuple[Any, ...]) -> Scores:
    t_ns, window_ns, labels, heads, lead, valid_video, valid_audio, face, track, attributes = body
    arrays: dict[str, Float32] = {name: np.frombuffer(values, np.float32) for name, values in heads.items()}
    return Scores(
        t_ns=t_ns,
        window_ns=window_ns,
        labels=labels,
        heads=arrays,
        lead=lead,
        valid_video=valid_video,
        valid_audio=valid_audio,
        face=face,
        track=track,
        attributes=attributes,
    )
