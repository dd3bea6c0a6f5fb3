"""How speaking faces move: tracks of 68 points, borrowed from measured takes, for any voice and label.

A `MotionLibrary` reads the RAVDESS landmark and action-unit tracks and answers one question: how do the 68
points of a face move, in eye distances from a neutral rest, while this voice is heard with this label? The
mouth follows a measured take of the same sentence, aligned in time by its sound, or else a linear map from
sound to mouth; the expression comes from measured action units and from patterns (`trainer/expressions.py`).
It knows nothing of pictures. Motion leaves it as `Motion`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import savgol_filter

from trainer.data.ravdess import CORPUS as RAVDESS
from trainer.data.ravdess import SPEECH, Code, list_takes, parse_name
from trainer.data.sound import RATE_HZ, decode
from trainer.data.takes import Take
from trainer.expressions import JAW, MIRROR, MOUTH, blinks, offsets_of, pattern

Float32 = NDArray[np.float32]

TRACK_HZ = 29.97
RIGID = np.array((0, 16, 27, 28, 29, 30, 36, 39, 42, 45))
SMILE = 8  # the lip corner puller
SILENT_UNITS = (14, 15, 16)  # lips part, jaw drop, blink: speech and lids have their own sources
TRAIN_ACTORS = (2, 3, 4, 6, 7, 8, 9, 10)
HELD_ACTORS = (5, 11, 12)
"""Whose motion trains and whose moves the dev and test clips: a motion that was learned proves nothing."""

BANDS = 24
CONTEXT = 3
CALM = 2  # counts as neutral by its sound; its face often smiles
MAP_GAIN = 1.1
LOUD_JAW = 0.5  # a least-squares map moves less than a mouth does; the rest is jaw, by loudness
MOST_POSE = 0.3
MOST_EXPRESSION = 0.3  # eye distances; faces go no further however units and patterns add up


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Motion:
    """How a face moves through one voice.

    offsets: (F, 68, 2) float32, eye distances from a neutral rest, x to the right, y down, head held still.
    pose: (F, 3) float32, radians: pitch, yaw, roll.
    rate_hz: frames a second; frame 0 is at the voice's first sample.
    """

    offsets: Float32
    pose: Float32
    rate_hz: float

    def at(self, times_s: NDArray[np.float64]) -> tuple[Float32, Float32]:
        """(N, 68, 2) offsets and (N, 3) pose at any times, linear between frames, held at the ends."""
        place = np.clip(times_s * self.rate_hz, 0, len(self.pose) - 1)
        low = np.minimum(place.astype(np.int64), len(self.pose) - 2)
        share = (place - low).astype(np.float32)
        offsets = self.offsets[low] + (self.offsets[low + 1] - self.offsets[low]) * share[:, None, None]
        return offsets, self.pose[low] + (self.pose[low + 1] - self.pose[low]) * share[:, None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """A measured take: code, stabilised shape (F, 68, 2) in eye distances, (F, 17) units, (F, 3) pose."""

    code: Code
    shape: Float32
    units: Float32
    pose: Float32


@lru_cache(maxsize=2)
def _mel_matrix(size: int) -> Float32:
    edges_mel = np.linspace(2595 * np.log10(1 + 80 / 700), 2595 * np.log10(1 + 7000 / 700), BANDS + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    hz = np.fft.rfftfreq(size, 1 / RATE_HZ)[:, None]
    rise = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def bands_at(samples: Float32, times_s: NDArray[np.float64]) -> Float32:
    """(N, 24) float32: log band energies round each time, standardised over the whole voice."""
    size = 512
    padded = np.pad(samples, (size // 2, size))
    starts = np.clip((times_s * RATE_HZ).astype(np.int64), 0, max(len(samples), 1))
    pieces = padded[starts[:, None] + np.arange(size)] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2
    log = np.log(power.astype(np.float32) @ _mel_matrix(size) + 1e-4)
    return (log - log.mean(0)) / (log.std() + 1e-3)


def loudness(samples: Float32, times_s: NDArray[np.float64]) -> Float32:
    """(N,) float32 in [0, 1]: how loud the voice is, on its own scale from silence to its loudest."""
    size = int(0.04 * RATE_HZ)
    padded = np.pad(samples, (size // 2, size))
    starts = np.clip((times_s * RATE_HZ).astype(np.int64), 0, max(len(samples), 1))
    level = np.log(np.sqrt((padded[starts[:, None] + np.arange(size)] ** 2).mean(1)) + 1e-4)
    low, high = np.quantile(level, (0.05, 0.97))
    return np.clip((level - low) / max(high - low, 1.0), 0, 1).astype(np.float32)


def time_warp(source: Float32, target: Float32) -> NDArray[np.float64]:
    """(M,) float64: for each frame of `target` the matching frame of `source` (dynamic time warping).

    source, target: (N, B) and (M, B) features at one rate. The answer never falls.
    """
    cost = ((source**2).sum(1)[:, None] + (target**2).sum(1)[None] - 2 * source @ target.T).astype(np.float64)
    cost = np.sqrt(np.maximum(cost, 0)) + 0.05
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        best = np.minimum(total[i, j] - 0.02, np.minimum(total[i, j + 1], total[i + 1, j]))
        total[i + 1, j + 1] = best + cost[i, j]
    matched: list[list[int]] = [[] for _ in range(columns)]
    i, j = rows - 1, columns - 1
    while i >= 0 and j >= 0:
        matched[j].append(i)
        step = int(np.argmin((total[i, j] - 0.02, total[i, j + 1], total[i + 1, j])))
        i, j = i - (step != 2), j - (step != 1)
    means = np.array([np.mean(found) if found else 0.0 for found in matched])
    return np.maximum.accumulate(gaussian_filter1d(means, 1.0, mode="nearest"))


def stabilised(points: Float32) -> Float32:
    """(F, 68, 2) float32: head motion removed, middle of the eyes at the origin, eyes one unit apart, level.

    points: (F, 68, 2) float32, pixels. Each frame is laid on the take's mean by a similarity of rigid points.
    """
    z = points[..., 0] + 1j * points[..., 1]
    mean = z.mean(0)
    for _ in range(2):
        centre, target = z[:, RIGID].mean(1, keepdims=True), mean[RIGID].mean()
        a = ((z[:, RIGID] - centre).conj() * (mean[RIGID] - target)).sum(1, keepdims=True)
        a = a / (np.abs(z[:, RIGID] - centre) ** 2).sum(1, keepdims=True)
        z = (z - centre) * a + target
        mean = z.mean(0)
    left, right = mean[36:42].mean(), mean[42:48].mean()
    z = (z - (left + right) / 2) / (right - left)
    return np.stack((z.real, z.imag), -1).astype(np.float32)


def _resampled(values: Float32, places: NDArray[np.float64]) -> Float32:
    low = np.clip(places.astype(np.int64), 0, len(values) - 2)
    share = np.clip(places - low, 0, 1).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] + (values[low + 1] - values[low]) * share


def _ridge(x: Float32, y: Float32, strength: float) -> Float32:
    gram = x.T @ x + strength * len(x) * np.eye(x.shape[1], dtype=np.float32)
    return np.linalg.solve(gram, x.T @ y).astype(np.float32)


def _context(bands: Float32) -> Float32:
    padded = np.pad(bands, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    parts = [padded[k : k + len(bands)] for k in range(2 * CONTEXT + 1)]
    return np.concatenate([*parts, np.ones((len(bands), 1), np.float32)], axis=1)


def _without_smile(offsets: Float32) -> Float32:
    """The same motion without the slow part of its lip corners' pull: that is a label's, not speech's."""
    basis = np.stack([offsets_of(name)[MOUTH].ravel() for name in ("corner_up", "jaw_drop")], axis=1)
    pull = offsets[:, MOUTH].reshape(len(offsets), -1) @ np.linalg.pinv(basis)[0]
    return offsets - gaussian_filter1d(pull, 10.0, mode="nearest")[:, None, None] * offsets_of("corner_up")


def _closed_rest(shape: Float32) -> Float32:
    """(68, 2): the take's mean shape while its lips are nearly closed."""
    opening = np.linalg.norm(shape[:, 61:64].mean(1) - shape[:, 65:68].mean(1), axis=-1)
    return np.asarray(shape[opening <= np.quantile(opening, 0.2)].mean(0), np.float32)


class MotionLibrary:
    """Measured motion of one group of actors, and the maps learned from it.

    sounds: the file of a take's sound by the name of its picture.
    shape: (68, 2) float32, the mean face at rest in eye distances, symmetric, origin between the eyes.
    """

    def __init__(self, tracks: list[Track], units: dict[str, Float32], sounds: Mapping[str, Path]) -> None:
        self._sounds = sounds
        self._tracks = [t for t in tracks if t.code.channel == SPEECH]
        self._by_name = {_name(t.code): t for t in self._tracks}
        self._units = units
        mean = np.mean([_closed_rest(t.shape) for t in tracks], axis=0)
        self.shape: Float32 = ((mean + mean[MIRROR] * (-1, 1)) / 2).astype(np.float32)
        self._rest_units = self._neutral_units()
        x = np.concatenate([t.units - np.median(t.units, axis=0) for t in tracks])
        y = np.concatenate([(t.shape - np.median(t.shape, axis=0)).reshape(-1, 136) for t in tracks])
        self._units_to_points = _ridge(x, y, 0.01)
        self._units_to_points[list(SILENT_UNITS)] = 0
        self._sound_to_mouth = self._fit_mouth()

    @classmethod
    def load(cls, root: Path, actors: tuple[int, ...] = TRAIN_ACTORS) -> "MotionLibrary":
        """Reads `ravdess_landmarks`, `ravdess_action_units` and `ravdess` under `root`.

        Raises FileNotFoundError where one is missing, ValueError where no take of these actors is there.
        """
        tracks = []
        with np.load(root / "ravdess_landmarks" / "landmarks.npz") as table:
            for key in table.files:
                name, _, field = key.partition("/")
                if field != "points" or parse_name(name).actor not in actors:
                    continue
                points = table[key].astype(np.float32) / 10
                points = savgol_filter(points, 5, 2, axis=0).astype(np.float32)
                pose = savgol_filter(table[f"{name}/pose"].astype(np.float32), 9, 2, axis=0)
                pose = np.clip(pose - np.median(pose, axis=0), -MOST_POSE, MOST_POSE)
                tracks.append(
                    Track(
                        code=parse_name(name),
                        shape=stabilised(points),
                        units=table[f"{name}/au"].astype(np.float32) / 50,
                        pose=pose.astype(np.float32),
                    )
                )
        with np.load(root / "ravdess_action_units" / "action_units.npz") as table:
            names = [name for name in table.files if parse_name(name).actor in actors]
            units = {name: table[name].astype(np.float32) / 50 for name in names}
        if not tracks or not units:
            raise ValueError(f"{root} holds no landmark or action-unit tracks of the actors {actors}.")
        sounds = {_visual_name(take): take.file for take in list_takes(root / "ravdess", actors)}
        silent = sorted(
            {*(_name(t.code) for t in tracks if t.code.channel == SPEECH), *units} - sounds.keys()
        )
        if silent:
            raise FileNotFoundError(
                f"{root / 'ravdess'} lacks the sound of {silent[0]}, whose motion is measured."
            )
        return cls(tracks, units, sounds)

    def motion(
        self, rng: np.random.Generator, voice: Take, samples: Float32, label: str, expression: float
    ) -> Motion:
        """How a face with this label moves while `samples` (the sound of `voice`) is heard.

        expression: scales what the label adds to a neutral speaking face; 0 moves mouth, lids and head only.
        """
        times_s = np.arange(max(2, int(len(samples) / RATE_HZ * TRACK_HZ))) / TRACK_HZ
        loud = loudness(samples, times_s)
        mouth, pose = self._mouth(rng, voice, samples, times_s, loud)
        offsets = mouth * np.float32(rng.uniform(0.7, 1.3))
        if expression > 0:
            offsets = offsets + expression * self._expression(rng, voice, samples, label, times_s, loud)
        offsets = offsets + blinks(rng, self.shape, times_s)
        if rng.random() < 0.5:
            offsets, pose = offsets[:, MIRROR] * np.float32((-1, 1)), pose * np.float32((1, -1, -1))
        return Motion(offsets=offsets.astype(np.float32), pose=pose.astype(np.float32), rate_hz=TRACK_HZ)

    def _expression(
        self,
        rng: np.random.Generator,
        voice: Take,
        samples: Float32,
        label: str,
        times_s: NDArray[np.float64],
        loud: Float32,
    ) -> Float32:
        """(F, 68, 2): measured units of a take with this label, patterns, or both."""
        weak = label in ("fearful", "surprised", "disgust")  # nearly flat in the table of units
        source = rng.choice(("units", "pattern", "both"), p=(0.0, 0.4, 0.6) if weak else (0.3, 0.2, 0.5))
        result = np.zeros((len(times_s), 68, 2), np.float32)
        if source != "pattern":
            result += np.float32(rng.uniform(0.7, 1.5)) * self._measured(rng, voice, samples, label, times_s)
        if source != "units":
            result += pattern(rng, label, loud)
        size = np.linalg.norm(result, axis=-1, keepdims=True)
        return (result / np.sqrt(1 + (size / MOST_EXPRESSION) ** 2)).astype(np.float32)

    def _measured(
        self,
        rng: np.random.Generator,
        voice: Take,
        samples: Float32,
        label: str,
        times_s: NDArray[np.float64],
    ) -> Float32:
        name = _visual_name(voice)
        if name not in self._units or voice.label != label or parse_name(name).emotion == CALM:
            code = parse_name(name) if name else None
            found = [n for n in self._units if parse_name(n).label == label and parse_name(n).emotion != CALM]
            same = [n for n in found if code and parse_name(n).statement == code.statement]
            name = str(rng.choice(same or found))
        units = self._units[name] - self._rest_units[parse_name(name).actor]
        if label != "happy":
            units[:, SMILE] *= 0.4  # the table finds smiles in tears and shouts
        moved = (units @ self._units_to_points).reshape(-1, 68, 2)
        slow = gaussian_filter1d(moved, 4.0, axis=0, mode="nearest")
        moved[:, MOUTH] = slow[:, MOUTH]
        moved[:, JAW] = slow[:, JAW]
        return _resampled(moved, self._places(name, len(moved), voice, samples, times_s))

    def _mouth(
        self,
        rng: np.random.Generator,
        voice: Take,
        samples: Float32,
        times_s: NDArray[np.float64],
        loud: Float32,
    ) -> tuple[Float32, Float32]:
        """(F, 68, 2) offsets of mouth and jaw in speech, and (F, 3) head pose of the take they came from."""
        name = _visual_name(voice)
        track = self._by_name.get(name)
        if track is None:
            code = parse_name(name) if name else None
            same = [t for t in self._tracks if code and t.code.statement == code.statement]
            track = (same or self._tracks)[int(rng.integers(len(same or self._tracks)))]
        places = self._places(_name(track.code), len(track.shape), voice, samples, times_s)
        pose = gaussian_filter1d(_resampled(track.pose, places), 2.0, axis=0, mode="nearest")
        offsets = np.zeros((len(times_s), 68, 2), np.float32)
        if voice.corpus == RAVDESS:
            moved = _resampled(track.shape - _closed_rest(track.shape), places)
            if track.code.label != voice.label:
                moved = _without_smile(moved)
        else:
            features = _context(bands_at(samples, times_s))
            moved = (features @ self._sound_to_mouth).reshape(-1, 68, 2) * MAP_GAIN
            moved = gaussian_filter1d(moved, 0.6, axis=0, mode="nearest")
            moved = moved + (LOUD_JAW * loud**2)[:, None, None] * offsets_of("jaw_drop")
        offsets[:, MOUTH] = moved[:, MOUTH]
        offsets[:, JAW] = moved[:, JAW]
        gate = gaussian_filter1d(np.clip(loud * 4, 0, 1), 2.0, mode="nearest")
        return offsets * gate[:, None, None].astype(np.float32), pose

    def _places(
        self, name: str, frames: int, voice: Take, samples: Float32, times_s: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(F,): for each time of the voice the frame of take `name`, by sound if both say one sentence."""
        own = _visual_name(voice)
        if own == name:
            return np.minimum(times_s * TRACK_HZ, frames - 1)
        if not own or parse_name(own).statement != parse_name(name).statement:
            return np.linspace(0, frames - 1, len(times_s))
        source = bands_at(self._sound(name), np.arange(frames) / TRACK_HZ)
        return np.minimum(time_warp(source, bands_at(samples, times_s)), frames - 1)

    def _sound(self, name: str) -> Float32:
        return _decoded(self._sounds[name])

    def _neutral_units(self) -> dict[int, Float32]:
        rest = {}
        for actor in {parse_name(name).actor for name in self._units}:
            codes = {name: parse_name(name) for name in self._units}
            own = [self._units[n] for n, code in codes.items() if (code.actor, code.emotion) == (actor, 1)]
            rest[actor] = np.median(np.concatenate(own), axis=0).astype(np.float32)
        return rest

    def _fit_mouth(self) -> Float32:
        x, y = [], []
        for track in self._tracks:
            times_s = np.arange(len(track.shape)) / TRACK_HZ
            x.append(_context(bands_at(self._sound(_name(track.code)), times_s)))
            y.append((track.shape - _closed_rest(track.shape)).reshape(-1, 136))
        return _ridge(np.concatenate(x), np.concatenate(y), 0.05)


@lru_cache(maxsize=512)
def _decoded(file: Path) -> Float32:
    return decode(file)


def _name(code: Code) -> str:
    numbers = (1, code.channel, code.emotion, code.intensity, code.statement, code.repetition, code.actor)
    return "-".join(f"{n:02d}" for n in numbers)


def _visual_name(voice: Take) -> str:
    """The name of the take's picture in the tables of tracks; empty for other sets."""
    return f"01{voice.name[2:]}" if voice.corpus == RAVDESS else ""
