"""What ablation runs come to: a figure a variant, over its seeds, and its distance from the whole model.

The interval of a distance has two sources. Over seeds: Student's t of the differences, seed by seed. Over
speakers, where clips were played: both models' clips by the same drawn speakers, seeds drawn too. Both are
95 %. It trains and plays nothing; data leaves it as plain values and as Markdown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from trainer.metrics import DRAWS, mean_recall

WHOLE = "whole"
HEADS = ("video", "audio", "fused")
Result = dict[str, Any]
Span = tuple[float, float] | None


def seed_interval(values: Sequence[float]) -> Span:
    """95 % interval of the mean by Student's t; None with one value."""
    if len(values) < 2:
        return None
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(np.mean(values))
    return mean - half, mean + half


def speaker_confusions(report: Mapping[str, Any], head: str) -> dict[str, NDArray[np.int64]]:
    """Per speaker (L, L) counts of the clips of a `trainer.evaluate` report, a row per true label."""
    labels = report["heads"][head]["labels"]
    places = [report["model_labels"].index(label) for label in labels]
    found = {clip["speaker"]: np.zeros((len(labels),) * 2, np.int64) for clip in report["clips"]}
    for clip in report["clips"]:
        answer = int(np.argmax(np.array(clip["heads"][head])[places]))
        found[clip["speaker"]][labels.index(clip["label"]), answer] += 1
    return found


def speaker_difference(
    ours: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]], head: str, seed: int = 0
) -> Span:
    """95 % of the difference of the mean UAR over draws of speakers and of seeds; None with one speaker.

    ours, whole: reports on the same clips, one a seed, in the same order.
    """
    tables = []
    for reports in (ours, whole):
        each = [speaker_confusions(report, head) for report in reports]
        tables.append(np.stack([[rows[name] for name in sorted(rows)] for rows in each]))  # (seeds, S, L, L)
    seeds, speakers = tables[0].shape[:2]
    if speakers < 2:
        return None
    rng = np.random.default_rng(seed)
    who = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=DRAWS)
    runs = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    uars = [mean_recall(np.einsum("ds,rsij->drij", who, table)) for table in tables]
    low, high = np.quantile(((uars[0] - uars[1]) * runs).sum(1), (0.025, 0.975))
    return float(low), float(high)


def heads_of(variant: Mapping[str, Any]) -> tuple[str, ...]:
    """The heads that say something in a variant: the fused output, and what was trained."""
    trained = variant["heads"]
    return tuple(head for head in HEADS if head in trained or head == "fused")


def tabulate(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a variant and figure.

    results: variant to {"title", "heads", "runs"}; a run (one a seed, in the same order everywhere) has
    "dev", figures by name, and "tests", reports by name. `WHOLE` must be among the variants.
    """
    rows = []
    whole = results[WHOLE]["runs"]
    for name, variant in results.items():
        runs = variant["runs"]
        for figure in _figures(runs[0]):
            head = figure[-1]
            if head not in heads_of(variant):
                continue
            values, reference = ([_value(run, figure) for run in each] for each in (runs, whole))
            row: dict[str, Any] = {
                "variant": name,
                "title": variant["title"],
                "figure": " ".join(figure),
                "seeds": values,
                "mean": float(np.mean(values)),
                "interval": seed_interval(values),
            }
            if name != WHOLE:
                differences = [value - other for value, other in zip(values, reference, strict=True)]
                row["difference"] = float(np.mean(differences))
                row["difference_over_seeds"] = seed_interval(differences)
                if figure[0] == "test":
                    reports = ([run["tests"][figure[1]] for run in each] for each in (runs, whole))
                    row["difference_over_speakers"] = speaker_difference(*reports, head)
            rows.append(row)
    return rows


def _figures(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(dev or test, its name, head) of all UARs of a run."""
    dev = [("dev", *name.rsplit("_", 1)) for name in run["dev"] if name.rsplit("_", 1)[-1] in HEADS]
    tests = [("test", name, head) for name, report in run["tests"].items() for head in report["heads"]]
    return [(kind, name, head) for kind, name, head in [*dev, *tests]]


def _value(run: Mapping[str, Any], figure: tuple[str, str, str]) -> float:
    kind, name, head = figure
    value = run["dev"][f"{name}_{head}"] if kind == "dev" else run["tests"][name]["heads"][head]["uar"]
    return float(value)


def markdown(rows: Sequence[Mapping[str, Any]], title: str, text: str) -> str:
    """The rows as a Markdown table, a section a figure."""
    parts = [f"# {title}\n", text]
    for figure in dict.fromkeys(row["figure"] for row in rows):
        parts.append(f"## {figure}\n")
        lines = [
            "| | UAR | over seeds | against the whole | over seeds | over speakers and seeds |\n",
            "|---|---|---|---|---|---|\n",
        ]
        for row in rows:
            if row["figure"] == figure:
                difference = f"{row['difference']:+.3f}" if "difference" in row else ""
                spans = (row.get("difference_over_seeds"), row.get("difference_over_speakers"))
                cells = (row["title"], f"{row['mean']:.3f}", _told(row["interval"], ""), difference)
                lines.append("| " + " | ".join((*cells, *(_told(span, "+") for span in spans))) + " |\n")
        parts.append("".join(lines))
    return "\n".join(parts)


def _told(span: Span, sign: str) -> str:
    return "" if span is None else f"{span[0]:{sign}.3f} to {span[1]:{sign}.3f}"
