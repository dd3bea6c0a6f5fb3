"""The evaluator end to end, with a small network that has learned nothing."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from small_media import write_media
from test_prepare import crema_d, msp_improv, own, ravdess

from engine import Recognizer
from engine.bundle import load_bundle
from engine.types import Frame
from trainer.clip_report import summaries
from trainer.data.clips import list_clips, play
from trainer.data.takes import Take
from trainer.disturbances import Disturbance
from trainer.evaluate import main, parse_actors
from trainer.export import export
from trainer.labels import HEADS, LABELS
from trainer.model.de3 import DE3
from trainer.prepare import Request, listed
from trainer.prepare import main as prepare
from trainer.report_card import pictures
from trainer.trials import ClipScore, Setting, score_clips

SHARED = Path(__file__).parents[2] / ".." / "shared"
CONFIG = {
    "name": "tiny",
    "frame_encoder": {
        "labels": 7, "appearance": 16, "motion": 8, "flow_size": 56,
        "appearance_channels": [8, 8, 8, 8], "motion_channels": [4, 4, 4], "dropout": 0.0,
    },
    "window_model": {
        "labels": 7, "appearance": 16, "motion": 8, "width": 16, "heads": 2, "kernel": 5,
        "blocks": 1, "sound_blocks": 1, "sound_channels": [4, 4, 4], "dropout": 0.0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    network = DE3(CONFIG).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    folder = tmp_path_factory.mktemp("bundle")
    about = {"name": "tiny", "version": "0", "card": "None.\n", "licence": "CC0-1.0"}
    export(CONFIG, network, folder, **about, training={})
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of six clips of sound by two speakers."""
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(5)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "speaker", "label", "remark"))
        for index in range(6):
            name = f"{index}.wav"
            seconds = 0.15 if index == 5 else 1.0 + 0.37 * index
            loudness = np.abs(np.sin(np.arange(int(16_000 * seconds)) / (900 + 300 * index)))
            sound = 0.2 * rng.standard_normal(len(loudness)) * loudness
            with av.open(str(folder / name), "w") as container:
                stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
                frame = av.AudioFrame.from_ndarray(
                    np.rint(sound * 32767).astype(np.int16)[None], format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts = 16_000, 0
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            table.writerow((name, f"s{index % 2}", ("happy", "sad", "fearful")[index % 3], "x"))
    return folder / "labels.csv"


def made_score(label: str, speaker: str, answer: str) -> ClipScore:
    scores = np.where(np.array(LABELS) == answer, 0.0, -3.0)
    return ClipScore(
        take=Take(file=Path("a"), corpus="made", speaker=speaker, label=label, split="test"),
        labels=LABELS,
        heads=dict.fromkeys(HEADS, scores),
        lead="fused",
        windows=1,
        valid_video=0.0,
        valid_audio=1.0,
        attributes={},
    )


def test_actors_are_ranges_and_numbers() -> None:
    assert parse_actors("17-20,2") == [17, 18, 19, 20, 2]


def test_dropped_labels_are_neither_asked_nor_answered() -> None:
    scores = [
        made_score("happy", "a", "happy"),
        made_score("sad", "b", "fearful"),
        made_score("fearful", "a", "fearful"),
    ]
    assert summaries(scores, (), 0)["video"].labels == ("happy", "sad", "fearful")
    fewer = summaries(scores, ("fearful",), 0)
    assert set(fewer) == set(HEADS)
    assert fewer["fused"].labels == ("happy", "sad")
    assert fewer["fused"].clips == 2


def test_a_clip_has_the_mean_log_probability_of_its_windows(bundle: Path, voices: Path) -> None:
    take = list_clips(voices)[4]
    (score,) = score_clips([take], Setting(bundle=bundle))
    with Recognizer(bundle, engine="onnx", has_video=False) as recognizer:
        for block in play(take.file):
            assert not isinstance(block, Frame)
            recognizer.add_audio(block.t_ns, block.samples)
        seconds = 1.0 + 0.37 * 4
        windows = [recognizer.scores(k * 200_000_000) for k in range(1, int(seconds * 5) + 1)]
    assert score.windows == len(windows) == 12
    telling = [window for window in windows if window.valid_audio]
    for head in HEADS:
        expected = np.mean([np.log(window.heads[head]) for window in telling], axis=0)
        np.testing.assert_allclose(score.heads[head], expected, atol=1e-4)
    assert score.valid_video == 0.0
    assert 0.0 < score.valid_audio < 1.0


def test_a_stream_keeps_what_it_learned_and_repeats(bundle: Path, voices: Path) -> None:
    takes = list_clips(voices)
    alone = score_clips(takes, Setting(bundle=bundle))
    streamed = score_clips(takes, Setting(bundle=bundle, stream=True))
    again = score_clips(takes, Setting(bundle=bundle, stream=True), jobs=2)
    assert [score.take for score in streamed] == takes
    changed = 0
    for one, two, three in zip(alone, streamed, again, strict=True):
        assert one.windows == two.windows
        np.testing.assert_array_equal(two.heads["audio"], three.heads["audio"])
        changed += not np.allclose(one.heads["audio"], two.heads["audio"], atol=1e-5)
    # The first clip of each speaker has nothing before it: the same alone and in a stream.
    assert changed == len(takes) - 2


def test_a_file_that_is_named_twice_is_scored_for_each_row(bundle: Path, voices: Path) -> None:
    take = list_clips(voices)[0]
    rows = [take, replace(take, label="sad", speaker="another"), replace(take, label="angry")]
    for stream in (False, True):
        scores = score_clips(rows, Setting(bundle=bundle, stream=stream))
        assert [score.take for score in scores] == rows


def test_the_command_reports_all_heads_with_and_without_a_label(
    bundle: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    options = ["--bundle", str(bundle), "--clips", str(voices), "--stream", "--drop-label", "fearful"]
    assert main([*options, "--jobs", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert set(report["heads"]) == set(HEADS)
    assert (report["source"], report["bundle"]) == ("labels.csv", "tiny")
    assert report["heads"]["audio"]["labels"] == ["happy", "sad", "fearful"]
    assert report["without"]["heads"]["audio"]["clips"] == 4
    assert set(report["heads"]["audio"]["speakers"]) == {"s0", "s1"}
    assert len(report["clips"]) == 6
    assert "UAR" in capsys.readouterr().out


def test_a_dropped_label_that_the_model_lacks_is_in_no_figure(
    bundle: Path, voices: Path, tmp_path: Path
) -> None:
    file, table = tmp_path / "report.json", voices.with_name("more.csv")
    table.write_text(voices.read_text().replace("fearful", "contempt"))
    options = ["--bundle", str(bundle), "--clips", str(table), "--jobs", "1", "--json", str(file)]
    assert main(options) == 2
    assert main([*options, "--drop-label", "contempt"]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["heads"]["fused"]["labels"] == ["happy", "sad"]
    assert "without" not in report
    assert [clip["label"] for clip in report["clips"]].count("contempt") == 2


def test_a_stream_in_several_orders_has_the_mean_over_them(
    bundle: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    options = ["--bundle", str(bundle), "--clips", str(voices), "--stream", "--drop-label", "fearful"]
    assert main([*options, "--jobs", "1", "--orders", "3", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert "mean over 3 orders" in capsys.readouterr().out
    takes = list_clips(voices)
    for dropped, told in (((), report["orders"]), (("fearful",), report["orders"]["without"])):
        expected = [
            summaries(score_clips(takes, Setting(bundle=bundle, stream=True, seed=seed)), dropped, 0)
            for seed in range(3)
        ]
        for head in HEADS:
            uars = [each[head].uar for each in expected]
            assert told["heads"][head]["orders"] == pytest.approx(uars)
            assert told["heads"][head]["uar"] == pytest.approx(np.mean(uars))


def test_the_folder_holds_figures_pictures_groups_curves_and_a_card(
    bundle: Path, voices: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")
    out = tmp_path / "report"
    options = ["--bundle", str(bundle), "--clips", str(voices), "--jobs", "1", "--out", str(out)]
    assert main([*options, "--group", "remark", "--robustness", "window_s", "--robustness-clips", "3"]) == 0
    report = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert report["heads"]["audio"]["groups"]["remark"]["x"]["clips"] == 6
    assert 0 <= report["heads"]["audio"]["macro_f1"] <= 1
    curves = json.loads((out / "robustness.json").read_text(encoding="utf-8"))
    assert curves["clips"] == 3
    assert (curves["bundle"], curves["digest"]) == ("tiny", load_bundle(bundle).digest)
    assert date.fromisoformat(curves["date"])
    assert [point["level"] for point in curves["curves"]["window_s"]] == [0.5, 1, 2, 3, None]
    assert curves["curves"]["window_s"][-1]["heads"] == curves["untouched"]
    with (out / "groups.csv").open(newline="") as rows:
        table = list(csv.DictReader(rows))
    assert {(row["column"], row["value"]) for row in table} == {
        ("speaker", "s0"), ("speaker", "s1"), ("remark", "x")
    }  # fmt: skip
    card = (out / "CARD.md").read_text(encoding="utf-8")
    for picture in pictures(card):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert {"confusion.png", "reliability.png", "robustness.png"} == {*pictures(card)}
    assert f"{report['heads']['audio']['uar']:.3f}" in card
    assert "Licence of the weights: CC0-1.0." in card
    assert main(options) == 0  # anew, without curves: those of before do not stay
    assert not (out / "robustness.json").exists()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("disturbance", [None, Disturbance(kind="sound_snr_db", level=20)])
def test_the_sound_of_a_mute_picture_is_played(
    bundle: Path, tmp_path: Path, stream: bool, disturbance: Disturbance | None
) -> None:
    write_media(tmp_path / "clip.mp4", sound=False)
    write_media(tmp_path / "clip.wav")
    table = tmp_path / "mine.csv"
    table.write_text(
        "path,sound,speaker,split,label\nclip.mp4,clip.wav,ann,dev,happy\nclip.mp4,,ann,dev,sad\n"
    )
    setting = Setting(bundle=bundle, offline=True, stream=stream, disturbance=disturbance)
    both, mute = score_clips(list_clips(table), setting)
    assert both.valid_video == pytest.approx(mute.valid_video, abs=0.02)
    assert both.valid_audio > 0.1
    assert mute.valid_audio == 0
    take = Take(file=tmp_path / "clip.wav", corpus="made", speaker="ann", label="happy", split="dev")
    (alone,) = score_clips([take], setting)
    assert both.valid_audio == pytest.approx(alone.valid_audio, abs=0.02)


@pytest.mark.parametrize("layout", [ravdess, crema_d, msp_improv, own])
def test_a_split_of_a_prepared_set_is_played(
    layout: Callable[[Path, Callable[..., None]], list[str]], bundle: Path, tmp_path: Path
) -> None:
    root, out, file = tmp_path / "set", tmp_path / "out", tmp_path / "report.json"
    root.mkdir()
    name, *options = layout(root, write_media)
    prepare([name, "--root", str(root), "--out", str(out), "--jobs", "1", "--offline", *options])
    asked = ["--bundle", str(bundle), "--set", str(out), "--split", "dev", "--group", "kept", "--offline"]
    assert main([*asked, "--jobs", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    request = Request(set_name=name, root=root, out=out, protocol=options[1] if options else "")
    expected = [take for take in listed(request)[0] if take.split == "dev"]
    played = [(clip["file"], clip["speaker"], clip["label"]) for clip in report["clips"]]
    assert played == [(take.file.name, take.speaker, take.label) for take in expected]
    assert len(played) == 2
    assert report["source"] == "out, dev"
    assert report["valid_audio"] > 0.1
    assert set(report["heads"]["fused"]["groups"]["kept"]) == {"face and voice"}


@pytest.mark.parametrize("apart", [False, True])
def test_the_attention_over_a_clip_is_drawn(apart: bool, bundle: Path, voices: Path, tmp_path: Path) -> None:
    """Its sound is in the clip, or in a file of its own that the table names."""
    pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")
    write_media(tmp_path / "clip.mp4", sound=not apart)
    write_media(tmp_path / "clip.wav")
    table = tmp_path / "mine.csv"
    table.write_text(f"file,sound,speaker,label\nclip.mp4,{'clip.wav' if apart else ''},ann,happy\n")
    out = tmp_path / "report"
    options = ["--bundle", str(bundle), "--clips", str(table), "--jobs", "1", "--offline"]
    assert main([*options, "--out", str(out), "--heat-map", str(tmp_path / "clip.mp4")]) == 0
    picture = cv2.imread(str(out / "attention.png"))
    assert picture is not None
    assert picture.std() > 10
    coloured = np.ptp(picture.astype(int), axis=2) > 30  # the heat, not ink, paper and grey faces
    assert coloured.mean() > 0.01
    assert "![Attention over clip.mp4](attention.png)" in (out / "CARD.md").read_text(encoding="utf-8")


def test_what_a_report_lacks_is_told_before_anything_is_played(
    bundle: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluate.score_clips", lambda *_: pytest.fail("played"))
    write_media(tmp_path / "mute.mp4", sound=False)
    options = ["--bundle", str(bundle), "--clips", str(voices), "--jobs", "1", "--out", str(tmp_path / "out")]
    for clip in ("mute.mp4", "nowhere.mp4"):
        assert main([*options, "--heat-map", str(tmp_path / clip)]) == 2
    monkeypatch.setitem(sys.modules, "trainer.report", None)  # as without matplotlib
    assert main(options) == 2


def test_what_was_measured_is_kept_where_the_robustness_fails(
    bundle: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("trainer.evaluate.robustness", broken)
    out = tmp_path / "out"
    options = ["--bundle", str(bundle), "--clips", str(voices), "--jobs", "1", "--out", str(out)]
    assert main([*options, "--robustness", "window_s"]) == 2
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["bundle"] == "tiny"
    assert (out / "CARD.md").is_file()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--clips", "x", "--robustness"], "--out"),
        (["--clips", "x", "--out", "y", "--robustness", "fog"], "fog"),
        (["--stills", "x", "--out", "y", "--robustness"], "--stills"),
        (["--ravdess", "x", "--group", "sex"], "--clips"),
        (["--clips", "x", "--orders", "2"], "--stream"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("file,speaker\n", "lacks the column 'label'"),
        ("file,speaker,label\n", "lists no clips"),
        ("file,speaker,label\nnone.wav,s,sad\n", "there is no file"),
        ("file,speaker,arousal\nlabels.csv,s,1\n", "No clip has a label or one of the model's attributes"),
        ("file,speaker,label\nlabels.csv,s,sad\n", "labels.csv"),
        ("file,speaker,label\nlabels.csv,s,joyful\n", "The label 'joyful' is not one of the model's"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, complaint: str
) -> None:
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    assert main(["--bundle", str(bundle), "--clips", str(tmp_path / "labels.csv"), "--jobs", "1"]) == 2
    said = capsys.readouterr().err
    assert complaint in "".join(said.split()).replace("\u00a0", "") or complaint in " ".join(said.split())
    assert "Traceback" not in said


def test_real_clips_show_a_face_and_a_voice(bundle: Path) -> None:
    table = SHARED / "data" / "real_faces_dev" / "labels.csv"
    model = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
    if not (table.is_file() and model.is_file()):
        pytest.skip("the real clips are not beside the repository")
    take = list_clips(table)[0]
    for picture, sound in ((True, True), (True, False), (False, True)):
        setting = Setting(bundle=bundle, face_model=model, picture=picture, sound=sound)
        (score,) = score_clips([take], setting)
        assert (score.valid_video > 0.3) == picture
        assert (score.valid_audio > 0.3) == sound
