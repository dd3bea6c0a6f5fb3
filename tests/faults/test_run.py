"""The command line from end to end: what it promises to do, with real files, processes and sockets."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from engine import Recognizer
from engine.types import Block, Frame, Scores
from realtime import config as configuration
from realtime.feed import ClientKeys, Subscriber
from realtime.run import main
from realtime.sources.media import open_media
from realtime.wire import Status
from tests.peers.clip import write_clip
from tests.peers.program import PATIENCE_S, REPOSITORY, Program

MEDIA = REPOSITORY.parent / "shared" / "media"


@pytest.fixture(scope="session")
def face_clip() -> Path:
    """A talking face with sound."""
    path = MEDIA / "grid_bbaf2n.mpg"
    if not path.is_file():
        pytest.skip("needs ../shared/media")
    return path


def _no_pace(bundle: Path, out: Path, *flags: str | Path) -> bytes:
    with Program("--no-pace", "--out", out, *flags, bundle=bundle) as program:
        assert program.end() == 0, program.text()
        assert program.left_behind() == []
    return out.read_bytes()


def _library(bundle: Path, clip: Path) -> Iterator[Scores]:
    """What `engine.Recognizer` gives for the same clip, five a second, as far as it is complete."""
    with Recognizer(bundle, engine="onnx", offline=True) as recognizer:
        end_ns = 200_000_000
        for item in open_media(str(clip), paced=False):
            if isinstance(item, Frame):
                recognizer.add_frame(item.t_ns, item.image)
            elif isinstance(item, Block):
                recognizer.add_audio(item.t_ns, item.samples)
            while recognizer.ready_ns >= end_ns:
                yield recognizer.scores(end_ns)
                end_ns += 200_000_000


def test_twice_without_pacing_gives_the_same_bytes(bundle: Path, face_clip: Path, tmp_path: Path) -> None:
    first = _no_pace(bundle, tmp_path / "1.jsonl", "--camera", face_clip)
    assert first == _no_pace(bundle, tmp_path / "2.jsonl", "--camera", face_clip)
    records = [json.loads(line) for line in first.splitlines()]
    assert [record["seq"] for record in records] == list(range(len(records)))
    assert [record["t_ns"] for record in records] == [200_000_000 * k for k in range(1, len(records) + 1)]
    assert len(records) == 14 or len(records) == 15, "five a second of a clip of three seconds"
    assert all(record["latency_ms"] == {} for record in records)
    assert records[-1]["valid"]["video"] > 0.6


def test_the_run_and_the_library_agree(bundle: Path, face_clip: Path, tmp_path: Path) -> None:
    data = _no_pace(bundle, tmp_path / "out.jsonl", "--camera", face_clip)
    records = [json.loads(line) for line in data.splitlines()]
    answers = list(_library(bundle, face_clip))
    assert len(answers) in (len(records), len(records) - 1), "the run knows where the clip ends"
    for record, answer in zip(records, answers, strict=False):
        assert record["t_ns"] == answer.t_ns
        for head, probabilities in answer.heads.items():
            assert list(record["heads"][head].values()) == pytest.approx(probabilities, abs=1e-3)


def test_a_picture_file_with_the_sound_of_another(bundle: Path, clip: Path, tmp_path: Path) -> None:
    sound = write_clip(tmp_path / "sound.m4a", seconds=2, video=False)
    flags = ("--camera", clip, "--mic", sound)
    first = _no_pace(bundle, tmp_path / "1.jsonl", *flags)
    assert first == _no_pace(bundle, tmp_path / "2.jsonl", *flags)
    records = [json.loads(line) for line in first.splitlines()]
    heard = [record["valid"]["audio"] for record in records]
    # The sound is over after two of three seconds: half a window of four has been heard by then.
    assert np.argmax(heard) in (9, 10)
    assert max(heard) == pytest.approx(0.5, abs=0.02)
    assert len(records) >= 14


@pytest.mark.parametrize(
    ("flags", "audio"),
    [(["--camera", "none", "--mic"], True), (["--mic"], True), (["--mic", "none", "--camera"], False)],
)
def test_one_sense_alone(bundle: Path, clip: Path, tmp_path: Path, flags: list[str], audio: bool) -> None:
    out = tmp_path / "out.csv"
    _no_pace(bundle, out, *flags, clip)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 14
    assert (float(rows[-1]["valid.audio"]) > 0) == audio


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_a_file_may_be_named_with_any_bytes(bundle: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(clip.read_bytes())
    with Program("--camera", path, bundle=bundle) as program:
        with Subscriber(program.endpoint, topics=("status/",)) as feed:
            assert program.line("picture:")["picture"] == str(tmp_path / "caf?.mp4")
            status = feed.receive(PATIENCE_S)
            while isinstance(status, Status) and status.source["camera"] is None:
                status = feed.receive(PATIENCE_S)
            assert isinstance(status, Status)
            assert status.source["camera"] == str(tmp_path / "caf?.mp4")
        assert program.end() == 0, program.text()
        assert program.errors() == []


def test_a_duration_ends_the_demo(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Program("--camera", "demo", "--duration", "2", "--out", out, bundle=bundle) as program:
        assert program.end() == 0, program.text()
        assert program.errors() == []
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert records
    assert {"capture", "wait", "score", "publish", "total"} == records[-1]["latency_ms"].keys()
    assert any(record["valid"]["audio"] > 0 for record in records)


def test_flags_win_over_the_file(bundle: Path, clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'camera = "{clip}"\nno-pace = true\nrate = 5\nstream = "left"\n')
    out = tmp_path / "out.jsonl"
    with Program("--config", file, "--rate", "2", "--out", out, bundle=bundle) as program:
        assert program.end() == 0, program.text()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {record["stream"] for record in records} == {"left"}
    assert [record["t_ns"] for record in records][:2] == [466_666_666, 1_000_000_000], "on ticks, floored"


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--camera", "97"], 2, "--camera demo"),
        (["--camera", "no such camera"], 2, "--camera demo"),
        (["--camera", "missing.mp4"], 2, "missing.mp4"),
        (["--camera", "demo", "--mic", "no such microphone"], 2, "--mic none"),
        (["--camera", "demo", "--rate", "16"], 2, "at most 15 scores a second"),
        (["--camera", "demo", "--out", "/nowhere/o.jsonl"], 6, "/nowhere/o.jsonl"),
        (["--camera", "demo", "--face-model", "missing.onnx"], 2, "missing.onnx"),
        (["--camera", "http://127.0.0.1:9/none.mjpg"], 3, "http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_had_is_named(bundle: Path, flags: list[str], status: int, words: str) -> None:
    with Program(*flags, bundle=bundle) as program:
        assert program.end() == status, program.text()
        (error,) = program.errors()
        assert words in error
        assert "Traceback" not in program.text()
        assert program.left_behind() == []


def test_an_endpoint_in_use_is_named(bundle: Path, long_clip: Path, tmp_path: Path) -> None:
    with Program("--camera", long_clip, "--bind", "tcp://127.0.0.1:*", bundle=bundle) as first:
        endpoint = first.line("feed:")["feed"]
        with Program("--camera", long_clip, "--bind", endpoint, bundle=bundle) as second:
            assert second.end() == 2
            assert endpoint in second.errors()[0]


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq was built without CURVE")
def test_with_keys_the_feed_leaves_the_machine_for_those_on_the_list(
    bundle: Path, long_clip: Path, tmp_path: Path
) -> None:
    listeners = tmp_path / "listeners"
    listeners.mkdir()
    server_key, server_secret = map(Path, zmq.auth.create_certificates(tmp_path, "feed"))
    friend_key, friend_secret = map(Path, zmq.auth.create_certificates(tmp_path, "friend"))
    (listeners / friend_key.name).write_bytes(friend_key.read_bytes())
    flags = ("--camera", long_clip, "--bind", "tcp://0.0.0.0:*")
    with Program(*flags, bundle=bundle) as bare:
        assert bare.end() == 2
        assert "--secret and --listeners" in bare.errors()[0]
    with Program(*flags, "--secret", server_secret, "--listeners", listeners, bundle=bundle) as program:
        endpoint = program.line("feed:")["feed"].replace("0.0.0.0", "127.0.0.1")
        with (
            Subscriber(endpoint, curve=ClientKeys(secret=friend_secret, server=server_key)) as friend,
            Subscriber(endpoint) as stranger,
        ):
            assert friend.receive(PATIENCE_S) is not None, program.text()
            assert stranger.receive(0.1) is None


def test_the_version_and_the_devices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["--list-devices"]) == 0
    listed = capsys.readouterr().out
    assert "Cameras:" in listed
    assert "Microphones:" in listed


def test_a_pipe_gets_plain_lines(bundle: Path, clip: Path) -> None:
    command = [sys.executable, "-m", "realtime.run", "--camera", str(clip), "--no-pace", "--offline"]
    command += ["--bind", "tcp://127.0.0.1:*", "--bundle", str(bundle), "--engine", "onnx"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    assert "\x1b" not in done.stdout
    assert "ready after" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ended: ")
    assert done.stderr == ""


def test_the_engines_of_the_flag_are_those_of_the_library() -> None:
    from engine.backends import ENGINES
    from realtime.wire import DEFAULT_ENDPOINT

    assert configuration.ENGINES == ENGINES
    assert configuration.DEFAULT_BIND == DEFAULT_ENDPOINT
