"""Flow: direction, scale and unit on known shifts, and no state that carries over."""

import cv2
import numpy as np
import pytest

from engine.signals.flow import VARIATIONAL_EPSILON, Flow, FlowParams

TENTH_NS = 100_000_000


def texture(seed=3, size=260):
    noise = np.random.default_rng(seed).integers(0, 256, (size, size)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def shifted(dx, dy, size=112):
    """Two crops of one texture; the content of the second lies (dx, dy) pixels further right and down."""
    picture = texture()
    return picture[60 : 60 + size, 60 : 60 + size], picture[
        60 - dy : 60 - dy + size, 60 - dx : 60 - dx + size
    ]


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-3, 0), (0, 2), (0, -4), (3, -2)])
@pytest.mark.parametrize("gap_ns", [TENTH_NS, TENTH_NS // 3])
def test_shift_in_pixels_per_second_at_crop_scale(dx, dy, gap_ns):
    flow = Flow().pair(*shifted(dx, dy), gap_ns)
    assert flow.shape == (2, 56, 56)
    assert flow.dtype == np.float32
    inner = np.median(flow[:, 12:-12, 12:-12].reshape(2, -1), axis=1)
    np.testing.assert_allclose(inner, np.array([dx, dy]) * (1e9 / gap_ns), atol=0.25 * 1e9 / gap_ns)


def test_a_patch_moves_where_it_is():
    still = texture()[:112, :112].copy()
    moved = still.copy()
    moved[20:50, 63:93] = still[20:50, 60:90]
    flow = np.abs(Flow().pair(still, moved, TENTH_NS)[0])
    assert flow[14:22, 33:44].mean() > 10
    assert flow[36:, :].mean() < 1


def test_no_earlier_picture_means_no_motion():
    previous, crop = shifted(4, 0)
    assert not Flow().pair(previous, crop, 0).any()


def test_deterministic_whatever_came_before():
    pair = shifted(2, 1)
    used = Flow()
    for other in ((5, 5), (-3, 2)):
        used.pair(*shifted(*other), TENTH_NS)
    np.testing.assert_array_equal(used.pair(*pair, TENTH_NS), Flow().pair(*pair, TENTH_NS))


def test_read_only_bytes_from_a_message_are_fine():
    previous, crop = (np.frombuffer(p.tobytes(), np.uint8).reshape(112, 112) for p in shifted(2, 1))
    assert Flow().pair(previous, crop, TENTH_NS).any()


def test_parameters_reach_opencv():
    pair = shifted(3, 2)
    default = Flow().pair(*pair, TENTH_NS)
    for change in (
        {"finest_scale": 1},
        {"patch_size": 12},
        {"patch_stride": 8},
        {"gradient_descent_iterations": 2},
        {"variational_iterations": 0},
        {"variational_alpha": 2.0},
        {"variational_delta": 50.0},
        {"variational_gamma": 100.0},
        {"mean_normalisation": False},
        {"spatial_propagation": True},
    ):
        assert not np.array_equal(Flow(FlowParams(**change)).pair(*pair, TENTH_NS), default), change
    assert Flow(FlowParams(size=28)).pair(*pair, TENTH_NS).shape == (2, 28, 28)


def test_other_sizes_and_backward_time_are_refused():
    flow = Flow()
    flow.pair(*shifted(1, 0), TENTH_NS)
    previous, crop = shifted(1, 0)
    with pytest.raises(ValueError, match=r"\(96, 96\).*\(112, 112\)"):
        flow.pair(*shifted(1, 0, size=96), TENTH_NS)
    with pytest.raises(ValueError, match="later than the crop"):
        flow.pair(previous, crop, -1)
    with pytest.raises(ValueError, match="at least 64"):
        Flow().pair(previous[:40, :40], crop[:40, :40], TENTH_NS)
    with pytest.raises(ValueError, match="finest_scale"):
        FlowParams(finest_scale=-1)


def test_every_opencv_rounds_as_the_kernels_do() -> None:
    dis = Flow()._dis
    if not hasattr(dis, "getVariationalRefinementEpsilon"):
        pytest.skip("this OpenCV does not let it be chosen")
    assert dis.getVariationalRefinementEpsilon() == pytest.approx(VARIATIONAL_EPSILON)
