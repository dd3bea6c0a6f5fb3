"""Lines for the user go where they belong, and a run outlives those who read them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.lines import Lines


def test_what_happens_and_what_goes_wrong_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.info("ready")
    lines.detail("process 7")
    lines.warning("a camera went")
    out, err = capsys.readouterr()
    assert (out, err) == ("ready\n", "warning: a camera went\n")


def test_json_lines_carry_their_facts(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(as_json=True).info("ready after 2.0 s", ready_s=2.0)
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["text"], line["ready_s"]) == ("info", "ready after 2.0 s", 2.0)


def test_a_run_goes_on_when_nobody_reads_any_more() -> None:
    code = (
        "from realtime.lines import Lines\n"
        "import sys\n"
        "sys.stdin.readline()\n"
        "for _ in range(3): Lines().info('line')\n"
        "print('the end', file=sys.stderr)"
    )
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as run:
        os.close(writer)
        os.close(reader)
        assert run.communicate("now\n") == (None, "the end\n")
    assert run.returncode == 0
