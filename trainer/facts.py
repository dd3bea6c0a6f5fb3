"""What is known of clips beside their label: groups to report on apart, and continuous attributes.

From a table's own columns, or from RAVDESS's names (sex of the actor, intensity); nothing else is inferred.
Data leaves it as `Facts`, one a take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.attribute_scale import Ranges, on_scale
from trainer.data import ravdess
from trainer.data.clips import Row
from trainer.data.takes import Take


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """groups: column to value. attributes: name to value, for those that are known."""

    groups: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, float] = field(default_factory=dict)


def table_facts(
    table: Path, rows: Sequence[Row], groups: Sequence[str], attributes: Sequence[str]
) -> list[Facts]:
    """The chosen columns of some rows of a table; an empty attribute is not known.

    Raises ValueError where a group's column is missing or an attribute is not a number.
    """
    facts = []
    for row in rows:
        if missing := sorted(set(groups) - set(row.cells)):
            raise ValueError(f"{table} has no column {missing[0]!r} to group by.")
        try:
            values = {name: float(row.cells[name]) for name in attributes if row.cells.get(name)}
        except ValueError as error:
            raise ValueError(f"{table}, line {row.line}: {error}.") from error
        facts.append(
            Facts(groups={name: row.cells[name] or "not given" for name in groups}, attributes=values)
        )
    return facts


def scaled_facts(facts: Sequence[Facts], ranges: Ranges) -> list[Facts]:
    """Attributes on the scale that a bundle gives them on, -1 to 1; ranges: those of the bundle."""
    return [
        replace(
            each,
            attributes={
                name: on_scale(value, *ranges[name]) if name in ranges else value
                for name, value in each.attributes.items()
            },
        )
        for each in facts
    ]


def ravdess_facts(takes: Sequence[Take]) -> list[Facts]:
    """Sex and intensity from the names; intensity also as an attribute (normal 0, strong 1)."""
    facts = []
    for take in takes:
        code = ravdess.parse_name(take.file.stem)
        strong = code.intensity == 2
        facts.append(
            Facts(
                groups={
                    "sex": "male" if code.actor % 2 else "female",
                    "intensity": "strong" if strong else "normal",
                },
                attributes={"intensity": float(strong)},
            )
        )
    return facts
