"""A media file to measure on, made from the demo: a face that speaks, 640 x 480 at 30 Hz, with its voice.

It knows nothing of measuring. Data leaves it as a file.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from engine.types import Frame
from realtime.sources.demo import DemoSource

FRAMES_HZ = 30
SOUND_HZ = 16_000


def write_clip(path: Path, seconds: float) -> Path:
    """Write `seconds` of the demo as H.264 and AAC; the container is chosen by the file's name."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAMES_HZ, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        audio = container.add_stream("aac", rate=SOUND_HZ, layout="mono")
        for item in DemoSource(False, 0, seconds):
            if isinstance(item, Frame):
                picture = av.VideoFrame.from_ndarray(item.image, "bgr24")
                picture.pts, picture.time_base = item.seq, Fraction(1, FRAMES_HZ)
                container.mux(video.encode(picture))
            elif (samples := getattr(item, "samples", None)) is not None:
                container.mux(audio.encode(_sound(samples, item.seq)))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def _sound(samples: "np.ndarray[Any, Any]", number: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
    frame.sample_rate, frame.pts = SOUND_HZ, number * len(samples)
    frame.time_base = Fraction(1, SOUND_HZ)
    return frame
