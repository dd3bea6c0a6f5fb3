"""`python -m trainer.prepare_stills --data DIR --out DIR`: align the stills once and keep them.

Writes `ferplus_train.npz`, `ferplus_dev.npz` and `lfw.npz` (crops, votes, points, found).
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from engine.signals.face import load_finder
from trainer.data.stills import ENLARGE, Stills, aligned, load_ferplus, load_lfw


def save(stills: Stills, path: Path) -> None:
    """Keep aligned stills as an npz without pickles."""
    np.savez(path, crops=stills.crops, votes=stills.votes, points=stills.points, found=stills.found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare_stills", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds ferplus/ and lfw_expressions/"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--face-model", type=Path, help="YuNet's file")
    arguments = parser.parse_args()
    console = Console()
    arguments.out.mkdir(parents=True, exist_ok=True)
    finder, notice = load_finder(face_model=arguments.face_model)
    console.print(notice)
    for split in ("train", "dev"):
        stills = aligned(*load_ferplus(arguments.data / "ferplus", split), finder, ENLARGE)
        save(stills, arguments.out / f"ferplus_{split}.npz")
        console.print(f"FERPlus {split}: {len(stills)} stills, face found in {stills.found.mean():.1%}")
    stills = aligned(*load_lfw(arguments.data / "lfw_expressions"), finder, 2)
    save(stills, arguments.out / "lfw.npz")
    console.print(f"LFW: {len(stills)} stills, face found in {stills.found.mean():.1%}")


if __name__ == "__main__":
    main()
