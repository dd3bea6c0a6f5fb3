"""Supervision by the clock: the processes are real, the time is an argument, so nothing waits."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from realtime.supervisor import UNHURRIED_NS, Died, Dying, Event, Started, Supervisor

MS = 1_000_000
SECOND = 1000 * MS


def wait_for_end(job: Any, pipe: Any) -> None:
    """A worker that does nothing until the pipe is closed."""
    try:
        pipe.recv_bytes()
    except EOFError:
        return


class Clock:
    """Calls `advance` every 100 ms of a time that does not pass."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.now_ns = 5 * SECOND
        self.supervisor = supervisor

    def pass_ms(self, ms: int) -> list[Event]:
        events: list[Event] = []
        for _ in range(ms // 100):
            self.now_ns += 100 * MS
            events += self.supervisor.advance(self.now_ns)
        return events


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


@pytest.fixture
def clock(supervisor: Supervisor) -> Clock:
    return Clock(supervisor)


def _kill(pid: int) -> None:
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    while process.status() != psutil.STATUS_ZOMBIE:
        pass


def test_a_worker_may_be_slow_to_come_up_but_not_for_ever(supervisor: Supervisor, clock: Clock) -> None:
    supervisor.add("camera", wait_for_end, None, clock.now_ns)
    assert clock.pass_ms(60_000) == []
    (died, *_) = clock.pass_ms(200)
    assert died == Died("camera", "did not come up within 60 s", 100 * MS)


def test_where_nothing_waits_a_worker_may_be_silent_for_longer() -> None:
    supervisor = Supervisor(UNHURRIED_NS)
    clock = Clock(supervisor)
    try:
        first = supervisor.add("media", wait_for_end, None, clock.now_ns)
        supervisor.beat("media", first.pid, clock.now_ns)
        assert clock.pass_ms(60_000) == []
        died, _ = clock.pass_ms(300)
        assert died == Died("media", "was silent for 60 s", 100 * MS)
    finally:
        supervisor.close()


def test_a_silent_worker_is_replaced(supervisor: Supervisor, clock: Clock) -> None:
    first = supervisor.add("camera", wait_for_end, None, clock.now_ns)
    supervisor.beat("camera", first.pid, clock.now_ns)
    assert clock.pass_ms(2000) == []
    died, again = clock.pass_ms(300)
    assert died == Died("camera", "was silent for 2 s", 100 * MS)
    assert isinstance(again, Started)
    assert again.pid != first.pid
    assert not psutil.pid_exists(first.pid)


def test_a_heartbeat_of_a_predecessor_does_not_count(supervisor: Supervisor, clock: Clock) -> None:
    worker = supervisor.add("camera", wait_for_end, None, clock.now_ns)
    supervisor.beat("camera", worker.pid, clock.now_ns)
    for _ in range(4):
        clock.pass_ms(500)
        supervisor.beat("camera", worker.pid + 1, clock.now_ns)
    assert clock.pass_ms(300) != []


def test_time_in_which_the_main_process_stood_still_is_held_against_nobody(
    supervisor: Supervisor, clock: Clock
) -> None:
    worker = supervisor.add("camera", wait_for_end, None, clock.now_ns)
    supervisor.beat("camera", worker.pid, clock.now_ns)
    clock.pass_ms(1000)
    clock.now_ns += 60 * SECOND
    assert clock.pass_ms(1000) == []
    assert clock.pass_ms(500) != []


def test_the_back_off_doubles_and_ends_with_the_sixth_death(supervisor: Supervisor, clock: Clock) -> None:
    pid = supervisor.add("camera", wait_for_end, None, clock.now_ns).pid
    back_offs = []
    for _ in range(5):
        _kill(pid)
        died, again = clock.pass_ms(2200)
        assert isinstance(died, Died)
        assert died.why == "was ended by SIGKILL"
        assert isinstance(again, Started)
        back_offs.append(died.back_off_ns // MS)
        pid = again.pid
    assert back_offs == [100, 200, 400, 800, 1600]
    _kill(pid)
    assert clock.pass_ms(5000) == [Dying("camera", "was ended by SIGKILL")]


def test_deaths_of_long_ago_are_forgotten(supervisor: Supervisor, clock: Clock) -> None:
    pid = supervisor.add("camera", wait_for_end, None, clock.now_ns).pid
    for _ in range(7):
        _kill(pid)
        died, again = clock.pass_ms(300)
        assert isinstance(died, Died)
        assert isinstance(again, Started)
        assert died.back_off_ns == 100 * MS
        pid = again.pid
        supervisor.beat("camera", pid, clock.now_ns)
        for _ in range(61):
            clock.pass_ms(1000)
            supervisor.beat("camera", pid, clock.now_ns)


def test_one_that_has_finished_is_not_missed(supervisor: Supervisor, clock: Clock) -> None:
    pid = supervisor.add("media", wait_for_end, None, clock.now_ns).pid
    supervisor.finished("media")
    _kill(pid)
    assert clock.pass_ms(30_000) == []


def test_close_leaves_nothing(supervisor: Supervisor, clock: Clock) -> None:
    pids = [supervisor.add(name, wait_for_end, None, clock.now_ns).pid for name in ("camera", "microphone")]
    supervisor.beat("camera", pids[0], clock.now_ns)
    os.kill(pids[1], signal.SIGSTOP)
    supervisor.close()
    assert not any(map(psutil.pid_exists, pids))
    assert supervisor.advance(clock.now_ns) == []


@pytest.mark.parametrize(
    ("patient", "back_offs_ms"), [(False, [100, 200, 400, 800, 1600]), (True, [100, 400, 1600, 6400, 25_600])]
)
def test_a_camera_that_is_away_has_half_a_minute_to_come_back(
    supervisor: Supervisor, clock: Clock, patient: bool, back_offs_ms: list[int]
) -> None:
    pid = supervisor.add("camera", wait_for_end, None, clock.now_ns).pid
    for back_off_ms in back_offs_ms:
        if patient:
            supervisor.be_patient("camera")
        _kill(pid)
        (died,) = clock.pass_ms(200)
        assert died == Died("camera", "was ended by SIGKILL", back_off_ms * MS)
        (again,) = clock.pass_ms(back_off_ms)
        assert isinstance(again, Started)
        pid = again.pid
    _kill(pid)
    assert clock.pass_ms(200) == [Dying("camera", "was ended by SIGKILL")]
