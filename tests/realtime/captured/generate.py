"""Writes the captured messages of the feed: `python tests/realtime/captured/generate.py`, from the root.

Released bytes stay as they are for ever, so what exists is never written again; a new schema gets new files.
Beside each body (msgpack) lies the same map as JSON, for clients in other languages.
"""

import json
from pathlib import Path

from realtime.wire import SCHEMA, Emotion, FaceBox, Message, Status, encode, to_map

HERE = Path(__file__).parent
LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised")
FUSED = dict(zip(LABELS, (0.125, 0.5, 0.0625, 0.125, 0.0625, 0.025, 0.1), strict=True))
VIDEO = dict(zip(LABELS, (0.25, 0.3, 0.1, 0.1, 0.05, 0.1, 0.1), strict=True))
AUDIO = dict(zip(LABELS, (0.1, 0.6, 0.05, 0.1, 0.05, 0.05, 0.05), strict=True))

EMOTION = Emotion(
    stream="main",
    track=2,
    seq=41,
    t_ns=1_234_567_890_123,
    t_unix_ns=1_795_000_000_123_456_789,
    window_ns=4_000_000_000,
    labels=LABELS,
    scores=FUSED,
    heads={"fused": FUSED, "video": VIDEO, "audio": AUDIO},
    top="happy",
    attributes={"valence": 0.5},
    valid={"video": 0.95, "audio": 1.0},
    face=FaceBox(box=(200.5, 120.25, 96.0, 128.0), confidence=0.91),
    latency_ms={"capture": 12.5, "wait": 3.25, "score": 9.75, "total": 25.5},
    model="3f9c2a71",
)
STATUS = Status(
    stream="main",
    t_ns=1_234_600_000_000,
    t_unix_ns=1_795_000_000_155_333_666,
    uptime_s=12.5,
    state="degraded",
    fps={"camera": 29.5, "scores": 5.0},
    latency_ms={"p50": 25.5, "p95": 48.0, "max": 61.25},
    drops={"late frames": 3, "windows skipped": 0},
    restarts={"camera": 1},
    missing=("audio",),
    source={"camera": "demo", "microphone": None},
    face_share=0.96,
    engine="onnx",
    cpu={"camera": 0.15, "recognise": 0.12},
)


def write(name: str, message: Message) -> None:
    """`<name>.bin` and `<name>.json`, where they do not exist."""
    path = HERE / f"v{SCHEMA}_{name}.bin"
    if not path.exists():
        path.write_bytes(encode(message)[1])
        text = json.dumps(to_map(message), indent=2, ensure_ascii=False)
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write("emotion", EMOTION)
    write("status", STATUS)
