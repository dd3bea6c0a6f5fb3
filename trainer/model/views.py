"""What a face or a voice is, beside how far it is from its own mean.

Shapes: B windows, T steps, K token width, D width.
"""

import torch
from torch import Tensor, nn

from trainer.model.conformer import masked, masked_mean


class Views(nn.Module):
    """Tokens beside their distance from the window's mean and from the baseline, as one sequence.

    own_mean: False for the tokens alone.
    """

    def __init__(self, token: int, width: int, dropout: float, own_mean: bool = True) -> None:
        super().__init__()
        self.token = nn.Linear(token, width)
        self.own_mean = own_mean
        if not own_mean:
            return
        self.from_window = nn.Linear(token, width, bias=False)
        self.from_baseline = nn.Linear(token, width, bias=False)
        self.trust = nn.Linear(1, width, bias=False)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x_BTK: Tensor, mask_BT: Tensor, baseline_BK: Tensor, weight_B: Tensor) -> Tensor:
        x = masked(x_BTK, mask_BT)
        if not self.own_mean:
            alone_BTD: Tensor = self.token(x)
            return alone_BTD
        mean_B1K = masked_mean(x, mask_BT)[:, None]
        from_baseline = (x - baseline_BK[:, None]) * weight_B[:, None, None]
        views = (
            self.token(x),
            self.from_window(x - mean_B1K),
            self.from_baseline(from_baseline) + self.trust(weight_B[:, None])[:, None],
        )
        if not self.training:
            return sum(views[1:], views[0])
        flat_BPK = torch.stack([view.flatten(1) for view in views], 1)
        kept_BPK: Tensor = self.dropout(flat_BPK)  # drops a whole view at a time
        return kept_BPK.sum(1).view_as(views[0])
