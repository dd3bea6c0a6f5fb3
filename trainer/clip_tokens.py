"""Moving faces as the window model takes them, on disk: written by `trainer.prepare_windows`.

It knows nothing of voices but their places, and draws nothing. Data leaves as `Clips`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clips:
    """Moving faces as tokens.

    v: (sum of ticks, V) float16; flow: (sum of ticks, 2, 56, 56) float16, mapped; seen: (sum of ticks,) bool.
    starts, ticks, labels, voices, groups: (clips,) int64; a group is one person under many labels, -1 none;
    voices are places in the cache of voices, -1 for a clip without sound.
    attribute_names: (A,) str; attributes: (clips, A) float32, NaN where not rated; of old folders none.
    sets: (clips,) int64, which of several sets a clip is of; none where there is but one.
    """

    v: NDArray[np.float16]
    flow: Any
    seen: NDArray[np.bool_]
    starts: NDArray[np.int64]
    ticks: NDArray[np.int64]
    labels: NDArray[np.int64]
    voices: NDArray[np.int64]
    groups: NDArray[np.int64]
    attribute_names: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, np.str_))
    attributes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    sets: NDArray[np.int64] | None = None

    def mean_v(self) -> NDArray[np.float32]:
        """(clips, V): mean token of every clip over its seen ticks."""
        means = np.zeros((len(self.labels), self.v.shape[1]), np.float32)
        for i, (start, ticks) in enumerate(zip(self.starts, self.ticks, strict=True)):
            seen = self.seen[start : start + ticks]
            means[i] = self.v[start : start + ticks][seen].astype(np.float32).mean(0) if seen.any() else 0
        return means


def open_clips(folder: Path) -> Clips:
    """What `prepare_windows` wrote. Raises FileNotFoundError if it is missing."""
    with np.load(folder / "clips.npz") as table:
        index = {name: table[name] for name in table}
    index.setdefault("attributes", np.zeros((len(index["labels"]), 0), np.float32))
    return Clips(v=np.load(folder / "v.npy"), flow=np.load(folder / "flow.npy", mmap_mode="r"), **index)
