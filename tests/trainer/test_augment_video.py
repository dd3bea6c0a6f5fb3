"""Cameras: what they leave alone, what holds through a clip, and what their figures promise."""

from dataclasses import replace

import numpy as np
import pytest

from trainer.augment_video import Camera, Cover, draw_camera, film, picture_times


@pytest.fixture
def perfect() -> Camera:
    return Camera(
        scale=1.0, rate_hz=30.0, jitter_s=0.0, loss=0.0, burst=0.0, gain=1.0, gamma=1.0, contrast=1.0,
        slope=0.0, angle=0.0, flicker=0.0, flicker_hz=1.0, drift=0.0, blur=0.0, streak=0.0, streak_angle=0.0,
        noise=0.0, quality=None, hold=0.0, cover=None,
    )  # fmt: skip


def pictures(count: int = 6, side: int = 152) -> np.ndarray:
    smooth = np.add.outer(np.arange(side), np.arange(side)) % 200 + 20
    return np.stack([np.roll(smooth, k, axis=1) for k in range(count)]).astype(np.uint8)


def filmed(camera: Camera, seed: int = 0, count: int = 6) -> np.ndarray:
    return film(camera, np.random.default_rng(seed), pictures(count), np.arange(count) / 30)


def test_a_perfect_camera_changes_nothing(perfect: Camera) -> None:
    assert np.abs(filmed(perfect).astype(int) - pictures()).max() <= 1


def test_every_drawn_camera_films_the_same_twice_and_keeps_shape() -> None:
    for seed in range(60):
        camera = draw_camera(np.random.default_rng(seed))
        first, second = filmed(camera, seed), filmed(camera, seed)
        assert first.dtype == np.uint8
        assert first.shape == pictures().shape
        assert np.array_equal(first, second)
        assert 0.45 <= camera.scale <= 1.3
        assert camera.quality is None or 18 <= camera.quality <= 92


def test_light_and_lens_hold_through_a_clip(perfect: Camera) -> None:
    camera = replace(perfect, gain=0.8, gamma=1.2, contrast=0.9, slope=0.4, blur=1.0, streak=3.0, quality=50)
    still = np.repeat(pictures(1), 5, axis=0)
    shown = film(camera, np.random.default_rng(0), still, np.arange(5) / 30)
    assert (shown == shown[0]).all()
    assert np.abs(shown[0].astype(int) - still[0]).mean() > 5


def test_flicker_and_noise_change_from_picture_to_picture(perfect: Camera) -> None:
    still = np.repeat(pictures(1), 5, axis=0)
    for camera in (replace(perfect, flicker=0.05, flicker_hz=6.0), replace(perfect, noise=5.0)):
        shown = film(camera, np.random.default_rng(0), still, np.arange(5) / 30).astype(int)
        assert (shown[1:] != shown[:-1]).any(axis=(1, 2)).all()


def test_a_lazy_codec_keeps_blocks_that_hardly_change(perfect: Camera) -> None:
    still = np.repeat(pictures(1), 4, axis=0)
    still[2:, :40, :40] += 30
    still[1:, 80:, 80:] += 1
    shown = film(replace(perfect, hold=3.0), np.random.default_rng(0), still, np.arange(4) / 30)
    assert np.array_equal(shown[2, :40, :40], still[2, :40, :40])
    assert np.array_equal(shown[3, 80:, 80:], still[0, 80:, 80:])


def test_a_cover_hides_its_place_only_while_it_is_there(perfect: Camera) -> None:
    cover = Cover(
        place=(0.5, 0.5), size=(0.1, 0.1), turn=0.0, grey=128.0, texture=0.0, box=True, sway=0.0,
        sway_hz=1.0, start=0.5, end=1.0,
    )  # fmt: skip
    shown = filmed(replace(perfect, cover=cover), count=6)
    plain = pictures(6)
    assert np.abs(shown[0].astype(int) - plain[0]).max() <= 1
    assert (shown[5, 70:82, 70:82] == 128).all()
    assert np.abs(shown[5, :40].astype(int) - plain[5, :40]).max() <= 1


@pytest.mark.parametrize("rate_hz", [10.0, 15.0, 25.0, 30.0, 60.0])
def test_picture_times_rise_at_the_cameras_rate(perfect: Camera, rate_hz: float) -> None:
    times = picture_times(replace(perfect, rate_hz=rate_hz, jitter_s=0.006), np.random.default_rng(1), 4.0)
    assert (np.diff(times) > 0).all()
    assert abs(np.diff(times).mean() * rate_hz - 1) < 0.02
    assert times[0] < 0.05
    assert times[-1] > 4.0 - 2 / rate_hz - 0.006


def test_lost_pictures_are_missing_from_the_times(perfect: Camera) -> None:
    whole = picture_times(perfect, np.random.default_rng(1), 4.0)
    single = picture_times(replace(perfect, loss=0.2), np.random.default_rng(1), 4.0)
    stretch = picture_times(replace(perfect, burst=0.3), np.random.default_rng(1), 4.0)
    assert 0.65 < len(single) / len(whole) < 0.95
    assert 1.1 < np.diff(stretch).max() < 1.3
