"""Networks that learned before and now teach another: it learns what they agree on, beside the label.

A few speakers are soon known by heart, and what one network makes of a new voice depends on its seed. Several
together do better than each, and one that is taught by them keeps part of that (distillation: Hinton, Vinyals
and Dean 2015, arXiv 1503.02531). They hear the very window that the learner hears: of one that tells little
they are not sure either. It knows nothing of files and windows; it is told how to ask a network.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.de3 import DE3


class Teachers:
    """Asked, never trained. share: of a target that is theirs; the label keeps the rest."""

    def __init__(self, networks: Sequence[DE3], share: float) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self.share = share

    @torch.no_grad()
    def taught(self, shares_BL: Tensor, ask: Callable[[DE3], Tensor]) -> Tensor:
        """(B, L) float32: shares of labels with the teachers' part in them; a row of zeros stays one.

        ask: logits (B, L) of one network. What they agree on is the geometric mean of their probabilities.
        """
        if not self.networks:
            return shares_BL
        agreed_BL = torch.stack([F.log_softmax(ask(each).float(), 1) for each in self.networks]).mean(0)
        taught_BL = torch.softmax(agreed_BL, 1) * shares_BL.sum(1, keepdim=True)
        return (1 - self.share) * shares_BL + self.share * taught_BL
