"""All streams of the recogniser, without its process: what there is to do is done for all of them together.

Ticks that have closed are encoded in one batch, windows that are due are scored in one batch, the earliest
end first. Where there is more to do than there is time for, each stream gets as much of it as any other.
Takes messages and times as arguments; it knows nothing about sockets, devices or the feed. Data leaves it as
`Scored` messages.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.streams import Recognition
from realtime.messages import Routed, Scored
from realtime.scoring import Recogniser

MS = 1_000_000
LEAST_ENCODING_NS = 150 * MS
"""So long the faces of a turn may always take; else as long as the windows of the turn before."""
BATCH_NS = 500 * MS
"""So long a batch of windows should take at most: between two of them a worker beats."""

Due = list[tuple[str, int]]
"""Windows to score together: the name of the stream, no name twice, and the window's end in ns."""


@dataclass(slots=True)
class Pace:
    """How long one of something takes, by the measurements of late; 0 before the first."""

    each_ns: float = 0.0

    def took(self, count: int, spent_ns: int) -> None:
        """So many of them took so long."""
        each_ns = spent_ns / count
        self.each_ns += (each_ns - self.each_ns) * (0.2 if self.each_ns else 1)

    def fit(self, time_ns: float) -> int:
        """How many can be had in that time; always one."""
        return max(1, int(time_ns / max(self.each_ns, 1)))


@dataclass(slots=True)
class Streams:
    """The recognisers of a run by the names of their streams, on one `Recognition`.

    A turn is: `take` what has come, `encode`, `score` what is `due`. Where media time is the clock, every
    stream goes through the model alone and message by message: so the last bits of its scores never depend on
    how fast messages come, or on the other streams.

    Under overload a turn takes longer than the time between two windows. Then of each stream only the newest
    window is scored and the others are counted (see `Schedule`), so rates fall evenly; and of each face no
    more ticks are encoded than its share of the time, evenly spread, and the others are masked and counted.

    A turn looks only at streams that have news (something came, or the time to wait is over), so that what it
    costs grows with what there is to do.
    """

    recognition: Recognition
    recognisers: dict[str, Recogniser]
    live: bool
    faces: Pace = field(default_factory=Pace)
    windows: Pace = field(default_factory=Pace)
    _scoring_ns: int = 0
    _counts: dict[str, Counter[str]] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    _news: dict[str, None] = field(default_factory=dict)  # since `due` last looked, in the order of coming
    _unsettled: dict[str, None] = field(default_factory=dict)  # since `newly_over` last looked
    _wakes: list[tuple[int, str]] = field(default_factory=list)  # a heap, of some that are past too

    def __post_init__(self) -> None:
        for name in self.recognisers:
            self._note(name)
            self._await(name)

    def take(self, message: Routed, now_ns: int) -> None:
        """One message of the `observe` link, at its arrival."""
        self.recognisers[message.stream].take(message.item, now_ns)
        self._note(message.stream)

    def expect(self, name: str, *, video: bool, audio: bool) -> None:
        """What will come of a stream; of what will not, nothing is waited for any more."""
        self.recognisers[name].expect(video=video, audio=audio)
        self._note(name)

    def encode(self) -> None:
        """Encode the ticks that have closed."""
        streams = (stream for name in self._news for stream in self.recognisers[name].streams)
        waiting = [stream for stream in streams if stream.closed]
        if not waiting:
            return
        share = self.faces.fit(max(LEAST_ENCODING_NS, self._scoring_ns)) // len(waiting)
        for stream in waiting:
            stream.thin(max(share, 1))
        count = sum(len(stream.closed) for stream in waiting)
        begun_ns = time.perf_counter_ns()
        self.recognition.encode(waiting)
        self.faces.took(count, time.perf_counter_ns() - begun_ns)

    def due(self, now_ns: int) -> Iterator[Due]:
        """The windows to score now, in batches, the earliest end first."""
        self._scoring_ns = 0
        ends = {name: self.recognisers[name].due(now_ns) for name in self._with_news(now_ns)}
        for name, each in ends.items():
            if each:
                self._await(name)
        while any(ends.values()):
            firsts = sorted((each.pop(0), name) for name, each in ends.items() if each)
            while firsts:
                most = self.windows.fit(BATCH_NS) if self.live else 1
                yield [(name, end_ns) for end_ns, name in firsts[:most]]
                del firsts[:most]

    def score(self, batch: Due, due_ns: int) -> list[Scored]:
        """The scores of windows that were found due at `due_ns`, one a face where there are several."""
        begun_ns = time.perf_counter_ns()
        targets = [
            (self.recognisers[name], stream, end_ns)
            for name, end_ns in batch
            for stream in self.recognisers[name].targets(end_ns)
        ]
        found = self.recognition.scores([(stream, end_ns) for _, stream, end_ns in targets])
        spent_ns = time.perf_counter_ns() - begun_ns
        self.windows.took(len(batch), spent_ns)
        self._scoring_ns += spent_ns
        for name, _ in batch:
            self._counts.setdefault(name, Counter())["windows"] += 1
        return [
            recogniser.scored(scores, due_ns)
            for (recogniser, _, _), scores in zip(targets, found, strict=True)
        ]

    def newly_over(self) -> list[str]:
        """The streams from which nothing will come any more, each named once."""
        over = [name for name in self._unsettled if self.recognisers[name].ended and name not in self._over]
        self._unsettled.clear()
        self._over.update(over)
        for name in over:
            self.recognisers[name].close_faces()
        return over

    @property
    def ended(self) -> bool:
        """True when every stream has been named by `newly_over`."""
        return len(self._over) == len(self.recognisers)

    def wake_ns(self) -> int | None:
        """When, by the clock, `due` has something to say at the latest; None: only messages count."""
        while self._wakes and not self._awaited(*self._wakes[0]):
            heapq.heappop(self._wakes)
        return self._wakes[0][0] if self._wakes else None

    def counted(self, name: str) -> tuple[int, int]:
        """Windows of a stream scored, and skipped, since this was last asked."""
        counts = self._counts.setdefault(name, Counter())
        skipped = self.recognisers[name].schedule.skipped
        answer = counts["windows"], skipped - counts["skipped"]
        counts["windows"], counts["skipped"] = 0, skipped
        return answer

    def _note(self, name: str) -> None:
        self._news[name] = self._unsettled[name] = None

    def _with_news(self, now_ns: int) -> list[str]:
        """The streams that have news, or whose time has come; they have been looked at then."""
        while self._wakes and self._wakes[0][0] <= now_ns:
            wake_ns, name = heapq.heappop(self._wakes)
            if self._awaited(wake_ns, name):
                self._news[name] = None
        names = list(self._news)
        self._news.clear()
        return names

    def _await(self, name: str) -> None:
        wake_ns = self.recognisers[name].schedule.wake_ns()
        if wake_ns is not None:
            heapq.heappush(self._wakes, (wake_ns, name))

    def _awaited(self, wake_ns: int, name: str) -> bool:
        recogniser = self.recognisers[name]
        return not recogniser.ended and wake_ns == recogniser.schedule.wake_ns()
