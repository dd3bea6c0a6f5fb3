"""Model cards in Markdown whose figures come from `metrics.json` files, not from anybody's hand.

`evaluation_card` tells one evaluation. `python -m trainer.report_card --template FILE --figures NAME=PATH ...
--out FILE` fills the places of a written card, such as `{{voices.heads.audio.uar:.2f}}`; an interval is
`{{voices.heads.audio.interval:.2f}}`. NAME is a folder of `trainer.evaluate --out` or a JSON file. A picture
of such a folder is named `NAME_picture.png` in the card, and is copied beside it. `trainer.export --card`
puts card and pictures into the bundle. It measures nothing.
"""

import argparse
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACE = re.compile(r"\{\{\s*([^{}:]+?)\s*(?::([^{}]*?))?\s*\}\}")
PICTURE = re.compile(r"!\[[^\]]*\]\(([\w.-]+\.png)\)")
MEASURES = {"uar": "UAR", "war": "WAR", "macro_f1": "macro F1", "micro_f1": "micro F1", "ece": "ECE"}
LIMITS = """\
## What it cannot do

It names what a face and a voice show, as actors and raters label it, not what a person feels. These figures
hold for these clips; other people, languages, cameras and rooms may do worse. Groups are columns of the table
of clips and nothing else: what was not measured there is not known. An interval over few speakers is itself
uncertain, and a picture of calibration with few clips a bin is rough. Not for diagnosis, hiring, schools,
policing, or watching people who have not agreed.
"""


def evaluation_card(
    report: dict[str, Any], licence: str, robustness: dict[str, Any] | None, clip: str | None
) -> str:
    """The card of one evaluation. clip: the name of the clip whose attention was drawn, if any was."""
    parts = [
        f"# {report['bundle']} on {report['source']}\n",
        f"Bundle {report['bundle']}, digest {report['digest']}. Licence of the weights: {licence}.\n",
        "## How well\n",
        *(_labelled(report) if report["heads"] else [f"{_shown(report)}, without labels.\n"]),
        *_attributes(report),
    ]
    if report["heads"]:
        parts.append("![Confusion of each head](confusion.png)\n")
        parts.append("![Reliability of each head](reliability.png)\n")
        parts += _groups(report["heads"])
    if robustness is not None:
        parts += _robustness(robustness, report["lead"])
    if clip is not None:
        parts.append(f"## What it looks at\n\n![Attention over {clip}](attention.png)\n")
    return "\n".join([*parts, LIMITS])


def _labelled(report: dict[str, Any]) -> list[str]:
    """How well labels are told, also without the dropped ones."""
    heads, lead = report["heads"], report["lead"]
    chosen = heads.get(lead) or next(iter(heads.values()))
    parts = [
        f"{_shown(report)}, {len(chosen['labels'])} labels (chance {1 / len(chosen['labels']):.2f}). "
        "In brackets the 95 % interval over speakers, where there are several. Answers are among the labels "
        "that occur; micro F1 is WAR, as each has one label.\n",
        _table(
            ("", *(f"{head} (leads)" if head == lead else head for head in heads)),
            [
                (title, *(_figure(each[name], each["intervals"][name]) for each in heads.values()))
                for name, title in MEASURES.items()
            ]
            + [
                (f"recall {label}", *(f"{each['recall'][label]:.2f}" for each in heads.values()))
                for label in chosen["labels"]
            ],
        ),
    ]
    if "without" in report:
        fewer = report["without"]["heads"]
        row = ("UAR", *(_figure(each["uar"], each["interval"]) for each in fewer.values()))
        names = ", ".join(report["without"]["labels"])
        parts.append(f"Without {names}:\n\n" + _table(("", *fewer), [row]))
    return parts


def _attributes(report: dict[str, Any]) -> list[str]:
    """CCC of every attribute and head."""
    attributes = report.get("attributes", {})
    if not attributes:
        return []
    rows = []
    for name, each in attributes.items():
        figures = (
            "not defined" if head["ccc"] is None else _figure(head["ccc"], head["interval"])
            for head in each["heads"].values()
        )
        rows.append((name, str(each["clips"]), *figures))
    return [_table(("CCC", "clips", *next(iter(attributes.values()))["heads"]), rows)]


def _shown(report: dict[str, Any]) -> str:
    """What was shown to the model, in words; of clips with and without labels those with."""
    if "split" in report:
        chosen = next(iter(report["heads"].values()))
        return f"{chosen['clips']} still faces ({report['split']})"
    how = "each speaker's clips as one stream" if report["stream"] else "each clip alone"
    senses = {"both": "", "video": ", only the picture shown", "audio": ", only the sound played"}
    clips = [clip for clip in report["clips"] if clip["label"] or not report["heads"]]
    speakers = _count(len({clip["speaker"] for clip in clips}), "speaker")
    return f"{_count(len(clips), 'clip')} of {speakers}, {how}{senses[report['modality']]}"


def _groups(heads: dict[str, dict[str, Any]]) -> list[str]:
    parts = []
    first = next(iter(heads.values()))
    columns = list(first["groups"])
    for column in columns:
        rows = []
        for value, row in first["groups"][column].items():
            rows.append((value, str(row["speakers"]), str(row["clips"]), *_uars(heads, column, value)))
        parts.append(f"## By {column}\n\n" + _table((column, "speakers", "clips", *heads), rows))
    if len(first["speakers"]) > 1:
        rows = [
            (name, str(row["clips"]), *(f"{each['speakers'][name]['uar']:.2f}" for each in heads.values()))
            for name, row in first["speakers"].items()
        ]
        parts.append("## By speaker\n\n" + _table(("speaker", "clips", *heads), rows))
    return parts


def _uars(heads: dict[str, dict[str, Any]], column: str, value: str) -> list[str]:
    rows = [each["groups"][column][value] for each in heads.values()]
    return [_figure(row["uar"], row["interval"]) for row in rows]


def _robustness(report: dict[str, Any], lead: str) -> list[str]:
    text = f"UAR of the {lead} head on {report['clips']} clips, one thing made worse at a time.\n"
    rows = []
    for kind, points in report["curves"].items():
        levels = ("untouched" if p["level"] is None else f"{p['level']:g}" for p in points)
        figures = (p["heads"][lead]["uar"] for p in points)
        told = ", ".join(f"{level}: {uar:.2f}" for level, uar in zip(levels, figures, strict=True))
        rows.append((kind, told))
    return [f"## How robust\n\n{text}", _table(("", "level: UAR"), rows), "![Curves](robustness.png)\n"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _figure(value: float, interval: Sequence[float | None]) -> str:
    low, high = interval
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.2f} to {high:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def fill(template: str, figures: Mapping[str, Any]) -> str:
    """The template with every place filled.

    A place is a path of keys joined by dots (list positions are numbers), and Python's format after a colon;
    of two numbers both are formatted, as "0.41 to 0.62". Raises ValueError that names a place which has no
    figure or does not fit its format.
    """

    def found(match: re.Match[str]) -> str:
        path, form = match[1], match[2] or ""
        value: Any = figures
        try:
            for key in path.split("."):
                value = value[int(key)] if isinstance(value, list) else value[key]
            return (
                " to ".join(format(end, form) for end in value)
                if isinstance(value, list)
                else format(value, form)
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"The card's place {match[0]} has no figure that fits ({error!r}).") from error

    return PLACE.sub(found, template)


def pictures(card: str) -> list[str]:
    """The pictures that a card shows from beside itself."""
    return list(dict.fromkeys(PICTURE.findall(card)))


def _source(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.report_card", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--figures", type=_source, nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--out", type=Path, required=True, help="the card; pictures go beside it")
    arguments = parser.parse_args(argv)
    sources: dict[str, Path] = dict(arguments.figures)
    try:
        files = {name: path / "metrics.json" if path.is_dir() else path for name, path in sources.items()}
        figures = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
        card = fill(arguments.template.read_text(encoding="utf-8"), figures)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        for picture in pictures(card):
            name, _, file = picture.partition("_")
            if name not in sources:
                raise ValueError(f"The card's picture {picture} belongs to none of {', '.join(sources)}.")
            shutil.copyfile(sources[name] / file, arguments.out.parent / picture)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    arguments.out.write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
