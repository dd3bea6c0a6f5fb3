"""A MobileNet that starts from published weights: beside the same network written without it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file

from trainer import face_start
from trainer.face_start import fill_layers, fit_norms, read_tensorflow_js
from trainer.model.frame_encoder import FrameEncoder
from trainer.model.mobile_net import BLOCKS, CONTRAST, MobileAppearance

NUMBER = 3  # blocks, so that each stride and a change of width are among them
Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def published() -> Weights:
    """Weights named and shaped as HSE-FaceRes', random."""
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)

    weights = {
        "conv1/convolution/merged_input": drawn(3, 3, 3, 32) / 20,
        "conv1_bn/batchnorm_1/sub": drawn(32),
    }
    width = 32
    for block, (channels, _) in enumerate(BLOCKS[:NUMBER], 1):
        weights |= {
            f"conv_dw_{block}/depthwise_kernel": drawn(3, 3, width, 1),
            f"conv_dw_{block}_bn/batchnorm_1/mul": 1 + np.abs(drawn(width)),
            f"conv_dw_{block}_bn/batchnorm_1/sub": drawn(width),
            f"conv_pw_{block}/convolution/merged_input": drawn(1, 1, width, channels),
            f"conv_pw_{block}_bn/batchnorm_1/sub": drawn(channels),
        }
        width = channels
    return weights


def write_tensorflow_js(weights: Weights, folder: Path) -> Path:
    """Half precision but for the first weight, as the package keeps them."""
    told, content = [], b""
    for number, (name, value) in enumerate(weights.items()):
        row: dict[str, Any] = {"name": name, "shape": list(value.shape), "dtype": "float32"}
        if number:
            row["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        content += value.astype(np.float16 if number else np.float32).tobytes()
        told.append(row)
    (folder / "model.bin").write_bytes(content)
    file = folder / "model.json"
    file.write_text(json.dumps({"weightsManifest": [{"paths": ["model.bin"], "weights": told}]}))
    return file


def crops(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(count, 1, 14, 14, generator=generator)
    return 255 * F.interpolate(coarse, size=112, mode="bilinear")


def reference(weights: Weights, seen: torch.Tensor) -> torch.Tensor:
    """Three colours, TensorFlow's padding, folded norms: (B, C)."""

    def same(x: torch.Tensor, stride: int) -> torch.Tensor:
        total = max((-(-x.shape[2] // stride) - 1) * stride + 3 - x.shape[2], 0)
        first, last = total // 2, total - total // 2
        return F.pad(x, (first, last, first, last))

    def kernel(name: str) -> torch.Tensor:
        return torch.from_numpy(weights[name]).permute(3, 2, 0, 1)

    def bias(name: str) -> torch.Tensor:
        return torch.from_numpy(weights[f"{name}_bn/batchnorm_1/sub"])

    mean = seen.mean((1, 2, 3), keepdim=True)
    x = CONTRAST * (seen - mean) / (seen.std((1, 2, 3), keepdim=True, correction=0) + 8)
    x = F.conv2d(same(x.expand(-1, 3, -1, -1), 2), kernel("conv1/convolution/merged_input"), bias("conv1"), 2)
    x = x.clamp(0, 6)
    for block, (_, stride) in enumerate(BLOCKS[:NUMBER], 1):
        apart = torch.from_numpy(weights[f"conv_dw_{block}/depthwise_kernel"]).permute(2, 3, 0, 1)
        scale = torch.from_numpy(weights[f"conv_dw_{block}_bn/batchnorm_1/mul"])
        x = F.conv2d(same(x, stride), apart, None, stride, groups=x.shape[1])
        x = (x * scale[:, None, None] + bias(f"conv_dw_{block}")[:, None, None]).clamp(0, 6)
        x = F.conv2d(x, kernel(f"conv_pw_{block}/convolution/merged_input"), bias(f"conv_pw_{block}"))
        x = x.clamp(0, 6)
    return x.mean((2, 3))


def test_published_weights_give_what_they_gave_before_and_after_norms_are_fitted(published: Weights) -> None:
    appearance = MobileAppearance(NUMBER, 8, 0.0)
    fill_layers(appearance, published)
    seen, expected = crops(6), reference(published, crops(6))
    with torch.no_grad():
        torch.testing.assert_close(appearance.eval().seen(seen), expected, atol=2e-4, rtol=1e-3)
        fit_norms(appearance, seen)
        torch.testing.assert_close(appearance.eval().seen(seen), expected, atol=2e-3, rtol=1e-2)
        # Norms hold the statistics of just these crops, so as they train they say the same.
        torch.testing.assert_close(appearance.train().seen(seen), expected, atol=2e-3, rtol=1e-2)


def test_a_start_is_a_frame_encoder_of_the_configuration(published: Weights, tmp_path: Path) -> None:
    model = write_tensorflow_js(published, tmp_path)
    found = read_tensorflow_js(model)
    assert found.keys() == published.keys()
    for name, value in published.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3, rtol=1e-3)
    np.savez(tmp_path / "stills.npz", crops=crops(8).numpy()[:, 0].astype(np.uint8))
    config = tmp_path / "stills.toml"
    config.write_text(
        f'seed = 1\ncache = "{tmp_path}"\ntrain = ["stills.npz"]\n[frame_encoder]\nlabels = 7\n'
        "appearance = 8\nmotion = 4\nflow_size = 56\nmotion_channels = [4]\ndropout = 0.1\n"
        f"appearance_blocks = {NUMBER}\n"
    )
    out = tmp_path / "start.safetensors"
    face_start.main(["--config", str(config), "--model", str(model), "--out", str(out)])
    encoder = FrameEncoder(
        labels=7,
        appearance=8,
        motion=4,
        flow_size=56,
        motion_channels=(4,),
        dropout=0.1,
        appearance_blocks=NUMBER,
    )
    encoder.load_state_dict(load_file(out))


@pytest.mark.parametrize(
    "told", ["lacks the weights 'conv_dw_2", "conv_pw_3/convolution/merged_input is missing"]
)
def test_a_file_that_is_another_or_cut_short_is_refused(
    published: Weights, tmp_path: Path, told: str
) -> None:
    weights = dict(published)
    if told.startswith("lacks"):
        del weights["conv_dw_2/depthwise_kernel"]
    model = write_tensorflow_js(weights, tmp_path)
    if not told.startswith("lacks"):
        content = (tmp_path / "model.bin").read_bytes()
        (tmp_path / "model.bin").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=told):
        fill_layers(MobileAppearance(NUMBER, 8, 0.0), read_tensorflow_js(model))
