"""`python -m trainer.prepare NAME --root DIR --out DIR`: a set of recordings as the engine sees and hears it.

NAME is ravdess, crema_d, msp_improv, nemo or csv (your own); ferplus and moving_faces are handed over to
`trainer.prepare_stills` and `trainer.moving_faces`, with their options. Every take goes once through the
code that runs live and is kept in `OUT/takes`; from there come `OUT/faces/SPLIT` and `OUT/voices`, which a
configuration reads that names OUT among its `sets`. A broken run goes on where it stopped. `OUT/takes.csv`
tells of every take what was there, face, voice or both; what could not be read, or not in full, is listed
in `OUT/failures.csv` with the reason, and the rest goes on.
"""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.bundle import Bundle, load_bundle
from engine.errors import FinderError
from engine.signals.face import FaceFinder, load_finder
from trainer import clip_sets, prepare_stills
from trainer.data import crema_d, msp_improv, nemo, ravdess, recordings
from trainer.data.protocols import SPLITS, load_protocol
from trainer.data.takes import Take
from trainer.take_report import KINDS, Summary, sort_takes, tell, write_tables
from trainer.take_sets import write_faces, write_voices
from trainer.take_store import UNREADABLE, Store, observe, settings_of, why
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
HANDED_OVER: dict[str, Callable[[list[str]], None]] = {
    "ferplus": prepare_stills.main,
    "moving_faces": clip_sets.main,
}
"""Of sets that are no recordings: other commands make them."""
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


def listed(request: Request) -> tuple[list[Take], int]:
    """The takes of the set with their splits, and how many were left out for having no label or attribute.

    Raises FileNotFoundError or ValueError where the set is not there or not as published, and where labels
    or a fold are asked for that would not be used.
    """
    if request.labels != "intended" and request.set_name != "crema_d":
        raise ValueError(f"{request.set_name} has one kind of labels: leave out --labels {request.labels}.")
    name = request.protocol or PROTOCOLS.get(request.set_name, "")
    if request.fold != 1 and not name:
        raise ValueError(
            f"{request.set_name} has one division of its own: leave out --fold {request.fold}, or name a "
            "--protocol."
        )
    takes = ADAPTERS[request.set_name](request.root, request.labels)
    if name:
        protocol = load_protocol(name)
        if request.labels != "intended" and protocol.labelled:
            raise ValueError(f"{name} has labels of its own: leave out --labels {request.labels}.")
        takes = protocol.apply(takes, request.fold)
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
    store = Store.open(request.out, settings_of(bundle, finder))
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
    failures, found = sort_takes(store, takes, lost)
    heard = [each.take for each in found if each.voice_s]
    seen = [each.take for each in found if each.face]
    write_voices(store, heard, request.out / "voices")
    task = progress.add_task("shards", total=len(seen))
    faces = {}
    for split in SPLITS:
        chosen = [take for take in seen if take.split == split]
        faces[split] = len(chosen)
        folder = request.out / "faces" / split
        write_faces(store, chosen, {take.name for take in heard}, folder, lambda: progress.advance(task))
    progress.update(task, completed=len(seen))
    write_tables(request.out, found, failures)
    made = sum(take.name not in lost for take in missing)
    return Summary(
        takes=len(takes),
        unrated=unrated,
        made=made,
        there=len(takes) - len(lost) - made,
        seconds=seconds,
        faces=faces,
        voices=len(heard),
        kinds=Counter(each.kept for each in found),
        failures=tuple(failures),
    )


def _readable(take: Take) -> bool:
    return all(file.is_file() for file in (take.file, take.sound) if file is not None)


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
    except Exception as error:  # whatever is wrong with one take must not stop thousands
        return why(error) if isinstance(error, UNREADABLE) else f"{why(error)}\n{traceback.format_exc()}"
    return ""


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.exists():
        raise ValueError(f"There is no {root}.")
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise ValueError(f"{root} holds {len(tables)} CSV files; name one.")
    return tables[0]


def _usual_place(chosen: argparse.Namespace) -> Path:
    return Path("data") / (_table(chosen.root).stem if chosen.set_name == "csv" else chosen.set_name)


def main(arguments: list[str] | None = None) -> None:
    """The command line. Ends with 2 where the set cannot be listed, 1 where not one take could be used."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in HANDED_OVER:
        HANDED_OVER[given[0]](given[1:])
        return
    names = sorted(ADAPTERS.keys() | HANDED_OVER.keys())
    parser = argparse.ArgumentParser(prog="python -m trainer.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("set_name", choices=sorted(ADAPTERS), metavar="NAME", help=", ".join(names))
    parser.add_argument("--root", type=Path, required=True, help="the set's folder; for csv the table")
    parser.add_argument("--out", type=Path, help="default: data/NAME; for csv data/ and the table's name")
    parser.add_argument("--protocol", default="", help="who trains and who is tested: see trainer/protocols")
    parser.add_argument("--fold", type=int, default=1, help="partition of the protocol, from 1")
    parser.add_argument("--labels", choices=sorted(LABELS_OF), default="intended", help="for crema_d")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--face-model", type=Path, help="YuNet's file")
    parser.add_argument("--offline", action="store_true", help="never fetch the face finder")
    chosen = parser.parse_args(given)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        try:
            request = Request(**vars(chosen) | {"out": chosen.out or _usual_place(chosen)})
            summary = prepare(request, progress)
        except (ValueError, FileNotFoundError, FinderError) as error:
            parser.exit(2, f"{error}\n")
    tell(summary, request.out, progress.console)
    if not any(summary.kinds[kept] for kept in KINDS):
        parser.exit(1, "not one take could be used\n")


if __name__ == "__main__":
    main()
