"""The main process's part of a run. Its workers are real and never say anything: the test speaks for them."""

import threading
from collections.abc import Iterator

import pytest

from realtime.config import read_command
from realtime.feed import Publisher
from realtime.lines import Lines
from realtime.link import private_endpoints
from realtime.messages import Finished, Opened, Start
from realtime.outlet import Outlet
from realtime.parts import parts
from realtime.session import Session


@pytest.fixture
def session() -> Iterator[Session]:
    """A camera with a microphone, both open."""
    config = read_command(["--camera", "97", "--mic", "98"]).config
    with private_endpoints() as endpoints, Publisher("tcp://127.0.0.1:*") as publisher:
        outlets = {"main": Outlet("main", publisher)}
        made = Session(config, endpoints, outlets, Lines(), threading.Event())
        made.spawn(parts(config))
        for worker, video in (("camera", True), ("microphone", False)):
            made._take(Opened(worker, _pid(made, worker), f"a {worker}", video, not video, True, False, ()))
        yield made
        made.supervisor.close()


def _pid(session: Session, worker: str) -> int:
    pid: int = session.supervisor._workers[worker].process.pid
    return pid


def test_what_is_over_is_not_expected_any_more(session: Session) -> None:
    start, stream = Start(7, True, True, True), session.streams["main"]
    assert stream.expected(start) == start
    session._take(Finished("camera"))
    assert stream.expected(start) == Start(7, False, True, True)
    session._take(Finished("microphone"))
    assert stream.expected(start) == Start(7, False, False, True)
