"""A network that takes voice tokens, from prepared voices to a bundle that scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bundle import load_bundle
from engine.recognizer import Recognizer
from engine.types import SECOND_NS
from tests.engine.small_bundle import VOICE, voice_graph, voice_weights
from tests.trainer.small_windows import WINDOW_MODEL, windows_config, write_data
from trainer.configuration import read_config
from trainer.export import export, load_network
from trainer.model.sound_input import TokenSound
from trainer.prepared_sets import make_ready
from trainer.set_union import SetFolders, tokens_of
from trainer.train import train
from trainer.window_batches import WindowSource

WIDTH = 259


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = write_data(tmp_path_factory.mktemp("data"))
    encoder = data / VOICE["encoder"]
    encoder.write_bytes(voice_graph(voice_weights(np.random.default_rng(7))))
    sizes = {k: v for k, v in WINDOW_MODEL.items() if k != "sound_channels"}
    return windows_config(data) | {
        "window_model": sizes | {"voice_token": WIDTH},
        "voice_encoder": str(encoder),
    }


@pytest.fixture(scope="module")
def run(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_ready(config, jobs=1)
    train(config, folder)
    return folder


def source(config: dict[str, Any], **options: Any) -> WindowSource:
    sets = [SetFolders(Path(config["cache"]), (Path(config["clips"]),))]
    return WindowSource(sets=sets, splits=("train",), shares=(0.5, 0.5, 0), sound="voice_tokens", **options)


def test_windows_hold_tokens_as_live_use_has_them(config: dict[str, Any], run: Path) -> None:
    drawn = source(config)
    (batch,) = drawn.calm_batches(np.random.default_rng(0), [(2, None, 2)], 1)
    held = tokens_of([SetFolders(Path(config["cache"]), ())])
    whole = held.tokens[held.rows(0, 2)].astype(np.float32)
    heard = batch.audio_mask[0].reshape(-1, 4)
    assert (heard.all(1) == heard.any(1)).all()
    np.testing.assert_array_equal(batch.sound[0][heard.any(1)], whole[: heard.any(1).sum()])
    assert not batch.sound[0][~heard.any(1)].any()
    assert batch.voice_baseline.shape == (1, WIDTH)


def test_a_louder_microphone_moves_tokens_and_baseline_alike(config: dict[str, Any], run: Path) -> None:
    drawn = source(config)
    rng = np.random.default_rng(1)
    rows = [drawn.window(rng, label=3, clip=None, take=3) for _ in range(8)]
    calm = drawn.window(np.random.default_rng(0), label=3, clip=None, take=3, calm=True)
    assert {row["sound"].shape for row in rows} == {calm["sound"].shape}
    apart = [
        (row["sound"] - row["voice_baseline"])[row["audio_mask"].reshape(-1, 4).any(1)][:, -256:]
        for row in rows
        if row["voice_weight"] > 0
    ]
    assert np.ptp([each.mean() for each in apart]) < 1.5  # gains are drawn with a deviation of a third


def test_variety_is_refused(config: dict[str, Any], run: Path) -> None:
    with pytest.raises(ValueError, match="leave it out where windows take voice_tokens"):
        source(config, varied=True)


def test_what_is_behind_the_mask_has_no_say() -> None:
    torch.manual_seed(0)
    sound = TokenSound(11, 2, 8, 0.1).eval()
    tokens, mask = torch.randn(2, 6, 11), torch.rand(2, 24) < 0.5
    mask[0, :8] = False
    spoilt = torch.where(mask.unflatten(1, (-1, 4)).any(2)[..., None], tokens, torch.nan)
    baseline, weight = torch.randn(2, 11), torch.rand(2)
    found, steps = sound(tokens, mask, baseline, weight)
    assert torch.equal(found, sound(spoilt, mask, baseline, weight)[0])
    bins = tokens[..., 3:].unflatten(2, (4, 2)) + 9 * ~mask.unflatten(1, (-1, 4))[..., None]
    other = torch.cat((tokens[..., :3], bins.flatten(2)), 2)
    torch.testing.assert_close(sound(other, mask, baseline, weight)[0], found)
    assert torch.equal(steps, mask.view(2, 6, 4).any(2))
    louder = sound(tokens + 2, mask, baseline + 2, weight)[0]
    torch.testing.assert_close(found, louder, atol=1e-5, rtol=1e-5)


def test_it_learns_and_its_bundle_scores(config: dict[str, Any], run: Path, tmp_path: Path) -> None:
    network = load_network(config, run / "best.safetensors")
    export(config, network, tmp_path, name="tokens", version="1", card="", training={})
    bundle = load_bundle(tmp_path)
    assert (bundle.sound, bundle.sound_shape, bundle.voice_width) == ("voice_tokens", (100, WIDTH), WIDTH)
    rng = np.random.default_rng(2)
    with Recognizer(bundle=tmp_path, has_video=False, offline=True) as recogniser:
        recogniser.add_audio(0, (rng.standard_normal(64_000) * 0.1).astype(np.float32))
        scores = recogniser.scores(4 * SECOND_NS)
    assert sum(scores.heads["fused"]) == pytest.approx(1)
    file = tmp_path / "again.toml"
    file.write_text(f'start_bundle = "{tmp_path}"\n')
    again = read_config(file)
    assert Path(again["voice_encoder"]) == tmp_path / "voice_encoder.onnx"
    assert again["window_model"]["voice_token"] == WIDTH
