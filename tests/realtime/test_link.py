"""Links between processes: messages come back as they were, newest wins, nothing outlives its directory."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Block, Face, Observation, Scores
from realtime import link, messages
from realtime.link import Receiver, Sender
from realtime.messages import decode, encode

End = TypeVar("End", Sender, Receiver)
TIMES = st.integers(-(1 << 62), 1 << 62)


@pytest.fixture
def context() -> Iterator["zmq.Context[Any]"]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(0)


@pytest.fixture
def closing() -> Iterator[Callable[[End], End]]:
    """Closes what it is given when the test is over."""
    given: list[Any] = []

    def keep(end: End) -> End:
        given.append(end)
        return end

    yield keep
    for end in given:
        end.close()


def _face(gap_ns: int) -> Face:
    rng = np.random.default_rng(gap_ns)
    crop = rng.integers(0, 256, (112, 112), np.uint8)
    previous = crop if gap_ns == 0 else rng.integers(0, 256, (112, 112), np.uint8)
    box = (1.5, 2.0, 30.25, 40.0)
    return Face(crop=crop, previous=previous, gap_ns=gap_ns, box=box, confidence=0.75, track=3)


@pytest.mark.parametrize("gap_ns", [0, 66_666_667])
def test_an_observation_comes_back_as_it_was(gap_ns: int) -> None:
    sent = Observation(t_ns=-5, seq=7, face=_face(gap_ns))
    got = decode(encode(sent))
    assert isinstance(got, Observation)
    assert (got.t_ns, got.seq) == (-5, 7)
    assert got.face is not None
    assert sent.face is not None
    np.testing.assert_array_equal(got.face.crop, sent.face.crop)
    np.testing.assert_array_equal(got.face.previous, sent.face.previous)
    assert (got.face.gap_ns, got.face.box, got.face.confidence, got.face.track) == (
        sent.face.gap_ns,
        sent.face.box,
        sent.face.confidence,
        sent.face.track,
    )


def test_every_face_of_an_observation_comes_back() -> None:
    got = decode(encode(Observation(t_ns=1, seq=2, face=_face(0), others=(_face(3), _face(5)))))
    assert isinstance(got, Observation)
    assert [face.gap_ns for face in got.faces] == [0, 3, 5]
    np.testing.assert_array_equal(got.faces[2].previous, _face(5).previous)
    routed = messages.Routed("lobby", Observation(t_ns=1, seq=2, face=None))
    again = decode(encode(routed))
    assert isinstance(again, messages.Routed)
    assert isinstance(again.item, Observation)
    assert (again.stream, again.item.faces) == ("lobby", ())
    assert messages.passes(routed)
    assert not messages.passes(messages.Routed("lobby", messages.End(("video",), 1)))


def test_a_face_without_an_earlier_picture_travels_once() -> None:
    one, two = (len(encode(Observation(t_ns=0, seq=0, face=_face(gap)))) for gap in (0, 1))
    assert two - one > 112 * 112 - 100


@given(t_ns=TIMES, seq=st.integers(0, 1 << 40), count=st.integers(0, 700))
def test_sound_and_nobody_in_view_come_back_as_they_were(t_ns: int, seq: int, count: int) -> None:
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    block = decode(encode(Block(t_ns=t_ns, seq=seq, samples=samples)))
    assert isinstance(block, Block)
    assert (block.t_ns, block.seq) == (t_ns, seq)
    np.testing.assert_array_equal(block.samples, samples)
    nobody = decode(encode(Observation(t_ns=t_ns, seq=seq, face=None)))
    assert isinstance(nobody, Observation)
    assert (nobody.t_ns, nobody.seq, nobody.face) == (t_ns, seq, None)


def test_scores_come_back_to_the_last_bit() -> None:
    heads = {
        head: np.random.default_rng(1).dirichlet(np.ones(3)).astype(np.float32) for head in ("fused", "video")
    }
    scores = Scores(
        t_ns=1 << 60,
        window_ns=4_000_000_000,
        labels=("a", "b", "c"),
        heads=heads,
        lead="video",
        valid_video=0.5,
        valid_audio=1.0,
        face=((1.0, 2.0, 3.0, 4.0), 0.9),
        track=2,
        attributes={"arousal": 0.25},
    )
    got = decode(encode(messages.Scored(scores, 1, 2, 3)))
    assert isinstance(got, messages.Scored)
    assert (got.capture_ns, got.due_ns, got.done_ns) == (1, 2, 3)
    for name in (
        "t_ns",
        "window_ns",
        "labels",
        "lead",
        "valid_video",
        "valid_audio",
        "face",
        "track",
        "attributes",
    ):
        assert getattr(got.scores, name) == getattr(scores, name)
    for head, values in heads.items():
        np.testing.assert_array_equal(got.scores.heads[head], values)


@pytest.mark.parametrize(
    "message",
    [
        messages.Start(5, True, False, True),
        messages.End(("video", "audio"), 9),
        messages.Heartbeat("camera", 12),
        messages.Opened("camera", 12, "a camera", "", True, False, True, False, ("one", "two")),
        messages.Ready("recogniser", 12, "abc", "onnx: asked for"),
        messages.Failed("camera", "source", "gone", "trace"),
        messages.Note("camera", "warning", "a line"),
        messages.Stats("camera", 12, {"link full": 3}, {"cpu": 0.25}),
        messages.Finished("camera"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_small_messages_come_back_as_they_were(message: messages.Message) -> None:
    assert decode(encode(message)) == message


def test_what_is_no_unicode_in_a_name_does_not_stop_a_message() -> None:
    """Such a name is how Python gives a file's whose bytes are no UTF-8; no screen and no feed takes it."""
    name = "caf\udce9.mp4"
    opened = messages.Opened("media", 12, name, name, True, True, False, False, (f"{name} é",))
    got = decode(encode(opened))
    assert isinstance(got, messages.Opened)
    assert (got.picture, got.notes) == ("caf?.mp4", ("caf?.mp4 é",))


def _blocks(count: int) -> list[Block]:
    return [Block(t_ns=n, seq=n, samples=np.zeros(320, np.float32)) for n in range(count)]


def test_newest_wins_while_the_receiver_is_away(
    context: "zmq.Context[Any]", closing: Callable[[End], End], tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/s"
    sender = closing(Sender.connect(context, endpoint, capacity=8))
    sender.send(messages.End(("audio",), 1))
    for block in _blocks(30):
        sender.send(block)
    assert (sender.waiting, sender.dropped) == (8, 23)
    receiver = closing(Receiver.bind(context, endpoint))
    got = _collect(sender, receiver, 8)
    assert isinstance(got[0], messages.End), "what ends a stream is never dropped"
    assert [message.seq for message in got[1:] if isinstance(message, Block)] == list(range(23, 30))


def test_a_new_receiver_takes_the_place_of_a_dead_one(
    context: "zmq.Context[Any]", closing: Callable[[End], End], tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/s"
    sender = closing(Sender.connect(context, endpoint, capacity=4))
    mortal: zmq.Context[Any] = zmq.Context()
    first = Receiver.bind(mortal, endpoint)
    sender.send(_blocks(1)[0])
    assert len(_collect(sender, first, 1)) == 1
    mortal.destroy(0)
    second = closing(Receiver.bind(context, endpoint))
    got: list[messages.Message] = []
    for block in _blocks(1000):  # those on their way when the first died are lost
        sender.send(block)
        second.socket.poll(20)
        if second.drain(got.append):
            break
    assert got


def test_with_keep_all_a_slow_receiver_gets_everything(
    context: "zmq.Context[Any]", closing: Callable[[End], End], tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/s"
    sender = closing(Sender.connect(context, endpoint, capacity=4, keep_all=True))
    receiver = closing(Receiver.bind(context, endpoint))
    got: list[messages.Message] = []
    for block in _blocks(300):
        sender.send(block)
        while sender.full:
            sender.wait(10)
            receiver.drain(got.append, 1)
    got += _collect(sender, receiver, 300 - len(got))
    assert [message.seq for message in got if isinstance(message, Block)] == list(range(300))
    assert sender.dropped == 0


def _collect(sender: Sender, receiver: Receiver, count: int) -> list[messages.Message]:
    got: list[messages.Message] = []
    for _ in range(1000):
        sender.wait(0)
        if len(got) >= count:
            break
        receiver.socket.poll(20)
        receiver.drain(got.append)
    return got


def test_endpoints_are_private_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.tempfile, "gettempdir", lambda: str(tmp_path))
    with link.private_endpoints() as endpoints:
        (directory,) = tmp_path.iterdir()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert endpoints.observe.startswith(f"ipc://{directory}/")
        link.remove_orphans(tmp_path)
        assert directory.exists(), "it is in use"
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_removed_and_others_are_not(tmp_path: Path) -> None:
    for name in ("de3-live-orphan", "something-else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    link.remove_orphans(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["something-else"]
