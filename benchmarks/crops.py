"""`python benchmarks/crops.py CLIP FILE`: real crops and sound in a small file, where no media is read.

Of the first seconds of a clip it keeps for each tick the face nearest to its middle, as the recogniser does,
and all of the sound; `benchmarks.signals.read_crops` reads it again. It knows nothing of measuring.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from anywhere, installed or not

import numpy as np

from benchmarks.signals import SOUND_HZ, SOUND_PEAK, Recording, of_clip
from engine.bundle import load_bundle
from engine.errors import De3Error
from engine.signals.finder import load_finder
from engine.types import SECOND_NS

SECONDS = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python benchmarks/crops.py", description=__doc__.split("\n\n")[0])
    made.add_argument("clip", type=Path)
    made.add_argument("file", type=Path, help="an .npz")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write; returns the exit status: 2 where the clip will not do."""
    options = parser().parse_args(arguments)
    try:
        bundle = load_bundle()
        recording = of_clip(bundle, options.clip, load_finder(offline=True)[0], SECONDS)
    except De3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_crops(recording, bundle.window.tick_hz, options.file)
    return 0


def write_crops(recording: Recording, tick_hz: int, file: Path) -> None:
    """Keep a face for each tick, and the sound, which is cut off where it is too loud for 16 bits."""
    seen = [each for each in recording.observations if each.face is not None and each.face.gap_ns]
    middles_ns = [(2 * tick + 1) * SECOND_NS // (2 * tick_hz) for tick in range(recording.seconds * tick_hz)]
    kept = [min(seen, key=lambda each: abs(each.t_ns - middle_ns)) for middle_ns in middles_ns]
    faces = [each.face for each in kept if each.face is not None]
    crops, earlier = (np.stack([getattr(face, name) for face in faces]) for name in ("crop", "previous"))
    sound = np.concatenate([block.samples for block in recording.blocks])[: recording.seconds * SOUND_HZ]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        file,
        crops=crops,
        earlier_less_crops=earlier - crops,  # small numbers, which take less room
        gap_ns=np.array([face.gap_ns for face in faces]),
        box=np.array([face.box for face in faces], np.float32),
        t_ns=np.array([each.t_ns for each in kept]),
        sound=np.rint(SOUND_PEAK * np.clip(sound, -1, 1)).astype(np.int16),
    )


if __name__ == "__main__":
    sys.exit(main())
