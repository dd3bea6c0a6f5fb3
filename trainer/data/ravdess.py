"""RAVDESS speech: lists the takes of a folder, and reads the codes of their names.

Livingstone and Russo 2018, CC BY-NC-SA 4.0. The archives of Zenodo, unpacked into one folder: pictures as
`Video_Speech_Actor_NN/Actor_NN/01-01-EE-II-SS-RR-AA.mp4` (with sound) and `02-...mp4` (without), sound as
`Actor_NN/03-...wav`; any folders may lie above `Actor_NN`. One performance may be there in all three.

Speakers never cross splits: actors 17-20 are the test, 13-16 the dev set, the others train; six folds of four
actors are the protocol `ravdess_folds`. Intensity (normal 0, strong 1) is an attribute. It knows nothing of
sound; data leaves it as `Take`s.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.takes import Take, media_files

CORPUS = "ravdess"
BOTH, PICTURE, SOUND = 1, 2, 3
SPEECH = 1
STRONG = 2
DEV_ACTORS = range(13, 17)
TEST_ACTORS = range(17, 21)
EMOTIONS = {
    1: "neutral",
    2: "neutral",  # calm: the seven labels count it as neutral
    3: "happy",
    4: "sad",
    5: "angry",
    6: "fearful",
    7: "disgust",
    8: "surprised",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The seven numbers of a take's name.

    modality: 1 picture with sound, 2 picture, 3 sound.
    channel: 1 speech, 2 song.
    emotion: 1..8, see `EMOTIONS`.
    intensity: 1 normal, 2 strong.
    statement: 1 "Kids are talking by the door", 2 "Dogs are sitting by the door".
    repetition: 1 or 2.
    actor: 1..24, odd ones are male.
    """

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @property
    def label(self) -> str:
        return EMOTIONS[self.emotion]


def parse_name(name: str) -> Code:
    """Reads `03-01-05-02-01-02-17`; raises ValueError for any other form."""
    parts = name.split("-")
    if len(parts) != 7 or not all(part.isdigit() for part in parts):
        raise ValueError(f"{name!r} is not a RAVDESS name: seven numbers joined by hyphens are expected.")
    numbers = [int(part) for part in parts]
    if numbers[2] not in EMOTIONS:
        raise ValueError(f"{name!r} is not a RAVDESS name: there is no emotion {numbers[2]}.")
    modality, channel, emotion, intensity, statement, repetition, actor = numbers
    return Code(
        modality=modality,
        channel=channel,
        emotion=emotion,
        intensity=intensity,
        statement=statement,
        repetition=repetition,
        actor=actor,
    )


def split_of(actor: int) -> str:
    if actor in TEST_ACTORS:
        return "test"
    return "dev" if actor in DEV_ACTORS else "train"


def list_takes(folder: Path, actors: Iterable[int] | None = None) -> list[Take]:
    """The sound of all performances, in order of actors and names, or of those of `actors` alone.

    The file of sound alone, where there is none that of picture and sound.
    Raises FileNotFoundError where the folder holds none of them.
    """
    takes = []
    for code, files in _performances(folder, actors):
        file = files.get(SOUND) or files.get(BOTH)
        if file is not None:
            takes.append(_take(code, file))
    return _some(takes, folder)


def list_recordings(folder: Path, actors: Iterable[int] | None = None) -> list[Take]:
    """Every performance once: picture with sound, or a picture and the same take's sound, or sound alone.

    A picture whose sound is nowhere is listed too, as it is.
    Raises FileNotFoundError where the folder holds none of them.
    """
    takes = []
    for code, files in _performances(folder, actors):
        if BOTH in files:
            takes.append(_take(code, files[BOTH]))
        elif PICTURE in files:
            takes.append(_take(code, files[PICTURE], files.get(SOUND)))
        else:
            takes.append(_take(code, files[SOUND]))
    return _some(takes, folder)


def _performances(folder: Path, actors: Iterable[int] | None) -> list[tuple[Code, dict[int, Path]]]:
    """Speech by performance: its code (of whatever modality came first) and its files by modality."""
    wanted = None if actors is None else set(actors)
    found: dict[tuple[int, str], tuple[Code, dict[int, Path]]] = {}
    for file in media_files(folder, "**/Actor_*/*-*-*-*-*-*-*.*"):
        code = parse_name(file.stem)
        if code.channel == SPEECH and (wanted is None or code.actor in wanted):
            _, files = found.setdefault((code.actor, file.stem[3:]), (code, {}))
            files.setdefault(code.modality, file)
    return [found[key] for key in sorted(found)]


def _take(code: Code, file: Path, sound: Path | None = None) -> Take:
    return Take(
        file=file,
        sound=sound,
        corpus=CORPUS,
        speaker=f"{CORPUS}/{code.actor:02d}",
        label=code.label,
        split=split_of(code.actor),
        attributes={"intensity": float(code.intensity == STRONG)},
    )


def _some(takes: list[Take], folder: Path) -> list[Take]:
    if not takes:
        raise FileNotFoundError(f"{folder} holds no RAVDESS takes of the actors asked for.")
    return takes
