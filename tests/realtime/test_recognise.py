"""The schedule and the recogniser without their process: time is an argument, stream and bundle are real."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends import choose
from engine.bundle import load_bundle
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Face, Observation
from engine.window import UNBOUNDED_NS
from realtime.messages import End, Scored
from realtime.schedule import Schedule
from realtime.scoring import Recogniser
from tests.engine.small_bundle import write_bundle

MS = 1_000_000
EPOCH = 7 * SECOND_NS + 123


def _schedule(
    rate: Fraction = Fraction(5), max_wait_ns: int | None = 80 * MS, epoch_ns: int = EPOCH
) -> Schedule:
    return Schedule(epoch_ns, 15, rate, max_wait_ns)


@given(
    k=st.integers(1, 10_000),
    rate=st.fractions(Fraction(1, 10), Fraction(15), max_denominator=1000),
    epoch_ns=st.integers(0, 1 << 60),
)
def test_every_end_is_the_last_tick_border_in_time(k: int, rate: Fraction, epoch_ns: int) -> None:
    end_ns = _schedule(rate, epoch_ns=epoch_ns).end_ns(k)
    tick = int(k / rate * 15)
    assert end_ns == epoch_ns + tick * SECOND_NS // 15
    assert end_ns <= epoch_ns + k / rate * SECOND_NS


def test_a_window_is_due_when_the_bounds_have_passed_it() -> None:
    schedule = _schedule()
    assert schedule.due(EPOCH, EPOCH + 199 * MS) == []
    assert schedule.due(EPOCH, EPOCH + 200 * MS) == [EPOCH + 200 * MS]
    assert schedule.due(EPOCH, EPOCH + 200 * MS) == [], "once"


def test_a_silent_modality_is_waited_for_no_longer_than_max_wait() -> None:
    schedule = _schedule()
    assert schedule.wake_ns() == EPOCH + 280 * MS
    assert schedule.due(EPOCH + 280 * MS - 1, EPOCH) == []
    assert schedule.due(EPOCH + 280 * MS, EPOCH) == [EPOCH + 200 * MS]


def test_when_behind_older_windows_are_skipped_and_counted() -> None:
    schedule = _schedule()
    assert schedule.due(EPOCH + 1100 * MS, EPOCH) == [EPOCH + 1000 * MS]
    assert schedule.skipped == 4


def test_without_a_clock_nothing_is_skipped_however_late_it_is() -> None:
    schedule = _schedule(max_wait_ns=None)
    assert schedule.wake_ns() is None
    assert schedule.due(EPOCH + 100 * SECOND_NS, EPOCH + 500 * MS) == [EPOCH + 200 * MS, EPOCH + 400 * MS]
    assert schedule.rest(EPOCH + 900 * MS) == [EPOCH + 600 * MS, EPOCH + 800 * MS]
    assert schedule.skipped == 0


def test_a_successor_begins_with_the_present() -> None:
    schedule = _schedule()
    schedule.begin(EPOCH + 5 * SECOND_NS)
    assert schedule.due(EPOCH + 5 * SECOND_NS, EPOCH + 5 * SECOND_NS) == [EPOCH + 5 * SECOND_NS]
    assert schedule.skipped == 0
    early = _schedule()
    early.begin(EPOCH - SECOND_NS)
    assert early.due(EPOCH, EPOCH + 200 * MS) == [EPOCH + 200 * MS]


@pytest.fixture(scope="module")
def recognition(tmp_path_factory: pytest.TempPathFactory) -> Recognition:
    bundle = load_bundle(write_bundle(tmp_path_factory.mktemp("bundle")))
    return Recognition(bundle, choose(bundle, "onnx").backend)


@pytest.fixture
def stream(recognition: Recognition) -> Iterator[Stream]:
    stream = Stream(recognition, EPOCH)
    yield stream
    stream.close()


def _picture(t_ns: int) -> Observation:
    crop = np.random.default_rng(t_ns % 1000).integers(0, 256, (112, 112), np.uint8)
    face = Face(crop=crop, previous=crop, gap_ns=0, box=(1.0, 2.0, 3.0, 4.0), confidence=0.9, track=0)
    return Observation(t_ns=t_ns, seq=0, face=face)


def _sound(t_ns: int) -> Block:
    samples = np.random.default_rng(t_ns % 1000).standard_normal(320).astype(np.float32) / 10
    return Block(t_ns=t_ns, seq=0, samples=samples)


def _items(seconds: float, video: bool = True, audio: bool = True) -> list[Observation | Block]:
    pictures = [_picture(EPOCH + k * SECOND_NS // 30) for k in range(round(30 * seconds)) if video]
    sound = [_sound(EPOCH + k * SECOND_NS // 50) for k in range(round(50 * seconds)) if audio]
    return sorted([*pictures, *sound], key=lambda item: item.t_ns)


def _score(recogniser: Recogniser, end_ns: int, due_ns: int) -> Scored:
    (stream,) = recogniser.targets(end_ns)
    return recogniser.scored(stream.scores(end_ns), due_ns)


def _play(
    recogniser: Recogniser, items: list[Observation | Block], late_ns: int = 0
) -> list[tuple[int, float, float]]:
    """Each item at its time; returns (end after the epoch, valid video, valid audio) of what was scored."""
    scored = []
    for item in items:
        now_ns = item.t_ns + late_ns
        recogniser.take(item, now_ns)
        for end_ns in recogniser.due(now_ns):
            scores = _score(recogniser, end_ns, now_ns).scores
            scored.append((scores.t_ns - EPOCH, scores.valid_video, scores.valid_audio))
    return scored


def test_both_senses_are_scored_when_both_have_come(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(), live=True)
    scored = _play(recogniser, _items(2.0))
    assert [end for end, _, _ in scored] == [200 * MS * k for k in range(1, 10)]
    # All ticks; of the bins those are missing whose frames begin before the first sample.
    assert scored[-1][1] == 27 / 60
    assert scored[-1][2] == pytest.approx(180 / 400, abs=2 / 400)


def test_a_dead_microphone_does_not_hold_up_the_camera(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(), live=True)
    scored = _play(recogniser, _items(2.0, audio=False))
    assert [end for end, _, _ in scored] == [200 * MS * k for k in range(1, 10)]
    assert all(audio == 0 for _, _, audio in scored)


def test_what_is_not_expected_is_not_waited_for(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(), live=True)
    recogniser.expect(video=True, audio=False)
    recogniser.take(_picture(EPOCH + 200 * MS), EPOCH + 203 * MS)
    assert recogniser.due(EPOCH + 203 * MS) == [EPOCH + 200 * MS]


def test_the_latency_names_the_age_of_the_picture(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(), live=True)
    recogniser.expect(video=True, audio=False)
    recogniser.take(_picture(EPOCH + 200 * MS), EPOCH + 203 * MS)
    scored = _score(recogniser, EPOCH + 200 * MS, EPOCH + 204 * MS)
    assert (scored.capture_ns, scored.due_ns) == (3 * MS, EPOCH + 204 * MS)


def test_the_end_brings_the_last_windows_and_no_more(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(max_wait_ns=None), live=False)
    scored = _play(recogniser, _items(1.0))
    assert not recogniser.ended
    recogniser.take(End(("video", "audio"), EPOCH + SECOND_NS), 0)
    assert recogniser.ended
    rest = recogniser.due(0)
    assert [end for end, _, _ in scored] + [end - EPOCH for end in rest] == [
        200 * MS * k for k in range(1, 6)
    ]
    assert recogniser.due(0) == []


def test_two_sources_end_one_by_one(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(), live=True)
    recogniser.take(End(("video",), EPOCH + SECOND_NS), 0)
    assert not recogniser.ended
    assert stream.video_bound_ns == UNBOUNDED_NS
    recogniser.take(End(("audio",), EPOCH + 2 * SECOND_NS), 0)
    assert recogniser.due(0)[-1] == EPOCH + 2 * SECOND_NS


def test_without_a_clock_one_sense_bounds_the_other(stream: Stream) -> None:
    recogniser = Recogniser(stream, _schedule(max_wait_ns=None), live=False)
    scored = _play(recogniser, _items(0.5) + _items(3.0, video=False)[25:])
    assert [end for end, _, _ in scored] == [200 * MS * k for k in range(1, len(scored) + 1)]
    assert scored[-1][0] >= 2600 * MS


def test_the_order_between_the_senses_changes_nothing(recognition: Recognition) -> None:
    """Sound that is a block later than the picture, or the other way round: the same scores, bit by bit."""
    answers = []
    for shift_ns in (-40 * MS, 0, 40 * MS):
        stream = Stream(recognition, EPOCH)
        recogniser = Recogniser(stream, _schedule(max_wait_ns=None), live=False)
        items = sorted(_items(1.5), key=lambda item: item.t_ns + shift_ns * isinstance(item, Block))
        got = []
        for item in items:
            recogniser.take(item, 0)
            got += [_score(recogniser, end_ns, 0).scores for end_ns in recogniser.due(0)]
        answers.append([(scores.t_ns, scores.scores.tobytes()) for scores in got])
        stream.close()
    shortest = min(map(len, answers))
    assert shortest >= 5
    assert answers[0][:shortest] == answers[1][:shortest] == answers[2][:shortest]
