"""Finding the caption that a model finds most probable: beam search, many images at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, ...]  # each [rows, ...], a row for every caption under way
Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Found(NamedTuple):
    """Captions of B images, W of each, best first."""

    ids: Tensor  # int64 [B, W, L], filled up with `end`
    scores: Tensor  # float32 [B, W]; -inf where fewer than W were found


@torch.no_grad()
def beam_search(
    step: Step, state: State, images: int, width: int, longest: int, power: float, end: int, never: tuple[int, ...] = ()
) -> Found:
    """The best of all captions of at most `longest` words, as far as `width` of them side by side can tell.

    `step(words [R], state)` gives the log probabilities of the next word [R, V] and the state after it; `state` has a
    row for each of the B `images`. A caption begins after the word `end` and is over with it; a caption of n words
    scores its log probability, that of `end` included, divided by (n + 1) ** power (length normalisation: Wu et al.
    2016, "Google's neural machine translation system", without their constant 5). Words in `never` are not told.
    With width 1 it is greedy. An image is done with when `width` captions are over or none under way can win.
    """
    device = state[0].device
    rows = torch.arange(images, device=device).repeat_interleave(width)
    state = tuple(part[rows] for part in state)
    words = torch.full((images * width,), end, device=device)
    told = torch.full((images, width, longest), end, device=device)
    under_way = torch.full((images, width), -torch.inf, device=device)
    under_way[:, 0] = 0  # the others are copies of the first
    found = Found(told.clone(), torch.full((images, width), -torch.inf, device=device))
    first = torch.arange(images, device=device)[:, None] * width
    for n in range(longest + 1):
        logs, state = step(words, state)
        logs = logs.float().view(images, width, -1)
        logs[:, :, list(never)] = -torch.inf
        if n == longest:  # only the end may follow
            over = under_way + logs[:, :, end]
        else:
            every = (under_way[:, :, None] + logs).flatten(1)
            best = every.topk(min(2 * width, every.shape[1]))  # at most `width` of these are ends
            parent, word = best.indices // logs.shape[2], best.indices % logs.shape[2]
            ends = word == end
            ranked = torch.arange(ends.shape[1], device=device) < width
            over = best.values.masked_fill(~ends | ~ranked, -torch.inf)
        before = told if n == longest else told.gather(1, parent[:, :, None].expand(-1, -1, longest))
        pool = torch.cat([found.scores, over / (n + 1) ** power], 1)
        kept = pool.topk(width)
        ids = torch.cat([found.ids, before], 1).gather(1, kept.indices[:, :, None].expand(-1, -1, longest))
        found = Found(ids, kept.values)
        if n == longest:
            break
        going = best.values.masked_fill(ends, -torch.inf).topk(width)
        under_way = going.values
        parent, word = parent.gather(1, going.indices), word.gather(1, going.indices)
        told = told.gather(1, parent[:, :, None].expand(-1, -1, longest))
        told[:, :, n] = word
        done = found.scores.isfinite().all(1) | (found.scores[:, 0] >= under_way[:, 0] / (longest + 1) ** power)
        under_way = under_way.masked_fill(done[:, None], -torch.inf)
        if bool(done.all()):
            break
        chosen = (first + parent).flatten()
        state, words = tuple(part[chosen] for part in state), word.flatten()
    return found
