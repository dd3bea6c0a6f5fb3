"""The attention of the inter-modal feature enhancement (IFE) over one clip: the paper's figure 2.

The clip is played as live; of its fullest window come the weights of the exported graph, the crops and the
log-mel. It draws nothing: data leaves it as an `Attention`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.bundle import load_bundle
from engine.types import UInt8
from trainer.data.clips import contents
from trainer.instruments import AttentiveBackend, InstrumentedRecognizer
from trainer.trials import Setting, score_windows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attention:
    """One window (T ticks, S sound steps, M mel bins, F bands), its time counted from the clip's start.

    start_s, end_s: of the window; it may begin before the clip.
    of_video: (T, S) float32, what every tick of the picture takes from the sound; rows sum to 1.
    of_audio: (S, T) float32, what every step of the sound takes from the picture; rows sum to 1.
    video_mask: (T,) bool, seen. audio_mask: (S,) bool, heard.
    mel: (M, F) float32 natural log of power. mel_mask: (M,) bool.
    crops: tick of the window (0..T-1) to the face, (112, 112) uint8.
    """

    start_s: float
    end_s: float
    of_video: NDArray[np.float32]
    of_audio: NDArray[np.float32]
    video_mask: NDArray[np.bool_]
    audio_mask: NDArray[np.bool_]
    mel: NDArray[np.float32]
    mel_mask: NDArray[np.bool_]
    crops: dict[int, UInt8]


def attend(
    file: Path,
    bundle: Path | None = None,
    face_model: Path | None = None,
    offline: bool = False,
    sound_file: Path | None = None,
) -> Attention:
    """The IFE's attention in the fullest window of a clip with picture and sound.

    sound_file: has the sound in place of `file`.

    Raises ValueError where one of them is missing, and what the recogniser and the decoder raise.
    """
    held = contents(file, sound_file)
    if not (held.has_video and held.has_audio):
        raise ValueError(f"{file} has not both picture and sound, so neither can attend to the other.")
    backend = AttentiveBackend(load_bundle(bundle))
    options = {"bundle": bundle, "engine": "onnx", "face_model": face_model, "offline": offline}
    with InstrumentedRecognizer(lambda _: backend, **options) as recogniser:
        score_windows(recogniser, file, Setting(bundle=bundle), sound_file=sound_file)
        window = recogniser.bundle.window
    of_video, of_audio = backend.attention()
    fullest = backend.fullest_window
    assert fullest is not None, "attention has said so"
    video_mask, mel_mask = fullest.video_mask, fullest.audio_mask
    if not (video_mask.any() and mel_mask.any()):
        raise ValueError(f"{file} never shows a face and a voice in one window.")
    first = fullest.end_tick - window.ticks
    return Attention(
        start_s=first / window.tick_hz,
        end_s=fullest.end_tick / window.tick_hz,
        of_video=of_video,
        of_audio=of_audio,
        video_mask=video_mask,
        audio_mask=mel_mask.reshape(of_video.shape[1], -1).any(axis=1),
        mel=fullest.mel,
        mel_mask=mel_mask,
        crops={
            tick - first: crop
            for tick, crop in backend.crops.items()
            if 0 <= tick - first < window.ticks and video_mask[tick - first]
        },
    )
