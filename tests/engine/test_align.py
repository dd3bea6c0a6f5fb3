"""Alignment: the closed form against OpenCV's estimate, and where pixels land."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.signals.align import TEMPLATE, points_from_box, similarity, warp


def moved(points, scale, angle, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


@given(
    scale=st.floats(0.1, 20),
    angle=st.floats(-3.1, 3.1),
    shift=st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)),
)
def test_undoes_any_similarity_exactly(scale, angle, shift):
    points = moved(TEMPLATE.astype(np.float64), scale, angle, np.array(shift))
    matrix = similarity(points, TEMPLATE)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-6)


def test_agrees_with_opencv_and_nothing_near_is_better():
    generator = np.random.default_rng(4)
    points = moved(TEMPLATE, 2.3, 0.3, (100, 50)) + generator.normal(0, 3, (5, 2))

    def cost(matrix):
        return float(((points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE) ** 2).sum())

    ours = similarity(points, TEMPLATE)
    theirs, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, ransacReprojThreshold=1e6, refineIters=100)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert cost(ours) <= cost(theirs) + 1e-9
    for step in generator.normal(0, 1e-3, (20, 4)):
        a, b, x, y = step
        assert cost(ours) <= cost(ours + np.array([[a, -b, x], [b, a, y]]))


def test_never_reflects():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity(mirrored, TEMPLATE)[:, :2]) >= 0


def test_points_in_one_place_are_refused():
    with pytest.raises(ValueError, match="one place"):
        similarity(np.full((5, 2), 7.0), TEMPLATE)


def ramp(height, width):
    """A smooth picture in which the grey value says where one is (x more than y)."""
    y, x = np.mgrid[:height, :width]
    return np.round(20 + 140 * x / width + 60 * y / height).astype(np.uint8)


@pytest.mark.parametrize("scale", [2.0, 0.9, 0.45, 0.2, 0.11])
def test_pixels_land_where_the_matrix_says(scale):
    image = ramp(900, 1200)
    matrix = np.array([[scale, 0, 56 - scale * 600], [0, scale, 56 - scale * 450]])
    crop = warp(image, matrix)
    y, x = np.mgrid[:112, :112]
    source_x, source_y = (x - matrix[0, 2]) / scale, (y - matrix[1, 2]) / scale
    expected = 20 + 140 * np.clip(source_x, 0, 1199) / 1200 + 60 * np.clip(source_y, 0, 899) / 900
    inside = (source_x > 8) & (source_x < 1190) & (source_y > 8) & (source_y < 890)
    assert np.abs(crop - expected)[inside].max() < 1.5


def test_fine_texture_is_averaged_not_sampled():
    image = (np.indices((800, 800)).sum(0) % 2 * 255).astype(np.uint8)
    crop = warp(image, np.array([[0.25, 0, -30.3], [0, 0.25, -30.7]]))
    assert crop.min() > 120
    assert crop.max() < 135


def test_beyond_the_picture_its_border_goes_on():
    image = np.full((40, 60), 77, np.uint8)
    for matrix in (
        [[1.0, 0, 500], [0, 1.0, 500]],
        [[0.2, 0, -900], [0, 0.2, 900]],
        [[0.001, 0, 0], [0, 0.001, 0]],
    ):
        assert (warp(image, np.array(matrix)) == 77).all()


def test_points_from_a_box_lie_in_it_in_the_template_s_order():
    points = points_from_box((10, 20, 200, 100))
    assert ((points > (10, 20)) & (points < (210, 120))).all()
    assert (np.sign(np.diff(points, axis=0)) == np.sign(np.diff(TEMPLATE, axis=0))).all()
