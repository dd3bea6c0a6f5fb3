"""The sets that a configuration trains on, and what they still lack for it.

`sets = ["data/mine", "data/crema_d"]` names folders as `trainer.prepare` writes them (`voices`,
`faces/SPLIT`); one training learns from all of them. What it needs beside, voices through microphones
and the tokens of faces, is made once: `SET/voices/mel.*` and `SET/tokens/ENCODER/SPLIT`, named by the frame
encoder they come from. Without `sets`, a configuration names `cache`, `clips` and `dev_clips` itself. It
knows nothing of networks but that encoder. Data leaves as `SetFolders`.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.signals.flow import FlowParams
from trainer import prepare_voices
from trainer.clip_sets import load_metas
from trainer.data.sound import open_cache
from trainer.model.de3 import sound_kind
from trainer.model.frame_encoder import FrameEncoder
from trainer.prepare_windows import (
    MADE,
    appearance_digest,
    described,
    flow_params,
    load_frame_encoder,
    refuse_others,
    write_tokens,
)
from trainer.set_union import SetFolders, refuse_in_two_splits
from trainer.take_store import digest, file_digest
from trainer.voice_tokens import make_tokens

FORMAT = 1
SESSIONS = 5
SHARDS = "faces.json"
"""What of the set the tokens were made from."""


def training_sets(config: dict[str, Any]) -> list[SetFolders]:
    """Where the configuration's training takes windows from. Raises ValueError as `dev_sets`."""
    if "sets" not in config:
        return [_named(config, "clips")]
    return _folders(config, config["splits"])


def voice_sets(config: dict[str, Any]) -> list[SetFolders]:
    """Where training and validation take voices from, without faces."""
    if "sets" not in config:
        return [SetFolders(Path(config["cache"]), ())]
    return [SetFolders(_voices(Path(folder)), ()) for folder in config["sets"]]


def dev_sets(config: dict[str, Any], split: str = "dev") -> list[SetFolders]:
    """Where validation takes them from; of `sets` also another split may be asked for.

    Raises ValueError where the tokens that the configuration names come from another frame encoder.
    """
    if "sets" not in config:
        return [_named(config, "dev_clips")]
    return _folders(config, (split,))


def learned_from(config: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that tell what a training learns from, by their names.

    Who is heard and seen with which label, and how all was made; not the tokens and sounds themselves, whose
    last bits are another processor's where they are made anew.
    """
    files = [Path(file) for file in config.get("teachers", ())]
    if "start_bundle" in config:
        files.append(Path(config["start_bundle"]) / "manifest.json")
    if config["stage"] == "stills":
        files += [Path(config["cache"]) / name for name in (*config["train"], config["dev"])]
    else:
        files += _indices(config)
    return {file.as_posix(): file_digest(file) for file in files if file.is_file()}


def _indices(config: dict[str, Any]) -> list[Path]:
    """Of the voices and the moving faces."""
    if "sets" in config:
        sets = _folders(config, (*config["splits"], "dev"))
    else:
        named = [Path(config[key]) for key in ("clips", "dev_clips") if config["stage"] == "windows"]
        sets = [SetFolders(Path(config["cache"]), tuple(named))]
    made = ["voice_tokens.json"] if sound_kind(config) == "voice_tokens" else []
    return [
        folder / name
        for each in sets
        for folder, index in ((each.voices, "voices.npz"), *((clips, "clips.npz") for clips in each.clips))
        if folder is not None
        for name in (index, MADE, *made)
    ]


def shown_split(config: dict[str, Any]) -> str:
    """The split to show figures of: "test" where a set of the configuration has faces in it, else "dev"."""
    there = "sets" in config and any(each.clips for each in dev_sets(config, "test"))
    return "test" if there else "dev"


def make_ready(config: dict[str, Any], jobs: int | None = None, device: torch.device | None = None) -> None:
    """Makes what the configuration's `sets` lack, if it names any, and the voice tokens of its `cache`.

    device: that computes tokens; without one, the CPU.

    Raises ValueError where one of them is no folder that `trainer.prepare` wrote, a speaker, heard or seen,
    is in two splits, or the log-mel of one was made varied, which no training makes.
    """
    if "sets" not in config:
        if sound_kind(config) == "voice_tokens":
            make_tokens(Path(config["cache"]), Path(config["voice_encoder"]), jobs)
        return
    known: list[tuple[str, str]] = []
    for folder in map(Path, config["sets"]):
        voices, faces = _voices(folder), sorted((folder / "faces").glob("*/set.json"))
        if voices is None and not faces:
            raise ValueError(
                f"{folder} holds no voices and no faces: run trainer.prepare with --out {folder}."
            )
        known += _speakers(voices, faces)
    refuse_in_two_splits(known)
    for folder in map(Path, config["sets"]):
        voices, faces = _voices(folder), sorted((folder / "faces").glob("*/set.json"))
        if voices is not None:
            _make_mel(config, voices, jobs or os.cpu_count() or 1)
        if config["stage"] != "windows":
            continue
        encoder = load_frame_encoder(config)
        names = [] if voices is None else open_cache(voices).names.tolist()
        tokens, flow = _tokens(folder, encoder), flow_params(config)
        encoder = encoder.to(device or "cpu")
        for told in faces:
            _make_tokens(encoder, flow, names, told, tokens / told.parent.name)


def _speakers(voices: Path | None, faces: Sequence[Path]) -> list[tuple[str, str]]:
    """Everybody of a set and the split in which somebody is, heard or seen."""
    known = {(meta["speaker"], told.parent.name) for told in faces for _, meta in load_metas(told.parent)}
    if voices is not None:
        heard = open_cache(voices)
        known |= set(zip(heard.speakers.tolist(), heard.splits.tolist(), strict=True))
    return sorted(known)


def _make_mel(config: dict[str, Any], voices: Path, jobs: int) -> None:
    sessions, sound = config.get("sessions", SESSIONS), sound_kind(config)
    if not prepare_voices.is_made(voices, sessions, sound == "waveform"):
        told = voices / prepare_voices.MADE
        if told.is_file() and json.loads(told.read_text()).get("varied"):
            raise ValueError(
                f"{voices} holds log-mel made by trainer.prepare_voices --varied, which sets would make "
                f"anew: name it as cache, without sets, or remove {told}."
            )
        if (voices / "mel.npz").is_file():
            print(f"The log-mel in {voices} was made with other settings; it is made anew.", file=sys.stderr)
        prepare_voices.prepare(voices, open_cache(voices), sessions, jobs, sound == "waveform")
    if sound == "voice_tokens":
        make_tokens(voices, Path(config["voice_encoder"]), jobs)


def _make_tokens(
    encoder: FrameEncoder, flow: FlowParams, names: Sequence[str], told: Path, out: Path
) -> None:
    shards = {"format": FORMAT, "faces": json.loads(told.read_text()), "voices": digest(names)}
    made, note = out / MADE, out / SHARDS
    same = made.is_file() and json.loads(made.read_text()) == described(encoder, flow)
    if same and note.is_file() and json.loads(note.read_text()) == shards:
        return
    if made.is_file():
        print(f"The tokens in {out} were made with other settings or faces; made anew.", file=sys.stderr)
    note.unlink(missing_ok=True)
    write_tokens(encoder, flow, names, told.parent, out)
    note.write_text(json.dumps(shards))


def _named(config: dict[str, Any], key: str) -> SetFolders:
    clips = Path(config[key])
    if config.get("stage") != "voices":  # which reads none of them
        refuse_others(config, clips)
    return SetFolders(Path(config["cache"]), (clips,))


def _folders(config: dict[str, Any], splits: Sequence[str]) -> list[SetFolders]:
    if config.get("stage") == "voices":
        return voice_sets(config)
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
    return folder / "tokens" / appearance_digest(encoder)
