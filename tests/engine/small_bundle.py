"""A small bundle with random weights whose graphs depend on every input, honour masks and know time.

`write_bundle` writes it as the exporter would; the parity samples' answers are computed here in NumPy.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from engine.signals.align import CropParams
from engine.signals.flow import FlowParams
from engine.signals.sound import MelParams

VOICE = {"encoder": "voice_encoder.onnx", "width": 259}
"""What a manifest says of the small voice encoder."""
LABELS = ["neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
V, O, HIDDEN, BANDS = 8, 6, 16, 64  # noqa: E741
SAID = 3  # numbers that the voice encoder gives of a step
STEP = 4  # bins a voice token
Weights = dict[str, NDArray[Any]]

FRAME_ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
frame_encoder (float[N,1,112,112] crop, float[N,2,56,56] flow)
    => (float[N,8] v, float[N,6] o, float[N,7] expression) {
  pooled = AveragePool <kernel_shape = [16, 16], strides = [16, 16]> (crop)
  face = Flatten (pooled)
  centred = Sub (face, grey)
  small = MatMul (centred, face_weight)
  v = Tanh (small)
  pooled_flow = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (flow)
  motion = Flatten (pooled_flow)
  moved = MatMul (motion, motion_weight)
  o = Tanh (moved)
  expression = MatMul (v, expression_weight)
}
"""

WINDOW_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
window_model (float[B,{T},8] v, float[B,{T},6] o, bool[B,{T}] video_mask,
              float[B,14] face_baseline, float[B] face_weight,
              float[B,{S},{K}] {sound}, bool[B,{M}] audio_mask, float[B,{K}] voice_baseline,
              float[B] voice_weight)
    => ({outputs}) {{
  face = Concat <axis = 2> (v, o)
  face_mask = Unsqueeze (video_mask, two)
  face_mean = Unsqueeze (face_baseline, one)
  face_trust = Unsqueeze (face_weight, one_two)
  face_off = Sub (face, face_mean)
  face_own = Mul (face_off, face_trust)
  face_both = Concat <axis = 2> (face, face_own)
  face_shown = Where (face_mask, face_both, zero)
  face_linear = MatMul (face_shown, face_in)
  face_hidden = Tanh (face_linear)
  face_timed = Mul (face_hidden, face_time)
  seen = ReduceSum <keepdims = 0> (face_timed, one)
{heard}  mel_mean = Unsqueeze (voice_baseline, one)
  mel_trust = Unsqueeze (voice_weight, one_two)
  mel_off = Sub ({sound}, mel_mean)
  mel_own = Mul (mel_off, mel_trust)
  mel_both = Concat <axis = 2> ({sound}, mel_own)
  mel_heard = Where (mel_mask, mel_both, zero)
  mel_linear = MatMul (mel_heard, mel_in)
  mel_hidden = Tanh (mel_linear)
  mel_timed = Mul (mel_hidden, mel_time)
  heard = ReduceSum <keepdims = 0> (mel_timed, one)
  joint = Concat <axis = 1> (seen, heard)
  flat = MatMul (joint, out)
  logits = Reshape (flat, shape)
{more}}}
"""

BINS_HEARD = """  mel_mask = Unsqueeze (audio_mask, two)
"""
STEPS_HEARD = """  parts = Reshape (audio_mask, steps_shape)
  counted = Cast <to = 1> (parts)
  most = ReduceMax <axes = [2], keepdims = 1> (counted)
  mel_mask = Cast <to = 9> (most)
"""

VOICE_ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
voice_encoder (float[N,100,64] mel) => (float[N,5,3] tokens) {
  steps = Reshape (mel, shape)
  mean = ReduceMean <axes = [2], keepdims = 0> (steps)
  squashed = Tanh (mean)
  said = MatMul (squashed, weight)
  said_turned = Transpose <perm = [0, 2, 1]> (said)
  around = AveragePool <kernel_shape = [15], strides = [1]> (said_turned)
  turned = Transpose <perm = [0, 2, 1]> (around)
  tokens = Slice (turned, starts, ends, axes)
}
"""
"""What it says of a step is what it hears of 13 before it, of itself and of the one after, weighed alike."""

ATTRIBUTES = """  rated = MatMul (joint, rate)
  bounded = Tanh (rated)
  attributes = Reshape (bounded, rate_shape)
"""


def _graph(text: str, weights: Weights) -> bytes:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _encoder_weights(rng: np.random.Generator) -> Weights:
    return {
        "grey": np.float32(128),
        "face_weight": rng.standard_normal((49, V)).astype(np.float32) / 200,
        "motion_weight": rng.standard_normal((98, O)).astype(np.float32) / 200,
        "expression_weight": rng.standard_normal((V, 7)).astype(np.float32),
    }


def voice_weights(rng: np.random.Generator) -> Weights:
    """Of the small voice encoder."""
    return {
        "shape": np.array([-1, 25, STEP, BANDS]),
        "weight": rng.standard_normal((BANDS, SAID)).astype(np.float32),
        "starts": np.array([6]),
        "ends": np.array([11]),
        "axes": np.array([1]),
    }


def voice_graph(weights: Weights) -> bytes:
    """The small voice encoder."""
    return _graph(VOICE_ENCODER, weights)


def _window_graph(ticks: int, bins: int, attributes: int, voice: bool) -> str:
    outputs, more = "float[B,3,7] logits", ""
    if attributes:
        outputs, more = f"{outputs}, float[B,3,{attributes}] attributes", ATTRIBUTES
    steps, width = (bins // STEP, SAID + STEP * BANDS) if voice else (bins, BANDS)
    sound = "voice_tokens" if voice else "mel"
    return WINDOW_MODEL.format(
        T=ticks,
        M=bins,
        S=steps,
        K=width,
        sound=sound,
        heard=STEPS_HEARD if voice else BINS_HEARD,
        outputs=outputs,
        more=more,
    )


def _window_weights(rng: np.random.Generator, ticks: int, bins: int, attributes: int, voice: bool) -> Weights:
    def drawn(*shape: int, size: float) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * size).astype(np.float32)

    steps, width = (bins // STEP, SAID + STEP * BANDS) if voice else (bins, BANDS)
    weights: Weights = {
        "steps_shape": np.array([-1, steps, bins // steps]),
        "zero": np.float32(0),
        "one": np.array([1]),
        "two": np.array([2]),
        "one_two": np.array([1, 2]),
        "shape": np.array([-1, 3, 7]),
        "face_in": drawn(2 * (V + O), HIDDEN, size=0.5),
        "face_time": drawn(ticks, HIDDEN, size=2 / ticks**0.5),
        "mel_in": drawn(2 * width, HIDDEN, size=0.02),
        "mel_time": drawn(steps, HIDDEN, size=2 / steps**0.5),
        "out": drawn(2 * HIDDEN, 21, size=0.3),
    }
    if attributes:
        weights["rate"] = drawn(2 * HIDDEN, 3 * attributes, size=0.1)
        weights["rate_shape"] = np.array([-1, 3, attributes])
    return weights


def _window_answers(inputs: Weights, weights: Weights) -> Weights:
    face = np.concatenate([inputs["v"], inputs["o"]], axis=2).astype(np.float64)
    sound = inputs["voice_tokens"] if "voice_tokens" in inputs else inputs["mel"]
    heard = inputs["audio_mask"].reshape(*sound.shape[:2], -1).any(2)
    sides = []
    for rows, side, kind, mask in (
        (face, "face", "face", inputs["video_mask"]),
        (sound, "mel", "voice", heard),
    ):
        own = (rows - inputs[f"{kind}_baseline"][:, None]) * inputs[f"{kind}_weight"][:, None, None]
        both = np.where(mask[..., None], np.concatenate([rows, own], axis=2), 0)
        sides.append((np.tanh(both @ weights[f"{side}_in"]) * weights[f"{side}_time"]).sum(axis=1))
    joint = np.concatenate(sides, axis=1)
    answers: Weights = {"answer_logits": (joint @ weights["out"]).reshape(-1, 3, 7)}
    if "rate" in weights:
        rated = np.tanh(joint @ weights["rate"])
        answers["answer_attributes"] = rated.reshape(weights["rate_shape"])
    return answers


def _parity(
    rng: np.random.Generator, ticks: int, bins: int, encoder: Weights, window: Weights, voice: bool
) -> Weights:
    crop = np.rint(rng.uniform(0, 255, (3, 1, 112, 112))).astype(np.float32)
    flow = rng.standard_normal((3, 2, 56, 56)).astype(np.float32) * 30
    face = crop.reshape(3, 7, 16, 7, 16).mean(axis=(2, 4), dtype=np.float64).reshape(3, 49) - 128
    motion = flow.reshape(3, 2, 7, 8, 7, 8).mean(axis=(3, 5), dtype=np.float64).reshape(3, 98)
    v, o = np.tanh(face @ encoder["face_weight"]), np.tanh(motion @ encoder["motion_weight"])
    inputs: Weights = {
        "v": rng.standard_normal((3, ticks, V)).astype(np.float32),
        "o": rng.standard_normal((3, ticks, O)).astype(np.float32),
        "video_mask": rng.random((3, ticks)) < 0.8,
        "face_baseline": rng.standard_normal((3, V + O)).astype(np.float32),
        "face_weight": np.array([0, 0.5, 0.9], dtype=np.float32),
        "mel": rng.standard_normal((3, bins, BANDS)).astype(np.float32) * 3 - 8,
        "audio_mask": rng.random((3, bins)) < 0.9,
        "voice_baseline": rng.standard_normal((3, BANDS)).astype(np.float32) - 8,
        "voice_weight": np.array([0, 0.5, 0.9], dtype=np.float32),
    }
    inputs["video_mask"][1] = False
    if voice:
        del inputs["mel"]
        inputs["voice_tokens"] = rng.standard_normal((3, bins // STEP, SAID + STEP * BANDS)).astype(
            np.float32
        )
        inputs["voice_baseline"] = rng.standard_normal((3, SAID + STEP * BANDS)).astype(np.float32)
    answers = {"answer_v": v, "answer_o": o, "answer_expression": v @ encoder["expression_weight"]}
    answers |= _window_answers(inputs, window)
    return {"crop": crop, "flow": flow, **{f"window_{k}": a for k, a in inputs.items()}, **answers}


def write_bundle(folder: Path, *, seconds: float = 4, tick_hz: int = 15, **changes: Any) -> Path:
    """Write the bundle into `folder`; `changes` go over the manifest's keys.

    With `attributes` among them the window model has that output too; with `voice` it takes voice tokens.
    """
    rng = np.random.default_rng(7)
    ticks, bins = round(seconds * tick_hz), round(seconds * 100)
    attributes = len(changes.get("attributes", []))
    voice = "voice" in changes
    encoder, window = _encoder_weights(rng), _window_weights(rng, ticks, bins, attributes, voice)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frame_encoder.onnx").write_bytes(_graph(FRAME_ENCODER, encoder))
    (folder / "window_model.onnx").write_bytes(_graph(_window_graph(ticks, bins, attributes, voice), window))
    if voice:
        (folder / "voice_encoder.onnx").write_bytes(voice_graph(voice_weights(rng)))
    np.savez(folder / "parity.npz", **_parity(rng, ticks, bins, encoder, window, voice))
    manifest = {
        "schema": 1,
        "name": "small",
        "version": "1",
        "labels": LABELS,
        "attributes": [],
        "heads": ["video", "audio", "fused"],
        "lead": "fused",
        "temperatures": {"video": 1.5, "audio": 1.2, "fused": 1.0},
        "crop": asdict(CropParams()),
        "window": {"seconds": seconds, "tick_hz": tick_hz, "mel_hz": 100},
        "mel": asdict(MelParams()),
        "flow": asdict(FlowParams()),
        "tokens": {"appearance": V, "motion": O},
        "baseline": {
            "prior_s": 2.0,
            "tau_s": 60.0,
            "voice_floor": 3.5,
            "face_mean": [0.0] * (V + O),
            "voice_mean": [0.0] * SAID + [-2.7] * STEP * BANDS if voice else [-8.0] * BANDS,
        },
        "graphs": {"frame_encoder": "frame_encoder.onnx", "window_model": "window_model.onnx"},
        "parity": {"file": "parity.npz"},
        "sound": "voice_tokens" if voice else "mel",
        "training": {},
        "licence": "none",
        **changes,
    }
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> Path:
    """Write the manifest with the digests of the files as they now are."""
    files = sorted(file for file in folder.iterdir() if file.name != "manifest.json")
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": digests}))
    return folder
