"""What the status says of a run: whole, without one of its senses, or ended."""

from pathlib import Path

from realtime.feed import Subscriber
from realtime.wire import Status
from tests.peers.clip import write_clip
from tests.peers.program import Program

PATIENCE_S = 60.0


def _wait_for(state: str, feed: Subscriber) -> Status:
    seen = []
    while True:
        status = feed.receive(PATIENCE_S)
        assert isinstance(status, Status), f"no status {state!r} came, only {seen}"
        if status.state == state:
            return status
        seen.append(status.state)


def test_a_run_that_has_all_it_expects_is_running(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        with Subscriber(program.endpoint, topics=("status/",)) as feed:
            status = _wait_for("running", feed)
            assert status.missing == ()
            program.interrupt()
            assert _wait_for("ended", feed).source["camera"] == str(long_clip)
        assert program.end() == 0


def test_a_run_without_its_sound_is_degraded_and_says_so(bundle: Path, tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", seconds=30, fps=15, audio=False)
    with (
        Program("--camera", silent, bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("status/",)) as feed,
    ):
        assert _wait_for("degraded", feed).missing == ("audio",)


def test_sound_that_nobody_wants_is_not_missing(bundle: Path, long_clip: Path) -> None:
    with (
        Program("--camera", long_clip, "--mic", "none", bundle=bundle) as program,
        Subscriber(program.endpoint, topics=("status/",)) as feed,
    ):
        assert _wait_for("running", feed).missing == ()
