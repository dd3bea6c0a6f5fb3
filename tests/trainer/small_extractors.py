"""Extractors of the very classes of the paper-sized profile, tiny, with random weights, in folders."""

from pathlib import Path
from typing import Any

import torch
from small_windows import FRAME_ENCODER, WINDOW_MODEL, windows_config

FRAME_WIDTH = 128


def write_sound_extractor(folder: Path, seed: int = 0, layers: int = 3, **changes: Any) -> Path:
    """A wav2vec 2.0 as large-robust is made (layer norm in its convolutions, stable layer norm), 16 wide."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 24,
        "conv_dim": (8,) * 7, "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    Wav2Vec2Model(Wav2Vec2Config(**sizes | changes)).save_pretrained(folder)
    return folder


def write_frame_extractor(folder: Path, seed: int = 0) -> Path:
    """An EfficientNet of three blocks, `FRAME_WIDTH` wide, for pictures of 40 x 40."""
    from transformers import EfficientNetConfig, EfficientNetModel

    torch.manual_seed(seed)
    config = EfficientNetConfig(
        image_size=40, width_coefficient=0.1, depth_coefficient=0.3, hidden_dim=FRAME_WIDTH,
        in_channels=(8, 8, 8), out_channels=(8, 8, 8), kernel_sizes=(3, 3, 5), strides=(1, 2, 2),
        num_block_repeats=(1, 1, 1), expand_ratios=(1, 2, 2), initializer_range=1.0,
    )  # fmt: skip
    net = EfficientNetModel(config)
    for part in net.modules():  # drawn like other weights, norms would let nothing through
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(part.weight)
    net.save_pretrained(folder)
    return folder


def paper_config(data: Path, extractors: Path) -> dict[str, Any]:
    """`windows_config` with extractors in place of the encoders that learn; written where they are not."""
    sound, frames = extractors / "wav2vec2", extractors / "efficientnet"
    if not sound.is_dir():
        write_sound_extractor(sound)
        write_frame_extractor(frames)
    sizes = {"appearance": FRAME_WIDTH}
    config: dict[str, Any] = windows_config(data) | {
        "name": "tiny_paper",
        "bfloat16": True,
        "frame_encoder": without(FRAME_ENCODER, "appearance_channels") | sizes,
        "window_model": without(WINDOW_MODEL, "sound_channels") | sizes,
        "frame_extractor": {"weights": str(frames), "size": 48},
        "sound_extractor": {"weights": str(sound), "layers": 2},
    }
    return without(config, "frame_encoder_weights")


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}
