"""Batch normalisation whose statistics are those of the whole batch, however many processes share it."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.train import processes

AnyBatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def batch_norms(model: nn.Module) -> list[AnyBatchNorm]:
    """The modules of a model whose result for an example depends, in training, on the others of the batch."""
    return [module for module in model.modules() if isinstance(module, AnyBatchNorm)]


def synchronise_batch_norm(model: nn.Module, weight: float = 1.0) -> None:
    """Makes every batch norm of a model count over all processes, in place; state dicts stay as they are.

    What is here counts `weight` times: 0 only goes along with the others. nn.SyncBatchNorm refuses CPU tensors.
    """
    for module in batch_norms(model):
        if module.momentum is None or not module.track_running_stats:
            raise NotImplementedError("batch norm over processes needs running statistics with a fixed momentum")
        module.forward = partial(synchronised, module, weight=weight)  # type: ignore[method-assign]


class SumOverProcesses(torch.autograd.Function):
    """Adds a tensor up over all processes; the gradient is added up likewise, since each sum enters every loss."""

    @staticmethod
    def forward(_: Any, *x: Tensor) -> Tensor:
        return sum_over_processes(x[0])

    backward = forward  # type: ignore[assignment]


@processes.reaching()
def sum_over_processes(x: Tensor) -> Tensor:
    x = x.clone()
    dist.all_reduce(x)
    return x


def synchronised(norm: Any, x: Tensor, weight: float) -> Tensor:
    """The forward pass of batch norm (Ioffe & Szegedy 2015) over all processes: [B, C, ...] -> [B, C, ...].

    Of a single value over all processes there is no variance: running statistics stand in, as in `etude.layers.norm`.
    """
    if not norm.training:
        return type(norm).forward(norm, x)
    others = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    y = x.float()
    count = torch.full((1,), weight * y.numel() / y.shape[1], device=x.device)
    # Two passes, mean first: E[x^2] - E[x]^2 would cancel where the mean is large.
    total = SumOverProcesses.apply(torch.cat([weight * y.sum(others), count]))
    n = total[-1].detach()
    several = n > 1
    mean = torch.where(several, total[:-1] / n, norm.running_mean)
    centred = y - mean.view(shape)
    var = SumOverProcesses.apply(weight * centred.square().sum(others)) / n
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(torch.where(several, var * n / (n - 1), norm.running_var), norm.momentum)
        norm.num_batches_tracked += several
    var = torch.where(several, var, norm.running_var)
    y = centred * torch.rsqrt(var + norm.eps).view(shape)
    return (y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y).to(x.dtype)
