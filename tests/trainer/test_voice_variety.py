"""Windows of the same take differ as speakers and rooms differ."""

import numpy as np
import pytest

from trainer.augment_sound import shift_formants
from trainer.voice_variety import Variety, draw, plain

BANDS = 64


def _take(seconds: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(-6, 1, (int(seconds * 100), BANDS)).astype(np.float32)


def test_the_plain_variety_leaves_a_take_as_it_is() -> None:
    mel = _take()
    variety = plain(BANDS)
    assert np.array_equal(variety.heard(mel, np.random.default_rng(0)), mel)
    assert np.array_equal(variety.mean(mel[:3]), mel[:3])


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_tempo_changes_the_length_and_nothing_of_what_is_steady(tempo: float) -> None:
    steady = np.tile(np.linspace(-9, -3, BANDS, dtype=np.float32), (200, 1))
    variety = Variety(tempo=tempo, formants=1.0, colour=np.zeros(BANDS, np.float32), noise=None)
    heard = variety.heard(steady, np.random.default_rng(0))
    assert len(heard) == int(200 / tempo)
    assert np.allclose(heard, steady[0], atol=1e-5)
    ramp = np.repeat(np.arange(200, dtype=np.float32)[:, None], BANDS, 1)
    assert np.allclose(np.diff(variety.heard(ramp, np.random.default_rng(0))[:-1, 0]), tempo, atol=1e-3)


def test_noise_fills_the_pauses_and_leaves_what_is_loud() -> None:
    mel = _take()
    mel[:100] = -14
    noise = np.full(BANDS, -6, np.float32)
    variety = Variety(tempo=1.0, formants=1.0, colour=np.zeros(BANDS, np.float32), noise=noise)
    heard = variety.heard(mel, np.random.default_rng(1))
    floor = mel.mean(1).max() - 6
    assert np.allclose(heard[:100].mean(1), floor, atol=0.3)
    assert np.abs(heard[100:] - mel[100:]).mean() < 0.05


def test_the_mean_of_other_takes_goes_through_the_same_throat_and_microphone() -> None:
    mel = _take()
    for seed in range(20):
        variety = draw(np.random.default_rng(seed), BANDS, seen=False)
        assert 0.8 < variety.tempo < 1.25
        assert len(variety.heard(mel, np.random.default_rng(0))) == int(len(mel) / variety.tempo)
        if variety.noise is None:
            expected = shift_formants(mel[:2], variety.formants) + variety.colour
            assert np.array_equal(variety.mean(mel[:2]), expected)
