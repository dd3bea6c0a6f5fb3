"""Augmentation of voices: seeded, of the same length, and physically what its conditions say."""

from dataclasses import replace

import numpy as np
import pytest

from trainer.augment_sound import (
    PACKET,
    RATE_HZ,
    Conditions,
    Microphones,
    active_level_db,
    change_speed,
    shift_formants,
)

PLAIN = Conditions(
    speed=1.0,
    formants=1.0,
    level_db=-30.0,
    agc=0.0,
    room=None,
    noise=None,
    snr_db=20.0,
    floor_db=None,
    low_hz=1e-3,
    high_hz=1e6,
    order=2,
    tilt_db=0.0,
    bumps=(),
    gate_db=None,
    clip=1.0,
    loss=0.0,
)


def tone(hz: float, seconds: float = 1.0, amplitude: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * hz * time)).astype(np.float32)


@pytest.fixture(scope="module")
def microphones() -> Microphones:
    rng = np.random.default_rng(1)
    return Microphones([rng.standard_normal(RATE_HZ).astype(np.float32) * 0.1 for _ in range(3)])


def test_every_condition_keeps_length_and_range_and_repeats_from_its_seed(microphones: Microphones) -> None:
    voice = tone(220, 1.3) * np.linspace(0, 1, int(1.3 * RATE_HZ), dtype=np.float32)

    def session(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return microphones.hear(voice, microphones.draw(rng), rng, usual_db=-30.0)

    for seed in range(60):
        heard = session(seed)
        assert heard.shape == voice.shape
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
        assert np.abs(heard).max() <= 1.0
        np.testing.assert_array_equal(heard, session(seed))


@pytest.mark.parametrize("length", [0, 1, PACKET - 1, 5000])
def test_short_and_silent_sound_passes(microphones: Microphones, length: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        heard = microphones.hear(np.zeros(length, np.float32), microphones.draw(rng), rng, usual_db=-30.0)
        assert heard.shape == (length,)
        assert np.isfinite(heard).all()


def test_loudness_within_a_session_stays_unless_the_gain_control_takes_it_away(
    microphones: Microphones,
) -> None:
    rng = np.random.default_rng(0)
    soft, loud = tone(200, amplitude=0.05), tone(200, amplitude=0.2)
    usual = active_level_db(tone(200, amplitude=0.1))
    for agc, difference in ((0.0, 12.04), (1.0, 0.0), (0.5, 6.02)):
        conditions = replace(PLAIN, agc=agc)
        levels = [active_level_db(microphones.hear(x, conditions, rng, usual)) for x in (soft, loud)]
        assert levels[1] - levels[0] == pytest.approx(difference, abs=0.05)
        assert np.mean(levels) == pytest.approx(-30.0, abs=0.05)


@pytest.mark.parametrize("noise", ["white", "pink", "brown", "babble", "hum"])
def test_noise_arrives_at_its_signal_to_noise_ratio(microphones: Microphones, noise: str) -> None:
    rng = np.random.default_rng(0)
    voice = tone(200, 8.0)
    conditions = replace(PLAIN, noise=noise, snr_db=10.0)
    added = microphones.hear(voice, conditions, rng) - microphones.hear(voice, PLAIN, rng)
    assert 10 * np.log10(np.square(added).mean()) == pytest.approx(-40.0, abs=3.0)


def test_a_telephone_passes_speech_and_stops_what_lies_outside(microphones: Microphones) -> None:
    rng = np.random.default_rng(0)
    telephone = replace(PLAIN, low_hz=300.0, high_hz=3400.0, order=6)
    levels = {
        hz: active_level_db(microphones.hear(tone(hz), telephone, rng)) for hz in (100, 1000, 2500, 6000)
    }
    assert levels[1000] == pytest.approx(-30, abs=0.5)
    assert levels[2500] == pytest.approx(-30, abs=1)
    assert levels[100] < -70
    assert levels[6000] < -55


def test_a_room_rings_on_after_the_sound_and_never_before(microphones: Microphones) -> None:
    rng = np.random.default_rng(3)
    room = next(c.room for c in (microphones.draw(rng) for _ in range(100)) if c.room is not None)
    click = np.zeros(RATE_HZ, np.float32)
    click[RATE_HZ // 2] = 0.5
    conditions = replace(PLAIN, room=room)
    heard = microphones.hear(click, conditions, rng, usual_db=active_level_db(click))
    assert np.abs(heard[: RATE_HZ // 2 - 50]).max() < 1e-4 * np.abs(heard).max()
    assert np.square(heard[RATE_HZ // 2 + 100 :]).sum() > 0


def test_clipping_gates_and_losses_do_what_they_say(microphones: Microphones) -> None:
    rng = np.random.default_rng(0)
    voice = np.concatenate((tone(200, 1.0), 0.001 * tone(200, 1.0), tone(200, 1.0)))
    clipped = microphones.hear(voice, replace(PLAIN, clip=0.3), rng)
    assert np.isclose(np.abs(clipped), np.abs(clipped).max(), rtol=1e-5).mean() > 0.4
    gated = microphones.hear(voice, replace(PLAIN, gate_db=40.0), rng)
    assert not gated[RATE_HZ + 4 * PACKET : 2 * RATE_HZ - 2 * PACKET].any()
    assert np.abs(gated[:RATE_HZ]).max() > 0.01
    lost = microphones.hear(tone(200, 20.0), replace(PLAIN, loss=0.05), rng).reshape(-1, PACKET)
    assert 0.02 < (~lost.any(axis=1)).mean() < 0.1


def test_speed_moves_length_and_pitch_together() -> None:
    for factor in (0.85, 1.0, 1.15):
        faster = change_speed(tone(400), factor)
        assert len(faster) == pytest.approx(RATE_HZ / factor, abs=2)
        peak_hz = np.argmax(np.abs(np.fft.rfft(faster))) * RATE_HZ / len(faster)
        assert peak_hz == pytest.approx(400 * factor, abs=2)


def test_formants_move_along_the_mel_axis_alone() -> None:
    mel = np.full((5, 64), -10.0, np.float32)
    mel[2, 30] = 0.0
    moved = shift_formants(mel, 1.1)
    assert 31 <= np.argmax(moved[2]) <= 34
    np.testing.assert_allclose(moved[[0, 1, 3, 4]], -10.0, rtol=1e-6)
    np.testing.assert_array_equal(shift_formants(mel, 1.0), mel)
