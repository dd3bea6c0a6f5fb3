"""`python -m trainer.prepare_stills --data DIR --out DIR`: align the stills once and keep them.

Writes `ferplus_train.npz`, `ferplus_dev.npz` and, where DIR has it, `lfw.npz` (crops, votes, points, found).
`python -m trainer.prepare ferplus --root DIR` is the same.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from engine.errors import FinderError
from engine.signals.face import load_finder
from trainer.data.ferplus import is_ferplus
from trainer.data.stills import ENLARGE, Stills, aligned, load_ferplus, load_lfw


def save(stills: Stills, path: Path) -> None:
    """Keep aligned stills as an npz without pickles."""
    np.savez(path, crops=stills.crops, votes=stills.votes, points=stills.points, found=stills.found)


def main(arguments: list[str] | None = None) -> None:
    """The command line. Ends with 2 where the faces are not there or not as published."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare_stills", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--data", "--root", type=Path, required=True, metavar="DIR",
        help="folder of FERPlus, or one that holds ferplus/ and maybe lfw_expressions/",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("data/stills"), help="default: data/stills")
    parser.add_argument("--face-model", type=Path, help="YuNet's file")
    chosen = parser.parse_args(arguments)
    console = Console()
    ferplus = chosen.data if is_ferplus(chosen.data) else chosen.data / "ferplus"
    lfw = chosen.data / "lfw_expressions"
    try:
        finder, notice = load_finder(face_model=chosen.face_model)
        console.print(notice)
        chosen.out.mkdir(parents=True, exist_ok=True)
        for split in ("train", "dev"):
            stills = aligned(*load_ferplus(ferplus, split), finder, ENLARGE)
            save(stills, chosen.out / f"ferplus_{split}.npz")
            console.print(f"FERPlus {split}: {len(stills)} stills, face found in {stills.found.mean():.1%}")
        if lfw.is_dir():
            stills = aligned(*load_lfw(lfw), finder, 2)
            save(stills, chosen.out / "lfw.npz")
            console.print(f"LFW: {len(stills)} stills, face found in {stills.found.mean():.1%}")
        else:
            console.print(f"LFW: none, {lfw} is not there", highlight=False)
    except (ValueError, FileNotFoundError, FinderError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
