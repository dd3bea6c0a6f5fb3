"""Training windows: what a batch holds, and that its baselines are the engine's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_windows import FRAME_ENCODER, windows_config, write_data

from engine.backends.onnx import OnnxBackend
from engine.baseline import SlowMean
from engine.bundle import load_bundle
from engine.leaning import LeaningParams
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.export import export, load_network
from trainer.lost_parts import cover
from trainer.model.frame_encoder import FrameEncoder
from trainer.set_union import SetFolders
from trainer.stage_voices import VoicesStage
from trainer.train import train
from trainer.window_batches import PRIOR_S, TAU_S, TICKS, WindowSource, blended


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def sets_of(data: Path) -> list[SetFolders]:
    return [SetFolders(data / "voices", (data / "train",))]


def source(data: Path, shares: tuple[float, float, float]) -> WindowSource:
    made = WindowSource(sets=sets_of(data), splits=("train",), shares=shares)
    torch.manual_seed(0)
    made.renew_motion_means(FrameEncoder(**FRAME_ENCODER).motion, 0)
    made.face_mean = made.clip_mean()
    return made


def test_a_batch_keeps_to_its_kinds(data: Path) -> None:
    rng = np.random.default_rng(1)
    (voice,) = source(data, (0, 1, 0)).batches(rng, 8, 1)
    assert not voice.video_mask.any()
    assert not voice.face_weight.any()
    assert voice.audio_mask.any(1).all()
    (face,) = source(data, (0, 0, 1)).batches(rng, 8, 1)
    assert not face.audio_mask.any()
    assert not face.voice_weight.any()
    assert len(face.flow) == face.video_mask.sum()
    assert face.v.shape == (8, TICKS, 12)
    assert (face.v[~face.video_mask] == 0).all()


def test_stripes_are_as_loud_as_what_is_heard() -> None:
    """Bins that nobody hears are zeros, which in log power are very loud."""
    mel = np.zeros((200, 8), np.float32)
    heard = np.arange(200) >= 150
    mel[heard] = -10 + np.arange(8)
    for seed in range(20):
        covered = mel.copy()
        cover(np.random.default_rng(seed), covered, heard)
        np.testing.assert_allclose(covered[heard], mel[heard], atol=1e-5)


def test_windows_as_live_are_what_was_heard_and_seen(data: Path) -> None:
    made = WindowSource(sets=sets_of(data), splits=("train",), shares=(1, 0, 0), as_live=True)
    torch.manual_seed(0)
    made.renew_motion_means(FrameEncoder(**FRAME_ENCODER).motion, 0)
    made.face_mean = made.clip_mean()
    (batch,) = made.batches(np.random.default_rng(1), 32, 1)
    shown = {row.astype(np.float32).tobytes() for row in made.clips.v}
    assert all(row.tobytes() in shown for row in batch.v[batch.video_mask])
    stripes = [(mel[mask].std(0) == 0).any() for mel, mask in zip(batch.sound, batch.audio_mask, strict=True)]
    assert not any(stripes)


def test_it_says_what_it_learns_from_and_what_is_left_out(data: Path) -> None:
    everything = source(data, (0, 1, 0)).described()
    with np.load(data / "voices" / "voices.npz") as index:
        columns = dict(index)
    there = np.isin(columns["splits"], ["train"])
    speakers = len(set(columns["speakers"][there].tolist()))
    assert f": {there.sum()} voices of {speakers} speakers" in everything
    columns["splits"] = np.where(columns["speakers"] == columns["speakers"][0], "unused", columns["splits"])
    np.savez(data / "voices" / "voices.npz", **columns)
    less = source(data, (0, 1, 0)).described()
    left = (columns["splits"] != "train").sum()
    assert less != everything
    assert f"{left} left out" in less


def test_only_those_who_are_named_are_seen_and_heard(data: Path) -> None:
    """Their faces are those that speak with their voices; what a clip without sound is of nobody knows."""
    clips = data / "train" / "clips.npz"
    with np.load(clips) as index:
        told = dict(index)
    told["voices"][:7] = NO_TAKE
    np.savez(clips, **told)
    folders = [SetFolders(data / "voices", (data / "train", data / "dev"))]
    every, left_out = ("train", "dev"), "ravdess: 14 voices of 1 speakers, 14 left out"
    for name, faces in (("ravdess/02", 7), ("ravdess/13", 14)):
        made = WindowSource(sets=folders, splits=every, shares=(1, 0, 0), speakers=[name])
        assert made.described() == f"{left_out}\n{faces} moving faces"
        drawn = np.concatenate(made.takes), made.clips.voices[np.concatenate(made.of_label)]
        assert all((made.voices.speakers[takes] == name).all() for takes in drawn)
    nobody = WindowSource(sets=folders, splits=every, shares=(1, 0, 0), speakers=["ravdess/99"])
    assert not nobody.has((1, 1, 1))


def test_the_same_seed_draws_the_same_windows(data: Path) -> None:
    first, again = (
        next(iter(source(data, (0.5, 0.3, 0.2)).batches(np.random.default_rng(5), 6, 1))) for _ in range(2)
    )
    for name in first.__slots__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_parts_of_a_batch_are_the_batch(data: Path) -> None:
    (whole,) = source(data, (0.5, 0.3, 0.2)).batches(np.random.default_rng(5), 8, 1)
    parts = [whole.part(slice(0, 3)), whole.part(slice(3, 8))]
    for name in whole.__slots__:
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert len(parts[0].flow) == parts[0].video_mask.sum()


def test_attributes_come_with_their_takes_also_where_there_is_no_label(tmp_path: Path) -> None:
    data = write_data(tmp_path, unlabelled=(0, 1))
    made = WindowSource(
        sets=sets_of(data),
        splits=("train",),
        shares=(0, 1, 0),
        attributes=("arousal",),
    )
    (batch,) = made.batches(np.random.default_rng(1), 64, 1)
    with np.load(data / "voices" / "voices.npz") as index:
        arousal = index["attributes"][:, 0]
    known = batch.attributes[:, 0]
    assert set(known[batch.labels == NO_LABEL]) == {arousal[0]}  # take 1 tells nothing at all
    assert set(known[batch.labels == 3]) <= set(arousal[[3, 10]])
    plain = source(data, (0, 1, 0))
    (batch,) = plain.batches(np.random.default_rng(1), 64, 1)
    assert batch.attributes.shape == (64, 0)
    assert (batch.labels != NO_LABEL).all()
    with pytest.raises(ValueError, match=r"no attribute 'valence'; they have arousal\."):
        WindowSource(
            sets=sets_of(data), splits=("train",), shares=(0, 1, 0),
            attributes=("valence",),
        )  # fmt: skip


def test_attributes_on_another_scale_need_their_range(data: Path) -> None:
    def rated(ranges: dict[str, tuple[float, float]]) -> np.ndarray:
        return WindowSource(
            sets=sets_of(data), splits=("train",), shares=(0, 1, 0),
            attributes=("arousal",), ranges=ranges,
        ).attributes  # fmt: skip

    np.testing.assert_allclose(rated({"arousal": (0, 2)}), rated({}) - 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"'arousal' has values beyond 0 and 0.5: say in attribute_ranges"):
        rated({"arousal": (0, 0.5)})


def test_baselines_are_those_of_the_engine() -> None:
    rng = np.random.default_rng(3)
    start = rng.normal(0, 1, 5).astype(np.float32)
    stretches = [rng.normal(0, 1, (n, 5)).astype(np.float32) for n in (30, 12, 75)]
    live = SlowMean(start, prior_s=PRIOR_S, tau_s=TAU_S)
    for rows in stretches:
        live.fold(rows, 1 / 15)
    means = np.stack([rows.mean(0) for rows in stretches])
    mean, weight = blended(start, means, np.array([len(rows) / 15 for rows in stretches]))
    np.testing.assert_allclose(mean, live.mean, atol=1e-5)
    assert weight == pytest.approx(live.weight)


def test_the_stage_learns(data: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = windows_config(data)
    best = train(config, tmp_path / "run")
    assert best["both_fused"] > 0.5  # chance is 0.14


@pytest.mark.parametrize(("there", "lacking"), [("train", "dev"), ("dev", "train")])
def test_a_voices_stage_needs_voices_to_learn_and_to_be_judged_by(
    there: str, lacking: str, data: Path
) -> None:
    table = data / "voices" / "voices.npz"
    with np.load(table) as voices:
        told = dict(voices)
    np.savez(table, **told | {"splits": np.full(len(told["splits"]), there)})
    with pytest.raises(ValueError, match=f"learns from rated voices; in the split {lacking} there are none"):
        VoicesStage(windows_config(data))


def test_attributes_are_learned_exported_and_given_by_the_engine(tmp_path: Path) -> None:
    data = write_data(tmp_path, unlabelled=(0, 14))
    ranges = {"attributes": ["arousal"], "attribute_ranges": {"arousal": [0, 1]}}
    leaning = {"share": 0.5, "rest": "neutral", "prior_s": 20, "tau_s": 60}
    shared = windows_config(data) | ranges | {"shares": [0.2, 0.6, 0.2], "steps": 24}
    shared |= {"leaning": leaning, "sure_after_s": {"video": 1, "audio": 2}}
    config: dict[str, Any] = shared | {"select": "voice_audio_ccc_arousal"}
    best = train(config, tmp_path / "run")
    assert best["select"] == best["voice_audio_ccc_arousal"] > 0.5
    assert best["both_fused"] > 0.3  # chance is 0.14
    network = load_network(config, tmp_path / "run" / "best.safetensors")
    export(config, network, tmp_path / "bundle", name="rated", version="1", card="# rated\n", training={})
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.attributes == ("arousal",)
    assert bundle.attribute_ranges == {"arousal": (0.0, 1.0)}
    assert bundle.leaning == LeaningParams(**leaning)
    assert bundle.sure_after_s == {"video": 1.0, "audio": 2.0}
    with np.load(bundle.parity) as samples:
        given = {key[7:]: value for key, value in samples.items() if key.startswith("window_")}
        found = OnnxBackend(bundle).answers(given)
        np.testing.assert_allclose(found.attributes, samples["answer_attributes"], atol=1e-4)
        np.testing.assert_allclose(found.logits, samples["answer_logits"], atol=1e-3)
    again = windows_config(data) | {"start_bundle": str(bundle.path), "epochs": 1, "steps": 1}
    del again["frame_encoder_weights"]
    tuned: dict[str, Any] = again | {"attributes": ["arousal"], "learning_rate": 0.0, "weight_decay": 0.0}
    assert train(tuned, tmp_path / "tuned")["both_fused"] > 0.3  # it goes on from the bundle
