"""Following one face: what is sought where, whose number it gets, and what is cut out.

The tracker's rules are shown with a finder that knows painted faces (a real finder of a simple world); what
the bundle's finder and YuNet find is shown on clips.
"""

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from engine.bundle import load_bundle
from engine.signals.align import TEMPLATE
from engine.signals.face import Detection, FaceTracker, load_finder
from engine.signals.finder import BundledFinder
from engine.types import Frame

SHARED = Path(__file__).parents[2] / ".." / "shared"
MS = 1_000_000


class PaintedFinder:
    """Finds red, green and blue squares and notes the sizes of the pictures it was given.

    The points lie so that a crop shows the square with a margin around it, 21 pixels wide.
    """

    name = "painted"

    def __init__(self):
        self.shapes = []

    def find(self, image):
        self.shapes.append(image.shape[:2])
        found = []
        colours = cv2.split(image)
        for channel, colour in enumerate(colours):
            others = cv2.max(colours[channel - 1], colours[channel - 2])
            x, y, width, height = cv2.boundingRect(np.uint8(cv2.subtract(colour, others) > 100))
            if width < 3 or height < 3:
                continue
            if 0.6 < width / height < 1.6:
                points = ((TEMPLATE / 112 * 1.6 - 0.3) * (width, height) + (x, y)).astype(np.float32)
                box = (float(x), float(y), float(width), float(height))
                found.append(Detection(box=box, points=points, confidence=0.9))
        return found


class PaintedFollower(PaintedFinder):
    """Follows whatever is asked for, and counts; finds only what is there."""

    digest = "painted"

    def __init__(self):
        super().__init__()
        self.asked = 0

    def find(self, image):
        return super().find(cv2.merge([np.full_like(image, 100)] * 2 + [255 - image]))

    def follow(self, image, face):
        self.asked += 1
        return replace(face, followed=True, confidence=0.8)


def picture(*faces, grey=160, size=(640, 480)):
    """A picture with painted faces, each (channel, x, y, side)."""
    image = np.full((size[1], size[0], 3), grey, np.uint8)
    for channel, x, y, side in faces:
        colour = [0, 0, 0]
        colour[channel] = 255
        cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), colour, -1)
    return image


def watch(tracker, images, start_ns=0, step_ns=33 * MS):
    return [
        tracker.observe(Frame(t_ns=start_ns + n * step_ns, seq=n, image=image))
        for n, image in enumerate(images)
    ]


def faces_of(observations):
    return [o.face for o in observations]


def tracks(observations):
    return [o.face.track if o.face else None for o in observations]


A = (2, 200, 150, 100)
AWAY = (0, 480, 330, 100)


def test_the_first_face_has_no_earlier_picture():
    (observation,) = watch(FaceTracker(PaintedFinder()), [picture(A)])
    face = observation.face
    np.testing.assert_allclose(face.box, (200, 150, 100, 100), atol=2)
    assert face.crop.shape == face.previous.shape == (112, 112)
    assert face.crop.dtype == np.uint8
    assert face.gap_ns == 0
    np.testing.assert_array_equal(face.previous, face.crop)
    assert (observation.t_ns, observation.seq, face.track, face.confidence) == (0, 0, 0, 0.9)


def test_a_finder_that_can_follow_looks_where_the_face_was_and_finds_it_anew_twice_a_second():
    finder = PaintedFollower()
    (first, *later) = watch(FaceTracker(finder), [grey_face()] * 60)
    np.testing.assert_allclose(first.face.box, (200, 150, 100, 100), atol=4)
    assert set(tracks(later)) == {0}
    assert [o.face.confidence for o in later].count(0.8) > 50
    assert 2 <= finder.shapes.count((160, 160)) <= 6


def test_what_only_looks_like_the_face_is_given_up_when_it_is_not_found_anew():
    seen = tracks(watch(FaceTracker(PaintedFollower()), [grey_face()] * 3 + [picture()] * 120))
    assert seen[:3] == [0, 0, 0]
    gone = seen.index(None)
    assert 1.8 < (gone - 3) * 0.033 < 2.2
    assert set(seen[gone:]) == {None}


def grey_face():
    """A dark square, which `PaintedFollower` finds."""
    image = picture()
    image[150:250, 200:300] = 0
    return image


def left_edge(picture):
    """Where the painted (darker) square begins in a crop, in pixels and parts of one."""
    row = picture[56].astype(float)
    return float(((row - row.min()) / (row.max() - row.min()))[:56].sum())


def test_the_crop_is_the_face_on_the_template():
    image = picture(A)
    eye = (TEMPLATE[0] / 112 * 160 - 30 + (200, 150)).round().astype(int)
    cv2.circle(image, tuple(int(v) for v in eye), 5, (0, 0, 140), -1)
    crop = FaceTracker(PaintedFinder()).observe(Frame(t_ns=0, seq=0, image=image)).face.crop
    rows, columns = np.nonzero(crop < 60)
    np.testing.assert_allclose((columns.mean(), rows.mean()), TEMPLATE[0], atol=1.5)
    assert left_edge(crop) == pytest.approx(21, abs=1.5)


@pytest.mark.parametrize(
    ("step_ms", "gap_ms"),
    [(4, 68), (10, 70), (16, 64), (33, 66), (40, 80), (100, 100), (150, 150), (151, 0), (400, 0)],
)
def test_previous_is_the_picture_nearest_to_a_tick_ago_through_the_same_box(step_ms, gap_ms):
    greys = list(range(16, 256, 4))
    images = [picture(A, grey=grey) for grey in greys]
    face = watch(FaceTracker(PaintedFinder()), images, step_ns=step_ms * MS)[-1].face
    assert face.gap_ns == gap_ms * MS
    assert face.crop[4, 4] == greys[-1]
    assert face.previous[4, 4] == greys[-1 - gap_ms // step_ms]
    assert (face.crop == 76).sum() == (face.previous == 76).sum() > 4000


def test_both_pictures_go_through_one_transform_however_the_face_moves():
    images = [picture((2, 200 + 6 * n, 150, 100)) for n in range(12)]
    face = watch(FaceTracker(PaintedFinder()), images)[-1].face
    assert face.gap_ns == 66 * MS
    assert left_edge(face.crop) - left_edge(face.previous) == pytest.approx(12 * 112 / 160, abs=0.7)


def test_looks_near_the_last_place_and_scans_the_whole_now_and_then():
    finder = PaintedFinder()
    watch(FaceTracker(finder), [picture(A, size=(1280, 720))] * 92)
    near = [shape for shape in finder.shapes if shape[0] == shape[1]]
    scans = [shape for shape in finder.shapes if shape[0] != shape[1]]
    assert len(near) in (92, 93)
    assert set(near) == {(160, 160)}
    assert set(scans) == {(180, 320)}
    assert 5 <= len(scans) <= 7


def test_with_nobody_in_view_there_are_no_more_scans_than_ticks():
    finder = PaintedFinder()
    observations = watch(FaceTracker(finder), [picture()] * 120, step_ns=10 * MS)
    assert faces_of(observations) == [None] * 120
    assert len(finder.shapes) <= 21


def test_a_short_loss_keeps_the_number_and_a_long_one_gives_the_next():
    shown, nobody = [picture(A)] * 5, picture()
    short = watch(FaceTracker(PaintedFinder()), [*shown, *[nobody] * 20, *shown])
    assert tracks(short) == [0] * 5 + [None] * 20 + [0] * 5
    long = watch(FaceTracker(PaintedFinder()), [*shown, *[nobody] * 40, *shown])
    assert set(tracks(long)[:45]) == {0, None}
    assert tracks(long)[-1] == 1


def test_another_face_elsewhere_waits_a_moment_and_gets_a_number_of_its_own():
    observations = watch(FaceTracker(PaintedFinder()), [picture(A)] * 5 + [picture(AWAY)] * 20)
    numbers = tracks(observations)
    waited = numbers[5:].index(1)
    assert numbers == [0] * 5 + [None] * waited + [1] * (20 - waited)
    assert 8 <= waited <= 11


def test_a_face_beside_the_followed_one_changes_nothing_unless_it_is_much_larger():
    pair = [picture((2, 100, 150, 90), (0, 400, 150, 110))] * 150
    assert set(tracks(watch(FaceTracker(PaintedFinder()), [picture((2, 100, 150, 90)), *pair]))) == {0}
    pair = [picture((2, 100, 150, 90), (0, 400, 150, 200))] * 150
    observations = watch(FaceTracker(PaintedFinder()), [picture((2, 100, 150, 90)), *pair])
    numbers = tracks(observations)
    change = numbers.index(1)
    assert numbers == [0] * change + [1] * (151 - change)
    assert 1_000 <= 33 * change <= 2_100
    np.testing.assert_allclose(observations[-1].face.box, (400, 150, 200, 200), atol=4)


def test_the_largest_face_is_taken_at_first():
    (face,) = faces_of(watch(FaceTracker(PaintedFinder()), [picture((2, 20, 20, 60), (0, 300, 150, 150))]))
    np.testing.assert_allclose(face.box, (300, 150, 150, 150), atol=3)


def test_a_quick_head_is_followed_without_a_new_number():
    images = [picture((2, 20 + 25 * n, 150, 100)) for n in range(20)]
    observations = watch(FaceTracker(PaintedFinder()), images)
    assert tracks(observations) == [0] * 20
    slow_camera = [picture((2, 20 + 120 * n, 150, 100)) for n in range(4)]
    assert tracks(watch(FaceTracker(PaintedFinder()), slow_camera, step_ns=500 * MS)) == [0] * 4


class Shaken(PaintedFinder):
    """A finder whose points are off by a little, differently in each picture."""

    def __init__(self, pixels):
        super().__init__()
        self.generator, self.pixels = np.random.default_rng(8), pixels

    def find(self, image):
        return [
            Detection(
                box=d.box,
                points=d.points + self.generator.normal(0, self.pixels, (5, 2)).astype(np.float32),
                confidence=d.confidence,
            )
            for d in super().find(image)
        ]


def test_jitter_is_smoothed():
    followed = faces_of(watch(FaceTracker(Shaken(0.8)), [picture(A)] * 60))
    finder = Shaken(0.8)
    alone = [watch(FaceTracker(finder), [picture(A)])[0].face for _ in range(60)]
    steps = [np.std(np.diff([left_edge(face.crop) for face in faces])) for faces in (followed, alone)]
    assert steps[0] < 0.5 * steps[1]


def test_a_jump_is_taken_over_at_once():
    tracker = FaceTracker(PaintedFinder())
    watch(tracker, [picture(A)] * 10)
    jumped = tracker.observe(Frame(t_ns=330 * MS, seq=10, image=picture((2, 250, 150, 100)))).face
    assert left_edge(jumped.crop) == pytest.approx(21, abs=1.5)


def test_clear_forgets_pictures_and_place_and_keeps_the_number():
    tracker = FaceTracker(PaintedFinder())
    tracker.clear()
    watch(tracker, [picture(A)] * 5)
    tracker.clear()
    (first, *_) = watch(tracker, [picture(AWAY)] * 3)
    assert first.face.gap_ns == 0
    assert first.face.track == 0
    np.testing.assert_allclose(first.face.box, (480, 330, 100, 100), atol=2)
    assert set(tracks(watch(tracker, [picture()] * 40 + [picture(A)] * 2, start_ns=10**9))) == {None, 1}


def test_time_that_steps_back_uses_no_picture_of_the_future():
    tracker = FaceTracker(PaintedFinder())
    watch(tracker, [picture(A)] * 5, start_ns=10**9)
    observations = watch(tracker, [picture(A)] * 3)
    assert [f.gap_ns // MS for f in faces_of(observations)] == [0, 33, 66]


@pytest.mark.parametrize("place", [(-25, 150), (565, 150), (300, -25), (300, 405), (-40, -40), (590, 430)])
def test_a_face_cut_by_the_border_is_followed(place):
    images = [picture((2, *place, 100))] * 4
    observations = watch(FaceTracker(PaintedFinder()), images)
    assert tracks(observations) == [0] * 4
    x, y, width, height = observations[-1].face.box
    assert x <= max(place[0], 0) + 4
    assert y <= max(place[1], 0) + 4
    assert x + width >= min(place[0] + 100, 640) - 4
    assert y + height >= min(place[1] + 100, 480) - 4


@pytest.mark.parametrize("size", [(1, 1), (7, 500), (500, 7), (33, 31), (4000, 300)])
def test_odd_pictures_do_no_harm(size):
    tracker = FaceTracker(PaintedFinder())
    watch(tracker, [picture(A)] * 3)
    observations = watch(tracker, [picture(size=size)] * 3, start_ns=10**9)
    assert len(observations) == 3
    assert faces_of(watch(tracker, [picture(A)] * 20, start_ns=2 * 10**9))[-1] is not None


def test_a_change_of_size_drops_the_earlier_pictures():
    tracker = FaceTracker(PaintedFinder())
    watch(tracker, [picture(A)] * 5)
    face = tracker.observe(Frame(t_ns=200 * MS, seq=5, image=picture(A, size=(800, 600)))).face
    assert face.gap_ns == 0


def clip(name, most=60):
    path = SHARED / "media" / name
    if not path.is_file():
        pytest.skip("needs ../shared/media")
    frames = []
    with av.open(str(path)) as container:
        for n, frame in enumerate(container.decode(video=0)):
            if n == most:
                break
            frames.append(Frame(t_ns=round(frame.time * 1e9), seq=n, image=frame.to_ndarray(format="bgr24")))
    return frames


@pytest.fixture(scope="module")
def yunet():
    path = SHARED / "data" / "yunet" / "face_detection_yunet_2023mar.onnx"
    if not path.is_file():
        pytest.skip("needs ../shared/data/yunet")
    return load_finder(path)[0]


@pytest.fixture(scope="module")
def bundled():
    return BundledFinder(load_bundle().faces)


@pytest.fixture(scope="module", params=["bundled", "yunet"])
def finder(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("name", "least"), [("grid_bbaf2n.mpg", 1), ("webcam_head_turns.mp4", 0.95), ("office_03.mp4", 0.95)]
)
def test_the_one_face_of_a_clip_is_followed(finder, name, least):
    tracker = FaceTracker(finder)
    faces = [tracker.observe(frame).face for frame in clip(name)]
    found = [face for face in faces if face]
    assert len(found) >= least * len(faces)
    assert {face.track for face in found} == {0}
    assert all(0.5 <= face.confidence <= 1 for face in found)
    assert np.median([face.gap_ns for face in found]) == pytest.approx(66.7 * MS, abs=17 * MS)


def test_nobody_in_view_is_nobody(finder):
    tracker = FaceTracker(finder)
    assert not any(tracker.observe(frame).face for frame in clip("no_face.mp4", 95))


def test_twice_the_same_clip_is_the_same_bit_by_bit(finder):
    frames = clip("webcam_head_turns.mp4", 20)
    runs = [FaceTracker(finder), FaceTracker(finder)]
    for frame in frames:
        first, second = (run.observe(frame).face for run in runs)
        np.testing.assert_array_equal(first.crop, second.crop)
        np.testing.assert_array_equal(first.previous, second.previous)
