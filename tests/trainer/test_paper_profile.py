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
from engine.errors import BackendError
from engine.plans.store import refuse_waveforms
from engine.types import Block
from engine.window import Timeline
from realtime.sources.demo import Performance
from trainer.export import export, load_network
from trainer.model.de3 import DE3
from trainer.prepare_voices import WAVEFORM
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
    monkeypatch.setattr(calibrate, "read_config", lambda file: config)
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
    with pytest.raises(BackendError, match=r"TensorRT plans take log-mel, .*: run it with --engine onnx\."):
        refuse_waveforms(bundle)


def test_openvino_says_the_same(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    from engine.backends.openvino import OpenVinoBackend

    with np.load(bundle.parity) as samples:
        given = {key[7:]: value for key, value in samples.items() if key.startswith("window_")}
        answers = [
            backend.answers(given).logits for backend in (OnnxBackend(bundle), OpenVinoBackend(bundle))
        ]
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_a_window_holds_the_sound_that_was_pushed(bundle: Bundle) -> None:
    """Sample by sample, in its bins, whatever the blocks; what is not there is masked and zero."""
    sound = np.random.default_rng(0).standard_normal(RATE_HZ * 5).astype(np.float32) / 10
    windows = []
    for size in (160, 1000):
        timeline = Timeline(bundle, has_video=False)
        for start in range(0, len(sound), size):
            t_ns = start * 1_000_000_000 // RATE_HZ
            timeline.push_block(Block(t_ns=t_ns, seq=0, samples=sound[start : start + size]))
        windows.append(timeline.window(2_000_000_000)[1])
        windows.append(timeline.window(4_800_000_000)[1])
    early, late, *others = windows
    assert np.array_equal(late.waveform, others[1].waveform)
    assert early.audio_mask.sum() == 199  # the first frame's centre is in the second bin
    assert np.repeat(early.audio_mask, HOP)[early.waveform != 0].all()
    assert late.audio_mask.all()
    places = [int(np.flatnonzero(sound == value)[0]) for value in late.waveform[[0, 20_000, -1]]]
    assert np.diff(places).tolist() == [20_000, BINS * HOP - 1 - 20_000]
    assert abs(places[0] - 0.8 * RATE_HZ) <= HOP / 2  # within half a bin of where it belongs


@pytest.mark.parametrize("engine", ["onnx"])
def test_it_runs_live(bundle: Bundle, engine: str) -> None:
    performance = Performance()
    tone = 0.1 * np.sin(np.arange(RATE_HZ // 15) / 5).astype(np.float32)
    with Recognizer(bundle.path, engine=engine, offline=True) as recognizer:
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
    from trainer.start import read_config

    file = tmp_path / "again.toml"
    file.write_text(f'start_bundle = "{bundle.path.as_posix()}"\n')
    described = read_config(file)
    assert described["sound_extractor"] == config["sound_extractor"]
    again = config | described
    assert train(again, tmp_path / "again")["select"] >= 0
    other = write_sound_extractor(data / "other", seed=8)
    with pytest.raises(ValueError, match="trained in front of another extractor"):
        train(again | {"sound_extractor": {"weights": str(other), "layers": 2}}, tmp_path / "other")
