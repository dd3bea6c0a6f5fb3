"""Log-mel: against an independent reference, the same whatever the blocks, and honest about time."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.signals.sound import LogMel, MelParams

RATE = 16_000
SAMPLE_NS = 62_500


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def reference(samples):
    """The same numbers another way: SciPy's STFT, and each triangle by interpolation over the bins."""
    signal = pytest.importorskip("scipy.signal")
    _, _, spectrum = signal.stft(
        samples.astype(np.float64),
        window=np.pad(signal.get_window("hann", 400), (0, 112)),
        nperseg=512,
        noverlap=352,
        boundary=None,
        padded=False,
        scaling="spectrum",
    )
    spectrum *= signal.get_window("hann", 400).sum()
    mel_points = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), 66)
    hz_points = 700 * (10 ** (mel_points / 2595) - 1)
    hz = np.linspace(0, 8000, 257)
    triangles = np.stack([np.interp(hz, hz_points[b : b + 3], (0, 1, 0), left=0, right=0) for b in range(64)])
    return np.log(triangles @ np.abs(spectrum) ** 2 + 1e-6).T


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "loud"])
def test_agrees_with_scipy_and_an_independent_filterbank(kind):
    time = np.arange(RATE) / RATE
    samples = {
        "noise": noise(1),
        "tone": (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32),
        "silence": np.zeros(RATE, np.float32),
        "loud": np.sign(noise(1, 5)),
    }[kind]
    centres_ns, mel = LogMel().push(0, samples)
    expected = reference(samples)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel[: len(expected)], expected, atol=2e-5)
    assert mel.shape == (98, 64)
    np.testing.assert_array_equal(centres_ns, 12_500_000 + 10_000_000 * np.arange(98))


def test_a_tone_is_in_its_band():
    samples = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    mel_points = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), 66)
    nearest = np.abs(mel_points[1:-1] - 2595 * np.log10(1 + 1000 / 700)).argmin()
    assert (LogMel().push(0, samples)[1].argmax(axis=1) == nearest).all()


def in_blocks(samples, sizes, t0_ns=0, front=None):
    front, start, results = front or LogMel(), 0, []
    for size in sizes:
        results.append(front.push(t0_ns + start * SAMPLE_NS, samples[start : start + size]))
        start += size
    results.append(front.push(t0_ns + start * SAMPLE_NS, samples[start:]))
    return np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), max_size=40), t0_ns=st.integers(0, 10**16), seed=st.integers(0, 99)
)
def test_block_sizes_change_no_bit(sizes, t0_ns, seed):
    samples = noise(1.5, seed)
    whole = LogMel().push(t0_ns, samples)
    parts = in_blocks(samples, sizes, t0_ns)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1].view(np.uint32), whole[1].view(np.uint32))


@pytest.mark.parametrize("size", [1, 160, 161, 480, 44_000])
def test_regular_blocks_change_no_bit(size):
    samples = noise(3, size)
    whole = LogMel().push(0, samples)
    parts = in_blocks(samples, [size] * (len(samples) // size))
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1].view(np.uint32), whole[1].view(np.uint32))


def test_a_gap_begins_afresh_and_no_frame_spans_it():
    samples, gap_ns = noise(2), 300_000_000
    front = LogMel()
    before = front.push(0, samples[:16_000])
    after = front.push(RATE * SAMPLE_NS + gap_ns, samples[16_000:])
    alone = LogMel().push(RATE * SAMPLE_NS + gap_ns, samples[16_000:])
    np.testing.assert_array_equal(after[0], alone[0])
    np.testing.assert_array_equal(after[1], alone[1])
    assert after[0][0] - before[0][-1] > gap_ns
    assert front.gaps == 1


def test_time_that_steps_back_begins_afresh():
    front = LogMel()
    front.push(5_000_000_000, noise(1))
    centres_ns, _ = front.push(0, noise(1))
    assert centres_ns[0] == 12_500_000
    assert front.gaps == 1


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_drifting_clock_is_followed_within_a_millisecond_or_so(ppm):
    front, samples, block = LogMel(), noise(0.02), 320
    true_ns = SAMPLE_NS * (1 + ppm * 1e-6)
    frames = 0
    for n in range(60 * 50):
        centres_ns, _ = front.push(round(n * block * true_ns), samples)
        for t_ns in centres_ns:
            assert abs(t_ns - (frames * 160 + 200) * true_ns) < 1_300_000
            frames += 1
    assert front.gaps == 0
    assert frames == (60 * RATE - 400) // 160 + 1


def test_jitter_of_block_times_is_smoothed_and_changes_no_bit_of_the_mel():
    generator, samples, block = np.random.default_rng(1), noise(10), 160
    front = LogMel()
    results = [
        front.push(
            n * block * SAMPLE_NS + int(generator.integers(-5_000_000, 5_000_000)),
            samples[n * block :][:block],
        )
        for n in range(len(samples) // block)
    ]
    centres_ns = np.concatenate([r[0] for r in results])
    np.testing.assert_array_equal(np.concatenate([r[1] for r in results]), LogMel().push(0, samples)[1])
    assert np.abs(np.diff(centres_ns) - 10_000_000).max() < 50_000


def test_broken_samples_break_their_own_frames_alone():
    samples = noise(1)
    broken = samples.copy()
    broken[8000] = np.nan
    broken[8001] = np.inf
    clean, mel = LogMel().push(0, samples)[1], LogMel().push(0, broken)[1]
    starts = 160 * np.arange(len(mel))
    hit = (starts <= 8001) & (starts + 400 > 8000)
    assert hit.any()
    assert not np.isfinite(mel[hit]).all(axis=1).any()
    np.testing.assert_array_equal(mel[~hit], clean[~hit])


def test_parameters_travel_as_json_and_nonsense_is_refused():
    params = MelParams()
    assert MelParams(**json.loads(json.dumps(dataclasses.asdict(params)))) == params
    narrow = LogMel(MelParams(bands=20, hop=80)).push(0, noise(0.1))
    assert narrow[1].shape == (16, 20)
    for change in ({"hop": 0}, {"n_fft": 256}, {"high_hz": 9000.0}, {"bands": 0}, {"floor": 0.0}):
        with pytest.raises(ValueError, match="mel"):
            MelParams(**change)
