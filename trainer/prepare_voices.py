"""`python -m trainer.prepare_voices --cache DIR [--data DIR]`: voices as live microphones would hear them.

Every speaker speaks all takes in several sessions, each through one microphone in one room
(`trainer.augment_sound`), so that the slow baseline of a stream can be drawn from other takes of the
same session. Session 0 is the recording as it is. Writes `mel.npy` and `mel.npz`, read by `open_mels`, and
with `--waveform` the sound itself beside them, for networks that take it.
With `--data`, RAVDESS and nEMO are decoded into the cache first; without, it is one that is there already
(`trainer.prepare` makes one of any set).
"""

import argparse
import inspect
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

import engine.signals.sound
from engine.signals.sound import LogMel, MelParams, hops, log_mel
from trainer import augment_sound, other_words, voice_variety
from trainer.augment_sound import Microphones, active_level_db, change_speed, shift_formants
from trainer.data import nemo, ravdess
from trainer.data.sound import RATE_HZ, Voices, load_voices, open_cache
from trainer.take_store import digest
from trainer.work_pool import run_in_order

WAVEFORM = "waveform.f16"
MADE = "made.json"
"""The settings that the log-mel was made with."""
VOICE_FLOOR = 3.5  # a bin this far below the loudest is a pause; the manifest carries it to live use


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mels:
    """Log-mel of every take in every session.

    mel: (sum of bins, 64) float16, mapped from disk.
    starts, bins: (sessions, takes) int64, where a take lies in `mel`.
    means: (sessions, takes, 64) float32, mean over its voiced bins; seconds: (sessions, takes), their time.
    speeds: (sessions, takes) float32, tempo against the recording, which the picture must follow.
    waveform: (sum of bins, 160) float16, mapped from disk, the samples around every bin's centre; None where
        nobody asked for it. Throats (formants) are shifted in the log-mel alone.
    """

    mel: NDArray[np.float16]
    starts: NDArray[np.int64]
    bins: NDArray[np.int64]
    means: NDArray[np.float32]
    seconds: NDArray[np.float32]
    speeds: NDArray[np.float32]
    waveform: NDArray[np.float16] | None = None

    def take(self, session: int, index: int) -> NDArray[np.float32]:
        """(bins, 64) float32."""
        start = self.starts[session, index]
        return self.mel[start : start + self.bins[session, index]].astype(np.float32)

    def samples(self, session: int, index: int) -> NDArray[np.float32]:
        """(bins, 160) float32: the waveform of a take."""
        assert self.waveform is not None, "opened without"
        start = self.starts[session, index]
        return self.waveform[start : start + self.bins[session, index]].astype(np.float32)


def open_mels(cache: Path, waveform: bool = False) -> Mels:
    """What `prepare_voices` wrote, maybe with the waveform. Raises FileNotFoundError if it is missing."""
    file = cache / WAVEFORM
    if waveform and not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run trainer.prepare_voices with --waveform.")
    with np.load(cache / "mel.npz") as index:
        mel = np.load(cache / "mel.npy", mmap_mode="r")
        shape = (len(mel), MelParams().hop)
        samples = np.memmap(file, np.float16, "r", shape=shape) if waveform else None
        return Mels(mel=mel, waveform=samples, **{key: index[key] for key in index})


def voiced(mel: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(T,) which bins hold a voice, relative to the loudest of them."""
    energy = mel.mean(1)
    return np.asarray(energy > energy.max() - VOICE_FLOOR)


Heard = tuple[int, NDArray[np.float16], NDArray[np.float16], float]
"""A take's place, its log-mel, the samples of its bins, its tempo."""


def _session(cache: Path, waveform: bool, varied: bool, speaker: str, session: int) -> list[Heard]:
    voices = open_cache(cache)
    takes = np.flatnonzero(voices.speakers == speaker)
    rng = np.random.default_rng([session, *speaker.encode()])
    microphones = Microphones(_babblers(voices, speaker, rng), seed=session)
    conditions = microphones.draw(rng)
    waves = [voices.take(int(i)) for i in takes]
    usual_db = float(np.median([active_level_db(w) for w in waves]))
    bands = MelParams().bands
    throat = voice_variety.draw(rng, bands, seen=False) if varied else voice_variety.plain(bands)
    results = []
    for index, wave in zip(takes, waves, strict=True):
        speed = 1.0
        if session:
            speed = conditions.speed
            wave = microphones.hear(change_speed(wave, speed), conditions, rng, usual_db)
        front = LogMel(MelParams())
        front.take(0, wave)
        frames = front.cut()
        mel = log_mel(frames, MelParams())
        if session:
            mel = shift_formants(mel, conditions.formants)
        if session and varied:
            words = voice_variety.draw(rng, bands, seen=False)
            others = {name: getattr(words, name) for name in ("reordered", "revowelled", "swayed")}
            mel, speed = replace(throat, **others).heard(mel, rng), speed * throat.tempo
        kept = hops(frames, MelParams())[: None if waveform else 0].astype(np.float16)
        results.append((int(index), mel.astype(np.float16), kept, speed))
    return results


def _babblers(voices: Voices, speaker: str, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    others = np.flatnonzero((voices.speakers != speaker) & (voices.splits == "train"))
    return [voices.take(int(i)) for i in rng.choice(others, min(40, len(others)), replace=False)]


def prepare(
    cache: Path, voices: Voices, sessions: int, jobs: int, waveform: bool = False, varied: bool = False
) -> None:
    """All sessions of all speakers, in parallel; the files appear complete or not at all.

    waveform: keep the sound too, 115 MB an hour and session; not of what is varied, which is log-mel alone.
    """
    pairs = [(speaker, s) for s in range(sessions) for speaker in sorted(set(voices.speakers.tolist()))]
    shape = (sessions, len(voices))
    starts, bins = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    means = np.zeros((*shape, MelParams().bands), np.float32)
    seconds, speeds = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    total = 0
    part, sound = cache / "mel.part.npy", cache / "waveform.part"
    jobs = min(jobs, len(pairs))
    with (
        part.open("wb+") as mels,
        sound.open("wb") as file,
        ProcessPoolExecutor(jobs, get_context("spawn")) as pool,
    ):
        _write_header(mels, 0)
        heard = run_in_order(pool, _session, ((cache, waveform, varied, *pair) for pair in pairs), 2 * jobs)
        for (_, session), takes in track(zip(pairs, heard, strict=True), "voices", total=len(pairs)):
            for index, mel, samples, speed in takes:
                active = voiced(mel.astype(np.float32))
                starts[session, index], bins[session, index] = total, len(mel)
                means[session, index] = mel[active].astype(np.float32).mean(0)
                seconds[session, index], speeds[session, index] = active.sum() / 100, speed
                mels.write(mel.tobytes())
                file.write(samples.tobytes())
                total += len(mel)
        mels.seek(0)
        _write_header(mels, total)
    for name in ("mel.npz", MADE):  # they come last: where both are, all is whole
        (cache / name).unlink(missing_ok=True)
    part.replace(cache / "mel.npy")
    sound.replace(cache / WAVEFORM)
    if not waveform:
        (cache / WAVEFORM).unlink()
    part = cache / "mel.part.npz"
    np.savez(part, starts=starts, bins=bins, means=means, seconds=seconds, speeds=speeds)
    part.replace(cache / "mel.npz")
    (cache / MADE).write_text(json.dumps(settings(sessions, varied)))


def settings(sessions: int, varied: bool = False) -> dict[str, Any]:
    """Everything that shapes the log-mel of voices but the voices themselves, as plain values."""
    variety = (voice_variety, other_words) if varied else ()
    parts = (augment_sound, engine.signals.sound, _session, _babblers, voiced, *variety)
    code = digest([inspect.getsource(part) for part in parts])
    told = {"sessions": sessions, "mel": asdict(MelParams()), "floor": VOICE_FLOOR, "code": code}
    return told | ({"varied": True} if varied else {})


def is_made(cache: Path, sessions: int, waveform: bool) -> bool:
    """Whether a cache holds the log-mel of its voices with these settings, and the waveform where wanted."""
    there = all((cache / name).is_file() for name in ("mel.npz", MADE, *([WAVEFORM] if waveform else [])))
    return there and json.loads((cache / MADE).read_text()) == settings(sessions)


def _write_header(file: BinaryIO, bins: int) -> None:
    """Of an array (bins, 64) float16; numpy leaves room in it for the length, which is known last."""
    described = {"descr": "<f2", "fortran_order": False, "shape": (bins, MelParams().bands)}
    np.lib.format.write_array_header_1_0(file, described)


def bundled_voices(data: Path, cache: Path) -> Voices:
    """The sets that the bundled model learned from: RAVDESS and nEMO, decoded once."""
    takes = ravdess.list_takes(data / "ravdess") + nemo.list_takes(data / "nemo")
    return load_voices(takes, cache)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare_voices", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="folder that holds ravdess/ and nemo/")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the voices")
    parser.add_argument("--sessions", type=int, default=6, help="microphones and rooms a speaker")
    parser.add_argument("--waveform", action="store_true", help="for configurations with a sound_extractor")
    parser.add_argument(
        "--varied", action="store_true", help="other throats, tempos and words, for voices alone"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args(arguments)
    if chosen.varied and chosen.waveform:
        parser.error("--varied changes the log-mel alone: leave out --waveform.")
    try:
        bundled = chosen.data is not None
        voices = bundled_voices(chosen.data, chosen.cache) if bundled else open_cache(chosen.cache)
    except FileNotFoundError as error:
        parser.exit(2, f"{error}; name --data, or a folder of voices that trainer.prepare wrote.\n")
    prepare(chosen.cache, voices, chosen.sessions, chosen.jobs, chosen.waveform, chosen.varied)
    hours = voices.durations_s.sum() / 3600
    print(f"{len(voices)} takes, {hours:.1f} hours, {chosen.sessions} sessions each, at {RATE_HZ} Hz")


if __name__ == "__main__":
    main()
