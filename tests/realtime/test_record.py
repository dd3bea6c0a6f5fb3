"""What `--out` writes: complete, the same bytes every time, readable by others."""

import csv
import json
import os
from pathlib import Path

import pytest
from feed_peers import emotion

from realtime.record import Recorder, RecordError
from realtime.wire import Emotion, to_map


def write(path: Path, messages: list[Emotion]) -> None:
    with Recorder(path) as recorder:
        for message in messages:
            recorder.write(message)


MESSAGES = [emotion(seq=0, face=None, top=None), emotion(seq=1), emotion(seq=2, attributes={"valence": -0.1})]


def test_json_lines_have_the_keys_of_the_feed(tmp_path: Path) -> None:
    write(tmp_path / "run.jsonl", MESSAGES)
    lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [to_map(message) for message in MESSAGES]
    assert list(json.loads(lines[0])) == list(to_map(MESSAGES[0]))


def test_csv_joins_nested_keys_with_dots_and_has_a_column_for_every_value(tmp_path: Path) -> None:
    write(tmp_path / "run.csv", MESSAGES)
    with (tmp_path / "run.csv").open(encoding="utf-8", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert float(second["heads.video.happy"]) == MESSAGES[1].heads["video"]["happy"]
    assert [float(second[f"face.box.{place}"]) for place in range(4)] == [200.5, 120.25, 96.0, 128.0]
    assert (first["face.confidence"], first["face.box.0"], first["top"]) == ("", "", "")
    assert [first[f"labels.{place}"] for place in range(7)] == list(MESSAGES[0].labels)
    assert (second["latency_ms.total"], third["attributes.valence"]) == ("25.5", "-0.1")
    assert int(third["t_unix_ns"]) == MESSAGES[2].t_unix_ns


def test_what_has_no_column_is_left_out_and_shifts_nothing(tmp_path: Path) -> None:
    late = emotion(seq=3, latency_ms={"decode": 1.0, "total": 2.0})
    write(tmp_path / "run.csv", [*MESSAGES, late])
    with (tmp_path / "run.csv").open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    assert (last["latency_ms.total"], last["latency_ms.capture"], last["model"]) == ("2.0", "", late.model)
    assert "latency_ms.decode" not in last
    assert None not in last, "no cell beyond the columns"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_same_messages_are_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"{name}.{suffix}", MESSAGES)
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert b"\r" not in (tmp_path / f"one.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_every_line_is_on_disk_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run.{suffix}"
    with Recorder(path) as recorder:
        for count, message in enumerate(MESSAGES, start=1):
            recorder.write(message)
            assert path.read_bytes().count(b"\n") == count + (suffix == "csv")


@pytest.mark.parametrize("name", ["run.txt", "run", "run.JSON", "run.jsonl.gz"])
def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match=r"\.jsonl or \.csv"):
        Recorder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"run\.csv cannot be written: No such file or directory\.$"):
        Recorder(tmp_path / "absent" / "run.csv")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run.{suffix}"
    path.symlink_to("/dev/full")
    recorder = Recorder(path)
    with pytest.raises(RecordError, match="cannot be written: No space left on device"):
        recorder.write(emotion())
    with pytest.raises(RecordError, match="No space left"):
        recorder.close()
