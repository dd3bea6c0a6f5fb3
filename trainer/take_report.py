"""What preparing a set came to: what is there of every take, what failed and why.

It decodes nothing and writes no data that is trained on. Data leaves as `Found`, `Failure` and `Summary`.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trainer.data.sound import RATE_HZ
from trainer.data.tables import read_table
from trainer.data.takes import Take
from trainer.take_store import SHORTEST_S, Store

KINDS = {
    "face and voice": "with face and voice",
    "face": "with a face alone",
    "voice": "with a voice alone",
}
"""What may be used of a take, and how it is said."""
TAKES = "takes.csv"
COLUMNS = ("name", "speaker", "split", "label", "kept", "face", "voice_s", "path", "sound")
"""Of that table; the attributes follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A take that is not as it should be. kept: what of it is used all the same: "face", "voice" or ""."""

    name: str
    file: Path
    kept: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is used of a take.

    face: share of its pictures with a face; voice_s: seconds of sound. damage: why a file of it is not read.
    """

    take: Take
    face: float
    voice_s: float
    damage: str = ""

    @property
    def files(self) -> tuple[Path, Path | None]:
        """To play it from: the picture, or all that is whole, and the sound where it is not in that file."""
        file, sound = self.take.file, self.take.sound
        if not self.damage or sound is None:
            return file, sound
        return (sound if self.voice_s else file), None

    @property
    def kept(self) -> str:
        return " and ".join(name for name, there in (("face", self.face), ("voice", self.voice_s)) if there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did.

    made: takes preprocessed by it; there: by an earlier one; seconds: for those made.
    faces: clips by split; voices: takes with sound; kinds: takes by what is used of them.
    """

    takes: int
    unrated: int
    made: int
    there: int
    seconds: float
    faces: dict[str, int]
    voices: int
    kinds: dict[str, int]
    failures: tuple[Failure, ...]

    @property
    def clips_a_second(self) -> float:
        return self.made / self.seconds if self.made else 0.0


def sort_takes(
    store: Store, takes: Sequence[Take], lost: dict[str, str]
) -> tuple[list[Failure], list[Found]]:
    """What failed or is not whole, and what is there of every take that was read.

    A take without sound or without pictures has not failed: it is what it is.
    """
    failures, found = [], []
    for take in takes:
        if take.name in lost:
            failures.append(Failure(name=take.name, file=take.file, kept="", reason=lost[take.name]))
            continue
        _, samples, pictures, faces = store.sizes(take)
        heard = samples >= SHORTEST_S * RATE_HZ
        voice_s, damage = samples / RATE_HZ if heard else 0.0, store.damage(take)
        each = Found(take=take, face=faces / max(1, pictures), voice_s=voice_s, damage=damage)
        found.append(each)
        reasons = [damage] if damage else []
        if samples and not heard:
            reasons.append(f"its sound lasts {samples / RATE_HZ:.2f} s")
        if pictures and not faces:
            reasons.append(f"there is no face in its {pictures} pictures")
        if not samples and not pictures:
            reasons.append("it has neither picture nor sound")
        if reasons:
            failures.append(
                Failure(name=take.name, file=take.file, kept=each.kept, reason=" and ".join(reasons))
            )
    return failures, found


def write_tables(out: Path, found: Sequence[Found], failures: Sequence[Failure]) -> None:
    """`takes.csv` (`face`: share of the pictures with one; 0 for what is not used) and `failures.csv`.

    `takes.csv` has the columns of a table of one's own, so that the takes of a split can be played again.
    """
    _write_table(
        out / "failures.csv",
        ("name", "file", "kept", "reason"),
        ((f.name, f.file, f.kept, f.reason) for f in failures),
    )
    rated = sorted({name for f in found for name in f.take.attributes})
    rows = (
        (
            *(f.take.name, f.take.speaker, f.take.split, f.take.label),
            f.kept,
            f"{f.face:.2f}",
            f"{f.voice_s:.2f}",
            *(file and file.absolute() for file in f.files),
            *(f.take.attributes.get(name) for name in rated),
        )
        for f in found
    )
    _write_table(out / TAKES, (*COLUMNS, *rated), rows)


def takes_table(folder: Path) -> Path:
    """The table of a set's takes. Raises ValueError where `folder` is no set, or one that names no files."""
    table = folder / TAKES
    if not table.is_file():
        raise ValueError(f"{folder} holds no {TAKES}: run trainer.prepare, and name the folder it wrote.")
    if missing := set(COLUMNS) - set(read_table(table).columns):
        raise ValueError(f"{table} has no {min(missing)}, as earlier versions: run trainer.prepare anew.")
    return table


def _write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(columns)
        writer.writerows(rows)


def tell(summary: Summary, out: Path, console: Console) -> None:
    """The run in a few lines."""
    kinds = ", ".join(
        f"{summary.kinds[kept]} {said}" for kept, said in KINDS.items() if summary.kinds.get(kept)
    )
    faces = ", ".join(f"{count} {split}" for split, count in summary.faces.items() if count)
    console.print(f"{summary.takes} takes: {kinds or 'none of use'}; in {out}")
    console.print(f"faces: {faces or 'none'}", highlight=False)
    if summary.unrated:
        console.print(f"{summary.unrated} more have neither a label nor an attribute and were left out")
    console.print(
        f"{summary.made} preprocessed in {summary.seconds:.0f} s, "
        f"{summary.clips_a_second:.2f} clips a second; {summary.there} were there"
    )
    if summary.failures:
        kept = sum(bool(failure.kept) for failure in summary.failures)
        console.print(
            f"{len(summary.failures)} not as they should be ({kept} kept in part): {out / 'failures.csv'}"
        )
