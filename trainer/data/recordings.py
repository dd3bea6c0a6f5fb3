"""Anybody's own recordings: lists them from a CSV file with `path,speaker,split,label` or attribute columns.

`path` (relative to the table) and `speaker` are needed; `split` is train, dev or test, and everything of one
speaker is in one split; `label` is one of the seven, or empty; `sound` names the file of the sound where it
is not in `path`. Every other column is an attribute: numbers, or empty. It opens no media; data leaves it as
`Take`s.
"""

import math
from pathlib import Path

from trainer.data.tables import read_table
from trainer.data.takes import Take
from trainer.labels import LABELS

NEEDED = ("path", "speaker", "split")
KNOWN = (*NEEDED, "label", "sound")
SPLITS = ("train", "dev", "test")


def list_takes(table: Path) -> list[Take]:
    """The rows of `table`, in its order; `calm` counts as neutral.

    Raises ValueError that names the line where a column, a file, a label, a split or a number is wrong, where
    a take has neither label nor attribute, where a file is named twice and where a speaker is in two splits.
    """
    read = read_table(table)
    missing = [column for column in NEEDED if column not in read.columns]
    if missing:
        raise ValueError(f"{table} lacks the column {missing[0]!r} (path, speaker, split, label).")
    takes: list[Take] = []
    splits: dict[str, str] = {}
    names: set[str] = set()
    for line, cells in read.rows:
        try:
            take = _take(table, cells)
            if splits.setdefault(take.speaker, take.split) != take.split:
                raise ValueError(
                    f"speaker {cells['speaker']} is in {take.split} and in {splits[take.speaker]}; "
                    "whoever is tested on must not be trained on"
                )
            if take.name in names:
                raise ValueError(f"{cells['path']} is there twice (but for its ending)")
        except ValueError as error:
            raise ValueError(f"{table}, line {line}: {error}.") from error
        names.add(take.name)
        takes.append(take)
    if not takes:
        raise ValueError(f"{table} has no rows.")
    return takes


def _take(table: Path, cells: dict[str, str]) -> Take:
    attributes = {
        column: _number(column, cell) for column, cell in cells.items() if column not in KNOWN and cell
    }
    label = _label(cells.get("label", ""))
    if label is None and not attributes:
        raise ValueError("there is neither a label nor an attribute")
    if cells["split"] not in SPLITS:
        raise ValueError(f"split is {cells['split']!r}; it must be train, dev or test")
    if not cells["speaker"]:
        raise ValueError("the speaker is not named")
    sound = cells.get("sound", "")
    return Take(
        file=_file(table, cells["path"]),
        sound=_file(table, sound) if sound else None,
        corpus=table.stem,
        speaker=f"{table.stem}/{cells['speaker']}",
        label=label,
        split=cells["split"],
        attributes=attributes,
        title=Path(cells["path"]).with_suffix("").as_posix(),
    )


def _file(table: Path, path: str) -> Path:
    file = table.parent / path
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return file


def _label(text: str) -> str | None:
    label = "neutral" if text.lower() == "calm" else text.lower()
    if label and label not in LABELS:
        raise ValueError(f"label is {text!r}; it must be one of {', '.join(LABELS)}, or empty")
    return label or None


def _number(column: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{column} is {cell!r}, not a number; columns beside {', '.join(KNOWN)} are attributes"
        )
    return number
