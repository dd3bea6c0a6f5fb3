"""The demo source: a talking head and its voice, made by code, for machines without camera or microphone.

Puts the acting together: which expression when, what the voice says, blinks and the motion of the head;
draws frame n and sounds block n from n alone. It shows the pipeline, not its accuracy. Knows nothing of
face finding or scores. Frames and blocks leave by iteration, in time order, on one clock.
"""

import math
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from engine.types import SECOND_NS, Block, Float32, Frame, UInt8
from realtime.sources.base import Item, Loss, SourceInfo
from realtime.sources.demo_face import FaceState, TalkingHead
from realtime.sources.demo_portrait import LABELS, load_portrait
from realtime.sources.demo_voice import RATE_HZ, STYLES, Tracks, Voice, speak

FRAMES_HZ = 30
BLOCK_SAMPLES = 320
SECTION_S = 6.0
CYCLE_S = SECTION_S * len(LABELS)
CHANGE_S = 0.8
BLINK_S = 0.22
SEED = 2405
SENSOR_NOISES = 5
BLOCK_NS = BLOCK_SAMPLES * SECOND_NS // RATE_HZ
LATE_NS = 200_000_000  # a frame so late is lost, as a camera would lose it
NEVER_NS = 1 << 62


class Performance:
    """Everything that is seen and heard, as functions of time. Holds tables and scratch memory only."""

    def __init__(self, seed: int = SEED) -> None:
        self._tracks: Tracks = speak([STYLES[label] for label in LABELS], SECTION_S, seed)
        self._voice = Voice(self._tracks, seed + 1)
        self._head = TalkingHead(load_portrait())
        rng = np.random.default_rng(seed + 2)
        gaps = rng.uniform(2.0, 4.5, 20).cumsum()
        self._blinks = gaps[gaps < CYCLE_S - 1]
        shape = (480, 640, 3)
        self._noise = [rng.integers(0, 5, shape, dtype=np.uint8) for _ in range(SENSOR_NOISES)]

    def expression(self, t_s: float) -> str:
        """The label acted at a time; a change counts from its middle on."""
        return LABELS[int(t_s % CYCLE_S // SECTION_S)]

    def state(self, t_s: float) -> FaceState:
        """What the face does at a time in seconds."""
        t = t_s % CYCLE_S
        place = t / SECTION_S
        section = int(place)
        since, until = (place - section) * SECTION_S, (section + 1 - place) * SECTION_S
        first = second = section
        share = 0.0
        if since < CHANGE_S / 2:
            first, share = (section - 1) % len(LABELS), _eased(0.5 + since / CHANGE_S)
        elif until < CHANGE_S / 2:
            second, share = (section + 1) % len(LABELS), _eased(0.5 - until / CHANGE_S)
        tracks = self._tracks
        nod = tracks.at(tracks.level, t - 0.08)
        blink = max((_bump((t - at) / BLINK_S) for at in self._blinks), default=0.0)

        def sway(cycles: int, phase: float) -> float:
            return math.sin(2 * math.pi * cycles * t / CYCLE_S + phase)

        return FaceState(
            first=first,
            second=second,
            share=share,
            strength=0.94 + 0.06 * sway(19, 0.3),
            jaw=min(1.15, tracks.at(tracks.jaw, t)),
            spread=tracks.at(tracks.spread, t),
            blink=blink,
            x=5 * sway(4, 0.0) + 2.5 * sway(11, 1.0),
            y=2 * sway(5, 2.0) + 1.5 * nod,
            roll=0.030 * sway(3, 0.5) + 0.012 * sway(13, 2.2),
            size=1 + 0.012 * sway(5, 1.3),
            yaw=0.55 * sway(6, 0.9) + 0.2 * sway(17, 0.1),
            pitch=0.25 * sway(7, 2.6) + 0.35 * nod,
        )

    def picture(self, number: int) -> UInt8:
        """(480, 640, 3) uint8, BGR: frame `number`, with a sensor's noise."""
        picture = self._head.render(self.state(number / FRAMES_HZ))
        return np.asarray(cv2.add(picture, self._noise[number * 3 % SENSOR_NOISES], dst=picture), np.uint8)

    def sound(self, number: int) -> Float32:
        """(320,) float32: block `number`."""
        return self._voice.samples(number * BLOCK_SAMPLES, BLOCK_SAMPLES)


class DemoSource:
    """Frames (640 x 480, 30 a second) and blocks (20 ms) of the performance.

    paced: it plays as a camera and a microphone do, on the monotonic clock; a frame comes at its time, a
        block when its last sample is over. A reader who is late loses frames, which are counted.
        Otherwise items come as fast as they are read, in strict order of time, none is lost, and two
        runs are the same.
    anchor_ns: monotonic time of the performance's beginning; None is the moment of the first item when
        paced, 0 when not.
    duration_s: where to end; None never ends.
    video, audio: what is wanted of it.
    """

    def __init__(
        self,
        paced: bool,
        anchor_ns: int | None = None,
        duration_s: float | None = None,
        *,
        video: bool = True,
        audio: bool = True,
    ) -> None:
        self._paced = paced
        self._anchor_ns = anchor_ns
        self._end_ns = NEVER_NS if duration_s is None else round(duration_s * SECOND_NS)
        self._video, self._audio = video, audio
        self._closed = threading.Event()

    @property
    def info(self) -> SourceInfo:
        """What this source is."""
        epoch_ns = None if self._paced else self._anchor_ns or 0
        return SourceInfo(
            name="demo", has_video=self._video, has_audio=self._audio, live=self._paced, epoch_ns=epoch_ns
        )

    def __iter__(self) -> Iterator[Item]:
        """Frames and blocks; of two that are due together the frame goes first."""
        performance = Performance()
        start_ns = self._anchor_ns
        if start_ns is None:
            start_ns = time.monotonic_ns() if self._paced else 0
        lag_ns = BLOCK_NS if self._paced else 0
        frame = block = 0
        while not self._closed.is_set():
            frame_ns, block_ns = frame * SECOND_NS // FRAMES_HZ, block * BLOCK_NS
            video = self._video and frame_ns < self._end_ns
            audio = self._audio and block_ns < self._end_ns
            if video and (not audio or frame_ns <= block_ns + lag_ns):
                if missed := self._missed(start_ns + frame_ns, frame_ns):
                    frame += missed
                    yield Loss(cause="demo frame late", count=missed)
                    continue
                image = performance.picture(frame)
                self._wait(start_ns + frame_ns)
                yield Frame(t_ns=start_ns + frame_ns, seq=frame, image=image)
                frame += 1
            elif audio:
                samples = performance.sound(block)
                self._wait(start_ns + block_ns + lag_ns)
                yield Block(t_ns=start_ns + block_ns, seq=block, samples=samples)
                block += 1
            else:
                return

    def close(self) -> None:
        """End the iteration soon, from any thread."""
        self._closed.set()

    def _missed(self, due_ns: int, frame_ns: int) -> int:
        """How many frames from the one due at `due_ns` on came too late to be shown."""
        late_ns = time.monotonic_ns() - due_ns if self._paced else 0
        if late_ns <= LATE_NS:
            return 0
        left = -(-(self._end_ns - frame_ns) * FRAMES_HZ // SECOND_NS)
        return min(late_ns * FRAMES_HZ // SECOND_NS, left)

    def _wait(self, due_ns: int) -> None:
        if self._paced:
            self._closed.wait(max(0, due_ns - time.monotonic_ns()) / SECOND_NS)


def _eased(share: float) -> float:
    return share * share * (3 - 2 * share)


def _bump(x: float) -> float:
    """0 outside 0..1, rising fast to 1 and falling slower, as a lid moves."""
    if not 0 < x < 1:
        return 0.0
    return _eased(x / 0.35) if x < 0.35 else 1.0 if x < 0.5 else _eased((1 - x) / 0.5)
