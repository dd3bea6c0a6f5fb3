"""Microphones: a real one of a private PulseAudio, heard by a process of its own, and what is refused."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SourceError
from realtime.sources.base import IDLE_S, Idle, Inbox, Loss
from realtime.sources.sound import BlockCutter
from tests.peers.clip import sound_samples
from tests.peers.pulse import PulseServer, missing

REPOSITORY = Path(__file__).parents[2]

HEAR = """
import json, sys, time
import numpy as np
from engine.types import Block
from realtime.sources.microphone import list_microphones, open_microphone
from tests.peers.clip import beeps

source = open_microphone(sys.argv[1])
listed = [microphone.name for microphone in list_microphones()]
blocks, ages, causes = [], [], []
for item in source:
    now_ns = time.monotonic_ns()
    if isinstance(item, Block):
        if not blocks:
            print("listening", flush=True)
        blocks.append(item)
        ages.append((now_ns - item.t_ns) * 1e-6)
        if len(blocks) == 300:
            break
    else:
        causes.append(getattr(item, "cause", "idle"))
source.close()
print(json.dumps({
    "listed": listed, "name": source.info.name, "beeps": beeps(blocks), "ages": ages, "causes": causes,
    "seqs": [block.seq for block in blocks], "times": [block.t_ns for block in blocks],
    "sizes": sorted({len(block.samples) for block in blocks}),
    "loudest": float(max(np.abs(block.samples).max() for block in blocks)),
}))
"""


def python(code: str, *arguments: str, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def sound() -> Iterator[PulseServer]:
    if reason := missing():
        pytest.skip(reason)
    with PulseServer() as server:
        yield server


@pytest.mark.parametrize("spec", ["default", "puls", "0"])
def test_a_real_microphone_hears_what_is_said_when_it_is_said(sound: PulseServer, spec: str) -> None:
    with python(HEAR, spec, env=sound.env) as hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == "listening\n", hearing.stderr and hearing.stderr.read()
        said_ns = time.monotonic_ns()
        speaking = sound.play(sound_samples(6.0), 44_100)
        told = json.loads(hearing.stdout.readline())
        speaking.terminate()
        speaking.wait()
    assert spec in ("default", "0") or spec in told["name"]
    assert told["sizes"] == [320]
    assert told["seqs"] == list(range(300))
    assert told["loudest"] == pytest.approx(0.5, abs=0.05)
    # Beeps are a second apart (a loaded machine's player may falter), not heard before they were said.
    assert len(told["beeps"]) >= 3
    assert np.median(np.diff(told["beeps"])) == pytest.approx(1.0, abs=0.030)
    after_s = (told["beeps"][-1] - said_ns * 1e-9) % 1
    assert 0 < after_s < 0.6
    assert min(told["ages"]) > 0
    assert np.median(np.diff(told["times"])) == pytest.approx(20e6, abs=1e6)


def test_no_such_microphone_names_what_there_is(sound: PulseServer) -> None:
    code = """
from engine.errors import SourceError
from realtime.sources.microphone import open_microphone
for spec in ("Nobody's", "97", "/dev/null"):
    try:
        open_microphone(spec)
    except SourceError as error:
        print(error)
"""
    said, stderr = python(code, env=sound.env).communicate(timeout=60)
    lines = said.splitlines()
    assert lines[0].startswith("There is no microphone Nobody's; there is 0 (pulse)")
    assert lines[1].startswith("There is no microphone 97; there is 0 (pulse)")
    assert lines[2].startswith("There is no microphone /dev/null;"), "a device node is no media"
    assert stderr == ""


ASK = """
import sys
from engine.errors import SourceError
from realtime.sources.microphone import open_microphone
try:
    open_microphone("default")
except SourceError as error:
    print(error)
"""


def test_without_portaudio_it_says_what_to_install() -> None:
    said, stderr = python("import sys; sys.modules['_sounddevice'] = None" + ASK, env={}).communicate(
        timeout=60
    )
    assert stderr == ""
    assert len(said.splitlines()) == 1
    assert "libportaudio2" in said


STUCK = """
import sys, threading
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from realtime.sources import microphone
class Stuck(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name == "_sounddevice" else None
    def exec_module(self, module):
        threading.Event().wait()
sys.meta_path.insert(0, Stuck())
microphone._READY_S, microphone._LOCKS = 0.2, Path(sys.argv[-1])
"""


@pytest.mark.parametrize("lock", [None, "jack_db-7"])
def test_a_sound_system_that_never_answers_is_given_up(lock: str | None, tmp_path: Path) -> None:
    if lock is not None:
        (tmp_path / lock).mkdir()
    said, stderr = python(STUCK.replace("sys.argv[-1]", repr(str(tmp_path))) + ASK, env={}).communicate(
        timeout=60
    )
    assert stderr == ""
    assert len(said.splitlines()) == 1
    assert "not ready within" in said
    assert "--mic none" in said
    assert (str(tmp_path / "jack_db-7") in said) == (lock is not None)


def test_a_machine_without_any_microphone_says_so() -> None:
    if Path("/proc/asound/cards").exists() or missing():
        pytest.skip("this machine has a sound card, or no ALSA to ask")
    said, stderr = python(ASK, env={"PULSE_SERVER": "unix:/nonexistent"}).communicate(timeout=60)
    assert stderr == ""
    assert said == "There is no default microphone; there is none on this machine; --mic none goes without.\n"


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_time_whatever_the_pieces(rate_hz: int) -> None:
    click = np.zeros(rate_hz * 2, np.float32)
    click[rate_hz] = 1.0
    whole = BlockCutter(rate_hz)
    at_once = np.concatenate([samples for _, samples in whole.push(click, last=True)])
    assert len(at_once) == 32_000
    assert abs(int(np.argmax(np.abs(at_once))) - 16_000) <= 1

    cutter, chance, start = BlockCutter(rate_hz), np.random.default_rng(rate_hz), 0
    pieces: list[tuple[int, np.ndarray]] = []
    while start < len(click):
        size = int(chance.integers(1, 900))
        pieces += cutter.push(click[start : start + size], last=start + size >= len(click))
        start += size
    assert [index for index, _ in pieces] == list(range(0, 32_000, 320))
    assert np.array_equal(np.concatenate([samples for _, samples in pieces]), at_once)


def test_the_inbox_keeps_the_newest_and_counts() -> None:
    inbox: Inbox[int] = Inbox(3)
    for number in range(10):
        inbox.put(number)
    inbox.end(SourceError("unplugged"))
    got = inbox.items(cause="late", stall="silent", stall_s=9)
    loss = next(got)
    assert isinstance(loss, Loss)
    assert (loss.cause, loss.count) == ("late", 7)
    assert [next(got), next(got), next(got)] == [7, 8, 9]
    with pytest.raises(SourceError, match="unplugged"):
        next(got)


def test_an_inbox_of_sound_goes_back_to_what_is_new_when_it_is_full() -> None:
    inbox: Inbox[int] = Inbox(10, keep=3)
    for number in range(14):
        inbox.put(number)
    inbox.end()
    loss, *rest = inbox.items(cause="late", stall="silent", stall_s=9)
    assert isinstance(loss, Loss)
    assert loss.count == 7
    assert rest == list(range(7, 14))


def test_a_restarted_resampler_is_a_new_one() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 44_100).astype(np.float32)
    used, new = BlockCutter(44_100), BlockCutter(44_100)
    used.push(noise[:12_345])
    used.restart()
    for (i, a), (j, b) in zip(used.push(noise), new.push(noise), strict=True):
        assert i == j
        assert np.array_equal(a, b)


def test_a_silent_inbox_speaks_and_then_gives_up() -> None:
    inbox: Inbox[int] = Inbox(3)
    got = inbox.items(cause="late", stall="silent", stall_s=2 * IDLE_S)
    assert isinstance(next(got), Idle)
    with pytest.raises(SourceError, match="silent"):
        list(got)


def test_closing_an_inbox_wakes_its_reader() -> None:
    inbox: Inbox[int] = Inbox(3)
    threading.Timer(0.1, inbox.close).start()
    assert all(isinstance(item, Idle) for item in inbox.items(cause="late", stall="silent", stall_s=60))
