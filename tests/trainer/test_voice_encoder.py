"""The network that hears voices, beside Whisper as `transformers` writes it; what training and live share."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from engine.bundle import load_bundle
from engine.signals.sound import LogMel, MelParams
from engine.signals.voice import (
    CHUNK,
    PIECE,
    STEP,
    TOKENS,
    chunks,
    open_voice_encoder,
    pieces,
    read_voice_encoder,
)
from engine.types import SECOND_NS, Block
from engine.window import UNBOUNDED_NS, Timeline
from tests.engine.small_bundle import VOICE, write_bundle
from trainer import prepare_voices
from trainer.data.sound import load_voices
from trainer.data.takes import Take
from trainer.prepare_voices import open_mels, prepare
from trainer.voice_encoder import GIVEN, PREFIX, WIDTH, WhisperStart, export, fit_scale, whisper_bank
from trainer.voice_tokens import make_tokens, open_tokens

transformers = pytest.importorskip("transformers", reason="transformers (the extra `paper`) is not installed")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """Whisper's encoder at its size, one layer of random weights."""
    torch.manual_seed(5)
    config = transformers.WhisperConfig(
        d_model=384, encoder_layers=1, encoder_attention_heads=6, encoder_ffn_dim=1536, num_mel_bins=80
    )
    encoder: torch.nn.Module = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return encoder.eval()


@pytest.fixture(scope="module")
def ours(theirs: torch.nn.Module) -> WhisperStart:
    weights = {f"{PREFIX}{name}": value for name, value in theirs.state_dict().items()}
    network = WhisperStart(weights, MelParams().bands).eval()
    with torch.no_grad():
        network.floor.fill_(-7)
    return network


@torch.inference_mode()
def test_it_is_whispers_start_at_half_the_rate(theirs: torch.nn.Module, ours: WhisperStart) -> None:
    mel = torch.randn(3, PIECE, 64) * 3 - 4
    x = ((ours.to_whisper(mel).clamp_min(-7) + 4) / 4).transpose(1, 2)
    x = F.gelu(theirs.conv2(F.gelu(theirs.conv1(x)))).transpose(1, 2)
    pairs = (x[:, ::2] + x[:, 1::2]) / 2 + theirs.embed_positions.weight[:PIECE:2][: PIECE // STEP]
    said = theirs.layers[0](pairs, attention_mask=None)
    said = said[0] if isinstance(said, tuple) else said
    torch.testing.assert_close(ours.features(mel), said[:, GIVEN], atol=1e-4, rtol=1e-4)


def test_its_bands_are_whispers() -> None:
    theirs = transformers.audio_utils.mel_filter_bank(
        num_frequency_bins=201, num_mel_filters=80, min_frequency=0, max_frequency=8000, sampling_rate=16000,
        norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    np.testing.assert_allclose(whisper_bank(), theirs.T, atol=1e-7)


@torch.inference_mode()
def test_the_graph_says_the_same_and_is_kept_at_half_precision(ours: WhisperStart, tmp_path: Path) -> None:
    export(ours, tmp_path / "voice.onnx")
    encoder = read_voice_encoder((tmp_path / "voice.onnx").read_bytes())
    assert (tmp_path / "voice.onnx").stat().st_size < 5_000_000
    assert encoder.width == WIDTH + STEP * 64
    rng = np.random.default_rng(0)
    mel = (rng.standard_normal((2, 400, 64)) - 5).astype(np.float32)
    mel[:, 100] += 3
    loudest = torch.from_numpy(mel.mean(2).max(1))[:, None, None]
    said = ours(torch.from_numpy(mel[:, -PIECE:]) - loudest)
    found = encoder.encode(mel, np.ones((2, 400), np.bool_))
    np.testing.assert_allclose(found[..., :WIDTH], said.numpy(), atol=0.02)  # weights were drawn, not halves
    np.testing.assert_allclose(found[0, 0, WIDTH:], mel[0, -24:-20].ravel() / 3, atol=1e-5)


def test_training_hears_a_take_as_a_stream_does(tmp_path: Path) -> None:
    """A take that begins where a chunk does: its first frame is bin 16."""
    bundle = load_bundle(write_bundle(tmp_path, voice=VOICE))
    assert bundle.voice is not None
    encoder = open_voice_encoder(bundle.voice.encoder, bundle.digest)
    sound = (np.random.default_rng(4).standard_normal(32_000) * 0.1).astype(np.float32)
    timeline = Timeline(bundle, has_video=False)
    timeline.push_block(Block(t_ns=150_000_000, samples=sound, seq=0))
    timeline.advance_audio(UNBOUNDED_NS)
    window = timeline.window(3 * SECOND_NS)[1]  # bins -104 to 295
    _, mel = LogMel(MelParams()).push(0, sound)
    trained = encoder.encode(*chunks(mel)).reshape(-1, encoder.width)
    count = len(mel) // STEP
    live = window.voice_tokens[(104 + 16) // STEP :][:count]
    np.testing.assert_allclose(live, trained[:count], atol=1e-5)
    later = np.pad(mel, ((8, 0), (0, 0))), np.arange(len(mel) + 8) >= 8
    shifted = encoder.encode(*chunks(*later)).reshape(-1, encoder.width)[8 // STEP :]
    assert not np.allclose(shifted[:count, :3], trained[:count, :3], atol=1e-3)  # the grid has its say


def voices(cache: Path, varied: bool = False) -> None:
    """Three takes of one speaker in a cache, as `trainer.prepare_voices` writes it."""
    takes = []
    rng = np.random.default_rng(8)
    for number in range(3):
        file = cache / f"{number}.wav"
        with av.open(str(file), "w") as out:
            stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
            samples = (rng.standard_normal((1, 16_000 + 900 * number)) * 3000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate = 16_000
            out.mux([*stream.encode(frame), *stream.encode(None)])
        takes.append(Take(file=file, speaker="one", split="train", label="happy", corpus="own"))
    prepare(cache, load_voices(takes, cache), sessions=2, jobs=1, varied=varied)


def encoded(folder: Path) -> tuple[Path, Path]:
    """A cache of these voices with their tokens, and the encoder that made them."""
    bundle = load_bundle(write_bundle(folder / "bundle", voice=VOICE))
    assert bundle.voice is not None
    cache = folder / "voices"
    cache.mkdir()
    voices(cache)
    make_tokens(cache, bundle.voice.encoder, jobs=1)
    return cache, bundle.voice.encoder


def test_varied_sessions_have_another_throat_and_tempo_and_tokens_of_their_own(tmp_path: Path) -> None:
    cache, encoder = encoded(tmp_path)
    plain, spoken = open_mels(cache), open_tokens(cache)
    plain = dataclasses.replace(plain, mel=np.array(plain.mel))
    voices(cache, varied=True)
    other = open_mels(cache)
    tempo = other.speeds[1] / plain.speeds[1]
    assert np.ptp(tempo) < 1e-6
    assert not np.isclose(tempo[0], 1)  # one throat and tempo for a session
    for take in range(3):
        np.testing.assert_array_equal(other.take(0, take), plain.take(0, take))  # the recording
        assert len(other.take(1, take)) == int(plain.bins[1, take] / tempo[take])
    make_tokens(cache, encoder, jobs=1)  # those of the other voices are no longer there
    assert not np.array_equal(open_tokens(cache).steps, spoken.steps)


def test_what_is_varied_has_no_waveform(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        prepare_voices.main(["--cache", str(tmp_path), "--varied", "--waveform"])
    assert "--varied changes the log-mel alone" in capsys.readouterr().err


def test_tokens_of_a_cache_are_made_once_and_anew_for_another_encoder(tmp_path: Path) -> None:
    cache, encoder = encoded(tmp_path)
    held = open_tokens(cache)
    assert held.starts.shape == (2, 3)
    assert held.tokens.shape[1] == VOICE["width"]
    rows = held.rows(0, 2)
    own: NDArray[np.float32] = held.tokens[rows].astype(np.float32)
    np.testing.assert_allclose(held.means[0, 2], own[held.voiced[rows]].mean(0), atol=1e-3)
    assert held.seconds[0, 2] == pytest.approx(held.voiced[rows].sum() * 0.04)
    before = (cache / "voice_tokens.npy").stat().st_mtime_ns
    make_tokens(cache, encoder, jobs=1)
    assert (cache / "voice_tokens.npy").stat().st_mtime_ns == before
    other = tmp_path / "other.onnx"
    changed = encoder.read_bytes().replace(b"voice_encoder", b"voice_decoder")
    other.write_bytes(changed)
    make_tokens(cache, other, jobs=1)
    assert (cache / "voice_tokens.npy").stat().st_mtime_ns != before


def test_the_scale_is_of_what_was_heard(ours: WhisperStart, tmp_path: Path) -> None:
    voices(tmp_path)
    mels = open_mels(tmp_path)
    fit_scale(ours, mels, np.arange(3), np.random.default_rng(0))
    heard = [chunks(mels.take(0, take)) for take in range(3)]
    with torch.inference_mode():
        said = torch.cat([ours(torch.from_numpy(pieces(*each))).flatten(0, 1) for each in heard])
    assert said.mean().abs() < 0.5
    assert 0.3 < float(said.std()) < 2
    assert CHUNK // STEP == TOKENS
