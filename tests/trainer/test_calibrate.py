"""Temperatures of weights that know the dev speakers: fitted on test speakers, shown half by half."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.small_windows import windows_config, write_data
from trainer import calibrate
from trainer.calibrate import calibration, draw_logits, two_halves, window_source
from trainer.export import load_network
from trainer.metrics import calibration_error
from trainer.set_union import SetFolders
from trainer.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test speakers, whose faces are in `train` and `dev`, and a network that has learned from one."""
    folder = write_data(tmp_path_factory.mktemp("data"))
    config = windows_config(folder)
    train(config | {"epochs": 1}, folder / "run")
    voices = folder / "voices" / "voices.npz"
    with np.load(voices) as table:
        told = dict(table)
    np.savez(voices, **told | {"splits": np.full(len(told["splits"]), "test")})
    return folder


def test_halves_share_no_speaker_and_are_shown_with_their_own_temperatures(data: Path) -> None:
    network = load_network(windows_config(data), data / "run" / "best.safetensors")
    folders = [SetFolders(data / "voices", (data / "train", data / "dev"))]
    whole = window_source(network, folders, "test", "mel")
    halves = [window_source(network, folders, "test", "mel", own) for own in two_halves(whole)]
    for name in ("takes", "of_label"):
        for label in range(7):
            parts = [set(getattr(each, name)[label].tolist()) for each in halves]
            assert not parts[0] & parts[1]
            assert all(parts)
            assert parts[0] | parts[1] == set(getattr(whole, name)[label].tolist())
    temperatures = [torch.full((3,), 0.5), torch.full((3,), 4.0)]
    shown = calibration(network, list(zip(halves, temperatures, strict=True)), {})
    scores, labels = [], []
    for each, by in zip(halves, temperatures, strict=True):
        logits, known = draw_logits(network, each, 12, "both", {})
        scores.append(torch.softmax(logits[:, 2] / by[2], 1).numpy())
        labels.append(known.numpy())
    expected = calibration_error(np.concatenate(scores), np.concatenate(labels))
    assert shown["both_fused"]["ece"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_the_weights_keep_what_fits_all_test_speakers(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = windows_config(data)
    monkeypatch.setattr(calibrate, "STEPS", 2)
    monkeypatch.setattr(calibrate, "read_config", lambda *_: config)
    weights, out = data / "run" / name, tmp_path / "calibrated.safetensors"
    options = ["--weights", str(weights), "--out", str(out), "--test", str(data / "train"), "--halves"]
    monkeypatch.setattr(sys, "argv", ["calibrate", "--config", "tiny.toml", *options])
    calibrate.main()
    network = load_network(config, weights)
    test = window_source(network, [SetFolders(data / "voices", (data / "train",))], "test", "mel")
    fitted = calibrate.fitted(network, test, {})
    assert not torch.equal(fitted, network.temperatures)
    torch.testing.assert_close(load_network(config, out).temperatures, fitted)


def test_clips_of_a_cache_beside_sets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text('name = "tiny"\nsets = ["data/mine"]\n')
    monkeypatch.setattr(sys, "argv", ["calibrate", "--config", str(file), "--test", "data/clips/test"])
    with pytest.raises(SystemExit, match="2"):
        calibrate.main()
    assert "--test names clips of the configuration's cache; of sets, leave it out" in capsys.readouterr().err
