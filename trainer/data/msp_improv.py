"""MSP-IMPROV: lists the turns of a folder with `Evalution.txt`, the sessions' sound and their video.

Busso et al. 2017, by agreement with the University of Texas at Dallas. Turns are named
`MSP-IMPROV-S01A-F01-P-FM01`: sentence 01 for an angry scene (A, H, N, S), the woman of session 1, kind of
speech (P: between the scenes, R: read, S: improvised, T: the target sentence, improvised), who of the pair
spoke to whom and the turn. Sound and video lie anywhere below the folder (as published
`sessionN/S01A/P/`), the video named `UTD-IMPROV-...avi` or like the sound.

Four labels; other categories and ties have none. Arousal, valence and dominance are means of raters, 1 to 5.
The table counts activation downwards (1 is very active); here arousal rises. It knows nothing of media; data
leaves it as `Take`s, all of the split "train": sessions are divided by a protocol (`msp_improv_sessions`,
`msp_improv_vavl`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from trainer.data.takes import Take

CORPUS = "msp_improv"
TABLES = ("Evalution.txt", "Evaluation.txt")
"""As the release spells it, and as it is often corrected."""
CATEGORIES = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}
SCALE = {"A": "arousal", "V": "valence", "D": "dominance"}
FALLING = "arousal"
SUM_OF_ENDS = 6.0
PREFIXES = ("MSP-IMPROV-", "UTD-IMPROV-")
_NUMBER = r"\s*([\d.]+|NaN)\s*"
_LINE = re.compile(
    rf"^UTD-IMPROV-([A-Z0-9-]+)\.avi\s*;\s*([A-Z])\s*;\s*A:{_NUMBER};\s*V:{_NUMBER};\s*D:{_NUMBER};"
)
_NAME = re.compile(r"^S(\d\d)([AHNS])-([FM]\d\d)-([PRST])-([FM]{2}\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a turn's name tells.

    sentence: 1..20; scene: the emotion it was written for; speaker: F01..M06, whose number is the session;
    kind: P, R, S or T (see the head of this file); turn: who spoke to whom, and when.
    """

    sentence: int
    scene: str
    speaker: str
    kind: str
    turn: str

    @property
    def session(self) -> int:
        return int(self.speaker[1:])


def key_of(name: str) -> str:
    """A name without the prefix, under which sound, video and table know a turn."""
    return next((name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix)), name)


def parse_name(name: str) -> Code:
    """Reads `MSP-IMPROV-S01A-F01-P-FM01`, with any prefix or none; raises ValueError for any other form."""
    match = _NAME.match(key_of(name))
    if match is None:
        raise ValueError(f"{name!r} is not an MSP-IMPROV name such as MSP-IMPROV-S01A-F01-P-FM01.")
    sentence, scene, speaker, kind, turn = match.groups()
    return Code(sentence=int(sentence), scene=CATEGORIES[scene], speaker=speaker, kind=kind, turn=turn)


def read_table(file: Path) -> dict[str, tuple[str | None, dict[str, float]]]:
    """By turn (without prefix) its label, None for other categories, and its attributes as far as rated.

    Lines of single raters, which follow each turn's own, are passed over.
    """
    rows = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        key, category, *numbers = match.groups()
        values = zip(SCALE.values(), numbers, strict=True)
        rated = {name: float(number) for name, number in values if number != "NaN"}
        if FALLING in rated:
            rated[FALLING] = SUM_OF_ENDS - rated[FALLING]
        rows[key] = (CATEGORIES.get(category), rated)
    return rows


def list_takes(folder: Path) -> list[Take]:
    """All turns that are in the table and have sound or video, in order of their names.

    Raises FileNotFoundError where the table or all media are missing.
    """
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"{folder} holds no {TABLES[0]} of MSP-IMPROV.")
    files = [file for prefix in PREFIXES for file in sorted(folder.glob(f"**/{prefix}*"))]
    sounds = {key_of(file.stem): file for file in files if file.suffix.lower() == ".wav"}
    pictures = {key_of(file.stem): file for file in files if file.suffix.lower() in (".avi", ".mp4")}
    takes = []
    for key, (label, attributes) in sorted(read_table(table).items()):
        file = pictures.get(key) or sounds.get(key)
        if file is None:
            continue
        takes.append(
            Take(
                file=file,
                sound=sounds.get(key) if key in pictures else None,
                corpus=CORPUS,
                speaker=f"{CORPUS}/{parse_name(key).speaker}",
                label=label,
                split="train",
                attributes=attributes,
                title=f"MSP-IMPROV-{key}",
            )
        )
    if not takes:
        raise FileNotFoundError(f"{folder} holds no sound and no video of the turns in {table.name}.")
    return takes
