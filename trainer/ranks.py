"""The processes that train one network together, as `torchrun` starts them; mostly there is only one.

Every rank draws the same batches and computes its own rows of each; the rows' outputs are gathered, so that
every rank has the loss of the whole batch, whatever the loss is, and norms take their statistics over all
ranks. Without dropout the loss is that of one process (dropout is drawn anew on each rank). It knows nothing
of what is trained. Data leaves as tensors and numbers.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainer.model.extractors import Frozen

PATIENCE = timedelta(hours=2)  # the others wait while the first rank validates
Outputs = Callable[[Any], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Ranks:
    """rank: this process, 0 to count - 1; device: where it computes."""

    rank: int
    count: int
    device: torch.device

    def rows(self, batch: int) -> slice:
        """The rows of a batch that are this rank's. Raises ValueError where they cannot all have as many."""
        if batch % self.count:
            raise ValueError(f"a batch of {batch} rows cannot be cut into {self.count} equal parts")
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def gathered(self, own: Tensor) -> Tensor:
        """The rows of all ranks in order; the gradient goes to this rank's alone."""
        if self.count == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.cat(parts)

    def told(self, number: float) -> float:
        """The first rank's number, on every rank."""
        if self.count == 1:
            return number
        shared = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def shared(self, network: nn.Module, outputs: Outputs) -> Outputs:
        """`outputs`, which runs `network`, with gradients summed over ranks as those of the whole batch are.

        For this the loss must be multiplied by `count`, as the wrapped module takes means of gradients.
        """
        if self.count == 1:
            return outputs
        gather_norms(network, dist.new_group())
        places = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            _Forward(network, outputs),
            device_ids=places,
            broadcast_buffers=False,
            find_unused_parameters=True,
        )


@contextmanager
def open_ranks(device: str = "cpu") -> Iterator[Ranks]:
    """Joins the others where `torchrun` started this process; gloo on CPUs, nccl on CUDA.

    device: "cpu", "cuda", or "auto" for CUDA where there is one. Raises ValueError for another, or no CUDA.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be 'auto', 'cpu' or 'cuda'")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("device is 'cuda', but PyTorch finds none here")
    cuda = found and device != "cpu"
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1, place)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), count, place)
    finally:
        dist.destroy_process_group()


class _Forward(nn.Module):
    """What runs a network, as the forward of a module: that is what can be shared."""

    def __init__(self, network: nn.Module, outputs: Outputs) -> None:
        super().__init__()
        self.network = network
        self._outputs = outputs

    def forward(self, batch: Any) -> tuple[Tensor, ...]:
        return self._outputs(batch)


class _Summed(torch.autograd.Function):
    """Sum over ranks, there and back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = own.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class GatheredNorm(_BatchNorm):
    """Batch norm with the statistics, and their gradient, of the rows of all ranks; one may have none."""

    group: Any = None

    def _check_input_dim(self, input: Tensor) -> None:
        return

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) on each rank; N may differ."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        own = torch.cat((x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])))
        sums = _Summed.apply(own, self.group)
        count = sums[-1].clamp(min=1)
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(axes), self.group) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


def gather_norms(module: nn.Module, group: Any) -> None:
    """Puts a `GatheredNorm` with the same weights in the place of every batch norm below `module` that may
    learn."""
    for name, child in module.named_children():
        if isinstance(child, Frozen):
            continue
        if not isinstance(child, _BatchNorm):
            gather_norms(child, group)
            continue
        norm = GatheredNorm(child.num_features, eps=child.eps, momentum=child.momentum, affine=child.affine)
        norm.group = group
        for kept in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(norm, kept, getattr(child, kept))
        norm.train(child.training)
        setattr(module, name, norm)
