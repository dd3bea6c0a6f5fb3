"""The main process's part of a run. Its workers are real and never say anything: the test speaks for them."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from engine.types import SECOND_NS
from realtime.config import read_command
from realtime.feed import Publisher
from realtime.lines import Lines
from realtime.link import private_endpoints
from realtime.messages import Finished, Opened, Start, Stats
from realtime.outlet import Condition, Outlet
from realtime.parts import parts
from realtime.session import Session
from realtime.supervisor import MOST_RESTARTS_A_MINUTE, Event
from realtime.wire import Message, Status


@pytest.fixture
def session() -> Iterator[Session]:
    """A camera with a microphone, both open."""
    config = read_command(["--camera", "97", "--mic", "98"]).config
    with private_endpoints() as endpoints, Publisher("tcp://127.0.0.1:*") as publisher:
        outlets = {"main": Outlet("main", publisher)}
        made = Session(config, endpoints, outlets, Lines(), threading.Event())
        made.spawn(parts(config))
        for worker in ("camera", "microphone"):
            made._take(_open(made, worker))
        yield made
        made.supervisor.close()


def _pid(session: Session, worker: str) -> int:
    pid: int = session.supervisor._workers[worker].process.pid
    return pid


def _open(session: Session, worker: str) -> Opened:
    video = worker == "camera"
    names = f"a {worker}", f"the sound of a {worker}"
    return Opened(worker, _pid(session, worker), *names, video, not video, True, False, ())


def _kill(session: Session, worker: str, now_ns: int) -> list[Event]:
    """Strike a worker down at a time; what the supervisor says of it in the three seconds that follow."""
    process = session.supervisor._workers[worker].process
    process.kill()
    process.join()
    events = []
    for later_ns in (0, SECOND_NS // 10, 3 * SECOND_NS):
        for event in session.supervisor.advance(now_ns + later_ns):
            session._happened(event)
            events.append(event)
    return events


def _stats(session: Session, worker: str, lost: int, rate_hz: float) -> Stats:
    rates = {"frames_hz": rate_hz, "cpu": 0.5}
    return Stats(worker, _pid(session, worker), {"late frame": lost} if lost else {}, rates)


def test_what_was_lost_stays_lost_when_a_worker_is_replaced(session: Session) -> None:
    condition = session.streams["main"].condition
    late = _stats(session, "camera", 500, 30.0)
    session._take(late)
    assert (condition.drops, condition.rate("frames_hz")) == ({"late frame": 500}, 30.0)
    _kill(session, "camera", time.monotonic_ns())
    assert (condition.drops, condition.rate("frames_hz")) == ({"late frame": 500}, 0.0)
    session._take(late)
    assert condition.stats == {}, "a dead worker's words that come late are those of a dead worker"
    session._take(_stats(session, "camera", 7, 25.0))
    assert (condition.drops, condition.rate("frames_hz")) == ({"late frame": 507}, 25.0)
    session._take(replace(_stats(session, "camera", 8, 0.0), rates={}))
    assert (condition.drops, condition.rate("frames_hz")) == ({"late frame": 508}, 25.0), "none tells nothing"
    session._remove(session.streams["main"], "camera")
    assert (condition.drops, condition.stats) == ({"late frame": 508}, {})


def test_what_is_dead_is_no_source_and_a_restart_is_a_replacement(session: Session) -> None:
    stream, now_ns = session.streams["main"], time.monotonic_ns()
    condition = stream.condition
    stream.judge(session._down, False)
    assert (condition.picture, condition.sound) == ("a camera", "the sound of a microphone")
    for count in range(1, MOST_RESTARTS_A_MINUTE + 1):
        _kill(session, "camera", now_ns + 5 * count * SECOND_NS)
        assert condition.restarts == {"camera": count}
    stream.judge(session._down, False)
    assert (condition.picture, condition.sound, condition.missing) == (
        None,
        "the sound of a microphone",
        ("video",),
    )
    session._take(_open(session, "camera"))
    stream.judge(session._down, False)
    assert condition.picture == "a camera"
    _kill(session, "camera", now_ns + 50 * SECOND_NS)
    assert condition.restarts == {"camera": MOST_RESTARTS_A_MINUTE}, "nothing took its place"


class Told(list[Message]):
    """A publisher whose messages stay here."""

    publish = list[Message].append


def test_the_last_status_tells_of_the_time_since_the_one_before() -> None:
    told, condition = Told(), Condition()
    outlet = Outlet("main", cast(Publisher, told), _begun_ns=time.monotonic_ns() - 1000 * SECOND_NS)
    outlet.tick(condition)
    begun_s = time.process_time()
    while time.process_time() < begun_s + 0.02:
        pass  # work that the last status is to tell of
    outlet.end(condition)
    first, last = told
    assert isinstance(last, Status)
    assert last.cpu is not None
    assert last.cpu["main"] * (last.t_ns - first.t_ns) / SECOND_NS > 0.01


def test_what_is_over_is_not_expected_any_more(session: Session) -> None:
    start, stream = Start(7, True, True, True), session.streams["main"]
    assert stream.expected(start) == start
    session._take(Finished("camera"))
    assert stream.expected(start) == Start(7, False, True, True)
    session._take(Finished("microphone"))
    assert stream.expected(start) == Start(7, False, False, True)
