"""`python -m trainer.finder.evaluate --shared DIR`: our own face finder beside YuNet, on clips held out.

Every clip is followed twice, as it would be live: once with YuNet, once with the bundle's finder. Prints a
table and writes JSON. YuNet is the measure: of frames its single look, of points the mean of several looks
(mirrored, at other sizes), from which its single look is off too. Knows nothing of training.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine.bundle import load_bundle
from engine.signals.detection import Detection, FaceFinder
from engine.signals.face import FaceTracker
from engine.signals.finder import load_finder
from engine.signals.sight import Sight, centre
from engine.signals.yunet import YUNET_FILE
from engine.types import Frame
from trainer.finder.teacher import SPLIT, Teacher

FRAMES_HZ = 25
SCAN_EVERY = 5
FRONTAL, HALF_TURNED = 0.2, 0.5
"""How far from the middle between the eyes, in eye distances, the nose is."""
DOUBTFUL = 0.3
SMALLEST = 14.0
REAL_FACES_STEP = 3


@dataclass(slots=True)
class Tally:
    """What was counted of one clip, or of several."""

    frames: int = 0
    seconds: float = 0.0
    theirs: int = 0
    ours: int = 0
    agreed: int = 0
    easy: int = 0
    easy_agreed: int = 0
    extra: int = 0
    tracks: int = 0
    scans: int = 0
    scanned: int = 0
    scanned_agreed: int = 0
    scanned_false: int = 0
    apart: list[float] = field(default_factory=list)
    our_errors: list[float] = field(default_factory=list)
    their_errors: list[float] = field(default_factory=list)
    their_ms: list[float] = field(default_factory=list)
    our_ms: list[float] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count another's too."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self) -> dict[str, float]:
        """Shares, and minutes where a rate is meant."""
        return {
            "frames": self.frames,
            "yunet_found": self.theirs / max(self.frames, 1),
            "found": self.ours / max(self.frames, 1),
            "of_yunets": self.agreed / max(self.theirs, 1),
            "of_yunets_frontal_and_half_turned": self.easy_agreed / max(self.easy, 1),
            "of_yunets_scanned": self.scanned_agreed / max(self.scanned, 1),
            "scanned_false_a_picture": self.scanned_false / max(self.scans, 1),
            "false_frames_a_minute": 60 * self.extra / max(self.seconds, 1e-9),
            "faces_begun_a_minute": 60 * self.tracks / max(self.seconds, 1e-9),
            "points_apart": _mean(self.apart),
            "point_error": _mean(self.our_errors),
            "yunets_point_error": _mean(self.their_errors),
            "yunet_ms": _mean(self.their_ms),
            "ms": _mean(self.our_ms),
        }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def frames(file: Path) -> Iterator[Frame]:
    """A clip's pictures, at most some 25 a second."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        every = max(1, round(float(stream.average_rate or FRAMES_HZ) / FRAMES_HZ))
        for index, picture in enumerate(container.decode(stream)):
            if index % every == 0:
                t_ns = round((picture.time or index / FRAMES_HZ) * 1e9)
                yield Frame(t_ns=t_ns, seq=index, image=picture.to_ndarray(format="bgr24"))


def turned(points: NDArray[np.float32]) -> float:
    """How far the nose is off the middle between the eyes, along their line, in eye distances."""
    across = points[1] - points[0]
    return abs(float((points[2] - points[0]) @ across / max(float(across @ across), 1e-9)) - 0.5)


def point_error(found: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """The mean distance of five points, in eye distances of `truth`."""
    eyes = max(float(np.linalg.norm(truth[1] - truth[0])), 1e-6)
    return float(np.linalg.norm(found - truth, axis=1).mean()) / eyes


def same(one: Detection, other: Detection) -> bool:
    """Whether two finders mean one face."""
    return math.dist(centre(one), centre(other)) < 0.35 * max(other.box[2:])


def compare(file: Path, yunet: FaceFinder, doubtful: FaceFinder, ours: FaceFinder, teacher: Teacher) -> Tally:
    """One clip, followed with both."""
    tally, theirs, mine = Tally(), FaceTracker(yunet), FaceTracker(ours)
    sights = Sight(yunet), Sight(ours), Sight(doubtful)
    last_ns, begun = 0, set()
    for number, frame in enumerate(frames(file)):
        tally.frames += 1
        last_ns = max(last_ns, frame.t_ns)
        a, ms = _timed(theirs, frame)
        tally.their_ms.append(ms)
        b, ms = _timed(mine, frame)
        tally.our_ms.append(ms)
        tally.theirs += a is not None
        tally.ours += b is not None
        if b is not None:
            begun.add(mine.track)
        if a is not None:
            agreed, easy = b is not None and same(b, a), turned(a.points) <= HALF_TURNED
            tally.agreed += agreed
            tally.easy += easy
            tally.easy_agreed += easy and agreed
            if agreed and easy and b is not None:
                tally.apart.append(point_error(b.points, a.points))
                if number % SCAN_EVERY == 0:
                    _measure(tally, teacher, frame, a, b)
        elif b is not None:
            _ = sights[2].grey(frame)
            tally.extra += not any(same(b, d) for d in sights[2].near(frame.image, b))
        if number % SCAN_EVERY == 0:
            _scan(tally, frame, sights)
    tally.seconds = last_ns / 1e9
    tally.tracks = len(begun)
    return tally


def _timed(tracker: FaceTracker, frame: Frame) -> tuple[Detection | None, float]:
    begin = time.thread_time()
    face = tracker.observe(frame).face
    ms = (time.thread_time() - begin) * 1e3
    return (tracker.followed.detection if face is not None and tracker.followed else None), ms


def _measure(tally: Tally, teacher: Teacher, frame: Frame, theirs: Detection, ours: Detection) -> None:
    """How far the points of both lie from the mean of several looks of YuNet's."""
    grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
    row = np.array([*theirs.box, *theirs.points.ravel(), theirs.confidence], np.float32)
    truth = teacher.steadied(grey, row)[4:14].reshape(5, 2)
    tally.our_errors.append(point_error(ours.points, truth))
    tally.their_errors.append(point_error(theirs.points, truth))


def _scan(tally: Tally, frame: Frame, sights: tuple[Sight, Sight, Sight]) -> None:
    for sight in sights:
        _ = sight.grey(frame)
    theirs, ours, doubtful = (sight.scan(frame.image) for sight in sights)
    scale = 320 / max(320, *frame.image.shape[:2])
    wanted = [d for d in theirs if max(d.box[2:]) * scale >= SMALLEST and turned(d.points) <= HALF_TURNED]
    tally.scans += 1
    tally.scanned += len(wanted)
    tally.scanned_agreed += sum(any(same(d, w) for d in ours) for w in wanted)
    tally.scanned_false += sum(not any(same(d, w) for w in [*theirs, *doubtful]) for d in ours)


def clips(shared: Path, quick: bool) -> dict[str, list[Path]]:
    """The clips by group: media held out, real faces, and those with nobody."""
    split = json.loads(SPLIT.read_text())
    real = sorted((shared / "data" / "real_faces_dev").glob("*.mp4"))[:: 20 if quick else REAL_FACES_STEP]
    groups = {
        "held-out media": [shared / name for name in split["held_out"]],
        "real_faces_dev": real,
        "nobody": [shared / name for name in split["nobody"]],
    }
    return {name: [file for file in files if file.is_file()] for name, files in groups.items()}


def evaluate(
    shared: Path, bundle: Path | None, quick: bool, console: Console
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by group, then by clip; "all" sums a group."""
    cv2.setNumThreads(1)
    ours, notice = load_finder(bundle=load_bundle(bundle), offline=True)
    console.print(notice)
    model = shared / "data" / "yunet" / YUNET_FILE
    yunet, _ = load_finder(model)
    doubtful, teacher = _Doubtful(model), Teacher(model)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for group, files in clips(shared, quick).items():
        total, figures = Tally(), {}
        for file in track(files, group, console=console):
            tally = compare(file, yunet, doubtful, ours, teacher)
            total.add(tally)
            figures[file.name] = tally.figures()
        report[group] = {"all": total.figures(), **figures}
    return report


class _Doubtful:
    """YuNet with a low threshold: where even it sees nothing, a face of ours is false."""

    name = "YuNet, in doubt"

    def __init__(self, model: Path) -> None:
        self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), DOUBTFUL)

    def find(self, image: NDArray[np.uint8]) -> list[Detection]:
        self._net.setInputSize(image.shape[1::-1])
        _, rows = self._net.detect(image)
        return [
            Detection(box=tuple(row[:4]), points=row[4:14].reshape(5, 2), confidence=float(row[14]))
            for row in (() if rows is None else rows)
        ]


COLUMNS = {
    "frames": ("frames", "{:.0f}"),
    "yunet_found": ("YuNet", "{:.1%}"),
    "found": ("ours", "{:.1%}"),
    "of_yunets_frontal_and_half_turned": ("of YuNet's", "{:.1%}"),
    "of_yunets_scanned": ("scanned", "{:.1%}"),
    "scanned_false_a_picture": ("false a scan", "{:.3f}"),
    "false_frames_a_minute": ("false frames/min", "{:.1f}"),
    "faces_begun_a_minute": ("begun/min", "{:.1f}"),
    "points_apart": ("points apart", "{:.1%}"),
    "point_error": ("points off", "{:.1%}"),
    "yunets_point_error": ("YuNet's off", "{:.1%}"),
    "yunet_ms": ("YuNet ms", "{:.2f}"),
    "ms": ("ours ms", "{:.2f}"),
}


def table(report: dict[str, dict[str, dict[str, float]]]) -> Table:
    """The report as a person reads it."""
    shown = Table(*("clip", *(title for title, _ in COLUMNS.values())))
    for group, rows in report.items():
        for name, figures in rows.items():
            cells = (form.format(figures[key]) for key, (_, form) in COLUMNS.items())
            shown.add_row(f"[bold]{group}" if name == "all" else f"  {name}", *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.finder.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/ and media/")
    parser.add_argument("--bundle", type=Path, help="the bundle whose finder is measured (the bundled one)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer of the real faces")
    arguments = parser.parse_args()
    console = Console(width=200)
    report: dict[str, Any] = evaluate(arguments.shared, arguments.bundle, arguments.quick, console)
    console.print(table(report))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
