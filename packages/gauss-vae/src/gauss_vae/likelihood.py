"""log p(x) of a VAE, where its bound is not enough: by importance sampling, and by quadrature for small latents."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from etude import draw
from gauss_vae.model import VAE, Normal, Weighed

ROWS = 10_000  # decoded at once: bounds the memory, whatever the number of samples, and stays in the cache
PAIRS = 500_000  # of example and grid point, at once: about what a core's cache holds
REACH = 6.5  # the grid of the quadrature ends there: N(0, I) has less than 1e-9 outside
GRIDS = {  # points along each axis of the grid, by the size of the latent; finer each time
    1: (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
    2: (96, 144, 216, 324, 486, 729, 1094, 1640),
}
COARSE = {1: 1024, 2: 96}  # the same, for a picture
FEWEST = 10  # effective samples of an example, below which its estimate is no more than a lower bound
FEW = 216**2  # grid points at most whose answers `Kept` holds: some 3 MB
ENOUGH = 1e-4  # nats: an example whose log p(x) moved less than that twice, as the grid became finer, is done


class Estimate(NamedTuple):
    """log p(x) of N examples, float64 [N], and what is known of its error, float64 [N] in nats."""

    log_density: Tensor
    error: Tensor


Piece = tuple[Tensor, Tensor]  # what `natural` says of up to ROWS latents, with their weights
Kept = dict[int, list[Piece]]
"""What a model that no longer changes said at the points of a grid, by the grid's side: for one who asks again."""


class Sampled(NamedTuple):
    """The same by importance sampling."""

    log_density: Tensor
    error: Tensor
    largest: Tensor
    """the share of the largest weight in the sum of all"""
    effective: Tensor
    """(sum of the weights)^2 / sum of their squares: as so many samples of one weight (Kong 1992); below FEWEST the
    error says nothing, as the samples may not have met what decides, and the estimate is but a lower bound"""


def noise(ids: Tensor, samples: int, latent: int, *stream: int) -> Tensor:
    """Standard normal noise, float32 [B, S, L]: row i is a function of ids[i] and `stream`, whatever the other rows."""
    generator = torch.Generator()
    rows = [
        torch.randn(samples, latent, generator=generator.manual_seed(draw.key(*stream, id) >> 1)) for id in ids.tolist()
    ]
    return torch.stack(rows)


@torch.inference_mode()
def importance(model: VAE, x: Tensor, samples: int, *stream: int, ids: Tensor | None = None) -> Sampled:
    """log of the mean importance weight p(x, z) / q(z | x) over `samples` latents z of q, for examples [N, d].

    Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders", equation 8: in expectation a lower bound of
    log p(x) that rises to it. The error is the standard deviation of that logarithm by the delta method; its bias is
    about minus half its square, if no rare weight is much larger than all that were drawn. At most ROWS latents are
    decoded at once. `ids`, int64 [N], say which noise each example gets: by default that of its place.
    """
    ids = torch.arange(len(x)) if ids is None else ids
    found, errors, largest, effective = [], [], [], []
    rows = max(1, ROWS // samples)
    for start in range(0, len(x), rows):
        some = x[start : start + rows]
        drawn = noise(ids[start : start + rows], samples, model.latent, *stream)
        first = torch.full((len(some),), -math.inf, dtype=torch.float64, device=x.device)
        second, top = first.clone(), first.clone()
        for piece in drawn.split(ROWS, 1):
            weighed: Weighed = model(some, piece.to(x.device))
            log_weights = (weighed.log_likelihood + weighed.log_ratio).double()
            first = torch.logaddexp(first, log_weights.logsumexp(1))
            second = torch.logaddexp(second, (2 * log_weights).logsumexp(1))
            top = torch.maximum(top, log_weights.amax(1))
        found.append(first - math.log(samples))
        concentrated = (second - 2 * first).exp()  # sum w^2 / (sum w)^2
        # the variance of a mean weight over its square
        errors.append((concentrated - 1 / samples).clamp(min=0).sqrt())
        largest.append((top - first).exp())
        effective.append(1 / concentrated)
    return Sampled(*(torch.cat(parts).cpu() for parts in (found, errors, largest, effective)))


@torch.inference_mode()
def quadrature(model: VAE, x: Tensor, kept: Kept | None = None, most: int | None = None) -> Estimate:
    """log of the integral of N(z; 0, I) p(x | z) over z, by the trapezoidal rule, for a latent of one or two numbers.

    The grid is the same for all examples, so that no mode of p(z | x) can be missed for want of a good q(z | x). It is
    refined for those examples whose answer still moves, until none does or it is as fine as it gets; the error is the
    larger of the last two moves. For smooth integrands that vanish at the ends the rule converges exponentially
    (Trefethen & Weideman 2014), as soon as the spacing is about the width of what is integrated. `kept` spares decoding
    the coarser grids again, for as long as the model stays as it is. With `most` no grid has more points than that, for
    one who cannot wait: far from the data the error is then larger, as it says.
    """
    found = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    move, error = torch.full_like(found, math.inf), torch.full_like(found, math.inf)
    standard = ((x - model.shift) / model.scale).double()
    left = torch.arange(len(x), device=x.device)
    for side in (side for side in GRIDS[model.latent] if most is None or side**model.latent <= most):
        now = on_grid(model, standard[left], side, kept)
        before, move[left] = move[left], (now - found[left]).abs()
        error[left], found[left] = torch.maximum(before, move[left]), now
        left = left[~(error[left] < ENOUGH)]
        if not len(left):
            break
    return Estimate((found - model.scale.double().log().sum()).cpu(), error.cpu())


def on_grid(model: VAE, x: Tensor, side: int, kept: Kept | None = None) -> Tensor:
    """The trapezoidal rule for standardised examples, float64 [N, d], with `side` points along each axis: float64 [N].

    log N(x; z) = <T(x), eta(z)> - A(z), so that all pairs of example and grid point are one matrix product.
    """
    if kept is not None and side in kept:
        return summed(model, x, kept[side])
    line = torch.linspace(-REACH, REACH, side, device=x.device)
    spacing = 2 * REACH / (side - 1)
    points = torch.cartesian_prod(*[line] * model.latent).view(-1, model.latent)
    points = points[points.square().sum(1) <= REACH**2]
    log_prior = -0.5 * points.double().square().sum(1) + model.latent * math.log(spacing / math.sqrt(2 * math.pi))
    said: Iterable[Piece] = pieces(model, points, log_prior)
    if kept is not None and len(points) <= FEW:
        said = kept[side] = list(said)
    return summed(model, x, said)


def pieces(model: VAE, points: Tensor, log_weights: Tensor) -> Iterator[Piece]:
    """What the model says at latents [G, L], ROWS of them at a time, as `summed` wants it."""
    for start in range(0, len(points), ROWS):
        eta, base = natural(model.spoken(points[start : start + ROWS]))
        yield eta, base + log_weights[start : start + ROWS]


def summed(model: VAE, x: Tensor, said: Iterable[Piece]) -> Tensor:
    """log of sum_j weights[j] p(x | points[j]), float64 [N], for standardised examples [N, d] and `pieces`."""
    diagonal = model.sizes[2] == 0
    statistics = torch.cat([x, x**2 if diagonal else (x[:, :, None] * x[:, None]).flatten(1)], 1)
    found = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for eta, base in said:
        rows = max(1, PAIRS // len(base))
        for first in range(0, len(x), rows):
            some = slice(first, first + rows)
            exponents = torch.addmm(base, statistics[some], eta.T)
            found[some] = torch.logaddexp(found[some], exponents.logsumexp(1))
    return found


def natural(normal: Normal) -> tuple[Tensor, Tensor]:
    """Natural parameters of normal distributions [G, d]: float64 [G, d + d] (diagonal) or [G, d + d^2]; and -A, [G]."""
    mean = normal.mean.double()
    log_sd = normal.log_sd.double().expand_as(mean)
    inverse = (-log_sd).exp()
    white = inverse * mean
    if normal.mixing is None:
        eta = torch.cat([white * inverse, -0.5 * inverse**2], 1)
    else:
        whitener = normal.mixing.matrix().double() * inverse[:, None]  # precision = whitener^T whitener
        white = (whitener @ mean[..., None])[..., 0]
        precision = whitener.mT @ whitener
        eta = torch.cat([(whitener.mT @ white[..., None])[..., 0], -0.5 * precision.flatten(1)], 1)
    d = mean.shape[1]
    return eta, -0.5 * white.square().sum(1) - log_sd.sum(1) - 0.5 * d * math.log(2 * math.pi)


@torch.inference_mode()
def best(
    model: VAE, x: Tensor, samples: int, *stream: int, kept: Kept | None = None, most: int | None = None
) -> Estimate | Sampled:
    """The best estimate there is: quadrature for a latent of at most two numbers, else importance sampling.

    The answer to an example is a function of the example, whatever stands beside it.
    """
    if model.latent <= 2:
        return quadrature(model, x, kept, most)
    rows = [hashlib.blake2b(row.tobytes(), digest_size=6).digest() for row in x.cpu().numpy()]
    ids = torch.tensor([int.from_bytes(digest, "little") for digest in rows])
    return importance(model, x, samples, *stream, ids=ids)


@torch.inference_mode()
def rough(model: VAE, x: Tensor) -> Tensor:
    """log p(x) good enough to look at, float64 [N]: on one grid, or as the mean over draws of the prior."""
    standard = ((x - model.shift) / model.scale).double()
    if model.latent <= 2:
        found = on_grid(model, standard, COARSE[model.latent])
    else:
        z = torch.randn(4_000, model.latent, generator=torch.Generator().manual_seed(0)).to(x.device)
        log_prior = torch.full((len(z),), -math.log(len(z)), dtype=torch.float64, device=x.device)
        found = summed(model, standard, pieces(model, z, log_prior))
    return (found - model.scale.double().log().sum()).cpu()
