"""Frozen extractors of the paper-sized profile: wav2vec 2.0 for sound, EfficientNet for faces.

They come from a local folder or the hub (package `transformers`), never learn, and stand in front of the
same window model. Their weights are no parameters and are in no checkpoint, only their digest is: what was
trained in front of others is refused. The exported graphs hold them. This file knows nothing of ticks, tokens
and heads.

Shapes: B windows or frames, N samples, M bins (100 Hz), R extractor frames (50 Hz), S sound steps (25 Hz),
W width of the extractor.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.model.conformer import MASKED, masked

INSTALL = 'pip install -e ".[paper]"'
BIN, FRAME, STEP = 160, 320, 640  # samples at 16 kHz: of a mel bin, an extractor's frame, a step of sound
IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, red, green, blue


class Frozen(nn.Module):
    """A network that never learns. Its weights are buffers outside the state, so that no optimiser, average
    or checkpoint sees them; the state holds what names them.

    net: its weights are turned into buffers for good. origin: where it is from, for messages.
    settings: what else its answers depend on. `width`: of what it gives. `weights_digest`: (32,) uint8.
    """

    weights_digest: Tensor

    def __init__(self, net: nn.Module, width: int, origin: str, settings: str) -> None:
        super().__init__()
        self.net, self.width, self.origin = net, width, origin
        content = hashlib.sha256(settings.encode())
        for name, weight in sorted(net.state_dict().items()):
            content.update(name.encode() + weight.contiguous().numpy().tobytes())
        for part in net.modules():
            for name, weight in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                delattr(part, name)
                part.register_buffer(name, weight.detach(), persistent=False)
            if isinstance(part, _BatchNorm):
                part.track_running_stats = False  # else it would miss its count in every checkpoint
        self.register_buffer(
            "weights_digest", torch.frombuffer(bytearray(content.digest()), dtype=torch.uint8)
        )
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Always as it infers: norms keep their statistics, nothing is dropped."""
        return super().train(False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        name = f"{prefix}weights_digest"
        if name in state_dict and not torch.equal(state_dict[name].cpu(), self.weights_digest.cpu()):
            raise ValueError(
                f"The weights were trained in front of another extractor than {self.origin}, or with other "
                "settings of it."
            )
        super()._load_from_state_dict(state_dict, prefix, *more)


class SoundExtractor(Frozen):
    """wav2vec 2.0: a window's waveform to features at 25 Hz.

    Positions behind the mask are zero before the first convolution and wherever frames meet again, so what
    stands there changes nothing; loudness is taken out over what was heard, as the extractor was trained.
    """

    def __init__(self, net: nn.Module, origin: str) -> None:
        config = net.config
        stride, reach = 1, 1
        for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
            reach += (kernel - 1) * stride
            stride *= step
        if stride != FRAME or reach < stride:
            raise ValueError(f"{origin} makes a frame every {stride} samples, not every {FRAME}.")
        super().__init__(net, config.hidden_size, origin, f"wav2vec2 {config.num_hidden_layers}")
        self.stable: bool = config.do_stable_layer_norm
        self.before = (reach - stride) // 2  # so that a frame's centre is that of its own samples
        self.after = reach - stride - self.before

    def forward(self, waveform_BN: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, S, W), zero where masked, and the mask (B, S): steps of which any bin was heard."""
        batch, bins = mask_BM.shape
        heard_BN = mask_BM[:, :, None].expand(-1, -1, BIN).reshape(batch, bins * BIN)
        mask_BR = mask_BM.view(batch, -1, FRAME // BIN).any(2)
        wave = F.pad(_level(waveform_BN, heard_BN), (self.before, self.after))
        x, _ = self.net.feature_projection(self.net.feature_extractor(wave).transpose(1, 2))
        x = self._encoded(masked(x, mask_BR), mask_BR)
        parts_BSPW = masked(x, mask_BR).view(batch, -1, STEP // FRAME, self.width)
        heard_BSP = mask_BR.view(batch, -1, STEP // FRAME)
        return parts_BSPW.sum(2) / heard_BSP.sum(2).clamp(min=1)[..., None], heard_BSP.any(2)

    def _encoded(self, x_BRW: Tensor, mask_BR: Tensor) -> Tensor:
        """Layer by layer: the whole takes what is masked for a recording's end; here it is anywhere."""
        encoder = self.net.encoder
        x = x_BRW + encoder.pos_conv_embed(x_BRW)
        if not self.stable:
            x = encoder.layer_norm(x)
        weight = torch.zeros((), dtype=x.dtype, device=x.device)
        bias_B11R = torch.where(mask_BR, weight, weight + MASKED)[:, None, None]
        for layer in encoder.layers:
            x = layer(x, attention_mask=bias_B11R)
        return encoder.layer_norm(x) if self.stable else x


class FrameExtractor(Frozen):
    """EfficientNet: a grey crop, three times, at the size it was trained at, to its pooled features.

    Features of a frame are brought to mean 0 and deviation 1, as tokens are; they have no other learned layer
    before the window model, which begins with one.
    """

    def __init__(self, net: nn.Module, origin: str, size: int) -> None:
        super().__init__(net, net.config.hidden_dim, origin, f"efficientnet {size}")
        self.size = size
        for name, values in (("mean", IMAGE_MEAN), ("deviation", IMAGE_DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, crop_B1HW: Tensor) -> Tensor:
        """(B, 1, H, W) float32, 0..255, to (B, W)."""
        x = F.interpolate(crop_B1HW / 255, (self.size, self.size), mode="bilinear", align_corners=False)
        maps_BWHW = self.net.encoder(self.net.embeddings((x - self.mean) / self.deviation))[0]
        return F.layer_norm(maps_BWHW.mean((2, 3)).float(), (self.width,))


def load_sound_extractor(table: dict[str, Any]) -> SoundExtractor:
    """The extractor of a configuration's `[sound_extractor]`: `weights`, a folder or a name on the hub, and
    `layers`, how many of its transformer layers are used (all, if it is not said).

    Raises ValueError: `transformers` is missing, the weights cannot be had or do not fit.
    """
    kinds = _transformers()
    origin = str(table["weights"])
    config = _fetched(kinds.Wav2Vec2Config, origin)
    layers = int(table.get("layers", config.num_hidden_layers))
    if not 1 <= layers <= config.num_hidden_layers:
        raise ValueError(f"sound_extractor.layers is {layers}; {origin} has {config.num_hidden_layers}.")
    net = _fetched(kinds.Wav2Vec2Model, origin, num_hidden_layers=layers)
    nn.utils.parametrize.remove_parametrizations(net.encoder.pos_conv_embed.conv, "weight")
    return SoundExtractor(net, origin)


def load_frame_extractor(table: dict[str, Any]) -> FrameExtractor:
    """The extractor of a configuration's `[frame_extractor]`: `weights`, a folder or a name on the hub, and
    `size`, the side of the pictures that it is given (that of its own configuration, if it is not said).

    Raises ValueError as `load_sound_extractor`.
    """
    origin = str(table["weights"])
    net = _fetched(_transformers().EfficientNetModel, origin)
    return FrameExtractor(net, origin, int(table.get("size", net.config.image_size)))


def _level(waveform_BN: Tensor, heard_BN: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over what was heard, zero elsewhere."""
    zero = torch.zeros((), dtype=waveform_BN.dtype, device=waveform_BN.device)
    wave = torch.where(heard_BN, waveform_BN, zero)
    count_B1 = heard_BN.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(heard_BN, wave - wave.sum(1, keepdim=True) / count_B1, zero)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count_B1 + 1e-7)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"This configuration needs transformers: {INSTALL}.") from error
    transformers.logging.set_verbosity_error()  # it tells of every head that is left out, at length
    transformers.logging.disable_progress_bar()
    return transformers


def _fetched(kind: Any, origin: str, **options: Any) -> Any:
    """A configuration or a network, every weight of it from `origin`."""
    if not Path(origin).is_dir() and origin.count("/") > 1:
        raise ValueError(f"There is no folder {origin}, and it is no name on the hub.")
    fetch: Callable[..., Any] = kind.from_pretrained
    is_network = issubclass(kind, nn.Module)
    try:
        found = fetch(origin, **options, **({"output_loading_info": True} if is_network else {}))
    except (OSError, ValueError, RuntimeError) as error:
        where = "does not fit" if Path(origin).is_dir() else "cannot be fetched; name a local folder"
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"The extractor {origin} {where} ({reason}).") from error
    if not is_network:
        return found
    net, info = found
    lost = sorted({*info["missing_keys"], *info["mismatched_keys"]} - {"masked_spec_embed"})
    if lost:
        raise ValueError(f"The extractor {origin} does not fit: it lacks the weight {lost[0]}.")
    return net
