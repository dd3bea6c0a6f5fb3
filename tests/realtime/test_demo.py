"""The demo: found by the finder, mouth with voice, all expressions, the same every time, on one clock."""

import itertools
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.bundle import load_bundle
from engine.signals.finder import load_finder
from engine.types import Block, Float32, Frame, UInt8
from realtime.sources.base import Loss
from realtime.sources.demo import (
    BLOCK_SAMPLES,
    CYCLE_S,
    FRAMES_HZ,
    SECTION_S,
    DemoSource,
    Performance,
)
from realtime.sources.demo_portrait import LABELS

CYCLE_FRAMES = round(CYCLE_S * FRAMES_HZ)
SECTION_FRAMES = round(SECTION_S * FRAMES_HZ)
YUNET = Path(__file__).parents[2] / ".." / "shared" / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"


@pytest.fixture(scope="module")
def performance() -> Performance:
    return Performance()


@pytest.fixture(scope="module")
def cycle(performance: Performance) -> list[UInt8]:
    """One whole cycle, every seventh frame."""
    return [performance.picture(number) for number in range(0, CYCLE_FRAMES, 7)]


@pytest.fixture(scope="module")
def loudness(performance: Performance) -> Float32:
    """Level of the voice at each frame of a cycle."""
    blocks = [performance.sound(number) for number in range(round(CYCLE_S * 16_000) // BLOCK_SAMPLES)]
    power = np.concatenate(blocks) ** 2
    window = np.hanning(1600)
    smooth = np.sqrt(np.convolve(power, window / window.sum(), "same"))
    return smooth[(np.arange(CYCLE_FRAMES) * 16_000 / FRAMES_HZ).astype(int)].astype(np.float32)


def test_yunet_finds_the_face(cycle: list[UInt8]) -> None:
    model = Path(os.environ.get("DE3_FACE_MODEL", YUNET))
    if not model.is_file():
        pytest.skip(f"no face model at {model}; DE3_FACE_MODEL names one")
    finder = cv2.FaceDetectorYN.create(str(model), "", (320, 240), 0.6)
    found = [finder.detect(cv2.resize(picture, (320, 240)))[1] for picture in cycle]
    assert sum(faces is not None and len(faces) == 1 for faces in found) >= 0.95 * len(found)


def test_the_bundles_finder_finds_the_face(cycle: list[UInt8]) -> None:
    finder, _ = load_finder(bundle=load_bundle(), offline=True)
    found = [
        len(finder.find(np.asarray(cv2.resize(picture, (320, 240)), np.uint8))) for picture in cycle[::2]
    ]
    assert np.mean([count == 1 for count in found]) >= 0.95


def test_the_mouth_opens_with_the_voice(performance: Performance, loudness: Float32) -> None:
    """What is seen between the lips against the loudness, section by section."""
    correlations = []
    for section in range(len(LABELS)):
        numbers = range(section * SECTION_FRAMES + 15, (section + 1) * SECTION_FRAMES - 15, 3)
        gaps = [_open_mouth(performance.picture(number)) for number in numbers]
        correlations.append(float(np.corrcoef(gaps, loudness[list(numbers)])[0, 1]))
    assert np.median(correlations) > 0.7
    assert min(correlations) > 0.5, dict(zip(LABELS, correlations, strict=True))


def test_the_mouth_is_in_time_with_the_voice(performance: Performance, loudness: Float32) -> None:
    """The best match of mouth and voice is within one frame of no delay at all."""
    numbers = range(3 * SECTION_FRAMES + 15, 4 * SECTION_FRAMES - 15)
    gaps = [_open_mouth(performance.picture(number)) for number in numbers]
    lags = range(-6, 7)
    match = [np.corrcoef(gaps, loudness[np.array(numbers) + lag])[0, 1] for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 1


def _open_mouth(picture: UInt8) -> float:
    """Share of the mouth's surroundings that has no colour of skin or lips: teeth and the dark behind."""
    mouth = picture[265:335, 275:365].astype(int)
    return float((mouth[..., 2] - mouth[..., 0] < 42).mean())


def test_every_expression_looks_and_sounds_its_own(performance: Performance) -> None:
    """At rest in the middle of its section no face is like another; nor are loudness and pitch alike."""
    faces, voices = [], []
    for section in range(len(LABELS)):
        numbers = range(section * SECTION_FRAMES + 24, (section + 1) * SECTION_FRAMES - 24, 6)
        pictures = [performance.picture(number)[100:350, 215:425] for number in numbers]
        faces.append(np.mean(pictures, axis=0))
        first = round(section * SECTION_S * 50)
        sound = np.concatenate([performance.sound(number) for number in range(first, first + 300)])
        voices.append((sound.std(), _pitch_hz(sound)))
    for one, other in itertools.combinations(range(len(LABELS)), 2):
        assert np.abs(faces[one] - faces[other]).mean() > 1.5, (LABELS[one], LABELS[other])
        ratios = np.array(voices[one]) / np.array(voices[other])
        assert np.abs(np.log2(ratios)).max() > 0.1, (LABELS[one], LABELS[other])


def _pitch_hz(sound: Float32) -> float:
    """Median pitch of the louder stretches, by autocorrelation."""
    pieces = sound[: len(sound) // 800 * 800].reshape(-1, 800)
    pieces = pieces[pieces.std(axis=1) > 0.6 * np.median(pieces.std(axis=1))]
    spectra = np.abs(np.fft.rfft(pieces, 2048)) ** 2
    likeness = np.fft.irfft(spectra)[:, 16_000 // 400 : 16_000 // 80]
    return float(np.median(16_000 / (likeness.argmax(axis=1) + 16_000 // 400)))


def test_expression_names_the_sections(performance: Performance) -> None:
    assert [performance.expression(n * SECTION_S + 1) for n in range(8)] == [*LABELS, LABELS[0]]


def test_a_frame_and_a_block_depend_on_their_number_alone(performance: Performance) -> None:
    other = Performance()
    for number in (1259, 3, 400, 170):
        assert np.array_equal(other.picture(number), performance.picture(number))
        assert np.array_equal(other.sound(number), performance.sound(number))


def test_the_cycle_closes_without_a_jump(performance: Performance) -> None:
    """The step from the last frame of a cycle to the next is no larger than usual; so is the sound's."""
    before, after = performance.picture(CYCLE_FRAMES - 1), performance.picture(CYCLE_FRAMES)
    assert np.abs(before.astype(int) - after).mean() < 3
    last = round(CYCLE_S * 16_000) // BLOCK_SAMPLES - 1
    around = np.concatenate([performance.sound(last), performance.sound(last + 1)])
    assert np.abs(around).max() < 0.01


def test_the_sound_is_a_voice(performance: Performance) -> None:
    """Never clipped, with pauses, most of its power where voices have it."""
    sound = np.concatenate([performance.sound(number) for number in range(300)])
    assert 0.02 < sound.std() < 0.3
    assert np.abs(sound).max() < 0.95
    levels = sound.reshape(-1, 320).std(axis=1)
    assert np.quantile(levels, 0.05) < 0.1 * np.quantile(levels, 0.9)
    power = np.abs(np.fft.rfft(sound)) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / 16_000)
    assert power[(hz > 80) & (hz < 4000)].sum() > 0.9 * power.sum()


def test_unpaced_items_come_in_order_of_time_and_stop_at_the_duration() -> None:
    items = list(DemoSource(paced=False, duration_s=1.0))
    frames = [item for item in items if isinstance(item, Frame)]
    blocks = [item for item in items if isinstance(item, Block)]
    assert [item.t_ns for item in items] == sorted(item.t_ns for item in items)
    assert [frame.t_ns for frame in frames] == [n * 1_000_000_000 // 30 for n in range(30)]
    assert [block.t_ns for block in blocks] == [n * 20_000_000 for n in range(50)]
    assert [frame.seq for frame in frames] == list(range(30))
    assert frames[0].image.shape == (480, 640, 3)
    assert blocks[0].samples.shape == (320,)
    assert blocks[0].samples.dtype == np.float32


def test_paced_items_are_not_early_and_carry_the_monotonic_clock() -> None:
    source = DemoSource(paced=True, duration_s=0.5)
    assert source.info.live
    begun_ns = time.monotonic_ns()
    seen = [(time.monotonic_ns(), item) for item in source if not isinstance(item, Loss)]
    blocks = [(now_ns, item) for now_ns, item in seen if isinstance(item, Block)]
    frames = [(now_ns, item) for now_ns, item in seen if isinstance(item, Frame)]
    assert all(now_ns >= frame.t_ns for now_ns, frame in frames)
    assert all(now_ns >= block.t_ns + 20_000_000 for now_ns, block in blocks)
    assert blocks[0][1].t_ns >= begun_ns
    assert [block.t_ns - blocks[0][1].t_ns for _, block in blocks] == [n * 20_000_000 for n in range(25)]
    assert all(frame.t_ns - blocks[0][1].t_ns == frame.seq * 1_000_000_000 // 30 for _, frame in frames)


def test_a_late_reader_loses_frames_but_no_sound() -> None:
    source = DemoSource(paced=True, anchor_ns=time.monotonic_ns() - 2_000_000_000, duration_s=2.2)
    items = list(source)
    frames = [item for item in items if isinstance(item, Frame)]
    lost = sum(item.count for item in items if isinstance(item, Loss))
    assert lost > 30
    assert len(frames) + lost == 66
    assert [item.seq for item in items if isinstance(item, Block)] == list(range(110))


def test_picture_or_sound_alone_and_close() -> None:
    assert all(isinstance(item, Frame) for item in itertools.islice(DemoSource(False, audio=False), 3))
    source = DemoSource(False, video=False)
    seen = []
    for item in source:
        seen.append(item)
        if len(seen) == 5:
            source.close()
    assert len(seen) == 5
    assert all(isinstance(item, Block) for item in seen)
    assert not source.info.has_video
