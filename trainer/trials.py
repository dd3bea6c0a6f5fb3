"""Plays labelled clips through `engine.Recognizer` exactly as live, and keeps one score a clip and head.

A clip's score is the mean log-probability over its windows, five a second. Alone: every clip by a recogniser
that has seen nothing. As a stream: a speaker's clips one after another through one recogniser, time going on,
windows cleared between clips and baselines kept. It knows nothing of metrics; data leaves it as `ClipScore`s.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import Recognizer
from engine.signals.face import FaceFinder, load_finder
from engine.types import SECOND_NS, Block, Frame, Scores
from trainer.data.clips import contents, play
from trainer.data.takes import Take
from trainer.disturbances import Disturbance, disturbed
from trainer.instruments import InstrumentedRecognizer, ShortWindows

SCORE_HZ = 5
STEP_NS = SECOND_NS // SCORE_HZ
LONGEST_FRAME_NS = 200_000_000
SMALLEST = 1e-9
"""Probabilities are floored here before the logarithm, so that one certain window does not decide a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How clips are played.

    bundle: its folder; None for the one that comes with the engine.
    engine: name of the back end; not "auto", lest two processes choose differently.
    face_model: YuNet's file; None for the engine's own search.
    offline: never fetch the face model.
    picture, sound: what is shown of each clip.
    stream: a speaker's clips as one stream, or each clip alone.
    seed: of the order of a speaker's clips.
    disturbance: what makes the clips worse, if anything does.
    """

    bundle: Path | None = None
    engine: str = "onnx"
    face_model: Path | None = None
    offline: bool = False
    picture: bool = True
    sound: bool = True
    stream: bool = False
    seed: int = 0
    disturbance: Disturbance | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipScore:
    """What the recogniser made of one clip.

    labels: the model's, the order of the arrays.
    heads: per head (L,) float64, mean log-probability over the clip's windows.
    lead: the head that leads.
    windows: how many were scored.
    valid_video, valid_audio: mean shares really seen and heard.
    attributes: per head the bundle's continuous attributes, mean over the clip's windows.
    """

    take: Take
    labels: tuple[str, ...]
    heads: dict[str, NDArray[np.float64]]
    lead: str
    windows: int
    valid_video: float
    valid_audio: float
    attributes: dict[str, dict[str, float]]


def score_clips(
    takes: Sequence[Take],
    setting: Setting,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[ClipScore]:
    """One score a take, in the order of `takes`; `progress` is told how many have been added.

    Raises what the recogniser and the decoder raise.
    """
    groups = list(_groups(takes, setting))
    scored: dict[int, ClipScore] = {}

    def add(group: list[int], scores: list[ClipScore]) -> None:
        scored.update(zip(group, scores, strict=True))
        if progress is not None:
            progress(len(group))

    if jobs <= 1 or len(groups) == 1:
        for group in groups:
            add(group, _score_group([takes[place] for place in group], setting))
    else:
        with ProcessPoolExecutor(min(jobs, len(groups)), get_context("spawn")) as pool:
            pending = {
                pool.submit(_score_group, [takes[place] for place in group], setting): group
                for group in groups
            }
            for done in as_completed(pending):
                add(pending[done], done.result())
    return [scored[place] for place in range(len(takes))]


def _groups(takes: Sequence[Take], setting: Setting) -> Iterator[list[int]]:
    """Places of clips that share a recogniser: a speaker's in a random order, or each alone."""
    if not setting.stream:
        yield from ([place] for place in range(len(takes)))
        return
    for speaker in sorted({take.speaker for take in takes}):
        own = [place for place, take in enumerate(takes) if take.speaker == speaker]
        own.sort(key=lambda place: str(takes[place].file))
        random.Random(f"{setting.seed} {speaker}").shuffle(own)
        yield own


def _score_group(group: list[Take], setting: Setting) -> list[ClipScore]:
    held = [contents(take.file, take.sound) for take in group]
    has_video = setting.picture and any(each.has_video for each in held)
    has_audio = setting.sound and any(each.has_audio for each in held)
    recogniser = _recogniser(setting, has_video, has_audio)
    scores: list[ClipScore] = []
    start_ns = 0
    try:
        for take in group:
            if scores:
                recogniser.clear_window(start_ns)
            windows, end_ns = score_windows(recogniser, take.file, setting, start_ns, take.sound)
            scores.append(_clip_score(take, windows))
            # The next clip begins on the grid of the scores: nothing is scored twice or between clips.
            start_ns = -(-end_ns // STEP_NS) * STEP_NS
    finally:
        recogniser.close()
    return scores


def _recogniser(setting: Setting, has_video: bool, has_audio: bool) -> Recognizer:
    options = {
        "bundle": setting.bundle,
        "engine": setting.engine,
        "face_model": setting.face_model,
        "offline": setting.offline,
        "has_video": has_video,
        "has_audio": has_audio,
    }
    if setting.disturbance is None or setting.disturbance.kind != "window_s":
        return Recognizer(**options)
    seconds = setting.disturbance.level
    return InstrumentedRecognizer(
        lambda opened: ShortWindows(opened.backend, opened.bundle.window, seconds), **options
    )


@lru_cache(maxsize=1)
def _finder(face_model: Path | None, offline: bool) -> FaceFinder:
    """The finder of this process, for disturbances that go by the size of the face."""
    return load_finder(face_model=face_model, offline=offline)[0]


def _items(file: Path, setting: Setting, sound_file: Path | None) -> Iterator[Frame | Block]:
    if setting.disturbance is None:
        return play(file, setting.picture, setting.sound, sound_file)
    finder = _finder(setting.face_model, setting.offline)
    return disturbed(file, setting.disturbance, finder, setting.picture, setting.sound, sound_file)


def score_windows(
    recogniser: Recognizer,
    file: Path,
    setting: Setting,
    start_ns: int = 0,
    sound_file: Path | None = None,
) -> tuple[list[Scores], int]:
    """All windows of a clip that starts at start_ns, as a run of the program has them, and where it ends.

    sound_file: has the sound in place of `file`.
    """
    windows: list[Scores] = []
    due_ns, end_ns, last_ns = start_ns + STEP_NS, start_ns, None
    for item in _items(file, setting, sound_file):
        t_ns = start_ns + item.t_ns
        # A block ends later than it begins, a frame counts half a tick on either side: a window is read
        # when everything up to its end and one step more has been given.
        while due_ns + STEP_NS <= t_ns:
            windows.append(recogniser.scores(due_ns))
            due_ns += STEP_NS
        if isinstance(item, Frame):
            recogniser.add_frame(t_ns, item.image)
            # The last picture stays as long as the one before it did, but no longer than this.
            end_ns = max(end_ns, t_ns + (0 if last_ns is None else min(t_ns - last_ns, LONGEST_FRAME_NS)))
            last_ns = t_ns
        else:
            recogniser.add_audio(t_ns, item.samples)
            end_ns = max(end_ns, t_ns + len(item.samples) * SECOND_NS // 16_000)
    recogniser.finish()
    while due_ns <= end_ns or not windows:
        windows.append(recogniser.scores(due_ns))
        due_ns += STEP_NS
    return windows, max(end_ns, due_ns - STEP_NS)


def _clip_score(take: Take, windows: list[Scores]) -> ClipScore:
    """The mean over the windows in which something was seen or heard, over all where nothing was."""
    telling = [window for window in windows if window.valid_video or window.valid_audio] or windows
    first = telling[0]
    return ClipScore(
        take=take,
        labels=first.labels,
        heads={
            head: np.mean([np.log(np.maximum(np.float64(w.heads[head]), SMALLEST)) for w in telling], axis=0)
            for head in first.heads
        },
        lead=first.lead,
        windows=len(windows),
        valid_video=float(np.mean([window.valid_video for window in windows])),
        valid_audio=float(np.mean([window.valid_audio for window in windows])),
        attributes={
            head: {
                name: float(np.mean([window.head_attributes[head][name] for window in telling]))
                for name in first.attributes
            }
            for head in first.heads
        },
    )
