"""`python -m trainer.evaluate --bundle DIR`: how well a bundle does on clips, on voices and on stills.

`--clips labels.csv` plays clips with picture and sound, or either, as live; `--set DIR --split test` plays
the takes of a set that `trainer.prepare` made, divided as its protocol does; `--ravdess DIR --actors 17-20`
plays RAVDESS voices; `--stills DIR --split NAME` shows the frame encoder still faces. UAR with an interval
over speakers, WAR, calibration, recall per label, per speaker, CCC of attributes, for each head, as a table
and with `--json` as a file; `--out DIR` writes a report with pictures and a card. It only joins the parts:
playing is in `trainer.trials`, counting in `trainer.metrics`, the report's folder in `trainer.report`.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.bundle import Bundle, load_bundle
from engine.errors import De3Error
from trainer.clip_report import clip_report, order_report
from trainer.data import ravdess
from trainer.data.clips import in_words, list_rows
from trainer.data.takes import Take
from trainer.facts import Facts, ravdess_facts, scaled_facts, table_facts
from trainer.heat_map import Attention, attend
from trainer.robustness import CURVES, fitting, robustness, sample
from trainer.still_trials import evaluate_stills
from trainer.take_report import takes_table
from trainer.trials import Setting, score_clips

SHOWN = {"both": (True, True), "video": (True, False), "audio": (False, True)}


def parse_actors(text: str) -> list[int]:
    """`17-20,2` -> [17, 18, 19, 20, 2]; raises ValueError for any other form."""
    actors: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        actors.extend(range(int(first), int(last or first) + 1))
    return actors


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__)
    p.add_argument("--bundle", type=Path, help="folder of the bundle (default: the one that comes along)")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--clips", type=Path, metavar="CSV", help="table with the columns file, speaker, label")
    what.add_argument("--set", type=Path, metavar="DIR", help="set made by trainer.prepare, its --split")
    what.add_argument("--ravdess", "--voices", type=Path, metavar="DIR", help="RAVDESS folder, sound alone")
    what.add_argument("--stills", type=Path, metavar="DIR", help="FERPlus, as published or as sheets")
    p.add_argument("--actors", type=parse_actors, default=parse_actors("17-20"), help="with --ravdess")
    p.add_argument("--split", default="dev", help="of --set, --stills, or a table of takes (default: dev)")
    p.add_argument("--stream", action="store_true", help="a speaker's clips as one stream, baselines kept")
    p.add_argument("--modality", choices=SHOWN, default="both", help="what is shown of the clips")
    p.add_argument("--drop-label", action="append", default=[], help="report also without clips so labelled")
    p.add_argument("--engine", default="onnx", help="back end (default: onnx)")
    p.add_argument("--face-model", type=Path, help="YuNet's file")
    p.add_argument("--offline", action="store_true", help="never fetch the face model")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    p.add_argument("--seed", type=int, default=0, help="of the order of clips and the drawn speakers")
    p.add_argument(
        "--orders", type=int, default=1, metavar="N",
        help="with --stream: UAR as the mean over so many orders of the clips too (default: 1)",
    )  # fmt: skip
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of a report: figures, pictures, a card")
    p.add_argument(
        "--group", action="append", default=[], metavar="COLUMN",
        help="report on each value of this column of the table apart (RAVDESS: sex and intensity always)",
    )  # fmt: skip
    p.add_argument(
        "--robustness", nargs="*", metavar="KIND",
        help=f"with --out: scores of worse and worse clips; all of {', '.join(CURVES)}, or these",
    )  # fmt: skip
    p.add_argument("--robustness-clips", type=int, metavar="N", help="of so many clips, labels in turn")
    p.add_argument(
        "--heat-map", type=Path, metavar="CLIP", help="with --out: picture of the attention over a clip"
    )
    return p


def open_takes(arguments: argparse.Namespace, bundle: Bundle) -> tuple[list[Take], list[Facts]]:
    """The clips that were asked for and are rated by what the model tells, and what is known of each."""
    if arguments.ravdess is not None:
        takes = ravdess.list_takes(arguments.ravdess, arguments.actors)
        facts = ravdess_facts(takes)
    else:
        table = arguments.clips or takes_table(arguments.set)
        rows = list_rows(table, arguments.split)
        if not rows:
            raise ValueError(f"{table} lists no clips, or none of the split {arguments.split}.")
        takes = [row.take for row in rows]
        facts = table_facts(table, rows, arguments.group, bundle.attributes)
    rated = [place for place, take in enumerate(takes) if take.label or facts[place].attributes]
    if not rated:
        told = ", ".join(bundle.attributes) or "it has none"
        raise ValueError(f"No clip has a label or one of the model's attributes ({told}).")
    answered = {*bundle.labels, *arguments.drop_label}
    if unknown := sorted({take.label for take in takes if take.label} - answered):
        raise ValueError(
            f"The label {unknown[0]!r} is not one of the model's ({', '.join(bundle.labels)}); "
            f"--drop-label {unknown[0]} leaves it out."
        )
    facts = scaled_facts(facts, bundle.attribute_ranges)
    return [takes[place] for place in rated], [facts[place] for place in rated]


def setting_of(arguments: argparse.Namespace) -> Setting:
    picture, sound = SHOWN[arguments.modality]
    return Setting(
        bundle=arguments.bundle,
        engine=arguments.engine,
        face_model=arguments.face_model,
        offline=arguments.offline,
        picture=picture,
        sound=sound,
        stream=arguments.stream,
        seed=arguments.seed,
    )


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def evaluate_clips(arguments: argparse.Namespace, bundle: Bundle, console: Console) -> dict[str, Any]:
    """Plays what was asked for and reports."""
    takes, facts = open_takes(arguments, bundle)
    setting = setting_of(arguments)
    with progress_bar(console) as bar:
        task = bar.add_task("clips", total=len(takes) * arguments.orders)
        orders = [
            score_clips(
                takes,
                replace(setting, seed=setting.seed + order),
                arguments.jobs,
                lambda done: bar.advance(task, done),
            )
            for order in range(arguments.orders)
        ]
    how = {"stream": arguments.stream, "modality": arguments.modality, "seed": arguments.seed}
    report = clip_report(orders[0], facts, arguments.drop_label, arguments.seed, how)
    if arguments.orders > 1:
        report["orders"] = order_report(orders, arguments.drop_label, arguments.seed)
    return report


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The report on what was asked for. Raises De3Error, ValueError, OSError or av.FFmpegError."""
    bundle = load_bundle(arguments.bundle)
    if arguments.stills is not None:
        report = evaluate_stills(
            arguments.stills,
            arguments.split,
            arguments.bundle,
            arguments.face_model,
            arguments.offline,
            arguments.jobs,
        )
    else:
        report = evaluate_clips(arguments, bundle, console)
    asked = arguments.clips or arguments.set or arguments.ravdess or arguments.stills
    source = f"{asked.resolve().name}, {arguments.split}" if arguments.set else asked.name
    return {"source": source, "bundle": bundle.name, "digest": bundle.digest} | report


def measure_robustness(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The curves that were asked for, of the clips that were asked for, and what was measured when.

    Raises as `measure` does.
    """
    bundle = load_bundle(arguments.bundle)
    takes, _ = open_takes(arguments, bundle)
    takes = [take for take in takes if take.label not in (None, *arguments.drop_label)]
    if not takes:
        raise ValueError("--robustness needs clips with labels, and there are none.")
    takes = sample(takes, arguments.robustness_clips, arguments.seed)
    setting = setting_of(arguments)
    kinds = fitting(takes, setting, arguments.robustness)
    with progress_bar(console) as bar:
        task = bar.add_task("robustness", total=1 + sum(len(CURVES[kind].levels) - 1 for kind in kinds))

        def advance(done: str) -> None:
            bar.update(task, advance=1, description=done)

        curves = robustness(takes, setting, kinds, arguments.jobs, advance)
    today = datetime.now(UTC).date().isoformat()
    return {"bundle": bundle.name, "digest": bundle.digest, "date": today} | curves


def attention_first(arguments: argparse.Namespace) -> tuple[str, Attention] | None:
    """What a report may lack is told before clips are played for hours: matplotlib, a clip with attention.

    The clip's name and its attention, if a picture of it was asked for. Raises as `measure` does.
    """
    if arguments.out is None:
        return None
    try:
        import trainer.report  # noqa: F401
    except ImportError as error:
        raise ValueError(f'A report needs matplotlib: pip install -e ".[report]" ({error}).') from error
    clip: Path | None = arguments.heat_map
    if clip is None:
        return None
    takes = [] if arguments.stills else open_takes(arguments, load_bundle(arguments.bundle))[0]
    sound = next((take.sound for take in takes if take.file.resolve() == clip.resolve()), None)
    return clip.name, attend(clip, arguments.bundle, arguments.face_model, arguments.offline, sound)


def write_folder(
    arguments: argparse.Namespace,
    report: dict[str, Any],
    attention: tuple[str, Attention] | None,
    console: Console,
) -> None:
    """The folder of the report; what the robustness adds comes when all else is kept. Raises as `measure`."""
    from trainer.report import write_report

    licence = load_bundle(arguments.bundle).licence
    write_report(arguments.out, report, licence, attention=attention)
    console.print(f"The report is in {arguments.out}.", highlight=False)
    if arguments.robustness is not None:
        write_report(arguments.out, report, licence, measure_robustness(arguments, console), attention)


def show(console: Console, title: str, heads: dict[str, dict[str, Any]], lead: str) -> None:
    """Prints a table of measures with a column a head, and the leading head's confusion."""
    lead = lead if lead in heads else next(iter(heads))
    chosen = heads[lead]
    labels, speakers = chosen["labels"], list(chosen["speakers"])
    table = Table(title=f"{title}: {chosen['clips']} labelled")
    table.add_column("")
    for head in heads:
        table.add_column(f"{head} (leads)" if head == lead else head, justify="right")
    table.add_row("UAR", *(f"{s['uar']:.3f}" for s in heads.values()), style="bold")
    if len(speakers) > 1:
        table.add_row(
            "  95 % over speakers", *("{:.3f} to {:.3f}".format(*s["interval"]) for s in heads.values())
        )
    table.add_row("WAR", *(f"{s['war']:.3f}" for s in heads.values()))
    table.add_row("macro F1", *(f"{s['macro_f1']:.3f}" for s in heads.values()))
    table.add_row("ECE", *(f"{s['ece']:.3f}" for s in heads.values()), end_section=True)
    for label in labels:
        table.add_row(f"recall {label}", *(f"{s['recall'][label]:.2f}" for s in heads.values()))
    table.add_section()
    for speaker in speakers if len(speakers) > 1 else ():
        table.add_row(f"UAR of {speaker}", *(f"{s['speakers'][speaker]['uar']:.2f}" for s in heads.values()))
    for column, values in chosen["groups"].items():
        table.add_section()
        for value in values:
            table.add_row(
                f"{column}: {value}",
                *(f"{s['groups'][column][value]['uar']:.2f}" for s in heads.values()),
            )
    console.print(table)
    table = Table(title=f"answers of the {lead} head (columns) to labels (rows)")
    table.add_column("")
    for name in labels:
        table.add_column(name[:9], justify="right")
    for label, row in zip(labels, chosen["confusion"], strict=True):
        table.add_row(label, *map(str, row))
    console.print(table)


def refuse_what_does_not_go_together(p: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.out is None and (arguments.robustness is not None or arguments.heat_map is not None):
        p.error("--robustness and --heat-map write into the folder of --out, which is missing")
    if arguments.stills is not None and arguments.robustness is not None:
        p.error("--robustness plays clips, not --stills")
    if arguments.orders < 1 or (arguments.orders > 1 and not arguments.stream):
        p.error("--orders counts the orders of --stream: 1 or more, and only with --stream")
    if arguments.group and arguments.clips is None and arguments.set is None:
        p.error("--group names a column of the table of --clips or --set")
    for kind in arguments.robustness or ():
        if kind not in CURVES:
            p.error(f"--robustness {kind}: there are {', '.join(CURVES)}")


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    arguments = p.parse_args(argv)
    refuse_what_does_not_go_together(p, arguments)
    console = Console(file=sys.stdout)
    try:
        attention = attention_first(arguments)
        report = measure(arguments, console)
        show_all(console, report)
        if arguments.json is not None:
            text = json.dumps(report, indent=1, allow_nan=False) + "\n"
            arguments.json.write_text(text, encoding="utf-8")
        if arguments.out is not None:
            write_folder(arguments, report, attention, console)
    except (De3Error, ValueError, OSError, av.FFmpegError) as error:
        Console(stderr=True).print(in_words(error), style="bold red", markup=False, highlight=False)
        return 2
    return 0


def show_all(console: Console, report: dict[str, Any]) -> None:
    """Prints the tables of a report."""
    if report["heads"]:
        show(console, report["source"], report["heads"], report["lead"])
    if "without" in report:
        names = ", ".join(report["without"]["labels"])
        show(console, f"{report['source']} without {names}", report["without"]["heads"], report["lead"])
    if "orders" in report:
        show_orders(console, report["orders"])
    for name, each in report.get("attributes", {}).items():
        told = ", ".join(
            f"{head} not defined" if figures["ccc"] is None else f"{head} {figures['ccc']:.3f}"
            for head, figures in each["heads"].items()
        )
        console.print(f"CCC of {name}: {told}; {each['clips']} clips.", highlight=False)
    if "windows" in report:
        shares = f"{report['valid_video']:.0%} seen, {report['valid_audio']:.0%} heard"
        console.print(f"{report['windows']} windows; of their time {shares}.", highlight=False)


def show_orders(console: Console, orders: dict[str, Any]) -> None:
    for each in (orders, orders.get("without")):
        if each is None:
            continue
        left_out = " without " + ", ".join(each["labels"]) if "labels" in each else ""
        uars = ", ".join(f"{head} {figures['uar']:.3f}" for head, figures in each["heads"].items())
        console.print(f"UAR{left_out}, mean over {orders['count']} orders: {uars}.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
