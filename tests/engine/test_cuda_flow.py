"""The CUDA kernels, step by step, on numba's simulator: each against NumPy, from its own step's input.

The simulator is slow, so pictures are tiny; the same at full size needs a GPU (`test_cuda_flow_gpu.py`).
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dis_reference
import numpy as np
import pytest

from benchmarks.pairs import warped
from engine.cuda.flow import CudaFlow, absent
from engine.cuda.levels import levels
from engine.errors import BackendError
from engine.signals.flow import FlowParams

ROOT = Path(__file__).parents[2]
GAPS_NS = np.array([66_666_667, 0])
CASES = {
    # two levels, patches that leave a rim, more patches than a block takes
    "fine": (24, {"finest_scale": 0, "patch_size": 4, "patch_stride": 3, "size": 12}),
    # the shipped shape in small: one level at a quarter of the size, patches that overlap
    "coarse": (64, {"finest_scale": 2, "patch_size": 4, "patch_stride": 2, "size": 16}),
}
SHARED_SETTINGS = {"gradient_descent_iterations": 4, "variational_iterations": 1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What went in, and every buffer that came out: `0.flow` is the coarsest level's."""

    previous: np.ndarray
    crop: np.ndarray
    params: FlowParams
    found: dict[str, np.ndarray]

    @property
    def levels(self) -> range:
        return range(len(levels(self.crop.shape[1], self.params)))

    def buffers(self, level: int, pair: int) -> dict[str, np.ndarray]:
        """One pair's buffers of one level."""
        own = {name.partition(".")[2]: value for name, value in self.found.items() if name[0] == str(level)}
        return {name: value[pair] for name, value in own.items()}

    @property
    def each(self) -> list[dict[str, np.ndarray]]:
        """The buffers of every level and pair."""
        return [self.buffers(level, pair) for level in self.levels for pair in range(len(self.crop))]


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One pair, or two, through the simulator, in a process of its own."""
    pytest.importorskip("numba")
    size, settings = CASES[request.param]
    params = FlowParams(**settings, **SHARED_SETTINGS)
    pairs = [warped(seed, size, grain=1.5) for seed in (1, 2)[: 2 if request.param == "coarse" else 1]]
    previous, crop = (np.stack([pair[which] for pair in pairs]) for which in (0, 1))
    folder = tmp_path_factory.mktemp("flow")
    given = {
        "previous": previous,
        "crop": crop,
        "gap_ns": GAPS_NS[: len(pairs)],
        "params": json.dumps(asdict(params)),
    }
    np.savez(folder / "pairs.npz", **given)
    script = Path(__file__).with_name("simulated_flow.py")
    done = subprocess.run(
        [sys.executable, script, folder / "pairs.npz", folder / "out.npz"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as out:
        return Run(previous=previous, crop=crop, params=params, found=dict(out))


def test_shrink(run: Run) -> None:
    finest, times = run.levels[-1], run.params.finest_scale
    for pair in range(len(run.crop)):
        smaller = run.buffers(finest, pair)
        np.testing.assert_array_equal(smaller["before"], dis_reference.halved(run.previous[pair], times))
        np.testing.assert_array_equal(smaller["after"], dis_reference.halved(run.crop[pair], times))
        for level in run.levels[:-1]:
            small, large = run.buffers(level, pair), run.buffers(level + 1, pair)
            for name in ("before", "after"):
                np.testing.assert_array_equal(small[name], dis_reference.halved(large[name], 1))


def test_slopes_and_their_sums(run: Run) -> None:
    for own in run.each:
        np.testing.assert_array_equal(own["slope"], dis_reference.gradients(own["before"]))
        sums = dis_reference.tensors(own["slope"], run.params.patch_size, run.params.patch_stride)
        np.testing.assert_allclose(own["total"], sums, rtol=1e-6)


def test_grow(run: Run) -> None:
    for pair in range(len(run.crop)):
        assert not run.buffers(0, pair)["start"].any()
        for level in run.levels[1:]:
            coarser = run.buffers(level - 1, pair)["flow"]
            grown = [2 * dis_reference.enlarged(plane, 2) for plane in coarser]
            np.testing.assert_allclose(run.buffers(level, pair)["start"], grown, atol=1e-5)


def test_search(run: Run) -> None:
    for own in run.each:
        given = (own[name] for name in ("before", "after", "slope", "total", "start"))
        sparse = dis_reference.search(*given, run.params)
        np.testing.assert_allclose(own["sparse"], sparse, atol=1e-4)
        assert np.abs(sparse).max() > 0.1


def test_blend(run: Run) -> None:
    for own in run.each:
        blended = dis_reference.dense(own["before"], own["after"], own["sparse"], run.params)
        np.testing.assert_allclose(own["blended"], blended, atol=1e-5)


def test_refine(run: Run) -> None:
    for own in run.each:
        refined = dis_reference.refined(own["before"], own["after"], own["blended"], run.params)
        np.testing.assert_allclose(own["flow"], refined, atol=1e-4)
        assert np.abs(refined - own["blended"]).max() > 0.01


def test_deliver_gives_what_flow_gives_and_zeros_without_a_gap(run: Run) -> None:
    expected = dis_reference.pair(run.previous[0], run.crop[0], int(GAPS_NS[0]), run.params)
    assert run.found["speed"].dtype == np.float32
    np.testing.assert_allclose(run.found["speed"][0], expected, atol=1e-2)  # 0.001 of a pixel in the gap
    assert not run.found["speed"][1:].any()


@pytest.mark.parametrize(
    ("size", "change", "message"),
    [
        (112, {"spatial_propagation": True}, "spatial_propagation"),
        (64, {}, "too small for flow.finest_scale 2"),
        (4, {"finest_scale": 0}, "too small"),
        (114, {}, "cannot be halved 2 times"),
        (112, {"size": 50}, "no whole fraction"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused(size: int, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        levels(size, FlowParams(**change))


def test_the_shipped_settings_search_one_small_level() -> None:
    (level,) = levels(112, FlowParams())
    assert (level.halvings, level.side, level.patches) == (2, 28, 6)
    fine = levels(112, FlowParams(finest_scale=0))
    assert [level.side for level in fine] == [28, 56, 112]


def test_without_a_gpu_there_is_one_sentence() -> None:
    why = absent()
    if why is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=r"^Flow on the GPU cannot be used: numba .*\.$"):
        CudaFlow()
