"""Many streams in one recogniser, without its process: batches change no score, overload is borne evenly.

Time is an argument: a machine that is too slow is one on which each turn comes late.
"""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.backends import choose
from engine.backends.onnx import OnnxBackend
from engine.bundle import load_bundle
from engine.errors import BackendError
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Face, Observation
from realtime.link import Endpoints
from realtime.messages import Routed, Scored, Start
from realtime.recognise import RecogniseJob, _scarce
from realtime.recognise import _streams as _streams_of_a_run
from realtime.schedule import Schedule
from realtime.scoring import Recogniser, Room
from realtime.streams import Pace, Streams
from tests.engine.small_bundle import write_bundle

MS = 1_000_000
EPOCH = 7 * SECOND_NS + 123
NAMES = ("lobby", "desk", "door", "yard", "hall", "roof")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


class Counting(Recognition):
    """A recognition that notes how many faces and windows went through in each batch."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder)
        super().__init__(bundle, choose(bundle, "onnx").backend)
        self.faces: list[int] = []
        self.windows: list[int] = []

    def observe(self, released):  # type: ignore[no-untyped-def]
        listed = [(slot, list(ticks)) for slot, ticks in released]
        if count := sum(len(ticks) for _, ticks in listed):
            self.faces.append(count)
        super().observe(listed)

    def scores(self, due):  # type: ignore[no-untyped-def]
        self.windows.append(len(due))
        return super().scores(due)


class Slow(Pace):
    """The pace of a machine that always takes as long."""

    def took(self, count: int, spent_ns: int) -> None:
        pass


def _streams(recognition: Recognition, names: tuple[str, ...], live: bool = True) -> Streams:
    found = {}
    for name in names:
        schedule = Schedule(EPOCH, 15, Fraction(5), 80 * MS if live else None)
        found[name] = Recogniser(Stream(recognition, EPOCH, at_once=not live), schedule, live, name)
    return Streams(recognition, found, live)


def _items(name: str, seconds: float) -> list[Observation | Block]:
    """30 pictures and 50 blocks a second, another face and voice for each stream."""
    chance = np.random.default_rng(NAMES.index(name))
    items: list[Observation | Block] = []
    for k in range(round(30 * seconds)):
        crop = chance.integers(0, 256, (112, 112), np.uint8)
        face = Face(crop=crop, previous=crop, gap_ns=0, box=(1.0, 2.0, 3.0, 4.0), confidence=0.9, track=0)
        items.append(Observation(t_ns=EPOCH + k * SECOND_NS // 30, seq=k, face=face))
    for k in range(round(50 * seconds)):
        samples = chance.standard_normal(320).astype(np.float32) / 10
        items.append(Block(t_ns=EPOCH + k * SECOND_NS // 50, seq=k, samples=samples))
    return sorted(items, key=lambda item: item.t_ns)


def _play(streams: Streams, names: tuple[str, ...], seconds: float, turn_ns: int) -> list[tuple[int, Scored]]:
    """Everything at its time, with a turn each `turn_ns`; returns what was scored, and when."""
    left = {name: _items(name, seconds) for name in names}
    scored = []
    for now_ns in range(EPOCH + turn_ns, EPOCH + round(seconds * SECOND_NS) + 1, turn_ns):
        for name, items in left.items():
            while items and items[0].t_ns <= now_ns:
                streams.take(Routed(name, items.pop(0)), now_ns)
        streams.encode()
        for batch in streams.due(now_ns):
            scored += [(now_ns, each) for each in streams.score(batch, now_ns)]
    return scored


def test_together_and_alone_the_scores_are_the_same(folder: Path) -> None:
    together, alone = Counting(folder), Counting(folder)
    scored = _play(_streams(together, NAMES[:3]), NAMES[:3], 2.0, 20 * MS)
    assert max(together.faces) == max(together.windows) == 3
    for name in NAMES[:3]:
        ours = [each.scores for _, each in scored if each.stream == name]
        theirs = [each.scores for _, each in _play(_streams(alone, (name,)), (name,), 2.0, 20 * MS)]
        assert [scores.t_ns for scores in ours] == [scores.t_ns for scores in theirs]
        assert len(ours) == 9
        for a, b in zip(ours, theirs, strict=True):
            assert (a.valid_video, a.valid_audio) == (b.valid_video, b.valid_audio)
            for head, values in a.heads.items():
                np.testing.assert_allclose(values, b.heads[head], atol=1e-5)
    assert max(alone.windows) == 1


def test_without_a_clock_no_stream_shares_a_batch(folder: Path) -> None:
    recognition = Counting(folder)
    scored = _play(_streams(recognition, NAMES[:2], live=False), NAMES[:2], 1.0, 400 * MS)
    assert set(recognition.windows) == {1}
    assert Counter(each.stream for _, each in scored) == {"lobby": 4, "desk": 4}


def test_under_overload_every_rate_falls_evenly_and_nothing_piles_up(folder: Path) -> None:
    turn_ns = 700 * MS  # more than three windows and ten ticks a turn
    recognition = Counting(folder)
    streams = _streams(recognition, NAMES)
    streams.faces = Slow(150 * MS / (4 * len(NAMES)))  # and time for four faces of each stream
    scored = _play(streams, NAMES, 7.0, turn_ns)
    rates = {name: streams.counted(name) for name in NAMES}
    assert set(rates.values()) == {(10, 24)}, "scored and skipped, of 34 that were due"
    assert all(streams.counted(name) == (0, 0) for name in NAMES), "counted since the last time"
    # The newest is scored: whatever is late is late by the turn and the wait, however long it lasts.
    assert all(now_ns - each.scores.t_ns <= 200 * MS + 80 * MS for now_ns, each in scored)
    for name, recogniser in streams.recognisers.items():
        assert recogniser.stream.closed == []
        forgone = recogniser.stream.counts["forgone_tick"]
        assert 0 < forgone < 105, name
        newest = [each.scores for _, each in scored if each.stream == name][-1]
        assert newest.valid_video == pytest.approx(1 - forgone / 105, abs=0.12)
        assert newest.valid_audio > 0.9, "sound costs little, and all of it counts"
    assert len({recogniser.stream.counts["forgone_tick"] for recogniser in streams.recognisers.values()}) == 1


def _pictures(tracks: dict[int, tuple[float, float]], seconds: float) -> list[Observation]:
    """30 pictures a second in which each track is seen from one time in seconds to another."""
    chance = np.random.default_rng(3)
    crops = {track: chance.integers(0, 256, (round(30 * seconds), 112, 112), np.uint8) for track in tracks}
    found = []
    for k in range(round(30 * seconds)):
        faces = [
            Face(crop=crops[track][k], previous=crops[track][k], gap_ns=0, box=(1.0, 2.0, 3.0, 4.0),
                 confidence=0.9, track=track)
            for track, (start, end) in tracks.items()
            if start <= k / 30 < end
        ]  # fmt: skip
        first = faces[0] if faces else None
        found.append(
            Observation(t_ns=EPOCH + k * SECOND_NS // 30, seq=k, face=first, others=tuple(faces[1:]))
        )
    return found


def _faces(folder: Path, tracks: dict[int, tuple[float, float]], seconds: float, many: bool) -> list[Scored]:
    """What a stream with these faces and a voice gives."""
    bundle = load_bundle(folder)
    recognition = Recognition(bundle, choose(bundle, "onnx").backend)
    stream = Stream(recognition, EPOCH, at_once=False)
    recogniser = Recogniser(stream, Schedule(EPOCH, 15, Fraction(5), 80 * MS), True, "lobby", many=many)
    streams = Streams(recognition, {"lobby": recogniser}, True)
    voice = [item for item in _items("lobby", seconds) if isinstance(item, Block)]
    scored = []
    for item in sorted([*voice, *_pictures(tracks, seconds)], key=lambda each: each.t_ns):
        streams.take(Routed("lobby", item), item.t_ns)
        streams.encode()
        for batch in streams.due(item.t_ns):
            scored += streams.score(batch, item.t_ns)
    return scored


def test_each_face_has_the_scores_that_it_would_have_alone_with_the_same_voice(folder: Path) -> None:
    together = _faces(folder, {0: (0, 9), 1: (0, 9)}, 3.0, many=True)
    windows = Counter(each.scores.track for each in together)
    assert windows[0] == windows[1] >= 13
    alone = _faces(folder, {0: (0, 9), 1: (9, 9)}, 3.0, many=False)
    ours = [each.scores for each in together if each.scores.track == 0]
    assert len(ours) == len(alone)
    for a, b in zip(ours, (each.scores for each in alone), strict=True):
        assert (a.t_ns, a.valid_video, a.valid_audio) == (b.t_ns, b.valid_video, b.valid_audio)
        for head, values in a.heads.items():
            np.testing.assert_allclose(values, b.heads[head], atol=1e-5)
    others = [each.scores for each in together if each.scores.track == 1]
    assert np.abs(others[-1].heads["video"] - ours[-1].heads["video"]).max() > 1e-3


def test_faces_come_and_go_and_with_nobody_in_view_the_voice_is_scored(folder: Path) -> None:
    scored = _faces(folder, {0: (0.5, 1.5), 1: (1, 6), 2: (5, 6)}, 8.0, many=True)
    spans = {
        track: [
            round((each.scores.t_ns - EPOCH) / SECOND_NS, 1) for each in scored if each.scores.track == track
        ]
        for track in (-1, 0, 1, 2)
    }
    assert (spans[0][0], spans[0][-1]) == (0.6, 2.4), "as long as it may come back"
    assert (spans[1][0], spans[1][-1]) == (1.2, 6.8)
    assert (spans[2][0], spans[2][-1]) == (5.2, 6.8)
    assert set(spans[-1]) == {0.2, 0.4, 7.0, 7.2, 7.4, 7.6, 7.8}
    silent = [each.scores for each in scored if each.scores.track == -1]
    assert all(scores.valid_video == 0 and scores.valid_audio > 0 for scores in silent)


class Scarce(OnnxBackend):
    """An engine with a plan for six tracks."""

    tracks = 6


def _crowd(folder: Path, tracks: dict[str, dict[int, tuple[float, float]]], seconds: float) -> Streams:
    """Streams that have seen these faces on six tracks, a turn each picture."""
    bundle = load_bundle(folder)
    recognition, room, found = Recognition(bundle, Scarce(bundle)), Room(6 - 2 * len(tracks)), {}
    for name in tracks:
        stream = Stream(recognition, EPOCH, at_once=False)
        schedule = Schedule(EPOCH, 15, Fraction(5), 80 * MS)
        found[name] = Recogniser(stream, schedule, True, name, many=True, room=room)
        found[name].expect(video=True, audio=False)
    streams = Streams(recognition, found, True)
    for pictures in zip(*(_pictures(each, seconds) for each in tracks.values()), strict=True):
        for name, picture in zip(tracks, pictures, strict=True):
            streams.take(Routed(name, picture), picture.t_ns)
        streams.encode()
        for batch in streams.due(pictures[0].t_ns):
            streams.score(batch, pictures[0].t_ns)
    return streams


def test_faces_beyond_the_tracks_of_a_plan_are_left_out_and_counted(folder: Path) -> None:
    """Each stream has one face for certain; what is left is for whoever comes first, and comes back."""
    lobby = dict.fromkeys(range(4), (0.0, 1.0))
    streams = _crowd(folder, {"lobby": lobby, "desk": {7: (0.5, 9), 8: (0.5, 9)}}, 1.0)
    followed = {name: sorted(each._seen) for name, each in streams.recognisers.items()}
    assert followed == {"lobby": [0, 1, 2], "desk": [7]}
    lost = {name: each.stream.counts["face_without_track"] for name, each in streams.recognisers.items()}
    assert lost == {"lobby": 30, "desk": 15}, "once a picture"

    streams = _crowd(folder, {"lobby": lobby, "desk": {7: (0.5, 9), 8: (0.5, 9)}}, 3.0)
    followed = {name: sorted(each._seen) for name, each in streams.recognisers.items()}
    assert followed == {"lobby": [], "desk": [7, 8]}
    for recogniser in streams.recognisers.values():
        recogniser.expect(video=False, audio=False)
    assert streams.newly_over() == ["lobby", "desk"]
    recognition = streams.recognition
    assert [recognition.take_slot() for _ in range(4)] == [2, 3, 4, 5], "all of them have come back"
    with pytest.raises(
        BackendError, match=r"^7 tracks are wanted, and this plan keeps 6 tracks: build .* 8\."
    ):
        recognition.take_slot()


def _job(faces: int, *names: str) -> RecogniseJob:
    return RecogniseJob(
        endpoints=Endpoints("", ""),
        streams=names,
        bundle=None,
        engine="auto",
        rate_hz=Fraction(5),
        max_wait_ns=80 * MS,
        live=True,
        faces=faces,
    )


@pytest.mark.parametrize(("faces", "names"), [(1, NAMES), (3, NAMES[:3])])
def test_every_track_of_a_plan_can_be_a_streams(folder: Path, faces: int, names: tuple[str, ...]) -> None:
    """Warming up takes none away, and streams with several faces leave room for one face each."""
    bundle, job = load_bundle(folder), _job(faces, *names)
    assert job.least_tracks == Scarce.tracks
    made = _streams_of_a_run(
        Recognition(bundle, Scarce(bundle)),
        job,
        {name: Start(EPOCH, True, True, True, name) for name in names},
    )
    for recogniser in made.recognisers.values():
        recogniser.take(_pictures({0: (0, 1), 1: (0, 1), 2: (0, 1)}, 0.1)[0], EPOCH)
        assert len(recogniser._seen) == (faces > 1)
        assert recogniser.stream.counts["face_without_track"] == (2 if faces > 1 else 0)


def test_a_plan_with_too_few_tracks_for_every_face_is_told_with_what_to_build(folder: Path) -> None:
    bundle = load_bundle(folder)
    recognition = Recognition(bundle, Scarce(bundle))
    assert _scarce(recognition, _job(1, *NAMES)) is None
    assert _scarce(recognition, _job(2, *NAMES[:2])) is None
    said = _scarce(recognition, _job(5, *NAMES[:3]))
    assert said is not None
    assert said.startswith("18 tracks are wanted, and this plan keeps 6 tracks: build one for more with ")
    assert "--max-streams 32; until then each stream has one face for certain" in said


def test_the_earliest_end_goes_first_and_batches_have_a_limit(folder: Path) -> None:
    streams = _streams(Recognition(load_bundle(folder), choose(load_bundle(folder), "onnx").backend), NAMES)
    for k, recogniser in enumerate(reversed(streams.recognisers.values())):
        recogniser.schedule.epoch_ns -= k * 10 * MS
    streams.windows = Slow(500 * MS / 4)
    batches = list(streams.due(EPOCH + 290 * MS))
    assert [len(batch) for batch in batches] == [4, 2]
    ends = [end_ns for batch in batches for _, end_ns in batch]
    assert ends == sorted(ends)
    assert {name for batch in batches for name, _ in batch} == set(NAMES)


def test_a_turn_asks_those_streams_only_that_have_news(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = _streams(Counting(folder), NAMES)
    asked: list[str] = []
    due = Recogniser.due

    def noted(self: Recogniser, now_ns: int) -> list[int]:
        asked.append(self.name)
        return due(self, now_ns)

    monkeypatch.setattr(Recogniser, "due", noted)
    assert streams.wake_ns() == EPOCH + 200 * MS + 80 * MS, "no message has come, yet a window will be due"
    assert not list(streams.due(EPOCH))
    assert sorted(asked) == sorted(NAMES), "nobody knows anything of them yet"
    asked.clear()
    streams.take(Routed("desk", _items("desk", 0.1)[0]), EPOCH)
    assert not list(streams.due(EPOCH + MS))
    assert not list(streams.due(EPOCH + 2 * MS))
    assert asked == ["desk"], "once"
    asked.clear()
    assert [len(batch) for batch in streams.due(EPOCH + 280 * MS)] == [6]
    assert sorted(asked) == sorted(NAMES), "their time to wait is over"
    assert streams.wake_ns() == EPOCH + 400 * MS + 80 * MS
    for name in NAMES[1:]:
        streams.expect(name, video=False, audio=False)
    assert streams.newly_over() == [*NAMES[1:]]
    assert streams.wake_ns() == EPOCH + 400 * MS + 80 * MS
    streams.expect(NAMES[0], video=False, audio=False)
    assert streams.wake_ns() is None


def test_a_stream_of_which_nothing_is_expected_is_over_and_holds_up_nobody(folder: Path) -> None:
    streams = _streams(Counting(folder), NAMES[:2])
    streams.recognisers["desk"].expect(video=False, audio=False)
    assert streams.newly_over() == ["desk"]
    assert streams.newly_over() == []
    scored = _play(streams, NAMES[:2][:1], 1.0, 20 * MS)
    assert {each.stream for _, each in scored} == {"lobby"}
    assert not streams.ended
    streams.recognisers["lobby"].expect(video=False, audio=False)
    assert streams.newly_over() == ["lobby"]
    assert streams.ended
