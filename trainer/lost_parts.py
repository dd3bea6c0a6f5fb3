"""What cameras and microphones lose of a window in training, and what is hidden from the network beside."""

import numpy as np
from numpy.typing import NDArray


def kept(rng: np.random.Generator, steps: int, rate_hz: int) -> NDArray[np.bool_]:
    """Which steps survive: a fifth of the windows lose one stretch of up to 1.5 s, some lose single steps."""
    kept = np.ones(steps, bool)
    if rng.random() < 0.2:
        length = int(rng.uniform(0.1, 1.5) * rate_hz)
        start = int(rng.integers(steps))
        kept[start : start + length] = False
    if rng.random() < 0.2:
        kept &= rng.random(steps) > rng.uniform(0, 0.3)
    return kept


def cover(rng: np.random.Generator, mel: NDArray[np.float32], heard: NDArray[np.bool_]) -> None:
    """Stripes of bands and bins at the bands' means over what is heard (SpecAugment)."""
    mean = mel[heard].mean(0) if heard.any() else np.zeros(mel.shape[1], np.float32)
    for _ in range(rng.integers(3)):
        start, width = rng.integers(mel.shape[1]), rng.integers(1, 9)
        mel[:, start : start + width] = mean[start : start + width]
    for _ in range(rng.integers(3)):
        start, width = rng.integers(mel.shape[0]), rng.integers(1, 31)
        mel[start : start + width] = mean
