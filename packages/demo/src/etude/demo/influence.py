"""Which pieces of a text an answer rests on: gradient x input (Simonyan et al. 2013; Shrikumar et al. 2016)."""

from collections.abc import Callable

import torch
from torch import Tensor


def influence(ask: Callable[[Tensor], Tensor], vectors: Tensor) -> list[float]:
    """How much each piece of a text speaks for the number that `ask` gives, by the vectors [1, T, E] that are read.

    `ask` takes a shift [1, T, E], all 0, which the network adds to the vectors, in the order of the text. The answer is
    the gradient by it times the vectors: what the number would lose, to first order, without each of them. Of a network
    that is linear the T numbers are all of it.
    """
    vectors = vectors.detach()
    shift = torch.zeros_like(vectors, requires_grad=True)
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        (gradient,) = torch.autograd.grad(ask(shift), shift)
    found: list[float] = (gradient * vectors).sum(2)[0].tolist()
    return found


def log_odds(logits: Tensor, which: int) -> Tensor:
    """log(p / (1 - p)) of one of K classes; unlike p itself it never stops to change: of [K], a number."""
    others = torch.cat([logits[:which], logits[which + 1 :]])
    return logits[which] - others.logsumexp(0)
