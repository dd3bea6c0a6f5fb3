"""`python -m trainer.evaluate --bundle DIR`: how well a bundle does on clips, on voices and on stills.

`--clips labels.csv` plays clips with picture and sound, or either, as live; `--ravdess DIR --actors 17-20`
plays RAVDESS voices; `--stills DIR --split NAME` shows the frame encoder still faces. UAR with an interval
over speakers, WAR, calibration, recall per label, per speaker, for each head, as a table and with `--json`
as a file. It only joins the parts: playing is in `trainer.trials`, counting in `trainer.metrics`.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.bundle import load_bundle
from engine.errors import De3Error
from trainer.data import ravdess
from trainer.data.clips import list_clips
from trainer.data.takes import Take
from trainer.labels import HEADS
from trainer.metrics import Summary, summarise
from trainer.still_trials import evaluate_stills
from trainer.trials import ClipScore, Setting, score_clips

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
    what.add_argument("--ravdess", "--voices", type=Path, metavar="DIR", help="RAVDESS folder, sound alone")
    what.add_argument("--stills", type=Path, metavar="DIR", help="folder of still faces as FERPlus sheets")
    p.add_argument("--actors", type=parse_actors, default=parse_actors("17-20"), help="with --ravdess")
    p.add_argument("--split", default="dev", help="with --stills (default: dev)")
    p.add_argument("--stream", action="store_true", help="a speaker's clips as one stream, baselines kept")
    p.add_argument("--modality", choices=SHOWN, default="both", help="what is shown of the clips")
    p.add_argument("--drop-label", action="append", default=[], help="report also without clips so labelled")
    p.add_argument("--engine", default="onnx", help="back end (default: onnx)")
    p.add_argument("--face-model", type=Path, help="YuNet's file")
    p.add_argument("--offline", action="store_true", help="never fetch the face model")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    p.add_argument("--seed", type=int, default=0, help="of the order of clips and the drawn speakers")
    p.add_argument("--json", type=Path, metavar="FILE")
    return p


def summaries(scores: Sequence[ClipScore], dropped: Sequence[str], seed: int) -> dict[str, Summary]:
    """Per head, without the clips whose label is among `dropped`. Raises ValueError as `summarise` does."""
    kept = [score for score in scores if score.take.label not in dropped]
    heads = [head for head in HEADS if all(head in score.heads for score in kept)]
    return {
        head: summarise(
            np.array([score.heads[head] for score in kept]),
            [score.take.label for score in kept],
            [score.take.speaker for score in kept],
            kept[0].labels if kept else (),
            seed,
        )
        for head in heads
    }


def clip_report(scores: Sequence[ClipScore], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about played clips as plain values."""
    unknown = {score.take.label for score in scores} - set(scores[0].labels)
    always = [label for label in arguments.drop_label if label in unknown]
    report: dict[str, Any] = {
        "stream": arguments.stream,
        "modality": arguments.modality,
        "seed": arguments.seed,
        "lead": scores[0].lead,
        "windows": sum(score.windows for score in scores),
        "valid_video": float(np.mean([score.valid_video for score in scores])),
        "valid_audio": float(np.mean([score.valid_audio for score in scores])),
        "heads": {h: s.as_json() for h, s in summaries(scores, always, arguments.seed).items()},
    }
    if set(arguments.drop_label) - set(always):
        fewer = summaries(scores, arguments.drop_label, arguments.seed)
        report["without"] = {
            "labels": arguments.drop_label,
            "heads": {head: summary.as_json() for head, summary in fewer.items()},
        }
    report["model_labels"] = scores[0].labels
    report["clips"] = [
        {
            "file": score.take.file.name,
            "speaker": score.take.speaker,
            "label": score.take.label,
            "heads": {head: np.round(values, 5).tolist() for head, values in score.heads.items()},
        }
        for score in scores
    ]
    return report


def evaluate_clips(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Plays what was asked for and reports."""
    takes: list[Take]
    if arguments.clips is not None:
        takes = list_clips(arguments.clips)
    else:
        takes = ravdess.list_takes(arguments.ravdess, arguments.actors)
    if not takes:
        raise ValueError(f"{arguments.clips} lists no clips.")
    picture, sound = SHOWN[arguments.modality]
    setting = Setting(
        bundle=arguments.bundle,
        engine=arguments.engine,
        face_model=arguments.face_model,
        offline=arguments.offline,
        picture=picture,
        sound=sound,
        stream=arguments.stream,
        seed=arguments.seed,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("clips", total=len(takes))
        scores = score_clips(takes, setting, arguments.jobs, lambda done: bar.advance(task, done))
    return clip_report(scores, arguments)


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
    table.add_row("ECE", *(f"{s['ece']:.3f}" for s in heads.values()), end_section=True)
    for label in labels:
        table.add_row(f"recall {label}", *(f"{s['recall'][label]:.2f}" for s in heads.values()))
    table.add_section()
    for speaker in speakers if len(speakers) > 1 else ():
        table.add_row(f"UAR of {speaker}", *(f"{s['speakers'][speaker]['uar']:.2f}" for s in heads.values()))
    console.print(table)
    table = Table(title=f"answers of the {lead} head (columns) to labels (rows)")
    table.add_column("")
    for name in labels:
        table.add_column(name[:9], justify="right")
    for label, row in zip(labels, chosen["confusion"], strict=True):
        table.add_row(label, *map(str, row))
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    console = Console(file=sys.stdout)
    source = (arguments.clips or arguments.ravdess or arguments.stills).name
    try:
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
            report = evaluate_clips(arguments, console)
    except (De3Error, ValueError, OSError, av.FFmpegError) as error:
        Console(stderr=True).print(str(error), style="bold red", markup=False, highlight=False)
        return 2
    report = {"source": source, "bundle": bundle.name, "digest": bundle.digest} | report
    show(console, source, report["heads"], report["lead"])
    if "without" in report:
        names = ", ".join(report["without"]["labels"])
        show(console, f"{source} without {names}", report["without"]["heads"], report["lead"])
    if "windows" in report:
        shares = f"{report['valid_video']:.0%} seen, {report['valid_audio']:.0%} heard"
        console.print(f"{report['windows']} windows; of their time {shares}.", highlight=False)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
