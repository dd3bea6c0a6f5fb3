"""Emotion messages in a file, one a line: JSON Lines or CSV, by the file's suffix.

The keys are those of the feed; CSV joins nested keys and places in lists with dots (`heads.video.happy`,
`face.box.0`). The same messages give the same bytes on every machine. It knows nothing about sockets or
workers. Data leaves it through the file, line by line, so that what is written survives a crash.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from engine.errors import De3Error
from realtime.wire import Emotion, Message, to_map

SUFFIXES = (".jsonl", ".csv")
_FACE = {"box": [None] * 4, "confidence": None}


class RecordError(De3Error, ValueError):
    """A file cannot be written, or its suffix is not known."""


def line(message: Message) -> str:
    """The message as one line of JSON, without the line's end."""
    return json.dumps(to_map(message), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Recorder:
    """Writes messages to `path`, which is made anew.

    A CSV file has the columns of its first message (and those of a face, where that one had none): those of
    every message of a run. What later ones have beyond those is left out.
    """

    def __init__(self, path: Path) -> None:
        """Raises RecordError: another suffix than .jsonl or .csv, or a file that cannot be written."""
        if path.suffix not in SUFFIXES:
            raise RecordError(f"{path.name} must end in {' or '.join(SUFFIXES)}.")
        self.path = path
        self._columns: list[str] | None = None
        try:
            self._file = path.open("w", encoding="utf-8", newline="", buffering=1)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._rows = csv.writer(self._file, lineterminator="\n")

    def write(self, message: Emotion) -> None:
        """Add one message. Raises RecordError, for example when the disk is full."""
        try:
            if self.path.suffix == ".jsonl":
                self._file.write(line(message) + "\n")
            else:
                self._write_row(message)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Finish the file. Raises RecordError where its last lines could not be written."""
        try:
            self._file.close()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_row(self, message: Emotion) -> None:
        fields = to_map(message)
        row = flat(fields | {"face": fields["face"] or _FACE})
        if self._columns is None:
            self._columns = list(row)
            self._rows.writerow(self._columns)
        self._rows.writerow([row.get(column) for column in self._columns])


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nested maps and lists as one map: {"valid": {"video": 1.0}} becomes {"valid.video": 1.0}."""
    row: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, list):
            value = {str(place): entry for place, entry in enumerate(value)}
        if isinstance(value, Mapping):
            row |= {f"{key}.{inner}": entry for inner, entry in flat(value).items()}
        else:
            row[key] = value
    return row


def _unwritable(path: Path, error: OSError) -> RecordError:
    return RecordError(f"{path} cannot be written: {error.strerror or error}.")
