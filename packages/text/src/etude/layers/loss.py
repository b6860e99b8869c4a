"""Cross-entropy over a large vocabulary, without its logits in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TOGETHER = 2**21  # logits that are computed at once: 8 MB in fp32, about what stays in a CPU's cache


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The sum of -log softmax(x weight^T + bias)[target] over rows: x [N, E], [V, E], [V], int64 [N] -> scalar.

    It is `F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")`, but the logits of some rows only are
    there at a time, and their gradient is formed at once, while they are in the cache (as in Liger Kernel, Hsu et al.
    2024, "fused linear cross entropy"). Products are taken in the type of autocast, the softmax in float32 at least.
    """
    found: Tensor = Fused.apply(x, weight, bias, targets, None)[0]
    return found


def sampled_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chance: Tensor) -> Tensor:
    """An estimate of `linear_cross_entropy` that looks at a part of the vocabulary: the target, and a sample.

    Every token is drawn with its `chance`, [V] in (0, 1], apart from the others, and stands for 1 / chance of its kind:
    so the sum in softmax is estimated without bias (Horvitz & Thompson 1952), and exactly where all chances are 1. Its
    logarithm is a little too small on the average (Jensen). All rows share the sample, as in Jean et al. 2015; what one
    adds to the loss depends on no other.
    """
    drawn = torch.rand_like(chance) < chance
    kept = drawn.index_fill(0, targets, True)
    some = kept.nonzero()[:, 0]
    shift = (-chance.log()).masked_fill(~drawn, -torch.inf)[some]  # in its own row a target counts, drawn or not
    of = F.embedding(some, weight), bias[some], (kept.cumsum(0) - 1)[targets]
    found: Tensor = Fused.apply(x, *of, shift)[0]
    return found


def chances(counts: Tensor, size: int) -> Tensor:
    """Chances that are as frequencies, at most 1, and add up to `size`: [V] counts of tokens, all above 0 -> [V]."""
    found = torch.ones_like(counts, dtype=torch.float64)
    if size < len(counts):
        rest = torch.ones_like(counts, dtype=torch.bool)
        while True:
            found[rest] = counts[rest].double() * (size - int((~rest).sum())) / counts[rest].sum()
            if not (over := rest & (found >= 1)).any():
                break
            found[over] = 1
            rest &= ~over
    return found.float()


def surprisals(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The terms of that sum, without a gradient: [N]."""
    found = [x.new_zeros(0, dtype=torch.promote_types(x.dtype, torch.float32))]
    with torch.no_grad():
        for rows in slices(len(x), len(weight)):
            said = said_of(x[rows], weight, bias, kind_of(x))
            found.append(-said.gather(1, targets[rows, None])[:, 0])
    return torch.cat(found)


def kind_of(x: Tensor) -> torch.dtype:
    """The type that products are taken in."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def slices(rows: int, vocabulary: int) -> list[slice]:
    size = max(16, TOGETHER // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def said_of(
    x: Tensor, weight: Tensor, bias: Tensor, kind: torch.dtype, shift: Tensor | None = None, here: Tensor | None = None
) -> Tensor:
    """Log-probabilities [N, V], in float32 at least; `shift` [V] is added to all logits but those of `here` [N, 1]."""
    logits = torch.addmm(bias.to(kind), x.to(kind), weight.to(kind).mT).to(torch.promote_types(kind, torch.float32))
    if shift is not None and here is not None:
        logits = (logits + shift).scatter_(1, here, logits.gather(1, here))
    return torch.log_softmax(logits, 1)


class Fused(torch.autograd.Function):
    """x, weight, bias, targets, shift -> the loss, and its gradients, which are found with it where they are asked for.

    `shift`: see `said_of`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, shift: Tensor | None
    ) -> tuple[Tensor, ...]:
        kind = kind_of(x)
        exact = torch.promote_types(kind, torch.float32)
        wanted = any(ctx.needs_input_grad[:3])
        table, added = weight.to(kind), bias.to(kind)
        loss = x.new_zeros((), dtype=exact)
        d_x = torch.empty_like(x) if wanted else x[:0]
        d_weight, d_bias = (torch.zeros_like(w, dtype=exact) if wanted else w[:0] for w in (weight, bias))
        for rows in slices(len(x), len(weight)):
            some, here = x[rows].to(kind), targets[rows, None]
            said = said_of(some, table, added, kind, shift, here)
            loss -= said.gather(1, here).sum()
            if wanted:
                d_logits = said.exp_().scatter_add_(1, here, -torch.ones_like(here, dtype=exact))
                d_bias += d_logits.sum(0)
                d_logits = d_logits.to(kind)
                d_x[rows] = torch.mm(d_logits, table).to(x.dtype)
                d_weight += torch.mm(d_logits.mT, some)
        ctx.save_for_backward(d_x, d_weight.to(weight.dtype), d_bias.to(bias.dtype))
        return (loss,)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient[0].to(d.dtype) * d for d in ctx.saved_tensors), None, None
