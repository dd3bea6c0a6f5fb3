"""A training's configuration: read from TOML, with settings of the command line, and checked key by key.

What a key is for stands in the trainer's README. It knows nothing of data, networks in memory or weights.
Data leaves as the plain dictionary that stages read.
"""

import argparse
import inspect
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import unknown_key
from trainer.model.frame_encoder import FrameEncoder
from trainer.model.window_model import WindowModel

AFTERWARDS = ("smoothing_s", "sure_after_s", "leaning")
"""What the engine does with what the heads say, as far as the configuration asks for it."""
KEPT = ("lead", "attribute_ranges", *AFTERWARDS)
"""What a bundle says beside its network that a configuration which starts from it goes on with."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value has to be, in words, and whether it is."""

    words: str
    holds: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", lambda value: _all(str, value))
TABLE = Kind("a table", lambda value: isinstance(value, dict))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
COUNT = Kind("a whole number from 1 on", lambda value: WHOLE.holds(value) and value > 0)
FROM_0 = Kind("a number from 0 on", lambda value: _number(value) and value >= 0)
ABOVE_0 = Kind("a number above 0", lambda value: _number(value) and value > 0)
SHARE = Kind("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
STAGE = Kind("one of stills, voices, windows", lambda value: value in ("stills", "voices", "windows"))
SHARES = Kind(
    "three numbers from 0 on: of windows with face and voice, voice alone, face alone",
    lambda value: (
        isinstance(value, list) and len(value) == 3 and all(map(FROM_0.holds, value)) and any(value)
    ),
)

KINDS = (
    (WHOLE, ("seed",)),
    (COUNT, ("epochs", "steps", "batch", "patience", "threads", "sessions")),
    (ABOVE_0, ("learning_rate", "attribute_weight")),
    (FROM_0, ("weight_decay", "smoothing_s")),
    (SHARE, ("label_smoothing", "taught_share", "clean_share", "warm_up")),
    (SHARES, ("shares",)),
    (SWITCH, ("bfloat16", "voice_variety", "moving_faces")),
    (STAGE, ("stage",)),
    (TEXT, ("name", "select", "device", "lead", "cache", "clips", "dev_clips", "dev", "voice_encoder")),
    (TEXT, ("start_bundle", "start_weights", "frame_encoder_weights", "voice_weights")),
    (TEXTS, ("sets", "splits", "speakers", "train", "teachers", "attributes", "frozen")),
    (TABLE, ("attribute_ranges", "sure_after_s", "leaning")),
    (TABLE, ("frame_encoder", "window_model", "frame_extractor", "sound_extractor")),
)
KEYS = {key: kind for kind, keys in KINDS for key in keys}
NEEDED = ("stage", "name", "seed", "epochs", "batch", "learning_rate", "weight_decay", "frame_encoder")
NEEDED_BY = {
    "stills": ("cache", "train", "dev"),
    "voices": ("steps", "splits", "label_smoothing", "window_model"),
    "windows": ("steps", "splits", "label_smoothing", "window_model", "shares"),
}
NETWORKS = {"frame_encoder": FrameEncoder, "window_model": WindowModel}
"""The tables that are the sizes of a network, but for what other keys give it."""
GIVEN = {"self", "extractor", "attributes"}


def add_config(parser: argparse.ArgumentParser, what: str) -> None:
    """`--config FILE` and `--set KEY=VALUE`, the same in every command, for `read_config`."""
    parser.add_argument("--config", type=Path, required=True, help=what)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="as a line of the configuration, in place of its own: --set seed=2 --set window_model.width=64",
    )  # fmt: skip


def read_config(file: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration; what it leaves out of sizes and of what is `KEPT`, its `start_bundle` says, if any.

    settings: lines of TOML that replace the file's, `seed=2` or `window_model.width=64`.

    Raises ValueError where the file cannot be read, a setting is no TOML, a key is none or has a value of
    another kind, or the bundle's folder holds no manifest with the sizes.
    """
    config = read_toml(file)
    for setting in settings:
        try:
            config = _replaced(config, tomllib.loads(setting))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(
                f"--set {setting} is not a line of TOML ({error}); text needs quotes: 'name=\"mine\"'."
            ) from error
    _check(config, file)
    if "start_bundle" in config:
        manifest = Path(config["start_bundle"]) / "manifest.json"
        try:
            described = json.loads(manifest.read_text())
            network = described["network"]
        except (OSError, KeyError) as error:
            raise ValueError(f"{manifest} does not describe a network to start from ({error}).") from error
        kept = {key: described[key] for key in KEPT if key in described}
        if "voice" in described:
            kept["voice_encoder"] = str(manifest.with_name(described["voice"]["encoder"]))
        return _replaced(kept | network, config)
    return config


def read_toml(file: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ValueError where it cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise ValueError(f"{file} is no TOML: {error}.") from error


def need(config: dict[str, Any]) -> None:
    """Raises ValueError where a training's configuration lacks a key that its stage cannot do without."""
    _need(config, (*NEEDED, *NEEDED_BY.get(config.get("stage", ""), ())))


def run_folder(config: dict[str, Any]) -> Path:
    """Where a configuration's training keeps its weights, unless another place is named.

    Raises ValueError where it has no name.
    """
    _need(config, ("name",))
    return Path("runs") / str(config["name"])


def _need(config: dict[str, Any], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in config]:
        raise ValueError(f"The configuration lacks the key {missing[0]!r}.")


def _check(config: dict[str, Any], file: Path) -> None:
    for key, value in config.items():
        if key not in KEYS:
            raise ValueError(f"{file}: {unknown_key(key, KEYS)}")
        if not KEYS[key].holds(value):
            raise ValueError(f"{file}: {key} must be {KEYS[key].words}, not {value!r}.")
    for table, network in NETWORKS.items():
        known = inspect.signature(network.__init__).parameters.keys() - GIVEN
        for key in config.get(table, {}):
            if key not in known:
                raise ValueError(f"{file}: [{table}] {unknown_key(key, known)}")


def _replaced(values: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    return values | {
        key: _replaced(values[key], value) if isinstance(value, dict) and key in values else value
        for key, value in by.items()
    }
