"""A stream's voice tokens: each chunk of its sound through the voice encoder, as far as windows need it.

A chunk is encoded once when all its sound is there; one that may still change, or that a window cuts, is
encoded for that window. Chunk n begins AHEAD bins before bin n * CHUNK, so that a window that ends there,
AHEAD bins of it left out, has all of its chunks whole. What is to be encoded is told first, so that chunks of
many streams go through in one batch. It knows nothing of blocks, times and what else a window holds. Data
leaves as the tokens of a stretch of bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.signals.voice import AHEAD, CHUNK, CHUNK_BINS, MEMORY, STEP, VoiceEncoder
from engine.types import Bool, Float32

LARGEST_BATCH = 32
"""Chunks that are put together at once; each brings four seconds of log-mel."""

Read = Callable[[int, int], tuple[Float32, Bool]]
"""The log-mel and mask of the bins from the first up to the second."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """What is heard for a chunk: mel (MEMORY, bands), mask (MEMORY,). whole: it will not change any more."""

    number: int
    mel: Float32
    mask: Bool
    whole: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bins from `start` to `end`, multiples of STEP; final: the first bin that may still change."""

    start: int
    end: int
    final: int

    @property
    def chunks(self) -> range:
        """Those that it touches."""
        return range((self.start + AHEAD) // CHUNK, -(-(self.end + AHEAD) // CHUNK))


class VoiceLane:
    """The tokens of one stream. `wanted` and `give` bring what `tokens` of the same stretch needs."""

    def __init__(self, encoder: VoiceEncoder) -> None:
        self.encoder = encoder
        self.restart()

    def restart(self) -> None:
        """Forget all tokens."""
        self._kept: dict[int, Float32] = {}
        self._passing: dict[int, Float32] = {}  # of chunks that may change, for `_stretch` alone
        self._stretch: Stretch | None = None

    def wanted(self, stretch: Stretch, read: Read) -> list[Chunk]:
        """The chunks of which there are no tokens yet. What ends before the stretch is forgotten, and what
        comes AHEAD bins after it is not heard."""
        if stretch != self._stretch:
            self._passing, self._stretch = {}, stretch
        numbers = stretch.chunks
        self._kept = {number: rows for number, rows in self._kept.items() if number >= numbers.start}
        there = self._kept.keys() | self._passing.keys()
        wanted = []
        for number in numbers:
            if number in there:
                continue
            chunk = self._chunk(number, stretch, read)
            if chunk.mask[CHUNK_BINS].any():
                wanted.append(chunk)
            else:
                self.give(chunk, np.zeros((CHUNK // STEP, self.encoder.width), np.float32))
        return wanted

    def give(self, chunk: Chunk, rows: Float32) -> None:
        """The tokens of a chunk that was wanted."""
        (self._kept if chunk.whole else self._passing)[chunk.number] = rows

    def tokens(self) -> Float32:
        """Those of the stretch that was told last, (bins / STEP, width) float32, zero for chunks of which
        nothing was heard. Only what is whole stays."""
        stretch = self._stretch
        assert stretch is not None
        there = {**self._kept, **self._passing}
        offset = stretch.start + AHEAD - stretch.chunks.start * CHUNK
        self._passing, self._stretch = {}, None
        rows = np.concatenate([there[number] for number in stretch.chunks])
        return rows[offset // STEP : (offset + stretch.end - stretch.start) // STEP]

    @staticmethod
    def _chunk(number: int, stretch: Stretch, read: Read) -> Chunk:
        stop = (number + 1) * CHUNK
        mel, mask = read(stop - MEMORY, stop)
        if stop > stretch.end + AHEAD:
            mask[stretch.end + AHEAD - stop :] = False
        return Chunk(number, mel, mask, whole=stop <= stretch.final)


def encode(wanted: Sequence[tuple[VoiceLane, Chunk]]) -> None:
    """Chunks of several streams, which share an encoder, in as few runs as that takes."""
    for first in range(0, len(wanted), LARGEST_BATCH):
        batch = wanted[first : first + LARGEST_BATCH]
        mel, mask = (np.stack(each) for each in zip(*((c.mel, c.mask) for _, c in batch), strict=True))
        for (lane, chunk), rows in zip(batch, batch[0][0].encoder.encode(mel, mask), strict=True):
            lane.give(chunk, rows)
