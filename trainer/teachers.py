"""Networks that learned before and now teach another: it learns what they agree on, beside the label.

A few people are soon known by heart, and what one network makes of a new one depends on its seed. Several
together do better than each, and one that is taught by them keeps part of that (distillation: Hinton, Vinyals
and Dean 2015, arXiv 1503.02531). They are given what the learner is given: of a window or a face that tells
little they are not sure either. It knows nothing of files and windows; it is told how to ask a network.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
TAUGHT_SHARE = 0.7


class Teachers(Generic[Network]):
    """Asked, never trained. share: of a target that is theirs; the label keeps the rest."""

    def __init__(self, networks: Sequence[Network], share: float) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self.share = share

    @torch.no_grad()
    def taught(self, shares_BL: Tensor, ask: Callable[[Network], Tensor]) -> Tensor:
        """(B, L) float32: shares of labels with the teachers' part in them; a row's sum stays as it was.

        ask: logits (B, L) of one network. What they agree on is the geometric mean of their probabilities.
        """
        if not self.networks:
            return shares_BL
        device = shares_BL.device
        answers = [F.log_softmax(ask(each.to(device)).float(), 1) for each in self.networks]
        agreed_BL = torch.stack(answers).mean(0)
        taught_BL = torch.softmax(agreed_BL, 1) * shares_BL.sum(1, keepdim=True)
        return (1 - self.share) * shares_BL + self.share * taught_BL
