"""The voice of the demo: invented syllables, spoken by formant synthesis, and what the mouth does with them.

`speak` writes one cycle of speech as control tracks (pitch, level, formants, breath, jaw, lips), one
style after another; `Voice` turns the tracks into sound. Every glottal pulse rings four damped
resonances (the source-filter model, with the filter's impulse response summed pulse by pulse); noise
makes breath and sibilants. Knows nothing of pictures or clocks: sample n of a seed is always the same.
"""

from dataclasses import dataclass, replace

import numpy as np

from engine.types import Float32

RATE_HZ = 16_000
CONTROL_HZ = 200
PULSE_S = 0.025  # after which a pulse has rung out
NOISE_SAMPLES = 22_051  # length of the noise loops, chosen so that repeats never line up with blocks

# Formants in Hz, jaw 0..1, spread -1 (rounded) .. 1 (drawn wide).
VOWELS = {
    "a": (760, 1260, 2600, 3500, 1.00, 0.1),
    "e": (500, 1850, 2550, 3500, 0.60, 0.6),
    "i": (300, 2250, 3000, 3600, 0.32, 1.0),
    "o": (480, 900, 2500, 3400, 0.65, -0.8),
    "u": (330, 850, 2400, 3300, 0.30, -1.0),
    "@": (520, 1450, 2500, 3500, 0.50, 0.0),
}
# Formants 1 and 2 in Hz, voiced level 0..1, sibilant level 0..1, jaw 0..1, duration in s.
CONSONANTS = {
    "m": (280, 1000, 0.35, 0.0, 0.00, 0.075),
    "n": (300, 1500, 0.35, 0.0, 0.12, 0.065),
    "b": (250, 900, 0.06, 0.0, 0.00, 0.070),
    "d": (250, 1700, 0.06, 0.05, 0.12, 0.060),
    "l": (360, 1250, 0.60, 0.0, 0.30, 0.060),
    "s": (320, 1600, 0.00, 0.55, 0.10, 0.095),
}
BANDWIDTHS = np.array((75.0, 95.0, 140.0, 200.0), np.float32)
GAINS = np.array((1.0, -0.55, 0.26, -0.12), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How one expression speaks.

    pitch_hz: mean; range: width of the melody in octaves; drift: octaves from begin to end of a phrase.
    level: 0..1; tempo: 1 is about five syllables a second; breath: 0..1; bright: how strong the upper
    formants are, 1 is usual; jitter: of the pulses, relative; tremor: octaves, six times a second;
    jaw: how far the mouth opens.
    """

    pitch_hz: float
    range: float
    drift: float
    level: float
    tempo: float
    breath: float
    bright: float
    jitter: float
    tremor: float
    jaw: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tracks:
    """One cycle of speech, 200 values a second; arrays (N,) float32.

    pitch_hz; level 0..1 of the voice; formants (N, 4) Hz; bright; breath and hiss 0..1 (levels of the
    two noises); jitter; jaw 0..1; spread -1..1.
    """

    pitch_hz: Float32
    level: Float32
    formants: Float32
    bright: Float32
    breath: Float32
    hiss: Float32
    jitter: Float32
    jaw: Float32
    spread: Float32

    def at(self, track: Float32, t_s: float) -> float:
        """Value of one of the tracks at a time of the endless cycle, linear between values."""
        whole, share = divmod(t_s * CONTROL_HZ, 1.0)
        n = int(whole) % len(track)
        return float(track[n] * (1 - share) + track[(n + 1) % len(track)] * share)


def speak(styles: list[Style], section_s: float, seed: int) -> Tracks:
    """One cycle: for each style a section of `section_s` seconds with phrases in it, silent at its ends."""
    rng = np.random.default_rng(seed)
    count = round(section_s * CONTROL_HZ)
    sections = [_section(style, count, rng) for style in styles]
    rows = np.concatenate(sections)
    smooth = {width: _smoothed(rows, width) for width in (5, 11, 15)}
    return Tracks(
        pitch_hz=smooth[11][:, 0],
        level=smooth[5][:, 1],
        formants=smooth[11][:, 2:6],
        bright=rows[:, 6],
        breath=smooth[5][:, 7],
        hiss=smooth[5][:, 8],
        jitter=rows[:, 9],
        jaw=smooth[15][:, 10],
        spread=smooth[15][:, 11],
    )


def _section(style: Style, count: int, rng: np.random.Generator) -> Float32:
    """(count, 12) targets: pitch, level, four formants, bright, breath, hiss, jitter, jaw, spread."""
    rest = np.array(
        (style.pitch_hz, 0, *VOWELS["@"][:4], style.bright, 0, 0, style.jitter, 0.0, 0.0), np.float32
    )
    rows = np.repeat(rest[None], count, axis=0)
    begin, last = round(0.35 * CONTROL_HZ), count - round(0.35 * CONTROL_HZ)
    while begin < last - CONTROL_HZ:
        end = min(last, begin + round(rng.uniform(1.5, 2.4) * CONTROL_HZ))
        if last - end < 1.2 * CONTROL_HZ:
            end = last
        _phrase(rows[begin:end], style, rng)
        begin = end + round(rng.uniform(0.22, 0.38) * CONTROL_HZ)
    tremor = style.tremor * np.sin(2 * np.pi * 6.0 * np.arange(count) / CONTROL_HZ)
    rows[:, 0] *= 2**tremor
    return rows


def _phrase(rows: Float32, style: Style, rng: np.random.Generator) -> None:
    """Fill the targets of one phrase with syllables."""
    at, count = 0, len(rows)
    while at < count:
        consonant = CONSONANTS[str(rng.choice(list(CONSONANTS)))]
        vowel = VOWELS[str(rng.choice(list(VOWELS)))]
        stress = float(rng.uniform(0.75, 1.0))
        length = rng.uniform(0.11, 0.17) * (0.7 + 0.5 * stress) / style.tempo
        melody = style.range * float(rng.uniform(-0.5, 0.5)) + 0.2 * style.range * stress
        begin, middle = at, at + max(3, round(consonant[5] / style.tempo**0.5 * CONTROL_HZ))
        end = middle + round(length * CONTROL_HZ)
        if count - end < 0.12 * CONTROL_HZ:
            end = count
        place = min(1.0, (begin + end) / 2 / count)
        pitch = style.pitch_hz * 2 ** (melody + style.drift * (place - 0.5))
        fade = 1.0 if place < 0.85 else 0.8
        first, second, voiced, hiss, jaw, _ = consonant
        breath = style.breath * style.level
        level = style.level * stress * fade
        rows[begin:middle] = (
            pitch, voiced * level, first, second, *vowel[2:4], style.bright,
            breath * voiced, hiss * level, style.jitter, jaw * style.jaw, 0.5 * vowel[5],
        )  # fmt: skip
        open_level = level * (0.4 + 0.6 * vowel[4])
        rows[middle:end] = (
            pitch, open_level, *vowel[:4], style.bright,
            breath, 0, style.jitter, vowel[4] * style.jaw * (0.6 + 0.4 * stress), vowel[5],
        )  # fmt: skip
        at = end


def _smoothed(rows: Float32, width: int) -> Float32:
    """Every column smoothed by a Hann window of `width` values, round the end of the cycle too."""
    window = np.hanning(width + 2)[1:-1]
    around = np.concatenate([rows[-width:], rows, rows[:width]])
    columns = [np.convolve(column, window / window.sum(), "same")[width:-width] for column in around.T]
    return np.stack(columns, axis=1).astype(np.float32)


class Voice:
    """Sound of a cycle of speech. Holds tables only: `samples` is a function of its arguments."""

    def __init__(self, tracks: Tracks, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._tracks = tracks
        self._cycle = len(tracks.level) * RATE_HZ // CONTROL_HZ
        turns = np.concatenate([[0.0], np.cumsum(tracks.pitch_hz.astype(np.float64)) / CONTROL_HZ])
        numbers = np.arange(1, int(turns[-1]))
        times = np.interp(numbers, turns, np.arange(len(turns)) / CONTROL_HZ)
        place = np.minimum((times * CONTROL_HZ).astype(int), len(tracks.level) - 1)
        level = tracks.level[place] * (1 + 0.6 * tracks.jitter[place] * rng.standard_normal(len(times)))
        times = times + tracks.jitter[place] / tracks.pitch_hz[place] * rng.standard_normal(len(times))
        loud = level > 0.004
        order = np.argsort(times[loud], kind="stable")
        self._times = times[loud][order]
        self._formants = tracks.formants[place][loud][order]
        upper = np.array((0, 1, 1, 1), np.float32)
        bright = tracks.bright[place][loud][order][:, None]
        self._gains = (level[loud][order][:, None] * GAINS * np.where(upper, bright, 1)).astype(np.float32)
        self._breath = _noise(rng, 400, 3600)
        self._hiss = _noise(rng, 4200, 7600)

    @property
    def cycle(self) -> int:
        """Samples in a cycle; sample n + cycle sounds as sample n (its noise apart)."""
        return self._cycle

    def samples(self, start: int, count: int) -> Float32:
        """(count,) float32 in [-1, 1]: samples start .. start + count of an endless recording at 16 kHz.

        A stretch must not run over the end of a cycle, where all is silent but the noise of the room.
        """
        at = start % self._cycle
        sound = self._voiced(at, count) + self._noises(at, start, count)
        return np.asarray(np.tanh(sound), np.float32)

    def _voiced(self, at: int, count: int) -> Float32:
        """The pulses that still ring in this stretch; a cycle begins and ends in silence."""
        begin, end = at / RATE_HZ, (at + count) / RATE_HZ
        first, last = np.searchsorted(self._times, (begin - PULSE_S, end))
        if first == last:
            return np.zeros(count, np.float32)
        t = (begin + np.arange(count) / RATE_HZ)[None] - self._times[first:last, None]
        ringing = (t >= 0) & (t < PULSE_S)
        t = np.where(ringing, t, 0).astype(np.float32)
        result = np.zeros(count, np.float32)
        for n in range(4):
            ring = np.exp(-np.pi * BANDWIDTHS[n] * t) * np.sin(
                2 * np.pi * self._formants[first:last, n, None] * t
            )
            result += np.einsum("pn,p->n", ring, self._gains[first:last, n])
        return result * np.float32(0.34)

    def _noises(self, at: int, start: int, count: int) -> Float32:
        """Breath, sibilants and the faint noise of a room."""
        control = np.arange(at, at + count) * (CONTROL_HZ / RATE_HZ)
        window = np.arange(int(control[0]), int(control[-1]) + 2)
        values = window % len(self._tracks.level)
        breath = np.interp(control, window, self._tracks.breath[values])
        hiss = np.interp(control, window, self._tracks.hiss[values])
        loop = (start + np.arange(count)) % NOISE_SAMPLES
        noise = (0.06 * breath + 0.0006) * self._breath[loop] + 0.10 * hiss * self._hiss[loop]
        return np.asarray(noise, np.float32)


def _noise(rng: np.random.Generator, low_hz: float, high_hz: float) -> Float32:
    """(NOISE_SAMPLES,) a loop of noise in a band, standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal(NOISE_SAMPLES))
    hz = np.fft.rfftfreq(NOISE_SAMPLES, 1 / RATE_HZ)
    spectrum *= 1 / (1 + (low_hz / np.maximum(hz, 1)) ** 4) / (1 + (hz / high_hz) ** 8)
    noise = np.fft.irfft(spectrum, NOISE_SAMPLES)
    return np.asarray(noise / noise.std(), np.float32)


NEUTRAL = Style(
    pitch_hz=135, range=0.30, drift=-0.25, level=0.55, tempo=1.0, breath=0.10, bright=1.0, jitter=0.008,
    tremor=0.0, jaw=0.75,
)  # fmt: skip
STYLES = {
    "neutral": NEUTRAL,
    "happy": replace(
        NEUTRAL, pitch_hz=215, range=0.95, drift=-0.1, level=0.75, tempo=1.15, bright=1.3, jaw=0.95
    ),
    "sad": replace(
        NEUTRAL,
        pitch_hz=122,
        range=0.18,
        drift=-0.35,
        level=0.28,
        tempo=0.72,
        breath=0.3,
        bright=0.6,
        jaw=0.55,
    ),
    "angry": replace(
        NEUTRAL, pitch_hz=200, range=0.75, drift=-0.4, level=1.0, tempo=1.15, bright=2.0, jitter=0.02, jaw=1.1
    ),
    "fearful": replace(
        NEUTRAL, pitch_hz=255, range=0.45, drift=0.1, tempo=1.3, breath=0.35, jitter=0.018, tremor=0.06
    ),
    "disgust": replace(
        NEUTRAL, pitch_hz=112, range=0.4, drift=-0.5, level=0.5, tempo=0.75, jitter=0.04, bright=1.3, jaw=0.7
    ),
    "surprised": replace(
        NEUTRAL, pitch_hz=285, range=0.8, drift=0.75, level=0.65, tempo=0.95, breath=0.2, bright=1.1, jaw=1.05
    ),
}
