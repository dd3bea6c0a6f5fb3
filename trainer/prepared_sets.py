"""The sets that a configuration trains on, and what they still lack for it.

`sets = ["data/mine", "data/crema_d"]` names folders as `trainer.prepare` writes them (`voices`,
`faces/SPLIT`); one training learns from all of them. What it needs beside, voices through microphones
and the tokens of faces, is made once: `SET/voices/mel.*` and `SET/tokens/ENCODER/SPLIT`, named by the frame
encoder they come from. Without `sets`, a configuration names `cache`, `clips` and `dev_clips` itself. It
knows nothing of networks but that encoder. Data leaves as `SetFolders`.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer import prepare_voices
from trainer.data.sound import open_cache
from trainer.model.de3 import takes_waveform
from trainer.model.frame_encoder import FrameEncoder
from trainer.prepare_windows import load_frame_encoder, write_tokens
from trainer.set_union import SetFolders
from trainer.take_store import digest

FORMAT = 1
SESSIONS = 5
MADE = "made.json"


def training_sets(config: dict[str, Any]) -> list[SetFolders]:
    """Where the configuration's training takes windows from."""
    if "sets" not in config:
        return [SetFolders(Path(config["cache"]), (Path(config["clips"]),))]
    return _folders(config, config["splits"])


def voice_sets(config: dict[str, Any]) -> list[SetFolders]:
    """Where training and validation take voices from, without faces."""
    if "sets" not in config:
        return [SetFolders(Path(config["cache"]), ())]
    return [SetFolders(_voices(Path(folder)), ()) for folder in config["sets"]]


def dev_sets(config: dict[str, Any], split: str = "dev") -> list[SetFolders]:
    """Where validation takes them from; of `sets` also another split may be asked for."""
    if "sets" not in config:
        return [SetFolders(Path(config["cache"]), (Path(config["dev_clips"]),))]
    return _folders(config, (split,))


def shown_split(config: dict[str, Any]) -> str:
    """The split to show figures of: "test" where a set of the configuration has faces in it, else "dev"."""
    there = "sets" in config and any(each.clips for each in dev_sets(config, "test"))
    return "test" if there else "dev"


def make_ready(config: dict[str, Any], jobs: int | None = None, device: torch.device | None = None) -> None:
    """Makes what the configuration's `sets` lack, if it names any.

    device: that computes tokens; without one, the CPU.

    Raises ValueError where one of them is no folder that `trainer.prepare` wrote.
    """
    if "sets" not in config:
        return
    for folder in map(Path, config["sets"]):
        voices, faces = _voices(folder), sorted((folder / "faces").glob("*/set.json"))
        if voices is None and not faces:
            raise ValueError(
                f"{folder} holds no voices and no faces: run trainer.prepare with --out {folder}."
            )
        waveform = takes_waveform(config)
        needed = ("mel.npz", prepare_voices.WAVEFORM) if waveform else ("mel.npz",)
        if voices is not None and not all((voices / name).is_file() for name in needed):
            sessions, processes = config.get("sessions", SESSIONS), jobs or os.cpu_count() or 1
            prepare_voices.prepare(voices, open_cache(voices), sessions, processes, waveform)
        if config["stage"] != "windows":
            continue
        encoder = load_frame_encoder(config)
        names = [] if voices is None else open_cache(voices).names.tolist()
        tokens = _tokens(folder, encoder)
        for described in faces:
            _make_tokens(encoder.to(device or "cpu"), names, described, tokens / described.parent.name)


def _make_tokens(encoder: FrameEncoder, names: Sequence[str], described: Path, out: Path) -> None:
    wanted = {"format": FORMAT, "faces": json.loads(described.read_text()), "voices": digest(names)}
    made = out / MADE
    if made.is_file() and json.loads(made.read_text()) == wanted:
        return
    made.unlink(missing_ok=True)
    write_tokens(encoder, names, described.parent, out)
    made.write_text(json.dumps(wanted))


def _folders(config: dict[str, Any], splits: Sequence[str]) -> list[SetFolders]:
    encoder = load_frame_encoder(config)
    found = []
    for folder in map(Path, config["sets"]):
        there = [split for split in splits if (folder / "faces" / split / "set.json").is_file()]
        tokens = _tokens(folder, encoder)
        found.append(SetFolders(_voices(folder), tuple(tokens / split for split in there)))
    return found


def _voices(folder: Path) -> Path | None:
    return folder / "voices" if (folder / "voices" / "voices.npz").is_file() else None


def _tokens(folder: Path, encoder: FrameEncoder) -> Path:
    """Tokens of the same pictures differ with the appearance encoder alone."""
    content = hashlib.sha256()
    for name, weight in sorted(encoder.appearance.state_dict().items()):
        content.update(name.encode() + weight.numpy().tobytes())
    return folder / "tokens" / content.hexdigest()[:12]
