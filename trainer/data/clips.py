"""Rated clips of any kind: lists them from a CSV file, and plays one as frames and blocks in time order.

`list_rows` reads a table (columns file or path, speaker, label, sound); `play` decodes a media file as the
live runtime sees it: presentation times, BGR pictures, 16 kHz mono sound. It knows nothing of models; data
leaves it as `Row`s with `Take`s and as the engine's `Frame`s and `Block`s.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

from engine.picture import upright
from engine.types import SECOND_NS, Block, Float32, Frame
from trainer.data.recordings import KNOWN
from trainer.data.sound import RATE_HZ, mono_mixer
from trainer.data.tables import read_table
from trainer.data.takes import Take

BLOCK_SAMPLES = RATE_HZ // 50
GAP_NS = 40_000_000
"""A sound packet this far behind the end of the last one is there after a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table. line: where it stands; cells: all of it by column, of which `take` is a part."""

    line: int
    cells: dict[str, str]
    take: Take


def list_clips(table: Path, split: str = "dev") -> list[Take]:
    """The takes of `list_rows`, which see."""
    return [row.take for row in list_rows(table, split)]


def list_rows(table: Path, split: str = "dev") -> list[Row]:
    """The rows of `table`, in its order; relative files are beside the table; `calm` counts as neutral.

    Of a table as `trainer.prepare` reads it (`path` in place of `file`) only the rows of `split`. `sound`
    names the file of the sound where it is not in the clip. The label may be empty, or have no column, where
    other columns may rate the clip.
    Raises ValueError where a column or a file is missing, or a row has nothing but its file.
    """
    read = read_table(table)
    name = "path" if "path" in read.columns and "file" not in read.columns else "file"
    more = set(read.columns) - {name, *KNOWN}
    needed = {name, "speaker"} if more else {name, "speaker", "label"}
    if missing := needed - set(read.columns):
        raise ValueError(f"{table} lacks the column {sorted(missing)[0]!r} (file, speaker, label).")
    rows = []
    for line, cells in read.rows:
        if name == "path" and cells.get("split", split) != split:
            continue
        label = cells.get("label", "").lower()
        if not label and not any(cells[column] for column in more):
            raise ValueError(f"{table}, line {line}: there is no label, nor any other rating.")
        take = Take(
            file=table.parent / cells[name],
            sound=table.parent / cells["sound"] if cells.get("sound") else None,
            corpus=table.parent.name,
            speaker=cells["speaker"],
            label="neutral" if label == "calm" else label or None,
            split="test",
        )
        for file in (take.file, take.sound):
            if file is not None and not file.is_file():
                raise ValueError(f"{table}, line {line}: there is no file {file}.")
        rows.append(Row(line=line, cells=cells, take=take))
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a media file holds."""

    has_video: bool
    has_audio: bool


def contents(file: Path, sound_file: Path | None = None) -> Contents:
    """Looks into a media file, or two. Raises av.FFmpegError where one is none."""
    with av.open(os.fspath(file)) as container:
        has_video, has_audio = (_first(container, kind) is not None for kind in ("video", "audio"))
    if sound_file is not None:
        has_audio = contents(sound_file).has_audio
    return Contents(has_video=has_video, has_audio=has_audio)


def in_words(error: Exception) -> str:
    """An error of a file without the number that FFmpeg and the system put before it."""
    file, why = getattr(error, "filename", None), getattr(error, "strerror", None)
    return f"{file} cannot be read: {why}." if file and why else str(error)


def play(
    file: Path, picture: bool = True, sound: bool = True, sound_file: Path | None = None
) -> Iterator[Frame | Block]:
    """Frames and blocks (20 ms) of a file, ordered by time; t_ns counts from the file's earliest moment.

    sound_file: has the sound in place of `file`; both begin together, each at its earliest moment.
    A stream that the file lacks, or that is not asked for, gives nothing; what a damaged packet held is left
    out, and what stands before time 0 (an encoder's run-in), as live. Raises av.FFmpegError where a file
    cannot be read, ValueError where nothing of a stream can be decoded.
    """
    held = contents(file, sound_file)
    heard = _blocks(sound_file or file) if sound and held.has_audio else ()
    blocks = (block for block in heard if block.t_ns >= 0)
    block = next(blocks, None)
    for frame in _frames(file) if picture and held.has_video else ():
        if frame.t_ns < 0:
            continue
        while block is not None and block.t_ns <= frame.t_ns:
            yield block
            block = next(blocks, None)
        yield frame
    while block is not None:
        yield block
        block = next(blocks, None)


def _streams(container: Any) -> list[Any]:
    """Pictures and sound that can be decoded, without cover pictures."""
    return [
        stream
        for stream in (*container.streams.video, *container.streams.audio)
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic
    ]


def _first(container: Any, kind: str) -> Any:
    """The first stream of a kind ("video", "audio"), or None."""
    return next((stream for stream in _streams(container) if stream.type == kind), None)


def _zero_ns(container: Any) -> int:
    """The presentation time of the file's earliest moment, 0 where that is negative."""
    starts = [_time_ns(s.start_time, s.time_base) for s in _streams(container) if s.start_time is not None]
    return max(min(starts, default=0), 0)


def _time_ns(pts: int, time_base: Fraction) -> int:
    return pts * time_base.numerator * SECOND_NS // time_base.denominator


def _decoded(file: Path, container: Any, stream: Any) -> Iterator[Any]:
    """What is whole of a stream, up to where the file can be read."""
    packets, some, damage = container.demux(stream), False, None
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            packet, damage = None, error
        if packet is None:
            break
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            frames, damage = [], error
        some = some or bool(frames)
        yield from frames
    if damage is not None and not some:
        raise ValueError(f"{file} cannot be decoded: {damage.strerror}.") from damage


def _frames(file: Path) -> Iterator[Frame]:
    with av.open(os.fspath(file)) as container:
        stream = _first(container, "video")
        stream.thread_type = "NONE"  # a core a process; the pool has as many as there are
        period_ns = round(1e9 / (stream.average_rate or 25))
        zero_ns, last_ns, seq = _zero_ns(container), -period_ns, 0
        for decoded in _decoded(file, container, stream):
            known = decoded.pts is not None
            t_ns = _time_ns(decoded.pts, decoded.time_base) - zero_ns if known else last_ns + period_ns
            if seq and t_ns <= last_ns:
                continue
            yield Frame(t_ns=t_ns, seq=seq, image=upright(decoded, stream.sample_aspect_ratio))
            last_ns, seq = t_ns, seq + 1


def _blocks(file: Path) -> Iterator[Block]:
    seq = 0
    for start_ns, rate_hz, samples in _runs(file):
        if rate_hz != RATE_HZ:
            samples = soxr.resample(samples, rate_hz, RATE_HZ, quality="HQ")
        for at in range(0, len(samples), BLOCK_SAMPLES):
            t_ns = start_ns + at * SECOND_NS // RATE_HZ
            yield Block(t_ns=t_ns, seq=seq, samples=samples[at : at + BLOCK_SAMPLES])
            seq += 1


def _runs(file: Path) -> Iterator[tuple[int, int, Float32]]:
    """(time of the first sample, rate, samples) of each stretch without a gap."""
    parts: list[Float32] = []
    start_ns = end_ns = rate_hz = count = 0
    with av.open(os.fspath(file)) as container:
        zero_ns = _zero_ns(container)
        for frame in _decoded(file, container, _first(container, "audio")):
            t_ns = end_ns if frame.pts is None else _time_ns(frame.pts, frame.time_base) - zero_ns
            if parts and (t_ns - end_ns > GAP_NS or frame.sample_rate != rate_hz):
                yield start_ns, rate_hz, np.concatenate(parts)
                parts = []
            if not parts:
                start_ns, rate_hz, count = max(t_ns, end_ns), frame.sample_rate, 0
                mixer = mono_mixer(rate_hz)
            for mono in mixer.resample(frame):
                parts.append(mono.to_ndarray().reshape(-1))
                count += len(parts[-1])
            end_ns = start_ns + count * SECOND_NS // rate_hz
    if parts:
        yield start_ns, rate_hz, np.concatenate(parts)
