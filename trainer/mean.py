"""`python -m trainer.mean --weights FILE=SHARE ... --out FILE`: the weighted mean of networks of one form.

Files as `trainer.start.read_weights` takes them, shares as `1/2`, `3/16` or `0.25`, together 1. With
`--voice FILE` that network's sound branch is in the place of their own, as one that went on with more
speakers. It knows nothing of what the networks do. Data leaves as one file of weights, which `start_weights`
may name.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from trainer.start import SOUND_PARTS, read_weights

VOICE = ("voice_mean", *(f"window_model.{part}." for part in SOUND_PARTS))
"""How the names of what hears begin: the sound branch, and the mean voice from which a stream starts."""
NEAR = Fraction(1, 1_000_000)
"""How far from 1 shares written as decimals may be together."""


def mean(shares: Sequence[tuple[Path, Fraction]]) -> dict[str, Tensor]:
    """The mean of weights and norms' statistics, float32; whole numbers are those of the first file.

    Raises ValueError where a file is missing or not of the form of the first, or shares do not add up to 1.
    """
    total = sum(share for _, share in shares)
    if abs(total - 1) > NEAR:
        raise ValueError(f"The shares add up to {float(total):g}, not to 1.")
    first, _ = shares[0]
    result: dict[str, Tensor] = {}
    for file, share in shares:
        weights = read_weights(file)
        if not result:
            result = {k: v * float(share) if v.is_floating_point() else v for k, v in weights.items()}
            continue
        for name in sorted(result.keys() | weights.keys()):
            if name not in weights or name not in result or weights[name].shape != result[name].shape:
                raise ValueError(f"{file} is not of the form of {first}: {name} differs.")
            if result[name].is_floating_point():
                result[name] += weights[name] * float(share)
    return result


def with_voice(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights with what hears taken from a file. Raises ValueError where there is no such in it."""
    theirs = {name: value for name, value in read_weights(file).items() if name.startswith(VOICE)}
    if not theirs:
        raise ValueError(f"{file} holds no sound branch.")
    return {name: value for name, value in weights.items() if not name.startswith(VOICE)} | theirs


def _share(text: str) -> tuple[Path, Fraction]:
    file, _, share = text.rpartition("=")
    try:
        return Path(file), Fraction(share)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE=SHARE, such as a.safetensors=1/2") from error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.mean", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=_share, nargs="+", required=True, metavar="FILE=SHARE")
    parser.add_argument("--voice", type=Path, metavar="FILE", help="weights whose sound branch is taken")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors")
    chosen = parser.parse_args(arguments)
    try:
        weights = mean(chosen.weights)
        if chosen.voice is not None:
            weights = with_voice(weights, chosen.voice)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, chosen.out)


if __name__ == "__main__":
    main()
