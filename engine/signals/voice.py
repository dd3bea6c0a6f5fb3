"""Log-mel into voice tokens: a frozen network hears a second of sound and gives five tokens near its end.

Pieces lie on a fixed grid (CHUNK bins apart), so a stretch of sound has the same tokens whenever and however
often it is asked for. A token is what the network says of STEP bins, and beside it their log-mel. It knows
nothing of streams, windows or labels. Data leaves as rows, one a step.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

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


Network = Callable[[Float32], Float32]
"""(N, PIECE, bands) float32, sound against its loudest, to what is said of its chunk: (N, TOKENS, W)."""


class VoiceEncoder:
    """A network, run by whatever engine, and what becomes of its answers.

    bands: of the log-mel that it takes; said: numbers that it says a token. width: of a token.
    """

    def __init__(self, network: Network, bands: int, said: int) -> None:
        self.network = network
        self.bands = bands
        self.said = said
        self.width = said + STEP * bands

    def encode(self, mel: Float32, mask: Bool) -> Float32:
        """The tokens of N chunks, (N, TOKENS, width) float32: what the network says, then the log-mel of the
        step's bins one after another, zero where nobody heard them.

        mel: (N, MEMORY, bands) float32 natural log of power, mask: (N, MEMORY) bool: bins that end AHEAD
        after a chunk. Answers may differ from those of single runs in their last bits.
        """
        answers = self.network(pieces(mel, mask))
        own = np.where(mask[:, CHUNK_BINS, None], mel[:, CHUNK_BINS] / LOG_MEL, np.float32(0))
        return np.concatenate((answers, own.reshape(len(own), TOKENS, -1)), axis=2)


def chunks(mel: Float32, heard: Bool | None = None) -> tuple[Float32, Bool]:
    """Of sound that nothing comes before or after, what an encoder takes chunk by chunk: (N, MEMORY, F) and
    (N, MEMORY).

    mel: (M, F) float32 natural log of power from the beginning of a chunk on; heard: (M,) bool, None: all
    of it.
    """
    count = -(-len(mel) // CHUNK)
    before = MEMORY - CHUNK - AHEAD
    padded = np.zeros((before + count * CHUNK + AHEAD, mel.shape[1]), np.float32)
    known = np.zeros(len(padded), np.bool_)
    own = slice(before, before + len(mel))
    padded[own], known[own] = mel, True if heard is None else heard
    rows = np.arange(count)[:, None] * CHUNK + np.arange(MEMORY)
    return padded[rows], known[rows]


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


def read_voice_encoder(model: bytes) -> VoiceEncoder:
    """A graph, run by ONNX Runtime on one thread. Raises ValueError where it is no voice encoder."""
    try:
        return session_encoder(open_network(model))
    except ValueError as error:
        raise ValueError(f"The voice encoder cannot be read ({error})") from error


def session_encoder(session: Any) -> VoiceEncoder:
    """A graph that ONNX Runtime has opened. Raises ValueError where it is no voice encoder."""
    taken, given = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if list(taken[1:2]) != [PIECE] or list(given[1:2]) != [TOKENS]:
        raise ValueError(f"it takes {taken} and gives {given}")

    def run(heard: Float32) -> Float32:
        answers: Float32 = session.run(["tokens"], {"mel": heard})[0]
        return answers

    return VoiceEncoder(run, bands=int(taken[2]), said=int(given[2]))


@lru_cache(maxsize=4)
def open_voice_encoder(file: Path, digest: str) -> VoiceEncoder:
    """The graph in a bundle's file; streams of one bundle share it, as it keeps nothing between runs.

    digest: of the bundle, so that a file that was replaced is read anew. Raises ValueError where it is none.
    """
    return read_voice_encoder(file.read_bytes())
