"""Hand-set movements of the 68 points: what brows, lids, nose and lips do in each of the seven labels.

For what the measured tracks lack: raised brows and wide eyes are clipped in them. Every pattern is a set of
offsets in eye distances (x to the right, y down). Knows nothing of sound or pictures; offsets leave it as
arrays over time.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Float32 = NDArray[np.float32]

MOUTH = np.arange(48, 68)
JAW = np.arange(3, 14)
MIRROR = np.array(
    (*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46,
     39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65)
)  # fmt: skip
"""(68,): where each point goes in a mirror."""

_LEFT_HALF: dict[str, dict[int, tuple[float, float]]] = {
    "brow_raise": {17: (0, -0.10), 18: (0, -0.15), 19: (0, -0.16), 20: (0, -0.15), 21: (0, -0.13)},
    "inner_raise": {18: (0, -0.01), 19: (0.01, -0.05), 20: (0.02, -0.10), 21: (0.03, -0.13)},
    "brow_lower": {18: (0, 0.03), 19: (0.02, 0.06), 20: (0.04, 0.09), 21: (0.06, 0.10), 27: (0, 0.02)},
    "lid_wide": {37: (0, -0.05), 38: (0, -0.05), 40: (0, 0.012), 41: (0, 0.012)},
    "lid_tight": {37: (0, 0.015), 38: (0, 0.015), 40: (0, -0.035), 41: (0, -0.035)},
    "lid_droop": {36: (0, 0.01), 37: (0, 0.045), 38: (0, 0.035)},
    "corner_up": {
        48: (-0.11, -0.10), 49: (-0.06, -0.05), 59: (-0.07, -0.06), 60: (-0.09, -0.08), 50: (-0.02, -0.015),
        58: (-0.03, -0.015), 61: (-0.04, -0.03), 67: (-0.04, -0.03), 3: (-0.03, -0.02), 4: (-0.04, -0.03),
        31: (-0.025, -0.015), 41: (0, -0.025), 40: (0, -0.02),
    },
    "corner_down": {
        48: (-0.01, 0.09), 49: (0, 0.035), 59: (0, 0.06), 60: (-0.01, 0.075), 58: (0, -0.015), 57: (0, -0.03),
        61: (0, 0.02), 67: (0, 0.015), 8: (0, -0.02), 66: (0, -0.015),
    },
    "corner_out": {48: (-0.11, 0.03), 49: (-0.06, 0.01), 59: (-0.07, 0.02), 60: (-0.09, 0.025),
                   58: (-0.03, 0.01)},
    "press": {50: (0, 0.035), 51: (0, 0.035), 61: (0, 0.02), 62: (0, 0.02), 57: (0, -0.05), 58: (0, -0.045),
              66: (0, -0.02), 67: (0, -0.02), 48: (0.03, 0), 60: (0.03, 0)},
    "nose_wrinkle": {31: (-0.03, -0.07), 32: (-0.01, -0.06), 33: (0, -0.04), 30: (0, -0.04), 29: (0, -0.03),
                     21: (0.02, 0.04), 20: (0, 0.03), 41: (0, -0.03), 40: (0, -0.035)},
    "lip_raise": {49: (-0.01, -0.08), 50: (0, -0.11), 51: (0, -0.09), 61: (0, -0.08), 62: (0, -0.08),
                  48: (0, 0.02)},
    "jaw_drop": {58: (0.01, 0.16), 57: (0, 0.18), 59: (0.02, 0.10), 67: (0.01, 0.15), 66: (0, 0.17),
                 48: (0.04, 0.04), 60: (0.04, 0.04), 5: (0, 0.06), 6: (0, 0.12), 7: (0, 0.15), 8: (0, 0.16),
                 50: (0, -0.01), 51: (0, -0.01)},
}  # fmt: skip

_OF_LABEL: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"corner_up": 1.0, "lid_tight": 0.7, "lip_raise": 0.25, "brow_raise": 0.15},
    "sad": {"inner_raise": 1.0, "corner_down": 0.9, "lid_droop": 0.8},
    "angry": {"brow_lower": 1.1, "lid_tight": 0.6, "press": 0.6, "lid_wide": 0.4, "lip_raise": 0.2},
    "fearful": {"brow_raise": 0.7, "inner_raise": 0.6, "lid_wide": 1.0, "corner_out": 0.8, "jaw_drop": 0.2},
    "disgust": {"nose_wrinkle": 1.1, "lip_raise": 0.9, "lid_tight": 0.9, "brow_lower": 0.5,
                "corner_down": 0.4},
    "surprised": {"brow_raise": 1.2, "lid_wide": 1.0, "jaw_drop": 0.5},
}  # fmt: skip


def offsets_of(name: str) -> Float32:
    """(68, 2) float32: one movement at full strength, on both sides. Raises KeyError for an unknown name."""
    half = np.zeros((68, 2), np.float32)
    for point, offset in _LEFT_HALF[name].items():
        half[point] = offset
    other = half[MIRROR] * np.float32((-1, 1))
    return np.where(half != 0, half, other)


def pattern(rng: np.random.Generator, label: str, loud: Float32) -> Float32:
    """(F, 68, 2) float32: the label's movements, each with a strength of its own, swelling with the voice.

    loud: (F,) float32 in [0, 1]. A movement of the label is left out one time in five; sides may differ.
    """
    frames = len(loud)
    result = np.zeros((frames, 68, 2), np.float32)
    strength = rng.uniform(0.4, 1.0)
    for name, weight in _OF_LABEL[label].items():
        if rng.random() < 0.2:
            continue
        level = _course(rng, loud) * np.float32(strength * weight * rng.uniform(0.5, 1.2))
        side = np.where(np.arange(68) < MIRROR, rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0))
        result += level[:, None, None] * (offsets_of(name) * side[:, None].astype(np.float32))
    return result


def _course(rng: np.random.Generator, loud: Float32) -> Float32:
    """(F,) float32: how far a movement is out: it comes early, stays, follows the voice and wanders."""
    frames = np.arange(len(loud))
    onset = rng.uniform(-10, 0.25 * len(loud))
    rise = 1 / (1 + np.exp(-(frames - onset) / rng.uniform(1.5, 5)))
    swell = gaussian_filter1d(loud, rng.uniform(4, 10), mode="nearest")
    swell = swell / max(float(swell.max()), 1e-3)
    wander = gaussian_filter1d(rng.standard_normal(len(loud)), 12, mode="nearest") * 0.8
    follow = rng.uniform(0.1, 0.7)
    return np.clip(rise * (1 - follow + follow * swell) + wander * 0.5, 0, 1.3).astype(np.float32)


def blinks(rng: np.random.Generator, shape: Float32, times_s: NDArray[np.float64]) -> Float32:
    """(F, 68, 2) float32: upper lids that meet the lower ones for a moment, 0 to 40 times a minute.

    shape: (68, 2), the face at rest, from which the way of the lids is taken.
    """
    shut = np.zeros(len(times_s))
    count = rng.poisson(rng.uniform(0, 0.65) * float(times_s[-1]))
    for moment in rng.uniform(0, times_s[-1], count):
        shut += np.exp(-(((times_s - moment) / rng.uniform(0.05, 0.08)) ** 2))
    shut = np.minimum(shut, 1).astype(np.float32)[:, None]
    result = np.zeros((len(times_s), 68, 2), np.float32)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        result[:, upper] = shut * (shape[lower] - shape[upper]) * np.float32(0.85)
    return result
