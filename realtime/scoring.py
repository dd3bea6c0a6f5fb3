"""One stream of the recogniser, without its process: messages in, due windows out.

Takes messages and times as arguments; it knows nothing about sockets, devices or the feed. Data leaves it as
`Scored` messages.
"""

import time
from dataclasses import dataclass, field

from engine.streams import Stream
from engine.types import SECOND_NS, Block, Observation, Scores
from engine.window import UNBOUNDED_NS
from realtime.config import DEFAULT_STREAM
from realtime.messages import End, Scored
from realtime.schedule import Schedule

MS = 1_000_000
SOUND_HZ = 16_000
ORDER_SLACK_NS = 250 * MS


LOST_NS = SECOND_NS
"""So long after a face was seen last its number may still come back (see `engine.signals.faces`)."""


@dataclass(slots=True)
class _Seen:
    """A face with the times at which it was seen for the first and for the last time."""

    stream: Stream
    first_ns: int
    last_ns: int = 0


@dataclass(slots=True)
class Room:
    """How many faces the streams of a run may have beyond one each, whoever comes first; None: any number."""

    left: int | None = None

    def take(self) -> bool:
        """Room for one more face, if there is any."""
        if self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def give(self) -> None:
        """One of these faces is gone."""
        if self.left is not None:
            self.left += 1


@dataclass(slots=True)
class Recogniser:
    """One stream's messages to scores: `take` what came, ask what is `due`, and for its `targets`; `scored`
    makes messages of their scores. Time is an argument.

    Data that comes after its window is late: the stream masks and counts it. A modality whose source has gone
    quiet holds up the other by the schedule's `max_wait_ns` at most; where media time is the clock, all items
    come in one order of time, so an item bounds the other modality too, `ORDER_SLACK_NS` behind.

    many: each face in view has a `Stream` of its own, beside the one that takes the sound, from its first
    picture until it has not been seen for `LOST_NS` (a face that comes back then has another number). With
    nobody in view it is the sound alone that is scored. room: shared by the streams of a run; a face for
    which there is none is left out, and counted each time it is seen, until there is.
    """

    stream: Stream
    schedule: Schedule
    live: bool
    name: str = DEFAULT_STREAM
    many: bool = False
    room: Room = field(default_factory=Room)
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _last_ns: int = 0
    _video_delay_ns: int | None = None
    _audio_delay_ns: int = 0

    def expect(self, *, video: bool, audio: bool) -> None:
        """What will come; of what will not, nothing is waited for any more."""
        if not video:
            self._advance_video(UNBOUNDED_NS)
        if not audio:
            self.stream.advance_audio(UNBOUNDED_NS)

    def take(self, message: Observation | Block | End, now_ns: int) -> None:
        """One message of the `observe` link, at its arrival."""
        if isinstance(message, Observation):
            if self.many:
                self._add_faces(message)
            else:
                self.stream.add_observation(message)
            self._video_delay_ns = now_ns - message.t_ns
            if not self.live:
                self.stream.advance_audio(message.t_ns - ORDER_SLACK_NS)
        elif isinstance(message, Block):
            self.stream.add_block(message)
            self._audio_delay_ns = now_ns - message.t_ns - len(message.samples) * SECOND_NS // SOUND_HZ
            if not self.live:
                self._advance_video(message.t_ns - ORDER_SLACK_NS)
        else:
            self._last_ns = max(self._last_ns, message.t_ns)
            self.expect(video="video" not in message.kinds, audio="audio" not in message.kinds)

    @property
    def ended(self) -> bool:
        """True when nothing will come any more."""
        return self._bound_ns() >= UNBOUNDED_NS

    def due(self, now_ns: int) -> list[int]:
        """The ends of the windows to score now, oldest first."""
        bound_ns = self._bound_ns()
        if bound_ns >= UNBOUNDED_NS:
            return self.schedule.rest(self._last_ns)
        return self.schedule.due(now_ns, bound_ns)

    @property
    def streams(self) -> list[Stream]:
        """Those with ticks to encode: one, or of `many` faces each its own."""
        return [self.stream, *(seen.stream for seen in self._seen.values())]

    def targets(self, end_ns: int) -> list[Stream]:
        """What is to be scored of the window that ends at `end_ns`."""
        self._let_go([track for track, seen in self._seen.items() if seen.last_ns < end_ns - LOST_NS])
        in_view = [seen.stream for _, seen in sorted(self._seen.items()) if seen.first_ns < end_ns]
        return in_view or [self.stream]

    def close_faces(self) -> None:
        """Nothing will be scored any more: what the faces had is for others."""
        self._let_go(list(self._seen))

    def scored(self, scores: Scores, due_ns: int) -> Scored:
        """The scores of a window, which was found due at `due_ns`, as a message."""
        if not self.live:
            return Scored(scores, 0, 0, 0, self.name)
        delay_ns = self._audio_delay_ns if self._video_delay_ns is None else self._video_delay_ns
        return Scored(scores, delay_ns, due_ns, time.monotonic_ns(), self.name)

    def _add_faces(self, observation: Observation) -> None:
        t_ns, seq = observation.t_ns, observation.seq
        for face in observation.faces:
            if face.track not in self._seen:
                if self._seen and not self.room.take():
                    self.stream.counts["face_without_track"] += 1
                    continue
                self._seen[face.track] = _Seen(self.stream.beside(face.track), first_ns=t_ns)
            seen = self._seen[face.track]
            seen.last_ns = t_ns
            seen.stream.add_observation(Observation(t_ns=t_ns, seq=seq, face=face))
        self._advance_video(t_ns)

    def _let_go(self, tracks: list[int]) -> None:
        for track in tracks:
            self._seen.pop(track).stream.close()
            if self._seen:
                self.room.give()

    def _advance_video(self, t_ns: int) -> None:
        for stream in self.streams:
            stream.advance_video(t_ns)

    def _bound_ns(self) -> int:
        return min(self.stream.video_bound_ns, self.stream.audio_bound_ns)
