"""An engine that is too slow, a main process that does not listen: what is lost is told by every status."""

from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import zmq

import realtime.worker
from engine.backends import choose
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle, load_bundle
from engine.streams import Recognition
from engine.types import SECOND_NS
from realtime.link import Sender
from realtime.messages import Heartbeat, Message, Routed, Stats
from realtime.outlet import Condition, Outlet
from realtime.recognise import RECOGNISER, _stats
from realtime.wire import Status
from realtime.worker import Edge
from tests.engine.small_bundle import write_bundle
from tests.realtime.test_streams import EPOCH, MS, NAMES, _items, _streams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """That of a recogniser to whose reports nobody listens."""
    context: zmq.Context[Any] = zmq.Context()
    ours, theirs = Pipe()
    yield Edge(RECOGNISER, ours, context, Sender.connect(context, f"ipc://{tmp_path}/report", capacity=8))
    context.destroy(0)
    ours.close()
    theirs.close()


class Clock:
    """In the place of `time` where a back end's work is measured: it goes on as that works."""

    def __init__(self) -> None:
        self.now_ns = EPOCH

    def perf_counter_ns(self) -> int:
        return self.now_ns

    monotonic_ns = perf_counter_ns


class Costly(OnnxBackend):
    """An engine whose faces and windows take their time by a clock of ours."""

    def __init__(self, bundle: Bundle, clock: Clock, face_ns: int, window_ns: int) -> None:
        super().__init__(bundle)
        self._clock, self._face_ns, self._window_ns = clock, face_ns, window_ns

    def observe(self, slots, ticks, faces):  # type: ignore[no-untyped-def]
        self._clock.now_ns += self._face_ns * len(faces)
        super().observe(slots, ticks, faces)

    def score(self, slots, windows):  # type: ignore[no-untyped-def]
        self._clock.now_ns += self._window_ns * len(windows)
        return super().score(slots, windows)


class Kept(list[Status]):
    """A publisher that keeps what it is given."""

    publish = list.append


@pytest.mark.parametrize(("window_ns", "overloaded"), [(40 * MS, True), (4 * MS, False)])
def test_an_engine_that_is_too_slow_is_said_by_every_status(
    folder: Path, edge: Edge, monkeypatch: pytest.MonkeyPatch, window_ns: int, overloaded: bool
) -> None:
    """Nobody says when a turn comes: 30 windows of 40 ms a second make them late by themselves."""
    clock, bundle, seconds = Clock(), load_bundle(folder), 4
    for module in ("streams", "scoring"):
        monkeypatch.setattr(f"realtime.{module}.time", clock)
    streams = _streams(Recognition(bundle, Costly(bundle, clock, 2 * MS, window_ns)), NAMES)
    items = sorted(
        (Routed(name, item) for name in NAMES for item in _items(name, seconds)),
        key=lambda each: each.item.t_ns,
        reverse=True,
    )
    late_ns = []
    while items:
        clock.now_ns = max(clock.now_ns, items[-1].item.t_ns)
        while items and items[-1].item.t_ns <= clock.now_ns:
            streams.take(items.pop(), clock.now_ns)
        streams.encode()
        due_ns = clock.now_ns
        for batch in streams.due(due_ns):
            late_ns += [clock.now_ns - each.scores.t_ns for each in streams.score(batch, due_ns)]
    told = Kept()
    for stats in _stats(edge, streams, seconds):
        Outlet(stats.stream, told).tick(Condition(stats={RECOGNISER: stats}))  # type: ignore[arg-type]
    assert [status.stream for status in told] == list(NAMES)
    rates = [status.fps["scores"] for status in told]
    assert max(rates) - min(rates) <= 1 / seconds, "evenly, to a window"
    for status in told:
        assert (status.overload > 0.2) == overloaded
        assert ("skipped window" in status.drops) == overloaded
        assert overloaded or (status.overload, status.drops) == (0, {})
        assert streams.recognisers[status.stream].stream.closed == []
    assert max(late_ns) < (SECOND_NS if overloaded else 200 * MS), "nothing piles up"


def test_reports_that_found_no_room_are_told(folder: Path, edge: Edge) -> None:
    bundle = load_bundle(folder)
    streams = _streams(Recognition(bundle, choose(bundle, "onnx").backend), NAMES[:2])
    assert [stats.drops for stats in _stats(edge, streams, 1.0)] == [{}, {}]
    for _ in range(30):
        edge.report(Heartbeat(RECOGNISER, 1))
    assert [stats.drops for stats in _stats(edge, streams, 1.0)] == [{"report link full": 22}] * 2


def test_rates_over_next_to_no_time_are_not_told(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last counts of a run may come right after those of its last second."""
    clock, told = Clock(), list[Message]()
    monkeypatch.setattr(realtime.worker, "time", clock)
    monkeypatch.setattr(Edge, "report", lambda _, message: told.append(message))

    def stats(elapsed_s: float) -> list[Stats]:
        return [Stats(RECOGNISER, 1, {"late frame": 3}, {"scores_hz": 1 / elapsed_s})]

    for later_ns in (0, SECOND_NS, 5 * MS):
        clock.now_ns += later_ns
        edge.give(stats)
    rates = {"scores_hz": 1.0}
    assert told == [Stats(RECOGNISER, 1, {"late frame": 3}, each) for each in (rates, {})]
