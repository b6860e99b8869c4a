"""Which pieces of a text an answer rests on: gradient x input (Simonyan et al. 2013; Shrikumar et al. 2016)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@contextmanager
def looked_up(shape: torch.Size) -> Iterator[list[Tensor]]:
    """The vectors that are looked up in it for ids of a shape, of this process: one asks at a time.

    A TorchFunctionMode would see them, too, and each of thousands of calls beside: it doubles the time of an LSTM.
    """
    found: list[Tensor] = []
    embedding = F.embedding

    def look_up(ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = embedding(ids, *args, **kwargs)
        if ids.shape == shape:
            found.append(out if out.requires_grad else out.requires_grad_())  # of a table that is not learnt
        return out

    F.embedding = look_up  # type: ignore[assignment]  # nn.Embedding calls it by this name, and so do we
    try:
        yield found
    finally:
        F.embedding = embedding


def influence(ask: Callable[[], Tensor], ids: Tensor) -> list[float]:
    """How much each of the ids [1, T] speaks for the number that `ask` gives: the gradient by its vector, times it.

    `ask` looks the ids up in one or more tables of vectors, whose sum is what the network reads. The answer is what
    the number would lose, to first order, without the vector. Of a network that is linear the T numbers are all of it.
    """
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), looked_up(ids.shape) as vectors:
        gradients = torch.autograd.grad(ask(), vectors, allow_unused=True)
    pairs = zip(gradients, vectors, strict=True)
    parts = [(gradient * vector).sum(2)[0].detach() for gradient, vector in pairs if gradient is not None]
    return [float(x) for x in torch.stack(parts).sum(0)]


def log_odds(logits: Tensor, which: int) -> Tensor:
    """log(p / (1 - p)) of one of K classes; unlike p itself it never stops to change: of [K], a number."""
    others = torch.cat([logits[:which], logits[which + 1 :]])
    return logits[which] - others.logsumexp(0)
