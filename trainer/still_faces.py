"""Windows whose faces do not move: a clip shows one of its pictures all the time, and its flow is zero.

What a model learns from them it could have learned from photographs with voices; `trainer.ablate` trains on
them to see what moving faces are worth. Data leaves it as `trainer.window_batches.WindowBatch`es.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from trainer.clip_tokens import Clips
from trainer.window_batches import WindowSource


def at_rest(clips: Clips, seed: int) -> Clips:
    """The same clips, each with the appearance of one drawn seen tick at all ticks, and no flow."""
    rng = np.random.default_rng(seed)
    v = clips.v.copy()
    for start, ticks in zip(clips.starts, clips.ticks, strict=True):
        seen = start + np.flatnonzero(clips.seen[start : start + ticks])
        if len(seen):
            v[start : start + ticks] = clips.v[rng.choice(seen)]
    return replace(clips, v=v, flow=np.broadcast_to(np.zeros((), clips.flow.dtype), clips.flow.shape))


class StillFaces(WindowSource):
    """A `WindowSource` of the same clips and voices in which nothing moves; another picture every epoch."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._moving = self.clips

    def renew_motion_means(self, encoder: nn.Module, seed: int) -> None:
        """Draws the pictures anew, then as `WindowSource`."""
        self.clips = at_rest(self._moving, seed)
        self.clip_v = self.clips.mean_v()
        super().renew_motion_means(encoder, seed)
