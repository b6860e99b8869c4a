"""Batch normalisation whose statistics are those of the whole batch, however many processes share it."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of rows [B, width] that does not fail on a single one, such as a small piece of a batch may be.

    A row alone has no variance: the running statistics stand in for its own, and it does not enter them. With several
    processes this does not matter: `synchronise_batch_norm` counts the rows of all.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Makes every batch norm of a model count over all processes, in place; state dicts stay as they are.

    nn.SyncBatchNorm refuses CPU tensors, hence this.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.momentum is None or not module.track_running_stats:
                raise NotImplementedError("batch norm over processes needs running statistics with a fixed momentum")
            module.forward = partial(synchronised, module)  # type: ignore[method-assign]


class SumOverProcesses(torch.autograd.Function):
    """Adds a tensor up over all processes; the gradient is added up likewise, since each sum enters every loss."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def synchronised(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The forward pass of batch norm (Ioffe & Szegedy 2015) over all processes: [B, C, ...] -> [B, C, ...]."""
    if not norm.training:
        return type(norm).forward(norm, x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    others = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    y = x.float()
    count = torch.full((1,), y.numel() / y.shape[1], device=x.device)
    # Two passes, mean first: E[x^2] - E[x]^2 would cancel where the mean is large.
    total = SumOverProcesses.apply(torch.cat([y.sum(others), count]))
    n = total[-1].detach()
    mean = total[:-1] / n
    centred = y - mean.view(shape)
    var = SumOverProcesses.apply(centred.square().sum(others)) / n
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * n / (n - 1), norm.momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
    y = centred * torch.rsqrt(var + norm.eps).view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)
