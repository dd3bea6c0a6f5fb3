"""Small caches of voices and moving faces, as the trainer prepares them, and networks that fit them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from trainer.data.takes import NO_LABEL
from trainer.labels import LABELS
from trainer.model.frame_encoder import FrameEncoder

TAKES, SESSIONS, TICKS_A_CLIP = 28, 2, 40
FRAME_ENCODER = {
    "labels": 7, "appearance": 12, "motion": 6, "flow_size": 56,
    "appearance_channels": (8, 8), "motion_channels": (4, 4, 4), "dropout": 0.1,
}  # fmt: skip
WINDOW_MODEL = {
    "labels": 7, "appearance": 12, "motion": 6, "width": 16, "heads": 2, "kernel": 5, "blocks": 1,
    "sound_blocks": 1, "sound_channels": (4, 6, 8), "dropout": 0.1,
}  # fmt: skip


def write_data(folder: Path, unlabelled: Sequence[int] = ()) -> Path:
    """Two speakers, a moving face for every take; the label shows in all senses.

    `arousal` shows in the highest bands. Takes 1 and 15 have no arousal, those in `unlabelled` no label.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(TAKES) % len(LABELS)
    arousal = rng.uniform(0, 1, TAKES).astype(np.float32)
    bins = rng.integers(150, 300, (SESSIONS, TAKES))
    mel = rng.normal(-8, 1, (int(bins.sum()), 64)).astype(np.float16)
    starts = (np.cumsum(bins.ravel()) - bins.ravel()).reshape(bins.shape)
    for session in range(SESSIONS):
        for take, label in enumerate(labels):
            start = starts[session, take]
            mel[start : start + bins[session, take], 9 * label : 9 * label + 6] += 4
            mel[start : start + bins[session, take], 60:] += 5 * arousal[take]
    arousal[[1, 15]] = np.nan
    shown, labels = labels, np.where(np.isin(np.arange(TAKES), unlabelled), NO_LABEL, labels)
    voices = folder / "voices"
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
        attribute_names=np.array(["arousal"]), attributes=arousal[:, None],
    )  # fmt: skip
    for split, chosen in (("train", np.arange(TAKES // 2)), ("dev", np.arange(TAKES // 2, TAKES))):
        clips = folder / split
        clips.mkdir()
        count = len(chosen) * TICKS_A_CLIP
        v = rng.normal(0, 1, (count, 12)).astype(np.float16)
        v[np.arange(count), np.repeat(shown[chosen], TICKS_A_CLIP)] += 3
        np.save(clips / "v.npy", v)
        np.save(clips / "flow.npy", rng.normal(0, 10, (count, 2, 56, 56)).astype(np.float16))
        ticks = np.full(len(chosen), TICKS_A_CLIP)
        np.savez(
            clips / "clips.npz", seen=rng.random(count) < 0.95, starts=np.cumsum(ticks) - ticks, ticks=ticks,
            labels=labels[chosen], voices=chosen, groups=np.arange(len(chosen)) // 7,
        )  # fmt: skip
    encoder = FrameEncoder(**FRAME_ENCODER)
    save_file(encoder.state_dict(), folder / "stills.safetensors")
    return folder


def windows_config(data: Path) -> dict[str, object]:
    """A short training of the windows stage on them."""
    return {
        "name": "tiny", "stage": "windows", "seed": 1, "epochs": 3, "steps": 12, "batch": 14,
        "learning_rate": 5e-3, "weight_decay": 0.01, "label_smoothing": 0.0, "threads": 1,
        "frame_encoder_weights": str(data / "stills.safetensors"), "cache": str(data / "voices"),
        "clips": str(data / "train"), "dev_clips": str(data / "dev"), "splits": ["train"],
        "shares": [0.5, 0.25, 0.25], "frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL,
    }  # fmt: skip
