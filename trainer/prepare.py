"""`python -m trainer.prepare NAME --root DIR --out DIR`: a set of recordings as the engine sees and hears it.

NAME is ravdess, crema_d, msp_improv, nemo or csv (your own). Every take goes once through the very code that
runs live and is kept in `OUT/takes`; from there `OUT/faces/SPLIT` (read by `trainer.prepare_windows`) and
`OUT/voices` (read by `trainer.prepare_voices`) are written. A broken run goes on where it stopped. What could
not be read is listed in `OUT/failures.csv`, and the rest goes on.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.bundle import Bundle, load_bundle
from engine.errors import FinderError
from engine.signals.face import FaceFinder, load_finder
from trainer.data import crema_d, msp_improv, nemo, ravdess, recordings
from trainer.data.protocols import SPLITS, load_protocol
from trainer.data.sound import RATE_HZ
from trainer.data.takes import Take
from trainer.take_sets import write_faces, write_voices
from trainer.take_store import SHORTEST_S, Store, observe, settings_of
from trainer.work_pool import Died, run_all

LABELS_OF: dict[str, crema_d.Channel | None] = {
    "intended": None,
    "perceived": "both",
    "perceived-voice": "voice",
    "perceived-face": "face",
}
ADAPTERS: dict[str, Callable[[Path, str], list[Take]]] = {
    "ravdess": lambda root, labels: ravdess.list_recordings(root),
    "crema_d": lambda root, labels: crema_d.list_takes(root, LABELS_OF[labels]),
    "msp_improv": lambda root, labels: msp_improv.list_takes(root),
    "nemo": lambda root, labels: nemo.list_takes(root),
    "csv": lambda root, labels: recordings.list_takes(_table(root)),
}
PROTOCOLS = {"crema_d": "crema_d_folds", "msp_improv": "msp_improv_sessions"}
"""Of sets that do not divide their speakers themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to prepare.

    set_name: a key of `ADAPTERS`; protocol: "" for the set's usual division; fold: its partition, from 1.
    labels: a key of `LABELS_OF`, for CREMA-D; face_model: YuNet's file, if named; offline: fetch nothing.
    """

    set_name: str
    root: Path
    out: Path
    protocol: str = ""
    fold: int = 1
    labels: str = "intended"
    jobs: int = 1
    face_model: Path | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A take that is not as it should be. kept: whether its sound is used all the same."""

    name: str
    file: Path
    kept: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did. made: takes preprocessed by it; there: by an earlier one; seconds: for those made."""

    takes: int
    unrated: int
    made: int
    there: int
    seconds: float
    faces: dict[str, int]
    voices: int
    failures: tuple[Failure, ...]

    @property
    def clips_a_second(self) -> float:
        return self.made / self.seconds if self.made else 0.0


def listed(request: Request) -> tuple[list[Take], int]:
    """The takes of the set with their splits, and how many were left out for having no label or attribute.

    Raises FileNotFoundError or ValueError where the set is not there or not as published.
    """
    takes = ADAPTERS[request.set_name](request.root, request.labels)
    name = request.protocol or PROTOCOLS.get(request.set_name, "")
    if name:
        takes = load_protocol(name).apply(takes, request.fold)
    rated = [take for take in takes if take.label is not None or take.attributes]
    if not rated:
        raise ValueError(f"{request.root} holds no take with a label or an attribute.")
    names = [take.name for take in rated]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{request.root} holds two takes named {twice}.")
    return rated, len(takes) - len(rated)


def prepare(request: Request, progress: Progress) -> Summary:
    """All that the head of this file says.

    Raises FinderError, FileNotFoundError or ValueError before the first take.
    """
    takes, unrated = listed(request)
    bundle = load_bundle()
    finder, notice = load_finder(request.face_model, request.offline)
    progress.console.print(notice)
    store = Store.open(request.out, settings_of(bundle, finder, request.face_model))
    lost = {take.name: "a file of it is missing" for take in takes if not _readable(take)}
    missing = [take for take in takes if take.name not in lost and not store.file(take).is_file()]
    started = time.monotonic()
    task = progress.add_task("takes", total=len(takes), completed=len(takes) - len(missing))
    initial = (store, type(finder).__name__, request.face_model)
    for take, answer in run_all(missing, _keep, request.jobs, _begin, initial):
        if isinstance(answer, Died):
            lost[take.name] = "the process that decoded it crashed"
        elif answer:
            lost[take.name] = answer
        progress.advance(task)
    seconds = time.monotonic() - started
    failures, heard, seen = _sorted(store, takes, lost)
    if heard:
        write_voices(store, heard, request.out / "voices")
    task = progress.add_task("shards", total=len(seen))
    faces = {}
    for split in SPLITS:
        chosen = [take for take in seen if take.split == split]
        faces[split] = len(chosen)
        write_faces(store, chosen, request.out / "faces" / split, split, lambda: progress.advance(task))
    progress.update(task, completed=len(seen))
    _write_failures(request.out / "failures.csv", failures)
    made = sum(take.name not in lost for take in missing)
    return Summary(
        takes=len(takes),
        unrated=unrated,
        made=made,
        there=len(takes) - len(lost) - made,
        seconds=seconds,
        faces=faces,
        voices=len(heard),
        failures=tuple(failures),
    )


def _readable(take: Take) -> bool:
    return all(file.is_file() for file in (take.file, take.sound) if file is not None)


def _sorted(
    store: Store, takes: Sequence[Take], lost: dict[str, str]
) -> tuple[list[Failure], list[Take], list[Take]]:
    """What failed, what is heard, and what is heard and seen."""
    failures, heard, seen = [], [], []
    for take in takes:
        reason, kept = lost.get(take.name, ""), False
        if not reason:
            _, samples, pictures, found = store.sizes(take)
            kept = samples >= SHORTEST_S * RATE_HZ
            if not kept:
                reason = "it has no sound" if not samples else f"its sound lasts {samples / RATE_HZ:.2f} s"
            elif pictures and not found:
                reason = f"no face in its {pictures} pictures, so only its sound is used"
            if kept:
                heard.append(take)
            if kept and found:
                seen.append(take)
        if reason:
            failures.append(Failure(name=take.name, file=take.file, kept=kept, reason=reason))
    return failures, heard, seen


def _write_failures(file: Path, failures: Sequence[Failure]) -> None:
    with file.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("name", "file", "sound_kept", "reason"))
        writer.writerows((f.name, f.file, f.kept, f.reason) for f in failures)


_tools: tuple[Store, FaceFinder, Bundle] | None = None
_wanted_finder = ""


def _begin(store: Store, finder_name: str, face_model: Path | None) -> None:
    """One process's tools. The finder is there already: nothing is fetched here."""
    global _tools, _wanted_finder
    cv2.setNumThreads(1)
    _tools = store, load_finder(face_model, offline=True)[0], load_bundle()
    _wanted_finder = finder_name


def _keep(take: Take) -> str:
    """Preprocesses one take; returns why it could not, or nothing."""
    assert _tools is not None, "the pool's initializer has run"
    store, finder, bundle = _tools
    if type(finder).__name__ != _wanted_finder:
        raise FinderError("The face finder could not be kept for all processes; name its file: --face-model.")
    try:
        store.save(take, observe(take, finder, bundle))
    except (av.FFmpegError, OSError, ValueError) as error:
        return f"{error}".splitlines()[0]
    return ""


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise ValueError(f"{root} holds {len(tables)} CSV files; name one.")
    return tables[0]


def tell(summary: Summary, out: Path, console: Console) -> None:
    """The run in a few lines."""
    faces = ", ".join(f"{count} {split}" for split, count in summary.faces.items() if count)
    console.print(f"{summary.takes} takes: {summary.voices} voices, with faces {faces or 'none'}; in {out}")
    if summary.unrated:
        console.print(f"{summary.unrated} more have neither a label nor an attribute and were left out")
    console.print(
        f"{summary.made} preprocessed in {summary.seconds:.0f} s, "
        f"{summary.clips_a_second:.1f} clips a second; {summary.there} were there"
    )
    if summary.failures:
        kept = sum(failure.kept for failure in summary.failures)
        console.print(
            f"{len(summary.failures)} not as they should be ({kept} kept as sound): {out / 'failures.csv'}"
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line. Ends with 2 where the set cannot be listed, 1 where not one take could be used."""
    parser = argparse.ArgumentParser(prog="python -m trainer.prepare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "set_name", choices=sorted(ADAPTERS), metavar="NAME", help=", ".join(sorted(ADAPTERS))
    )
    parser.add_argument("--root", type=Path, required=True, help="the set's folder; for csv the table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--protocol", default="", help="who trains and who is tested: see trainer/protocols")
    parser.add_argument("--fold", type=int, default=1, help="partition of the protocol, from 1")
    parser.add_argument("--labels", choices=sorted(LABELS_OF), default="intended", help="for crema_d")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--face-model", type=Path, help="YuNet's file")
    parser.add_argument("--offline", action="store_true", help="never fetch the face finder")
    request = Request(**vars(parser.parse_args(arguments)))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        try:
            summary = prepare(request, progress)
        except (ValueError, FileNotFoundError, FinderError) as error:
            parser.exit(2, f"{error}\n")
    tell(summary, request.out, progress.console)
    if not summary.voices:
        parser.exit(1, "not one take could be used\n")


if __name__ == "__main__":
    main()
