"""`python -m trainer.prepare_windows --config FILE --clips DIR --out DIR`: moving faces to tokens and flow.

The appearance encoder is trained before and stays, so its tokens are computed once; flow is the engine's
own. Writes `v.npy`, `flow.npy` and `clips.npz`, read by `trainer.clip_tokens.open_clips`. A configuration
that names `sets` needs no such command: its training makes what is missing (`trainer.prepared_sets`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from engine.signals.flow import Flow, FlowParams
from trainer.clip_sets import StoredClip, load_shards
from trainer.data.sound import attribute_table, open_cache
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.labels import LABELS
from trainer.model.de3 import new_frame_encoder
from trainer.model.frame_encoder import FrameEncoder
from trainer.start import add_config, read_config, start_encoder

AT_ONCE = 128


def load_frame_encoder(config: dict[str, Any]) -> FrameEncoder:
    """The frame encoder that the configuration's training starts from, ready to infer.

    With a frame_extractor it needs no weights, as only tokens of the appearance are made. Raises ValueError
    where its file is missing or does not fit.
    """
    encoder = new_frame_encoder(config)
    if "start_weights" in config:
        file = Path(config["start_weights"])
    elif "start_bundle" in config:
        file = Path(config["start_bundle"]) / "model.safetensors"
    elif "frame_encoder_weights" in config or "frame_extractor" not in config:
        file = Path(config["frame_encoder_weights"])
    else:
        return encoder.eval()
    start_encoder(encoder, file)
    return encoder.eval()


@torch.inference_mode()
def appearance_tokens(encoder: FrameEncoder, crops: np.ndarray) -> np.ndarray:
    """(T, 112, 112) uint8 to (T, V) float16, where the encoder is."""
    parts: list[Tensor] = []
    device = encoder.expression.weight.device
    for start in range(0, len(crops), AT_ONCE):
        batch = torch.from_numpy(crops[start : start + AT_ONCE, None]).to(device).float()
        parts.append(encoder.appearance(batch.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts).cpu().numpy().astype(np.float16)


def flows(clip: StoredClip, flow: Flow) -> np.ndarray:
    """(T, 2, 56, 56) float16, zero where the tick was lost."""
    faces = clip.clip
    size = flow.params.size
    result = np.zeros((len(faces.crops), 2, size, size), np.float16)
    for tick in np.flatnonzero(faces.seen):
        result[tick] = flow.pair(faces.previous[tick], faces.crops[tick], int(faces.gap_ns[tick]))
    return result


def prepare(config: dict[str, Any], clips: Path, out: Path) -> None:
    """Tokens and flow of a whole set."""
    names = open_cache(Path(config["cache"])).names.tolist()
    write_tokens(load_frame_encoder(config), names, clips, out)


def write_tokens(encoder: FrameEncoder, voices: Sequence[str], clips: Path, out: Path) -> None:
    """Tokens and flow of a whole set; voices: the names in the cache that its sound is in."""
    encoder, flow = encoder.to(memory_format=torch.channels_last), Flow(FlowParams())
    places: dict[str | None, int] = {name: i for i, name in enumerate(voices)} | {None: NO_TAKE}
    tokens, motion, seen, rated = [], [], [], []
    rows: dict[str, list[int]] = {"ticks": [], "labels": [], "voices": [], "groups": []}
    for stored in track(load_shards(clips), f"faces of {clips}"):
        tokens.append(appearance_tokens(encoder, stored.clip.crops))
        motion.append(flows(stored, flow))
        seen.append(stored.clip.seen)
        rated.append(stored.meta.get("attributes", {}))
        group = stored.meta["group"]
        rows["ticks"].append(len(stored.clip.seen))
        label = stored.meta["label"]
        rows["labels"].append(NO_LABEL if label is None else LABELS.index(label))
        rows["voices"].append(places[stored.meta["voice"]])
        rows["groups"].append(-1 if group is None else int(group))
    index: dict[str, np.ndarray] = {name: np.array(values, np.int64) for name, values in rows.items()}
    index["attribute_names"], index["attributes"] = attribute_table(rated)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "v.npy", np.concatenate(tokens))
    np.save(out / "flow.npy", np.concatenate(motion))
    starts = np.cumsum(index["ticks"]) - index["ticks"]
    np.savez(out / "clips.npz", seen=np.concatenate(seen), starts=starts, **index)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare_windows", description=__doc__.splitlines()[0]
    )
    add_config(parser, "of the windows stage")
    parser.add_argument("--clips", type=Path, required=True, help="a set written by trainer.clip_sets")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = read_config(arguments.config, arguments.settings)
    if "sets" in config:
        parser.exit(2, "This configuration names sets: its training makes what they lack.\n")
    prepare(config, arguments.clips, arguments.out)


if __name__ == "__main__":
    main()
