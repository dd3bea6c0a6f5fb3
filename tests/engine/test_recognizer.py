"""The front door: what it refuses, what it computes, and that it computes everything once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soxr
from small_bundle import write_bundle
from test_backends import Counting, faces

from engine import BundleError, Recognizer, Scores
from engine.backends import choose
from engine.backends.base import Answers
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle, load_bundle
from engine.probabilities import softmax
from engine.resampler import Resampler
from engine.streams import Recognition, Stream
from engine.types import Block, Observation
from engine.window import UNBOUNDED_NS, Window
from realtime.wire import Emotion, decode, emotion_message, encode

MS = 1_000_000
SHARED = Path(__file__).parents[2] / ".." / "shared"
FRAME = np.zeros((48, 64, 3), dtype=np.uint8)


class Remembering(OnnxBackend):
    """ONNX Runtime that keeps its last answers."""

    def score(self, slots: Sequence[int], windows: Sequence[Window]) -> Answers:
        self.last = super().score(slots, windows)
        return self.last


@pytest.fixture
def recognizer(small: Bundle) -> Recognizer:
    return Recognizer(small.path, engine="onnx", offline=True)


def tone(samples: int, rate_hz: int = 16000) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    phase = np.cumsum(np.linspace(300, 3000, samples)) * 2 * np.pi / rate_hz
    return (0.2 * np.sin(phase)).astype(np.float32)


def pictures_of(tracks: list[int]) -> list[Observation]:
    """A face a tick, of the given tracks."""
    return [
        Observation(
            t_ns=(2 * i + 1) * 1_000_000_000 // 30,
            seq=i,
            face=replace(face, box=(i, 0, 1, 1), track=track),
        )
        for i, (face, track) in enumerate(zip(faces(len(tracks)), tracks, strict=True))
    ]


def open_stream(bundle: Bundle, *, has_audio: bool = False) -> Stream:
    return Stream(Recognition(bundle, choose(bundle, "onnx").backend), has_audio=has_audio)


@pytest.mark.parametrize(
    ("image", "quoted"),
    [
        (np.zeros((4, 5, 3), np.float32), r"\(4, 5, 3\) float32"),
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\) uint8"),
        (np.zeros((0, 5), np.uint8), r"\(0, 5\) uint8"),
        (np.zeros(5, np.uint8), r"\(5,\) uint8"),
        ([[1, 2]], r"\(1, 2\) list"),
    ],
)
def test_a_picture_of_another_kind_is_refused_with_its_shape(
    recognizer: Recognizer, image: Any, quoted: str
) -> None:
    with pytest.raises(ValueError, match=rf"\(H, W, 3\) or \(H, W\) uint8, not {quoted}"):
        recognizer.add_frame(0, image)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((5, 2), np.float32), r"\(N,\) float32 or int16, mono, not \(5, 2\) float32"),
        (np.zeros(5), r"not \(5,\) float64"),
        (np.array([0, np.inf], np.float32), "must be finite"),
    ],
)
def test_sound_of_another_kind_is_refused_with_its_shape(
    recognizer: Recognizer, samples: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recognizer.add_audio(0, samples)


def test_times_and_rates_are_checked(recognizer: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"whole number of nanoseconds, not 0\.5"):
        recognizer.add_frame(0.5, FRAME)  # type: ignore[arg-type]
    for rate_hz in (0, -1, 0.5, float("inf"), float("nan"), None, "16000"):
        with pytest.raises(ValueError, match=f"rate_hz must be a positive whole number, not {rate_hz!r}"):
            recognizer.add_audio(0, tone(10), rate_hz=rate_hz)  # type: ignore[arg-type]
    recognizer.add_frame(np.int64(100), FRAME)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a picture at 99 ns came after one at 100 ns"):
        recognizer.add_frame(99, FRAME)
    recognizer.scores(500 * MS)
    with pytest.raises(ValueError, match="was asked for after one ending at"):
        recognizer.scores(400 * MS)


def test_what_was_said_not_to_come_is_refused(small: Bundle) -> None:
    with Recognizer(small.path, engine="onnx", offline=True, has_video=False) as deaf:
        with pytest.raises(ValueError, match="has_video=False"):
            deaf.add_frame(0, FRAME)
        deaf.add_audio(0, tone(8000))
        assert 400 * MS < deaf.ready_ns < 500 * MS
    with Recognizer(small.path, engine="onnx", offline=True, has_audio=False) as blind:
        with pytest.raises(ValueError, match="has_audio=False"):
            blind.add_audio(0, tone(10))
        blind.add_frame(300 * MS, FRAME)
        assert blind.ready_ns == 300 * MS


def test_reasons_name_engine_and_finder(recognizer: Recognizer) -> None:
    assert recognizer.reasons[0] == "onnx: asked for"
    assert "Faces:" in recognizer.reasons[1]


def test_a_bundle_that_is_not_there_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Recognizer(tmp_path)


def test_with_nothing_seen_or_heard_scores_are_finite_and_there_is_no_top(recognizer: Recognizer) -> None:
    scores = recognizer.scores(270 * MS)
    assert scores.t_ns == 266_666_666
    assert (scores.top, scores.track, scores.face) == (None, -1, None)
    assert (scores.valid_video, scores.valid_audio) == (0, 0)
    for head in ("video", "audio", "fused"):
        assert scores.heads[head].dtype == np.float32
        assert scores.heads[head].sum() == pytest.approx(1)


def test_heads_are_calibrated_each_by_its_temperature(tmp_path: Path) -> None:
    warm, cold = (
        Recognizer(
            write_bundle(tmp_path / name, temperatures={"video": 1, "audio": heat, "fused": 1}),
            engine="onnx",
            has_video=False,
        )
        for name, heat in (("warm", 4.0), ("cold", 1.0))
    )
    results = []
    for recognizer in (warm, cold):
        recognizer.add_audio(0, tone(32000))
        results.append(recognizer.scores(1900 * MS))
    logits = np.log(results[1].heads["audio"])
    assert np.allclose(results[0].heads["audio"], softmax(logits / 4.0), atol=1e-5)
    assert np.array_equal(results[0].heads["fused"], results[1].heads["fused"])
    assert results[0].top == results[0].labels[int(results[0].scores.argmax())]
    assert results[0].valid_audio == pytest.approx(188 / 400, abs=0.01)


@pytest.mark.parametrize("lead", ["fused", "audio"])
def test_attributes_are_those_of_the_leading_head_and_reach_the_feed(tmp_path: Path, lead: str) -> None:
    bundle = load_bundle(write_bundle(tmp_path, attributes=["arousal", "valence"], lead=lead))
    backend = Remembering(bundle)
    stream = Stream(Recognition(bundle, backend), has_video=False)
    stream.add_block(Block(t_ns=0, seq=0, samples=tone(32000)))
    scores = stream.scores(1900 * MS)
    expected = backend.last.attributes[0, bundle.heads.index(lead)]
    assert list(scores.attributes) == ["arousal", "valence"]
    assert list(scores.attributes.values()) == pytest.approx(expected.tolist())
    assert expected.any()
    told = emotion_message(scores, stream="main", seq=0, t_unix_ns=0, latency_ms={}, model="m")
    read = decode(*encode(told))
    assert isinstance(read, Emotion)
    assert read.attributes == pytest.approx(scores.attributes)


def test_softmax_is_exact_and_holds_large_logits() -> None:
    huge = softmax(np.array([1e4, 1e4, -1e4], dtype=np.float32))
    assert huge.tolist() == [0.5, 0.5, 0]
    assert softmax(np.array([0, np.log(3)], dtype=np.float32))[1] == pytest.approx(0.75)


def test_every_tick_is_encoded_once_however_often_it_is_scored(small: Bundle) -> None:
    backend = Counting(small)
    stream = Stream(Recognition(small, backend), has_audio=False)
    for observation in pictures_of([0] * 90):
        stream.add_observation(observation)
        stream.add_observation(observation)
        if stream.video_bound_ns > 200 * MS:
            stream.scores(stream.video_bound_ns)
            stream.scores(stream.video_bound_ns)
    stream.advance_video(UNBOUNDED_NS)
    stream.scores(6000 * MS)
    assert backend.encoded == 90


def test_scores_do_not_depend_on_the_order_of_arrival(small: Bundle) -> None:
    observations = pictures_of([0] * 50 + [1] * 40)
    sound = tone(6 * 16000)

    def run(lead_ms: int) -> list[Scores]:
        """Pictures come `lead_ms` before the sound of the same time."""
        stream = open_stream(small, has_audio=True)
        blocks = [Block(t_ns=i * 10 * MS, seq=i, samples=sound[i * 160 : (i + 1) * 160]) for i in range(600)]
        arrivals = sorted(
            [(o.t_ns - lead_ms * MS, o) for o in observations] + [(b.t_ns, b) for b in blocks],
            key=lambda arrival: arrival[0],
        )
        found, end_ns = [], 200 * MS
        for _, item in arrivals:
            if isinstance(item, Block):
                stream.add_block(item)
            else:
                stream.add_observation(item)
            while min(stream.video_bound_ns, stream.audio_bound_ns) >= end_ns:
                found.append(stream.scores(end_ns))
                end_ns += 200 * MS
        return found

    base = run(0)
    assert len(base) == 29
    assert {scores.track for scores in base} == {0, 1}
    for lead_ms in (-1500, 700, 4000):
        for a, b in zip(base, run(lead_ms), strict=True):
            assert (a.t_ns, a.track, a.face, a.valid_video, a.valid_audio) == (
                b.t_ns, b.track, b.face, b.valid_video, b.valid_audio,
            )  # fmt: skip
            for head in a.heads:
                assert np.abs(a.heads[head] - b.heads[head]).max() < 1e-5


def test_another_face_starts_with_a_fresh_baseline(small: Bundle) -> None:
    changed, alone = open_stream(small), open_stream(small)
    for i, observation in enumerate(pictures_of([0] * 60 + [1] * 30)):
        changed.add_observation(observation)
        if i >= 60:
            alone.add_observation(observation)
    for stream in (changed, alone):
        stream.advance_video(UNBOUNDED_NS)
    changed.scores(4000 * MS)
    a, b = changed.scores(6000 * MS), alone.scores(6000 * MS)
    assert (a.track, a.valid_video) == (b.track, b.valid_video) == (1, 0.5)
    assert np.abs(a.heads["fused"] - b.heads["fused"]).max() < 1e-5


def test_streams_of_one_recognition_do_not_mix(small: Bundle) -> None:
    recognition = Recognition(small, choose(small, "onnx").backend)
    left, right = Stream(recognition, has_audio=False), Stream(recognition, 7 * MS, has_audio=False)
    observations = pictures_of([0] * 60)
    for observation in observations:
        left.add_observation(observation)
    for observation in observations[30:]:
        right.add_observation(observation)
    together = recognition.scores([(left, 3800 * MS), (right, 3800 * MS)])
    alone = open_stream(small)
    for observation in observations:
        alone.add_observation(observation)
    assert np.abs(together[0].heads["fused"] - alone.scores(3800 * MS).heads["fused"]).max() < 1e-5
    assert together[1].t_ns != together[0].t_ns
    left.close()
    fresh = Stream(recognition, has_audio=False)
    assert fresh.slot == left.slot
    assert recognition.backend._slot(fresh.slot).baseline.weight == 0  # type: ignore[attr-defined]


def test_clearing_forgets_the_clip_and_keeps_the_person(small: Bundle) -> None:
    kept, fresh = open_stream(small), open_stream(small)
    observations = pictures_of([0] * 60)
    for observation in observations:
        kept.add_observation(observation)
    kept.scores(3900 * MS)
    kept.clear()
    empty = kept.scores(200 * MS)
    assert (empty.valid_video, empty.top, empty.track) == (0, None, 0)
    for stream in (kept, fresh):
        for observation in observations[:30]:
            stream.add_observation(observation)
    a, b = kept.scores(1900 * MS), fresh.scores(1900 * MS)
    assert a.valid_video == b.valid_video > 0
    assert np.abs(a.heads["fused"] - b.heads["fused"]).max() > 1e-3


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_resampled_sound_keeps_its_time_whatever_the_blocks(rate_hz: int) -> None:
    rng = np.random.default_rng(rate_hz)
    sound = rng.standard_normal(rate_hz).astype(np.float32) * 0.1
    whole = soxr.resample(sound, rate_hz, 16000)
    resampler, at, outputs = Resampler(16000), 0, []
    while at < len(sound):
        size = int(rng.integers(1, 2000))
        t_ns = 5 * MS + at * 1_000_000_000 // rate_hz
        outputs.append(resampler.push(t_ns, sound[at : at + size], rate_hz))
        at += size
    placed = 0
    for t_ns, samples in outputs:
        if len(samples):
            assert abs(t_ns - (5 * MS + placed * 62500)) <= 2
            assert np.array_equal(samples, whole[placed : placed + len(samples)])
            placed += len(samples)
    assert placed > 14000
    t_ns, rest = resampler.flush()
    assert abs(t_ns - (5 * MS + placed * 62500)) <= 2
    assert np.array_equal(rest, whole[placed:])
    assert len(resampler.flush()[1]) == 0


def test_at_the_end_all_that_was_held_back_counts(small: Bundle) -> None:
    with Recognizer(small.path, engine="onnx", offline=True) as recognizer:
        recognizer.add_frame(0, FRAME)
        recognizer.add_audio(0, tone(88200, 44100), 44100)
        assert recognizer.ready_ns == 0
        before = recognizer.scores(1600 * MS).valid_audio
        recognizer.finish()
        assert recognizer.ready_ns > 1 << 60
        # Of two seconds all bins but the first and the last, whose mel frames would reach beyond the sound.
        assert recognizer.scores(2000 * MS).valid_audio == 198 / 400
        assert before == 159 / 400
        recognizer.clear_window()
        assert recognizer.ready_ns == 0


def test_a_step_in_time_begins_the_resampling_afresh() -> None:
    resampler = Resampler(16000)
    resampler.push(0, tone(4800, 48000), 48000)
    first_ns, samples = resampler.push(300 * MS, tone(4800, 48000), 48000)
    assert first_ns == 300 * MS
    assert len(samples)


def test_int16_sound_is_the_same_sound(small: Bundle) -> None:
    found = []
    for samples in (np.round(tone(32000) * 32768).astype(np.int16), np.round(tone(32000) * 32768) / 32768):
        with Recognizer(small.path, engine="onnx", has_video=False) as recognizer:
            recognizer.add_audio(0, samples if samples.dtype == np.int16 else samples.astype(np.float32))
            found.append(recognizer.scores(1800 * MS))
    assert np.array_equal(found[0].scores, found[1].scores)


def speaker() -> list[tuple[int, "np.ndarray[Any, np.dtype[np.uint8]]"]]:
    """Two seconds of one face, from the shared media."""
    clips = sorted((SHARED / "media").glob("grid_*"))
    if not clips or not (SHARED / "data" / "yunet").is_dir():
        pytest.skip("the shared media and YuNet are not here")
    with av.open(str(clips[0])) as container:
        frames = [
            (int(f.time * 1_000_000_000), f.to_ndarray(format="bgr24")) for f in container.decode(video=0)
        ]
    return frames[:50]


def test_a_real_face_is_scored_and_grey_pictures_are_as_good(small: Bundle) -> None:
    pictures = speaker()
    (model,) = (SHARED / "data" / "yunet").glob("*.onnx")
    found = []
    for grey in (False, True):
        with Recognizer(small.path, engine="onnx", face_model=model, has_audio=False) as recognizer:
            for t_ns, image in pictures:
                recognizer.add_frame(t_ns, image[:, :, 1] if grey else image)
            scores = recognizer.scores(recognizer.ready_ns)
            found.append(scores)
            recognizer.clear_window()
            assert recognizer.scores(200 * MS).top is None
    for scores in found:
        assert scores.valid_video > 0.4
        assert scores.track == 0
        assert scores.face is not None
        assert scores.top in scores.labels


def test_playing_the_same_clip_twice_gives_the_same_bits(small: Bundle) -> None:
    pictures = speaker()
    (model,) = (SHARED / "data" / "yunet").glob("*.onnx")
    runs = []
    for _ in range(2):
        with Recognizer(small.path, engine="onnx", face_model=model) as recognizer:
            found = []
            for i, (t_ns, image) in enumerate(pictures):
                recognizer.add_frame(t_ns, image)
                recognizer.add_audio(i * 40 * MS, tone(48000)[i * 640 : (i + 1) * 640])
                found.append(recognizer.scores(recognizer.ready_ns).scores)
            runs.append(np.stack(found))
    assert np.array_equal(*runs)
