"""A table as plain text or Markdown, with nothing but the standard library: machines to measure on are bare.

It knows nothing of what is measured. Data leaves it as text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.machine import JsonMap


@dataclass(slots=True)
class Sheet:
    """A table. columns: the first of them is left-aligned, the others right; notes: lines below it."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """A row; what is missing at its end stays empty."""
        texts = tuple("" if cell is None else str(cell) for cell in cells)
        self.rows.append(texts + ("",) * (len(self.columns) - len(texts)))

    def text(self) -> str:
        """For a terminal."""
        rows = [self.columns, *self.rows]
        widths = [max(len(row[n]) for row in rows) for n in range(len(self.columns))]
        lines = [self.title]
        for number, row in enumerate(rows):
            first, *rest = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join([f"  {row[0]:<{len(first)}}", *rest]).rstrip())
            if number == 0:
                lines.append("  " + "  ".join("-" * width for width in widths))
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def markdown(self) -> str:
        """For a page."""
        marks = ["---", *("---:" for _ in self.columns[1:])]
        lines = [f"**{self.title}**", "", *(_row(cells) for cells in (self.columns, marks, *self.rows))]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def _row(cells: "tuple[str, ...] | list[str]") -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with so many digits after the point; empty where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def machine_lines(report: JsonMap) -> Iterator[str]:
    """What it was measured on, for the head of a text."""
    machine = report["machine"]
    busy = machine["load_average"]
    load = f"; load average {busy[0]}" if busy else ""
    yield f"{machine['cpu']}, {machine['cores']} cores{load}"
    gpu = machine.get("gpu")
    yield f"GPU: {gpu['name']}, {gpu['memory_gib']} GiB" if gpu else "GPU: none that torch can use"
    if "bundle" in report:
        yield f"Bundle: {report['bundle']['name']} {report['bundle']['digest']}"
