"""Voice tokens: what a stream's sound becomes, beside the same computed at once from all of the log-mel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.bundle import Bundle, load_bundle
from engine.errors import BundleError
from engine.recognizer import Recognizer
from engine.signals.sound import LogMel, MelParams
from engine.signals.voice import open_voice_encoder, read_voice_encoder
from engine.types import SECOND_NS, Block
from engine.window import UNBOUNDED_NS, Timeline
from tests.engine.small_bundle import BANDS, SAID, STEP, VOICE, voice_graph, voice_weights, write_bundle

RATE, HOP_NS = 16_000, SECOND_NS // 5
Float32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("voice"), voice=VOICE))


@pytest.fixture(scope="module")
def sound() -> Float32:
    """Nine seconds: noise that swells and fades, with a second and a half of near silence."""
    rng = np.random.default_rng(3)
    swell = 0.1 + 0.09 * np.sin(np.arange(9 * RATE) / RATE * 5)
    swell[4 * RATE : 5 * RATE + RATE // 2] = 1e-5
    return (rng.standard_normal(9 * RATE) * swell).astype(np.float32)


def speak(timeline: Timeline, sound: Float32, block: int, until_s: float = 9) -> None:
    for first in range(0, int(until_s * RATE), block):
        t_ns = first * SECOND_NS // RATE
        timeline.push_block(Block(t_ns=t_ns, samples=sound[first : first + block], seq=first))


def heard(bundle: Bundle, sound: Float32, ends_ns: list[int], block: int = 320) -> list[Float32]:
    timeline = Timeline(bundle, has_video=False)
    speak(timeline, sound, block)
    timeline.advance_audio(UNBOUNDED_NS)
    return [timeline.window(end)[1].voice_tokens for end in ends_ns]


def expected(bundle: Bundle, sound: Float32, end: int) -> Float32:
    """The 100 tokens before the bin `end`, written from the small encoder's own arithmetic."""
    _, mel = LogMel(MelParams()).push(0, sound)
    bins = {n + 1: row for n, row in enumerate(mel)}  # a frame's centre lies in the bin after its number
    weight = voice_weights_of(bundle)
    rows = []
    for step in range(end - 400, end, STEP):
        chunk = (step + 4) // 20
        around = range(20 * chunk + 20 - 400, 20 * chunk + 20)
        levels = [bins[b].mean() for b in around if b in bins]
        loudest = max(levels, default=0.0)

        def said(first: int, loudest: float = loudest) -> NDArray[np.float64]:
            own = [bins[b] - loudest if b in bins else np.full(BANDS, -12.0) for b in range(first, first + 4)]
            return np.tanh(np.mean(own, axis=0)) @ weight

        row = np.zeros(SAID + STEP * BANDS)
        if any(b in bins for b in range(20 * chunk - 4, 20 * chunk + 16)):
            row[:SAID] = np.mean([said(step + 4 * k) for k in range(-13, 2)], axis=0)
        row[SAID:] = np.concatenate([bins.get(b, np.zeros(BANDS)) for b in range(step, step + 4)]) / 3
        rows.append(row)
    return np.array(rows, np.float32)


def voice_weights_of(bundle: Bundle) -> NDArray[np.float64]:
    import onnx
    from onnx import numpy_helper

    assert bundle.voice is not None
    stored = {w.name: numpy_helper.to_array(w) for w in onnx.load(bundle.voice.encoder).graph.initializer}
    return np.asarray(stored["weight"], np.float64)


def test_tokens_are_those_of_the_sound_written_another_way(bundle: Bundle, sound: Float32) -> None:
    """A window ends a step before its end, with a whole step: the encoder hears one more."""
    for end_ns, end in ((2 * SECOND_NS, 196), (6 * SECOND_NS, 596), (7 * SECOND_NS + 66_666_667, 700)):
        (tokens,) = heard(bundle, sound, [end_ns])
        np.testing.assert_allclose(tokens, expected(bundle, sound, end), atol=2e-4)


def test_neither_blocks_nor_other_windows_change_a_window(bundle: Bundle, sound: Float32) -> None:
    ends = [n * HOP_NS for n in range(1, 45)]
    often, seldom = heard(bundle, sound, ends), heard(bundle, sound, ends[::7], block=1777)
    for a, b in zip(often[::7], seldom, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_window_before_its_sound_is_whole_is_mended_by_the_next(bundle: Bundle, sound: Float32) -> None:
    late = Timeline(bundle, has_video=False)
    speak(late, sound, 320, until_s=5.9)
    early = late.window(6 * SECOND_NS)[1]
    for first in range(94_400, 9 * RATE, 320):
        t_ns = first * SECOND_NS // RATE
        late.push_block(Block(t_ns=t_ns, samples=sound[first : first + 320], seq=first))
    late.advance_audio(UNBOUNDED_NS)
    (whole,) = heard(bundle, sound, [6 * SECOND_NS + HOP_NS])
    assert not early.audio_mask[-1]
    np.testing.assert_allclose(late.window(6 * SECOND_NS + HOP_NS)[1].voice_tokens, whole, atol=1e-5)


def test_the_slow_mean_is_of_voiced_tokens(bundle: Bundle, sound: Float32) -> None:
    timeline = Timeline(bundle, has_video=False)
    speak(timeline, sound, 320)
    timeline.advance_audio(UNBOUNDED_NS)
    window = timeline.window(3 * SECOND_NS)[1]
    tokens, _, mel = window.voice_tokens[-74:], None, window.mel[-296:]
    levels = np.where(window.audio_mask[-296:], mel.mean(1), -np.inf)
    voiced = levels > np.maximum.accumulate(levels) - bundle.baseline.voice_floor
    rows = tokens[voiced.reshape(-1, 4).sum(1) >= 2].astype(np.float64)
    mean, seconds = bundle.baseline.voice_mean.astype(np.float64), 0.0
    for row in rows:
        seconds += 0.04
        mean = mean + 0.04 / (seconds + 2.0) * (row - mean)
    np.testing.assert_allclose(window.voice_baseline, mean, atol=1e-4)
    assert window.voice_weight == pytest.approx(seconds / (seconds + 2.0))


def test_silence_has_no_tokens_and_a_stream_scores_with_them(bundle: Bundle, sound: Float32) -> None:
    assert not heard(bundle, sound[:0], [3 * SECOND_NS])[0].any()
    with Recognizer(bundle=bundle.path, has_video=False, offline=True) as recogniser:
        recogniser.add_audio(0, sound)
        scores = recogniser.scores(6 * SECOND_NS)
    assert sum(scores.heads["audio"]) == pytest.approx(1)
    assert scores.valid_audio == 1


def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wide = write_bundle(tmp_path / "wide", voice={**VOICE, "width": 260})
    with pytest.raises(BundleError, match="voice_mean has shape"):
        load_bundle(wide)
    short = write_bundle(tmp_path / "short", voice=VOICE, seconds=2)
    with pytest.raises(BundleError, match="window of 200 mel bins"):
        load_bundle(short)


def test_what_is_no_voice_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_voice_encoder(b"nothing")
    encoder = read_voice_encoder(voice_graph(voice_weights(np.random.default_rng(1))))
    assert (encoder.bands, encoder.width) == (BANDS, SAID + STEP * BANDS)


def test_bundles_share_no_encoder(bundle: Bundle, tmp_path: Path) -> None:
    """The same path with another digest is read anew."""
    assert bundle.voice is not None
    first = open_voice_encoder(bundle.voice.encoder, bundle.digest)
    assert open_voice_encoder(bundle.voice.encoder, bundle.digest) is first
    other = replace(bundle, digest="another")
    assert open_voice_encoder(bundle.voice.encoder, other.digest) is not first
