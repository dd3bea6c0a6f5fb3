"""Training windows: what a batch holds, and that its baselines are the engine's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.baseline import SlowMean
from trainer.labels import LABELS
from trainer.model.frame_encoder import FrameEncoder
from trainer.train import train
from trainer.window_batches import PRIOR_S, TAU_S, TICKS, WindowSource, blended

TAKES, SESSIONS, TICKS_A_CLIP = 28, 2, 40
FRAME_ENCODER = {
    "labels": 7, "appearance": 12, "motion": 6, "flow_size": 56,
    "appearance_channels": (8, 8), "motion_channels": (4, 4, 4), "dropout": 0.1,
}  # fmt: skip
WINDOW_MODEL = {
    "labels": 7, "appearance": 12, "motion": 6, "width": 16, "heads": 2, "kernel": 5, "blocks": 1,
    "sound_blocks": 1, "sound_channels": (4, 6, 8), "dropout": 0.1,
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two speakers, four takes a label, and a moving face for every take; the label shows in all senses."""
    rng = np.random.default_rng(0)
    labels = np.arange(TAKES) % len(LABELS)
    bins = rng.integers(150, 300, (SESSIONS, TAKES))
    mel = rng.normal(-8, 1, (int(bins.sum()), 64)).astype(np.float16)
    starts = (np.cumsum(bins.ravel()) - bins.ravel()).reshape(bins.shape)
    for session in range(SESSIONS):
        for take, label in enumerate(labels):
            start = starts[session, take]
            mel[start : start + bins[session, take], 9 * label : 9 * label + 6] += 4
    voices = tmp_path / "voices"
    voices.mkdir()
    np.save(voices / "mel.npy", mel)
    np.savez(
        voices / "mel.npz", starts=starts, bins=bins, speeds=np.ones(bins.shape, np.float32),
        means=rng.normal(-8, 1, (SESSIONS, TAKES, 64)).astype(np.float32),
        seconds=np.full(bins.shape, 2.0, np.float32),
    )  # fmt: skip
    np.save(voices / "voices.npy", np.zeros(TAKES, np.int16))
    speakers = np.where(np.arange(TAKES) < TAKES // 2, "ravdess/02", "ravdess/13")
    np.savez(
        voices / "voices.npz", offsets=np.arange(TAKES + 1), labels=labels, speakers=speakers,
        splits=np.where(speakers == "ravdess/02", "train", "dev"), corpora=np.full(TAKES, "ravdess"),
        names=np.array([f"take{i}" for i in range(TAKES)]),
    )  # fmt: skip
    for split, chosen in (("train", np.arange(TAKES // 2)), ("dev", np.arange(TAKES // 2, TAKES))):
        folder = tmp_path / split
        folder.mkdir()
        count = len(chosen) * TICKS_A_CLIP
        v = rng.normal(0, 1, (count, 12)).astype(np.float16)
        v[np.arange(count), np.repeat(labels[chosen], TICKS_A_CLIP)] += 3
        np.save(folder / "v.npy", v)
        np.save(folder / "flow.npy", rng.normal(0, 10, (count, 2, 56, 56)).astype(np.float16))
        ticks = np.full(len(chosen), TICKS_A_CLIP)
        np.savez(
            folder / "clips.npz", seen=rng.random(count) < 0.95, starts=np.cumsum(ticks) - ticks, ticks=ticks,
            labels=labels[chosen], voices=chosen, groups=np.arange(len(chosen)) // 7,
        )  # fmt: skip
    encoder = FrameEncoder(**FRAME_ENCODER)
    save_file(encoder.state_dict(), tmp_path / "stills.safetensors")
    return tmp_path


def source(data: Path, shares: tuple[float, float, float]) -> WindowSource:
    made = WindowSource(cache=data / "voices", clips=data / "train", splits=("train",), shares=shares)
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


def test_the_same_seed_draws_the_same_windows(data: Path) -> None:
    first, again = (
        next(iter(source(data, (0.5, 0.3, 0.2)).batches(np.random.default_rng(5), 6, 1))) for _ in range(2)
    )
    for name in first.__slots__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


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
    config: dict[str, Any] = {
        "name": "tiny", "stage": "windows", "seed": 1, "epochs": 3, "steps": 12, "batch": 14,
        "learning_rate": 5e-3, "weight_decay": 0.01, "label_smoothing": 0.0, "threads": 1,
        "frame_encoder_weights": str(data / "stills.safetensors"), "cache": str(data / "voices"),
        "clips": str(data / "train"), "dev_clips": str(data / "dev"), "splits": ["train"],
        "shares": [0.5, 0.25, 0.25], "frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL,
    }  # fmt: skip
    best = train(config, tmp_path / "run")
    assert best["both_fused"] > 0.5  # chance is 0.14
