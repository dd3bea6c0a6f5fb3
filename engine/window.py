"""One stream's timeline: observations and blocks in, windows of masked ticks and bins out.

A pure state machine: time is an argument, there is no clock, thread or model here. The order in which
pictures and sound arrive does not change a window that is asked for once both bounds have passed its end.
Data leaves through `Timeline.window`, and ticks to be encoded through every call that closes some.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from engine.bundle import Bundle
from engine.grid import UNBOUNDED_NS
from engine.signals.voice import VoiceEncoder
from engine.sound_lane import SoundLane
from engine.sound_lane import hear as hear_lanes
from engine.types import Block, Bool, Float32, Observation
from engine.video_lane import Place, Released, VideoLane

__all__ = ["UNBOUNDED_NS", "Timeline", "Window", "hear"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """The last seconds of a stream, as the window model takes them (T ticks, M mel bins, F bands, H samples
    a bin).

    t_end_ns: its end, on the grid of ticks; half-open.
    end_tick: the first tick after it; its ticks are end_tick - T to end_tick - 1.
    final_tick: ticks before it (and before end_tick) will not change any more: the baseline may learn them.
    video_mask: (T,) bool, ticks with a face of `track`.
    mel: (M, F) float32 natural log of mel power, zero where masked; audio_mask: (M,) bool.
    waveform: (M * H,) float32, zero where masked; voice_tokens: (M / 4, K) float32, zero where nothing was
        heard; each only for a bundle that asks for it, else empty.
    voice_baseline: (F,) or (K,) float32, the voice's slow mean; voice_weight: 0..1.
    track: the newest track in the window, -1 where there is no face in it.
    face: box in pixels of the source and confidence of the newest face, if any.
    """

    t_end_ns: int
    end_tick: int
    final_tick: int
    video_mask: Bool
    mel: Float32
    audio_mask: Bool
    voice_baseline: Float32
    voice_weight: float
    track: int
    face: Place | None
    waveform: Float32 = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    voice_tokens: Float32 = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @property
    def valid_video(self) -> float:
        """Share of the ticks with a face, 0..1."""
        return float(self.video_mask.mean())

    @property
    def valid_audio(self) -> float:
        """Share of the bins that were heard, 0..1."""
        return float(self.audio_mask.mean())

    def sound(self, kind: str) -> Float32:
        """What `Bundle.sound` calls for."""
        return {"mel": self.mel, "waveform": self.waveform, "voice_tokens": self.voice_tokens}[kind]


class Timeline:
    """Ticks and bins of one stream (a camera with its microphone).

    beside: the timeline of another face of the same camera, which takes the sound for both; windows of both
    are asked for in one order of ends. Sound, voice's mean and counts are shared.

    voice: what encodes the voice, where the bundle has such a network (None: ONNX Runtime on this thread).

    Faces that a call returns are to be handed to a back end's `observe` before the next `score`; each tick
    is returned once, ever. `counts` holds what was lost or late, by cause (see `engine.video_lane` and
    `engine.sound_lane`).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        epoch_ns: int = 0,
        has_video: bool = True,
        has_audio: bool = True,
        beside: "Timeline | None" = None,
        voice: VoiceEncoder | None = None,
    ) -> None:
        self.counts: Counter[str] = beside.counts if beside else Counter()
        self._window = bundle.window
        self._has = (has_video, has_audio)
        self._last_end = 0
        self._video = VideoLane(bundle, epoch_ns, self.counts)
        self._sound: SoundLane = beside._sound if beside else SoundLane(bundle, epoch_ns, self.counts, voice)
        self._shares_sound = beside is not None
        self.clear(epoch_ns)

    @property
    def epoch_ns(self) -> int:
        """The start of tick 0."""
        return self._video.grid.epoch_ns

    @property
    def video_bound_ns(self) -> int:
        """Every picture before this time has come, or will not; UNBOUNDED_NS where there is no camera."""
        return self._video.bound_ns

    @property
    def audio_bound_ns(self) -> int:
        """All sound before this time is in its bins, or will not come; UNBOUNDED_NS without a microphone."""
        return self._sound.bound_ns

    def push_observation(self, observation: Observation) -> Released:
        """Take what one picture showed; returns the (tick, face) pairs that closed."""
        return self._video.push(observation)

    def push_block(self, block: Block) -> None:
        """Take sound. Blocks of any size, in the order of time."""
        self._sound.push(block)

    def advance_video(self, t_ns: int) -> Released:
        """No picture older than `t_ns` will come (UNBOUNDED_NS: none at all); returns pairs that closed."""
        return self._video.advance(t_ns)

    def advance_audio(self, t_ns: int) -> None:
        """No sound older than `t_ns` will come (UNBOUNDED_NS: none at all)."""
        self._sound.advance(t_ns)

    def forgo(self, released: Released) -> None:
        """Pairs that were returned, but will not be encoded, for want of time: their ticks are masked."""
        self._video.forgo(released)

    def floor_ns(self, t_ns: int) -> int:
        """The last tick border not after `t_ns`."""
        return self._video.grid.start_ns(self._video.grid.cell(t_ns))

    def window(self, end_ns: int) -> tuple[Released, Window]:
        """The window that ends with the last tick ended by `end_ns`, and the pairs that closed for it.

        It may be asked for at any time: what has not come is masked. The voice's mean is folded up to its
        end. Raises ValueError for a window that ends before the epoch or before the last one asked for.
        """
        grid = self._video.grid
        end = grid.cell(end_ns)
        if end < 0:
            raise ValueError(
                f"a window ending at {end_ns} ns is before the stream's epoch {grid.epoch_ns} ns"
            )
        if end < self._last_end:
            last_ns = grid.start_ns(self._last_end)
            raise ValueError(f"a window ending at {end_ns} ns was asked for after one ending at {last_ns} ns")
        self._last_end = end
        t_end_ns = grid.start_ns(end)
        released = self._video.reach(end)
        heard = self._sound.reach(self._sound.grid.cell(t_end_ns))
        view = self._video.view(end)
        window = Window(
            t_end_ns=t_end_ns,
            end_tick=end,
            final_tick=self._video.final(end),
            video_mask=view.mask,
            mel=heard.mel,
            audio_mask=heard.mask,
            waveform=heard.waveform,
            voice_tokens=heard.tokens,
            voice_baseline=self._sound.voice.mean,
            voice_weight=self._sound.voice.weight,
            track=view.track,
            face=view.place,
        )
        return released, window

    def clear(self, epoch_ns: int | None = None) -> None:
        """Forget pictures and sound, keep the voice's mean. Time begins again, at `epoch_ns` if given."""
        epoch_ns = self.epoch_ns if epoch_ns is None else epoch_ns
        self._last_end = 0
        self._video.restart(epoch_ns)
        has_video, has_audio = self._has
        if not has_video:
            self._video.advance(UNBOUNDED_NS)
        if self._shares_sound:
            return
        self._sound.restart(epoch_ns)
        if not has_audio:
            self._sound.advance(UNBOUNDED_NS)


def hear(due: Iterable[tuple[Timeline, int]]) -> None:
    """Timelines of one bundle are about to be asked for windows, each for one that ends there (ns): their
    sound is heard together, which is cheaper than one by one."""
    hear_lanes((line._sound, line._sound.grid.cell(line.floor_ns(end_ns))) for line, end_ns in due)
