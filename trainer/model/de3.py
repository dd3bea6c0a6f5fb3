"""DE-III as one module: frame encoder, window model, and what the bundle says beside the two graphs.

The two halves are exported apart (they run at different rates), and trained here together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.labels import HEADS
from trainer.model.extractors import load_frame_extractor, load_sound_extractor
from trainer.model.frame_encoder import FrameEncoder
from trainer.model.window_model import WindowModel


def new_frame_encoder(config: dict[str, Any]) -> FrameEncoder:
    """The frame encoder of a configuration, untrained but for an extractor. Raises ValueError as `DE3`."""
    table = config.get("frame_extractor")
    return FrameEncoder(**config["frame_encoder"], extractor=load_frame_extractor(table) if table else None)


def sound_kind(config: dict[str, Any]) -> str:
    """What of sound the window model of a configuration takes: one of `engine.bundle.SOUNDS`."""
    if "sound_extractor" in config:
        return "waveform"
    return "voice_tokens" if config.get("window_model", {}).get("voice_token") else "mel"


class DE3(nn.Module):
    """The network with the means from which a new track and a new stream start, and the temperatures.

    face_mean: (appearance + motion,) float32; voice_mean: (bands,) float32, or as long as a voice
    token; temperatures: (3,) float32, in the order of `HEADS`.
    config: the tables `frame_encoder` and `window_model`, and `attributes`, the names of continuous
    attributes, where there are any. With `frame_extractor` and `sound_extractor` (see
    `trainer.model.extractors`) these stand in front of the window model in place of encoders that learn.

    Raises ValueError where an extractor cannot be had or does not fit.
    """

    face_mean: Tensor
    voice_mean: Tensor
    temperatures: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.frame_encoder = new_frame_encoder(config)
        self.window_model = WindowModel(
            **config["window_model"],
            attributes=len(config.get("attributes", ())),
            extractor=load_sound_extractor(config["sound_extractor"])
            if "sound_extractor" in config
            else None,
        )
        tokens = config["frame_encoder"]["appearance"] + config["frame_encoder"]["motion"]
        self.register_buffer("face_mean", torch.zeros(tokens))
        sizes = config["window_model"]
        self.register_buffer("voice_mean", torch.zeros(sizes.get("voice_token") or sizes.get("bands", 64)))
        self.register_buffer("temperatures", torch.ones(len(HEADS)))

    @torch.no_grad()
    def take_expression(self) -> None:
        """Give the window model, where it asks for it, the expression that the frame encoder has learned."""
        still = self.window_model.still_expression
        if still is not None:
            still.answer.load_state_dict(self.frame_encoder.expression.state_dict())
            still.common.copy_(self.face_mean[: len(still.common)])
