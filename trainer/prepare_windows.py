"""`python -m trainer.prepare_windows --config FILE --clips DIR --out DIR`: moving faces to tokens and flow.

The appearance encoder is trained before and stays, so its tokens are computed once; flow is the engine's
own. Writes `v.npy`, `flow.npy` and `clips.npz`, read by `trainer.clip_tokens.open_clips`. A configuration
that names `sets` needs no such command: its training makes what is missing (`trainer.prepared_sets`).
"""

import argparse
import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from rich.progress import track
from torch import Tensor

import engine.signals.flow
from engine.signals.flow import Flow, FlowParams
from trainer.clip_sets import StoredClip, load_metas, load_shards
from trainer.configuration import add_config, read_config
from trainer.data.sound import attribute_table, open_cache
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.labels import LABELS
from trainer.model.de3 import new_frame_encoder
from trainer.model.frame_encoder import FrameEncoder
from trainer.start import start_encoder
from trainer.take_store import digest

AT_ONCE = 128
MADE = "made.json"
"""What tokens and flow were made with."""


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
    write_tokens(load_frame_encoder(config), flow_params(config), names, clips, out)


def write_tokens(
    encoder: FrameEncoder, flow: FlowParams, voices: Sequence[str], clips: Path, out: Path
) -> None:
    """Tokens and flow of a whole set, and what they were made with; an array is on disk as soon as made.

    voices: the names in the cache that its sound is in.
    """
    told = described(encoder, flow)
    encoder, tool = encoder.to(memory_format=torch.channels_last), Flow(flow)
    places: dict[str | None, int] = {name: i for i, name in enumerate(voices)} | {None: NO_TAKE}
    ticks = [count for count, _ in load_metas(clips)]
    starts = np.cumsum(ticks) - ticks
    seen, rated = np.zeros(sum(ticks), bool), []
    rows: dict[str, list[int]] = {"labels": [], "voices": [], "groups": []}
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: out / f"part_{name}" for name in ("v.npy", "flow.npy")}
    tokens: np.ndarray | None = None
    motion = open_memmap(parts["flow.npy"], "w+", np.float16, (len(seen), 2, flow.size, flow.size))
    for start, stored in zip(
        starts, track(load_shards(clips), f"faces of {clips}", total=len(ticks)), strict=True
    ):
        here = slice(start, start + len(stored.clip.seen))
        own = appearance_tokens(encoder, stored.clip.crops)
        if tokens is None:
            tokens = open_memmap(parts["v.npy"], "w+", np.float16, (len(seen), own.shape[1]))
        tokens[here], motion[here], seen[here] = own, flows(stored, tool), stored.clip.seen
        rated.append(stored.meta.get("attributes", {}))
        group = stored.meta["group"]
        label = stored.meta["label"]
        rows["labels"].append(NO_LABEL if label is None else LABELS.index(label))
        rows["voices"].append(places[stored.meta["voice"]])
        rows["groups"].append(-1 if group is None else int(group))
    index: dict[str, np.ndarray] = {name: np.array(values, np.int64) for name, values in rows.items()}
    index["attribute_names"], index["attributes"] = attribute_table(rated)
    del tokens, motion  # written out
    for stale in (MADE, "clips.npz"):
        (out / stale).unlink(missing_ok=True)
    for name, part in parts.items():  # whoever reads the earlier ones keeps them
        part.replace(out / name)
    np.savez(out / "clips.npz", seen=seen, starts=starts, ticks=np.array(ticks, np.int64), **index)
    (out / MADE).write_text(json.dumps(told))


def flow_params(config: dict[str, Any]) -> FlowParams:
    """The flow that the configuration's frame encoder takes."""
    return FlowParams(size=config["frame_encoder"]["flow_size"])


def described(encoder: FrameEncoder, flow: FlowParams) -> dict[str, Any]:
    """Everything that shapes tokens and flow but the pictures themselves, as plain values."""
    return {
        "encoder": appearance_digest(encoder),
        "flow": asdict(flow),
        "code": digest(inspect.getsource(engine.signals.flow)),
    }


def appearance_digest(encoder: FrameEncoder) -> str:
    """Tokens of the same pictures differ with the appearance encoder alone."""
    content = hashlib.sha256()
    for name, weight in sorted(encoder.appearance.state_dict().items()):
        content.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:12]


def refuse_others(config: dict[str, Any], clips: Path) -> None:
    """Raises ValueError where these tokens come from another frame encoder than the configuration's.

    Of tokens that an earlier version made nobody knows; that is said.
    """
    made = clips / MADE
    if not made.is_file():
        said = f"{clips} does not tell its frame encoder; if in doubt run trainer.prepare_windows again."
        print(said, file=sys.stderr)
        return
    if json.loads(made.read_text()).get("encoder") != appearance_digest(load_frame_encoder(config)):
        raise ValueError(
            f"{clips} comes from another frame encoder than the configuration's: "
            "run trainer.prepare_windows again."
        )


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
