"""Another throat, tempo, microphone, room and sentence for every window, on the log-mel.

There are few speakers to learn from. What `trainer.augment_sound` does to sound once for every session, this
does to its log-mel each time that a window is drawn, so that no two windows of a take are alike. It knows
nothing of labels, windows or files; data leaves it as log-mel in natural logarithm of power.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.augment_sound import shift_formants
from trainer.other_words import reordered, revowelled, swayed

Float32 = NDArray[np.float32]
COLOUR_POINTS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variety:
    """How one window's voice differs from the take.

    tempo: faster above 1, pitch untouched; the picture must follow. formants: see `shift_formants`.
    colour: (F,) float32, natural log of power added to every band. noise: (F,) float32, log of power of a
    steady noise relative to the loudest bin's mean over bands, or None. reordered, revowelled, swayed:
    whether the words are others, see `trainer.other_words`.
    """

    tempo: float
    formants: float
    colour: Float32
    noise: Float32 | None
    reordered: bool = False
    revowelled: bool = False
    swayed: bool = False

    def heard(self, mel: Float32, rng: np.random.Generator) -> Float32:
        """(T, F) to (about T / tempo, F) float32."""
        at = np.minimum(np.arange(int(len(mel) / self.tempo)) * self.tempo, max(len(mel) - 1, 0))
        below = at.astype(np.int64)
        share = (at - below).astype(np.float32)[:, None]
        above = np.minimum(below + 1, len(mel) - 1)
        changed = shift_formants(mel[below] * (1 - share) + mel[above] * share, self.formants) + self.colour
        if not len(changed):
            return changed
        if self.noise is not None:
            floor = self.noise + changed.mean(1).max()
            grain = rng.normal(0, 0.35, changed.shape).astype(np.float32)
            changed = np.asarray(np.logaddexp(changed, floor + grain), np.float32)
        others = (self.reordered, reordered), (self.revowelled, revowelled), (self.swayed, swayed)
        for asked, change in others:
            changed = change(changed, rng) if asked else changed
        return changed

    def mean(self, means: Float32) -> Float32:
        """(N, F): mean log-mel of other takes of the same voice, heard through the same microphone."""
        changed = shift_formants(means, self.formants) + self.colour
        if self.noise is None or not len(changed):
            return changed
        return np.asarray(np.logaddexp(changed, self.noise + changed.mean(1).max()), np.float32)


def plain(bands: int) -> Variety:
    """The take as it is."""
    return Variety(tempo=1.0, formants=1.0, colour=np.zeros(bands, np.float32), noise=None)


def draw(rng: np.random.Generator, bands: int, *, seen: bool) -> Variety:
    """A variety at random: tempo within a fifth, formants within a seventh, colour mostly, noise and other
    words often. seen: a mouth speaks these words, so their order stays.
    """
    colour, noise = np.zeros(bands, np.float32), None
    slope = np.linspace(-1, 1, bands)
    if rng.random() < 0.7:
        points = rng.normal(0, 0.45, COLOUR_POINTS)
        bumps = np.interp(np.linspace(0, COLOUR_POINTS - 1, bands), np.arange(COLOUR_POINTS), points)
        colour = (bumps + slope * rng.normal(0, 0.5)).astype(np.float32)
    if rng.random() < 0.4:
        noise = (-rng.uniform(1.5, 8) - slope * rng.uniform(-1, 2.5)).astype(np.float32)
    return Variety(
        tempo=float(np.exp(rng.uniform(-0.2, 0.2))),
        formants=float(np.exp(rng.uniform(-0.14, 0.14))),
        colour=colour,
        noise=noise,
        reordered=not seen and rng.random() < 0.5,
        revowelled=rng.random() < 0.6,
        swayed=rng.random() < 0.6,
    )
