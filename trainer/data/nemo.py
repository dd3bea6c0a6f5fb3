"""nEMO: lists the Polish utterances of a folder with `data.tsv` and `samples/SPEAKER_EMOTION_N.wav`.

Christop 2024, CC BY-NC-SA 4.0; six emotions, no disgust. One woman and one man are the dev set, the other
seven speakers train. The sound may also lie beside the table, and in other formats. It knows nothing of
sound; data leaves it as `Take`s.
"""

import csv
from pathlib import Path

from trainer.data.takes import Take, media_files

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

    What has no file is listed where it should be. Raises FileNotFoundError where the table or all sound is
    missing, ValueError for an emotion that nEMO does not have.
    """
    with (folder / "data.tsv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    files = {file.stem: file for place in ("*", "samples/*") for file in media_files(folder, place)}
    if not files:
        raise FileNotFoundError(f"{folder} holds no samples/*.wav of nEMO.")
    takes = []
    for row in sorted(rows, key=lambda row: row["file_id"]):
        speaker, name = row["speaker_id"].strip(), row["file_id"]
        if row["emotion"] not in EMOTIONS:
            raise ValueError(f"{folder / 'data.tsv'}: nEMO has no emotion {row['emotion']!r} ({name}).")
        takes.append(
            Take(
                file=files.get(Path(name).stem, folder / "samples" / name),
                corpus=CORPUS,
                speaker=f"{CORPUS}/{speaker}",
                label=EMOTIONS[row["emotion"]],
                split="dev" if speaker in DEV_SPEAKERS else "train",
            )
        )
    return takes
