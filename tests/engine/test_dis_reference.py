"""The NumPy reference is OpenCV's flow: on warps that are known, and on faces of real clips."""

from pathlib import Path
from typing import Any

import dis_reference
import numpy as np
import pytest

from benchmarks.pairs import faces_of, warped
from engine.signals.finder import load_finder
from engine.signals.flow import Flow, FlowParams

SHARED = Path(__file__).parents[2] / ".." / "shared"
YUNET = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
MEAN_PX, P99_PX = 0.05, 0.5
"""What the flow may differ from OpenCV's, in crop pixels of one pair."""


def opencv(previous: np.ndarray, crop: np.ndarray, params: FlowParams) -> np.ndarray:
    """(2, S, S): OpenCV's flow before it is made smaller."""
    found = Flow(params)._dis.calc(np.ascontiguousarray(previous), np.ascontiguousarray(crop), None)
    return found.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"variational_iterations": 0},
        {"finest_scale": 1},
        {"patch_size": 4, "patch_stride": 3},
        {"mean_normalisation": False},
        {"variational_alpha": 5.0, "variational_delta": 1.0, "variational_gamma": 30.0},
    ],
)
def test_opencvs_flow_with_any_settings(change: dict[str, Any]) -> None:
    params = FlowParams(**change)
    for seed in range(3):
        previous, crop, _ = warped(seed, 112)
        off = np.abs(dis_reference.pixels(previous, crop, params) - opencv(previous, crop, params))
        # a patch may rest one step earlier where rounding decides whether its error still falls
        assert off.mean() < 1e-3
        assert off.max() < 0.1


def test_the_error_against_the_truth_is_opencvs() -> None:
    params = FlowParams()
    ours, theirs = [], []
    for seed in range(8):
        previous, crop, truth = warped(seed, 112)
        ours.append(np.hypot(*(dis_reference.pixels(previous, crop, params) - truth)).mean())
        theirs.append(np.hypot(*(opencv(previous, crop, params) - truth)).mean())
    assert np.mean(theirs) < 1.0  # the warps are what they are said to be
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)


CLIPS = [
    *(f"media/{name}" for name in ("grid_bbaf2n.mpg", "tv_3.mp4", "smile.mp4")),
    *(f"data/real_faces_dev/{name}_01.mp4" for name in ("01-01-01", "01-04-05", "03-02-04")),
]


@pytest.mark.parametrize("clip", CLIPS)
def test_faces_of_real_clips(clip: str) -> None:
    file = SHARED / clip
    if not file.is_file():
        pytest.skip(f"{clip} is not at hand")
    finder, _ = load_finder(face_model=YUNET, offline=True)
    faces = faces_of(file, finder, 24)
    assert len(faces) == 24
    params, speed = FlowParams(), Flow()
    for face in faces[::4]:
        off = np.abs(
            dis_reference.pixels(face.previous, face.crop, params) - opencv(face.previous, face.crop, params)
        )
        assert off.mean() <= MEAN_PX
        assert np.quantile(off, 0.99) <= P99_PX
        np.testing.assert_allclose(
            dis_reference.pair(face.previous, face.crop, face.gap_ns, params),
            speed.pair(face.previous, face.crop, face.gap_ns),
            atol=1e-3 * 1e9 / face.gap_ns,
        )
