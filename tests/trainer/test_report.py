"""Facts, samples, attention, pictures and cards of a report."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer.clip_report import clip_report
from trainer.data.clips import list_clips, list_rows
from trainer.data.takes import Take
from trainer.facts import Facts, ravdess_facts, table_facts
from trainer.heat_map import Attention, attend
from trainer.labels import HEADS, LABELS
from trainer.metrics import summarise
from trainer.report_card import evaluation_card, fill, pictures
from trainer.report_card import main as card_main
from trainer.robustness import CURVES, sample
from trainer.take_report import takes_table
from trainer.trials import ClipScore

SHARED = Path(__file__).parents[2] / ".." / "shared"


def take(file: Path, label: str = "happy") -> Take:
    return Take(file=file, corpus="made", speaker="a", label=label, split="test")


def test_groups_and_attributes_come_from_the_named_columns(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,speaker,label,sex,arousal,valence\na.wav,1,sad,f,0.5,\nb.wav,2,sad,,,x\n", encoding="utf-8"
    )
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    rows = list_rows(table)[::-1]
    assert table_facts(table, rows, ["sex"], ["arousal"]) == [
        Facts(groups={"sex": "not given"}),
        Facts(groups={"sex": "f"}, attributes={"arousal": 0.5}),
    ]
    with pytest.raises(ValueError, match="no column 'age'"):
        table_facts(table, rows, ["age"], [])
    with pytest.raises(ValueError, match="line 3"):
        table_facts(table, rows, [], ["valence"])


def test_rows_that_name_one_file_keep_what_is_said_of_each(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    table = tmp_path / "labels.csv"
    lines = ("file,speaker,label,sex,arousal", "a.wav,1,sad,f,0.5", "a.wav,2,sad,m,-0.5", "a.wav,3,,f,1")
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = list_rows(table)
    facts = table_facts(table, rows, ["sex"], ["arousal"])
    assert [(each.groups["sex"], each.attributes["arousal"]) for each in facts] == [
        ("f", 0.5), ("m", -0.5), ("f", 1.0)
    ]  # fmt: skip
    assert [row.take.label for row in rows] == ["sad", "sad", None]
    assert len(sample([row.take for row in rows], 2, seed=0)) == 2


def test_a_table_names_a_sound_and_may_have_no_labels(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "b.mp4"):
        (tmp_path / name).touch()
    table = tmp_path / "mine.csv"
    table.write_text("path,sound,speaker,split,arousal\na.mp4,a.wav,ann,dev,0.5\nb.mp4,,bob,test,1\n")
    (first,) = list_clips(table)
    assert (first.sound, first.label) == (tmp_path / "a.wav", None)
    (second,) = list_clips(table, "test")
    assert second.sound is None
    table.write_text("path,sound,speaker,split,arousal\na.mp4,gone.wav,ann,dev,0.5\n")
    with pytest.raises(ValueError, match=r"line 2: there is no file .*gone\.wav"):
        list_clips(table)


def rated_score(label: str | None, speaker: str, arousal: dict[str, float]) -> ClipScore:
    return ClipScore(
        take=Take(file=Path("a"), corpus="made", speaker=speaker, label=label, split="test"),
        labels=tuple(LABELS), heads=dict.fromkeys(HEADS, np.where(np.array(LABELS) == "sad", 0.0, -3.0)),
        lead="fused", windows=1, valid_video=0.0, valid_audio=1.0,
        attributes={head: {"arousal": value} for head, value in arousal.items()},
    )  # fmt: skip


@pytest.mark.parametrize("labels", [("sad", None, "happy"), (None,)])
def test_every_head_has_its_ccc_with_or_without_labels(
    labels: tuple[str | None, ...], tmp_path: Path
) -> None:
    """CCC is Lin's: twice the covariance over both variances and the squared difference of the means."""
    rng = np.random.default_rng(3)
    targets = rng.uniform(-1, 1, 24)
    answers = {head: targets * 0.5 + rng.normal(0.1, 0.3, 24) for head in HEADS}
    scores = [
        rated_score(labels[i % len(labels)], f"s{i % 4}", {head: answers[head][i] for head in HEADS})
        for i in range(24)
    ]
    facts = [Facts(attributes={"arousal": value} if i != 5 else {}) for i, value in enumerate(targets)]
    report = clip_report(scores, facts, ["happy"], 0, {"stream": False, "modality": "both"})
    known = np.arange(24) != 5
    assert report["attributes"]["arousal"]["clips"] == 23
    for head in HEADS:
        x, y = answers[head][known], targets[known]
        (x_variance, covariance), (_, y_variance) = np.cov(x, y, bias=True)
        expected = 2 * covariance / (x_variance + y_variance + (x.mean() - y.mean()) ** 2)
        told = report["attributes"]["arousal"]["heads"][head]
        assert told["ccc"] == pytest.approx(expected)
        assert told["interval"][0] < expected < told["interval"][1]
    card = evaluation_card(report | {"bundle": "b", "source": "s", "digest": "d"}, "none", None, None)
    assert f"{report['attributes']['arousal']['heads']['video']['ccc']:.3f} (" in card
    if "sad" in labels:
        assert report["heads"]["fused"]["clips"] == 16
        assert report["without"]["heads"]["fused"]["clips"] == 8
    else:
        assert report["heads"] == {}
        assert "without" not in report
        assert "24 clips of 4 speakers, each clip alone, without labels." in card


def test_what_is_no_prepared_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no takes.csv: run trainer\.prepare"):
        takes_table(tmp_path)
    (tmp_path / "takes.csv").write_text("name,speaker,split,label,kept,face,voice_s\n")
    with pytest.raises(ValueError, match=r"takes.csv has no path, as earlier versions"):
        takes_table(tmp_path)


def test_ravdess_names_tell_sex_and_intensity() -> None:
    first, second = ravdess_facts(
        [take(Path("03-01-05-02-01-01-17.ogg")), take(Path("03-01-05-01-01-01-18.ogg"))]
    )
    assert first == Facts(groups={"sex": "male", "intensity": "strong"}, attributes={"intensity": 1.0})
    assert second == Facts(groups={"sex": "female", "intensity": "normal"}, attributes={"intensity": 0.0})


def test_a_sample_takes_the_labels_in_turn() -> None:
    takes = [
        take(Path(f"{i}"), label) for i, label in enumerate(["sad"] * 20 + ["happy"] * 3 + ["angry"] * 3)
    ]
    some = sample(takes, 9, seed=1)
    assert [each.label for each in some].count("sad") == 3
    assert some == sample(takes, 9, seed=1) == [each for each in takes if each in some]
    assert sample(takes, None, 0) == takes


@pytest.mark.parametrize("kind", CURVES)
def test_every_curve_has_an_untouched_point(kind: str) -> None:
    assert sum(level is None or level == CURVES[kind].neutral for level in CURVES[kind].levels) == 1


def test_places_of_a_card_are_filled_and_missing_figures_are_named() -> None:
    figures = {"voices": {"heads": {"audio": {"uar": 0.5312, "interval": [0.41, 0.618]}}, "clips": 240}}
    text = "{{voices.heads.audio.uar:.2f}} ({{ voices.heads.audio.interval:.2f }}), {{voices.clips}} clips"
    assert fill(text, figures) == "0.53 (0.41 to 0.62), 240 clips"
    for wrong in ("{{voices.heads.video.uar:.2f}}", "{{voices.clips:.2q}}", "{{faces.uar}}"):
        with pytest.raises(ValueError, match="has no figure that fits"):
            fill(wrong, figures)


def test_a_template_becomes_a_card_with_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"uar": 0.5}))
    (tmp_path / "run" / "confusion.png").write_bytes(b"\x89PNG")
    (tmp_path / "template.md").write_text("UAR {{real.uar:.2f}}\n\n![c](real_confusion.png)\n")
    card = tmp_path / "card" / "CARD.md"
    options = ["--template", str(tmp_path / "template.md"), "--out", str(card), "--figures"]
    assert card_main([*options, f"real={tmp_path / 'run'}"]) == 0
    assert card.read_text().startswith("UAR 0.50\n")
    assert pictures(card.read_text()) == ["real_confusion.png"]
    assert (card.parent / "real_confusion.png").is_file()
    with pytest.raises(SystemExit):
        card_main([*options, f"other={tmp_path / 'run'}"])
    assert "has no figure" in capsys.readouterr().err


def places_of(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places_of(each, f"{path}.{key}" if path else key)
    else:
        yield path


def test_the_card_of_the_live_model_asks_for_what_evaluations_write() -> None:
    """Every place of the template is in a report with all labels, whose figures are those of `summarise`."""
    template = Path(__file__).parents[2] / "trainer" / "cards" / "live.template.md"
    rng = np.random.default_rng(0)
    truth = np.arange(70) % 7
    speakers, stills = [f"s{i % 5}" for i in range(70)], [("neutral", "other")[i % 2] for i in range(70)]
    targets = [LABELS[each] for each in truth]
    summary = summarise(
        rng.normal(size=(70, 7)), targets, speakers, LABELS, groups={"still": stills}
    ).as_json()
    heads = dict.fromkeys(("video", "audio", "fused", "expression", "expression_with_shares"), summary)
    without = {"labels": ["fearful"], "heads": heads}
    orders = {"count": 5, "heads": {head: {"uar": 0.5, "orders": [0.5] * 5} for head in heads}}
    report = {"heads": heads, "without": without, "orders": orders | {"without": orders}}
    names = ("voices", "stream", "stills", "real", "picture", "sound", "whole")
    moving = {f"both_{head}": {"uar": 0.5, "ece": 0.1} for head in ("video", "audio", "fused")}
    card = fill(template.read_text(encoding="utf-8"), dict.fromkeys(names, report) | {"moving": moving})
    assert "{{" not in card
    assert "CC BY-NC-SA 4.0" in card


def attention() -> Attention:
    rng = np.random.default_rng(0)
    video_mask, mel_mask = np.arange(60) >= 20, np.arange(400) >= 140
    return Attention(
        start_s=-4 / 3, end_s=8 / 3,
        of_video=rng.dirichlet(np.ones(100), 60).astype(np.float32),
        of_audio=rng.dirichlet(np.ones(60), 100).astype(np.float32),
        video_mask=video_mask, audio_mask=mel_mask.reshape(100, 4).any(1),
        mel=rng.normal(-8, 2, (400, 64)).astype(np.float32), mel_mask=mel_mask,
        crops={tick: np.full((112, 112), tick, np.uint8) for tick in range(20, 60, 3)},
    )  # fmt: skip


def test_attention_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'report'")
    from trainer.report_pictures import draw_attention

    draw_attention(attention(), "a clip", tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_attention_of_a_real_clip_rests_on_what_was_seen_and_heard() -> None:
    clip = SHARED / "data" / "real_faces_dev" / "01-01-03_01.mp4"
    model = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
    if not (clip.is_file() and model.is_file()):
        pytest.skip("the real clips are not beside the repository")
    found = attend(clip, None, model, offline=True)
    assert found.of_video.shape == found.of_audio.T.shape == (60, 100)
    np.testing.assert_allclose(found.of_video.sum(1), 1, atol=1e-4)
    assert found.of_video[:, ~found.audio_mask].max(initial=0) == 0
    assert found.of_audio[:, ~found.video_mask].max(initial=0) == 0
    assert set(found.crops) == set(np.flatnonzero(found.video_mask))
    assert found.end_s == pytest.approx(3.6, abs=0.3)
