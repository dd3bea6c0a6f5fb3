"""What the sets of recordings have in common: a take, listed by the adapter of its set.

It knows nothing of any set, opens nothing and decodes nothing. Data leaves it as frozen records.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One recording of one person with one label.

    file: sound, picture or both.
    corpus: the set it comes from.
    speaker: unique over all sets (`ravdess/02`).
    label: one of `trainer.labels.LABELS`.
    split: "train", "dev" or "test"; a speaker is in one split only.
    """

    file: Path
    corpus: str
    speaker: str
    label: str
    split: str

    @property
    def name(self) -> str:
        """The file's name without folder and ending."""
        return self.file.stem
