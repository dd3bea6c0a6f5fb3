"""Short recordings in really encoded files: the demo's head, and a tone of a pitch of its own."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from engine.types import Float32, UInt8
from realtime.sources.demo import Performance

FRAMES_HZ, FRAMES, RATE_HZ = 15, 16, 44_100
CODECS = {
    ".mp4": ("mpeg4", "aac"), ".flv": ("flv", "libmp3lame"), ".avi": ("mpeg4", "pcm_s16le"),
    ".wav": ("", "pcm_s16le"),
}  # fmt: skip


@cache
def pictures() -> list[UInt8]:
    """About a second of the demo's head, (240, 320, 3) each."""
    performance = Performance()
    return [np.ascontiguousarray(performance.picture(2 * n)[::2, ::2]) for n in range(FRAMES)]


def write_media(file: Path, picture: bool = True, sound: bool = True, faces: bool = True) -> None:
    """Writes a file of the kind that its ending says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    codec, sound_codec = CODECS[file.suffix]
    with av.open(str(file), "w") as container:
        if codec and picture:
            video = container.add_stream(codec, rate=FRAMES_HZ)
            video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
            video.bit_rate = 1_500_000
        if sound:
            audio = container.add_stream(sound_codec, rate=RATE_HZ, layout="mono")
        for index, image in enumerate(pictures() if codec and picture else ()):
            frame = av.VideoFrame.from_ndarray(image if faces else image * 0 + 90, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_HZ)
            container.mux(video.encode(frame))
        if sound:
            samples = tone(200 + len(file.stem) * 10)
            for at in range(0, len(samples), 1024):
                part = np.rint(samples[None, at : at + 1024] * 32767).astype(np.int16)
                block = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE_HZ, at, Fraction(1, RATE_HZ)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
        if codec and picture:
            container.mux(video.encode(None))


def tone(pitch_hz: float) -> Float32:
    """(N,) float32 at `RATE_HZ`, as long as the pictures; it begins after 0.2 s."""
    time = np.arange(int(RATE_HZ * FRAMES / FRAMES_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time) * (time > 0.2)).astype(np.float32)
