"""Tables that people write: CSV with a line of column names, and a sentence for what is wrong with one.

It knows nothing of what the columns mean. Data leaves it as rows of stripped cells with their lines.
"""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """columns: their names; rows: (line, cells by column), a cell that a short row lacks is empty."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(file: Path) -> Table:
    """The table in `file`, UTF-8 with commas.

    Raises OSError where it cannot be read, ValueError where it is written otherwise or a row has more cells
    than there are columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            columns = tuple(name.strip() for name in next(reader, ()))
            lines = [(line, cells) for line, cells in enumerate(reader, start=2) if cells]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in UTF-8; save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV table: {error}.") from error
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and mark in columns[0]:
            raise ValueError(f"{file} divides its cells by {name}; save it as CSV with commas.")
    for line, cells in lines:
        if len(cells) > len(columns):
            raise ValueError(f"{file}, line {line}: there are more cells than columns.")
    return Table(
        columns=columns,
        rows=tuple(
            (line, dict.fromkeys(columns, "") | dict(zip(columns, map(str.strip, cells), strict=False)))
            for line, cells in lines
        ),
    )
