"""Whether a back end says what ONNX Runtime says, on the bundle's own samples.

A plan is kept only after this. The samples are real crops and windows where the bundle is a trained one:
random inputs would hide what overflows in half precision. It knows nothing of how the back end works. Data
leaves as an `Agreement`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Arrays, GraphBackend
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle
from engine.errors import BackendError
from engine.probabilities import softmax
from engine.signals.voice import LOG_MEL, STEP, VoiceEncoder, chunks
from engine.types import Float32

PROBABILITY_LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 1e-2}
"""By precision: how far a probability (or an attribute) may be from ONNX Runtime's."""
COSINE_LIMITS = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.999}
"""How far a frame's token may turn; what that does to the scores is held by the other limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How near a back end is to ONNX Runtime.

    cosine: the least between tokens. windows: the largest difference of probabilities (or attributes) on the
    sample windows. frames: the same on windows that are made of the back end's own tokens of the sample
    crops. voices: the same, of the back end's own voice tokens of the sample windows' sound; 0 where the
    bundle takes none.
    """

    cosine: float
    windows: float
    frames: float
    voices: float

    def __str__(self) -> str:
        return (
            f"tokens' cosine {self.cosine:.6f}, probabilities within {self.windows:.1e} on sample windows, "
            f"{self.frames:.1e} from sample crops to scores, {self.voices:.1e} from their sound"
        )


def parity_samples(bundle: Bundle) -> tuple[Float32, Float32, dict[str, NDArray[np.generic]]]:
    """crop (N, 1, H, W) in whole numbers, flow (N, 2, h, w), and the window model's inputs by name."""
    with np.load(bundle.parity, allow_pickle=False) as stored:
        windows = {name[7:]: stored[name] for name in stored if name.startswith("window_")}
        crop: Float32 = np.rint(stored["crop"]).astype(np.float32)
        return crop, stored["flow"], windows


def agreement(backend: GraphBackend, bundle: Bundle) -> Agreement:
    """Ask both for the same. Raises BackendError where one of them fails."""
    crop, flow, windows = parity_samples(bundle)
    reference = OnnxBackend(bundle)
    ours, theirs = backend.encode(crop, flow), reference.encode(crop, flow)
    seen = _seen(windows, *ours), _seen(windows, *theirs)
    heard = _heard(windows, backend.voice), _heard(windows, reference.voice)
    return Agreement(
        cosine=_cosine(np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)),
        windows=_distance(backend, windows, reference, windows),
        frames=_distance(backend, seen[0], reference, seen[1]),
        voices=0.0 if reference.voice is None else _distance(backend, heard[0], reference, heard[1]),
    )


def check_parity(backend: GraphBackend, bundle: Bundle, precision: str) -> Agreement:
    """`agreement`, if it is near enough for `precision`. Raises BackendError where it is not."""
    found = agreement(backend, bundle)
    limit = PROBABILITY_LIMITS[precision]
    worst = max(found.windows, found.frames, found.voices)
    if found.cosine >= COSINE_LIMITS[precision] and worst <= limit:
        return found
    figures = (
        f"probabilities differ by {worst:.2g} ({limit:g} is allowed), tokens' cosine is {found.cosine:.5f}"
    )
    others = {"fp16": "--precision bf16 or fp32", "bf16": "--precision fp16 or fp32"}
    mend = f"build with {others[precision]}" if precision in others else "please report it with your versions"
    raise BackendError(f"{precision} misses parity with ONNX Runtime: {figures}; {mend}.")


def probabilities(backend: GraphBackend, inputs: Arrays) -> Float32:
    """(B, heads, labels) float32."""
    return softmax(backend.answers(inputs).logits)


def _seen(windows: Arrays, v: Float32, o: Float32) -> dict[str, NDArray[np.generic]]:
    """The sample windows with every tick seen, and these tokens in turn."""
    count, ticks = windows["video_mask"].shape
    turns = np.arange(count * ticks).reshape(count, ticks) % len(v)
    return {**windows, "v": v[turns], "o": o[turns], "video_mask": np.ones((count, ticks), dtype=np.bool_)}


def _heard(windows: Arrays, voice: VoiceEncoder | None) -> dict[str, NDArray[np.generic]]:
    """The sample windows with what `voice` says of their log-mel, which their tokens hold."""
    if voice is None:
        return dict(windows)
    tokens, masks = np.asarray(windows["voice_tokens"], np.float32), windows["audio_mask"].astype(np.bool_)
    count, steps, _ = tokens.shape
    mels = tokens[..., -STEP * voice.bands :].reshape(count, steps * STEP, voice.bands) * np.float32(LOG_MEL)
    rows = [voice.encode(*chunks(*each)).reshape(-1, voice.width) for each in zip(mels, masks, strict=True)]
    return {**windows, "voice_tokens": np.stack(rows)[:, :steps]}


def _cosine(ours: Float32, theirs: Float32) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    least = float(np.min((ours * theirs).sum(axis=1, dtype=np.float64) / np.maximum(lengths, 1e-12)))
    return least if np.isfinite(least) else -1.0


def _distance(ours: GraphBackend, inputs: Arrays, theirs: GraphBackend, others: Arrays) -> float:
    left, right = ours.answers(inputs), theirs.answers(others)
    found = [np.abs(softmax(left.logits) - softmax(right.logits))]
    found += [np.abs(left.attributes - right.attributes)]
    worst = max(float(np.max(each, initial=0)) for each in found)
    return worst if all(np.isfinite(each).all() for each in found) else float("inf")
