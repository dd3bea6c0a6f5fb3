"""The three clocks, on made-up devices with known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.clock import MS, ArrivalClock, CameraClock, SampleClock

RATE_HZ = 48_000
STEP = 480


def microphone(ppm: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Sample indices of callbacks, and their true times in ns."""
    index = np.arange(0, round(seconds * RATE_HZ), STEP)
    return index, 10**15 + np.round(index * (1 + ppm * 1e-6) * 1e9 / RATE_HZ).astype(np.int64)


def late(count: int, seed: int) -> np.ndarray:
    """Scheduling: 1 ms of jitter both ways, one callback in ten up to 25 ms late. ns."""
    chance = np.random.default_rng(seed)
    jitter = chance.normal(0, 1 * MS, count)
    delay = (chance.random(count) < 0.1) * chance.uniform(0, 25 * MS, count)
    return np.round(jitter + delay).astype(np.int64)


@settings(max_examples=8, deadline=None)
@given(ppm=st.floats(-200, 200), seed=st.integers(0, 1 << 16))
def test_drift_is_followed_through_late_callbacks(ppm: float, seed: int) -> None:
    clock = SampleClock(RATE_HZ)
    index, true_ns = microphone(ppm, 60)
    told_ns = true_ns + late(len(index), seed)
    errors = []
    for i, told, true in zip(index.tolist(), told_ns.tolist(), true_ns.tolist(), strict=True):
        clock.push(i, told)
        errors.append(abs(clock.time_ns(i) - true))
    assert clock.jumps == 0
    assert max(errors[20:]) < 8 * MS
    assert max(errors[500:]) < 1.5 * MS
    assert clock.drift_ppm == pytest.approx(ppm, abs=40)


@given(ppm=st.floats(-200, 200), jump_ms=st.sampled_from([-500, -60, 60, 300, 5000]))
@settings(max_examples=20, deadline=None)
def test_jumps_are_followed_and_counted(ppm: float, jump_ms: int) -> None:
    clock = SampleClock(RATE_HZ)
    index, true_ns = microphone(ppm, 20)
    true_ns[1000:] += jump_ms * MS
    told_ns = true_ns + late(len(index), 3) // 5
    steps = [clock.push(i, t) for i, t in zip(index.tolist(), told_ns.tolist(), strict=True)]
    assert clock.jumps == 1
    (at,) = np.nonzero(steps)[0]
    assert 1000 <= at < 1010
    assert steps[at] == pytest.approx(jump_ms * MS, abs=8 * MS)
    assert abs(clock.time_ns(int(index[-1])) - true_ns[-1]) < 2 * MS


def test_one_wild_callback_changes_nothing() -> None:
    clock = SampleClock(RATE_HZ)
    index, true_ns = microphone(0, 5)
    for i, true in zip(index.tolist(), true_ns.tolist(), strict=True):
        clock.push(i, true + (2_000 * MS if i == 100 * STEP else 0))
    assert clock.jumps == 0
    assert abs(clock.time_ns(int(index[-1])) - true_ns[-1]) < 0.2 * MS


def test_a_restart_keeps_what_was_learned_about_the_rate() -> None:
    clock = SampleClock(RATE_HZ)
    index, true_ns = microphone(150, 30)
    for i, true in zip(index.tolist(), true_ns.tolist(), strict=True):
        clock.push(i, true)
    clock.restart()
    clock.push(int(index[-1]), int(true_ns[-1]) + 70 * MS)
    assert clock.jumps == 0
    ahead = clock.time_ns(int(index[-1]) + 10 * RATE_HZ) - int(true_ns[-1]) - 70 * MS
    assert ahead == pytest.approx(10_001.5 * MS, abs=0.3 * MS)


def tried(pairs: list[tuple[int, int]]) -> CameraClock:
    clock = CameraClock()
    assert [clock.trial(driver, arrival) for driver, arrival in pairs] == [False] * (len(pairs) - 1) + [True]
    return clock


def pictures(age_ms: float, count: int = 10) -> list[tuple[int, int]]:
    arrivals = [10**13 + round(k * 1e9 / 30) for k in range(count)]
    return [(arrival - round(age_ms * MS), arrival) for arrival in arrivals]


def test_a_driver_with_the_monotonic_clock_is_believed() -> None:
    clock = tried(pictures(12)[: CameraClock.TRIAL])
    assert "driver" in clock.choice
    for driver, arrival in pictures(12)[CameraClock.TRIAL :]:
        assert clock.time_ns(driver, arrival) == driver


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(0, arrival) for _, arrival in pictures(0)], id="none"),
        pytest.param(pictures(-27), id="in the future"),
        pytest.param(pictures(1.7e12), id="of the wall clock"),
        pytest.param([(10**13 - MS, arrival) for _, arrival in pictures(0)], id="standing still"),
    ],
)
def test_a_driver_with_another_clock_is_not(pairs: list[tuple[int, int]]) -> None:
    clock = tried(pairs[: CameraClock.TRIAL])
    assert "arrival less 33.3 ms" in clock.choice
    for driver, arrival in pairs[CameraClock.TRIAL :]:
        assert arrival - clock.time_ns(driver, arrival) == pytest.approx(1e9 / 30, abs=100)


def test_a_driver_that_loses_its_clock_is_replaced_for_that_picture() -> None:
    clock = tried(pictures(12)[: CameraClock.TRIAL])
    driver, arrival = pictures(12)[-1]
    assert clock.time_ns(0, arrival) == driver
    assert clock.time_ns(0, arrival - 10 * MS) == driver + 1


@given(seed=st.integers(0, 1 << 16))
@settings(max_examples=20, deadline=None)
def test_arrivals_hang_on_the_least_delay_and_keep_their_order(seed: int) -> None:
    chance = np.random.default_rng(seed)
    pts = (np.arange(900) * 1e9 / 30).astype(np.int64) + 77 * 10**12
    true_ns = pts - 76 * 10**12
    delay = 20 * MS + chance.exponential(15 * MS, len(pts)).astype(np.int64)
    delay[:8] += np.arange(800, 0, -100) * MS  # a backlog that is worked off
    arrival = np.maximum.accumulate(true_ns + delay)
    clock, times = ArrivalClock(), []
    for p, a in zip(pts.tolist(), arrival.tolist(), strict=True):
        clock.push(p, a)
        if clock.settled:
            times.append((clock.time_ns(p), p - 76 * 10**12))
    assert len(times) > 850
    shown, true = np.array(times).T
    assert (np.diff(shown) > 0).all()
    assert np.abs(shown - true)[100:].max() < 30 * MS
    assert np.ptp((shown - true)[100:]) < 10 * MS
    assert clock.jumps == 0


def test_a_camera_that_starts_its_time_anew_is_followed() -> None:
    clock = ArrivalClock()
    for k in range(100):
        clock.push(k * 33 * MS, 10**13 + k * 33 * MS)
    for k in range(10):
        clock.push(k * 33 * MS, 10**13 + (110 + k) * 33 * MS)
    assert clock.jumps == 1
    assert clock.time_ns(9 * 33 * MS) == 10**13 + 119 * 33 * MS
