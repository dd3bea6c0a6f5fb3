"""Where a training may start from, and what it says where it cannot."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_windows import FRAME_ENCODER, WINDOW_MODEL

from trainer.configuration import read_config
from trainer.model.de3 import DE3
from trainer.model.frame_encoder import FrameEncoder
from trainer.start import freeze, start

CONFIG = {"frame_encoder": FRAME_ENCODER, "window_model": WINDOW_MODEL}


def network(seed: int, **more: object) -> DE3:
    torch.manual_seed(seed)
    return DE3(CONFIG | more)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_frame_encoder_comes_alone_or_out_of_a_whole_checkpoint(tmp_path: Path) -> None:
    given = network(1)
    save_file(given.frame_encoder.state_dict(), tmp_path / "alone.safetensors")
    save_file(given.state_dict(), tmp_path / "whole.safetensors")
    running = {f"averaged/{k}": v for k, v in given.state_dict().items()}
    running |= {f"network/{k}": v + 1 for k, v in network(3).state_dict().items()}
    save_file(running, tmp_path / "last.safetensors")
    for name in ("alone", "whole", "last"):
        made = network(2)
        start(made, {"frame_encoder_weights": str(tmp_path / f"{name}.safetensors")})
        assert same(made.frame_encoder, given.frame_encoder), name
        assert same(made.window_model, network(2).window_model)


def test_the_sound_branch_comes_alone(tmp_path: Path) -> None:
    given = network(1)
    save_file(given.state_dict(), tmp_path / "voices.safetensors")
    made = network(2, attributes=["arousal"])  # attributes may be new
    before = network(2, attributes=["arousal"])
    start(made, {"voice_weights": str(tmp_path / "voices.safetensors")})
    for part in ("sound_in", "sound_encoder", "pools.1", "heads.1"):
        assert same(made.window_model.get_submodule(part), given.window_model.get_submodule(part))
    for part in ("appearance_in", "fusion", "heads.0", "attribute_heads"):
        assert same(made.window_model.get_submodule(part), before.window_model.get_submodule(part))


def test_a_bundle_gives_sizes_and_weights(tmp_path: Path) -> None:
    given = network(1)
    halves = {k: v.half() if v.ndim > 1 else v for k, v in given.state_dict().items()}
    save_file(halves, tmp_path / "model.safetensors")
    manifest = '{"network": {"window_model": {"width": 16, "heads": 2}}, "lead": "video", '
    manifest += '"smoothing_s": 0.5, "leaning": {"share": 0.25}, "attribute_ranges": {"arousal": [1, 5]}}'
    (tmp_path / "manifest.json").write_text(manifest)
    file = tmp_path / "tune.toml"
    file.write_text(f'name = "tune"\nstart_bundle = "{tmp_path.as_posix()}"\n')
    config = read_config(file)
    assert config["window_model"] == {"width": 16, "heads": 2}
    changed = read_config(file, ["window_model.dropout=0.2", "leaning.tau_s=90"])
    assert changed["window_model"] == {"width": 16, "heads": 2, "dropout": 0.2}
    assert changed["leaning"] == {"share": 0.25, "tau_s": 90}
    assert (config["lead"], config["smoothing_s"], config["name"]) == ("video", 0.5, "tune")
    assert (config["attribute_ranges"], config["leaning"]) == ({"arousal": [1, 5]}, {"share": 0.25})
    made = network(2)
    start(made, config)
    assert all(v.dtype != torch.half for v in made.state_dict().values())
    torch.testing.assert_close(made.state_dict(), given.state_dict(), atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.safetensors is missing"):
        start(network(1), {"start_weights": str(tmp_path / "nowhere.safetensors")})
    file = tmp_path / "encoder.safetensors"
    save_file(FrameEncoder(**FRAME_ENCODER | {"appearance": 10}).state_dict(), file)
    with pytest.raises(
        ValueError, match=r"encoder.safetensors does not fit: appearance.token.weight is \(10, 8\)"
    ):
        start(network(1), {"frame_encoder_weights": str(file)})
    with pytest.raises(ValueError, match=r"does not fit: it lacks the weight"):
        start(network(1), {"start_weights": str(file)})
    (tmp_path / "tune.toml").write_text(f'start_bundle = "{tmp_path.as_posix()}"\n')
    with pytest.raises(ValueError, match=r"manifest.json does not describe a network"):
        read_config(tmp_path / "tune.toml")


def test_parts_are_frozen_by_name() -> None:
    made = network(1)
    parts = freeze(made, ["sound_encoder", "frame_encoder.motion"])
    assert parts == [made.window_model.sound_encoder, made.frame_encoder.motion]
    still = {name for name, p in made.named_parameters() if not p.requires_grad}
    assert still
    assert all(name.startswith(("window_model.sound_encoder.", "frame_encoder.motion.")) for name in still)
    with pytest.raises(ValueError, match="'ears', which is no part"):
        freeze(made, ["ears"])


def test_settings_replace_lines_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "a"\nseed = 1\n[window_model]\nwidth = 96\nheads = 4\n')
    config = read_config(file, ["seed=2", 'splits=["train", "dev"]', "window_model.width=64"])
    assert config == {
        "name": "a", "seed": 2, "splits": ["train", "dev"], "window_model": {"width": 64, "heads": 4}
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"--set name=b is not a line of TOML"):
        read_config(file, ["name=b"])
