"""Several cameras in one run: each stream is as it would be alone, whatever becomes of the others."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from engine.types import SECOND_NS
from realtime.feed import Subscriber
from realtime.wire import Emotion, Status
from tests.peers.clip import write_clip
from tests.peers.program import PATIENCE_S, REPOSITORY, Program


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> list[tuple[str, Path]]:
    """Three clips of different lengths, by the names of their streams; the last one is silent."""
    folder = tmp_path_factory.mktemp("clips")
    short = write_clip(folder / "short.mp4", seconds=2, fps=10)
    silent = write_clip(folder / "silent.mp4", seconds=2.5, audio=False)
    return [("lobby", clip), ("desk", short), ("door", silent)]


def _cameras(clips: list[tuple[str, Path]]) -> list[str]:
    return [word for name, path in clips for word in ("--camera", f"{name}={path}")]


def _no_pace(bundle: Path, out: Path, *flags: str) -> None:
    with Program("--no-pace", "--out", out, *flags, bundle=bundle) as program:
        assert program.end() == 0, program.text()
        assert program.left_behind() == []


def test_without_pacing_each_stream_has_the_bytes_of_a_run_of_its_own(
    bundle: Path, clips: list[tuple[str, Path]], tmp_path: Path
) -> None:
    _no_pace(bundle, tmp_path / "all.jsonl", *_cameras(clips))
    _no_pace(bundle, tmp_path / "again.jsonl", *_cameras(clips))
    for name, _ in clips:
        together = (tmp_path / f"all.{name}.jsonl").read_bytes()
        assert together == (tmp_path / f"again.{name}.jsonl").read_bytes()
        records = _records(tmp_path / f"all.{name}.jsonl")
        assert {record["stream"] for record in records} == {name}
        assert (records[-1]["valid"]["audio"] > 0) == (name != "door")
    name, path = clips[0]
    _no_pace(bundle, tmp_path / "alone.jsonl", "--camera", f"{name}={path}")
    assert (tmp_path / "alone.jsonl").read_bytes() == (tmp_path / f"all.{name}.jsonl").read_bytes()


def test_a_picture_may_have_the_sound_of_another_file(bundle: Path, clip: Path, tmp_path: Path) -> None:
    sound = write_clip(tmp_path / "sound.m4a", seconds=2, video=False)
    out = tmp_path / "out.jsonl"
    cameras = ("--camera", f"a={clip}", "--camera", f"b={clip}", "--camera", "c=none")
    _no_pace(bundle, out, *cameras, "--mic", f"c={sound}", "--mic", f"b={sound}")
    heard = {name: _records(out.with_suffix(f".{name}.jsonl"))[-1]["valid"]["audio"] for name in "abc"}
    assert heard["a"] > heard["b"] > 0
    assert heard["c"] == pytest.approx(0.5, abs=0.02)


def test_a_camera_that_dies_is_replaced_and_the_other_never_notices(bundle: Path, long_clip: Path) -> None:
    flags = _cameras([("left", long_clip), ("right", long_clip)])
    with (
        Program(*flags, bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("emotion/right",)) as right,
        Subscriber(program.endpoint, topics=("status/",)) as statuses,
    ):
        program.line("ready")
        before = [_emotion(right) for _ in range(5)]
        os.kill(program.workers["left/media"], signal.SIGKILL)
        program.line("worker left/media")
        after = [_emotion(right) for _ in range(10)]
        messages = before + after
        assert {message.stream for message in messages} == {"right"}
        assert [message.seq for message in messages] == list(
            range(messages[0].seq, messages[0].seq + len(messages))
        )
        restarts: dict[str, dict[str, int]] = {}
        while not restarts.get("left") or len(restarts) < 2:
            status = statuses.receive(PATIENCE_S)
            assert isinstance(status, Status)
            restarts[status.stream] = dict(status.restarts)
            if status.stream == "right":
                assert status.missing == ()
        assert restarts == {"left": {"left/media": 1}, "right": {}}
        # Time of the clip goes on for the one that was away.
        newest = program.emotions(1)[0].t_ns
        while (message := program.emotions(1)[0]).stream == "right" or message.t_ns < newest + SECOND_NS:
            pass
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def _emotion(feed: Subscriber) -> Emotion:
    message = feed.receive(PATIENCE_S)
    assert isinstance(message, Emotion)
    return message


def test_one_recogniser_that_dies_comes_back_for_all(bundle: Path, long_clip: Path) -> None:
    with Program(*_cameras([("left", long_clip), ("right", long_clip)]), bundle=bundle) as program:
        program.line("ready")
        program.emotions(4)
        os.kill(program.workers["recogniser"], signal.SIGKILL)
        program.line("worker recogniser")
        seen: dict[str, list[int]] = {"left": [], "right": []}
        while min(map(len, seen.values())) < 5 or program.emotions(1)[0].valid["audio"] == 0:
            (message,) = program.emotions(1)
            seen[message.stream].append(message.seq)
        program.interrupt()
        assert program.end() == 0


@pytest.mark.parametrize(
    ("camera", "status", "words"), [("97", 2, "--camera demo"), ("BROKEN", 3, "cannot be opened")]
)
def test_a_camera_that_is_not_there_ends_alone(
    bundle: Path, clip: Path, tmp_path: Path, camera: str, status: int, words: str
) -> None:
    if camera == "BROKEN":
        (tmp_path / "broken.mp4").write_text("This is no film.\n" * 50)
        camera = str(tmp_path / "broken.mp4")
    out = tmp_path / "out.jsonl"
    flags = ("--camera", f"gone={camera}", "--camera", f"here={clip}", "--out", out)
    with Program(*flags, bundle=bundle) as program:
        assert program.end() == status, program.text()
        (error,) = program.errors()
        assert error.startswith("gone: ")
        assert words in error
        assert "Traceback" not in program.text()
        assert program.left_behind() == []
    assert len(_records(tmp_path / "out.here.jsonl")) >= 10
    assert _records(tmp_path / "out.gone.jsonl") == []


def test_a_camera_that_is_away_for_now_is_tried_again(bundle: Path, long_clip: Path) -> None:
    flags = ("--camera", "gone=http://127.0.0.1:9/none.mjpg", "--camera", f"here={long_clip}")
    with Program(*flags, bundle=bundle) as program:
        assert "http://127.0.0.1:9" in program.line("Trying again")["text"]
        messages = program.emotions(10)
        assert any(message.stream == "here" for message in messages)
        assert all(message.top is None for message in messages if message.stream == "gone")
        program.interrupt()
        assert program.end() == 0
        assert program.errors() == []


def test_several_faces_of_a_camera_have_a_topic_each(bundle: Path, tmp_path: Path) -> None:
    clip = REPOSITORY.parent / "shared" / "media" / "three_people.avi"
    if not clip.is_file():
        pytest.skip("needs ../shared/media")
    flags = ("--camera", f"hall={clip}", "--faces", "3", "--duration", "2")
    written = []
    for name in ("one.jsonl", "two.jsonl"):
        with Subscriber(f"ipc://{tmp_path}/feed", topics=("emotion/hall/1",)) as feed:
            _no_pace(bundle, tmp_path / name, *flags, "--bind", f"ipc://{tmp_path}/feed")
            message = feed.receive(PATIENCE_S)
            assert isinstance(message, Emotion)
            assert (message.stream, message.track, message.faces) == ("hall", 1, 3)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    records = _records(tmp_path / "one.jsonl")
    for track in range(3):
        mine = [record for record in records if record["track"] == track]
        assert [record["seq"] for record in mine] == list(range(len(mine)))
        assert len(mine) >= 9
    assert len({tuple(record["face"]["box"]) for record in records[-3:]}) == 3


def test_a_stream_that_is_over_says_so_and_the_others_go_on(
    bundle: Path, clips: list[tuple[str, Path]], long_clip: Path
) -> None:
    flags = _cameras([clips[1], ("long", long_clip)])
    with (
        Program(*flags, bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("status/desk",)) as feed,
    ):
        status = feed.receive(PATIENCE_S)
        while isinstance(status, Status) and status.state != "ended":
            status = feed.receive(PATIENCE_S)
        assert isinstance(status, Status)
        with Subscriber(program.endpoint, topics=("emotion/",)) as late:
            assert {_emotion(late).stream for _ in range(5)} == {"long"}
        assert feed.receive(0) is None, "nothing after the end"
        program.interrupt()
        assert program.end() == 0
        assert [line["stream"] for line in program.lines[-2:]] == ["desk", "long"]


def test_when_every_camera_has_failed_so_has_the_run(bundle: Path) -> None:
    with Program("--camera", "a=97", "--camera", "b=98", bundle=bundle) as program:
        assert program.end() == 2
        assert [error[:3] for error in sorted(program.errors())] == ["a: ", "b: "]
        assert program.left_behind() == []
