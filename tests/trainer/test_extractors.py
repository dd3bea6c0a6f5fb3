"""Frozen extractors: where they come from, what they let through, and that nothing of them learns."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_extractors import FRAME_WIDTH, write_frame_extractor, write_sound_extractor

pytest.importorskip("transformers", reason="the extra `paper` is not installed")

from trainer.model.extractors import (
    SoundExtractor,
    load_frame_extractor,
    load_sound_extractor,
)

BINS, BIN = 40, 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("extractors")
    write_sound_extractor(made / "sound")
    write_frame_extractor(made / "frames")
    return made


@pytest.fixture(scope="module")
def heard(folder: Path) -> SoundExtractor:
    return load_sound_extractor({"weights": str(folder / "sound"), "layers": 2})


def sound(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, BINS * BIN, generator=torch.Generator().manual_seed(4)) / 10


def test_steps_lie_on_the_grid_of_the_window_model(heard: SoundExtractor) -> None:
    """A click sounds in the frames around it: frame n is centred on samples 320 n to 320 n + 320."""
    everything = torch.ones(1, BINS, dtype=torch.bool)
    features, mask = heard(sound(1), everything)
    assert features.shape == (1, BINS // 4, 16)
    assert mask.all()
    frames = heard.net.feature_extractor
    wave = torch.nn.functional.pad(torch.zeros(1, BINS * BIN), (heard.before, heard.after))
    still = frames(wave)
    wave[0, heard.before + 320 * 7 + 160] = 1
    moved = (frames(wave) - still).abs().sum(1)[0]
    assert moved.shape == (BINS // 2,)
    assert set(torch.nonzero(moved)[:, 0].tolist()) == {7}


def test_it_is_the_networks_own_forward_where_all_is_heard(folder: Path) -> None:
    """Two layers of three, and their order, are those of `transformers` itself."""
    from transformers import Wav2Vec2Model

    extractor = load_sound_extractor({"weights": str(folder / "sound"), "layers": 2})
    own = Wav2Vec2Model.from_pretrained(folder / "sound", num_hidden_layers=2).eval()
    wave = sound(1)
    levelled = (wave - wave.mean()) / wave.std(correction=0)
    padded = torch.nn.functional.pad(levelled, (extractor.before, extractor.after))
    with torch.inference_mode():
        expected = own(padded).last_hidden_state.view(1, BINS // 4, 2, 16).mean(2)
        found, _ = extractor(wave, torch.ones(1, BINS, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("filling", ["noise", "nan"])
@pytest.mark.parametrize("changes", [{}, {"feat_extract_norm": "group", "do_stable_layer_norm": False}])
@torch.inference_mode()
def test_what_is_behind_the_mask_changes_no_bit(
    tmp_path: Path, filling: str, changes: dict[str, Any]
) -> None:
    extractor = load_sound_extractor({"weights": str(write_sound_extractor(tmp_path, **changes))})
    mask = torch.rand(2, BINS, generator=torch.Generator().manual_seed(5)) < 0.7
    mask[1, 10:30] = False
    hidden = ~mask[:, :, None].expand(-1, -1, BIN).reshape(2, -1)
    wave = sound()
    spoilt = wave.masked_fill(hidden, torch.nan) if filling == "nan" else wave + 100 * hidden
    features, steps = extractor(wave, mask)
    again, _ = extractor(spoilt, mask)
    assert torch.equal(features, again)
    assert torch.equal(steps, mask.view(2, -1, 4).any(2))
    assert not features[~steps].any()
    audible, _ = extractor(wave, torch.ones_like(mask))
    assert (features[steps] - audible[steps]).abs().max() > 1e-3  # masked is not the same as silent
    deaf, none = extractor(wave, torch.zeros_like(mask))
    assert not none.any()
    assert not deaf.any()


@torch.inference_mode()
def test_neither_loudness_nor_an_offset_counts(heard: SoundExtractor) -> None:
    mask = torch.rand(2, BINS, generator=torch.Generator().manual_seed(5)) < 0.7
    straight, louder = heard(sound(), mask)[0], heard(sound() * 7 + 0.3, mask)[0]
    torch.testing.assert_close(straight, louder, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_frames_give_tokens_of_unit_deviation(folder: Path) -> None:
    extractor = load_frame_extractor({"weights": str(folder / "frames")})
    assert extractor.size == 40
    crops = torch.rand(3, 1, 112, 112, generator=torch.Generator().manual_seed(6)) * 255
    tokens = extractor(crops)
    assert tokens.shape == (3, FRAME_WIDTH)
    torch.testing.assert_close(tokens.std(1, correction=0), torch.ones(3), atol=1e-2, rtol=0)
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


def test_nothing_of_it_learns_or_is_saved(heard: SoundExtractor) -> None:
    assert not list(heard.parameters())
    assert set(heard.state_dict()) == {"weights_digest"}
    heard.train()
    assert not any(part.training for part in heard.modules())


def test_weights_that_were_trained_in_front_of_another_are_refused(folder: Path, tmp_path: Path) -> None:
    one = load_sound_extractor({"weights": str(folder / "sound"), "layers": 2})
    other = load_sound_extractor({"weights": str(write_sound_extractor(tmp_path, seed=9)), "layers": 2})
    deeper = load_sound_extractor({"weights": str(folder / "sound")})
    for another in (other, deeper):
        with pytest.raises(ValueError, match=r"trained in front of another extractor than .*sound"):
            one.load_state_dict(another.state_dict())
    small, large = (
        load_frame_extractor({"weights": str(folder / "frames"), "size": size}) for size in (40, 64)
    )
    assert not torch.equal(small.weights_digest, large.weights_digest)


def test_what_cannot_be_had_is_said_in_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for half a minute
    with pytest.raises(ValueError, match=r"layers is 12; .*sound has 3\.$"):
        load_sound_extractor({"weights": str(folder / "sound"), "layers": 12})
    with pytest.raises(
        ValueError, match=r"^The extractor .*nowhere/at-all cannot be fetched; name a local folder"
    ):
        load_frame_extractor({"weights": "nowhere/at-all"})
    write_sound_extractor(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.1.attention.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit: it lacks the weight encoder\.layers\.1\.attention"):
        load_sound_extractor({"weights": str(tmp_path)})
    with pytest.raises(ValueError, match=r"makes a frame every 160 samples, not every 320"):
        load_sound_extractor(
            {"weights": str(write_sound_extractor(tmp_path / "fast", conv_stride=(5, 2, 2, 2, 2, 2, 1)))}
        )
    with pytest.raises(ValueError, match=r"^There is no folder /no/where, and it is no name on the hub\.$"):
        load_frame_extractor({"weights": "/no/where"})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'needs transformers: pip install -e "\.\[paper\]"\.'):
        load_sound_extractor({"weights": str(folder / "sound")})
