"""Many streams at once: what is done for all of them together gives each the very bits that it gets alone."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import Answers, Arrays, HostBackend
from engine.bundle import Bundle
from engine.probabilities import log_softmax
from engine.signals.sound import LogMel, log_mel
from engine.signals.voice import TOKENS, VoiceEncoder
from engine.streams import Recognition, Stream
from engine.types import SECOND_NS, Block, Float32
from engine.window import Timeline, Window, hear
from tests.engine.small_bundle import SAID

MS = 1_000_000
EPOCH_NS = 5_000_000_123
STEP_NS = 200 * MS


def noise(samples: int, seed: int) -> Float32:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def sound(seed: int) -> list[Block]:
    """Two seconds in blocks of many sizes, from before the epoch on, with gaps and broken samples."""
    rng = np.random.default_rng(seed)
    blocks, t_ns = [], EPOCH_NS - int(rng.integers(0, 50)) * MS
    while t_ns < EPOCH_NS + 2000 * MS:
        samples = noise(int(rng.choice([1, 160, 320, 441, 4000])), len(blocks))
        if rng.random() < 0.1:
            samples[rng.integers(len(samples))] = rng.choice([np.nan, np.inf])
        blocks.append(Block(t_ns=t_ns, seq=len(blocks), samples=samples))
        t_ns += len(samples) * 62_500 + int(rng.choice([0, 0, 0, 1, -1, 70])) * MS
    return blocks


def take_until(line: Timeline, blocks: list[Block], end_ns: int) -> None:
    while blocks and blocks[0].t_ns < end_ns:
        line.push_block(blocks.pop(0))


def assert_same(together: Window, alone: Window) -> None:
    for each in fields(Window):
        a, b = getattr(together, each.name), getattr(alone, each.name)
        if each.name in ("voice_tokens", "voice_baseline"):  # a batch may round otherwise
            np.testing.assert_allclose(a, b, atol=1e-5)
        else:
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, each.name


@pytest.mark.parametrize("kind", ["short", "spoken"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=5))
def test_sound_that_is_heard_together_is_the_same_as_alone(
    request: pytest.FixtureRequest, kind: str, seeds: list[int]
) -> None:
    bundle = request.getfixturevalue(kind)
    lines, alone = ([Timeline(bundle, epoch_ns=EPOCH_NS) for _ in seeds] for _ in range(2))
    waiting, copies = ([sound(seed) for seed in seeds] for _ in range(2))
    for end_ns in range(EPOCH_NS + STEP_NS, EPOCH_NS + 2000 * MS, STEP_NS):
        for group, blocks in ((lines, waiting), (alone, copies)):
            for line, each in zip(group, blocks, strict=True):
                take_until(line, each, end_ns)
        hear((line, end_ns) for line in lines)
        for one, other in zip(lines, alone, strict=True):
            assert_same(one.window(end_ns)[1], other.window(end_ns)[1])
            assert one.counts == other.counts
            assert one.audio_bound_ns == other.audio_bound_ns


def test_faces_of_one_camera_hear_its_sound_once(short: Bundle) -> None:
    one, alone = (Timeline(short, epoch_ns=EPOCH_NS) for _ in range(2))
    other = Timeline(short, epoch_ns=EPOCH_NS, beside=one)
    for line in (one, alone):
        take_until(line, sound(3), EPOCH_NS + 2000 * MS)
    hear((line, EPOCH_NS + 1000 * MS) for line in (one, other, one))
    for line in (one, other):
        assert np.array_equal(
            line.window(EPOCH_NS + 1000 * MS)[1].mel, alone.window(EPOCH_NS + 1000 * MS)[1].mel
        )
    assert one.counts == alone.counts


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.sampled_from([0, 70 * MS]))
def test_frames_may_wait_and_are_cut_all_at_once(sizes: list[int], gap_ns: int) -> None:
    prompt, patient = LogMel(), LogMel()
    centres_ns, mel, t_ns = [], [], 0
    taken: list[int] = []
    for place, size in enumerate(sizes):
        samples = noise(size, place)
        for found, each in zip((centres_ns, mel), prompt.push(t_ns, samples), strict=True):
            found.append(each)
        taken += patient.take(t_ns, samples)
        samples[:] = 7  # what was taken is kept, whatever becomes of the caller's array
        t_ns += size * 62_500 + gap_ns * (place % 4 == 3)
    assert taken == np.concatenate(centres_ns).tolist()
    assert np.array_equal(log_mel(patient.cut(), patient.params), np.concatenate(mel))
    assert patient.gaps == prompt.gaps
    assert patient.cut().shape == (0, patient.params.window)


def test_chunks_of_all_streams_go_through_in_one_run(spoken: Bundle) -> None:
    assert spoken.voice is not None
    batches: list[int] = []

    def counted(heard: Float32) -> Float32:
        batches.append(len(heard))
        return np.zeros((len(heard), TOKENS, SAID), np.float32)

    encoder = VoiceEncoder(counted, spoken.mel.bands, SAID)
    lines = [Timeline(spoken, voice=encoder) for _ in range(3)]
    beside = Timeline(spoken, beside=lines[0])
    for seed, line in enumerate(lines):
        line.push_block(Block(t_ns=0, seq=0, samples=noise(96_000, seed)))
    for end_ns, runs in ((4 * SECOND_NS, [32, 28]), (4 * SECOND_NS + STEP_NS, [3])):
        hear((line, end_ns) for line in (*lines, beside))
        assert batches == runs
        for line in (*lines, beside):
            line.window(end_ns)
        assert batches == runs
        batches.clear()


class Echo(HostBackend):
    """An engine whose answers are numbers of the window itself, so that they show what the rest does."""

    name = "echo"

    def answers(self, inputs: Arrays) -> Answers:
        """See `GraphBackend`."""
        mel = np.asarray(inputs["mel"], np.float32)[:, -len(self._bundle.heads) :]
        labels = len(self._bundle.labels)
        return Answers(mel[..., :labels], mel[..., labels : labels + len(self._bundle.attributes)])


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_scores_that_are_asked_for_together_are_the_same_as_alone(rated: Bundle, count: int) -> None:
    together, lonely = Recognition(rated, Echo(rated)), Recognition(rated, Echo(rated))
    streams, alone = ([Stream(each, EPOCH_NS) for _ in range(count)] for each in (together, lonely))
    for seed, pair in enumerate(zip(streams, alone, strict=True)):
        for block in sound(seed):
            for stream in pair:
                stream.add_block(block)
    for end_ns in (EPOCH_NS + 1400 * MS, EPOCH_NS + 1600 * MS):
        found = together.scores([(stream, end_ns) for stream in streams])
        for scores, stream in zip(found, alone, strict=True):
            expected = stream.scores(end_ns)
            assert scores.valid_audio == expected.valid_audio > 0
            assert (scores.valid_video, scores.attributes) == (0, expected.attributes)
            for head, probabilities in expected.heads.items():
                assert np.array_equal(scores.heads[head], probabilities)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_logarithms_of_probabilities_do_not_depend_on_the_other_rows(
    rows: int, labels: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, (rows, 3, labels))
    assert np.array_equal(log_softmax(logits), np.stack([log_softmax(each) for each in logits]))
