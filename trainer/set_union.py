"""Voices, their log-mel and moving faces of several prepared sets, as if they were one.

Arrays that lie on disk stay there. Of one set everything is what the set itself gives. It knows nothing of
configurations and draws nothing. Data leaves as `Voices`, `Mels` and `Clips`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.signals.sound import MelParams
from trainer.clip_tokens import Clips, open_clips
from trainer.data.sound import Voices, open_cache
from trainer.prepare_voices import Mels, open_mels
from trainer.voice_tokens import VoiceTokens, open_tokens


@dataclass(frozen=True, slots=True)
class SetFolders:
    """Where one set is. voices: its cache; clips: its tokens, a folder a split; either may be missing."""

    voices: Path | None
    clips: tuple[Path, ...]


class Rows:
    """Arrays one after another, read where they lie. shape, dtype: as of one array."""

    def __init__(self, parts: Sequence[NDArray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        where = np.searchsorted(self.starts, rows, "right") - 1
        for part in np.unique(where):
            own = where == part
            found[own] = self.parts[part][rows[own] - self.starts[part]]
        return found


def union(sets: Sequence[SetFolders], waveform: bool = False) -> tuple[Voices, Mels, Clips]:
    """What these sets hold together. `Clips.voices` are places in the joint voices, `Clips.sets` in `sets`.

    waveform: whether that of the voices is wanted, too.

    Of sets that were heard in more or fewer sessions, all have as many as the one with the fewest.
    Raises FileNotFoundError where a folder is not as named, ValueError where a speaker is in two splits.
    """
    heard = [(place, each.voices) for place, each in enumerate(sets) if each.voices is not None]
    voices = [open_cache(folder) for _, folder in heard]
    mels = [open_mels(folder, waveform) for _, folder in heard]
    starts = np.cumsum([0, *map(len, voices)])
    first = {place: int(start) for (place, _), start in zip(heard, starts, strict=False)}
    clips = [
        (place, first.get(place, 0), open_clips(folder))
        for place, each in enumerate(sets)
        for folder in each.clips
    ]
    joint = _voices(voices)
    refuse_in_two_splits(zip(joint.speakers.tolist(), joint.splits.tolist(), strict=True))
    return joint, _mels(mels, waveform), _clips(clips)


def tokens_of(sets: Sequence[SetFolders]) -> VoiceTokens:
    """The voice tokens of these sets, in the order of the joint voices; without voices none, of no width.

    Raises FileNotFoundError where a set that has voices has none.
    """
    parts = [open_tokens(each.voices) for each in sets if each.voices is not None]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        place, number = np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32)
        return VoiceTokens(
            tokens=np.zeros((0, 0), np.float16),
            voiced=np.zeros(0, np.bool_),
            starts=place,
            steps=place,
            seconds=number,
            means=np.zeros((1, 0, 0), np.float32),
        )
    sessions = min(len(part.starts) for part in parts)
    before = np.cumsum([0, *(len(part.tokens) for part in parts)])
    joined = {
        name: np.concatenate([getattr(part, name)[:sessions] for part in parts], 1)
        for name in ("steps", "seconds", "means")
    }
    return VoiceTokens(
        tokens=Rows([part.tokens for part in parts]),
        voiced=np.concatenate([part.voiced for part in parts]),
        starts=np.concatenate([p.starts[:sessions] + at for p, at in zip(parts, before, strict=False)], 1),
        **joined,
    )


def refuse_in_two_splits(known: Iterable[tuple[str, str]]) -> None:
    """known: speakers and their splits. Raises ValueError where one is in two."""
    splits: dict[str, str] = {}
    for speaker, split in known:
        if splits.setdefault(speaker, split) != split:
            raise ValueError(f"The speaker {speaker} is {split} in one set and {splits[speaker]} in another.")


def _rows(parts: Sequence[NDArray], empty: NDArray) -> NDArray | Rows:
    return Rows(parts) if len(parts) > 1 else parts[0] if parts else empty


def _voices(parts: Sequence[Voices]) -> Voices:
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, np.str_)
    names, values = _attributes(parts)
    lengths = [np.diff(part.offsets) for part in parts]
    return Voices(
        samples=_rows([part.samples for part in parts], np.zeros(0, np.int16)),
        offsets=np.cumsum([0, *np.concatenate([np.zeros(0, np.int64), *lengths])]),
        labels=np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]),
        speakers=np.concatenate([none, *(part.speakers for part in parts)]),
        splits=np.concatenate([none, *(part.splits for part in parts)]),
        corpora=np.concatenate([none, *(part.corpora for part in parts)]),
        names=np.concatenate([none, *(part.names for part in parts)]),
        attribute_names=names,
        attributes=values,
    )


def _mels(parts: Sequence[Mels], waveform: bool) -> Mels:
    if len(parts) == 1:
        return parts[0]
    bands, no_samples = MelParams().bands, np.zeros((0, MelParams().hop), np.float16)
    sessions = min((len(part.starts) for part in parts), default=1)
    before = np.cumsum([0, *(len(part.mel) for part in parts)])

    def joint(arrays: Sequence[NDArray], empty: NDArray) -> NDArray:
        return np.concatenate([empty, *(array[:sessions] for array in arrays)], 1)

    whole, number = np.zeros((sessions, 0), np.int64), np.zeros((sessions, 0), np.float32)
    return Mels(
        mel=_rows([part.mel for part in parts], np.zeros((0, bands), np.float16)),
        starts=joint([part.starts + start for part, start in zip(parts, before, strict=False)], whole),
        bins=joint([part.bins for part in parts], whole),
        means=joint([part.means for part in parts], np.zeros((sessions, 0, bands), np.float32)),
        seconds=joint([part.seconds for part in parts], number),
        speeds=joint([part.speeds for part in parts], number),
        waveform=_rows([part.waveform for part in parts], no_samples) if waveform else None,
    )


def _clips(parts: Sequence[tuple[int, int, Clips]]) -> Clips:
    """parts: the place of each one's set, where the voices of that set begin, and the clips."""
    if len(parts) == 1 and not parts[0][1]:
        return parts[0][2]
    clips = [part for *_, part in parts]
    names, values = _attributes(clips)
    ticks = np.cumsum([0, *(len(part.seen) for part in clips)])
    groups = np.cumsum([0, *(1 + max(part.groups, default=-1) for part in clips)])
    none = np.zeros(0, np.int64)
    return Clips(
        v=np.concatenate([part.v for part in clips]) if clips else np.zeros((0, 0), np.float16),
        flow=_rows([part.flow for part in clips], np.zeros((0, 2, 1, 1), np.float16)),
        seen=np.concatenate([np.zeros(0, bool), *(part.seen for part in clips)]),
        starts=np.concatenate([none, *_moved([part.starts for part in clips], ticks)]),
        ticks=np.concatenate([none, *(part.ticks for part in clips)]),
        labels=np.concatenate([none, *(part.labels for part in clips)]),
        voices=np.concatenate([none, *_moved([part.voices for part in clips], [at for _, at, _ in parts])]),
        groups=np.concatenate([none, *_moved([part.groups for part in clips], groups)]),
        attribute_names=names,
        attributes=values,
        sets=np.concatenate([none, *(np.full(len(part.labels), place) for place, _, part in parts)]),
    )


def _moved(places: Sequence[NDArray[np.int64]], by: Sequence[int] | NDArray) -> list[NDArray[np.int64]]:
    """Places in what is joined; -1 (none) stays."""
    return [np.where(own < 0, own, own + start) for own, start in zip(places, by, strict=False)]


def _attributes(parts: Sequence[Voices] | Sequence[Clips]) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Names of all, and the values of all rows, NaN where a part does not have the name."""
    names = sorted({name for part in parts for name in part.attribute_names.tolist()})
    values = np.full((sum(len(part.labels) for part in parts), len(names)), np.nan, np.float32)
    start = 0
    for part in parts:
        columns = [names.index(name) for name in part.attribute_names.tolist()]
        values[start : start + len(part.labels), columns] = part.attributes
        start += len(part.labels)
    return np.array(names, np.str_), values
