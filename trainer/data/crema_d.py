"""CREMA-D: lists the clips of a folder with `VideoFlash/*.flv`, `AudioWAV/*.wav` and the raters' tables.

Cao et al. 2014, ODbL 1.0. A name (`1001_IEO_ANG_HI`) tells the actor, the sentence, the emotion that was
intended and its level. What raters perceived, in the voice alone, in the face alone and in both, is in
`tabulatedVotes.csv`. Six labels, no surprise. It knows nothing of media; data leaves it as `Take`s, all of
the split "train": the speakers are divided by a protocol (`crema_d_folds`, `crema_d_vavl`).
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.takes import Take, majority, media_files

CORPUS = "crema_d"
EMOTIONS = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fearful",
    "DIS": "disgust",
}
LETTERS = {code[0]: label for code, label in EMOTIONS.items()}
Channel = Literal["voice", "face", "both"]
CHANNELS: dict[str, Channel] = {"1": "voice", "2": "face", "3": "both"}
VOTES = "tabulatedVotes.csv"
TABLE_PLACES = (".", "processedResults")
"""Where the authors' repository, and copies of it, keep the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a name tells.

    actor: "1001".."1091"; sentence: three letters; label: intended; level: LO, MD, HI, or XX where none was
    asked for.
    """

    actor: str
    sentence: str
    label: str
    level: str


def parse_name(name: str) -> Code:
    """Reads `1001_IEO_ANG_HI`; raises ValueError for any other form."""
    parts = name.split("_")
    if len(parts) != 4 or not parts[0].isdigit() or parts[2] not in EMOTIONS:
        raise ValueError(f"{name!r} is not a CREMA-D name: ACTOR_SENTENCE_EMOTION_LEVEL is expected.")
    actor, sentence, emotion, level = parts
    return Code(actor=actor, sentence=sentence, label=EMOTIONS[emotion], level=level)


def read_votes(folder: Path) -> dict[str, dict[Channel, dict[str, float]]]:
    """By clip and channel the share of votes for each label.

    folder: the set's, or that of the tables. The first column of the table begins with the channel's number.
    Raises FileNotFoundError where the table is missing.
    """
    places = [folder / place / VOTES for place in TABLE_PLACES]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} holds no {VOTES}; it comes with CREMA-D (processedResults).")
    votes: dict[str, dict[Channel, dict[str, float]]] = {}
    with file.open(encoding="utf-8-sig", newline="") as table:
        for row in csv.DictReader(table):
            channel = CHANNELS[row[""][0]]
            counts = {label: int(row[letter]) for letter, label in LETTERS.items()}
            if total := sum(counts.values()):
                votes.setdefault(row["fileName"], {})[channel] = {
                    label: count / total for label, count in counts.items()
                }
    return votes


def list_takes(folder: Path, channel: Channel | None = None) -> list[Take]:
    """All clips, in order of their names: the picture with the sound of `AudioWAV`, or that sound alone.

    channel: labels are what the majority of raters perceived there (None at a tie, and where nobody rated
    the clip), with their shares of votes; None: labels are what was intended.
    Raises FileNotFoundError where there are no clips, or no votes though a channel is named.
    """
    pictures = {file.stem: file for file in media_files(folder, "VideoFlash/*.flv")}
    sounds = {file.stem: file for file in media_files(folder, "AudioWAV/*.wav")}
    names = sorted(pictures.keys() | sounds.keys())
    if not names:
        raise FileNotFoundError(f"{folder} holds no VideoFlash/*.flv and no AudioWAV/*.wav of CREMA-D.")
    votes = read_votes(folder) if channel is not None else {}
    takes = []
    for name in names:
        code = parse_name(name)
        shares = votes.get(name, {}).get(channel, {}) if channel is not None else {}
        takes.append(
            Take(
                file=pictures.get(name) or sounds[name],
                sound=sounds.get(name) if name in pictures else None,
                corpus=CORPUS,
                speaker=f"{CORPUS}/{code.actor}",
                label=code.label if channel is None else majority(shares),
                split="train",
                shares=shares,
            )
        )
    return takes
