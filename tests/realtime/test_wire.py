"""The messages of the feed: what goes out comes back, what is rubbish is refused in a sentence."""

import json
import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from feed_peers import CAPTURED, emotion, status
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Scores
from realtime.wire import MAX_BYTES, Emotion, Status, WireError, decode, emotion_message, encode, to_map

LABELS = ("neutral", "happy", "sad")


def scores(seed: int = 0, **changes: Any) -> Scores:
    random = np.random.default_rng(seed)
    heads = {head: random.dirichlet(np.ones(3)).astype(np.float32) for head in ("video", "audio", "fused")}
    fields = {
        "t_ns": 5_000_000_000,
        "window_ns": 4_000_000_000,
        "labels": LABELS,
        "heads": heads,
        "lead": "fused",
        "valid_video": 1.0,
        "valid_audio": 0.5,
        "face": ((1.0, 2.0, 30.0, 40.0), 0.9),
        "track": 0,
    }
    return Scores(**(fields | changes))


def message_of(given_scores: Scores) -> Emotion:
    return emotion_message(
        given_scores, stream="main", seq=3, t_unix_ns=7, latency_ms={"total": 12.34567}, model="ab12"
    )


@pytest.mark.parametrize("path", sorted(CAPTURED.glob("v*.bin")), ids=lambda path: path.stem)
def test_captured_bytes_of_every_schema_stay_decodable(path: Path) -> None:
    kind = path.stem.partition("_")[2]
    message = decode(f"{kind}/main".encode(), path.read_bytes())
    assert to_map(message) == json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


@given(st.integers(0, 1000))
def test_scores_survive_the_feed_to_the_last_bit(seed: int) -> None:
    given_scores = scores(seed)
    told = decode(*encode(message_of(given_scores)))
    assert isinstance(told, Emotion)
    for head, values in given_scores.heads.items():
        assert np.array_equal(np.array(list(told.heads[head].values()), np.float32), values)
    assert told.scores == told.heads["fused"]
    assert told == message_of(given_scores)


def test_nothing_seen_or_heard_has_no_top_and_no_face() -> None:
    blind = scores(valid_video=0.0, valid_audio=0.0, face=None, track=-1)
    told = decode(*encode(message_of(blind)))
    assert isinstance(told, Emotion)
    assert (told.top, told.face, told.track) == (None, None, -1)


def test_of_several_faces_each_has_a_topic() -> None:
    words = {"stream": "lobby", "seq": 0, "t_unix_ns": 0, "latency_ms": {}, "model": "m"}
    seven, nobody = (emotion_message(scores(track=track), **words, faces=3) for track in (7, -1))
    assert [encode(message)[0] for message in (seven, nobody)] == [b"emotion/lobby/7", b"emotion/lobby"]
    assert decode(*encode(seven)) == seven
    assert list(to_map(seven))[-1] == "faces"
    alone = emotion_message(scores(track=7), **words)
    assert encode(alone)[0] == b"emotion/lobby"
    assert "faces" not in to_map(alone)


def test_numpy_numbers_may_come_in() -> None:
    odd = scores(t_ns=np.int64(9), track=np.int64(1), attributes={"valence": np.float32(0.3)})
    told = decode(*encode(message_of(odd)))
    assert isinstance(told, Emotion)
    assert (told.t_ns, told.track, told.attributes) == (9, 1, {"valence": 0.3})


def test_status_with_and_without_what_is_optional() -> None:
    assert decode(*encode(status())) == status()
    bare = status(cpu=None, latency_ms={}, missing=())
    assert "cpu" not in to_map(bare)
    assert decode(*encode(bare)) == bare
    busy = status(overload=0.25)
    assert list(to_map(busy))[-2:] == ["overload", "cpu"]
    assert decode(*encode(busy)) == busy
    assert "overload" not in to_map(status())


def test_unknown_keys_are_ignored_at_every_level() -> None:
    fields = to_map(emotion())
    fields["gaze"] = {"x": [1, None, b"\xff"]}
    fields["face"]["points"] = [1, 2]
    fields["valid"]["touch"] = "new"
    fields["heads"]["text"] = {}
    assert decode(b"emotion/main/2", msgpack.packb(fields)) == emotion()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("v", 2, "schema 2, this reader knows 1"),
        ("seq", -1, "'seq'"),
        ("seq", True, "'seq'"),
        ("t_ns", 1.5, "'t_ns'"),
        ("stream", "a b", "stream is named"),
        ("stream", "other", "other"),
        ("top", "bored", "bored"),
        ("labels", ["happy"] * 65, "'labels'"),
        ("scores", {"happy": 1.0}, "'scores'"),
        ("heads", {"fused": {}}, "'fused'"),
        ("valid", {"video": 1.5, "audio": 1.0}, "0..1"),
        ("face", {"box": [1, 2, 3], "confidence": 1}, "'box'"),
        ("latency_ms", {"total": math.nan}, "finite"),
        ("latency_ms", {str(stage): 1.0 for stage in range(65)}, "64"),
        ("model", "x" * 2000, "'model'"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object, words: str) -> None:
    body = msgpack.packb(to_map(emotion()) | {key: value})
    with pytest.raises(WireError, match=r"\.$") as caught:
        decode(b"emotion/main", body)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", list(to_map(emotion())))
def test_a_missing_key_is_named(key: str) -> None:
    fields = to_map(emotion())
    del fields[key]
    with pytest.raises(WireError, match=key):
        decode(b"emotion/main", msgpack.packb(fields))


@pytest.mark.parametrize(
    ("head", "body"),
    [(b"gaze/main", b"\x80"), (b"\xff\xfe", b""), (b"emotion/main", b"\x90"), (b"emotion/main", b"")],
)
def test_what_is_no_message_is_refused(head: bytes, body: bytes) -> None:
    with pytest.raises(WireError):
        decode(head, body)


def test_too_long_is_refused_on_both_ends() -> None:
    with pytest.raises(WireError, match="too long"):
        decode(b"emotion/main", bytes(MAX_BYTES + 1))
    crowd = {f"{cause:03}" + "x" * 250: 1 for cause in range(64)}
    with pytest.raises(WireError, match="too long"):
        encode(status(drops=crowd))


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32(1), "1"])
def test_what_a_reader_would_refuse_is_never_published(bad: object) -> None:
    with pytest.raises(WireError):
        encode(emotion(latency_ms={"total": bad}))


def test_the_name_of_a_source_never_stops_the_feed() -> None:
    told = decode(*encode(status(source={"camera": "x" * 5000, "microphone": "bad \udcff name"})))
    assert isinstance(told, Status)
    assert told.source["microphone"] == "bad ? name"


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_wire_errors(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(b"emotion/main", body)


@given(st.sampled_from(["emotion", "status"]), st.data())
def test_damaged_messages_raise_nothing_but_wire_errors(kind: str, data: st.DataObject) -> None:
    body = bytearray((CAPTURED / f"v1_{kind}.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = decode(f"{kind}/main".encode(), bytes(body))
    except WireError:
        return
    assert decode(*encode(message)) == message
