"""What run_vm.sh runs inside its virtual machine: the sources, then the whole program, on real devices.

    check.py prepare DIR     on the host: the demo's picture and voice as raw files for the devices
    check.py sources DIR     cameras and microphones by index and by name: frames, blocks, their times
    check.py program DIR     `python -m realtime.run --camera 0 --mic` and by name: both modalities valid

Prints one line a check and ends with status 1 if any failed. Emulated processors are some two hundred times
slower than real ones in what networks do: what is checked are times and contents, not speed, and the program
runs with a small model (`tests/engine/small_bundle.py`), as the bundled one takes a second a score there.
"""

import json
import logging
import subprocess
import sys
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

FRAMES = 60
SIZE = (640, 480)
SPEECH_S = 20.0
SHOWN, SHOWER, CAMERA = 0, 1, 2
"""Video nodes: a camera that shows what is played, where that is played to, a camera with a test picture."""

failed: list[str] = []


def check(name: str, test: Callable[[], str]) -> None:
    """Runs one check; what raises has failed, what is returned is what it showed."""
    try:
        print(f"[ok] {name}: {test()}", flush=True)
    except Exception as error:
        failed.append(name)
        print(f"[FAILED] {name}: {type(error).__name__}: {error}", flush=True)


def prepare(out: Path) -> None:
    """A small bundle; two seconds of the demo as raw BGR, each picture twice (60 a second); its voice."""
    from engine.types import Block, Frame
    from realtime.sources.demo import DemoSource
    from tests.engine.small_bundle import write_bundle

    write_bundle(out / "bundle")
    demo = DemoSource(False, None, SPEECH_S)
    sound, shown = [], 0
    with (out / "picture.bgr").open("wb") as raw:
        for item in demo:
            if isinstance(item, Frame) and shown < FRAMES:
                raw.write(item.image.tobytes() * 2)
                shown += 1
            elif isinstance(item, Block):
                sound.append(item.samples)
    with wave.open(str(out / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.concatenate(sound) * 32_767).astype("<i2").tobytes())


@contextmanager
def running(*command: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def showing(out: Path) -> AbstractContextManager[None]:
    """The demo's face before camera `SHOWN`."""
    for node in (SHOWN, SHOWER):
        subprocess.run(["v4l2-ctl", "-d", str(node), "--set-dv-bt-timings", "index=0"], check=True)
    subprocess.run(["v4l2-ctl", "-d", str(SHOWN), "-c", "loop_video=1"], check=True)
    # In another format than the camera is read in, vivid shows noise in place of what it is given.
    shape = f"width={SIZE[0]},height={SIZE[1]},pixelformat=BGR3"
    subprocess.run(["v4l2-ctl", "-d", str(SHOWER), f"--set-fmt-video-out={shape}"], check=True)
    play = ["--stream-out-mmap", f"--stream-from={out / 'picture.bgr'}", "--stream-loop"]
    return running("v4l2-ctl", "-d", str(SHOWER), *play)


def speaking(out: Path) -> AbstractContextManager[None]:
    """The demo's voice into the sound card: what is played to one side is heard by the other's microphone."""
    loop = f"while aplay -q -D plughw:0,1 {out / 'voice.wav'}; do :; done"
    return running("bash", "-c", f"trap 'kill %1' TERM; ({loop}) & wait")


def camera(spec: str, *, size: tuple[int, int] | None = (320, 180)) -> str:
    from engine.types import Frame
    from realtime.sources.camera import open_camera

    began = time.monotonic()
    source = open_camera(spec, size=size)
    frames, ages = [], []
    for item in source:
        if isinstance(item, Frame):
            ages.append((time.monotonic_ns() - item.t_ns) * 1e-6)
            frames.append(item)
        if len(frames) == FRAMES:
            break
    source.close()
    times = np.array([frame.t_ns for frame in frames])
    steps = np.diff(times) * 1e-6
    assert (steps > 0).all()
    assert min(ages) > -2
    assert np.median(ages) < 500
    assert size is None or frames[0].image.shape == (size[1], size[0], 3)
    assert frames[0].image.std() > 1
    return (
        f"{source.info.name}, {frames[0].image.shape}, {FRAMES} frames in {time.monotonic() - began:.1f} s, "
        f"steps {np.percentile(steps, 5):.1f} / {np.median(steps):.1f} / {np.percentile(steps, 95):.1f} ms, "
        f"age when read {np.median(ages):.1f} ms (least {min(ages):.1f})"
    )


def cameras() -> str:
    from realtime.sources.camera import list_cameras

    found = [(each.index, each.name) for each in list_cameras()]
    assert found == [(SHOWN, "vivid-000-vid-cap"), (CAMERA, "vivid-001-vid-cap")], found
    return f"{found}, the output node is left out"


def no_such_camera() -> str:
    from engine.errors import SourceError
    from realtime.sources.camera import open_camera

    try:
        open_camera("7")
    except SourceError as error:
        sentence = str(error)
    assert "vivid-000-vid-cap" in sentence
    return sentence


def unplugged() -> str:
    from engine.errors import SourceError
    from engine.types import Frame
    from realtime.sources.camera import open_camera

    source = open_camera(str(CAMERA), size=(320, 180))
    items = iter(source)
    list(islice((item for item in items if isinstance(item, Frame)), 5))
    subprocess.run(["v4l2-ctl", "-d", str(CAMERA), "-c", "disconnect=1"], check=True)
    pulled = time.monotonic()
    try:
        for _ in items:
            assert time.monotonic() - pulled < 20
    except SourceError as error:
        return f"after {time.monotonic() - pulled:.1f} s: {error}"
    raise AssertionError("the camera went on without its plug")


def microphones() -> str:
    from realtime.sources.microphone import list_microphones

    found = [f"{each.index} {each.name}{' (default)' * each.default}" for each in list_microphones()]
    assert any("Loopback" in each for each in found), found
    return "; ".join(found)


def microphone(spec: str) -> str:
    from engine.types import Block
    from realtime.sources.base import Loss
    from realtime.sources.microphone import open_microphone

    source = open_microphone(spec)
    blocks, ages, losses = [], [], Counter()
    for item in source:
        if isinstance(item, Block):
            ages.append((time.monotonic_ns() - item.t_ns) * 1e-6)
            blocks.append(item)
        elif isinstance(item, Loss):
            losses[item.cause] += item.count
        if len(blocks) == 250:
            break
    source.close()
    times = np.array([block.t_ns for block in blocks])
    loud = max(float(np.abs(block.samples).max()) for block in blocks)
    rate = (len(blocks) - 1) * 320 / ((times[-1] - times[0]) * 1e-9)
    assert (np.diff(times) > 0).all()
    assert loud > 0.02, "nothing was heard"
    assert min(ages) > 15
    assert losses or abs(rate / 16_000 - 1) < 0.01
    return (
        f"{source.info.name}: 5 s of sound at {rate:.0f} Hz, loudest {loud:.2f}, "
        f"age when read {np.median(ages):.0f} ms (least {min(ages):.0f}), losses {dict(losses)}"
    )


def check_sources(out: Path) -> None:
    check("cameras", cameras)
    check("no such camera", no_such_camera)
    for source in (0, 1):
        subprocess.run(["v4l2-ctl", "-d", str(CAMERA), "-c", f"timestamp_source={source}"], check=True)
        kind = ("end of frame, which vivid puts into the future", "start of exposure")[source]
        check(f"camera {CAMERA}, driver's times: {kind}", lambda: camera(str(CAMERA)))
    check("camera by name", lambda: camera("vivid-001"))
    with showing(out):
        check("camera that shows the demo, by name", lambda: camera("vivid-000", size=None))
    check("unplugged", unplugged)
    with speaking(out):
        check("microphones", microphones)
        for spec in ("default", "hw:0,0", "0"):
            check(f"microphone {spec}", lambda spec=spec: microphone(spec))


def program(out: Path, *arguments: str) -> str:
    messages = Path("/tmp/messages.jsonl")
    messages.unlink(missing_ok=True)
    command = [sys.executable, "-m", "realtime.run", *arguments, "--engine", "onnx", "--offline"]
    # Emulated, a face is found after a second: without a longer wait every observation would be late.
    command += ["--bundle", str(out / "bundle"), "--max-wait", "3000"]
    command += ["--rate", "1", "--duration", "40", "--out", str(messages)]
    with showing(out), speaking(out), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            print(f"     {line}", end="", flush=True)
    assert run.returncode == 0, f"status {run.returncode}"
    rows = [json.loads(line) for line in messages.read_text().splitlines()]
    both = [row for row in rows if row["valid"]["video"] > 0 and row["valid"]["audio"] > 0]
    assert both, f"none of {len(rows)} messages had both modalities"
    best = max(both, key=lambda row: row["valid"]["video"])
    return (
        f"{len(rows)} messages, {len(both)} with both modalities, at best {best['valid']}, top {best['top']}"
    )


WARM_UP = """
import time
import numpy as np
import av, sounddevice, soxr, zmq, realtime.recognise
from engine import Recognizer
image = np.random.default_rng(0).integers(0, 255, (180, 320, 3), np.uint8)
with Recognizer(engine="onnx", offline=True) as recognizer:
    for turn in range(3):
        began = time.monotonic()
        recognizer.add_frame(turn * 200_000_000, image)
        recognizer.add_audio(turn * 200_000_000, np.zeros(3200, np.float32))
        looked = time.monotonic()
        recognizer.scores((turn + 1) * 200_000_000)
        print(f"looked for a face in {looked - began:.2f} s, scored in {time.monotonic() - looked:.2f} s")
"""


def warm_up() -> str:
    """Files come over 9p at first, and code is translated when it first runs: here, not in the workers."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WARM_UP], check=True, capture_output=True, text=True)
    return f"{time.monotonic() - began:.0f} s; " + "; ".join(done.stdout.splitlines())


def check_program(out: Path) -> None:
    check("warm-up", warm_up)
    check("program by name", lambda: program(out, "--camera", "vivid-000", "--mic", "Loopback"))
    check("program by index", lambda: program(out, "--camera", "0", "--mic", "default"))


def main() -> int:
    what, out = sys.argv[1], Path(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="     %(message)s")
    if what == "prepare":
        prepare(out)
    if what in ("program", "all"):
        check_program(out)
    if what in ("sources", "all"):
        check_sources(out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
