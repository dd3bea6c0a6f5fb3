"""One stream of a run as the main process sees it: its capture workers, how it is doing, where its scores go.

It decides nothing: what becomes of a stream is for `realtime.session` to say. It knows nothing about
processes. Data leaves it through its `Outlet`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from realtime.capture import CaptureJob
from realtime.messages import Failed, Opened, Start
from realtime.outlet import Condition, Outlet
from realtime.parts import Part

KINDS = ("video", "audio")


@dataclass(slots=True)
class Place:
    """A capture worker as the session sees it. `failure`: its last words, where it had to end."""

    part: Part
    job: CaptureJob
    opened: Opened | None = None
    finished: bool = False
    failure: Failed | None = None

    def has(self, kind: str) -> bool:
        """Whether "video" or "audio" comes, or is to be expected, from here."""
        if self.opened is None:
            return self.part.wants(kind)
        return self.opened.has_video if kind == "video" else self.opened.has_audio


@dataclass(slots=True)
class StreamState:
    """A stream with its places by the names of their workers. `over`: nothing more is to be done for it."""

    name: str
    outlet: Outlet
    condition: Condition = field(default_factory=Condition)
    places: dict[str, Place] = field(default_factory=dict)
    over: bool = False
    _wanted: tuple[str, ...] = ()
    _named: tuple[str | None, str | None] = (None, None)

    def add(self, place: Place) -> None:
        """One more capture worker."""
        self.places[place.part.worker] = place
        self._wanted = tuple(kind for kind in KINDS if kind in self._wanted or place.part.wants(kind))

    @property
    def all_finished(self) -> bool:
        """True when its sources have come to their ends, or it is over anyway."""
        return self.over or (bool(self.places) and all(place.finished for place in self.places.values()))

    def expected(self, start: Start) -> Start:
        """What the recogniser is to wait for: an end is said once, so not those at theirs."""
        coming = [place for place in self.places.values() if not (self.over or place.finished)]
        video, audio = (any(place.has(kind) for place in coming) for kind in KINDS)
        return replace(start, has_video=video, has_audio=audio, stream=self.name)

    def judge(self, down: Collection[str], recogniser_down: bool) -> None:
        """Once begun, a stream is degraded while something that it should see or hear does not come."""
        self.note_sources(down)
        there = dict(zip(KINDS, (self.condition.picture, self.condition.sound), strict=True))
        self.condition.missing = tuple(kind for kind in self._wanted if there[kind] is None)
        self.condition.state = "degraded" if self.condition.missing or recogniser_down else "running"

    def name_sources(self, down: Collection[str]) -> bool:
        """Note what is seen and heard; True where that is something else than when this was asked last."""
        self.note_sources(down)
        before, self._named = self._named, (self.condition.picture, self.condition.sound)
        return self._named != before

    def note_sources(self, down: Collection[str]) -> None:
        """Note what is seen and heard: of what is open, that whose worker is not dead."""
        infos = [place.opened for name, place in self.places.items() if place.opened and name not in down]
        self.condition.picture = next((info.picture for info in infos if info.has_video), None)
        self.condition.sound = next((info.sound for info in infos if info.has_audio), None)
