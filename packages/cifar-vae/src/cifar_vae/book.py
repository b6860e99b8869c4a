"""What makes a few numbers one of finitely many codes. Shapes: B pictures, P places, C numbers in a code, K codes."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import draw
from etude.layers.norm import BatchNorm

DEAD = 0.03  # a code that is used less than this part of what all would be used alike is drawn anew
ROUNDS, EACH, BLOCK = 10, 32, 4_096  # of k-means; rows for each code; rows that are compared with all codes at once
NEAR = 0.1  # how far beside another code one is drawn anew, in standard deviations of the codes


class Codebook(nn.Module):
    """K codes, of which each place takes the nearest (van den Oord, Vinyals & Kavukcuoglu 2017).

    The codes are no parameters: each is the running mean of what has taken it (appendix A.1 there). How often a code is
    taken, and the sum of the numbers that took it, are means over the batch, so their running means are kept by a batch
    norm, whose other result nobody looks at: it counts over all processes, rests where batch norms rest, and stands in
    every checkpoint.

    A code that is hardly used any more is drawn anew, as half of one that is used much, a little beside it, which the
    running means then pull apart (as codes are split by Linde, Buzo & Gray 1980). That follows from the running means
    alone, so that all processes do the same.
    """

    aside: Tensor

    def __init__(self, codes: int, size: int, decay: float, restart: bool) -> None:
        super().__init__()
        self.codes, self.size, self.restart = codes, size, restart
        self.seen = BatchNorm(codes * (1 + size), affine=False, momentum=1 - decay)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("aside", torch.randn(codes, size, generator=generator), persistent=False)
        self.write(torch.full((codes,), 1 / codes), torch.randn(codes, size, generator=generator))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """How often each code is used, a part [K], and the codes, [K, C]."""
        assert self.seen.running_mean is not None
        kept = self.seen.running_mean.view(self.codes, 1 + self.size)
        use = kept[:, 0]
        return use, kept[:, 1:] / use.clamp(min=1e-20)[:, None]

    @torch.no_grad()
    def write(self, use: Tensor, codes: Tensor) -> None:
        assert self.seen.running_mean is not None
        use = use.clamp(min=1e-20)
        self.seen.running_mean.copy_(torch.cat([use[:, None], use[:, None] * codes], 1).view(-1))

    def begin(self, rows: Tensor, seed: int) -> None:
        """The codes by k-means of rows [N, C]; with fewer rows than codes some codes are the same."""
        rows = rows[torch.from_numpy(draw.shuffled(len(rows), seed, self.codes)[: EACH * self.codes])]
        found = rows[torch.arange(self.codes) % len(rows)]
        for _ in range(ROUNDS):
            nearest = torch.cat([distances(some, found).argmin(1) for some in rows.split(BLOCK)])
            count = torch.bincount(nearest, minlength=self.codes).to(rows.dtype)
            total = torch.zeros_like(found).index_add_(0, nearest, rows)
            found = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], found)
        self.write((count + 1) / (len(rows) + self.codes), found)

    @torch.no_grad()
    def revive(self) -> None:
        """Draws the codes that are hardly used anew."""
        use, codes = self.statistics()
        dead = use < DEAD / self.codes
        order = use.argsort(descending=True, stable=True)
        alive = (~dead).sum().clamp(min=1)
        donor = order[(dead.long().cumsum(0) - 1).clamp(min=0) % alive]  # the first dead one gets the most used one
        given = (F.one_hot(donor, self.codes) * dead[:, None]).sum(0)
        halved = use / (1 + given)
        beside = codes[donor] + NEAR * codes.std(0) * self.aside
        self.write(torch.where(dead, halved[donor], halved), torch.where(dead[:, None], beside, codes))

    def forward(self, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder says, float32 [B, P, C] -> the codes in its place [B, P, C], which, int64 [B, P], and [B].

        The gradient of the codes is that of `said`; the last is the square distance between them.
        """
        learns = self.seen.training
        if learns and self.restart:
            self.revive()
        codes = self.statistics()[1].clone()
        with torch.autocast(said.device.type, enabled=False):
            which = distances(said.detach().flatten(0, 1), codes).argmin(1).view(said.shape[:2])
            if learns:
                with torch.no_grad():
                    taken = (which[..., None] == torch.arange(self.codes, device=said.device)).to(said.dtype)
                    ones = torch.ones_like(said[..., :1])
                    sums = taken.mT @ torch.cat([ones, said], 2) / said.shape[1]
                    self.seen(sums.flatten(1))
            found = F.embedding(which, codes)
        return said + (found - said).detach(), which, (said - found).square().sum((1, 2))


class Grid(nn.Module):
    """Finite scalar quantisation (Mentzer, Minnen, Agustsson & Tschannen 2023): each number is rounded to a few levels.

    Nothing is learnt here, and no code can die.
    """

    levels: Tensor
    steps: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codes = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        steps = np.cumprod([1, *levels[:-1]])
        self.register_buffer("steps", torch.tensor(steps, dtype=torch.float32), persistent=False)

    def forward(self, said: Tensor) -> tuple[Tensor, Tensor, None]:
        """float32 [B, P, C] -> rounded numbers in [-1, 1], which code, int64 [B, P], and nothing; section 3.1 there."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (said + (offset / half).atanh()).tanh() * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        middle = (self.levels / 2).floor()
        which = ((rounded.detach() + middle).round() * self.steps).sum(-1).round().long()
        return rounded / middle, which, None

    def at(self, which: Tensor) -> Tensor:
        """The numbers of codes: int64 [...] -> [..., C]."""
        digits = (which[..., None] // self.steps.long()) % self.levels.long()
        middle = (self.levels / 2).floor()
        return (digits - middle) / middle


def distances(rows: Tensor, codes: Tensor) -> Tensor:
    """Square distances of rows [N, C] from codes [K, C], less the rows' own squares: [N, K]."""
    return codes.square().sum(1) - 2 * rows @ codes.T
