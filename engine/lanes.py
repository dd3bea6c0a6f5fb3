"""The two lanes of a timeline: pictures into ticks, sound into mel bins, each with its time bound.

A lane is filled in any order of arrival and read by the grid; what runs ahead of the last window waits
within bounds, what comes late is counted. It knows nothing of clocks, models or the other lane. Data leaves
the video lane as released ticks and views, the sound lane as the mel and mask of a window.

Counted, by cause: `early_*` before the stream's epoch, `late_*` after the window it belonged to was made
(used in later windows where there is still a place), `ahead_*` lost because the lane ran too far ahead of
the windows (the newest stays), `skipped_observation` older than any window asked for, `forgone_tick` given up
by whoever encodes them, `broken_sound` not finite.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.baseline import SlowMean, VoiceGate
from engine.bundle import Bundle
from engine.signals.sound import FRAMES_AT_ONCE, LogMel, hops, log_mel
from engine.signals.voice import AHEAD, CHUNK, STEP, open_voice_encoder, steps_voiced
from engine.types import SECOND_NS, Block, Bool, Face, Float32, Observation
from engine.voice_lane import VoiceLane

UNBOUNDED_NS = (1 << 62) - 1
"""The bound of a modality from which nothing will come any more."""

NOWHERE = -1
"""The bin of a frame that becomes none."""
WAITING_TICKS = 256
MOST_BINS = 8192

Released = list[tuple[int, Face]]
Place = tuple[tuple[float, float, float, float], float]


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of 1/hz seconds from an epoch; cell k is [start_ns(k), start_ns(k + 1)), in whole nanoseconds."""

    epoch_ns: int
    hz: int

    def start_ns(self, cell: int) -> int:
        """The first nanosecond of a cell."""
        return self.epoch_ns + cell * SECOND_NS // self.hz

    def cell(self, t_ns: int) -> int:
        """The cell that holds `t_ns`; as many cells have ended by then."""
        return (self.hz * (t_ns - self.epoch_ns + 1) - 1) // SECOND_NS

    def cells(self, t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """`cell` of many times; whole seconds are counted apart, because a product would overflow."""
        seconds, rest = np.divmod(t_ns - self.epoch_ns, SECOND_NS)
        return np.asarray(seconds * self.hz + (self.hz * (rest + 1) - 1) // SECOND_NS, dtype=np.int64)

    def centre_ns(self, cell: int) -> int:
        """The middle of a cell."""
        return (self.start_ns(cell) + self.start_ns(cell + 1)) // 2


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The ticks of a window. mask: (T,) bool, those of `track`; place: box and confidence of the newest."""

    mask: Bool
    track: int
    place: Place | None


class VideoLane:
    """Observations into ticks: of the faces within a tick, the one nearest to its centre.

    A tick closes when the bound passes its end, or when a window needs it. Closed ticks are released (to be
    encoded, once) no further ahead of the last window than the ring of tokens reaches; up to 256 wait, and
    beyond that the oldest goes.
    """

    def __init__(self, bundle: Bundle, epoch_ns: int, counts: Counter[str]) -> None:
        self._hz = bundle.window.tick_hz
        self._span = bundle.window.ticks
        self._ring = bundle.window.ring_ticks
        self._counts = counts
        self.restart(epoch_ns)

    def restart(self, epoch_ns: int) -> None:
        """Forget all ticks and begin at `epoch_ns`."""
        self.grid = Grid(epoch_ns, self._hz)
        self.bound_ns = epoch_ns
        self._end = 0
        self._closed = 0
        self._candidate: tuple[tuple[int, int, int], int, Face] | None = None
        self._waiting: deque[tuple[int, Face]] = deque()
        self._tick = np.full(self._ring, -1, dtype=np.int64)
        self._track = np.full(self._ring, -1, dtype=np.int64)
        self._place: list[Place | None] = [None] * self._ring

    def push(self, observation: Observation) -> Released:
        """Take an observation; returns the ticks to be encoded now."""
        tick, face = self.grid.cell(observation.t_ns), observation.face
        if tick < 0:
            self._counts["early_observation"] += 1
            return []
        released = self.advance(observation.t_ns)
        if tick < self._closed:
            self._counts["late_observation"] += 1
            if face is not None and not self._taken(tick):
                self._wait(tick, face)
                released += self._release()
        elif face is not None:
            distance = abs(observation.t_ns - self.grid.centre_ns(tick))
            rank = (distance, observation.t_ns, observation.seq)
            if self._candidate is None or rank < self._candidate[0]:
                self._candidate = (rank, tick, face)
        return released

    def advance(self, t_ns: int) -> Released:
        """Nothing older than `t_ns` will come; returns the ticks to be encoded now."""
        self.bound_ns = max(self.bound_ns, t_ns)
        self._close(self.grid.cell(self.bound_ns))
        return self._release()

    def reach(self, end: int) -> Released:
        """Close the ticks before `end` (exclusive), for a window; returns ticks to be encoded."""
        self._close(end)
        self._end = end
        return self._release()

    def forgo(self, released: Released) -> None:
        """Released ticks will not be encoded: they are masked, as if nobody had been seen."""
        for tick, _ in released:
            if self._tick[tick % self._ring] == tick:
                self._tick[tick % self._ring] = -1
        self._counts["forgone_tick"] += len(released)

    def final(self, end: int) -> int:
        """The first tick, at most `end`, to which a face may still come."""
        return min(end, self.grid.cell(self.bound_ns))

    def view(self, end: int) -> View:
        """The window of ticks before `end`, of the newest track in it; released ticks alone count."""
        ticks = np.arange(end - self._span, end)
        places = ticks % self._ring
        seen = (self._tick[places] == ticks) & (ticks >= 0)
        shown = np.flatnonzero(seen)
        if not len(shown):
            return View(seen, -1, None)
        newest = places[shown[-1]]
        track = int(self._track[newest])
        return View(seen & (self._track[places] == track), track, self._place[newest])

    def _taken(self, tick: int) -> bool:
        return bool(self._tick[tick % self._ring] == tick) or any(tick == other for other, _ in self._waiting)

    def _close(self, end: int) -> None:
        if self._candidate is not None and self._candidate[1] < end:
            self._wait(self._candidate[1], self._candidate[2])
            self._candidate = None
        self._closed = max(self._closed, end)

    def _wait(self, tick: int, face: Face) -> None:
        self._waiting.append((tick, face))
        if len(self._waiting) > WAITING_TICKS:
            self._waiting.popleft()
            self._counts["ahead_observation"] += 1

    def _release(self) -> Released:
        released: Released = []
        if not self._waiting:
            return released
        still: deque[tuple[int, Face]] = deque()
        for tick, face in self._waiting:
            if tick >= self._end - self._span + self._ring:
                still.append((tick, face))
            elif tick < self._end - self._span:
                self._counts["skipped_observation"] += 1
            else:
                place = tick % self._ring
                self._tick[place], self._track[place] = tick, face.track
                self._place[place] = (face.box, face.confidence)
                released.append((tick, face))
        self._waiting = still
        return released


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

    def __init__(self, bundle: Bundle, epoch_ns: int, counts: Counter[str]) -> None:
        self._hz = bundle.window.mel_hz
        self._span = bundle.window.bins
        self.mel_params = bundle.mel
        self._samples = bundle.mel.hop if bundle.sound == "waveform" else 0
        self._voice_lane = None
        if bundle.voice is not None:
            self._voice_lane = VoiceLane(open_voice_encoder(bundle.voice.encoder, bundle.digest))
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
        take_sound([self])
        self._end = end if self._voice_lane is None else end - AHEAD - end % STEP
        heard = self._read(self._end - self._span, self._end)
        self._fold(heard, self._end - self._span)
        return heard

    def _fold(self, heard: Heard, first: int) -> None:
        """The voice's mean learns of a window that begins with the bin `first` what is new and final."""
        start = max(self._folded, first)
        end = self._final(0)
        if self._voice_lane is not None:
            end = self._final(AHEAD) // CHUNK * CHUNK - AHEAD
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

    def _final(self, ahead: int) -> int:
        """The first bin, at most `ahead` after the window, that may still change."""
        return min(self._end + ahead, self.grid.cell(self.bound_ns))

    def _read(self, start: int, end: int) -> Heard:
        rows, mask = self._rows_of(start, end)
        bands = self.mel_params.bands
        mel = rows[:, :bands]
        tokens = np.zeros((0, 0), np.float32)
        if self._voice_lane is not None:
            tokens = self._voice_lane.tokens(start, end, self._final(AHEAD), self._mel_of)
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
