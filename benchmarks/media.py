"""`python benchmarks/media.py --media DIR`: every clip of a folder to its end, and how calm the scores are.

Each clip goes through `engine.Recognizer`, in processes (`--jobs`), five scores a second. Shows
a table; the last line of output is JSON. See README.md in this folder for what each figure means.
"""

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.machine import JsonMap, add_shared, head, one_thread
from engine import Recognizer
from engine.errors import De3Error
from engine.types import SECOND_NS, Block, Frame, Scores
from realtime.sources.media import open_media

SCORES_HZ = 5
STEP_NS = SECOND_NS // SCORES_HZ
SOUND_HZ = 16_000
LONGEST_FRAME_NS = 200_000_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/media.py", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--media", type=Path, required=True, metavar="DIR", help="the folder of clips")
    add("--seconds", type=float, help="no more than so much of each")
    add("--jobs", type=int, default=2, help="processes (2)")
    add("--engine", default="onnx", help="what runs it (onnx)")
    add_shared(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the clips; returns the exit status: 1 where one cannot be played, 2 where nothing can be run."""
    options = parser().parse_args(arguments)
    one_thread()
    files = sorted(path for path in options.media.glob("*") if path.is_file())
    try:
        if not files:
            raise De3Error(f"There are no clips in {options.media}.")
        report = head("media", options, ("seconds", "engine", "jobs"))
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.offline = True  # the face model has been fetched, or cannot be had
    report["clips"] = _measured(files, options)
    report["all"] = summary(report["clips"])
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{report['faces']} Bundle: {report['bundle']['name']} {report['bundle']['digest']}")
    console.print(table(report))
    for clip in report["clips"]:
        if "broke" in clip:
            console.print(f"{clip['file']}: {clip['broke']}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return int(any("broke" in clip for clip in report["clips"]))


def played(recognizer: Recognizer, file: Path, seconds: float | None = None) -> Iterator[Scores]:
    """The windows of a clip, or of its first seconds, in order, to its end as the program has it.

    Raises SourceError where the file cannot be played.
    """
    end_ns, last_ns, before_ns = STEP_NS, 0, None
    source = open_media(str(file), paced=False)
    with contextlib.closing(source):
        for item in source:
            if not isinstance(item, Frame | Block):
                continue
            if seconds is not None and item.t_ns >= seconds * 1e9:
                break
            if isinstance(item, Frame):
                recognizer.add_frame(item.t_ns, item.image)
                # The last picture stays as long as the one before it did, but no longer than this.
                stays_ns = 0 if before_ns is None else min(item.t_ns - before_ns, LONGEST_FRAME_NS)
                last_ns, before_ns = max(last_ns, item.t_ns + stays_ns), item.t_ns
            else:
                recognizer.add_audio(item.t_ns, item.samples)
                last_ns = max(last_ns, item.t_ns + len(item.samples) * SECOND_NS // SOUND_HZ)
            while end_ns <= recognizer.ready_ns:
                yield recognizer.scores(end_ns)
                end_ns += STEP_NS
        recognizer.finish()
        while end_ns <= last_ns:
            yield recognizer.scores(end_ns)
            end_ns += STEP_NS


def changes(windows: Sequence[Scores]) -> int:
    """How often `top` became another one; windows of nothing (None) are passed over."""
    tops = [window.top for window in windows if window.top is not None]
    return sum(before != after for before, after in itertools.pairwise(tops))


def measure(file: Path, options: argparse.Namespace) -> JsonMap:
    """The figures of one clip."""
    try:
        source = open_media(str(file), paced=False)
        info = source.info
        source.close()
        with Recognizer(
            bundle=options.bundle,
            engine=options.engine,
            face_model=options.face_model,
            offline=options.offline,
            has_video=info.has_video,
            has_audio=info.has_audio,
        ) as recognizer:
            begun_s = time.process_time()
            windows = list(played(recognizer, file, options.seconds))
            cpu_s = time.process_time() - begun_s
            frames, faces, lost = recognizer.frames, recognizer.faces, dict(+recognizer.counts)
    except De3Error as error:
        return {"file": file.name, "broke": str(error)}
    if not windows:
        return {"file": file.name, "broke": "shorter than a window's step."}
    seconds = windows[-1].t_ns / 1e9
    turned = changes(windows)
    return {
        "file": file.name,
        "seconds": round(seconds, 3),
        "frames": frames,
        "sound": info.has_audio,
        "faces": round(faces / max(frames, 1), 4),
        "windows": len(windows),
        "windows_with_face": round(sum(window.valid_video > 0 for window in windows) / len(windows), 4),
        "changes": turned,
        "changes_hz": round(turned / seconds, 3),
        "ms_a_frame": round(1e3 * cpu_s / max(frames, 1), 3),
        "tracks": windows[-1].track + 1,
        "tops": _shares(windows),
        "lost": lost,
    }


def summary(clips: Sequence[JsonMap]) -> JsonMap:
    """All clips that were played, as one."""
    whole = [clip for clip in clips if "broke" not in clip]
    seconds, frames = (sum(clip[name] for clip in whole) for name in ("seconds", "frames"))
    windows = sum(clip["windows"] for clip in whole)
    if not frames:
        return {"clips": len(clips), "played": len(whole)}
    return {
        "clips": len(clips),
        "played": len(whole),
        "seconds": round(seconds, 1),
        "frames": frames,
        "faces": round(sum(clip["faces"] * clip["frames"] for clip in whole) / frames, 4),
        "windows_with_face": round(
            sum(clip["windows_with_face"] * clip["windows"] for clip in whole) / windows, 4
        ),
        "changes_hz": round(sum(clip["changes"] for clip in whole) / seconds, 3),
        "ms_a_frame": round(sum(clip["ms_a_frame"] * clip["frames"] for clip in whole) / frames, 3),
    }


def table(report: JsonMap) -> Table:
    """The clips and, at the end, all of them."""
    columns = ("clip", "seconds", "frames", "faces", "windows with face", "changes/s", "ms a frame", "top")
    made = Table(*columns, title=f"Clips through engine.Recognizer, {SCORES_HZ} scores a second")
    for clip in report["clips"]:
        if "broke" not in clip:
            made.add_row(clip["file"], *_figures(clip), ", ".join(list(clip["tops"])[:2]))
    made.add_section()
    if "frames" in report["all"]:
        made.add_row(f"all {report['all']['played']}", *_figures(report["all"]), style="bold")
    made.caption = (
        "faces: share of the frames in which one was found; changes: of `top`, of the leading head; ms: CPU "
        "time of decoding, finding, features, windows and sound together"
    )
    return made


def _figures(clip: JsonMap) -> tuple[str, ...]:
    return (
        f"{clip['seconds']:.1f}",
        str(clip["frames"]),
        f"{clip['faces']:.1%}",
        f"{clip['windows_with_face']:.1%}",
        f"{clip['changes_hz']:.2f}",
        f"{clip['ms_a_frame']:.1f}",
    )


def _shares(windows: Sequence[Scores]) -> JsonMap:
    """Share of the windows by their `top`, the most frequent first."""
    tops = [str(window.top) for window in windows]
    shares = {top: round(tops.count(top) / len(tops), 3) for top in dict.fromkeys(tops)}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _measured(files: Sequence[Path], options: argparse.Namespace) -> list[JsonMap]:
    """All clips, the largest files first, in processes; in the order of `files`."""
    found: dict[str, JsonMap] = {}
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
        ProcessPoolExecutor(max(options.jobs, 1), get_context("spawn")) as pool,
    ):
        task = progress.add_task("", total=len(files))
        ranked = sorted(files, key=lambda file: -file.stat().st_size)
        for done in as_completed([pool.submit(measure, file, options) for file in ranked]):
            clip = done.result()
            found[clip["file"]] = clip
            progress.advance(task)
    return [found[file.name] for file in files]


if __name__ == "__main__":
    sys.exit(main())
