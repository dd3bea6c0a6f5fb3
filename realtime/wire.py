"""The messages of the feed, and their bytes: emotion and status, as `realtime/README.md` specifies them.

Pure: it knows nothing about sockets, workers or screens. Data leaves it as the frozen classes below, as
plain maps (`to_map`, the keys of the feed in their documented order), or as topic and body (`encode`).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from engine.errors import De3Error
from engine.types import Float32, Scores

SCHEMA = 1
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"
DEFAULT_STREAM = "main"
HEADS = ("fused", "video", "audio")
STATES = ("starting", "running", "degraded", "ended")
MAX_BYTES = 16_384
MAX_ENTRIES = 64
MAX_TEXT = 256
OPTIONAL = ("faces", "overload", "cpu")
"""Keys that are left out where there is nothing to say."""
STREAM_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_INT64 = 1 << 63


class WireError(De3Error, ValueError):
    """Bytes that are no message of this feed, or a message that must not be published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceBox:
    """Where the face was. box: x, y, width, height in pixels of the source picture; confidence: 0..1."""

    box: tuple[float, float, float, float]
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Emotion:
    """The scores of one window.

    stream: its name. track: the face's number, -1 when there has been no face.
    seq: counts the emotion messages of the stream from 0; a step of more than one is a loss.
    t_ns: end of the window (monotonic clock of the publishing machine, or media time); window_ns: its length.
    t_unix_ns: the same instant by the wall clock; 0 where media time is the clock.
    labels: the names, in the order of the model.
    scores: label -> probability 0..1, calibrated: the leading head.
    heads: "fused", "video", "audio" -> label -> probability 0..1.
    top: the most probable label; None when nothing was seen or heard in the window.
    attributes: continuous attributes by name, -1..1; empty where the model has none.
    valid: "video", "audio" -> share of the window that was really seen and heard, 0..1.
    face: the newest face in the window; None without one.
    latency_ms: stage -> milliseconds, and "total"; empty where media time is the clock.
    model: short digest of the bundle.
    faces: how many faces of the stream are scored at most, where that is more than one; else None.
    """

    stream: str
    track: int
    seq: int
    t_ns: int
    t_unix_ns: int
    window_ns: int
    labels: tuple[str, ...]
    scores: Mapping[str, float]
    heads: Mapping[str, Mapping[str, float]]
    top: str | None
    attributes: Mapping[str, float]
    valid: Mapping[str, float]
    face: FaceBox | None
    latency_ms: Mapping[str, float]
    model: str
    faces: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a stream is doing, once a second.

    t_ns, t_unix_ns: when this was written, by the monotonic and the wall clock. uptime_s: since the start.
    state: one of `STATES`; "degraded" when a modality that was expected is missing.
    fps: "camera" pictures and "scores" windows a second, over the last second.
    latency_ms: "p50", "p95", "max" of the totals of late; empty before the first scores.
    drops: cause -> count since the start. restarts: worker -> count since the start.
    missing: the modalities ("video", "audio") that were expected and do not come.
    source: "camera", "microphone" -> what is open; None for what is not used.
    face_share: share of the recent pictures with a face, 0..1 (0 without a camera).
    engine: what runs the model; empty while starting.
    overload: share of the windows of the last second that could not be scored in time, 0..1; None where it is
        not measured.
    cpu: worker -> share of one core; None where it is not measured.
    """

    stream: str
    t_ns: int
    t_unix_ns: int
    uptime_s: float
    state: str
    fps: Mapping[str, float]
    latency_ms: Mapping[str, float]
    drops: Mapping[str, int]
    restarts: Mapping[str, int]
    missing: tuple[str, ...]
    source: Mapping[str, str | None]
    face_share: float
    engine: str
    overload: float | None = None
    cpu: Mapping[str, float] | None = None


Message = Emotion | Status


def emotion_message(
    scores: Scores,
    *,
    stream: str,
    seq: int,
    t_unix_ns: int,
    latency_ms: Mapping[str, float],
    model: str,
    faces: int = 1,
) -> Emotion:
    """The message that tells `scores`. Probabilities keep every digit of their float32."""
    heads = {head: _by_label(scores.labels, scores.heads[head]) for head in HEADS if head in scores.heads}
    face = None
    if scores.face is not None:
        x, y, width, height = (round(float(edge), 2) for edge in scores.face[0])
        face = FaceBox(box=(x, y, width, height), confidence=_short(scores.face[1]))
    return Emotion(
        stream=stream,
        track=int(scores.track),
        seq=seq,
        t_ns=int(scores.t_ns),
        t_unix_ns=t_unix_ns,
        window_ns=int(scores.window_ns),
        labels=scores.labels,
        scores=heads[scores.lead],
        heads=heads,
        top=scores.top,
        attributes={name: _short(value) for name, value in scores.attributes.items()},
        valid={"video": float(scores.valid_video), "audio": float(scores.valid_audio)},
        face=face,
        latency_ms={stage: round(float(ms), 3) for stage, ms in latency_ms.items()},
        model=model,
        faces=faces if faces > 1 else None,
    )


def topic(message: Message) -> str:
    """`emotion/<stream>` or `status/<stream>`; with several faces a stream `emotion/<stream>/<track>`."""
    return f"{'emotion' if isinstance(message, Emotion) else 'status'}/{subject(message)}"


def subject(message: Message) -> str:
    """What a message is about, in a word: the stream, or a face of it where several may be followed."""
    if isinstance(message, Emotion) and message.faces is not None and message.track >= 0:
        return f"{message.stream}/{message.track}"
    return message.stream


def to_map(message: Message) -> dict[str, Any]:
    """The message as on the feed: str keys in documented order; values that msgpack, JSON and CSV know.

    Text longer than `MAX_TEXT` characters (the name of a source, say) is cut.
    """
    fields: dict[str, Any] = {"v": SCHEMA}
    for key in message.__slots__:
        fields[key] = _plain(getattr(message, key))
    return {key: value for key, value in fields.items() if value is not None or key not in OPTIONAL}


def encode(message: Message) -> tuple[bytes, bytes]:
    """Topic and body. Raises WireError for whatever a reader would refuse: nothing else is ever published."""
    head = topic(message).encode("utf-8", "replace")
    try:
        body: bytes = msgpack.packb(to_map(message), unicode_errors="replace")
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"A message on {head.decode()} cannot be written: {error}.") from error
    decode(head, body)
    return head, body


def decode(head: bytes, body: bytes) -> Message:
    """The inverse of `encode`; unknown keys are ignored. Raises WireError, and nothing else, on rubbish."""
    if len(head) > MAX_TEXT or len(body) > MAX_BYTES:
        raise WireError(f"A message of {len(body)} bytes is too long for this feed (at most {MAX_BYTES}).")
    kind, _, stream = head.decode("utf-8", "replace").partition("/")
    if kind not in _READERS:
        raise WireError(f"The topic {kind[:64]!r} is not known here; known are emotion/... and status/...")
    try:
        values = msgpack.unpackb(body)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise WireError(f"The body of a message on {kind}/ is not msgpack: {error or 'damaged'}.") from error
    if not isinstance(values, dict):
        raise WireError(f"The body of a message on {kind}/ is not a map.")
    fields = _Fields(kind, values)
    version = fields.integer("v")
    if version != SCHEMA:
        raise WireError(f"A message has schema {version}, this reader knows {SCHEMA}: update the older side.")
    message = _READERS[kind](fields)
    if not STREAM_NAME.fullmatch(message.stream):
        raise WireError(
            f"A stream is named with 1 to 64 of A-Z a-z 0-9 . _ and -, not {message.stream[:64]!r}."
        )
    if stream.partition("/")[0] != message.stream:
        raise WireError(f"{kind}/{stream[:64]} carries a message of the stream {message.stream}.")
    return message


@dataclass(frozen=True, slots=True)
class _Fields:
    """One map of a message under inspection; `what` names it in errors."""

    what: str
    values: Mapping[Any, Any]

    def integer(self, key: str, least: int = 0) -> int:
        value = self._get(key)
        if type(value) is not int or not least <= value < _INT64:
            raise self._wrong(key, f"a whole number of at least {least}")
        return value

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float:
        value = self._get(key)
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
            limits = "" if math.isinf(least) else f" in {least:g}..{most:g}"
            raise self._wrong(key, f"a finite number{limits}")
        return float(value)

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self._wrong(key, f"text of at most {MAX_TEXT} characters")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._get(key) is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            raise self._wrong(key, f"a list of at most {MAX_ENTRIES} texts")
        entries = _Fields(f"{self.what}: {key}", {str(place): text for place, text in enumerate(value)})
        return tuple(entries.text(place) for place in entries.values)

    def inner(self, key: str) -> "_Fields":
        value = self._get(key)
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES or not all(map(_is_name, value)):
            raise self._wrong(key, f"a map of at most {MAX_ENTRIES} named values")
        return _Fields(f"{self.what}: {key}", value)

    def numbers(self, key: str, least: float = -math.inf, most: float = math.inf) -> dict[str, float]:
        inner = self.inner(key)
        return {name: inner.number(name, least, most) for name in inner.values}

    def counts(self, key: str) -> dict[str, int]:
        inner = self.inner(key)
        return {name: inner.integer(name) for name in inner.values}

    def probabilities(self, key: str, labels: tuple[str, ...]) -> dict[str, float]:
        found = self.numbers(key, 0, 1)
        if set(found) != set(labels):
            raise self._wrong(key, "a map with exactly the labels")
        return {label: found[label] for label in labels}

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise WireError(f"{self.what}: the key {key!r} is missing.")
        return self.values[key]

    def _wrong(self, key: str, wanted: str) -> WireError:
        return WireError(f"{self.what}: {key!r} must be {wanted}, not {repr(self.values[key])[:80]}.")


def _read_emotion(fields: _Fields) -> Emotion:
    labels = fields.texts("labels")
    top = fields.text_or_none("top")
    if top is not None and top not in labels:
        raise WireError(f"emotion: 'top' is {top!r}, which is none of the labels.")
    heads = fields.inner("heads")
    valid = fields.inner("valid")
    return Emotion(
        stream=fields.text("stream"),
        track=fields.integer("track", -1),
        seq=fields.integer("seq"),
        t_ns=fields.integer("t_ns", -_INT64),
        t_unix_ns=fields.integer("t_unix_ns"),
        window_ns=fields.integer("window_ns"),
        labels=labels,
        scores=fields.probabilities("scores", labels),
        heads={head: heads.probabilities(head, labels) for head in HEADS},
        top=top,
        attributes=fields.numbers("attributes"),
        valid={kind: valid.number(kind, 0, 1) for kind in ("video", "audio")},
        face=_read_face(fields),
        latency_ms=fields.numbers("latency_ms"),
        model=fields.text("model"),
        faces=fields.integer("faces", 2) if "faces" in fields.values else None,
    )


def _read_face(fields: _Fields) -> FaceBox | None:
    if fields.values.get("face", ...) is None:
        return None
    inner = fields.inner("face")
    edges = inner.values.get("box")
    if not isinstance(edges, list) or len(edges) != 4:
        raise WireError("emotion: 'face' must be nil, or a map with 'box' [x, y, w, h] and 'confidence'.")
    box = _Fields("emotion: face: box", dict(zip("xywh", edges, strict=True)))
    x, y, width, height = (box.number(edge) for edge in "xywh")
    return FaceBox(box=(x, y, width, height), confidence=inner.number("confidence", 0, 1))


def _read_status(fields: _Fields) -> Status:
    state = fields.text("state")
    if state not in STATES:
        raise WireError(f"status: 'state' must be one of {', '.join(STATES)}, not {state[:64]!r}.")
    fps = fields.inner("fps")
    source = fields.inner("source")
    return Status(
        stream=fields.text("stream"),
        t_ns=fields.integer("t_ns", -_INT64),
        t_unix_ns=fields.integer("t_unix_ns"),
        uptime_s=fields.number("uptime_s", 0),
        state=state,
        fps={what: fps.number(what, 0) for what in ("camera", "scores")},
        latency_ms=fields.numbers("latency_ms"),
        drops=fields.counts("drops"),
        restarts=fields.counts("restarts"),
        missing=fields.texts("missing"),
        source={what: source.text_or_none(what) for what in ("camera", "microphone")},
        face_share=fields.number("face_share", 0, 1),
        engine=fields.text("engine"),
        overload=fields.number("overload", 0, 1) if "overload" in fields.values else None,
        cpu=fields.numbers("cpu", 0) if "cpu" in fields.values else None,
    )


_READERS: dict[str, Callable[[_Fields], Message]] = {"emotion": _read_emotion, "status": _read_status}


def _is_name(key: object) -> bool:
    return isinstance(key, str) and len(key) <= MAX_TEXT


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, FaceBox):
        return {"box": list(value.box), "confidence": value.confidence}
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _by_label(labels: tuple[str, ...], probabilities: Float32) -> dict[str, float]:
    return {
        label: min(_short(value), 1.0) for label, value in zip(labels, probabilities.tolist(), strict=True)
    }


def _short(value: float) -> float:
    """The shortest decimal that is still the same float32: 0.3, not 0.30000001192092896."""
    return float(str(np.float32(value)))
