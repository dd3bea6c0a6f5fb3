"""Takes that cannot be read or used: each is listed with its reason, and stops no other."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from small_media import write_media
from test_prepare import run

from engine.bundle import Bundle
from engine.signals.face import FaceFinder
from trainer.clip_sets import load_shards
from trainer.data.clips import list_clips
from trainer.data.sound import open_cache
from trainer.data.takes import Take
from trainer.take_report import takes_table
from trainer.take_store import Observed, observe


def test_what_was_not_foreseen_stops_one_take_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(take: Take, finder: FaceFinder, bundle: Bundle) -> Observed:
        if take.name == "odd":
            raise cv2.error("(-215:Assertion failed) !ssize.empty()")
        return observe(take, finder, bundle)

    rows = ["path,speaker,split,label"]
    for name in ("good", "odd"):
        write_media(tmp_path / f"{name}.wav")
        rows.append(f"{name}.wav,ann,train,sad")
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr("trainer.prepare.observe", refuse)
    monkeypatch.setattr("trainer.prepare.run_all", in_this_process)
    summary = run(tmp_path / "mine.csv", tmp_path / "out")
    assert (summary.made, summary.voices) == (1, 1)
    with (tmp_path / "out" / "failures.csv").open(newline="") as table:
        (failed,) = csv.DictReader(table)
    assert failed["name"] == "odd"
    first, *where = failed["reason"].splitlines()
    assert first == "error: (-215:Assertion failed) !ssize.empty()"
    assert where[0] == "Traceback (most recent call last):"


def in_this_process(
    items: Iterable[Take], work: Callable[[Take], str], _: int, begin: Callable[..., None], initial: Any
) -> Iterator[tuple[Take, str]]:
    """`run_all` for work of which a part is replaced here."""
    begin(*initial)
    yield from ((item, work(item)) for item in items)


def test_a_run_goes_on_lists_failures_and_makes_anew_what_has_changed(tmp_path: Path) -> None:
    write_media(tmp_path / "good.mp4")
    write_media(tmp_path / "blank.mp4", faces=False)
    write_media(tmp_path / "mute.mp4", sound=False)
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    names = ("good", "blank", "mute", "broken")
    table.write_text(
        "path,speaker,split,label\n" + "".join(f"{name}.mp4,{name},train,sad\n" for name in names)
    )
    first = run(table, out, jobs=2)
    assert (first.made, first.there, first.voices, first.faces["train"]) == (3, 0, 2, 2)
    assert first.kinds == {"face and voice": 1, "voice": 1, "face": 1}
    with (out / "failures.csv").open(newline="") as rows:
        failed = {row["name"]: row for row in csv.DictReader(rows)}
    assert {name: row["kept"] for name, row in failed.items()} == {"blank": "voice", "broken": ""}
    assert "no face in its 16 pictures" in failed["blank"]["reason"]
    with (out / "takes.csv").open(newline="") as rows:
        kept = {row["name"]: row["kept"] for row in csv.DictReader(rows)}
    assert kept == {"good": "face and voice", "blank": "voice", "mute": "face"}
    assert [clip.meta["voice"] for clip in load_shards(out / "faces" / "train")] == ["good", None]
    assert open_cache(out / "voices").names.tolist() == ["good", "blank"]
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*.np[yz]")}
    again = run(table, out)
    assert (again.made, again.there) == (0, 3)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.np[yz]")} == stamps
    write_media(tmp_path / "mute.mp4")  # now with sound
    (tmp_path / "out" / "voices" / "mel.npz").touch()
    mended = run(table, out)
    assert (mended.made, mended.there, mended.faces["train"]) == (1, 2, 2)
    assert not (out / "voices" / "mel.npz").exists()  # of other takes


def test_the_sound_beside_a_damaged_picture_is_kept_and_played(tmp_path: Path) -> None:
    write_media(tmp_path / "whole.wav")
    for name in ("damaged", "lost"):
        (tmp_path / f"{name}.flv").write_bytes(b"x" * 4000)
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    table.write_text(
        "path,speaker,split,label,sound\ndamaged.flv,ann,dev,sad,whole.wav\nlost.flv,bob,dev,happy,\n"
    )
    for made in (1, 0):  # and it is said again by a run that finds it there
        summary = run(table, out)
        assert (summary.made, summary.voices, summary.kinds) == (made, 1, {"voice": 1})
        with (out / "failures.csv").open(newline="") as rows:
            failed = {row["name"]: row for row in csv.DictReader(rows)}
        assert {name: row["kept"] for name, row in failed.items()} == {"damaged": "voice", "lost": ""}
        assert all(row["reason"].startswith("InvalidDataError: ") for row in failed.values())
    (take,) = list_clips(takes_table(out))
    assert (take.file, take.sound) == (tmp_path / "whole.wav", None)


def test_the_picture_beside_a_damaged_sound_is_kept_and_played(tmp_path: Path) -> None:
    write_media(tmp_path / "whole.mp4", sound=False)
    (tmp_path / "damaged.wav").write_bytes(b"x" * 4000)
    table, out = tmp_path / "mine.csv", tmp_path / "out"
    table.write_text("path,speaker,split,label,sound\nwhole.mp4,ann,dev,sad,damaged.wav\n")
    summary = run(table, out)
    assert (summary.made, summary.voices, summary.kinds) == (1, 0, {"face": 1})
    with (out / "failures.csv").open(newline="") as rows:
        (failed,) = csv.DictReader(rows)
    assert failed["kept"] == "face"
    assert "damaged.wav" in failed["reason"]
    (take,) = list_clips(takes_table(out))
    assert (take.file, take.sound) == (tmp_path / "whole.mp4", None)
