"""Each disturbance does what its name says, to really encoded media, and the same every time."""

from pathlib import Path

import av
import numpy as np
import pytest

from engine.signals.face import Detection
from engine.types import Block, Frame, UInt8
from trainer.data.clips import play
from trainer.disturbances import Disturbance, disturbed

SIZE, RATE_HZ, PICTURES_HZ = 96, 16_000, 20


class FixedFinder:
    """Finds one face 48 pixels wide in every picture."""

    def find(self, image: UInt8) -> list[Detection]:
        return [Detection(box=(20.0, 20.0, 48.0, 48.0), points=np.zeros((5, 2), np.float32), confidence=1.0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds: a chequered picture of middle brightness, and a tone."""
    file = tmp_path_factory.mktemp("clip") / "clip.mkv"
    board = np.indices((SIZE, SIZE)).sum(0) // 8 % 2
    image = np.repeat((90 + 60 * board)[..., None], 3, axis=2).astype(np.uint8)
    sound = 0.1 * np.sin(np.arange(2 * RATE_HZ) * 2 * np.pi * 440 / RATE_HZ)
    with av.open(str(file), "w") as container:
        picture = container.add_stream("ffv1", rate=PICTURES_HZ)
        picture.width = picture.height = SIZE
        picture.pix_fmt = "bgr0"
        voice = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for at in range(2 * PICTURES_HZ):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = at
            container.mux(picture.encode(frame.reformat(format="bgr0")))
        container.mux(picture.encode(None))
        samples = av.AudioFrame.from_ndarray(
            np.rint(sound * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        samples.sample_rate, samples.pts = RATE_HZ, 0
        container.mux(voice.encode(samples))
        container.mux(voice.encode(None))
    return file


def parts(clip: Path, kind: str, level: float) -> tuple[list[Frame], list[Block]]:
    items = list(disturbed(clip, Disturbance(kind=kind, level=level), FixedFinder()))
    times = [item.t_ns for item in items]
    assert times == sorted(times)
    return [i for i in items if isinstance(i, Frame)], [i for i in items if isinstance(i, Block)]


def sound(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([block.samples for block in blocks])


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_noise_has_the_level_that_was_asked_for(clip: Path, snr_db: float) -> None:
    clean = sound([item for item in play(clip, False) if isinstance(item, Block)])
    frames, blocks = parts(clip, "sound_snr_db", snr_db)
    noise = sound(blocks) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.2)
    np.testing.assert_array_equal(sound(parts(clip, "sound_snr_db", snr_db)[1]), sound(blocks))
    assert len(frames) == 2 * PICTURES_HZ


def test_lost_pictures_are_gone_and_the_sound_is_not(clip: Path) -> None:
    frames, blocks = parts(clip, "lost_frames", 0.5)
    assert 10 < len(frames) < 30
    assert len(sound(blocks)) == 2 * RATE_HZ


@pytest.mark.parametrize("offset_ms", [-400, 0, 100])
def test_an_offset_parts_the_senses_and_cuts_nothing(clip: Path, offset_ms: int) -> None:
    frames, blocks = parts(clip, "offset_ms", offset_ms)
    assert blocks[0].t_ns - frames[0].t_ns == offset_ms * 1_000_000
    assert min(blocks[0].t_ns, frames[0].t_ns) == 0
    assert len(frames) == 2 * PICTURES_HZ
    assert len(sound(blocks)) == 2 * RATE_HZ


def test_light_blur_and_size(clip: Path) -> None:
    (plain, *_), _ = parts(clip, "light_stops", 0)
    np.testing.assert_array_equal(plain.image, next(iter(play(clip, True, False))).image)
    (darker, *_), _ = parts(clip, "light_stops", -2)
    (lighter, *_), _ = parts(clip, "light_stops", 2)
    assert darker.image.mean() < 0.6 * plain.image.mean() < 0.6 * lighter.image.mean()
    spreads = [parts(clip, "blur", level)[0][0].image.std() for level in (0, 0.05, 0.2)]
    assert spreads[0] == plain.image.std()
    assert spreads[0] > spreads[1] > spreads[2]
    (small, *_), _ = parts(clip, "face_px", 24)
    assert small.image.shape == (SIZE // 2, SIZE // 2, 3)
    (as_it_was, *_), _ = parts(clip, "face_px", 64)
    assert as_it_was.image.shape == (SIZE, SIZE, 3)


def test_an_unknown_disturbance_is_named(clip: Path) -> None:
    with pytest.raises(ValueError, match="'fog'"):
        disturbed(clip, Disturbance(kind="fog", level=1), FixedFinder())
