"""Sets of moving faces on disk: `python -m trainer.moving_faces --root DATA --out DIR --split train`.

Plans which still moves with which voice (seven labels in balance; half of the clips in groups in which one
still, one speaker and one camera go through all labels), makes them in several processes and writes shards.
The same seed gives the same clips, and a broken run goes on where it stopped. `load_shards` reads them back.

A shard `shard_00000.npz` (uncompressed, no pickles) holds clips one after another: `crops` and `previous`
(sum of T, 112, 112) uint8, `gap_ns` (sum of T,) int64, `seen` (sum of T,) bool, `offsets` (n + 1,) int64, and
`meta`, a JSON text: a list of n maps with `index`, `voice` (the take's name), `corpus`, `speaker`, `label`,
`mode`, `still`, `still_label`, `group`.
"""

import argparse
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.errors import FinderError
from engine.signals.face import load_finder
from trainer import augment_video, borrowed_faces, expressions, face_mesh, motion, moving_faces
from trainer.borrowed_faces import Bank
from trainer.data import nemo, ravdess
from trainer.data.sound import RATE_HZ, decode
from trainer.data.takes import Take
from trainer.labels import LABELS
from trainer.motion import HELD_ACTORS, TRAIN_ACTORS, MotionLibrary
from trainer.moving_faces import LONGEST_S, BorrowedStill, Mode, MovingClip, draw_person, make_clip

FORMAT = 1
CODE = (moving_faces, motion, expressions, face_mesh, augment_video, borrowed_faces)
"""What makes a clip: shards of another program are not mixed with those of this one."""
SHARD_CLIPS = 40
GROUP_CLIPS = 8
GROUP_SHARE = 1 / 8  # of the draws; a group is eight clips, so half of the clips are in groups
RESTLESS_SHARE = 0.3  # of the groups start from a still that does not look neutral: resting faces differ


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPlan:
    """Which still moves with which voice. still: position in the bank; voice: position in the list of takes;
    group: number of the person (same voice speaker, face and camera)."""

    index: int
    still: int
    voice: int
    mode: Mode
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequest:
    """What a set is made from; the same request gives the same clips.

    split: of the stills, and of the voices where no speakers are named.
    face_model: YuNet's file, if it is to find the faces of the stills; else the package's finder does.
    speakers: whose voices; of any split.
    """

    root: str
    out: str
    cache: str
    split: str
    clips: int
    seed: int
    face_model: Path | None = None
    speakers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredClip:
    """A clip as read back. meta: see the head of this file."""

    clip: MovingClip
    meta: dict[str, Any]


def voices_of(root: Path, split: str, speakers: Sequence[str] = ()) -> list[Take]:
    """The takes of one split, or of speakers, whose sound may move a face: RAVDESS speech and nEMO.

    Raises ValueError where there is none of a speaker.
    """
    takes = ravdess.list_takes(root / "ravdess") + nemo.list_takes(root / "nemo")
    if not speakers:
        return [take for take in takes if take.split == split]
    if missing := sorted({*speakers} - {take.speaker for take in takes}):
        raise ValueError(f"There is no voice of {missing[0]}.")
    return [take for take in takes if take.speaker in speakers]


def plan_clips(bank: Bank, voices: list[Take], clips: int, rng: np.random.Generator) -> list[ClipPlan]:
    """`clips` plans: groups and single clips mixed, the seven labels in balance.

    Raises ValueError where a label has no still or no voice.
    """
    for index, label in enumerate(LABELS):
        if not len(bank.of_label(index)) or all(take.label != label for take in voices):
            raise ValueError(
                f"there is no still or no voice that is {label}, so the labels cannot be balanced"
            )
    by_speaker: dict[str, dict[str, list[int]]] = {}
    for position, take in enumerate(voices):
        by_speaker.setdefault(take.speaker, {}).setdefault(take.label, []).append(position)
    speakers = sorted(by_speaker)
    counts = dict.fromkeys(LABELS, 0)
    plans: list[ClipPlan] = []
    group = 0
    while len(plans) < clips:
        if rng.random() < GROUP_SHARE:
            members = _group(rng, bank, by_speaker[_one(rng, _fair(rng, speakers))])
        else:
            members = _singles(rng, bank, by_speaker, speakers, min(LABELS, key=lambda name: counts[name]))
        for still, voice, mode in members[: clips - len(plans)]:
            counts[voices[voice].label] += 1
            plans.append(ClipPlan(index=len(plans), still=still, voice=voice, mode=mode, group=group))
        group += 1
    return plans


Member = tuple[int, int, Mode]


def _one(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _fair(rng: np.random.Generator, speakers: list[str]) -> list[str]:
    """The speakers of one set, each set as often as the other."""
    corpus = _one(rng, sorted({name.partition("/")[0] for name in speakers}))
    return [name for name in speakers if name.startswith(corpus)]


def _group(rng: np.random.Generator, bank: Bank, own: dict[str, list[int]]) -> list[Member]:
    """One still and one speaker through all labels the speaker has, and neutral again."""
    rest = int(rng.integers(1, len(LABELS))) if rng.random() < RESTLESS_SHARE else 0
    still = int(_one(rng, bank.of_label(rest)))
    labels = [*own, "neutral"][:GROUP_CLIPS]
    return [(still, int(_one(rng, own[label])), "motion") for label in rng.permutation(labels)]


def _singles(
    rng: np.random.Generator,
    bank: Bank,
    by_speaker: dict[str, dict[str, list[int]]],
    speakers: list[str],
    label: str,
) -> list[Member]:
    """One clip of a still with this label, and the same person's other pictures where there are some."""
    have = [name for name in speakers if label in by_speaker[name]]
    own = by_speaker[_one(rng, _fair(rng, have))]
    still = int(_one(rng, bank.of_label(LABELS.index(label))))
    stills = {label: still}
    if bank.people[still]:
        for other in rng.permutation(np.flatnonzero(bank.people == bank.people[still])):
            stills.setdefault(LABELS[bank.labels[other]], int(other))
    modes: list[Mode] = ["still", "both"]
    return [(at, int(_one(rng, own[name])), _one(rng, modes)) for name, at in stills.items() if name in own]


class _Maker:
    """One process's tools; made once by `_prepare`."""

    def __init__(self, request: SetRequest) -> None:
        cv2.setNumThreads(1)
        root = Path(request.root)
        training = request.split == "train"
        self.request = request
        finder = load_finder(request.face_model, offline=True)[0]
        self.bank = borrowed_faces.load(root, "train" if training else "dev", Path(request.cache), finder)
        self.voices = voices_of(root, request.split, request.speakers)
        self.library = MotionLibrary.load(root, TRAIN_ACTORS if training else HELD_ACTORS)
        self.plans = plan_clips(
            self.bank, self.voices, request.clips, np.random.default_rng([request.seed, 0])
        )

    def clip(self, plan: ClipPlan) -> tuple[MovingClip, dict[str, Any]]:
        voice = self.voices[plan.voice]
        samples = decode(voice.file)[: int(LONGEST_S * RATE_HZ)]
        still = BorrowedStill(
            picture=self.bank.picture(plan.still),
            points=self.bank.points[plan.still],
            label=LABELS[self.bank.labels[plan.still]],
        )
        person = draw_person(np.random.default_rng([self.request.seed, 1, plan.group]))
        rng = np.random.default_rng([self.request.seed, 2, plan.index])
        clip = make_clip(rng, still, voice, samples, plan.mode, self.library, person)
        meta = {
            "index": plan.index,
            "voice": voice.name,
            "corpus": voice.corpus,
            "speaker": voice.speaker,
            "label": voice.label,
            "mode": plan.mode,
            "still": str(self.bank.names[plan.still]),
            "still_label": still.label,
            "group": plan.group,
        }
        return clip, meta


_maker: _Maker | None = None


def _prepare(request: SetRequest) -> None:
    global _maker
    _maker = _Maker(request)


def _write_shard(shard: int) -> int:
    """Makes and writes one shard; returns how many clips it holds."""
    assert _maker is not None, "the pool's initializer has run"
    plans = _maker.plans[shard * SHARD_CLIPS : (shard + 1) * SHARD_CLIPS]
    clips, metas = zip(*(_maker.clip(plan) for plan in plans), strict=True)
    save_shard(Path(_maker.request.out), shard, clips, metas)
    return len(clips)


def save_shard(
    folder: Path, shard: int, clips: Sequence[MovingClip], metas: Sequence[dict[str, Any]]
) -> None:
    """Writes the clips of one shard (`SHARD_CLIPS`, fewer in the last); it appears whole or not at all."""
    path = folder / _shard_name(shard)
    part = path.with_name(f"part_{path.name}")
    np.savez(
        part,
        crops=np.concatenate([clip.crops for clip in clips]),
        previous=np.concatenate([clip.previous for clip in clips]),
        gap_ns=np.concatenate([clip.gap_ns for clip in clips]),
        seen=np.concatenate([clip.seen for clip in clips]),
        offsets=np.cumsum([0, *(len(clip.seen) for clip in clips)], dtype=np.int64),
        meta=np.array(json.dumps(metas)),
    )
    part.replace(path)


def _shard_name(shard: int) -> str:
    return f"shard_{shard:05d}.npz"


def load_metas(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ticks and meta of all clips of a set in order, without their pictures. Raises as `load_shards`."""
    for table in _shards(folder):
        offsets, metas = table["offsets"], json.loads(str(table["meta"]))
        yield from zip(np.diff(offsets).tolist(), metas, strict=True)


def load_shards(folder: Path) -> Iterator[StoredClip]:
    """All clips of a set in order, one shard in memory at a time.

    Raises FileNotFoundError where the folder holds no finished set or a shard is missing.
    """
    for table in _shards(folder):
        parts = {name: table[name] for name in ("crops", "previous", "gap_ns", "seen", "offsets")}
        metas = json.loads(str(table["meta"]))
        offsets = parts.pop("offsets")
        for meta, start, end in zip(metas, offsets[:-1], offsets[1:], strict=True):
            clip = MovingClip(**{name: values[start:end] for name, values in parts.items()})
            yield StoredClip(clip=clip, meta=meta)


def _shards(folder: Path) -> Iterator[Any]:
    request = json.loads((folder / "set.json").read_text())
    for shard in range(-(-request["clips"] // SHARD_CLIPS)):
        with np.load(folder / _shard_name(shard)) as table:
            yield table


def contact_sheet(folder: Path, rows: int = 28, columns: int = 12) -> Path:
    """Draws the first clips, one a row, as `DIR/sheet.png`; returns its path."""
    pictures = []
    for stored, _ in zip(load_shards(folder), range(rows), strict=False):
        ticks = np.linspace(0, len(stored.clip.crops) - 1, columns).astype(int)
        row = np.hstack(list(stored.clip.crops[ticks]))
        text = f"{stored.meta['label']} {stored.meta['mode']}"
        pictures.append(cv2.putText(row, text, (3, 108), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA))
    path = folder / "sheet.png"
    cv2.imwrite(str(path), np.vstack(pictures))
    return path


def write_set(request: SetRequest, jobs: int, progress: Progress) -> None:
    """Writes all shards that are not there yet.

    Raises ValueError where the folder holds a set made from another request, or with another program or
    finder, FinderError where the finder cannot be had.
    """
    out = Path(request.out)
    out.mkdir(parents=True, exist_ok=True)
    finder, notice = load_finder(request.face_model)
    progress.console.print(notice)
    code = hashlib.sha256("".join(inspect.getsource(module) for module in CODE).encode()).hexdigest()
    wanted = {
        "format": FORMAT,
        "split": request.split,
        "clips": request.clips,
        "seed": request.seed,
        "finder": finder.digest,
        "code": code[:16],
    }
    if request.speakers:
        wanted["speakers"] = [*request.speakers]
        voices_of(Path(request.root), request.split, request.speakers)
    described = out / "set.json"
    if described.is_file() and json.loads(described.read_text()) != wanted:
        raise ValueError(
            f"{out} holds another set ({described.read_text()}); choose a new folder or remove it."
        )
    described.write_text(json.dumps(wanted))
    shards = range(-(-request.clips // SHARD_CLIPS))
    missing = [shard for shard in shards if not (out / _shard_name(shard)).is_file()]
    finding = progress.add_task("face points", total=None)
    bank_split = "train" if request.split == "train" else "dev"
    borrowed_faces.load(
        Path(request.root),
        bank_split,
        Path(request.cache),
        finder,
        lambda done, all_: progress.update(finding, completed=done, total=all_),
    )
    progress.remove_task(finding)
    done = request.clips - sum(min(SHARD_CLIPS, request.clips - shard * SHARD_CLIPS) for shard in missing)
    task = progress.add_task(f"{request.split} clips", total=request.clips, completed=done)
    with ProcessPoolExecutor(
        min(jobs, max(1, len(missing))), get_context("spawn"), initializer=_prepare, initargs=(request,)
    ) as pool:
        for finished in as_completed([pool.submit(_write_shard, shard) for shard in missing]):
            progress.advance(task, finished.result())


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.moving_faces", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--cache", type=Path, help="folder for the found face points (default: beside --out)")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="train")
    parser.add_argument(
        "--speakers", nargs="+", default=(), metavar="NAME", help="whose voices, such as ravdess/11"
    )
    parser.add_argument("--clips", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--face-model", type=Path, help="YuNet's file, to find the faces of the stills")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process
    request = SetRequest(
        root=str(chosen.root),
        out=str(chosen.out),
        cache=str(chosen.cache or chosen.out.parent),
        split=chosen.split,
        clips=chosen.clips,
        seed=chosen.seed,
        face_model=chosen.face_model,
        speakers=tuple(chosen.speakers),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        try:
            write_set(request, chosen.jobs, progress)
        except (ValueError, FileNotFoundError, FinderError) as error:
            parser.exit(2, f"{error}\n")
        progress.console.print(f"{chosen.clips} clips in {chosen.out}; look at {contact_sheet(chosen.out)}")
