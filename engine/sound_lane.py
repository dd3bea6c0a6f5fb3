"""Sound of a timeline into mel bins and voice tokens, with its time bound.

Blocks come in the order of time and are read by the grid; what runs ahead of the last window waits within
bounds, what comes late is counted. It knows nothing of clocks, models or pictures. Data leaves as what is
heard of a stretch of bins; for many lanes at once with less work (`hear`).

Counted, by cause: `early_sound` before the stream's epoch, `late_sound` after the window it belonged to was
made (used in later windows where there is still a place), `ahead_sound` lost because it ran too far ahead of
the windows (the newest stays), `broken_sound` not finite.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.baseline import SlowMean, VoiceGate
from engine.bundle import Bundle
from engine.grid import UNBOUNDED_NS, Grid
from engine.signals.sound import FRAMES_AT_ONCE, LogMel, hops, log_mel
from engine.signals.voice import AHEAD, CHUNK, STEP, VoiceEncoder, open_voice_encoder, steps_voiced
from engine.types import SECOND_NS, Block, Bool, Float32
from engine.voice_lane import Chunk, Stretch, VoiceLane, encode

NOWHERE = -1
"""The bin of a frame that becomes none."""
MOST_BINS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """The bins of a stretch. mel: (M, F), zero where masked; mask: (M,) bool.

    waveform: (M * H,) float32, H samples a bin, zero where masked; H = 0 where the bundle takes no waveform.
    tokens: (M / 4, K) float32, zero where no bin was heard; K = 0 where the bundle takes no voice tokens.
    """

    mel: Float32
    waveform: Float32
    mask: Bool
    tokens: Float32


class SoundLane:
    """Sound into mel bins, by the centres of the mel frames; also the voice's slow mean.

    Frames wait until a window needs them, because their mel is cheaper all at once (see `take_sound`).
    A bin's row is its log-mel, and after it, for a bundle that takes the waveform, the frame's own samples.

    The ring grows as sound runs ahead of the windows, up to 8192 bins; beyond that the newest stays.
    """

    def __init__(
        self, bundle: Bundle, epoch_ns: int, counts: Counter[str], voice: VoiceEncoder | None = None
    ) -> None:
        self._hz = bundle.window.mel_hz
        self._span = bundle.window.bins
        self.mel_params = bundle.mel
        self._samples = bundle.mel.hop if bundle.sound == "waveform" else 0
        self._voice_lane = None
        if bundle.voice is not None:
            self._voice_lane = VoiceLane(voice or open_voice_encoder(bundle.voice.encoder, bundle.digest))
        self._counts = counts
        baseline = bundle.baseline
        self.voice = SlowMean(baseline.voice_mean, prior_s=baseline.prior_s, tau_s=baseline.tau_s)
        self._gate = VoiceGate(self._span, baseline.voice_floor)
        self.restart(epoch_ns)

    def restart(self, epoch_ns: int) -> None:
        """Forget all sound but the voice's mean and how loud it was, and begin at `epoch_ns`."""
        self.grid = Grid(epoch_ns, self._hz)
        self.bound_ns = epoch_ns
        self._front = LogMel(self.mel_params)
        self._waiting: list[int] = []  # the bins of the frames that wait in the front end
        self._end = 0
        self._oldest: int | None = None
        self._folded = 0
        size = max(self._span, min(2 * self._span, MOST_BINS))
        self._bin = np.full(size, -1, dtype=np.int64)
        self._rows = np.zeros((size, self.mel_params.bands + self._samples), dtype=np.float32)
        if self._voice_lane is not None:
            self._voice_lane.restart()

    def push(self, block: Block) -> None:
        """Take a block. Blocks come in the order of time; a step backward begins afresh."""
        centres_ns = self._front.take(block.t_ns, block.samples)
        if not centres_ns:
            return
        oldest, before = max(0, self._end - self._span), None
        for cell in map(self.grid.cell, centres_ns):
            first = cell != before  # of several frames for one bin
            if first and cell < self._end:
                self._counts["early_sound" if cell < 0 else "late_sound"] += 1
            self._waiting.append(cell if first and cell >= oldest else NOWHERE)
            before = cell
        self.bound_ns = max(self.bound_ns, centres_ns[-1] + SECOND_NS // self._hz)
        if len(self._waiting) >= FRAMES_AT_ONCE:
            take_sound([self])

    @property
    def waits(self) -> bool:
        """True when there are frames to cut."""
        return bool(self._waiting)

    def cut(self) -> tuple[NDArray[np.int64], Float32]:
        """The frames that wait, and which bin each becomes; they wait no more."""
        bins = np.array(self._waiting, dtype=np.int64)
        self._waiting.clear()
        return bins, self._front.cut()

    def store(self, bins: NDArray[np.int64], frames: Float32, mel: Float32, whole: Bool) -> None:
        """Frames that were cut become bins, with their log-mel; of several for one bin the first that is
        `whole`."""
        wanted = np.flatnonzero(bins != NOWHERE)
        sound = wanted[whole[wanted]]
        self._counts["broken_sound"] += len(wanted) - len(sound)
        if len(sound):
            bins, first = np.unique(bins[sound], return_index=True)
            rows = np.concatenate((mel, hops(frames, self.mel_params)[:, : self._samples]), axis=1)
            self._store(bins, rows[sound[first]])

    def advance(self, t_ns: int) -> None:
        """No samples older than `t_ns` will come."""
        half_ns = self.mel_params.window * SECOND_NS // (2 * self.mel_params.rate_hz)
        self.bound_ns = max(self.bound_ns, t_ns - half_ns if t_ns < UNBOUNDED_NS else UNBOUNDED_NS)

    def reach(self, end: int) -> Heard:
        """The window of bins before `end` (with voice tokens, of whole steps that AHEAD more bins follow).
        Folds the voice's mean up to there."""
        hear([(self, end)])
        self._end = self._window_end(end)
        heard = self._read(self._end - self._span, self._end)
        self._fold(heard, self._end - self._span)
        return heard

    def wanted(self, end: int) -> "list[tuple[VoiceLane, Chunk]]":
        """The chunks that have to be encoded before `reach` of the same bin."""
        if self._voice_lane is None:
            return []
        end = self._window_end(end)
        stretch = Stretch(end - self._span, end, self._final(end + AHEAD))
        return [(self._voice_lane, chunk) for chunk in self._voice_lane.wanted(stretch, self._mel_of)]

    def _window_end(self, end: int) -> int:
        return end if self._voice_lane is None else end - AHEAD - end % STEP

    def _fold(self, heard: Heard, first: int) -> None:
        """The voice's mean learns of a window that begins with the bin `first` what is new and final."""
        start = max(self._folded, first)
        end = self._final(self._end)
        if self._voice_lane is not None:
            end = self._final(self._end + AHEAD) // CHUNK * CHUNK - AHEAD
        if end <= start:
            return
        if start > self._folded:
            self._gate.skip(start - self._folded)
        mel, mask = heard.mel[start - first : end - first], heard.mask[start - first : end - first]
        voiced = self._gate.push(mel, mask)
        if self._voice_lane is None:
            self.voice.fold(mel[voiced], 1 / self._hz)
        else:
            tokens = heard.tokens[(start - first) // STEP : (end - first) // STEP]
            self.voice.fold(tokens[steps_voiced(voiced)], STEP / self._hz)
        self._folded = end

    def _final(self, end: int) -> int:
        """The first bin, at most `end`, that may still change."""
        return min(end, self.grid.cell(self.bound_ns))

    def _read(self, start: int, end: int) -> Heard:
        rows, mask = self._rows_of(start, end)
        bands = self.mel_params.bands
        mel = rows[:, :bands]
        tokens = np.zeros((0, 0), np.float32)
        if self._voice_lane is not None:
            tokens = self._voice_lane.tokens()
        return Heard(mel, rows[:, bands:].ravel(), mask, tokens)

    def _mel_of(self, start: int, end: int) -> tuple[Float32, Bool]:
        rows, mask = self._rows_of(start, end)
        return rows[:, : self.mel_params.bands], mask

    def _rows_of(self, start: int, end: int) -> tuple[Float32, Bool]:
        bins, place, size = np.arange(start, end), start % len(self._bin), len(self._bin)
        head, tail = slice(place, place + len(bins)), slice(max(0, place + len(bins) - size))
        mask = (np.concatenate((self._bin[head], self._bin[tail])) == bins) & (bins >= 0)
        rows = np.concatenate((self._rows[head], self._rows[tail]))
        rows[~mask] = 0
        return rows, mask

    def _store(self, bins: NDArray[np.int64], rows: Float32) -> None:
        if self._oldest is None:
            self._oldest = int(bins[0])
        self._grow(int(bins[-1]) - max(self._end - self._span, min(self._oldest, int(bins[0]))) + 1)
        size = len(self._bin)
        self._counts["ahead_sound"] += max(len(bins) - size, 0)
        bins, rows = bins[-size:], rows[-size:]
        places = bins % size
        held = self._bin[places]
        fresh = held < bins
        needed = (held >= max(self._end - self._span, 0)) & fresh
        self._counts["ahead_sound"] += int(needed.sum())
        self._bin[places[fresh]] = bins[fresh]
        self._rows[places[fresh]] = rows[fresh]

    def _grow(self, needed: int) -> None:
        size = len(self._bin)
        while size < min(needed, MOST_BINS):
            size = min(2 * size, MOST_BINS)
        if size == len(self._bin):
            return
        held, rows = self._bin, self._rows
        full = held >= 0
        self._bin = np.full(size, -1, dtype=np.int64)
        self._rows = np.zeros((size, rows.shape[1]), dtype=np.float32)
        self._bin[held[full] % size] = held[full]
        self._rows[held[full] % size] = rows[full]


def hear(due: Iterable[tuple[SoundLane, int]]) -> None:
    """Lanes of one bundle are about to be read, each up to a bin: what waits in them becomes bins and voice
    tokens, of all lanes at once."""
    each = list(dict.fromkeys(due))
    take_sound(lane for lane, _ in each)
    encode([chunk for lane, end in each for chunk in lane.wanted(end)])


def take_sound(lanes: Iterable[SoundLane]) -> None:
    """The frames that wait in several lanes of one bundle become bins.

    Their mel is computed all at once, which changes no bit of it and is cheaper.
    """
    cut = [(lane, *lane.cut()) for lane in lanes if lane.waits]
    if not cut:
        return
    mel = log_mel(np.concatenate([frames for _, _, frames in cut]), cut[0][0].mel_params)
    whole = np.asarray(np.isfinite(mel).all(axis=1))
    first = 0
    for lane, bins, frames in cut:
        end = first + len(bins)
        lane.store(bins, frames, mel[first:end], whole[first:end])
        first = end
