"""The paper-sized profile at tiny sizes: prepared, trained, calibrated, exported, and live in the engine."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_extractors import FRAME_WIDTH, paper_config, write_frame_extractor, write_sound_extractor
from small_windows import SESSIONS, TAKES, write_data

pytest.importorskip("transformers", reason="the extra `paper` is not installed")

from engine import Recognizer
from engine.backends.onnx import OnnxBackend
from engine.bundle import Bundle, load_bundle
from realtime.sources.demo import Performance
from trainer.data.sound import as_int16, store_voices
from trainer.data.takes import Take
from trainer.export import export, load_network
from trainer.model.de3 import DE3
from trainer.prepare_voices import WAVEFORM, open_mels, prepare
from trainer.train import train
from trainer.window_batches import BINS, HOP

RATE_HZ = 16_000


def write_waveforms(data: Path) -> None:
    """The sound of `write_data`'s takes: a tone of a pitch that tells the label."""
    with np.load(data / "voices" / "mel.npz") as index, np.load(data / "voices" / "voices.npz") as voices:
        bins, labels = index["bins"], voices["labels"]
    waves = []
    for take, count in enumerate(bins.ravel()):
        time = np.arange(count * HOP) / RATE_HZ
        waves.append(0.1 * np.sin(2 * np.pi * (200 + 300 * labels[take % TAKES]) * time))
    assert len(waves) == SESSIONS * TAKES
    np.concatenate(waves).astype(np.float16).tofile(data / "voices" / WAVEFORM)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_waveforms(folder)
    for split in ("train", "dev"):  # tokens as wide as the extractor's
        v = np.load(folder / split / "v.npy")
        np.save(folder / split / "v.npy", np.pad(v, ((0, 0), (0, FRAME_WIDTH - v.shape[1]))))
    write_sound_extractor(folder / "wav2vec2")
    write_frame_extractor(folder / "efficientnet")
    return folder


@pytest.fixture(scope="module")
def config(data: Path) -> dict[str, Any]:
    return paper_config(data, data) | {"epochs": 1, "steps": 3}


@pytest.fixture(scope="module")
def run(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training."""
    out = tmp_path_factory.mktemp("run")
    train(config, out)
    return out


@pytest.fixture(scope="module")
def bundle(config: dict[str, Any], run: Path) -> Bundle:
    network = load_network(config, run / "best.safetensors")
    network.voice_mean.fill_(-8)
    export(config, network, run / "bundle", name="paper", version="1", card="# paper\n", training={})
    return load_bundle(run / "bundle")


def test_it_trains_and_extractors_are_in_no_checkpoint(config: dict[str, Any], run: Path) -> None:
    for file in ("best.safetensors", "last.safetensors"):
        assert (run / file).stat().st_size < 1_000_000
        kept = [name for name in load_file(run / file) if ".net." in name]
        assert not kept
    before = DE3(config).window_model.sound_in.extractor
    after = load_network(config, run / "best.safetensors").window_model.sound_in.extractor
    for (name, weight), (_, again) in zip(before.net.named_buffers(), after.net.named_buffers(), strict=True):
        assert torch.equal(weight, again), name


def test_the_sound_branch_trains_alone(config: dict[str, Any], run: Path, tmp_path: Path) -> None:
    alone = config | {"stage": "voices", "start_weights": str(run / "best.safetensors")}
    figures = train(alone, tmp_path / "run")
    assert 0 <= figures["uar"] <= 1
    tuned = config | {"voice_weights": str(tmp_path / "run" / "best.safetensors"), "epochs": 1}
    assert train(tuned, tmp_path / "tuned")["select"] >= 0
    with pytest.raises(ValueError, match="voice_variety changes the log-mel"):
        train(alone | {"voice_variety": True}, tmp_path / "varied")


def test_it_is_calibrated_with_its_sound(
    config: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import calibrate

    monkeypatch.setattr(calibrate, "STEPS", 1)
    monkeypatch.setattr(calibrate, "read_config", lambda *_: config)
    out = tmp_path / "calibrated.safetensors"
    weights = ["--weights", str(run / "best.safetensors"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["calibrate", "--config", "tiny.toml", *weights])
    calibrate.main()
    assert load_file(out)["temperatures"].shape == (3,)


def test_the_exported_graphs_are_the_network(bundle: Bundle) -> None:
    assert bundle.sound == "waveform"
    assert bundle.sound_shape == (BINS * HOP,)
    backend = OnnxBackend(bundle)
    with np.load(bundle.parity) as samples:
        given = {key[7:]: value for key, value in samples.items() if key.startswith("window_")}
        assert given["waveform"].shape == (4, BINS * HOP)
        for found, name in zip(backend.encode(samples["crop"], samples["flow"]), ("v", "o"), strict=True):
            np.testing.assert_allclose(found, samples[f"answer_{name}"], atol=1e-3)
        logits = backend.answers(given).logits
        np.testing.assert_allclose(logits, samples["answer_logits"], atol=1e-3)
        hidden = np.repeat(~given["audio_mask"], HOP, axis=1)
        spoilt = given | {"waveform": np.where(hidden, np.float32(np.nan), given["waveform"])}
        assert np.array_equal(backend.answers(spoilt).logits, logits)
        moved = given | {"waveform": given["waveform"][:, ::-1].copy()}
        assert np.abs(backend.answers(moved).logits - logits).max() > 1e-4


def test_openvino_says_the_same(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    from engine.backends.openvino import OpenVinoBackend

    with np.load(bundle.parity) as samples:
        given = {key[7:]: value for key, value in samples.items() if key.startswith("window_")}
        answers = [
            backend.answers(given).logits for backend in (OnnxBackend(bundle), OpenVinoBackend(bundle))
        ]
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_it_runs_live(bundle: Bundle) -> None:
    performance = Performance()
    tone = 0.1 * np.sin(np.arange(RATE_HZ // 15) / 5).astype(np.float32)
    with Recognizer(bundle.path, engine="onnx", offline=True) as recognizer:
        for n in range(30):
            t_ns = n * 1_000_000_000 // 15
            recognizer.add_frame(t_ns, np.ascontiguousarray(performance.picture(2 * n)[::2, ::2]))
            recognizer.add_audio(t_ns, tone)
        loud = recognizer.scores(recognizer.ready_ns)
        assert recognizer.faces > 10
        assert loud.valid_audio > 0.4
        assert loud.valid_video > 0.2
        recognizer.clear_window()
        silent = recognizer.scores(1_000_000_000)
        assert silent.valid_audio == 0
    for head in ("video", "audio", "fused"):
        assert loud.heads[head].sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(loud.heads["audio"] - silent.heads["audio"]).max() > 1e-4


def test_training_goes_on_from_its_bundle_and_another_extractor_is_refused(
    config: dict[str, Any], bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    from trainer.configuration import read_config

    file = tmp_path / "again.toml"
    file.write_text(f'start_bundle = "{bundle.path.as_posix()}"\n')
    described = read_config(file)
    assert described["sound_extractor"] == config["sound_extractor"]
    again = config | described
    assert train(again, tmp_path / "again")["select"] >= 0
    other = write_sound_extractor(data / "other", seed=8)
    with pytest.raises(ValueError, match="trained in front of another extractor"):
        train(again | {"sound_extractor": {"weights": str(other), "layers": 2}}, tmp_path / "other")


def test_expression_learns_from_stills_in_front_of_it(config: dict[str, Any], tmp_path: Path) -> None:
    """The frame extractor stays; only what stands behind it learns, and a windows stage starts from it."""
    drawn = np.random.default_rng(2)
    for name in ("train.npz", "dev.npz"):
        crops = drawn.integers(0, 256, (14, 112, 112), dtype=np.uint8)
        np.savez(tmp_path / name, crops=crops, votes=np.eye(7, dtype=np.float32)[np.arange(14) % 7])
    stills = config | {
        "stage": "stills", "cache": str(tmp_path), "train": ["train.npz"], "dev": "dev.npz", "batch": 7,
    }  # fmt: skip
    train(stills, tmp_path / "stills")
    weights = tmp_path / "stills" / "best.safetensors"
    assert {name for name in load_file(weights) if not name.startswith("motion.")} == {
        "appearance.weights_digest", "expression.weight", "expression.bias",
    }  # fmt: skip
    assert train(config | {"frame_encoder_weights": str(weights)}, tmp_path / "windows")["select"] >= 0


def test_voices_are_kept_with_their_sound_where_a_training_needs_it(tmp_path: Path) -> None:
    """Frame by frame the samples are the sound again, beside the log-mel of the very same bins."""
    rng = np.random.default_rng(1)
    waves = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (8_000, 9_600)]
    takes = [
        Take(file=Path(f"{name}.wav"), corpus="own", speaker="ann", split="train", label="happy")
        for name in ("one", "two")
    ]
    voices = store_voices(takes, [len(wave) for wave in waves], map(as_int16, waves), tmp_path)
    prepare(tmp_path, voices, sessions=1, jobs=1, waveform=True)
    mels = open_mels(tmp_path, waveform=True)
    for index, wave in enumerate(waves):
        samples = mels.samples(0, index)
        assert len(samples) == mels.bins[0, index] == 1 + (len(wave) - 400) // HOP
        np.testing.assert_allclose(samples.ravel(), wave[120 : 120 + samples.size], atol=2e-4)
    prepare(tmp_path, voices, sessions=1, jobs=1)
    with pytest.raises(FileNotFoundError, match=r"run trainer\.prepare_voices with --waveform"):
        open_mels(tmp_path, waveform=True)
