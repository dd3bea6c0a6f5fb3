"""The pictures that the search goes through, from coarse to fine: sizes and patches, decided once.

It follows `cv2.DISOpticalFlow`: at 112 x 112 with the shipped settings there is one level, 28 x 28 with 6 x 6
patches. It knows nothing of GPUs. Data leaves it as `Level`s.
"""

import math
from dataclasses import dataclass

from engine.signals.flow import FlowParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One picture size.

    halvings: of the crop.
    side: of the picture, pixels.
    patches: along one side.
    """

    halvings: int
    side: int
    patches: int


def levels(crop_size: int, params: FlowParams) -> tuple[Level, ...]:
    """Coarsest first, the last is the finest that is searched.

    Raises ValueError where the settings ask for what only OpenCV does: spatial propagation (a patch waits for
    its neighbour there), crops that do not halve evenly or are too small for the finest scale (OpenCV quietly
    takes other settings), and a result that is no whole fraction of the crop.
    """
    if params.spatial_propagation:
        raise ValueError("flow.spatial_propagation is on; on a GPU all patches are searched at once")
    finest, patch = params.finest_scale, params.patch_size
    coarsest = _coarsest(crop_size, patch)
    if coarsest < finest:
        raise ValueError(f"a crop of {crop_size} pixels is too small for flow.finest_scale {finest}")
    if crop_size % (1 << coarsest):
        raise ValueError(f"a crop of {crop_size} pixels cannot be halved {coarsest} times")
    if crop_size % params.size:
        raise ValueError(f"flow.size {params.size} is no whole fraction of a crop of {crop_size} pixels")
    return tuple(
        Level(halvings=n, side=crop_size >> n, patches=1 + ((crop_size >> n) - patch) // params.patch_stride)
        for n in range(coarsest, finest - 1, -1)
    )


def _coarsest(crop_size: int, patch: int) -> int:
    """A quarter of the crop should fit into a patch, and a patch into the picture; -1: none does."""
    if crop_size < patch:
        return -1
    reach = math.log2(crop_size / (4 * patch)) + 0.5
    return min(int(reach), int(math.log2(crop_size // patch))) if reach >= 0 else -1
