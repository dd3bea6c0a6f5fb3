"""What every engine must keep to with every bundle (design, section 8)."""

import numpy as np
import pytest
from numpy.typing import NDArray
from opened_engines import STAND_INS, opened

from engine.backends.base import GraphBackend
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle
from engine.probabilities import softmax
from engine.types import Float32

Arrays = dict[str, NDArray[np.generic]]


@pytest.fixture
def samples(any_bundle: Bundle) -> Arrays:
    with np.load(any_bundle.parity, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored}


@pytest.fixture
def windows(samples: Arrays) -> Arrays:
    """The parity windows with everything seen and heard."""
    inputs = {
        key.removeprefix("window_"): value for key, value in samples.items() if key.startswith("window_")
    }
    for mask in ("video_mask", "audio_mask"):
        inputs[mask] = np.ones_like(inputs[mask])
    return inputs


def probabilities(logits: Float32) -> Float32:
    return np.stack([[softmax(head) for head in heads] for heads in logits])


def answered(backend: GraphBackend, inputs: Arrays) -> Float32:
    return backend.answers(inputs).logits


def rubbish(like: NDArray[np.generic], seed: int = 0) -> Float32:
    noise = np.random.default_rng(seed).standard_normal(like.shape) * 100
    return noise.astype(np.float32)


def test_it_agrees_with_the_network_that_was_trained(
    backend: GraphBackend, any_bundle: Bundle, samples: Arrays
) -> None:
    crop, expected = samples["crop"], (samples["answer_v"], samples["answer_o"])
    if backend.name in STAND_INS and not np.array_equal(crop, np.rint(crop)):
        # They take crops as bytes, as they are live; ONNX Runtime stands between them and PyTorch then.
        crop = np.rint(crop)
        expected = OnnxBackend(any_bundle).encode(crop, samples["flow"])
    for token, right in zip(backend.encode(crop, samples["flow"]), expected, strict=True):
        assert np.abs(token - right).max() < 1e-3
    inputs = {
        key.removeprefix("window_"): value for key, value in samples.items() if key.startswith("window_")
    }
    logits = answered(backend, inputs)
    assert logits.dtype == np.float32
    assert np.abs(probabilities(logits) - probabilities(samples["answer_logits"])).max() < 1e-3


def test_engines_agree_with_each_other(any_bundle: Bundle, windows: Arrays) -> None:
    pytest.importorskip("openvino")
    answers = [probabilities(answered(opened(any_bundle, name), windows)) for name in ("onnx", "openvino")]
    assert np.abs(answers[0] - answers[1]).max() < 1e-3


def test_a_batch_equals_its_rows_alone(backend: GraphBackend, windows: Arrays) -> None:
    batch = answered(backend, windows)
    rows = [
        answered(backend, {key: value[i : i + 1] for key, value in windows.items()})
        for i in range(len(batch))
    ]
    assert np.abs(batch - np.concatenate(rows)).max() < 1e-4


@pytest.mark.parametrize("sense", ["sight", "sound"])
def test_the_order_of_time_matters(
    backend: GraphBackend, any_bundle: Bundle, windows: Arrays, sense: str
) -> None:
    names = ("v", "o") if sense == "sight" else (any_bundle.sound,)
    straight = probabilities(answered(backend, windows))
    backward = {**windows, **{name: windows[name][:, ::-1].copy() for name in names}}
    shuffle = np.random.default_rng(1).permutation(windows[names[0]].shape[1])
    mixed = {**windows, **{name: windows[name][:, shuffle] for name in names}}
    for other in (backward, mixed):
        assert np.abs(probabilities(answered(backend, other)) - straight).max() > 1e-4


@pytest.mark.parametrize("filling", ["noise", "nan"])
def test_what_is_behind_a_mask_changes_no_bit(
    backend: GraphBackend, any_bundle: Bundle, windows: Arrays, filling: str
) -> None:
    sound = any_bundle.sound
    rng = np.random.default_rng(2)
    inputs = dict(windows)
    for mask in ("video_mask", "audio_mask"):
        inputs[mask] = rng.random(windows[mask].shape) < 0.6
    spoilt = dict(inputs)
    heard = inputs["audio_mask"].reshape(*inputs[sound].shape[:2], -1).any(2)  # a token is of several bins
    for name, shown in (("v", inputs["video_mask"]), ("o", inputs["video_mask"]), (sound, heard)):
        filler = rubbish(inputs[name]) if filling == "noise" else np.float32(np.nan)
        spoilt[name] = np.where(shown[..., None], inputs[name], filler)
    assert np.array_equal(answered(backend, inputs), answered(backend, spoilt))


@pytest.mark.parametrize("mask", ["video_mask", "audio_mask"])
def test_an_absent_sense_has_no_say(
    backend: GraphBackend, any_bundle: Bundle, windows: Arrays, mask: str
) -> None:
    branch = ("v", "o", "face_baseline", "face_weight")
    if mask == "audio_mask":
        branch = (any_bundle.sound, "voice_baseline", "voice_weight")
    absent = {**windows, mask: np.zeros_like(windows[mask])}
    removed = {**absent, **{name: np.zeros_like(windows[name]) for name in branch}}
    other = {**absent, **{name: rubbish(windows[name]) for name in branch}}
    logits = answered(backend, absent)
    assert np.isfinite(logits).all()
    assert np.array_equal(logits, answered(backend, removed))
    assert np.array_equal(logits, answered(backend, other))
    assert np.abs(probabilities(logits) - probabilities(answered(backend, windows))).max() > 1e-3


def test_with_nothing_seen_or_heard_everything_is_finite(backend: GraphBackend, windows: Arrays) -> None:
    nothing = {**windows, **{m: np.zeros_like(windows[m]) for m in ("video_mask", "audio_mask")}}
    logits = answered(backend, nothing)
    assert np.isfinite(logits).all()
    assert np.abs(logits - logits[:1]).max() < 1e-4


def test_the_baselines_are_listened_to(backend: GraphBackend, windows: Arrays) -> None:
    straight = probabilities(
        answered(backend, {**windows, "face_weight": np.full(len(windows["v"]), 0.9, np.float32)})
    )
    for name in ("face_baseline", "voice_baseline"):
        weight = f"{name.split('_')[0]}_weight"
        other = {**windows, weight: np.full(len(windows["v"]), 0.9, np.float32), name: windows[name] + 1}
        assert np.abs(probabilities(answered(backend, other)) - straight).max() > 1e-4
