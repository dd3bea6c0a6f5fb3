"""Robustness curves: how the scores fall when one thing of the clips gets worse, level by level.

All levels play the same clips exactly as live, through `trainer.trials`; the untouched clips are played once.
Data leaves it as plain values, the content of `robustness.json`.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.clip_report import summaries
from trainer.data.clips import contents
from trainer.data.takes import Take
from trainer.disturbances import Disturbance
from trainer.trials import Setting, score_clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """levels: of the disturbance, None for the untouched clip. senses: which it needs to be there."""

    levels: tuple[float | None, ...]
    senses: str
    neutral: float | None = None


CURVES = {
    "sound_snr_db": Curve(levels=(None, 20, 15, 10, 5, 0, -5), senses="sound"),
    "lost_frames": Curve(levels=(0, 0.25, 0.5, 0.75, 0.9), senses="picture", neutral=0),
    "offset_ms": Curve(levels=(-400, -200, -100, 0, 100, 200, 400), senses="both", neutral=0),
    "light_stops": Curve(levels=(-5, -4, -3, -2, -1, 0, 1, 2), senses="picture", neutral=0),
    "blur": Curve(levels=(0, 0.02, 0.04, 0.08, 0.16), senses="picture", neutral=0),
    "face_px": Curve(levels=(None, 64, 48, 32, 24, 16), senses="picture"),
    "window_s": Curve(levels=(0.5, 1, 2, 3, None), senses="either"),
}


def sample(takes: Sequence[Take], most: int | None, seed: int) -> list[Take]:
    """At most so many takes, drawn with their labels in turn; in the order of `takes`."""
    if most is None or most >= len(takes):
        return list(takes)
    shuffled = random.Random(seed).sample(range(len(takes)), len(takes))
    turns: Counter[str | None] = Counter()
    ranked = []
    for order, place in enumerate(shuffled):
        turns[takes[place].label] += 1
        ranked.append((turns[takes[place].label], order, place))
    return [takes[place] for place in sorted(place for _, _, place in sorted(ranked)[:most])]


def fitting(takes: Sequence[Take], setting: Setting, kinds: Sequence[str]) -> list[str]:
    """The kinds that can show on these clips as they are played; all curves where none are named.

    Raises ValueError for a kind that is none.
    """
    if unknown := sorted(set(kinds) - set(CURVES)):
        raise ValueError(f"There is no robustness curve {unknown[0]!r}; there are {', '.join(CURVES)}.")
    held = [contents(take.file, take.sound) for take in takes]
    picture = setting.picture and any(each.has_video for each in held)
    sound = setting.sound and any(each.has_audio for each in held)
    there = {"picture": picture, "sound": sound, "both": picture and sound, "either": True}
    return [kind for kind in kinds or CURVES if there[CURVES[kind].senses]]


def robustness(
    takes: Sequence[Take],
    setting: Setting,
    kinds: Sequence[str],
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """UAR with its interval over speakers and WAR, for each head, at every level of every kind.

    progress: told what has been played, once a level. Raises as `score_clips` and `summarise` do.
    """

    def figures(disturbance: Disturbance | None) -> dict[str, Any]:
        scores = score_clips(takes, replace(setting, disturbance=disturbance), jobs)
        if progress is not None:
            progress("untouched" if disturbance is None else f"{disturbance.kind} {disturbance.level:g}")
        found = {head: summary.as_json() for head, summary in summaries(scores, (), setting.seed).items()}
        return {
            head: {name: each[name] for name in ("uar", "interval", "war")} for head, each in found.items()
        }

    untouched = figures(None)
    curves = {}
    for kind in kinds:
        curve = CURVES[kind]
        curves[kind] = [
            {
                "level": level,
                "heads": untouched
                if level is None or level == curve.neutral
                else figures(Disturbance(kind=kind, level=level)),
            }
            for level in curve.levels
        ]
    return {
        "clips": len(takes),
        "speakers": len({take.speaker for take in takes}),
        "labels": len({take.label for take in takes}),
        "untouched": untouched,
        "curves": curves,
    }
