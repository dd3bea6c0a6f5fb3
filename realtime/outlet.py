"""What a stream tells the world: scores become emotion messages, the workers' counts a status once a second.

It knows nothing about processes or sources. Data leaves it to the feed, and to the record and the live view
where there are such.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.types import SECOND_NS
from realtime.feed import Publisher
from realtime.messages import Scored, Stats
from realtime.record import Recorder
from realtime.wire import Emotion, Status, emotion_message

if TYPE_CHECKING:
    from realtime.view import Aside

RECENT = 256


@dataclass(slots=True)
class Condition:
    """How a stream is doing, as the session sees it; the outlet only reads it.

    picture, sound: what is open. missing: "video", "audio" where expected and not there. restarts: how often
    each worker was replaced. stats: the newest of the workers that there are, by name; `gone` keeps what the
    others had lost. live: False where media time is the clock.
    """

    live: bool = True
    state: str = "starting"
    picture: str | None = None
    sound: str | None = None
    engine: str = ""
    model: str = ""
    missing: tuple[str, ...] = ()
    restarts: Counter[str] = field(default_factory=Counter)
    stats: dict[str, Stats] = field(default_factory=dict)
    _lost: Counter[str] = field(default_factory=Counter)

    def take(self, stats: Stats) -> None:
        """The newest of a worker; where it tells no rates, those before go on."""
        before = self.stats.get(stats.worker)
        kept = stats.rates or (before.rates if before is not None else {})
        self.stats[stats.worker] = replace(stats, rates=kept)

    def gone(self, worker: str) -> None:
        """A worker is dead or removed: its rates are over, what it lost stays lost."""
        stats = self.stats.pop(worker, None)
        if stats is not None:
            self._lost.update(stats.drops)

    @property
    def drops(self) -> dict[str, int]:
        """What was lost since the start, by cause, all workers together."""
        total = self._lost.copy()
        for stats in self.stats.values():
            total.update(stats.drops)
        return dict(total)

    def rate(self, name: str) -> float:
        """A rate of whichever worker gives it, 0 where none does."""
        return next((stats.rates[name] for stats in self.stats.values() if name in stats.rates), 0.0)


@dataclass(slots=True)
class Outlet:
    """Publishes, records, shows: `scored` for each window, `tick` now and then. A full disk: RecordError.

    faces: how many are scored at most; with more than one each has a topic and a count of its own.
    """

    stream: str
    publisher: Publisher
    recorder: Recorder | None = None
    faces: int = 1
    view: "Aside | None" = None
    windows: int = 0
    _published: Counter[int] = field(default_factory=Counter)
    _totals_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _begun_ns: int = field(default_factory=time.monotonic_ns)
    _status_ns: int = 0
    _cpu_s: float = field(default_factory=time.process_time)

    def scored(self, scored: Scored, condition: Condition) -> None:
        """Publish one window's scores."""
        latency_ms = self._latency_ms(scored) if condition.live else {}
        track = scored.scores.track if self.faces > 1 else 0
        message = emotion_message(
            scored.scores,
            stream=self.stream,
            seq=self._published[track],
            t_unix_ns=scored.scores.t_ns + _unix_offset_ns() if condition.live else 0,
            latency_ms=latency_ms,
            model=condition.model,
            faces=self.faces,
        )
        self._published[track] += 1
        self.windows += 1
        if self.recorder is not None:
            self.recorder.write(message)
        self._tell(message)

    def tick(self, condition: Condition) -> None:
        """Publish a status where the last one is a second old."""
        now_ns = time.monotonic_ns()
        if now_ns - self._status_ns >= SECOND_NS:
            self._tell_status(condition, now_ns)

    def end(self, condition: Condition) -> None:
        """The last status."""
        condition.state = "ended"
        self._tell_status(condition, time.monotonic_ns())

    def latencies_ms(self) -> dict[str, float]:
        """p50, p95 and max of the recent windows' totals; empty before the first."""
        if not self._totals_ms:
            return {}
        ranked = sorted(self._totals_ms)
        return {
            "p50": round(ranked[len(ranked) // 2], 3),
            "p95": round(ranked[min(len(ranked) * 95 // 100, len(ranked) - 1)], 3),
            "max": round(ranked[-1], 3),
        }

    def _latency_ms(self, scored: Scored) -> dict[str, float]:
        now_ns, end_ns = time.monotonic_ns(), scored.scores.t_ns
        total = (now_ns - end_ns) / 1e6
        self._totals_ms.append(total)
        return {
            "capture": scored.capture_ns / 1e6,
            "wait": (scored.due_ns - end_ns) / 1e6,
            "score": (scored.done_ns - scored.due_ns) / 1e6,
            "publish": (now_ns - scored.done_ns) / 1e6,
            "total": total,
        }

    def _tell_status(self, condition: Condition, now_ns: int) -> None:
        elapsed_ns = max(now_ns - (self._status_ns or self._begun_ns), 1)
        self._status_ns = now_ns
        self._tell(self._status(condition, now_ns, elapsed_ns / SECOND_NS))

    def _status(self, condition: Condition, now_ns: int, elapsed_s: float) -> Status:
        return Status(
            stream=self.stream,
            t_ns=now_ns,
            t_unix_ns=now_ns + _unix_offset_ns(),
            uptime_s=round((now_ns - self._begun_ns) / SECOND_NS, 3),
            state=condition.state,
            fps={
                "camera": round(condition.rate("frames_hz"), 2),
                "scores": round(condition.rate("scores_hz"), 2),
            },
            latency_ms=self.latencies_ms(),
            drops=condition.drops,
            restarts=dict(condition.restarts),
            missing=condition.missing,
            source={"camera": condition.picture, "microphone": condition.sound},
            face_share=round(condition.rate("faces"), 3),
            engine=condition.engine,
            overload=round(condition.rate("overload"), 3),
            cpu=dict(self._cpu(condition, elapsed_s)),
        )

    def _cpu(self, condition: Condition, elapsed_s: float) -> Iterator[tuple[str, float]]:
        before, self._cpu_s = self._cpu_s, time.process_time()
        yield "main", round((self._cpu_s - before) / elapsed_s, 4)
        for name, stats in condition.stats.items():
            yield name, round(stats.rates.get("cpu", 0.0), 4)

    def _tell(self, message: Emotion | Status) -> None:
        self.publisher.publish(message)
        if self.view is not None:
            self.view.show(message)


def _unix_offset_ns() -> int:
    return time.time_ns() - time.monotonic_ns()
