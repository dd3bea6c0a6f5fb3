"""Other words from the same voice, on the log-mel: pieces in another order, vowels and timbre that change.

What is said tells nothing of how, but there are few sentences to learn from (two in RAVDESS), and a network
learns them by heart. It knows nothing of speakers, labels or windows; log-mel of the same length leaves.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.augment_sound import shift_formants

Float32 = NDArray[np.float32]
Rng = np.random.Generator
WORD_BINS = (20, 70)
VOWEL_BINS = (8, 40)
"""Shortest and longest piece, in bins of 10 ms."""
VOWEL_STRETCH = 0.15  # natural log of `shift_formants`' factor, at most
SWAY_BINS = 25
SWAY_POINTS = 8
SWAY_DEVIATION = 0.6  # natural log of power


def reordered(mel: Float32, rng: Rng) -> Float32:
    """(T, F): pieces of a word's length in a random order."""
    pieces = _pieces(len(mel), WORD_BINS, rng)
    return np.concatenate([mel[pieces[place]] for place in rng.permutation(len(pieces))])


def revowelled(mel: Float32, rng: Rng) -> Float32:
    """(T, F): every piece of a vowel's length with formants of its own."""
    stretches = [
        shift_formants(mel[piece], float(np.exp(rng.uniform(-VOWEL_STRETCH, VOWEL_STRETCH))))
        for piece in _pieces(len(mel), VOWEL_BINS, rng)
    ]
    return np.concatenate(stretches)


def swayed(mel: Float32, rng: Rng) -> Float32:
    """(T, F): a colour over the bands that drifts, with a new one drawn every quarter of a second."""
    bins, bands = mel.shape
    count = max(2, bins // SWAY_BINS)
    drawn = rng.normal(0, SWAY_DEVIATION, (count, SWAY_POINTS))
    colour = _between(_between(drawn, bins).T, bands).T
    return (mel + colour).astype(np.float32)


def _pieces(length: int, bins: tuple[int, int], rng: Rng) -> list[slice]:
    """One after another, without a gap."""
    ends = [0]
    while ends[-1] < length:
        ends.append(min(length, ends[-1] + int(rng.integers(*bins))))
    return [slice(begin, end) for begin, end in pairwise(ends)]


def _between(points: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """(N, C) to (steps, C): straight lines between the points, which are evenly spread."""
    at = np.linspace(0, len(points) - 1, steps)
    below = np.minimum(at.astype(np.intp), len(points) - 2)
    share = (at - below)[:, None]
    return points[below] * (1 - share) + points[below + 1] * share
