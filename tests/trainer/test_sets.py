"""Adapters of published sets: names, labels, raters, partitions, against the real tables where they are."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest

from trainer.data import crema_d, msp_improv, nemo, protocols, ravdess, recordings
from trainer.data.takes import Take, majority
from trainer.labels import LABELS

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
SIZES = {
    "ravdess_folds": (24, 6),
    "crema_d_folds": (91, 5),
    "crema_d_vavl": (91, 5),
    "msp_improv_sessions": (12, 6),
    "msp_improv_vavl": (12, 5),
}


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not beside the repository")
    return folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_every_protocol_has_disjoint_speakers_and_every_speaker_once() -> None:
    assert protocols.names() == sorted(SIZES)
    assert protocols.names("crema_d") == ["crema_d_folds", "crema_d_vavl"]
    for name, (speakers, partitions) in SIZES.items():
        protocol = protocols.load_protocol(name)
        assert len(protocol.partitions) == partitions
        for splits in protocol.partitions:  # one split a speaker: reading refuses two
            assert len(splits) == speakers
            assert set(splits.values()) == {"train", "dev", "test"}
    for name in ("ravdess_folds", "crema_d_folds", "msp_improv_sessions"):
        tested = [s for p in protocols.load_protocol(name).partitions for s in p if p[s] == "test"]
        assert len(tested) == len(set(tested)) == SIZES[name][0]


def test_folds_of_crema_d_are_blocks_of_consecutive_speakers() -> None:
    tested = [[s for s in p if p[s] == "test"] for p in protocols.load_protocol("crema_d_folds").partitions]
    assert [len(block) for block in tested] == [18, 18, 18, 18, 19]
    assert [s for block in tested for s in block] == [str(number) for number in range(1001, 1092)]


@pytest.mark.parametrize(
    ("name", "published", "unit"),
    [("crema_d_vavl", "cremad_6class", "SpkrID"), ("msp_improv_vavl", "msp_improv_4class", "session")],
)
def test_published_partitions_are_as_published(name: str, published: str, unit: str) -> None:
    folder = shared("protocols")
    protocol = protocols.load_protocol(name)
    words = {"Train": "train", "Development": "dev", "Test": "test"}
    for number, splits in enumerate(protocol.partitions, start=1):
        with gzip.open(folder / f"{published}_{number}.csv.gz", "rt", newline="") as table:
            rows = list(csv.DictReader(table))
        assert {row["FileName"][:-4] for row in rows} == protocol.table.keys()
        for row in rows:
            speaker = row["SpkrID"] if unit == "SpkrID" else row["FileName"].split("-")[3]
            assert splits[speaker] == words[row["Split_Set"]]
    assert len(protocol.table) == {"crema_d_vavl": 5820, "msp_improv_vavl": 8385}[name]


def test_a_partition_sets_splits_and_brings_its_labels() -> None:
    protocol = protocols.load_protocol("crema_d_vavl")
    takes = [
        Take(
            file=Path(f"{name}.flv"), corpus="crema_d", speaker=f"crema_d/{name[:4]}", label="happy", split=""
        )
        for name in ("1026_IEO_ANG_HI", "1001_XXX_NEU_XX")
    ]
    (chosen,) = protocol.apply(takes, 1)  # the second is not among the 5,820
    assert (chosen.name, chosen.label, chosen.split) == ("1026_IEO_ANG_HI", "angry", "train")
    assert chosen.shares["angry"] == pytest.approx(0.856)
    with pytest.raises(ValueError, match="1 to 5, not 6"):
        protocol.apply(takes, 6)
    with pytest.raises(ValueError, match="does not know the speaker"):
        protocols.load_protocol("ravdess_folds").apply(takes, 1)
    with pytest.raises(ValueError, match=r"there are .*msp_improv_sessions"):
        protocols.load_protocol("nobody")


def test_raters_of_crema_d_agree_with_the_published_summary() -> None:
    folder = shared("cremad_labels")
    votes = crema_d.read_votes(folder)
    assert len(votes) == 7442
    assert len({name[:4] for name in votes}) == 91
    with (folder / "summaryTable.csv").open(newline="") as table:
        summary = {row["FileName"]: row for row in csv.DictReader(table)}
    with (folder / "SentenceFilenames.csv").open(newline="") as table:
        assert {row["Filename"] for row in csv.DictReader(table)} == votes.keys()
    counted = Counter[tuple[str, str]]()
    columns = {"voice": "VoiceVote", "face": "FaceVote", "both": "MultiModalVote"}
    for name, channels in votes.items():
        intended = crema_d.parse_name(name).label
        for channel, shares in channels.items():
            perceived = majority(shares)
            counted[channel, "tie"] += perceived is None
            counted[channel, "as intended"] += perceived == intended
            if perceived is not None:
                assert summary[name][columns[channel]] == perceived[0].upper()
    assert [counted[channel, "tie"] for channel in columns] == [644, 470, 420]
    assert [counted[channel, "as intended"] for channel in columns] == [3099, 4931, 5374]


def test_crema_d_pairs_picture_and_sound(tmp_path: Path) -> None:
    touch(tmp_path, "VideoFlash/1001_IEO_NEU_XX.flv", "AudioWAV/1001_IEO_NEU_XX.wav")
    touch(tmp_path, "VideoFlash/1001_IEO_HAP_LO.flv", "AudioWAV/1001_IEO_HAP_MD.wav")
    takes = {take.name: take for take in crema_d.list_takes(tmp_path)}
    assert {name: take.label for name, take in takes.items()} == {
        "1001_IEO_NEU_XX": "neutral",
        "1001_IEO_HAP_LO": "happy",
        "1001_IEO_HAP_MD": "happy",
    }
    assert takes["1001_IEO_NEU_XX"].sound == tmp_path / "AudioWAV" / "1001_IEO_NEU_XX.wav"
    assert takes["1001_IEO_HAP_LO"].sound is None
    assert takes["1001_IEO_HAP_MD"].file.suffix == ".wav"
    with pytest.raises(FileNotFoundError, match="tabulatedVotes"):
        crema_d.list_takes(tmp_path, "both")
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text(
        '"","A","D","F","H","N","S","fileName"\n'
        + "".join(
            f'"300001",0,0,0,{happy},{neutral},0,"{name}"\n'
            for name, happy, neutral in (
                ("1001_IEO_NEU_XX", 1, 9),
                ("1001_IEO_HAP_LO", 3, 7),
                ("1001_IEO_HAP_MD", 5, 5),
            )
        )
    )
    perceived = {take.name: take for take in crema_d.list_takes(tmp_path, "both")}
    assert perceived["1001_IEO_HAP_LO"].label == "neutral"
    assert perceived["1001_IEO_HAP_LO"].shares["happy"] == 0.3
    assert perceived["1001_IEO_HAP_MD"].label is None


def test_what_nobody_rated_has_no_label(tmp_path: Path) -> None:
    touch(tmp_path, "VideoFlash/1001_IEO_NEU_XX.flv", "VideoFlash/1001_IEO_HAP_LO.flv")
    (tmp_path / "tabulatedVotes.csv").write_text(
        '"","A","D","F","H","N","S","fileName"\n"300001",0,0,0,1,9,0,"1001_IEO_NEU_XX"\n'
    )
    perceived = {take.name: take for take in crema_d.list_takes(tmp_path, "both")}
    assert perceived["1001_IEO_NEU_XX"].label == "neutral"
    assert perceived["1001_IEO_HAP_LO"].label is None
    assert {take.label for take in crema_d.list_takes(tmp_path, "voice")} == {None}


def test_what_macos_puts_beside_files_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "Actor_01/03-01-03-01-01-01-01.wav", "Actor_01/._03-01-03-01-01-01-01.wav")
    assert [take.name for take in ravdess.list_takes(tmp_path)] == ["03-01-03-01-01-01-01"]
    touch(tmp_path, "AudioWAV/1001_IEO_NEU_XX.wav", "AudioWAV/._1001_IEO_NEU_XX.wav")
    assert [take.name for take in crema_d.list_takes(tmp_path)] == ["1001_IEO_NEU_XX"]


def test_nemo_is_found_as_published_and_beside_its_table(tmp_path: Path) -> None:
    (tmp_path / "data.tsv").write_text(
        "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
        "WR0_sadness_1.wav\tsadness\tTak.\ttak\t   WR0\tmale\t23\n"
        "EB0_anger_1.wav\tanger\tTak.\ttak\tEB0\tfemale\t27\n"
    )
    with pytest.raises(FileNotFoundError, match=r"no samples/\*\.wav of nEMO"):
        nemo.list_takes(tmp_path)
    touch(tmp_path, "EB0_anger_1.ogg", "samples/WR0_sadness_1.wav", "samples/._WR0_sadness_1.wav")
    first, second = nemo.list_takes(tmp_path)
    assert (first.file, first.label, first.split) == (tmp_path / "EB0_anger_1.ogg", "angry", "train")
    assert (second.file, second.speaker, second.split) == (
        tmp_path / "samples" / "WR0_sadness_1.wav",
        "nemo/WR0",
        "dev",
    )
    (tmp_path / "data.tsv").write_text("file_id\temotion\tspeaker_id\nEB0_joy_1.wav\tjoy\tEB0\n")
    with pytest.raises(ValueError, match="nEMO has no emotion 'joy'"):
        nemo.list_takes(tmp_path)


def test_ravdess_lists_every_performance_once(tmp_path: Path) -> None:
    video, sound = "Video_Speech_Actor_01/Actor_01", "Audio_Speech_Actors_01-24/Actor_01"
    touch(tmp_path, f"{video}/01-01-03-01-01-01-01.mp4", f"{video}/02-01-03-01-01-01-01.mp4")
    touch(tmp_path, f"{sound}/03-01-03-01-01-01-01.wav")  # one performance, three files
    touch(tmp_path, f"{video}/02-01-05-02-01-01-01.mp4", f"{sound}/03-01-05-02-01-01-01.wav")
    touch(tmp_path, f"{sound}/03-01-04-01-01-01-01.wav", f"{video}/02-01-06-01-01-01-01.mp4")
    touch(tmp_path, f"{video}/01-02-03-01-01-01-01.mp4", f"{video}/01-01-03-01-01-02-01.csv")  # song, tracks
    takes = {take.name: take for take in ravdess.list_recordings(tmp_path)}
    assert sorted(takes) == [
        "01-01-03-01-01-01-01",
        "02-01-05-02-01-01-01",
        "02-01-06-01-01-01-01",
        "03-01-04-01-01-01-01",
    ]
    assert takes["01-01-03-01-01-01-01"].sound is None
    paired = takes["02-01-05-02-01-01-01"]
    assert paired.sound == tmp_path / sound / "03-01-05-02-01-01-01.wav"
    assert paired.attributes == {"intensity": 1.0}
    assert {take.name for take in ravdess.list_takes(tmp_path)} == {
        "03-01-03-01-01-01-01",
        "03-01-04-01-01-01-01",
        "03-01-05-02-01-01-01",
    }


def test_turns_of_msp_improv_are_read_from_the_table(tmp_path: Path) -> None:
    (tmp_path / "Evalution.txt").write_text(
        "UTD-IMPROV-S01A-F02-R-FF01.avi; A; A:3.333333; V:2.333333; D:3.000000 ; N:3.666667;\n"
        "A2XMK; Angry; Angry,Frustrated; A:2.000000; V:2.000000; D:4.000000 ; N:4.000000;\n\n"
        "UTD-IMPROV-S02H-M05-S-MF03.avi; X; A:2.000000; V:4.500000; D:NaN ; N:NaN;\n\n"
        "UTD-IMPROV-S09S-M01-P-FM04.avi; S; A:4.000000; V:1.500000; D:2.000000 ; N:3.000000;\n"
    )
    touch(tmp_path, "Video/session2/S01A/R/UTD-IMPROV-S01A-F02-R-FF01.avi")
    touch(tmp_path, "Audio/session2/S01A/R/MSP-IMPROV-S01A-F02-R-FF01.wav")
    touch(tmp_path, "Audio/session5/S02H/S/MSP-IMPROV-S02H-M05-S-MF03.wav")
    first, second = msp_improv.list_takes(tmp_path)  # the third has no file
    assert (first.name, first.speaker, first.label) == (
        "MSP-IMPROV-S01A-F02-R-FF01",
        "msp_improv/F02",
        "angry",
    )
    assert first.sound is not None
    assert (second.label, second.attributes) == (None, {"arousal": 4.0, "valence": 4.5})
    published = protocols.load_protocol("msp_improv_vavl").table[first.name]
    assert first.attributes == pytest.approx(published, abs=1e-6)  # the same scale, the same direction


def test_names_of_published_turns_are_understood() -> None:
    table = protocols.load_protocol("msp_improv_vavl").table
    codes = [msp_improv.parse_name(name) for name in table]
    assert {code.session for code in codes} == set(range(1, 7))
    assert {code.scene for code in codes} == {"angry", "happy", "neutral", "sad"}
    assert Counter(code.kind for code in codes) == {"S": 4347, "P": 2768, "T": 650, "R": 620}
    for name in protocols.load_protocol("crema_d_vavl").table:
        assert crema_d.parse_name(name).label in LABELS
    for parse, name in ((msp_improv.parse_name, "MSP-IMPROV-S1"), (crema_d.parse_name, "1001_IEO_JOY_XX")):
        with pytest.raises(ValueError, match="is not a"):
            parse(name)


def test_a_table_of_own_recordings(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "b/1.wav")
    table = tmp_path / "mine.csv"
    table.write_text(
        "path,speaker,split,label,sound,calmness\na/1.mp4,anna,train,Calm,,\nb/1.mp4,bert,dev,,b/1.wav,0.25\n"
    )
    first, second = recordings.list_takes(table)
    assert (first.name, first.label, dict(first.attributes)) == ("a/1", "neutral", {})
    assert (second.name, second.label, dict(second.attributes)) == ("b/1", None, {"calmness": 0.25})
    assert second.sound == tmp_path / "b" / "1.wav"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,speaker,label\na.wav,x,sad\n", "lacks the column 'split'"),
        ("path,speaker,split\na.wav,x,train\n", "line 2: there is neither a label nor an attribute"),
        ("path,speaker,split,label\na.wav,x,train,sad\na.wav,x,dev,sad\n", "line 3: speaker x is in dev"),
        ("path,speaker,split,label\na.wav,x,train,sad\na.wav,x,train,sad\n", "line 3: a.wav is there twice"),
        ("path,speaker,split,label\na.wav,x,train,joy\n", "label is 'joy'"),
        ("path,speaker,split,label\na.wav,x,later,sad\n", "split is 'later'"),
        ("path,speaker,split,label\nb.wav,x,train,sad\n", "there is no file"),
        ("path,speaker,split,valence\na.wav,x,train,high\n", "valence is 'high', not a number"),
        ("path,speaker,split,label\na.wav,x,train,sad,1\n", "more cells than columns"),
        ("path,speaker,split,label\n", "has no rows"),
        ("path;speaker;split;label\na.wav;x;train;sad\n", "by semicolons; save it as CSV with commas"),
        ("path,speaker,split,label\na.wav,J\xf6rg,train,sad\n", "not in UTF-8; save it as CSV in UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "mine.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=said):
        recordings.list_takes(tmp_path / "mine.csv")
