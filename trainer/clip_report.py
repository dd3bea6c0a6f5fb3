"""What the scores of clips come to, as plain values: the body of `metrics.json`.

It knows nothing of files, pictures or the command line; the counting is in `trainer.metrics`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.facts import Facts
from trainer.labels import HEADS
from trainer.metrics import Summary, concordance, concordance_interval, summarise
from trainer.trials import ClipScore


def summaries(
    scores: Sequence[ClipScore], dropped: Sequence[str], seed: int, facts: Sequence[Facts] = ()
) -> dict[str, Summary]:
    """Per head, of the clips that have a label, without those whose label is among `dropped`.

    facts: none, or one a score; every clip has the same columns to group by. Empty where no clip has a label.
    Raises ValueError as `summarise` does.
    """
    labels = [score.take.label for score in scores]
    if not any(labels):
        return {}
    places = [place for place, label in enumerate(labels) if label is not None and label not in dropped]
    kept = [scores[place] for place in places]
    known = [facts[place] for place in places] if facts else []
    heads = [head for head in HEADS if all(head in score.heads for score in kept)]
    return {
        head: summarise(
            np.array([score.heads[head] for score in kept]),
            [str(score.take.label) for score in kept],
            [score.take.speaker for score in kept],
            kept[0].labels if kept else (),
            seed,
            {
                column: [each.groups[column] for each in known]
                for column in (known[0].groups if known else ())
            },
        )
        for head in heads
    }


def attribute_report(scores: Sequence[ClipScore], facts: Sequence[Facts], seed: int) -> dict[str, Any]:
    """Per attribute of the bundle that the clips have values for: how many, and CCC of every head."""
    report: dict[str, Any] = {}
    speakers = [score.take.speaker for score in scores]
    for name in scores[0].attributes[scores[0].lead]:
        targets = np.array([each.attributes.get(name, np.nan) for each in facts], np.float64)
        if np.isnan(targets).all():
            continue
        heads = {}
        for head in scores[0].attributes:
            answers = np.array([score.attributes[head][name] for score in scores])
            ccc = concordance(answers, targets)
            interval = concordance_interval(answers, targets, speakers, seed)
            heads[head] = {
                "ccc": None if np.isnan(ccc) else ccc,
                "interval": [None if np.isnan(end) else end for end in interval],
            }
        report[name] = {"clips": int((~np.isnan(targets)).sum()), "heads": heads}
    return report


def _never_answered(scores: Sequence[ClipScore], drop_label: Sequence[str]) -> list[str]:
    """Of the labels to drop, those that the model does not know: they are dropped from all figures."""
    unknown = {score.take.label for score in scores} - set(scores[0].labels)
    return [label for label in drop_label if label in unknown]


def order_report(
    orders: Sequence[Sequence[ClipScore]], drop_label: Sequence[str], seed: int
) -> dict[str, Any]:
    """UAR of every head in each order of the same clips, and its mean, also without the dropped labels.

    A stream's baselines hold what came before, so one order is one draw. Raises ValueError as `summarise`.
    """
    always = _never_answered(orders[0], drop_label)

    def heads(dropped: Sequence[str]) -> dict[str, Any]:
        found = [summaries(scores, dropped, seed) for scores in orders]
        uars = {head: [each[head].uar for each in found] for head in found[0]}
        return {head: {"uar": float(np.mean(each)), "orders": each} for head, each in uars.items()}

    report: dict[str, Any] = {"count": len(orders), "heads": heads(always)}
    if report["heads"] and set(drop_label) - set(always):
        report["without"] = {"labels": list(drop_label), "heads": heads(drop_label)}
    return report


def clip_report(
    scores: Sequence[ClipScore],
    facts: Sequence[Facts],
    drop_label: Sequence[str],
    seed: int,
    setting: dict[str, Any],
) -> dict[str, Any]:
    """Everything about played clips as plain values.

    setting: how they were played, to be told beside. Raises ValueError as `summarise` does.
    """
    always = _never_answered(scores, drop_label)
    report: dict[str, Any] = setting | {
        "lead": scores[0].lead,
        "windows": sum(score.windows for score in scores),
        "valid_video": float(np.mean([score.valid_video for score in scores])),
        "valid_audio": float(np.mean([score.valid_audio for score in scores])),
        "heads": {h: s.as_json() for h, s in summaries(scores, always, seed, facts).items()},
    }
    if attributes := attribute_report(scores, facts, seed):
        report["attributes"] = attributes
    if report["heads"] and set(drop_label) - set(always):
        fewer = summaries(scores, drop_label, seed, facts)
        report["without"] = {
            "labels": list(drop_label),
            "heads": {head: summary.as_json() for head, summary in fewer.items()},
        }
    report["model_labels"] = scores[0].labels
    report["clips"] = [
        {
            "file": score.take.file.name,
            "speaker": score.take.speaker,
            "label": score.take.label,
            "groups": each.groups,
            "heads": {head: np.round(values, 5).tolist() for head, values in score.heads.items()},
            "attributes": score.attributes,
        }
        for score, each in zip(scores, facts, strict=True)
    ]
    return report
