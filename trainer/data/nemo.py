"""nEMO: lists the Polish utterances of a folder with `data.tsv` and `SPEAKER_EMOTION_N.ogg`.

Christop 2024, CC BY-NC-SA 4.0; six emotions, no disgust. One woman and one man are the dev set, the other
seven speakers train. It knows nothing of sound; data leaves it as `Take`s.
"""

import csv
from pathlib import Path

from trainer.data.takes import Take

CORPUS = "nemo"
DEV_SPEAKERS = frozenset({"IC0", "WR0"})  # a woman and a man, both recorded in full
EMOTIONS = {
    "neutral": "neutral",
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fearful",
    "surprised": "surprised",
}


def list_takes(folder: Path) -> list[Take]:
    """All utterances of `data.tsv`, in order of their names.

    Raises FileNotFoundError where the table is missing, KeyError for an emotion that nEMO does not have.
    """
    with (folder / "data.tsv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    takes = []
    for row in sorted(rows, key=lambda row: row["file_id"]):
        speaker = row["speaker_id"].strip()
        takes.append(
            Take(
                file=folder / f"{Path(row['file_id']).stem}.ogg",
                corpus=CORPUS,
                speaker=f"{CORPUS}/{speaker}",
                label=EMOTIONS[row["emotion"]],
                split="dev" if speaker in DEV_SPEAKERS else "train",
            )
        )
    return takes
