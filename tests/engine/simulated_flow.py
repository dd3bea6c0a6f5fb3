"""`python simulated_flow.py PAIRS.npz OUT.npz`: flow on numba's CUDA simulator, every buffer written down.

A process of its own, because the simulator is chosen for good when numba is imported. PAIRS holds previous,
crop, gap_ns and, as JSON, the settings. OUT holds the speed and each level's buffers, `LEVEL.NAME`.
"""

import json
import os
import sys

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import numpy as np

import engine.cuda.flow as flow_module
from engine.cuda import kernels, refinement
from engine.cuda.flow import CudaFlow
from engine.signals.flow import FlowParams

# small blocks: the simulator is faster with them, and threads have several pixels each, as on large levels
kernels.PATCHES_A_BLOCK, refinement.MOST_THREADS, flow_module.TILE_THREADS = 16, 32, 64


class SimulatedFlow(CudaFlow):
    """Nothing has to be compiled here, and every launch takes seconds."""

    def _warm_up(self) -> None:
        pass


BUFFERS = ("before", "after", "slope", "total", "start", "sparse", "blended", "flow")


def main(source: str, target: str) -> None:
    """Run the pairs of one file."""
    with np.load(source) as file:
        given = dict(file)
    count, size, _ = given["crop"].shape
    flow = SimulatedFlow(FlowParams(**json.loads(str(given["params"]))), crop_size=size, most_pairs=count)
    found = {"speed": flow.pairs(given["previous"], given["crop"], given["gap_ns"])}
    for number, steps in enumerate(flow.steps):
        for name in BUFFERS:
            found[f"{number}.{name}"] = getattr(steps, name).copy_to_host()
    np.savez(target, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
