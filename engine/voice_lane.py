"""A stream's voice tokens: each chunk of its sound through the voice encoder, as far as windows need it.

A chunk is encoded once when all its sound is there; one that may still change, or that a window cuts, is
encoded for that window. Chunk n begins AHEAD bins before bin n * CHUNK, so that a window that ends there,
AHEAD bins of it left out, has all of its chunks whole. It knows nothing of blocks, times and what else a
window holds. Data leaves as the tokens of a stretch of bins.
"""

from collections.abc import Callable

import numpy as np

from engine.signals.voice import AHEAD, CHUNK, CHUNK_BINS, MEMORY, STEP, VoiceEncoder
from engine.types import Bool, Float32

Read = Callable[[int, int], tuple[Float32, Bool]]
"""The log-mel and mask of the bins from the first up to the second."""


class VoiceLane:
    """The tokens of one stream."""

    def __init__(self, encoder: VoiceEncoder) -> None:
        self._encoder = encoder
        self.restart()

    def restart(self) -> None:
        """Forget all tokens."""
        self._kept: dict[int, Float32] = {}

    def tokens(self, start: int, end: int, final: int, read: Read) -> Float32:
        """Those of the bins `start` to `end`, multiples of STEP: ((end - start) / STEP, width) float32, zero
        for chunks of which nothing was heard.

        final: the first bin that may still change. What ends before `start` is forgotten, and what comes
        AHEAD bins after `end` is not heard.
        """
        first, last = (start + AHEAD) // CHUNK, -(-(end + AHEAD) // CHUNK)
        self._kept = {chunk: rows for chunk, rows in self._kept.items() if chunk >= first}
        chunks = [self._chunk(chunk, final, end + AHEAD, read) for chunk in range(first, last)]
        offset = start + AHEAD - first * CHUNK
        return np.concatenate(chunks)[offset // STEP : (offset + end - start) // STEP]

    def _chunk(self, chunk: int, final: int, end: int, read: Read) -> Float32:
        if chunk in self._kept:
            return self._kept[chunk]
        stop = (chunk + 1) * CHUNK
        mel, mask = read(stop - MEMORY, stop)
        if stop > end:
            mask[end - stop :] = False
        heard = bool(mask[CHUNK_BINS].any())
        rows = self._encoder.encode(mel, mask) if heard else self._silence()
        if stop <= final:
            self._kept[chunk] = rows
        return rows

    def _silence(self) -> Float32:
        return np.zeros((CHUNK // STEP, self._encoder.width), np.float32)
