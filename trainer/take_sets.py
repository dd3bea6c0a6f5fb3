"""Kept takes into what the trainer reads: shards of faces by split, and one cache of voices.

Faces go to `OUT/faces/SPLIT` in the format of `trainer.clip_sets` (their `meta` has also `split`, `file`,
`attributes` and `shares`; `label` may be null, and so may `voice`, where there is no sound), voices to
`OUT/voices` in that of `trainer.data.sound`. What is already there for the same takes and settings stays. It
knows nothing of media.
"""

import json
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from trainer.clip_sets import SHARD_CLIPS, save_shard
from trainer.data.sound import store_voices
from trainer.data.takes import Take
from trainer.take_store import Store, digest

FORMAT = 1
SET = "set.json"
Told = Callable[[], None]


def write_voices(store: Store, takes: Sequence[Take], folder: Path) -> bool:
    """One cache of the sound of all takes; returns whether it had to be written.

    Without takes there is no cache, and one that was there goes.
    """
    if not takes:
        for stale in (SET, "voices.npz", "mel.npz"):
            (folder / stale).unlink(missing_ok=True)
        return False
    said = {
        "format": FORMAT,
        "takes": len(takes),
        "digest": _digest(store, takes, [_meta(take, 0) for take in takes]),
    }
    if _is_there(folder, said):
        return False
    (folder / SET).unlink(missing_ok=True)
    store_voices(takes, [store.sizes(take)[1] for take in takes], map(store.samples, takes), folder)
    (folder / SET).write_text(json.dumps(said), encoding="utf-8")
    return True


def write_faces(store: Store, takes: Sequence[Take], heard: Set[str], folder: Path, told: Told) -> bool:
    """Shards of the takes of one split, all with a face; returns whether they had to be written.

    heard: names of the takes whose sound is among the voices. folder: named as the split. A group is one
    speaker: the same face before the same camera. told is called after each take. Without takes there is no
    set, and one that was there goes.
    """
    if not takes:
        (folder / SET).unlink(missing_ok=True)
        return False
    speakers = sorted({take.speaker for take in takes})
    metas = [_meta(take, speakers.index(take.speaker)) | {"index": i} for i, take in enumerate(takes)]
    for meta in metas:
        meta["voice"] = meta["voice"] if meta["voice"] in heard else None
    said = {
        "format": FORMAT,
        "split": folder.name,
        "clips": len(takes),
        "digest": _digest(store, takes, metas),
    }
    if _is_there(folder, said):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SET).unlink(missing_ok=True)
    for old in folder.glob("*shard_*.npz"):
        old.unlink()
    for shard, start in enumerate(range(0, len(takes), SHARD_CLIPS)):
        clips = []
        for take in takes[start : start + SHARD_CLIPS]:
            clips.append(store.clip(take))
            told()
        save_shard(folder, shard, clips, metas[start : start + SHARD_CLIPS])
    (folder / SET).write_text(json.dumps(said), encoding="utf-8")
    return True


def _digest(store: Store, takes: Sequence[Take], metas: list[dict[str, Any]]) -> str:
    """Of what is said of the takes, and of their kept files, whose names change with the recordings."""
    return digest(store.key, [store.file(take).name for take in takes], metas)


def _is_there(folder: Path, said: dict[str, Any]) -> bool:
    file = folder / SET
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == said


def _meta(take: Take, group: int) -> dict[str, Any]:
    return {
        "voice": take.name,
        "corpus": take.corpus,
        "speaker": take.speaker,
        "label": take.label,
        "split": take.split,
        "mode": "recording",
        "still": None,
        "still_label": None,
        "group": group,
        "file": take.file.name,
        "attributes": dict(take.attributes),
        "shares": dict(take.shares),
    }
