"""Other words: what is said changes, how loud and how long does not."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import interp1d

from trainer.augment_sound import shift_formants
from trainer.other_words import SWAY_BINS, SWAY_DEVIATION, SWAY_POINTS, reordered, revowelled, swayed
from trainer.voice_variety import draw

BANDS = 64
Float32 = NDArray[np.float32]


def _take(bins: int = 250) -> Float32:
    return np.random.default_rng(0).normal(-6, 1, (bins, BANDS)).astype(np.float32)


@pytest.mark.parametrize("bins", [1, 5, 250])
def test_every_bin_is_kept_and_pieces_are_as_long_as_words(bins: int) -> None:
    mel = _take(bins)
    heard = reordered(mel, np.random.default_rng(1))
    assert Counter(map(bytes, heard)) == Counter(map(bytes, mel))
    places = [next(i for i in range(bins) if np.array_equal(mel[i], row)) for row in heard]
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    lengths = np.diff([0, *cuts, bins])
    if bins == 250:
        assert len(lengths) > 2, "some pieces changed places"
        assert np.sort(lengths)[1] >= 20, "only the last of the take may be shorter"


@pytest.mark.parametrize("bins", [1, 5, 250])
def test_vowels_move_and_pauses_stay(bins: int) -> None:
    mel = _take(bins)
    mel[bins // 2 :] = -12
    heard = revowelled(mel, np.random.default_rng(1))
    assert heard.shape == mel.shape
    assert np.allclose(heard[bins // 2 :], -12)
    if bins == 250:
        factors = np.exp(np.linspace(-0.16, 0.16, 400))
        nearest = [
            min(float(np.abs(shift_formants(mel[k : k + 1], f) - heard[k]).max()) for f in factors)
            for k in range(0, 100, 10)
        ]
        assert max(nearest) < 0.2, "each bin is the take's with its formants elsewhere"
        assert np.abs(heard - mel)[: bins // 2].mean() > 0.1


@pytest.mark.parametrize("bins", [1, 5, 250])
def test_the_colour_drifts_in_straight_lines(bins: int) -> None:
    mel = _take(bins)
    change = swayed(mel, np.random.default_rng(3)) - mel
    count = max(2, bins // SWAY_BINS)
    drawn = np.random.default_rng(3).normal(0, SWAY_DEVIATION, (count, SWAY_POINTS))
    over_time = interp1d(np.arange(count), drawn, axis=0)(np.linspace(0, count - 1, bins))
    expected = interp1d(np.arange(SWAY_POINTS), over_time, axis=1)(np.linspace(0, SWAY_POINTS - 1, BANDS))
    np.testing.assert_allclose(change, expected, atol=1e-4)


def test_words_keep_their_order_where_a_mouth_speaks_them() -> None:
    drawn = [draw(np.random.default_rng(seed), BANDS, seen=True) for seed in range(60)]
    assert not any(variety.reordered for variety in drawn)
    assert any(variety.revowelled for variety in drawn)
    assert any(draw(np.random.default_rng(seed), BANDS, seen=False).reordered for seed in range(60))
