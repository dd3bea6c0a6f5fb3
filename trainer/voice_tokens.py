"""Voices as the engine's voice encoder hears them, take by take and session by session.

Made once from the log-mel that `trainer.prepare_voices` wrote, as nothing of the encoder learns. Knows
nothing of windows. Data leaves as `VoiceTokens`.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import track

from engine.signals.voice import CHUNK, STEP, chunks, read_voice_encoder, steps_voiced
from trainer.prepare_voices import Mels, open_mels, voiced
from trainer.take_store import file_digest
from trainer.work_pool import run_in_order

TOKENS, INDEX, MADE = "voice_tokens.npy", "voice_tokens.npz", "voice_tokens.json"
STEP_S = 0.04
TAKES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VoiceTokens:
    """Tokens of every take in every session (K numbers a step).

    tokens: (sum of steps, K) float16, mapped from disk. voiced: (sum of steps,) bool.
    starts, steps: (sessions, takes) int64, where a take lies in them. seconds: (sessions, takes), of voice.
    means: (sessions, takes, K) float32, mean over the voiced steps.
    """

    tokens: NDArray[np.float16]
    voiced: NDArray[np.bool_]
    starts: NDArray[np.int64]
    steps: NDArray[np.int64]
    seconds: NDArray[np.float32]
    means: NDArray[np.float32]

    def rows(self, session: int, index: int) -> slice:
        """Where a take lies."""
        start = self.starts[session, index]
        return slice(start, start + self.steps[session, index])


def open_tokens(cache: Path) -> VoiceTokens:
    """What `make_tokens` wrote. Raises FileNotFoundError if it is missing."""
    with np.load(cache / INDEX) as index:
        return VoiceTokens(tokens=np.load(cache / TOKENS, mmap_mode="r"), **index)


def make_tokens(cache: Path, encoder: Path, jobs: int | None = None) -> None:
    """Make them where they are missing, or were made by another encoder or of other sound."""
    mels = open_mels(cache)
    made = described(encoder, cache)
    if (cache / MADE).is_file() and json.loads((cache / MADE).read_text()) == made:
        return
    (cache / MADE).unlink(missing_ok=True)
    _write(cache, encoder, mels, jobs or os.cpu_count() or 1)
    (cache / MADE).write_text(json.dumps(made))


def described(encoder: Path, cache: Path) -> dict[str, str]:
    """Digests of what the tokens are made from; another voice has other means in the index of the log-mel."""
    files = {"encoder": encoder, "log_mel": cache / "mel.npz"}
    return {name: file_digest(file) for name, file in files.items()}


def _write(cache: Path, encoder: Path, mels: Mels, jobs: int) -> None:
    steps = -(-mels.bins // STEP)
    starts = np.cumsum(np.append(0, steps.ravel()))[:-1].reshape(steps.shape)
    width = read_voice_encoder(encoder.read_bytes()).width
    means = np.zeros((*steps.shape, width), np.float32)
    seconds, spoken = np.zeros(steps.shape, np.float32), np.zeros(int(steps.sum()), np.bool_)
    part = cache / "voice_tokens.part.npy"
    tokens = open_memmap(part, "w+", np.float16, (int(steps.sum()), width))
    pieces = [
        (session, takes)
        for session in range(len(steps))
        for takes in np.array_split(np.arange(steps.shape[1]), -(-steps.shape[1] // TAKES_AT_ONCE))
    ]
    with ProcessPoolExecutor(min(jobs, len(pieces)), get_context("spawn")) as pool:
        found = run_in_order(pool, _encoded, ((cache, encoder, *piece) for piece in pieces), 2 * jobs)
        for (session, takes), rows in track(zip(pieces, found, strict=True), "voice tokens", len(pieces)):
            for take, (own, speaks) in zip(takes, rows, strict=True):
                place = slice(starts[session, take], starts[session, take] + steps[session, take])
                tokens[place], spoken[place] = own, speaks
                seconds[session, take] = speaks.sum() * STEP_S
                means[session, take] = own[speaks].astype(np.float32).mean(0) if speaks.any() else 0
    tokens.flush()
    part.replace(cache / TOKENS)
    part = cache / "voice_tokens.part.npz"
    np.savez(part, voiced=spoken, starts=starts, steps=steps, seconds=seconds, means=means)
    part.replace(cache / INDEX)


def _encoded(
    cache: Path, file: Path, session: int, takes: Sequence[int]
) -> list[tuple[NDArray[np.float16], NDArray[np.bool_]]]:
    """Tokens of takes, each beginning anywhere in a chunk, and which of them are voiced."""
    encoder, mels = read_voice_encoder(file.read_bytes()), open_mels(cache)
    found = []
    for take in takes:
        mel = mels.take(session, int(take))
        lead = STEP * int(np.random.default_rng([session, int(take)]).integers(CHUNK // STEP))
        tokens = encoder.encode(*chunks(*_after(lead, mel))).reshape(-1, encoder.width)
        count = -(-len(mel) // STEP)
        speaks = np.zeros(count * STEP, np.bool_)
        speaks[: len(mel)] = voiced(mel)
        own = tokens[lead // STEP : lead // STEP + count]
        found.append((own.astype(np.float16), steps_voiced(speaks)))
    return found


def _after(lead: int, mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A take that begins so many bins after a chunk does."""
    return np.pad(mel, ((lead, 0), (0, 0))), np.arange(lead + len(mel)) >= lead
