"""`python -m trainer.finder.export --bundle DIR --weights DIR`: the trained face finder goes into a bundle.

With `--from BUNDLE` instead it is taken over from another bundle as it is. Only the two graphs and the
manifest's `faces` and `files` are written; the emotion model stays as it was. Weights are kept at half
precision and computed with at single.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.signals.face_networks import CROP, LEVELS
from trainer.carried_faces import FILES, carry, enter
from trainer.export import LICENCE
from trainer.finder.network import load_network
from trainer.graph_files import LEAST_HALVED, forget_origins, halve

FIND_AT = 0.5
FOLLOW_AT = 0.9
"""Chosen on the dev clips, and on clips with nobody; see `trainer/LOG.md`."""
OPSET = 17


class _Bytes(nn.Module):
    """A network that takes pictures as cameras give them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture_B1HW: Tensor) -> Any:
        return self.network(picture_B1HW.float())


def write_graphs(weights: Path, out: Path) -> None:
    """Both graphs, from `finder.safetensors` and `aligner.safetensors` in a folder."""
    _to_onnx(
        load_network("finder", weights / "finder.safetensors"),
        torch.zeros(1, 1, 64, 96, dtype=torch.uint8),
        out / FILES["finder"],
        "picture",
        {"picture": {0: "batch", 2: "height", 3: "width"}}
        | {name: {0: "batch", 2: f"rows_{name}", 3: f"columns_{name}"} for name in LEVELS},
        LEVELS,
    )
    _to_onnx(
        load_network("aligner", weights / "aligner.safetensors"),
        torch.zeros(1, 1, CROP, CROP, dtype=torch.uint8),
        out / FILES["aligner"],
        "crop",
        {"crop": {0: "batch"}, "face": {0: "batch"}},
        ("face",),
    )


def _to_onnx(
    network: nn.Module,
    example: Tensor,
    file: Path,
    name: str,
    free: dict[str, dict[int, str]],
    outputs: tuple[str, ...],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            _Bytes(network).eval(),
            (example,),
            str(file),
            input_names=[name],
            output_names=list(outputs),
            dynamic_axes=free,
            dynamo=False,
            opset_version=OPSET,
        )
    halve(file, LEAST_HALVED)
    forget_origins(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.finder.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle that is to carry it")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--weights", type=Path, help="folder with finder.safetensors and aligner.safetensors")
    where.add_argument("--from", type=Path, dest="source", help="another bundle that carries it")
    arguments = parser.parse_args()
    try:
        if arguments.source is not None:
            if not carry(arguments.source, arguments.bundle):
                parser.exit(2, f"{arguments.source} carries no face finder.\n")
        else:
            write_graphs(arguments.weights, arguments.bundle)
            enter(arguments.bundle, {"find_at": FIND_AT, "follow_at": FOLLOW_AT, "licence": LICENCE})
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    sizes = ", ".join(
        f"{name} {(arguments.bundle / name).stat().st_size / 1e6:.2f} MB" for name in FILES.values()
    )
    print(f"{arguments.bundle}: {sizes}")


if __name__ == "__main__":
    main()
