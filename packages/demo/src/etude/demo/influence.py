"""Which pieces of a text an answer rests on: gradient x input (Simonyan et al. 2013; Shrikumar et al. 2016)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Vectors(TorchFunctionMode):
    """Keeps the vectors that are looked up for a text of [1, T] ids."""

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.shape, self.found = ids.shape, list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.embedding and args[0].shape == self.shape:
            self.found.append(out if out.requires_grad else out.requires_grad_())  # of a table that is not learnt
        return out


def influence(ask: Callable[[], Tensor], ids: Tensor) -> list[float]:
    """How much each of the ids [1, T] speaks for the number that `ask` gives: the gradient by its vector, times it.

    `ask` looks the ids up in one or more tables of vectors, whose sum is what the network reads. The answer is what
    the number would lose, to first order, without the vector. Of a network that is linear the T numbers are all of it.
    """
    vectors = Vectors(ids)
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), vectors:
        gradients = torch.autograd.grad(ask(), vectors.found, allow_unused=True)
    pairs = zip(gradients, vectors.found, strict=True)
    parts = [(gradient * vector).sum(2)[0].detach() for gradient, vector in pairs if gradient is not None]
    return [float(x) for x in torch.stack(parts).sum(0)]


def log_odds(logits: Tensor, which: int) -> Tensor:
    """log(p / (1 - p)) of one of K classes; unlike p itself it never stops to change: of [K], a number."""
    others = torch.cat([logits[:which], logits[which + 1 :]])
    return logits[which] - others.logsumexp(0)
