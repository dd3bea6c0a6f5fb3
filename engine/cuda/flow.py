"""Optical flow of many pairs at once on an NVIDIA GPU: what `engine.signals.flow.Flow` gives, a batch a call.

Dense inverse search (Kroeger and others, ECCV 2016) without spatial propagation, with the settings and to the
last digits `cv2.DISOpticalFlow`'s. `CudaFlow` owns every buffer, made once for a largest batch; a call does
nothing but launch kernels on the stream that it is given: no allocation, no waiting, so that a CUDA graph can
capture it. It knows nothing of streams of faces or of networks. Results stay on the device.

Why it is laid out so. The work of one pair is tiny (at 112 x 112 the shipped settings search one level of
28 x 28 pixels and 36 patches: some 3 million float operations, most of them in the 50 sweeps of the
refinement) and serial in depth, so a batch is fast when many pairs are in flight and nobody waits for the
host. Hence a handful of launches for the whole batch, six at the shipped settings, with the pair as a grid
index in each; barriers only between the threads of one pair; and plain planes in global memory, because
a pair's 80 kB stay in the caches of the multiprocessor that works on it. 256 pairs are two on each of an
H100's 132 multiprocessors, each waiting for some 80 barriers and cached loads of a few hundred cycles: far
below a millisecond by this reckoning. `benchmarks/flow.py` measures it where there is a GPU.
"""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cuda.levels import Level, levels
from engine.errors import BackendError
from engine.signals.flow import FlowParams
from engine.types import Float32, UInt8

DeviceArray = Any
Stream = Any

WARP, TILE_THREADS = 32, 256
SUMS = 5


def absent() -> str | None:
    """Why there is no flow on a GPU here, in one sentence; None where there is."""
    try:
        from numba import cuda
    except ModuleNotFoundError:
        return 'numba is not installed: pip install -e ".[gpu]"'
    except (ImportError, OSError) as error:
        return f"numba cannot be loaded ({_first_line(error)})"
    try:
        return None if cuda.is_available() else "numba finds no NVIDIA GPU with a driver here"
    except _refusals() as error:
        return f"numba cannot use what it finds of CUDA ({_first_line(error)})"


def _refusals() -> tuple[type[Exception], ...]:
    """What numba raises where CUDA's libraries are missing, or do not fit the driver or the code.

    Which of these classes there are is a matter of its version.
    """
    from numba.core.errors import NumbaError

    found: list[type[Exception]] = [NumbaError, ImportError, OSError, NotImplementedError]
    names = {
        "numba.cuda.cudadrv.error": (
            "CudaDriverError",
            "CudaRuntimeError",
            "NvvmError",
            "NvrtcError",
            "CCSupportError",
        ),
        "numba.cuda.cudadrv.driver": ("LinkerError",),
        "cuda.pathfinder": ("DynamicLibNotFoundError", "BitcodeLibNotFoundError", "StaticLibNotFoundError"),
        "cuda.core._utils.cuda_utils": ("CUDAError", "NVRTCError"),
    }
    for module, classes in names.items():
        with contextlib.suppress(ImportError):
            loaded = importlib.import_module(module)
            found += [getattr(loaded, name) for name in classes if hasattr(loaded, name)]
    return tuple(found)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


class _LevelSteps:
    """The kernels and buffers of one level. `start` is zero on the coarsest and stays so."""

    def __init__(self, level: Level, params: FlowParams, most_pairs: int) -> None:
        from numba import cuda

        from engine.cuda import kernels, refinement

        self.level, side = level, level.side
        self.before = cuda.device_array((most_pairs, side, side), np.uint8)
        self.after = cuda.device_array((most_pairs, side, side), np.uint8)
        self.slope = cuda.device_array((most_pairs, 2, side, side), np.float32)
        self.total = cuda.device_array((most_pairs, SUMS, level.patches, level.patches), np.float32)
        self.start = cuda.to_device(np.zeros((most_pairs, 2, side, side), np.float32))
        self.sparse = cuda.device_array((most_pairs, 2, level.patches, level.patches), np.float32)
        self.blended = self.flow = cuda.device_array((most_pairs, 2, side, side), np.float32)
        self._pixels, self._patches = _tiling(side), _tiling(level.patches)
        together = kernels.patches_a_block(level)
        self._search_block = (params.patch_size, together)
        self._search_blocks = -(-(level.patches**2) // together)
        self._slopes = kernels.slopes_kernel(side)
        self._sums = kernels.sums_kernel(level, params)
        self._grow = kernels.grow_kernel(side)
        self._search = kernels.search_kernel(level, params)
        self._blend = kernels.blend_kernel(level, params)
        self._work: DeviceArray = None
        if params.variational_iterations:
            self._work = cuda.device_array((most_pairs, refinement.PLANES, side, side), np.float32)
            self.flow = cuda.device_array((most_pairs, 2, side, side), np.float32)
            self._refine = refinement.refine_kernel(side, params)
            self._refine_block = refinement.threads(side)

    def launch(self, coarser: DeviceArray | None, count: int, stream: Stream) -> None:
        """From `before`, `after` and the coarser level's flow to `flow`."""
        pixels = self._pixels(count, stream)
        self._slopes[pixels](self.before, self.slope)
        self._sums[self._patches(count, stream)](self.slope, self.total)
        if coarser is not None:
            self._grow[pixels](coarser, self.start)
        self._search[(self._search_blocks, count), self._search_block, stream](
            self.before, self.after, self.slope, self.total, self.start, self.sparse
        )
        self._blend[pixels](self.before, self.after, self.sparse, self.blended)
        if self._work is not None:
            self._refine[(count,), self._refine_block, stream](
                self.before, self.after, self.blended, self._work, self.flow
            )


class CudaFlow:
    """Flow of up to `most_pairs` pairs a call, on the current device.

    previous, crop: (most_pairs, S, S) uint8, grey; gap_ns: (most_pairs,) int64; speed: (most_pairs, 2, size,
    size) float32, as `Flow.pair` gives it: device arrays of numba's, to be filled and read by whoever likes.
    One object serves one stream at a time: two calls in flight would share buffers.

    Raises BackendError where there is no GPU, not enough of its memory, or numba cannot compile for it,
    ValueError where `levels` does.
    """

    def __init__(
        self, params: FlowParams | None = None, *, crop_size: int = 112, most_pairs: int = 512
    ) -> None:
        self.params = params or FlowParams()
        self.crop_size, self.most_pairs = crop_size, most_pairs
        found = levels(crop_size, self.params)
        if (why := absent()) is not None:
            raise BackendError(f"Flow on the GPU cannot be used: {why}.")
        try:
            self._allocate(found)
        except _refusals() as error:
            what = f"The GPU has no room for the flow of {most_pairs} pairs"
            raise BackendError(f"{what}, or CUDA does not run here: {_first_line(error)}.") from error
        try:
            self._compile(found)
        except _refusals() as error:
            raise BackendError(
                f"numba cannot compile the flow for this GPU ({_first_line(error)}): it needs NVVM and the "
                'runtime of a CUDA that the driver knows, pip install -e ".[gpu]".'
            ) from error

    def _allocate(self, found: Sequence[Level]) -> None:
        from numba import cuda

        self._cuda = cuda
        most_pairs, crop_size, size = self.most_pairs, self.crop_size, self.params.size
        self.previous = cuda.device_array((most_pairs, crop_size, crop_size), np.uint8)
        self.crop = cuda.device_array((most_pairs, crop_size, crop_size), np.uint8)
        self.gap_ns = cuda.device_array(most_pairs, np.int64)
        self.speed = cuda.device_array((most_pairs, 2, size, size), np.float32)
        self.steps = [_LevelSteps(level, self.params, most_pairs) for level in found]

    def _compile(self, found: Sequence[Level]) -> None:
        """And load everything, so that a graph can be captured at the first call."""
        from engine.cuda import kernels

        self._shrink = [kernels.shrink_kernel(level.halvings, level.side) for level in found[-1:]]
        self._shrink += [kernels.shrink_kernel(1, level.side) for level in found[-2::-1]]
        self._deliver = kernels.deliver_kernel(found[-1].side, self.crop_size, self.params.size)
        self._warm_up()

    def launch(
        self,
        count: int,
        stream: Stream = 0,
        *,
        previous: DeviceArray | None = None,
        crop: DeviceArray | None = None,
        gap_ns: DeviceArray | None = None,
        speed: DeviceArray | None = None,
    ) -> None:
        """The flow of the first `count` pairs, on `stream` (one of numba's; `cuda.external_stream(handle)`
        makes one of anybody's). Returns at once; the result is in `speed` when the stream has come so far.

        Device arrays of others (`cuda.as_cuda_array(tensor, sync=False)`, kept for as long) may stand in
        for this object's own; they are not checked.

        Raises ValueError where `count` is not 1..most_pairs.
        """
        if not 1 <= count <= self.most_pairs:
            raise ValueError(f"flow of {count} pairs was asked for, there is room for 1 to {self.most_pairs}")
        before = self.previous if previous is None else previous
        after = self.crop if crop is None else crop
        finest_first = self.steps[::-1]
        for shrink, steps in zip(self._shrink, finest_first, strict=True):
            shrink[_tiling(steps.level.side)(count, stream)](before, after, steps.before, steps.after)
            before, after = steps.before, steps.after
        coarser: DeviceArray | None = None
        for steps in self.steps:
            steps.launch(coarser, count, stream)
            coarser = steps.flow
        self._deliver[_tiling(self.params.size)(count, stream)](
            coarser,
            self.gap_ns if gap_ns is None else gap_ns,
            self.speed if speed is None else speed,
        )

    def pairs(self, previous: UInt8, crop: UInt8, gap_ns: Sequence[int] | NDArray[np.int64]) -> Float32:
        """The same from host memory and back, waiting for the result: for tests and for a first try.

        previous, crop: (N, S, S) uint8, grey; gap_ns: N. Returns (N, 2, size, size) float32, crop pixels a
        second, zeros where the gap is 0.

        Raises ValueError where shapes or dtypes differ from that, or a gap is negative.
        """
        gaps = np.asarray(gap_ns, np.int64)
        shape = (len(gaps), self.crop_size, self.crop_size)
        for name, pictures in (("previous", previous), ("crop", crop)):
            if pictures.shape != shape or pictures.dtype != np.uint8:
                raise ValueError(f"{name} is {pictures.shape} {pictures.dtype}; {shape} uint8 is needed")
        if (gaps < 0).any():
            raise ValueError(f"a previous crop is {-gaps.min()} ns later than its crop")
        count = len(gaps)
        if count > self.most_pairs:
            raise ValueError(f"{count} pairs were given, there is room for {self.most_pairs}")
        if not count:
            return np.empty((0, 2, self.params.size, self.params.size), np.float32)
        self.previous[:count].copy_to_device(np.ascontiguousarray(previous))
        self.crop[:count].copy_to_device(np.ascontiguousarray(crop))
        self.gap_ns[:count].copy_to_device(gaps)
        with warnings.catch_warnings():
            # numba warns of grids that do not fill the device; one pair never does
            warnings.filterwarnings("ignore", message="Grid size")
            self.launch(count)
        found: Float32 = self.speed[:count].copy_to_host()
        return found

    def _warm_up(self) -> None:
        """The first launch of a kernel compiles it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Grid size")
            self.launch(1)
        self._cuda.synchronize()


def _tiling(side: int) -> Callable[[int, Stream], tuple[Any, ...]]:
    """How a square of threads is cut into blocks: whole rows where a warp holds them, about equally full."""
    across = -(-side // -(-side // WARP))
    most = max(TILE_THREADS // across, 1)
    down = -(-side // -(-side // most))
    grid = (-(-side // across), -(-side // down))
    return lambda count, stream: ((*grid, count), (across, down), stream)
