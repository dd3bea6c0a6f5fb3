"""`python -m trainer.prepare_windows --config FILE --clips DIR --out DIR`: moving faces to tokens and flow.

The appearance encoder is trained before and stays, so its tokens are computed once; flow is the engine's
own. Writes `v.npy`, `flow.npy` and `clips.npz`, read by `trainer.window_batches.open_clips`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from engine.signals.flow import Flow, FlowParams
from trainer.clip_sets import StoredClip, load_shards
from trainer.data.sound import open_cache
from trainer.data.takes import NO_LABEL
from trainer.labels import LABELS
from trainer.model.frame_encoder import FrameEncoder
from trainer.start import read_config, start_encoder

AT_ONCE = 128


def load_frame_encoder(config: dict[str, Any]) -> FrameEncoder:
    """The frame encoder that the configuration's training starts from, ready to infer.

    Raises ValueError where its file is missing or does not fit.
    """
    encoder = FrameEncoder(**config["frame_encoder"])
    if "start_weights" in config:
        file = Path(config["start_weights"])
    elif "start_bundle" in config:
        file = Path(config["start_bundle"]) / "model.safetensors"
    else:
        file = Path(config["frame_encoder_weights"])
    start_encoder(encoder, file)
    return encoder.eval()


@torch.inference_mode()
def appearance_tokens(encoder: FrameEncoder, crops: np.ndarray) -> np.ndarray:
    """(T, 112, 112) uint8 to (T, V) float16."""
    parts: list[Tensor] = []
    for start in range(0, len(crops), AT_ONCE):
        batch = torch.from_numpy(crops[start : start + AT_ONCE, None]).float()
        parts.append(encoder.appearance(batch.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts).numpy().astype(np.float16)


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
    encoder, flow = load_frame_encoder(config).to(memory_format=torch.channels_last), Flow(FlowParams())
    places = {name: i for i, name in enumerate(open_cache(Path(config["cache"])).names.tolist())}
    tokens, motion, seen = [], [], []
    rows: dict[str, list[int]] = {"ticks": [], "labels": [], "voices": [], "groups": []}
    for stored in track(load_shards(clips), "clips"):
        tokens.append(appearance_tokens(encoder, stored.clip.crops))
        motion.append(flows(stored, flow))
        seen.append(stored.clip.seen)
        group = stored.meta["group"]
        rows["ticks"].append(len(stored.clip.seen))
        label = stored.meta["label"]
        rows["labels"].append(NO_LABEL if label is None else LABELS.index(label))
        rows["voices"].append(places[stored.meta["voice"]])
        rows["groups"].append(-1 if group is None else int(group))
    index = {name: np.array(values, np.int64) for name, values in rows.items()}
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "v.npy", np.concatenate(tokens))
    np.save(out / "flow.npy", np.concatenate(motion))
    starts = np.cumsum(index["ticks"]) - index["ticks"]
    np.savez(out / "clips.npz", seen=np.concatenate(seen), starts=starts, **index)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare_windows", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--config", type=Path, required=True, help="of the windows stage")
    parser.add_argument("--clips", type=Path, required=True, help="a set written by trainer.clip_sets")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    prepare(read_config(arguments.config), arguments.clips, arguments.out)


if __name__ == "__main__":
    main()
