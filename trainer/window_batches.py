"""Windows for training: four seconds that end anywhere in a clip, with baselines as live use has them.

A moving face and its voice, a voice alone, or a face alone; what came before the clip is masked, and
parts are lost as cameras and microphones lose them. Knows nothing of networks. Batches leave as
`WindowBatch`, arrays with the names of the graph's inputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.signals.sound import MelParams
from engine.signals.voice import LOG_MEL, STEP
from trainer import voice_variety
from trainer.attribute_scale import rated
from trainer.clip_tokens import Clips
from trainer.data.sound import Voices
from trainer.data.takes import NO_LABEL, NO_TAKE
from trainer.labels import LABELS
from trainer.lost_parts import cover, kept
from trainer.prepare_voices import Mels, voiced
from trainer.set_union import SetFolders, tokens_of, union
from trainer.voice_tokens import VoiceTokens
from trainer.voice_variety import Variety

TICK_HZ, TICKS, MEL_HZ, BINS, HOP = 15, 60, 100, 400, 160
PRIOR_S, TAU_S = 2.0, 60.0
SHORTEST_S = 0.3
EARLY_SHARE = 0.2  # windows that may end before anybody spoke: of them the model must not be sure
REFRESH_TICKS = 10  # ticks a clip from which its mean motion token is renewed every epoch
Rng = np.random.Generator
Shares = tuple[float, float, float]
"""Of the kinds of windows: face and voice, voice alone, face alone."""
Place = tuple[int, int | None, int | None]
"""A window's label, clip and take; either of the two may be none."""
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowBatch:
    """Inputs of the window model, but `flow` (of the seen ticks, in order) in place of `o`.

    sound: voice tokens (B, S, K), log-mel (B, M, F), or the waveform (B, 160 M).
    labels: -1 where not known. attributes: (B, A), those that the source was asked for, NaN where not known.
    """

    v: Float32
    flow: Float32
    video_mask: NDArray[np.bool_]
    face_baseline_v: Float32
    face_baseline_o: Float32
    face_weight: Float32
    sound: Float32
    audio_mask: NDArray[np.bool_]
    voice_baseline: Float32
    voice_weight: Float32
    labels: NDArray[np.int64]
    attributes: Float32

    def part(self, rows: slice) -> "WindowBatch":
        """Some of its windows, one after another."""
        ends = np.append(0, self.video_mask.sum(1).cumsum())
        kept = {name: getattr(self, name)[rows] for name in self.__slots__ if name != "flow"}
        return WindowBatch(flow=self.flow[ends[rows.start] : ends[rows.stop]], **kept)


class WindowSource:
    """Draws windows of one split. Owns the mean motion token of every clip, renewed by the stage.

    sets: where the voices and faces are; of several, each gives as many moving faces of a label.
    speakers: whom voices and moving faces are of, among those of the splits; without it all. A moving face is
        of the speaker whose voice it has.
    varied: every window's voice is another, as `trainer.voice_variety` draws it.
    clean: share of windows in the recording's own microphone and room, beside a fair share of all others.
    sound: what of it windows hold, one of `engine.bundle.SOUNDS`.
    as_live: without what only makes learning harder (stripes of SpecAugment, the face of somebody else).

    Raises ValueError where variety is asked for of anything but the log-mel, on which it is drawn.
    """

    def __init__(
        self,
        *,
        sets: Sequence[SetFolders],
        splits: tuple[str, ...],
        shares: Shares,
        speakers: Sequence[str] | None = None,
        attributes: Sequence[str] = (),
        ranges: Mapping[str, tuple[float, float]] | None = None,
        varied: bool = False,
        clean: float = 0.0,
        sound: str = "mel",
        as_live: bool = False,
    ) -> None:
        if varied and sound != "mel":
            raise ValueError(f"voice_variety changes the log-mel: leave it out where windows take {sound}.")
        self.varied, self.clean, self.sound, self.as_live = varied, clean, sound, as_live
        self.voices: Voices
        self.mels: Mels
        self.clips: Clips
        self.voices, self.mels, self.clips = union(sets, sound == "waveform")
        self.shares = shares
        self.clip_v = self.clips.mean_v()
        self.clip_o: Float32 = np.zeros((len(self.clips.labels), 0), np.float32)
        chosen, own = np.isin(self.voices.splits, splits), np.ones(len(self.clips.labels), bool)
        if speakers is not None:
            theirs = np.isin(self.voices.speakers, speakers)
            chosen, own = chosen & theirs, self.clips.voices != NO_TAKE
            own[own] = theirs[self.clips.voices[own]]
        self.takes = [np.flatnonzero(chosen & (self.voices.labels == i)) for i in range(len(LABELS))]
        self.of_label = [np.flatnonzero(own & (self.clips.labels == i)) for i in range(len(LABELS))]
        self.attributes, self.clip_attributes = rated(self.voices, self.clips, attributes, ranges or {})
        known = ~np.isnan(self.attributes).all(1)
        self.unlabelled = np.flatnonzero(chosen & (self.voices.labels == NO_LABEL) & known)
        self.unlabelled_clips = np.flatnonzero(own & (self.clips.labels == NO_LABEL) & (len(attributes) > 0))
        faces = any(map(len, (*self.of_label, self.unlabelled_clips)))
        self.there = np.array((faces, any(map(len, (*self.takes, self.unlabelled))), faces))
        self.members = {
            int(g): np.flatnonzero(self.clips.groups == g) for g in np.unique(self.clips.groups) if g >= 0
        }
        self.same_speaker = {
            s: np.flatnonzero(self.voices.speakers == s) for s in np.unique(self.voices.speakers)
        }
        self.onsets = [self._onset_s(take) for take in range(len(self.voices))]
        self.face_mean = np.zeros(0, np.float32)
        self.tokens: VoiceTokens | None = tokens_of(sets) if sound == "voice_tokens" else None
        said = self.tokens or self.mels
        weights = said.seconds[:, chosen]
        self.heard = bool(weights.any())
        self.voice_mean: Float32 = (
            (said.means[:, chosen] * weights[..., None]).sum((0, 1)) / max(weights.sum(), 1e-6)
        ).astype(np.float32)

    @torch.inference_mode()
    def renew_motion_means(self, encoder: nn.Module, seed: int) -> None:
        """Mean motion token of every clip, from some of its ticks, with the encoder as it is now."""
        if not len(self.clips.labels):
            return
        training = [part for part in encoder.modules() if part.training]
        encoder.eval()
        device = next(encoder.parameters()).device
        rng = np.random.default_rng(seed)
        means = []
        for start, ticks in zip(self.clips.starts, self.clips.ticks, strict=True):
            seen = start + np.flatnonzero(self.clips.seen[start : start + ticks])
            rows = np.sort(rng.choice(seen, min(REFRESH_TICKS, len(seen)), replace=False))
            flow = torch.from_numpy(self.clips.flow[rows].astype(np.float32)).to(device)
            means.append(encoder(flow).mean(0).cpu().numpy() if len(rows) else np.zeros(0, np.float32))
        width = max(len(mean) for mean in means)
        self.clip_o = np.stack([mean if len(mean) else np.zeros(width, np.float32) for mean in means])
        for part in training:
            part.training = True

    def described(self) -> str:
        """What there is to draw from, a set at a time, and what of the voices is left out by its split."""
        voices = self.voices
        used = np.zeros(len(voices), bool)
        used[np.concatenate([*self.takes, self.unlabelled])] = True
        lines = []
        for corpus in np.unique(voices.corpora):
            own = voices.corpora == corpus
            speakers = len(np.unique(voices.speakers[own & used]))
            left = f", {(own & ~used).sum()} left out" if (own & ~used).any() else ""
            lines.append(f"{corpus}: {(own & used).sum()} voices of {speakers} speakers{left}")
        if faces := sum(map(len, (*self.of_label, self.unlabelled_clips))):
            lines.append(f"{faces} moving faces")
        return "\n".join(lines)

    def clip_mean(self) -> Float32:
        """(V + O,) float32: mean over clips of their mean tokens, from which a new track starts."""
        return np.concatenate((self.clip_v.mean(0), self.clip_o.mean(0)))

    def batches(self, rng: Rng, size: int, steps: int) -> Iterator[WindowBatch]:
        """Batches in which labels are level and kinds come in the source's shares, as far as they are there.

        Raises ValueError where none is.
        """
        if not self.has(self.shares):
            raise ValueError("There is no labelled voice or face in the splits that were named.")
        shares = np.where(self.there, self.shares, 0)
        for _ in range(steps):
            kinds = rng.choice(3, size, p=self.shares if self.there.all() else shares / shares.sum())
            yield self.collate([self.draw(rng, int(kind), self._label(rng, int(kind))) for kind in kinds])

    def calm_batches(self, rng: Rng, windows: Sequence[Place], size: int) -> Iterator[WindowBatch]:
        """Whole clips and takes in a clean session, nothing lost, in their order."""
        for first in range(0, len(windows), size):
            yield self.collate(
                [
                    self.window(rng, label=label, clip=clip, take=take, calm=True)
                    for label, clip, take in windows[first : first + size]
                ]
            )

    def has(self, shares: Shares) -> bool:
        """Whether there are windows of any of the kinds that have a share."""
        return bool((self.there & (np.array(shares) > 0)).any())

    def draw(self, rng: Rng, kind: int, label: int) -> dict[str, NDArray]:
        """One window: kind 0 is both senses, 1 the voice alone, 2 the face alone."""
        if kind == 1:
            return self.window(rng, label=label, clip=None, take=self._take(rng, label))
        clips = self.unlabelled_clips if label == NO_LABEL else self.of_label[label]
        if self.clips.sets is not None:  # a small set counts as much as a large one
            own = self.clips.sets[clips]
            clips = clips[own == rng.choice(np.unique(own))]
        clip = int(rng.choice(clips))
        return self.window(
            rng, label=label, clip=clip, take=int(self.clips.voices[clip]) if kind == 0 else None
        )

    def _label(self, rng: Rng, kind: int) -> int:
        """One of the labels that this kind of window has here: few sets have all seven, some have none."""
        there = [i for i, some in enumerate(self.takes if kind == 1 else self.of_label) if len(some)]
        if len(self.unlabelled if kind == 1 else self.unlabelled_clips):
            there.append(NO_LABEL)
        return there[int(rng.integers(len(there)))]

    def _onset_s(self, take: int) -> float:
        """When somebody begins to speak in a take; a window that ends before tells nothing of its label."""
        return float(np.argmax(voiced(self.mels.take(0, take)))) / MEL_HZ

    def _take(self, rng: Rng, label: int) -> int:
        """A take of the label, corpora and speakers level."""
        takes = self.unlabelled if label == NO_LABEL else self.takes[label]
        corpus = rng.choice(np.unique(self.voices.corpora[takes]))
        takes = takes[self.voices.corpora[takes] == corpus]
        speaker = rng.choice(np.unique(self.voices.speakers[takes]))
        return int(rng.choice(takes[self.voices.speakers[takes] == speaker]))

    def window(
        self, rng: Rng, *, label: int, clip: int | None, take: int | None, calm: bool = False
    ) -> dict[str, NDArray]:
        """One window of a clip and a take. calm: the whole clip in a clean session, nothing lost.

        A take of -1 is none: the clip has no sound.
        """
        take = None if take == NO_TAKE else take
        variety = voice_variety.plain(len(self.voice_mean))
        if self.varied and not calm:
            variety = voice_variety.draw(rng, len(self.voice_mean), seen=clip is not None)
        plain = calm or (self.clean > 0 and rng.random() < self.clean)
        session = 0 if plain else int(rng.integers(len(self.mels.starts)))
        speed = variety.tempo * (float(self.mels.speeds[session, take]) if take is not None else 1.0)
        length_s = self.clips.ticks[clip] / TICK_HZ / speed
        if take is not None:
            length_s = self.mels.bins[session, take] / MEL_HZ / variety.tempo
        early = rng.random() < EARLY_SHARE
        begin_s = 0.0 if early or take is None else self.onsets[take] / speed
        # The larger of two draws: a live window mostly is a full one.
        end_s = float(length_s if calm else rng.uniform(begin_s + SHORTEST_S, length_s + 0.3, 2).max())
        known = take if take is not None else int(self.clips.voices[clip])
        ratings = self.attributes[known] if known != NO_TAKE else self.clip_attributes[clip]
        row = {"labels": np.int64(label), "attributes": ratings}
        row |= self._picture(rng, clip, end_s, speed, calm)
        if self.tokens is None:
            return row | self._sound(rng, take, session, variety, end_s, calm)
        return row | self._voice_tokens(rng, self.tokens, take, session, end_s, calm)

    def _picture(
        self, rng: Rng, clip: int | None, end_s: float, speed: float, calm: bool
    ) -> dict[str, NDArray]:
        width = self.clips.v.shape[1]
        v, mask = np.zeros((TICKS, width), np.float32), np.zeros(TICKS, bool)
        rows = np.zeros(0, np.int64)
        baseline = (self.face_mean[:width], self.face_mean[width:], 0.0)
        if clip is not None:
            last = int(end_s * TICK_HZ)
            place = ((np.arange(last - TICKS, last) + 0.5) * speed).astype(np.int64)
            inside = (np.arange(last - TICKS, last) >= 0) & (place < self.clips.ticks[clip])
            rows = self.clips.starts[clip] + np.clip(place, 0, self.clips.ticks[clip] - 1)
            mask = inside & self.clips.seen[rows]
            if not calm:
                mask &= kept(rng, TICKS, TICK_HZ)
            v[mask] = self.clips.v[rows[mask]]
            others = self.members.get(int(self.clips.groups[clip]), np.zeros(0, np.int64))
            others = others[others != clip]
            count = 0 if rng.random() < 0.35 or not len(others) else int(rng.integers(1, len(others) + 1))
            chosen = rng.choice(others, count, replace=False) if count else others[:0]
            baseline = self._face_baseline(chosen, clip, v[mask])
            # Another person: what the face is must not count for much.
            if not calm and not self.as_live and rng.random() < 0.5:
                a, b = rng.integers(len(self.clip_v), size=2)
                offset = (self.clip_v[a] - self.clip_v[b]) * rng.uniform(0, 0.6)
                v[mask] += offset
                baseline = (baseline[0] + offset * baseline[2], baseline[1], baseline[2])
        flow = (
            self.clips.flow[rows[mask]].astype(np.float32) * speed
            if mask.any()
            else np.zeros((0, 2, 56, 56), np.float32)
        )
        return {
            "v": v, "flow": flow, "video_mask": mask, "face_baseline_v": baseline[0],
            "face_baseline_o": baseline[1], "face_weight": np.float32(baseline[2]),
        }  # fmt: skip

    def _face_baseline(
        self, chosen: NDArray[np.int64], clip: int, own_v: Float32
    ) -> tuple[Float32, Float32, float]:
        width = self.clips.v.shape[1]
        seconds = np.append(self.clips.ticks[chosen], len(own_v)) / TICK_HZ
        own = own_v.mean(0) if len(own_v) else self.face_mean[:width]
        mean_v = np.vstack((self.clip_v[chosen], own))
        mean_o = self.clip_o[np.append(chosen, clip)]
        v, weight = blended(self.face_mean[:width], mean_v, seconds)
        o, _ = blended(self.face_mean[width:], mean_o, seconds)
        return v, o, weight

    def _sound(
        self, rng: Rng, take: int | None, session: int, variety: Variety, end_s: float, calm: bool
    ) -> dict[str, NDArray]:
        bands = len(self.voice_mean)
        mel, mask = np.zeros((BINS, bands), np.float32), np.zeros(BINS, bool)
        samples = np.zeros((BINS, HOP if self.sound == "waveform" else 0), np.float32)
        baseline, weight = self.voice_mean, 0.0
        if take is not None:
            whole = variety.heard(self.mels.take(session, take), rng)
            last = int(end_s * MEL_HZ)
            place = np.arange(last - BINS, last) - 1  # a frame's centre lies in the bin after its own number
            mask = (place >= 0) & (place < len(whole))
            mel[mask] = whole[place[mask]]
            gain = np.float32(0 if calm else rng.normal(0, 1))
            mel[mask] += gain
            chosen = self._others(rng, take)
            own = mel[mask][voiced(mel[mask])] if mask.any() else mel[:0]
            means = variety.mean(self.mels.means[session, chosen]) + gain
            if len(own):
                means = np.vstack((means, own.mean(0)))
            seconds = np.append(self.mels.seconds[session, chosen], [len(own) / MEL_HZ] if len(own) else [])
            baseline, weight = blended(self.voice_mean, means, seconds)
            if self.sound == "waveform":
                samples[mask] = self.mels.samples(session, take)[place[mask]]
            if not calm:
                mask &= kept(rng, BINS, MEL_HZ)
                if not self.as_live:
                    cover(rng, mel, mask)
        sound = samples.ravel() if self.sound == "waveform" else mel
        voice = {"voice_baseline": baseline, "voice_weight": np.float32(weight)}
        return {"sound": sound, "audio_mask": mask} | voice

    def _voice_tokens(
        self, rng: Rng, held: VoiceTokens, take: int | None, session: int, end_s: float, calm: bool
    ) -> dict[str, NDArray]:
        steps = BINS // STEP
        rows, mask = np.zeros((steps, len(self.voice_mean)), np.float32), np.zeros(BINS, bool)
        baseline, weight = self.voice_mean, 0.0
        if take is not None:
            whole = held.rows(session, take)
            last = int(end_s * MEL_HZ) // STEP
            place = np.arange(last - steps, last)
            heard = (place >= 0) & (place < whole.stop - whole.start)
            place = whole.start + place[heard]
            rows[heard] = held.tokens[place]
            gain = np.zeros(rows.shape[1], np.float32)
            gain[-STEP * MelParams().bands :] = 0 if calm else rng.normal(0, 1) / LOG_MEL
            rows[heard] += gain
            own = rows[heard][held.voiced[place]]
            chosen = self._others(rng, take)
            means, seconds = held.means[session, chosen] + gain, held.seconds[session, chosen]
            if len(own):
                means, seconds = np.vstack((means, own.mean(0))), np.append(seconds, len(own) * STEP / MEL_HZ)
            baseline, weight = blended(self.voice_mean, means, seconds)
            mask = np.repeat(heard, STEP)
            mask &= calm or kept(rng, BINS, MEL_HZ)
        voice = {"voice_baseline": baseline, "voice_weight": np.float32(weight)}
        return {"sound": rows, "audio_mask": mask} | voice

    def _others(self, rng: Rng, take: int) -> NDArray[np.int64]:
        """Other takes of the same speaker, as many as may have been heard before; often none."""
        others = self.same_speaker[self.voices.speakers[take]]
        others = others[others != take]
        count = 0 if rng.random() < 0.3 or not len(others) else int(rng.integers(1, 13))
        return np.asarray(rng.choice(others, count), np.int64)

    def collate(self, rows: list[dict[str, NDArray]]) -> WindowBatch:
        """Rows stacked; flow of all seen ticks one after the other."""
        flow = np.concatenate([row.pop("flow") for row in rows])
        return WindowBatch(flow=flow, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def blended(start: Float32, means: Float32, seconds: NDArray) -> tuple[Float32, float]:
    """The engine's baseline after these stretches, and its weight."""
    total = float(seconds.sum())
    share = np.minimum(1.0, TAU_S / max(total, 1e-6))
    mean = (PRIOR_S * start + (seconds[:, None] * means).sum(0) * share) / (PRIOR_S + total * share)
    return mean.astype(np.float32), total / (total + PRIOR_S)
