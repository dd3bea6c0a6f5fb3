"""Flow on a real GPU, at full size: OpenCV's, for batches of 1 to 512, from any stream, and in a graph."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.flow import gpu_times
from benchmarks.pairs import warped
from engine.cuda.flow import CudaFlow, absent
from engine.errors import BackendError
from engine.signals.flow import Flow, FlowParams
from engine.types import SECOND_NS

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:Grid size")]

GAPS_NS = (66_666_667, 33_333_333, 100_000_000, 0)
DISTINCT = 8


@pytest.fixture(autouse=True)
def _gpu() -> None:
    """A GPU; where FAIL_WITHOUT_GPU is 1, none is an error."""
    if (why := absent()) is not None:
        (pytest.fail if os.environ.get("FAIL_WITHOUT_GPU") == "1" else pytest.skip)(why)


Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def batch(count: int) -> Batch:
    """previous, crop, gap_ns of `count` pairs, among them some that are still or have no gap."""
    pairs = [warped(seed, 112)[:2] for seed in range(DISTINCT - 1)]
    pairs.append((pairs[0][0], pairs[0][0]))
    previous, crop = (np.stack([pairs[n % DISTINCT][which] for n in range(count)]) for which in (0, 1))
    return previous, crop, np.array([GAPS_NS[n % len(GAPS_NS)] for n in range(count)])


def close(found: np.ndarray, given: Batch, params: FlowParams) -> None:
    """Assert that flow is OpenCV's: 0.05 px in the mean, 0.5 px at the 99th percentile, of each pair."""
    opencv = Flow(params)
    expected = np.stack([opencv.pair(*each) for each in list(zip(*given, strict=True))[:DISTINCT]])
    gaps_s = given[2][:, None, None, None] / SECOND_NS
    for pair, each in enumerate(found):
        off = np.abs(each - expected[pair % DISTINCT]) * gaps_s[pair]
        assert off.mean() <= 0.05
        assert np.quantile(off, 0.99) <= 0.5
    assert not found[given[2] == 0].any()


@pytest.mark.parametrize("count", [1, 2, 7, 64, 256, 512])
def test_opencvs_flow_for_any_batch(count: int) -> None:
    flow, given = CudaFlow(most_pairs=512), batch(count)
    found = flow.pairs(*given)
    assert found.shape == (count, 2, 56, 56)
    assert found.dtype == np.float32
    close(found, given, flow.params)
    np.testing.assert_array_equal(found, flow.pairs(*given))
    for pair in range(DISTINCT, count):  # a batch of N is N batches of one, to the last bit
        np.testing.assert_array_equal(found[pair], found[pair % DISTINCT])


@pytest.mark.parametrize(
    "change",
    [
        {"variational_iterations": 0},
        {"finest_scale": 1},
        {"finest_scale": 0, "size": 112},
        {"patch_size": 4, "patch_stride": 3, "size": 28},
        {"mean_normalisation": False},
    ],
)
def test_opencvs_flow_with_other_settings(change: dict[str, Any]) -> None:
    params, given = FlowParams(**change), batch(DISTINCT)
    close(CudaFlow(params, most_pairs=DISTINCT).pairs(*given), given, params)


def test_the_error_against_known_warps_is_opencvs() -> None:
    params, count = FlowParams(), 64
    previous, crop, truth = (
        np.stack(each) for each in zip(*(warped(n, 112) for n in range(count)), strict=True)
    )
    truth = truth.reshape(count, 2, params.size, 2, params.size, 2).mean((3, 5))  # as fine as the flow
    ours = CudaFlow(params, most_pairs=count).pairs(previous, crop, np.full(count, SECOND_NS))
    opencv = Flow(params)
    theirs = np.stack([opencv.pair(*pair, SECOND_NS) for pair in zip(previous, crop, strict=True)])
    errors = [np.linalg.norm(found - truth, axis=1).mean() for found in (ours, theirs)]
    assert errors[1] < 1.0  # the warps are what they are said to be
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def test_a_small_batch_leaves_the_rest_alone() -> None:
    flow, given = CudaFlow(most_pairs=4), batch(4)
    before = flow.pairs(*given)
    flow.pairs(*(each[1:2] for each in given))
    np.testing.assert_array_equal(flow.speed.copy_to_host()[1:], before[1:])


def on_stream(flow: CudaFlow, stream: Any) -> Callable[[Batch], np.ndarray]:
    """Copies and launches on one stream."""

    def run(given: Batch) -> np.ndarray:
        buffers = (flow.previous, flow.crop, flow.gap_ns)
        for buffer, values in zip(buffers, given, strict=True):
            buffer.copy_to_device(values, stream=stream)
        flow.launch(len(given[0]), stream)
        found: np.ndarray = flow.speed.copy_to_host(stream=stream)
        stream.synchronize()
        return found

    return run


def test_any_stream_gives_the_same() -> None:
    from numba import cuda

    flow, given = CudaFlow(most_pairs=16), batch(16)
    expected = flow.pairs(*given)
    np.testing.assert_array_equal(on_stream(flow, cuda.stream())(given), expected)


def test_a_graph_replays_it_on_torchs_own_memory() -> None:
    torch = pytest.importorskip("torch")
    from numba import cuda

    count = 16
    flow, given = CudaFlow(most_pairs=count), batch(count)
    expected = flow.pairs(*given)
    previous, crop, gap_ns = (torch.as_tensor(each).cuda() for each in given)
    speed = torch.zeros((count, 2, 56, 56), device="cuda")
    names = {"previous": previous, "crop": crop, "gap_ns": gap_ns, "speed": speed}
    arrays = {name: cuda.as_cuda_array(tensor, sync=False) for name, tensor in names.items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flow.launch(count, cuda.external_stream(torch.cuda.current_stream().cuda_stream), **arrays)
    for _ in range(2):
        speed.zero_()
        graph.replay()
        torch.cuda.synchronize()
        np.testing.assert_array_equal(speed.cpu().numpy(), expected)
    crop.copy_(previous)  # nobody moves
    graph.replay()
    torch.cuda.synchronize()
    assert speed.abs().max() < 1e-3


def test_the_benchmark_times_it() -> None:
    found = gpu_times(FlowParams(), batch(4), repeats=3)
    assert found["launched"]["p50"] > 0


def test_what_does_not_fit_is_refused() -> None:
    flow, (previous, crop, gap_ns) = CudaFlow(most_pairs=2), batch(3)
    with pytest.raises(ValueError, match="room for"):
        flow.pairs(previous, crop, gap_ns)
    with pytest.raises(ValueError, match="room for 1 to 2"):
        flow.launch(0)
    with pytest.raises(ValueError, match=r"\(2, 112, 112\) uint8 is needed"):
        flow.pairs(previous[:2, 1:], crop[:2], gap_ns[:2])
    with pytest.raises(ValueError, match="later than its crop"):
        flow.pairs(previous[:2], crop[:2], -gap_ns[:2])
    with pytest.raises(BackendError, match="no room"):
        CudaFlow(most_pairs=10**8)
