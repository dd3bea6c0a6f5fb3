"""What a training's configuration may say, and in which words the rest is refused."""

from pathlib import Path

import pytest

from trainer.configuration import need, read_config, run_folder
from trainer.train import train

CONFIGS = Path(__file__).parents[2] / "trainer" / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_configuration_of_ours_holds(file: Path) -> None:
    config = read_config(file)
    need(config)
    assert run_folder(config) == Path("runs") / config["name"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("patiance=2", "unknown key 'patiance'; did you mean 'patience'?"),
        ("window_model.widht=64", "[window_model] unknown key 'widht'; did you mean 'width'?"),
        ("steps=0", "steps must be a whole number from 1 on, not 0."),
        ("epochs='x'", "epochs must be a whole number from 1 on, not 'x'."),
        ("seed=true", "seed must be a whole number, not True."),
        ("learning_rate=0", "learning_rate must be a number above 0, not 0."),
        ("label_smoothing=1.5", "label_smoothing must be a number from 0 to 1, not 1.5."),
        ("bfloat16=1", "bfloat16 must be true or false, not 1."),
        ("sets='data/mine'", "sets must be a list of texts, not 'data/mine'."),
        ("leaning=0.5", "leaning must be a table, not 0.5."),
        ("stage='window'", "stage must be one of stills, voices, windows, not 'window'."),
        ("shares=[1]", "shares must be three numbers from 0 on: of windows with face and voice, "),
        ("shares=[0, 0, 0]", "shares must be three numbers from 0 on"),
    ],
)
def test_what_is_no_key_or_of_another_kind_is_refused(setting: str, words: str) -> None:
    file = CONFIGS / "live.toml"
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its words are looked at below
        read_config(file, [setting])
    assert f"{file}: {words}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "words"), [("nothere.toml", "cannot be read: No such"), ("", "cannot be read: Is a directory")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_config(tmp_path / name)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"name = \xff")
    with pytest.raises(ValueError, match=r"c\.toml is no TOML"):
        read_config(tmp_path / "c.toml")


def test_a_training_says_what_its_stage_cannot_do_without(tmp_path: Path) -> None:
    config = read_config(CONFIGS / "voices.toml")
    for key in ("learning_rate", "splits", "stage", "name"):
        with pytest.raises(ValueError, match=f"lacks the key '{key}'"):
            train({name: value for name, value in config.items() if name != key}, tmp_path)
    with pytest.raises(ValueError, match="one epoch or more, not 0"):
        train(config, tmp_path, epochs=0)
