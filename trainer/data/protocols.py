"""Named protocols: who trains, who decides and who is tested, so that figures can stand beside others'.

Reads the files of `trainer/protocols` (see the README there). It knows nothing of media or layouts. Data
leaves it as the same `Take`s with their splits, and labels and attributes where the protocol has its own.
"""

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data.takes import Take
from trainer.labels import LABELS

FOLDER = Path(__file__).parents[1] / "protocols"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Protocol:
    """A named way to divide a set.

    about: one line; partitions: by partition the split of each speaker (without the set's name).
    table: by clip what is said of it, shares of labels or attributes; empty where every clip counts.
    """

    name: str
    corpus: str
    about: str
    partitions: tuple[dict[str, str], ...]
    table: dict[str, dict[str, float]]

    @property
    def labelled(self) -> bool:
        """Whether its table tells labels, in place of those of the takes."""
        return any(row.keys() <= set(LABELS) for row in self.table.values())

    def apply(self, takes: Iterable[Take], partition: int) -> list[Take]:
        """The takes that count, with their splits in this partition (1 is the first).

        Raises ValueError for a partition that does not exist, a take of another set, or of a speaker whom the
        protocol does not know.
        """
        if not 1 <= partition <= len(self.partitions):
            raise ValueError(f"{self.name} has the partitions 1 to {len(self.partitions)}, not {partition}.")
        splits = self.partitions[partition - 1]
        chosen = []
        for take in takes:
            if self.table and take.name not in self.table:
                continue
            corpus, _, speaker = take.speaker.partition("/")
            if corpus != self.corpus or speaker not in splits:
                raise ValueError(f"{self.name} does not know the speaker {take.speaker} of {take.name}.")
            chosen.append(replace(take, split=splits[speaker], **self._said_of(take.name)))
        return chosen

    def _said_of(self, name: str) -> dict[str, object]:
        row = self.table.get(name)
        if row is None:
            return {}
        if row.keys() <= set(LABELS):
            return {"label": max(row, key=lambda label: row[label]), "shares": row}
        return {"attributes": row}


def names(corpus: str | None = None) -> list[str]:
    """All protocols, or those of a set."""
    found = sorted(file.stem for file in FOLDER.glob("*.json"))
    return [name for name in found if corpus in (None, load_protocol(name).corpus)]


def load_protocol(name: str) -> Protocol:
    """Reads a protocol. Raises ValueError where there is none of this name."""
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json")))
        raise ValueError(f"there is no protocol {name!r}; there are {known}.")
    said = json.loads(file.read_text(encoding="utf-8"))
    return Protocol(
        name=name,
        corpus=said["corpus"],
        about=said["about"],
        partitions=tuple(_by_speaker(name, partition) for partition in said["partitions"]),
        table=_table(FOLDER / said["table"]) if "table" in said else {},
    )


def _by_speaker(name: str, partition: dict[str, Sequence[str]]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in SPLITS:
        for speaker in partition[split]:
            if splits.setdefault(speaker, split) != split:
                raise ValueError(f"the protocol {name} has the speaker {speaker} in two splits.")
    return splits


def _table(file: Path) -> dict[str, dict[str, float]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as rows:
        return {
            row.pop("name"): {key: float(cell) for key, cell in row.items()} for row in csv.DictReader(rows)
        }
