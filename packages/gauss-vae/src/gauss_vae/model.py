"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014) with a normal decoder.

Shapes: B examples, S latents for each, L numbers in a latent, d dimensions of an example. The networks see and say
standardised numbers, (x - shift) / scale; densities are those of the numbers as they are.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gauss_vae.config import Model

ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}
SMALLEST, LARGEST = -10.0, 10.0  # bounds of the logarithm of a standard deviation, of standardised numbers


class UnitLower(NamedTuple):
    """Lower triangular matrices with ones on the diagonal, [..., d, d]."""

    entries: Tensor
    """below the diagonal, row by row: [..., d (d - 1) / 2]"""
    rows: Tensor
    """as `below` gives them"""
    columns: Tensor

    def matrix(self) -> Tensor:
        """[..., d, d]."""
        identity = torch.eye(len(self.columns), dtype=self.entries.dtype, device=self.entries.device)
        return (self.rows.mT * self.entries[..., None, :]) @ self.columns.mT + identity

    def times(self, x: Tensor) -> Tensor:
        """The products with vectors [..., d]: a few large ones instead of a small one for each."""
        with torch.autocast(x.device.type, enabled=False):
            return x + (self.entries * (x @ self.columns)) @ self.rows


def below(dimension: int) -> tuple[Tensor, Tensor]:
    """The entries below a matrix's diagonal, row by row: one-hot their rows, [entries, d], and columns, [d, entries].

    Products with these pick and add up, and so do their gradients, in a fixed order on every device.
    """
    rows, columns = torch.tril_indices(dimension, dimension, -1)
    return F.one_hot(rows, dimension).float(), F.one_hot(columns, dimension).float().mT.contiguous()


class Normal(NamedTuple):
    """A normal distribution of vectors, of any batch shape."""

    mean: Tensor
    """[..., d]"""
    log_sd: Tensor
    """[..., d] or [..., 1]"""
    mixing: UnitLower | None = None
    """None for the identity: see `white`"""

    def white(self, x: Tensor) -> Tensor:
        """mixing ((x - mean) / sd), which is standard normal: [..., d].

        So the precision matrix has the Cholesky factor (mixing / sd)^T: no solving, and nothing to be inverted, however
        small a variance is (Dorta et al. 2018, "Structured uncertainty prediction networks", section 3).
        """
        scaled = (x - self.mean) * (-self.log_sd).exp()
        return scaled if self.mixing is None else self.mixing.times(scaled)

    def log_density(self, x: Tensor) -> Tensor:
        """log N(x), [...]."""
        d = self.mean.shape[-1]
        log_sd = self.log_sd.expand_as(self.mean)
        return -0.5 * (self.white(x) ** 2).sum(-1) - log_sd.sum(-1) - 0.5 * d * math.log(2 * math.pi)

    def factor(self) -> Tensor:
        """A with covariance A A^T, lower triangular: [..., d, d]."""
        sd = self.log_sd.exp().expand_as(self.mean)
        if self.mixing is None:
            return torch.diag_embed(sd)
        mixing = self.mixing.matrix()
        identity = torch.eye(sd.shape[-1], dtype=sd.dtype, device=sd.device).expand_as(mixing)
        return sd[..., None] * torch.linalg.solve_triangular(mixing, identity, upper=False, unitriangular=True)


class Weighed(NamedTuple):
    """What a batch of examples and of latents drawn for them says."""

    latent: Tensor
    """mean of q(z | x), [B, L]"""
    log_likelihood: Tensor
    """log p(x | z), [B, S]"""
    log_ratio: Tensor
    """log p(z) - log q(z | x), [B, S]"""
    kl: Tensor
    """KL(q(z | x) || p(z)), [B]"""
    reconstruction: Tensor | None
    """mean of p(x | z) at the mean of q, [B, d]; None in training"""

    def first(self, samples: int) -> "Weighed":
        """The same with the first of the latents only."""
        return self._replace(log_likelihood=self.log_likelihood[:, :samples], log_ratio=self.log_ratio[:, :samples])


def bounded(raw: Tensor) -> Tensor:
    """`raw` between SMALLEST and LARGEST, where it is nearly itself; smooth, so that no gradient blows up or breaks."""
    return SMALLEST + softplus(LARGEST - SMALLEST - softplus(LARGEST - raw))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to 1e-7 or a rounding. F.softplus is exact for very negative x, and takes five times as long."""
    return x.clamp(min=0) + (1 + (-x.abs()).exp()).log()


def perceptron(inputs: int, outputs: int, model: Model) -> nn.Sequential:
    widths = [inputs] + [model.hidden] * model.depth
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), ACTIVATIONS[model.activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class VAE(nn.Module):
    """p(z) = N(0, I), p(x | z) and q(z | x) are normal; q's covariance is diagonal."""

    shift: Tensor
    scale: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, dimension: int, model: Model) -> None:
        super().__init__()
        self.dimension, self.latent = dimension, model.latent or dimension
        self.register_buffer("shift", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))
        spreads = 1 if model.variance == "shared" else dimension
        corners = dimension * (dimension - 1) // 2 if model.variance == "full" else 0
        self.sizes = [dimension, spreads, corners]
        for name, places in zip(("rows", "columns"), below(dimension), strict=True):
            self.register_buffer(name, places, persistent=False)
        self.encoder = perceptron(dimension, 2 * self.latent, model)
        self.decoder = perceptron(self.latent, sum(self.sizes) if model.varying else dimension, model)
        self.constant = None if model.varying else nn.Parameter(torch.zeros(spreads + corners))

    def standardise(self, x: Tensor) -> None:
        """Learns shift and scale from training examples [N, d]."""
        self.shift.copy_(x.mean(0))
        self.scale.copy_(x.std(0).clamp(min=1e-30))

    def encode(self, x: Tensor) -> Normal:
        """q(z | x) for examples [..., d]: mean and log_sd [..., L]."""
        mean, raw = self.encoder((x - self.shift) / self.scale).float().chunk(2, -1)
        return Normal(mean, bounded(raw))

    def spoken(self, z: Tensor) -> Normal:
        """p(x | z) of the standardised numbers, for latents [..., L]."""
        said = self.decoder(z).float()
        if self.constant is not None:
            said = torch.cat([said, self.constant.expand(*z.shape[:-1], -1)], -1)
        mean, raw, corners = said.split(self.sizes, -1)
        return Normal(mean, bounded(raw), UnitLower(corners, self.rows, self.columns) if self.sizes[2] else None)

    def decode(self, z: Tensor) -> Normal:
        """p(x | z) for latents [..., L]."""
        said = self.spoken(z)
        log_scale = self.scale.log()
        mean = said.mean * self.scale + self.shift  # and (x - mean) / sd is the same number in either unit
        return said._replace(mean=mean, log_sd=said.log_sd + log_scale)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), [B, S], of examples [B, d] given latents [B, S, L]."""
        standard = (x - self.shift) / self.scale
        return self.spoken(z).log_density(standard[:, None]) - self.scale.log().sum()

    def forward(self, x: Tensor, noise: Tensor) -> Weighed:
        """Examples [B, d], and standard normal noise [B, S, L] to draw latents with."""
        q = self.encode(x)
        z = q.mean[:, None] + q.log_sd.exp()[:, None] * noise
        # log N(z; 0, I) - log q(z): the constants cancel, and (z - mean) / sd is the noise
        log_ratio = 0.5 * (noise**2 - z**2).sum(-1) + q.log_sd.sum(-1)[:, None]
        kl = 0.5 * (q.mean**2 + (2 * q.log_sd).exp() - 1).sum(-1) - q.log_sd.sum(-1)  # Kingma & Welling, appendix B
        reconstruction = None if self.training else self.decode(q.mean).mean
        return Weighed(q.mean, self.log_likelihood(x, z), log_ratio, kl, reconstruction)


def bound(weighed: Weighed, kl: Tensor) -> Tensor:
    """The ELBO, or with several latents the importance-weighted bound, of each example: [B].

    ELBO: Kingma & Welling 2014, equation 7; the weight `kl`, [B]: Higgins et al. 2017. Several latents: log of the mean
    importance weight (Burda, Grosse & Salakhutdinov 2016, equation 8).
    """
    samples = weighed.log_likelihood.shape[1]
    if samples == 1:
        return weighed.log_likelihood[:, 0] - kl * weighed.kl
    log_weights = weighed.log_likelihood + kl[:, None] * weighed.log_ratio
    return log_weights.logsumexp(1) - math.log(samples)
