"""Where a training starts: weights from elsewhere, and the parts that stay as they are.

Weights may come from a checkpoint of any stage (`best.safetensors`, or the averaged weights in
`last.safetensors`), from the `model.safetensors` of a bundle, or from a file of the frame encoder alone. It
knows nothing of data and losses. Data leaves as the network that was given, filled.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.model.de3 import DE3
from trainer.model.frame_encoder import FrameEncoder

SOUND_PARTS = ("sound_in", "sound_encoder", "pools.1", "heads.1", "attribute_heads.1", "voice_statistics")
NOT_EVERYWHERE = ("attribute_heads.1", "voice_statistics")
"""Of these, what a network may lack."""
OPTIONAL = tuple(
    f"window_model.{part}." for part in ("attribute_heads", "still_expression", "voice_statistics")
)
"""A network with continuous attributes, or that asks stills or a voice's statistics, may start from one
without."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a file, float32. Raises ValueError where there is no such file."""
    if not file.is_file():
        raise ValueError(f"There are no weights to start from: {file} is missing.")
    tensors = load_file(file)
    averaged = {name[9:]: value for name, value in tensors.items() if name.startswith("averaged/")}
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in (averaged or tensors).items()
    }


def start(network: DE3, config: dict[str, Any]) -> None:
    """Fill a network with the weights that the configuration names, each over those before it.

    frame_encoder_weights: the frame encoder, alone in its file or in a whole network. start_bundle (a
    folder), start_weights (a file): the whole network. voice_weights: the sound branch of a whole network.

    Raises ValueError where a file is missing or does not fit, and says what in it does not.
    """
    if "frame_encoder_weights" in config:
        start_encoder(network.frame_encoder, Path(config["frame_encoder_weights"]))
    if "start_bundle" in config:
        file = Path(config["start_bundle"]) / "model.safetensors"
        fill(network, read_weights(file), file)
    if "start_weights" in config:
        file = Path(config["start_weights"])
        fill(network, read_weights(file), file)
    if "voice_weights" in config:
        file = Path(config["voice_weights"])
        weights = _under(read_weights(file), "window_model")
        own = dict(network.window_model.named_modules())
        for part in SOUND_PARTS:
            found = _under(weights, part)
            if part not in NOT_EVERYWHERE or (found and part in own):
                fill(own[part], found, file)


def start_encoder(encoder: FrameEncoder, file: Path) -> None:
    """Fill a frame encoder from a file of it alone or of a whole network. Raises ValueError as `start`."""
    weights = read_weights(file)
    fill(encoder, _under(weights, "frame_encoder") or weights, file)


def fill(
    module: nn.Module, weights: dict[str, Tensor], file: Path, optional: tuple[str, ...] = OPTIONAL
) -> None:
    """Load weights that must fit but for optional parts. Raises ValueError that names the weight."""
    own = module.state_dict()
    for name, value in own.items():
        if name not in weights and not name.startswith(optional):
            raise ValueError(f"{file} does not fit: it lacks the weight {name}.")
        if name in weights and weights[name].shape != value.shape:
            raise ValueError(
                f"{file} does not fit: {name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}."
            )
    module.load_state_dict({name: weights.get(name, value) for name, value in own.items()})


def freeze(module: nn.Module, names: list[str]) -> list[nn.Module]:
    """The parts of these names (`frame_encoder.motion`, `sound_encoder`), which no longer learn.

    A name may leave out `window_model.`. Raises ValueError for a name that is no part.
    """
    parts = []
    known = dict(module.named_modules())
    for name in names:
        part = known.get(name) or known.get(f"window_model.{name}")
        if part is None:
            raise ValueError(f"frozen names {name!r}, which is no part of the network.")
        part.requires_grad_(False)
        parts.append(part)
    return parts


def _under(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
