"""Media made for tests: a white picture and a beep at every full second, so that both can be timed.

    write_clip(tmp_path / "clip.mp4", seconds=4, video_start_s=0.5)
    write_clip(tmp_path / "clip.mp4", picture=lambda time_s: image, sound=samples)  # anything else
    flashes(frames), beeps(blocks) -> seconds

The container is chosen by the file's name; pictures are H.264, sound is AAC.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from engine.types import Block, Frame

FLASH_S = 0.1
RATE_HZ = 44_100


def write_clip(
    path: Path,
    *,
    seconds: float = 4.0,
    fps: float = 30.0,
    variable: bool = False,
    video: bool = True,
    audio: bool = True,
    video_start_s: float = 0.0,
    audio_start_s: float = 0.0,
    size: tuple[int, int] = (160, 120),
    picture: Callable[[float], np.ndarray] | None = None,
    sound: np.ndarray | None = None,
) -> Path:
    """Writes a clip; `variable`: 15 to 60 pictures a second by chance, one of them at each full second.

    picture: what is seen at a time in seconds, BGR of `size`; sound: (N,) float32 at RATE_HZ.
    """
    with av.open(str(path), "w") as container:
        if video:
            pictures = container.add_stream("libx264", options={"preset": "ultrafast", "g": "15"})
            pictures.width, pictures.height, pictures.pix_fmt = *size, "yuv444p"
            pictures.codec_context.time_base = Fraction(1, 30_000)
        if audio:
            voice = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        if video:
            for time_s in picture_times(seconds, fps, variable):
                if time_s >= video_start_s:
                    image = _picture(time_s, size) if picture is None else picture(time_s)
                    frame = av.VideoFrame.from_ndarray(image, "bgr24")
                    frame.pts, frame.time_base = round(time_s * 30_000), Fraction(1, 30_000)
                    container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        if audio:
            samples = sound_samples(seconds) if sound is None else sound
            first = round(audio_start_s * RATE_HZ)
            for start in range(first, len(samples), 1024):
                part = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], "fltp", "mono")
                part.sample_rate, part.pts, part.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    return path


def write_song(path: Path) -> None:
    """Writes a second of silence as MP3, with a black cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp3", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "bgr24")
        container.mux(cover.encode(black.reformat(format="yuvj420p")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), "fltp", "mono")
        silence.sample_rate = 44_100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())


def picture_times(seconds: float, fps: float, variable: bool) -> Iterator[float]:
    """The times of the pictures, in seconds."""
    if not variable:
        yield from (index / fps for index in range(round(seconds * fps)))
        return
    chance = np.random.default_rng(7)
    time_s = 0.0
    while time_s < seconds:
        yield time_s
        following = time_s + chance.uniform(1 / 60, 1 / 15)
        time_s = float(np.floor(following)) if np.floor(following) > np.floor(time_s) else following


def sound_samples(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """(N,) float32: 1 kHz for 0.1 s at every full second, but the first."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    beep = 0.5 * np.sin(2 * np.pi * 1000 * time_s)
    return np.where((time_s % 1 < FLASH_S) & (time_s >= 1), beep, 0).astype(np.float32)


def flashes(frames: Sequence[Frame]) -> list[float]:
    """When pictures turned white, in seconds of their own times."""
    light = [float(frame.image.mean()) > 128 for frame in frames]
    return [
        frames[index].t_ns * 1e-9 for index in range(1, len(frames)) if light[index] and not light[index - 1]
    ]


def beeps(blocks: Sequence[Block]) -> list[float]:
    """When beeps began, in seconds of the blocks' times: half of the loudest, after 0.3 s of calm."""
    times = np.concatenate([block.t_ns + np.arange(len(block.samples)) * 62_500 for block in blocks])
    level = np.abs(np.concatenate([block.samples for block in blocks]))
    loud = times[level > 0.5 * level.max()]
    starts = loud[np.diff(loud, prepend=-(1 << 62)) > 300_000_000]
    return [float(start) * 1e-9 for start in starts]


def lit(time_s: float) -> bool:
    """Whether the flash is on."""
    return time_s >= 1 and (time_s + 1e-6) % 1 < FLASH_S


def _picture(time_s: float, size: tuple[int, int]) -> np.ndarray:
    return np.full((size[1], size[0], 3), 255 if lit(time_s) else 20, np.uint8)
