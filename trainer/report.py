"""The folder of an evaluation: figures, pictures, tables and a card, from plain values.

`metrics.json`, `confusion.png`, `reliability.png`, `groups.csv` (per speaker and group), `CARD.md`, and where
they were measured `robustness.json`, `robustness.png` and `attention.png`. It plays and measures nothing.
"""

import csv
import json
from pathlib import Path
from typing import Any

from trainer.heat_map import Attention
from trainer.report_card import evaluation_card
from trainer.report_pictures import draw_attention, draw_confusion, draw_reliability, draw_robustness


def write_json(file: Path, values: Any) -> None:
    """Values as JSON with every digit."""
    file.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_report(
    folder: Path,
    report: dict[str, Any],
    licence: str,
    robustness: dict[str, Any] | None = None,
    attention: tuple[str, Attention] | None = None,
) -> None:
    """Write or renew the folder. Pictures and curves of an earlier evaluation do not stay in it.

    licence: the bundle's. robustness: see `trainer.robustness`. attention: a clip's name and its attention.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("confusion.png", "reliability.png", "robustness.json", "robustness.png", "attention.png"):
        (folder / name).unlink(missing_ok=True)
    heads, lead = report["heads"], report["lead"]
    write_json(folder / "metrics.json", report)
    if heads:
        draw_confusion(heads, folder / "confusion.png")
        draw_reliability(heads, folder / "reliability.png")
    write_groups(folder / "groups.csv", heads)
    if robustness is not None:
        write_json(folder / "robustness.json", robustness)
        draw_robustness(robustness, lead, folder / "robustness.png")
    if attention is not None:
        draw_attention(attention[1], attention[0], folder / "attention.png")
    card = evaluation_card(report, licence, robustness, attention[0] if attention else None)
    (folder / "CARD.md").write_text(card, encoding="utf-8")


def write_groups(file: Path, heads: dict[str, dict[str, Any]]) -> None:
    """A row a head and speaker, and a row a head and group; intervals where a group has several speakers."""
    with file.open("w", encoding="utf-8", newline="") as target:
        table = csv.writer(target)
        table.writerow(("head", "column", "value", "speakers", "clips", "uar", "low", "high", "war"))
        for head, summary in heads.items():
            columns = {"speaker": summary["speakers"]} | summary["groups"]
            for column, values in columns.items():
                for value, row in values.items():
                    low, high = row.get("interval", (None, None))
                    figures = (
                        "" if each is None else f"{each:.4f}" for each in (row["uar"], low, high, row["war"])
                    )
                    table.writerow((head, column, value, row.get("speakers", 1), row["clips"], *figures))
