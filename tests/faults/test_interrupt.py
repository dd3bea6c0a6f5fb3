"""Ctrl-C and SIGTERM, at any moment: status 0, nothing left behind."""

import os
import signal
from pathlib import Path

import pytest

from realtime.link import remove_orphans
from tests.peers.program import Program


@pytest.mark.parametrize("after", ["process", "ready", "scores"])
def test_ctrl_c_ends_the_run_in_good_order(bundle: Path, long_clip: Path, tmp_path: Path, after: str) -> None:
    out = tmp_path / "out.jsonl"
    with Program("--camera", long_clip, "--out", out, bundle=bundle) as program:
        if after == "scores":
            program.emotions(3)
        else:
            program.line(after)
        program.interrupt()
        program.interrupt()
        assert program.end() == 0
        assert program.errors() == []
        assert "Traceback" not in program.text()
        assert program.left_behind() == []
        lines = out.read_text().splitlines()
        assert len(lines) >= (3 if after == "scores" else 0)


def test_sigterm_does_the_same(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(1)
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == 0
        assert program.left_behind() == []


def test_ctrl_c_does_not_wait_for_a_worker_that_hangs(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(1)
        for pid in program.workers.values():
            os.kill(pid, signal.SIGSTOP)
        program.interrupt()
        assert program.end() == 0
        assert program.left_behind() == []


def test_the_next_run_removes_what_a_killed_main_process_left(bundle: Path, long_clip: Path) -> None:
    with Program("--camera", long_clip, bundle=bundle) as program:
        program.emotions(1)
        remove_orphans(program.scratch / "tmp")
        assert len(program.left_behind_files()) == 1, "a directory in use must stay"
        program.process.kill()
        program.end()
        remove_orphans(program.scratch / "tmp")
        assert program.left_behind() == []
