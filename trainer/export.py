"""`python -m trainer.export --config FILE`: a trained network becomes a bundle.

Writes the two ONNX graphs, the weights (matrices at half precision, to start other trainings from),
parity samples with PyTorch's answers, the card and the manifest with every file's digest. Knows nothing
of training; what live use must share with it comes from the configuration and the engine's parameters.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.bundle import DEFAULT_BUNDLE
from engine.signals.align import TEMPLATE
from engine.signals.flow import FlowParams
from engine.signals.sound import MelParams
from engine.signals.voice import STEP
from trainer.carried_faces import carry, faces_of
from trainer.checkpoint import best_of
from trainer.configuration import AFTERWARDS, add_config, read_config, run_folder
from trainer.graph_files import ROUNDED_FROM, write_graph
from trainer.labels import HEADS, LABELS
from trainer.model.de3 import DE3, sound_kind
from trainer.prepare_voices import VOICE_FLOOR
from trainer.report_card import pictures as shown
from trainer.start import fill, read_weights
from trainer.take_store import file_digest
from trainer.window_batches import BINS, HOP, MEL_HZ, PRIOR_S, TAU_S, TICK_HZ, TICKS

FRAME_INPUTS, FRAME_OUTPUTS = ("crop", "flow"), ("v", "o", "expression")
FACE_INPUTS = ("v", "o", "video_mask", "face_baseline", "face_weight")
VOICE_INPUTS = ("audio_mask", "voice_baseline", "voice_weight")
"""Of the window model, before and after the sound itself."""
LICENCE = "CC-BY-NC-SA-4.0"
VOICE = "voice_encoder.onnx"
FILES = ("frame_encoder.onnx", "window_model.onnx", "parity.npz", "model.safetensors", "CARD.md")
NETWORK = ("frame_encoder", "window_model", "attributes", "frame_extractor", "sound_extractor")
PARITY_WINDOWS, PARITY_FRAMES = 4, 6


def load_network(config: dict[str, Any], weights: Path) -> DE3:
    """The network of a configuration with trained weights, ready to infer.

    Raises ValueError where the file is missing or does not fit.
    """
    network, state = DE3(config), read_weights(weights)
    if strange := sorted(state.keys() - network.state_dict().keys()):
        raise ValueError(f"{weights} does not fit: the configuration's network has no {strange[0]}.")
    fill(network, state, weights, optional=("window_model.still_expression.",))
    network.take_expression()
    return network.eval()


def export(
    config: dict[str, Any],
    network: DE3,
    out: Path,
    *,
    name: str,
    version: str,
    card: str,
    training: dict[str, Any],
    licence: str = LICENCE,
    pictures: Sequence[Path] = (),
) -> None:
    """Write the bundle and its pictures; the manifest comes last, so that half a folder never loads."""
    out.mkdir(parents=True, exist_ok=True)
    halves, sound = _halved(network), sound_kind(config)
    inputs, (frames, windows) = (*FACE_INPUTS, sound, *VOICE_INPUTS), _samples(network, sound)
    encoder, rounded = out / "frame_encoder.onnx", None if "frame_extractor" in config else ROUNDED_FROM
    write_graph(network.frame_encoder, frames, encoder, FRAME_INPUTS, FRAME_OUTPUTS, rounded)
    attributes = config.get("attributes", [])
    outputs = ("logits", "attention_video", "attention_audio", *(["attributes"] if attributes else []))
    write_graph(network.window_model, windows, out / "window_model.onnx", inputs, outputs)
    voice, carried = _carried_voice(config, out), [each.name for each in pictures]
    np.savez_compressed(out / "parity.npz", **_parity(network, frames, windows, inputs))
    save_file(halves, out / "model.safetensors")
    (out / "CARD.md").write_text(card)
    for picture in pictures:
        shutil.copyfile(picture, out / picture.name)
    manifest = {
        "schema": 1,
        "name": name,
        "version": version,
        "labels": LABELS,
        "attributes": attributes,
        "attribute_ranges": config.get("attribute_ranges", {}),
        "heads": HEADS,
        "lead": config.get("lead", "fused"),
        "temperatures": dict(zip(HEADS, network.temperatures.tolist(), strict=True)),
        **{key: config[key] for key in AFTERWARDS if key in config},
        **voice,
        "crop": {"size": 112, "channels": 1, "template": np.asarray(TEMPLATE).tolist()},
        "window": {"seconds": TICKS / TICK_HZ, "tick_hz": TICK_HZ, "mel_hz": MEL_HZ},
        "sound": sound,
        "mel": asdict(MelParams()),
        "flow": asdict(FlowParams()),
        "tokens": {k: config["frame_encoder"][k] for k in ("appearance", "motion")},
        "baseline": {
            "prior_s": PRIOR_S,
            "tau_s": TAU_S,
            "voice_floor": VOICE_FLOOR,
            "face_mean": network.face_mean.tolist(),
            "voice_mean": network.voice_mean.tolist(),
        },
        "graphs": {"frame_encoder": "frame_encoder.onnx", "window_model": "window_model.onnx"},
        "parity": {"file": "parity.npz"},
        "training": training,
        "network": {k: config[k] for k in NETWORK if k in config},
        "licence": licence,
        "files": {file: file_digest(out / file) for file in (*FILES, *carried, *([VOICE] if voice else []))},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _halved(network: DE3) -> dict[str, Tensor]:
    """The weights as a bundle keeps them, matrices at half precision, to which the network's are rounded: so
    that its graphs hold the same."""
    halves = {k: t.half() if t.ndim > 1 else t for k, t in network.state_dict().items()}
    network.load_state_dict({k: t.to(network.state_dict()[k].dtype) for k, t in halves.items()})
    return {k: t.contiguous() for k, t in halves.items()}


def _carried_voice(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Put the voice encoder into the bundle, if the network takes its tokens, and what the manifest says."""
    width = config["window_model"].get("voice_token")
    if not width:
        return {}
    source, target = Path(config["voice_encoder"]), out / VOICE
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
    return {"voice": {"encoder": VOICE, "width": width}}


def _parity(
    network: DE3, frames: tuple[Tensor, ...], windows: tuple[Tensor, ...], inputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """The inputs of both graphs, the window model's by name, and what PyTorch answers."""
    with torch.inference_mode():
        v, o, expression = network.frame_encoder(*frames)
        logits, _, _, *attributes = network.window_model(*windows)
    names = ("crop", "flow", *(f"window_{name}" for name in inputs))
    samples = dict(zip(names, (*frames, *windows), strict=True))
    samples |= {"answer_v": v, "answer_o": o, "answer_expression": expression, "answer_logits": logits}
    if attributes:
        samples["answer_attributes"] = attributes[0]
    return {name: tensor.numpy() for name, tensor in samples.items()}


def _samples(network: DE3, sound: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs of both graphs, drawn from a seed: smooth blots, sound around its mean, all kinds of masks."""
    torch.manual_seed(405)
    count = PARITY_FRAMES
    crop = nn.functional.interpolate(torch.rand(count, 1, 9, 9) * 255, (112, 112), mode="bicubic").clamp(
        0, 255
    )
    flow = nn.functional.interpolate(torch.randn(count, 2, 7, 7) * 30, (56, 56), mode="bilinear")
    batch = PARITY_WINDOWS
    tokens = len(network.face_mean)
    appearance = network.frame_encoder.expression.in_features
    v, o = torch.randn(batch, TICKS, appearance), torch.randn(batch, TICKS, tokens - appearance)
    heard = network.voice_mean + 2 * torch.randn(batch, BINS, len(network.voice_mean))
    if sound == "waveform":
        heard = torch.randn(batch, BINS * HOP) / 10
    if sound == "voice_tokens":
        heard = network.voice_mean + torch.randn(batch, BINS // STEP, len(network.voice_mean))
        heard = heard.half().float()  # what half a number says takes half the room in the file
    video_mask, audio_mask = torch.rand(batch, TICKS) < 0.8, torch.rand(batch, BINS) < 0.9
    video_mask[1], audio_mask[2] = False, False
    audio_mask[3, : BINS // 2] = False
    face = network.face_mean + 0.3 * torch.randn(batch, tokens)
    voice = network.voice_mean + 0.3 * torch.randn(batch, len(network.voice_mean))
    weights = torch.linspace(0, 0.95, batch)
    return (crop, flow), (v, o, video_mask, face, weights, heard, audio_mask, voice, weights.clone())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description=__doc__.splitlines()[0])
    add_config(parser, "the configuration that trained the weights")
    parser.add_argument("--weights", type=Path, help="default: runs/NAME/calibrated.safetensors")
    parser.add_argument("--out", type=Path, help="folder of the bundle; default: runs/NAME/bundle")
    parser.add_argument("--card", type=Path, help="Markdown: on what, how well, what it cannot do, licence")
    parser.add_argument(
        "--faces", type=Path, default=DEFAULT_BUNDLE, help="bundle whose face finder it carries on"
    )
    parser.add_argument("--version", default="1")
    parser.add_argument(
        "--licence", default=LICENCE, metavar="NAME",
        help=f"of the weights (default: {LICENCE}, which all that goes on from the bundled model keeps)",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.settings)
        weights = arguments.weights or calibrated(run_folder(config))
        network = load_network(config, weights)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    out = arguments.out or run_folder(config) / "bundle"
    faces = faces_of(arguments.faces)  # before they are written over, if it is exported onto itself
    card = f"# {config['name']}\n\nLicence: {arguments.licence}\n"
    if arguments.card:
        card = arguments.card.read_text()
    training = {
        "config": config,
        "weights_sha256": file_digest(weights),
        "best_epoch": best_epoch(weights),
    }
    export(
        config,
        network,
        out,
        name=config["name"],
        version=arguments.version,
        card=card,
        training=training,
        licence=arguments.licence,
        pictures=[arguments.card.parent / name for name in shown(card)] if arguments.card else (),
    )
    carry(arguments.faces, out, faces)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB; it runs with: python -m realtime.run --bundle {out}")


def best_epoch(weights: Path) -> dict[str, float] | None:
    """Figures of the epoch that weights are of; None where they are not those of the best one beside them."""
    best, history = weights.with_name("best.safetensors"), weights.with_name("history.jsonl")
    if not (best.is_file() and history.is_file()):
        return None
    shipped, kept = read_weights(weights), read_weights(best)
    learned = kept.keys() - {"temperatures"}  # which trainer.calibrate puts in
    if not all(name in shipped and torch.equal(shipped[name], kept[name]) for name in learned):
        return None
    return best_of([json.loads(line) for line in history.read_text().splitlines()])


def calibrated(run: Path) -> Path:
    """The weights of a run with their temperatures. Raises ValueError where there are none, or older ones."""
    best, found = run / "best.safetensors", run / "calibrated.safetensors"
    if not found.is_file() or (best.is_file() and best.stat().st_mtime_ns > found.stat().st_mtime_ns):
        raise ValueError(
            f"{run} has no temperatures for its best weights: run trainer.calibrate, or name --weights."
        )
    return found


if __name__ == "__main__":
    main()
