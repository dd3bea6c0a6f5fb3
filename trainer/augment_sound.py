"""What live microphones do to a voice: level, room, noise, band, colour, gates, clipping, lost packets.

Two steps, because all that one person says in one session goes through one microphone: `Microphones.draw`
draws the `Conditions` of a session, `Microphones.hear` plays sound through them without changing its
length. What belongs to the speaker and not to the microphone is apart: `change_speed` (tempo, pitch and
formants, to be followed by the picture) and `shift_formants` on the log-mel. It knows nothing of labels or
files. Everything random comes from the generator passed in; arrays leave as float32.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import fft

RATE_HZ = 16_000
BANK_SAMPLES = 40 * RATE_HZ
PACKET = RATE_HZ // 50  # 20 ms, what most codecs send at once
ACTIVE_BELOW_PEAK_DB = 30.0  # a packet this far below the loudest is a pause
AGC_MOST_DB = 25.0  # a gain control does not lift silence to speech
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """One speaker before one microphone in one room.

    speed: 0.85..1.15, for `change_speed`; 1 leaves the voice as it is.
    formants: 0.88..1.14, for `shift_formants`.
    level_db: dBFS at which the speaker's usual level arrives.
    agc: 0..1, how far the microphone's gain control brings every take to that level.
    room: (R,) float32 impulse response whose first sample is the direct sound, or None.
    noise: a key of the noise bank, or None.
    snr_db: the speaker's usual level over the noise.
    floor_db: dBFS of the microphone's own white noise; None for digital silence.
    low_hz, high_hz, order: the band that passes and the steepness of its edges.
    tilt_db: per octave, around 1 kHz.
    bumps: (centre in octaves from 1 kHz, width in octaves, dB) of the microphone's resonances.
    gate_db: below the loudest packet by this much, sound is cut to nothing (noise suppression); None without.
    clip: share of the peak above which the sound is cut off, 1 for none.
    loss: share of 20 ms packets lost.
    """

    speed: float
    formants: float
    level_db: float
    agc: float
    room: Float32 | None
    noise: str | None
    snr_db: float
    floor_db: float | None
    low_hz: float
    high_hz: float
    order: int
    tilt_db: float
    bumps: tuple[tuple[float, float, float], ...]
    gate_db: float | None
    clip: float
    loss: float


class Microphones:
    """Draws conditions and applies them; holds half a minute of each kind of noise.

    voices: (N,) float32 waveforms of other people, mixed into babble; without any there is no babble.
    """

    def __init__(self, voices: Iterable[Float32] = (), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._bank = {
            "white": _coloured(rng, 0.0),
            "pink": _coloured(rng, -1.0),
            "brown": _coloured(rng, -2.0),
        }
        babble = _babble(list(voices), rng)
        if babble is not None:
            self._bank["babble"] = babble

    @property
    def noises(self) -> tuple[str, ...]:
        return (*self._bank, "hum")

    def draw(self, rng: np.random.Generator) -> Conditions:
        """The conditions of one session. One in eight is a clean recording, only level and speaker differ."""
        clean = rng.random() < 0.125
        noisy = not clean and rng.random() < 0.6
        band = (20.0, 7900.0, 2)
        if not clean and rng.random() < 0.4:
            low, high = rng.uniform(60, 250), rng.uniform(3600, 7600)
            band = (300.0, 3400.0, 6) if rng.random() < 0.3 else (low, high, int(rng.integers(2, 5)))
        bumps = (
            ()
            if clean
            else tuple(
                (rng.uniform(-3, 2.8), rng.uniform(0.2, 1.0), rng.uniform(-6, 6))
                for _ in range(rng.integers(0, 4))
            )
        )
        return Conditions(
            speed=rng.uniform(0.85, 1.15) if rng.random() < 0.7 else 1.0,
            formants=rng.uniform(0.88, 1.14) if rng.random() < 0.6 else 1.0,
            level_db=rng.uniform(-48, -14),
            agc=rng.random() if rng.random() < 0.4 else 0.0,
            room=_room(rng) if not clean and rng.random() < 0.5 else None,
            noise=str(rng.choice(self.noises)) if noisy else None,
            snr_db=rng.uniform(5, 40),
            floor_db=None if rng.random() < 0.25 else rng.uniform(-95, -62),
            low_hz=band[0],
            high_hz=band[1],
            order=band[2],
            tilt_db=0.0 if clean else float(np.clip(rng.normal(0, 1.5), -4, 4)),
            bumps=bumps,
            gate_db=rng.uniform(28, 50) if not clean and rng.random() < 0.12 else None,
            clip=rng.uniform(0.15, 0.8) if not clean and rng.random() < 0.08 else 1.0,
            loss=rng.uniform(0.005, 0.06) if not clean and rng.random() < 0.1 else 0.0,
        )

    def hear(
        self,
        samples: Float32,
        conditions: Conditions,
        rng: np.random.Generator,
        usual_db: float | None = None,
    ) -> Float32:
        """(N,) float32 in [-1, 1]: `samples` (N,) as this microphone would deliver them.

        usual_db: the speaker's usual `active_level_db`, against which this take is loud or soft; without it
        the take's own, so that all takes arrive equally loud.
        """
        if not len(samples):
            return samples.copy()
        c = conditions
        level_db = active_level_db(samples)
        usual_db = level_db if usual_db is None else usual_db
        gain = _amplitude(c.level_db - usual_db + c.agc * min(usual_db - level_db, AGC_MOST_DB))
        heard = self._filtered(samples * np.float32(gain), c, rng)
        if c.gate_db is not None:
            heard = _gated(heard, c.gate_db)
        if c.floor_db is not None:
            heard = heard + np.float32(_amplitude(c.floor_db)) * self._noise("white", len(heard), rng)
        if c.clip < 1.0:
            limit = np.float32(c.clip) * np.abs(heard).max()
            heard = np.clip(heard, -limit, limit)
        if c.loss:
            heard = _lossy(heard, c.loss, rng)
        return np.clip(heard, -1.0, 1.0).astype(np.float32, copy=False)

    def _filtered(self, samples: Float32, c: Conditions, rng: np.random.Generator) -> Float32:
        """Room on the voice, noise beside it, the microphone's response on both: one pass in frequency."""
        tail = 0 if c.room is None else len(c.room)
        size = fft.next_fast_len(len(samples) + tail + RATE_HZ // 20, real=True)
        spectrum = fft.rfft(samples, size)
        if c.room is not None:
            spectrum *= fft.rfft(c.room, size)
        if c.noise is not None:
            scale = _amplitude(c.level_db - c.snr_db)
            spectrum += np.float32(scale) * fft.rfft(self._noise(c.noise, len(samples), rng), size)
        spectrum *= _response(size, c)
        heard: Float32 = fft.irfft(spectrum, size)[: len(samples)]
        return heard

    def _noise(self, kind: str, length: int, rng: np.random.Generator) -> Float32:
        """(length,) float32 of unit power, from a random place of the bank."""
        if kind == "hum":
            return _hum(length, rng)
        bank = self._bank[kind]
        start = int(rng.integers(len(bank)))
        return np.take(bank, np.arange(start, start + length), mode="wrap")


def active_level_db(samples: Float32) -> float:
    """dBFS: mean power of the 20 ms packets that are not pauses; -120 for silence."""
    count = max(1, len(samples) // PACKET)
    padded = (
        samples[: count * PACKET] if len(samples) >= PACKET else np.pad(samples, (0, PACKET - len(samples)))
    )
    power = np.square(padded.reshape(count, PACKET)).mean(axis=1)
    active = power[power >= power.max() * 10 ** (-ACTIVE_BELOW_PEAK_DB / 10)]
    return 10 * math.log10(max(float(active.mean()), 1e-12))


def change_speed(samples: Float32, factor: float) -> Float32:
    """(about N / factor,) float32: faster and higher for a factor above 1, as a tape would."""
    if factor == 1.0:
        return samples
    return np.asarray(soxr.resample(samples, RATE_HZ * factor, RATE_HZ, quality="LQ"), np.float32)


def shift_formants(mel: Float32, factor: float, low_hz: float = 60.0, high_hz: float = 7600.0) -> Float32:
    """(T, B) float32: log-mel whose content at f moves to f * factor, edges held; time and pauses untouched.

    low_hz, high_hz: the edges of the HTK mel filters between which the B bands lie.
    """
    if factor == 1.0:
        return mel
    bands = mel.shape[1]
    low, high = _mel_of(low_hz), _mel_of(high_hz)
    step = (high - low) / (bands + 1)
    centres_hz = 700 * (np.power(10, (low + step * np.arange(1, bands + 1)) / 2595) - 1)
    places = np.clip((_mel_of(centres_hz / factor) - low) / step - 1, 0, bands - 1)
    below = np.minimum(places.astype(np.intp), bands - 2)
    share = (places - below).astype(np.float32)
    return mel[:, below] * (1 - share) + mel[:, below + 1] * share


def _amplitude(db: float) -> float:
    return float(10 ** (db / 20))


def _mel_of(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def _unit(noise: NDArray[np.floating]) -> Float32:
    return (noise / max(float(np.sqrt(np.square(noise).mean())), 1e-9)).astype(np.float32)


def _coloured(rng: np.random.Generator, slope: float) -> Float32:
    """Noise whose power falls with f ** slope above 20 Hz."""
    spectrum = fft.rfft(rng.standard_normal(BANK_SAMPLES, np.float32))
    hz = np.maximum(np.arange(len(spectrum)) * (RATE_HZ / BANK_SAMPLES), 20.0)
    return _unit(fft.irfft(spectrum * hz ** (slope / 2), BANK_SAMPLES))


def _babble(voices: list[Float32], rng: np.random.Generator) -> Float32 | None:
    """Six people at equal level, take after take, who do not listen to each other."""
    if not voices:
        return None
    mix = np.zeros(BANK_SAMPLES, np.float32)
    for _ in range(6):
        at = 0
        while at < BANK_SAMPLES:
            voice = voices[int(rng.integers(len(voices)))]
            part = voice[: BANK_SAMPLES - at] * np.float32(_amplitude(-active_level_db(voice)))
            mix[at : at + len(part)] += part
            at += max(len(voice), PACKET)
    return _unit(mix)


def _hum(length: int, rng: np.random.Generator) -> Float32:
    """Mains hum: 50 or 60 Hz and some harmonics."""
    base = 2 * math.pi * (50.0 if rng.random() < 0.6 else 60.0) / RATE_HZ
    time = np.arange(length, dtype=np.float32)
    hum = np.zeros(length, np.float32)
    for harmonic in (1, 2, 3, 4, 6):
        strength, phase = rng.random() / harmonic, rng.uniform(0, 2 * math.pi)
        hum += np.float32(strength) * np.sin(np.float32(base * harmonic) * time + np.float32(phase))
    return _unit(hum)


def _room(rng: np.random.Generator) -> Float32:
    """Direct sound, a short silence, then noise that decays by 60 dB in 0.1 to 0.8 s."""
    decay_s = rng.uniform(0.1, 0.8)
    length = int(min(decay_s, 0.5) * RATE_HZ)
    time = np.arange(length, dtype=np.float32) / RATE_HZ
    tail = rng.standard_normal(length, np.float32) * np.exp(np.float32(-6.9 / decay_s) * time)
    tail[: int(rng.uniform(0.002, 0.012) * RATE_HZ)] = 0
    # Walls swallow the highs: a light low-pass over the tail.
    tail = 0.6 * tail + 0.4 * np.roll(tail, 1)
    direct_db = rng.uniform(-3, 15)
    tail *= np.float32(_amplitude(-direct_db) / math.sqrt(float(np.square(tail).sum()) + 1e-12))
    tail[0] = 1.0
    return tail


def _response(size: int, c: Conditions) -> Float32:
    """(size // 2 + 1,) float32: gain at each frequency; interpolated from a coarse grid, as it is smooth."""
    hz = np.geomspace(15.0, RATE_HZ / 2, 160)
    octaves = np.log2(hz / 1000)
    gain_db = c.tilt_db * octaves
    for centre, width, height_db in c.bumps:
        gain_db = gain_db + height_db * np.exp(-0.5 * np.square((octaves - centre) / width))
    gain = np.power(10, gain_db / 20)
    gain /= np.sqrt(1 + (c.low_hz / hz) ** (2 * c.order)) * np.sqrt(1 + (hz / c.high_hz) ** (2 * c.order))
    return np.interp(np.arange(size // 2 + 1) * (RATE_HZ / size), hz, gain).astype(np.float32)


def _packets(samples: Float32) -> int:
    return -(-len(samples) // PACKET)


def _gated(samples: Float32, below_peak_db: float) -> Float32:
    """Packets far below the loudest become silence; one packet before and three after speech stay."""
    count = _packets(samples)
    padded = np.pad(samples, (0, count * PACKET - len(samples))).reshape(count, PACKET)
    power = np.square(padded).mean(axis=1)
    speech = power >= power.max(initial=0.0) * 10 ** (-below_peak_db / 10)
    kept = np.convolve(speech, np.ones(5))[1 : count + 1] > 0
    return (padded * kept[:, None]).reshape(-1)[: len(samples)].astype(np.float32, copy=False)


def _lossy(samples: Float32, share: float, rng: np.random.Generator) -> Float32:
    """Bursts of one to four lost packets, `share` of all on average, heard as silence."""
    starts = np.flatnonzero(rng.random(_packets(samples)) < share / 2.5)
    lossy = samples.copy()
    for start, length in zip(starts, rng.integers(1, 5, len(starts)), strict=True):
        lossy[start * PACKET : (start + length) * PACKET] = 0
    return lossy
