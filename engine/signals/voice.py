"""Log-mel into voice tokens: a frozen network hears a second of sound and gives five tokens near its end.

Pieces lie on a fixed grid (CHUNK bins apart), so a stretch of sound has the same tokens whenever and however
often it is asked for. A token is what the network says of STEP bins, and beside it their log-mel. It knows
nothing of streams, windows or labels. Data leaves as rows, one a step.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.signals.networks import open_network
from engine.types import Bool, Float32

STEP = 4
"""Bins a token."""
CHUNK, AHEAD, PIECE = 20, 4, 100
"""Bins that a run of the network gives tokens for, those that it hears after them, and all that it hears."""
TOKENS = CHUNK // STEP
CHUNK_BINS = slice(-CHUNK - AHEAD, -AHEAD)
"""Where a chunk's own bins are in all that is heard for it."""
MEMORY = 400
"""Loudness is measured against the loudest of so many bins, which end with the piece."""
LOG_MEL = 3.0
"""The log-mel stands beside what the network says in this unit, about its deviation."""
QUIET = -12.0
"""What the network is given for a bin that nobody heard: natural log of power below the loudest."""


class VoiceEncoder:
    """The network, run by ONNX Runtime on one thread.

    bands: of the log-mel that it takes; width: of a token.

    Raises ValueError where `model` is no such network.
    """

    def __init__(self, model: bytes) -> None:
        try:
            self._session = open_network(model)
        except ValueError as error:
            raise ValueError(f"The voice encoder cannot be read ({error})") from error
        taken, given = self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape
        if list(taken[1:2]) != [PIECE] or list(given[1:2]) != [TOKENS]:
            raise ValueError(f"The voice encoder takes {taken} and gives {given}")
        self.bands = int(taken[2])
        self.width = int(given[2]) + STEP * self.bands

    def encode(self, mel: Float32, mask: Bool) -> Float32:
        """The tokens of a chunk, (TOKENS, width) float32: what the network says, then the log-mel of the
        step's bins one after another, zero where nobody heard them.

        mel: (MEMORY, bands) float32 natural log of power, mask: (MEMORY,) bool: bins that end AHEAD after it.
        """
        tokens: Float32 = self.encode_all(mel[None], mask[None])[0]
        return tokens

    def encode_all(self, mel: Float32, mask: Bool) -> Float32:
        """(N, TOKENS, width): `encode` of N chunks in one run. Answers may differ from those of single runs
        in their last bits."""
        heard = pieces(mel, mask)
        answers: Float32 = self._session.run(["tokens"], {"mel": heard})[0]
        own = np.where(mask[:, CHUNK_BINS, None], mel[:, CHUNK_BINS] / LOG_MEL, np.float32(0))
        return np.concatenate((answers, own.reshape(len(own), TOKENS, -1)), axis=2)


def pieces(mel: Float32, mask: Bool) -> Float32:
    """(N, MEMORY, bands), (N, MEMORY) to what the network takes: (N, PIECE, bands), against the loudest."""
    levels = np.where(mask, mel.mean(2), -np.inf)
    loudest = levels.max(1)
    loudest = np.where(np.isfinite(loudest), loudest, 0).astype(np.float32)
    own = mel[:, -PIECE:] - loudest[:, None, None]
    return np.asarray(np.where(mask[:, -PIECE:, None], own, np.float32(QUIET)), np.float32)


def steps_voiced(voiced: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(4 N,) bins to (N,) steps: those of which half the bins are voiced."""
    return np.asarray(voiced.reshape(-1, STEP).sum(1) * 2 >= STEP)


@lru_cache(maxsize=4)
def open_voice_encoder(file: Path, digest: str) -> VoiceEncoder:
    """The network in a bundle's file; streams of one bundle share it, as it keeps nothing between runs.

    digest: of the bundle, so that a file that was replaced is read anew. Raises ValueError as `VoiceEncoder`.
    """
    return VoiceEncoder(file.read_bytes())
