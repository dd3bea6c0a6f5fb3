"""What training makes small: wrong shares of labels, and continuous attributes that do not concord.

A row whose label or attribute is not known (a row of zeros, NaN) adds nothing, neither to the sum nor to what
it is divided by. Knows nothing of networks and data.

Shapes: B windows, L labels, A attributes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def share_loss(logits_BL: Tensor, targets_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with shares of labels, the mean over rows with a label; 0 where there is none.

    targets_BL: rows that sum to 1, or to 0 where the label is not known; smoothing: the share of a row's
    target that goes to all labels alike. With one label a row it is `F.cross_entropy`.
    """
    known_B = targets_BL.sum(1)
    smoothed_BL = (1 - smoothing) * targets_BL + smoothing / targets_BL.shape[1] * known_B[:, None]
    total = -(smoothed_BL * F.log_softmax(logits_BL, 1)).sum()
    return total / known_B.sum().clamp(min=1e-6)


def label_shares(labels_B: Tensor, labels: int) -> Tensor:
    """(B, L) float32: one label a row; rows of zeros where it is negative, that is, not known."""
    known_B = labels_B >= 0
    return F.one_hot(labels_B.clamp(min=0), labels).float() * known_B[:, None]


def concordance_loss(answers_BA: Tensor, targets_BA: Tensor) -> Tensor:
    """1 - CCC (Lin 1989), the mean over attributes known in at least two rows; 0 where there is none.

    answers_BA: any range; targets_BA: NaN where not known.
    """
    known_BA = ~torch.isnan(targets_BA)
    weight_BA = known_BA.to(answers_BA.dtype)
    count_A = weight_BA.sum(0)
    each = count_A.clamp(min=1)
    targets_BA = torch.where(known_BA, targets_BA, torch.zeros_like(targets_BA)).to(answers_BA.dtype)
    answer_mean_A, target_mean_A = (weight_BA * answers_BA).sum(0) / each, targets_BA.sum(0) / each
    answer_BA, target_BA = weight_BA * (answers_BA - answer_mean_A), weight_BA * (targets_BA - target_mean_A)
    covariance_A = (answer_BA * target_BA).sum(0) / each
    spread_A = (answer_BA.square() + target_BA.square()).sum(0) / each
    spread_A = spread_A + (answer_mean_A - target_mean_A).square()
    told_A = (count_A > 1).to(answers_BA.dtype)
    loss_A = 1 - 2 * covariance_A / (spread_A + 1e-6)  # a batch of equal answers and targets has no spread
    return (told_A * loss_A).sum() / told_A.sum().clamp(min=1)
