"""What the sets of recordings have in common: how their files are found, and a take, as adapters list them.

It knows nothing of any set, opens nothing and decodes nothing. Data leaves it as frozen records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.labels import LABELS

NO_LABEL = -1
"""The place of a take without a label."""
NO_TAKE = -1
"""The place of a clip's sound among the voices, where the clip has none."""
MEDIA_ENDINGS = frozenset(
    (".mp4", ".mkv", ".mov", ".avi", ".flv", ".webm", ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One recording of one person, with a label, attributes, or both.

    file: sound, picture or both.
    corpus: the set it comes from.
    speaker: unique over all sets (`ravdess/02`).
    label: one of `trainer.labels.LABELS`, or None where the raters agreed on none.
    split: "train", "dev" or "test"; a speaker is in one split only.
    sound: the file of the sound where it is not in `file` (or is better than there).
    attributes: what is rated on a scale, by name.
    shares: of the raters' votes, by label; they need not sum to 1 where other answers were allowed.
    title: unique in its set, where the file's name is not.
    """

    file: Path
    corpus: str
    speaker: str
    label: str | None
    split: str
    sound: Path | None = None
    attributes: Mapping[str, float] = field(default_factory=dict, hash=False)
    shares: Mapping[str, float] = field(default_factory=dict, hash=False)
    title: str = ""

    @property
    def name(self) -> str:
        """The title, or the file's name without folder and ending."""
        return self.title or self.file.stem

    @property
    def place(self) -> int:
        """The label's position in `LABELS`, `NO_LABEL` without one."""
        return NO_LABEL if self.label is None else LABELS.index(self.label)


def media_files(folder: Path, pattern: str) -> list[Path]:
    """The media files of a folder that fit a pattern, in order.

    Without those whose names begin with a dot: macOS puts `._NAME` beside a file on foreign disks.
    """
    files = sorted(folder.glob(pattern))
    return [file for file in files if file.suffix.lower() in MEDIA_ENDINGS and file.name[0] != "."]


def majority(shares: Mapping[str, float]) -> str | None:
    """The label with the most votes; None where two have as many, or there are none."""
    most = max(shares.values(), default=0.0)
    first = [label for label, share in shares.items() if share == most]
    return first[0] if len(first) == 1 else None
