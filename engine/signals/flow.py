"""Optical flow inside one face crop, in pixels per second.

OpenCV's DIS flow with every parameter spelled out, without spatial propagation, so that a GPU can do the
same in parallel. It knows nothing of faces, ticks or models. Results leave as arrays.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from engine.types import SECOND_NS, Float32, UInt8

VARIATIONAL_EPSILON = 0.01
"""How the refinement rounds its robust norms near zero; not in the manifest, since older wheels fix it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowParams:
    """What training and live use must share; stored in a bundle's manifest.

    The first eight are those of `cv2.DISOpticalFlow` (its preset FAST, without spatial propagation), the
    search going from coarse pictures to `finest_scale` (0: full size). size: side of the result in pixels.

    Raises ValueError where a number makes no sense.
    """

    finest_scale: int = 2
    patch_size: int = 8
    patch_stride: int = 4
    gradient_descent_iterations: int = 16
    variational_iterations: int = 5
    variational_alpha: float = 20.0
    variational_delta: float = 5.0
    variational_gamma: float = 10.0
    mean_normalisation: bool = True
    spatial_propagation: bool = False
    size: int = 56

    def __post_init__(self) -> None:
        least = {"finest_scale": 0, "variational_iterations": 0, "patch_size": 4}
        for name in ("patch_stride", "gradient_descent_iterations", "size", *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(
                    f"flow.{name} is {getattr(self, name)}, at least {least.get(name, 1)} is needed"
                )


class Flow:
    """Motion between two crops. One object serves one size of crop, the first it is given."""

    def __init__(self, params: FlowParams | None = None) -> None:
        self.params = p = params or FlowParams()
        self._crop_shape: tuple[int, ...] | None = None
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(p.finest_scale)
        self._dis.setPatchSize(p.patch_size)
        self._dis.setPatchStride(p.patch_stride)
        self._dis.setGradientDescentIterations(p.gradient_descent_iterations)
        self._dis.setVariationalRefinementIterations(p.variational_iterations)
        self._dis.setVariationalRefinementAlpha(p.variational_alpha)
        self._dis.setVariationalRefinementDelta(p.variational_delta)
        self._dis.setVariationalRefinementGamma(p.variational_gamma)
        self._dis.setUseMeanNormalization(p.mean_normalisation)
        self._dis.setUseSpatialPropagation(p.spatial_propagation)
        # Every OpenCV from 4.10 on uses this value; newer ones let it be set, and could change their own.
        if hasattr(self._dis, "setVariationalRefinementEpsilon"):
            self._dis.setVariationalRefinementEpsilon(VARIATIONAL_EPSILON)

    def pair(self, previous: UInt8, crop: UInt8, gap_ns: int) -> Float32:
        """How the content of `previous` moved to become `crop`.

        previous, crop: (S, S) uint8, grey, through the same transform; crop is `gap_ns` later.
        Returns (2, size, size) float32: x to the right and y down, crop pixels per second, averaged over
        the crop pixels under each of its own; zeros where gap_ns is 0 (there was no earlier picture).

        Raises ValueError where the crops differ in shape from one another or from the first ever given, or
        are too small for the search (OpenCV would quietly search otherwise from then on).
        """
        self._check(previous, crop, gap_ns)
        size = self.params.size
        if gap_ns == 0:
            return np.zeros((2, size, size), np.float32)
        pixels = self._dis.calc(np.ascontiguousarray(previous), np.ascontiguousarray(crop), None)
        small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small.transpose(2, 0, 1)) * np.float32(SECOND_NS / gap_ns)

    def _check(self, previous: UInt8, crop: UInt8, gap_ns: int) -> None:
        if gap_ns < 0:
            raise ValueError(f"the previous crop is {-gap_ns} ns later than the crop")
        if self._crop_shape is None:
            least = 2 * self.params.patch_size << self.params.finest_scale
            if crop.ndim != 2 or min(crop.shape) < least:
                raise ValueError(f"a crop of shape {crop.shape}; flow needs (H, W) of at least {least} each")
            self._crop_shape = crop.shape
        if previous.shape != self._crop_shape or crop.shape != self._crop_shape:
            raise ValueError(f"crops of shape {previous.shape} and {crop.shape}, not {self._crop_shape}")
