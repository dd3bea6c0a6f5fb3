"""Sound for training: decoded to what the engine hears live, and kept decoded in a cache.

`decode` turns any media file into 16 kHz mono float32; `write_cache` keeps the takes of all sets as one int16
array that workers map into memory; `log_mel` is the engine's own streaming front end. It knows nothing of
labels beyond carrying them, and nothing of augmentation.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from trainer.data.takes import Take

RATE_HZ = 16_000
Float32 = NDArray[np.float32]


def mono_mixer(rate_hz: int) -> av.AudioResampler:
    """Mixes sound of any format and layout to mono float32 as the live runtime does; the rate stays."""
    return av.AudioResampler(format="flt", layout="mono", rate=rate_hz)


def decode(file: Path) -> Float32:
    """(N,) float32, 16 kHz mono: the first sound stream of a media file, from its first sample on.

    Raises ValueError where the file has no sound, av.FFmpegError where it cannot be read.
    """
    with av.open(os.fspath(file)) as container:
        if not container.streams.audio:
            raise ValueError(f"{file} has no sound.")
        stream = container.streams.audio[0]
        rate_hz = stream.rate
        mixer = mono_mixer(rate_hz)
        mixed = (mono for frame in container.decode(stream) for mono in mixer.resample(frame))
        parts = [mono.to_ndarray().reshape(-1) for mono in mixed]
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if rate_hz != RATE_HZ:
        samples = soxr.resample(samples, rate_hz, RATE_HZ, quality="HQ")
    return samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Voices:
    """Decoded takes of several sets.

    samples: (sum of lengths,) int16, 16 kHz mono, mapped from disk; take i is offsets[i]:offsets[i + 1].
    offsets: (n + 1,) int64.
    labels: (n,) int64, positions in `trainer.labels.LABELS`, -1 for none.
    speakers, splits, corpora, names: (n,) str.
    attribute_names: (A,) str; attributes: (n, A) float32, NaN where a take was not rated.
    """

    samples: NDArray[np.int16]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    speakers: NDArray[np.str_]
    splits: NDArray[np.str_]
    corpora: NDArray[np.str_]
    names: NDArray[np.str_]
    attribute_names: NDArray[np.str_]
    attributes: Float32

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: int) -> Float32:
        """(N,) float32 in [-1, 1): the waveform of one take, a copy."""
        part = self.samples[self.offsets[index] : self.offsets[index + 1]]
        return part.astype(np.float32) / np.float32(32768)

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """(n,) float64, seconds."""
        return np.diff(self.offsets) / RATE_HZ


def write_cache(
    takes: Sequence[Take], cache: Path, progress: Callable[[int, int], None] | None = None
) -> Voices:
    """Decodes all takes into `cache` (voices.npy with the samples, voices.npz with the rest) and opens it.

    progress is called with (done, all) after each take. The files appear complete or not at all.
    """
    parts = []
    for done, take in enumerate(takes, start=1):
        parts.append(as_int16(decode(take.sound or take.file)))
        if progress is not None:
            progress(done, len(takes))
    return store_voices(takes, [len(part) for part in parts], parts, cache)


def as_int16(samples: Float32) -> NDArray[np.int16]:
    """As the cache keeps sound; what is beyond full scale is cut off."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def store_voices(
    takes: Sequence[Take], lengths: Sequence[int], parts: Iterable[NDArray[np.int16]], cache: Path
) -> Voices:
    """Writes takes whose sound is there already and opens the cache. The files appear whole or not at all.

    lengths: samples of each take; parts: its sound, (length,) int16, one after another.
    Log-mel that was made of other takes (`trainer.prepare_voices`) goes.
    """
    cache.mkdir(parents=True, exist_ok=True)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    samples, index = cache / "voices.part.npy", cache / "voices.part.npz"
    joined = np.lib.format.open_memmap(samples, "w+", np.int16, (int(offsets[-1]),))
    for start, part in zip(offsets, parts, strict=False):
        joined[start : start + len(part)] = part
    joined.flush()
    del joined
    names, values = attribute_table([take.attributes for take in takes])
    np.savez(
        index,
        offsets=offsets,
        labels=np.array([take.place for take in takes], np.int64),
        speakers=np.array([take.speaker for take in takes]),
        splits=np.array([take.split for take in takes]),
        corpora=np.array([take.corpus for take in takes]),
        names=np.array([take.name for take in takes]),
        attribute_names=names,
        attributes=values,
    )
    for stale in ("mel.npz", "mel.npy"):
        (cache / stale).unlink(missing_ok=True)
    samples.replace(cache / "voices.npy")
    index.replace(cache / "voices.npz")
    return open_cache(cache)


def attribute_table(rated: Sequence[Mapping[str, float]]) -> tuple[NDArray[np.str_], Float32]:
    """Names (A,) in order, and values (takes, A) float32, NaN where a take has none."""
    names = sorted({name for each in rated for name in each})
    rows = [[each.get(name, np.nan) for name in names] for each in rated]
    return np.array(names, np.str_), np.array(rows, np.float32).reshape(len(rated), len(names))


def open_cache(cache: Path) -> Voices:
    """Opens what `write_cache` wrote; the samples stay on disk.

    Raises FileNotFoundError if it is missing, ValueError if an earlier version wrote it.
    """
    samples = np.load(cache / "voices.npy", mmap_mode="r")
    with np.load(cache / "voices.npz") as index:
        if "attributes" not in index:
            raise ValueError(f"The voices in {cache} are of an earlier version: prepare them anew.")
        return Voices(samples=samples, **{key: index[key] for key in index})


def load_voices(
    takes: Sequence[Take], cache: Path, progress: Callable[[int, int], None] | None = None
) -> Voices:
    """The cache if it holds exactly these takes in this order, else a new one."""
    try:
        voices = open_cache(cache)
    except (FileNotFoundError, ValueError):
        return write_cache(takes, cache, progress)
    kept = list(zip(voices.names, voices.speakers, voices.splits, strict=True))
    wanted = [(take.name, take.speaker, take.split) for take in takes]
    _, attributes = attribute_table([take.attributes for take in takes])
    same = kept == wanted and np.array_equal(voices.attributes, attributes, equal_nan=True)
    return voices if same else write_cache(takes, cache, progress)
