"""Following several faces: each keeps its number while it is in view, whatever the others do.

The rules are shown with painted faces (see `test_face`); that faces are not confused, on clips: two of real
people put into one picture, where they cross, leave and return, and clips with several people.
"""

import itertools
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_face import MS, SHARED, PaintedFinder, bundled, clip, finder, picture, yunet  # noqa: F401

from engine.signals.assignment import assignment
from engine.signals.faces import FacesTracker
from engine.types import Frame, Observation
from tests.peers.clip import write_clip

FPS = 25
RED, BLUE, GREEN = 2, 0, 1


def watch(tracker: FacesTracker, images, start_ns: int = 0, step_ns: int = 33 * MS) -> list[Observation]:
    return [
        tracker.observe(Frame(t_ns=start_ns + n * step_ns, seq=n, image=image))
        for n, image in enumerate(images)
    ]


def numbers(observations: list[Observation]) -> list[tuple[int, ...]]:
    return [tuple(face.track for face in observation.faces) for observation in observations]


@given(
    rows=st.integers(0, 4),
    columns=st.integers(0, 4),
    seed=st.integers(0, 10_000),
    alone=st.sampled_from([0.3, 0.6, 5.0]),
)
def test_the_assignment_is_the_cheapest_of_all(rows: int, columns: int, seed: int, alone: float) -> None:
    cost = np.random.default_rng(seed).random((rows, columns))

    def total(pairs: list[tuple[int, int]]) -> float:
        return sum(cost[pair] for pair in pairs) + alone * (rows - len(pairs))

    places = [*range(columns), *[-1] * rows]
    cheapest = min(
        total([(row, place) for row, place in enumerate(chosen) if place >= 0])
        for chosen in set(itertools.permutations(places, rows))
    )
    found = assignment(cost, alone)
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)
    assert total(found) == pytest.approx(cheapest)


def test_each_face_has_a_number_and_its_own_crop() -> None:
    pair = picture((RED, 100, 150, 100), (BLUE, 400, 200, 120))
    observations = watch(FacesTracker(PaintedFinder(), most=4), [pair] * 10)
    assert numbers(observations) == [(0, 1)] * 10, "the largest first"
    large, small = observations[-1].faces
    np.testing.assert_allclose(large.box, (400, 200, 120, 120), atol=2)
    np.testing.assert_allclose(small.box, (100, 150, 100, 100), atol=2)
    assert (large.crop.mean() < small.crop.mean()) and large.gap_ns == small.gap_ns == 66 * MS  # noqa: PT018
    assert observations[-1].face is large
    assert observations[-1].others == (small,)


def test_no_more_faces_than_asked_for_and_the_largest_of_them() -> None:
    three = picture((RED, 50, 150, 100), (BLUE, 400, 200, 140), (GREEN, 250, 50, 120))
    observations = watch(FacesTracker(PaintedFinder(), most=2), [three] * 30)
    assert set(numbers(observations)) == {(0, 1)}
    assert [round(face.box[2], -1) for face in observations[-1].faces] == [140, 120]


def test_a_face_that_leaves_changes_no_other_and_returns_with_its_number_within_a_second() -> None:
    both, one = (picture((RED, 100, 150, 100), (BLUE, 400, 200, 120)), picture((RED, 100, 150, 100)))
    images = [both] * 10 + [one] * 25 + [both] * 10 + [one] * 40 + [both] * 20
    seen = numbers(watch(FacesTracker(PaintedFinder(), most=2), images))
    assert all(1 in each for each in seen)
    assert set(seen[:10]) == {(0, 1)}
    assert set(seen[10:35]) == {(1,)}
    assert seen[44] == (0, 1)
    assert set(seen[48:85]) == {(1,)}
    assert seen[-1] == (1, 2), "after more than a second it is another face"


def test_a_much_larger_face_takes_the_seat_of_the_smallest() -> None:
    pair = [picture((RED, 50, 50, 80), (BLUE, 400, 50, 100))] * 10
    three = [picture((RED, 50, 50, 80), (BLUE, 400, 50, 100), (GREEN, 180, 230, 180))] * 90
    seen = numbers(watch(FacesTracker(PaintedFinder(), most=2), pair + three))
    assert set(seen[:30]) == {(0, 1)}
    assert seen[-1] == (0, 2)


def test_time_that_steps_back_begins_anew() -> None:
    tracker = FacesTracker(PaintedFinder(), most=2)
    watch(tracker, [picture((RED, 100, 150, 100))] * 5, start_ns=10**9)
    (first, *_) = watch(tracker, [picture((RED, 100, 150, 100))] * 3)
    assert numbers([first]) == [(1,)]
    assert first.faces[0].gap_ns == 0


def heads(name: str, size: tuple[int, int]) -> list[np.ndarray]:
    """The pictures of a clip, cut round the face where it is in the first one, at the size given."""
    frames = [frame.image for frame in clip(name, 75)]
    detector = cv2.FaceDetectorYN.create(str(YUNET), "", frames[0].shape[1::-1], 0.6)
    x, y, width, height = detector.detect(frames[0])[1][0][:4]
    middle, half = (x + width / 2, y + height / 2), 0.75 * height
    ratio = size[0] / size[1]
    left, right = (int(max(middle[0] + sign * half * ratio, 0)) for sign in (-1, 1))
    top, bottom = (int(max(middle[1] + sign * half, 0)) for sign in (-1, 1))
    return [cv2.resize(image[top:bottom, left:right], size) for image in frames]


YUNET = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
WIDTH, HEIGHT, HEAD, SECONDS = 640, 320, (150, 200), 6.5


def crossing(time_s: float) -> tuple[float, float]:
    """Where the middles of the two heads are, in pixels from the left: see the test."""
    a = np.interp(time_s, [0.4, 2.0, 2.4, 2.7, 3.0, 3.3], [120, 520, 520, 760, 760, 520])
    b = np.interp(time_s, [0.4, 2.0, 3.8, 4.1, 5.5, 5.8], [520, 120, 120, -120, -120, 120])
    return float(a), float(b)


@pytest.fixture(
    scope="module", params=[("grid_bbaf2n.mpg", "grid_swiz3n.mpg"), ("talk_d10.mp4", "grid_brbk7n.mpg")]
)
def crossing_clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people in one picture, six and a half seconds; the second one is in front."""
    if not YUNET.is_file():
        pytest.skip("needs ../shared/data/yunet")
    people = [heads(name, HEAD) for name in request.param]

    def show(time_s: float) -> np.ndarray:
        image = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
        number = round(time_s * FPS)
        for person, middle in zip(people, crossing(time_s), strict=True):
            turn = number % (2 * len(person) - 2)
            head = person[min(turn, 2 * len(person) - 2 - turn)]  # to and fro, so that nothing jumps
            left, top = round(middle - HEAD[0] / 2), (HEIGHT - HEAD[1]) // 2
            x, right = max(left, 0), min(left + HEAD[0], WIDTH)
            if right > x:
                image[top : top + HEAD[1], x:right] = head[:, x - left : right - left]
        return image

    path = tmp_path_factory.mktemp("crossing") / "crossing.mp4"
    return write_clip(path, seconds=SECONDS, fps=FPS, audio=False, size=(WIDTH, HEIGHT), picture=show)


def test_faces_that_cross_leave_and_return_keep_their_numbers(crossing_clip: Path, finder) -> None:  # noqa: F811
    """A goes right behind B, who goes left; A is out of view for less than a second, then B for more."""
    tracker = FacesTracker(finder, most=2)
    people: dict[str, Counter[int]] = {"A": Counter(), "B": Counter(), "B again": Counter()}
    for observation in map(tracker.observe, clip(str(crossing_clip), 1000)):
        time_s = observation.t_ns / 1e9
        middles = crossing(time_s)
        if abs(middles[0] - middles[1]) < HEAD[0]:
            continue  # one covers the other, and which of them a face is cannot be told by its place
        for face in observation.faces:
            middle = face.box[0] + face.box[2] / 2
            who = min((0, 1), key=lambda k: abs(middles[k] - middle))
            people["A" if who == 0 else "B" if time_s < 5 else "B again"][face.track] += 1
    (a,), (b,), (again,) = people["A"], people["B"], people["B again"]
    assert len({a, b, again}) == 3
    assert again == max(a, b) + 1
    for name, seconds in (("A", 6.5 - 0.6 - 0.7), ("B", 3.9 - 0.6), ("B again", 0.55)):
        assert people[name].total() > 0.85 * FPS * seconds, name


@pytest.mark.parametrize(
    ("name", "most", "people"), [("three_people.avi", 4, 3), ("interview_two_people.mp4", 3, 2)]
)
def test_real_people_are_told_apart(name: str, most: int, people: int, finder) -> None:  # noqa: F811
    """Six seconds, every second picture; there is room for one more, and nobody takes it."""
    tracker = FacesTracker(finder, most=most)
    seen = [tracker.observe(frame) for frame in clip(name, 180)[::2]]
    assert {number for each in numbers(seen) for number in each} == set(range(people))
    assert numbers(seen).count(tuple(range(people))) > 0.95 * len(seen)
    for one, other in itertools.pairwise(seen):
        for before, after in zip(one.faces, other.faces, strict=False):
            way = np.hypot(*(np.array(after.box[:2]) - np.array(before.box[:2])))
            assert after.track != before.track or way < max(after.box[2:])
