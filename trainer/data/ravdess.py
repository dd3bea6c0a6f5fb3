"""RAVDESS speech: lists the takes of a folder `Actor_NN/03-01-EE-II-SS-RR-AA.ogg`, and reads its codes.

Livingstone and Russo 2018, CC BY-NC-SA 4.0. Speakers never cross splits: actors 17-20 are the test, 13-16
the dev set, the others train. It knows nothing of sound; data leaves it as `Take`s.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.takes import Take

CORPUS = "ravdess"
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
    """All takes of `folder`, in order of their names, or those of `actors` alone.

    Raises FileNotFoundError where the folder holds none of them.
    """
    wanted = None if actors is None else set(actors)
    takes = []
    for file in sorted(folder.glob("Actor_*/*-*-*-*-*-*-*.*")):
        code = parse_name(file.stem)
        if wanted is not None and code.actor not in wanted:
            continue
        takes.append(
            Take(
                file=file,
                corpus=CORPUS,
                speaker=f"{CORPUS}/{code.actor:02d}",
                label=code.label,
                split=split_of(code.actor),
            )
        )
    if not takes:
        raise FileNotFoundError(f"{folder} holds no RAVDESS takes of the actors asked for.")
    return takes
