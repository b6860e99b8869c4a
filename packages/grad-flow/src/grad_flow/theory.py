"""Mean-field theory: what a wide dense network does to signals and gradients before its first step.

Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz et al. 2017,
"Deep information propagation" (depth scales, dropout); Yang et al. 2019, "A mean field theory of batch normalization".
Weights have variance sigma_w^2 / fan_in and biases sigma_b^2. In the limit of wide layers the pre-activations u of
two inputs are jointly normal, q is their variance and c their correlation, and one layer maps (q, c) to the next.
All numbers are float64. Shapes: B inputs, n nodes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

LEAK = 0.01  # torch's default slope of a leaky ReLU below 0
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(LEAK),
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "identity": nn.Identity,
}
SLOPES = {"identity": (1.0, 1.0), "relu": (0.0, 1.0), "leaky-relu": (LEAK, 1.0)}  # below and above 0, if two lines
TERMS = 40  # of the series in powers of a correlation
FAR, PANELS, POINTS = 12.0, 16, 8  # how far nodes reach, the panels on either side of 0, the nodes in each
LEAST, HUGE = 1e-280, 1e12  # a variance that only falls, or only grows


@cache
def nodes() -> tuple[Tensor, Tensor]:
    """z [n] and weights [n]: the sum of weights x f(z) is the mean of f over a standard normal z.

    Gauss-Legendre on panels that halve towards 0, the same on either side. Gauss-Hermite has too few nodes near 0:
    100 of them miss E phi'^2 of tanh at q = 16 by 9 %, and an odd number has one on the kink of ReLU, which makes
    chi 0.91 instead of 1.
    """
    x, weights = np.polynomial.legendre.leggauss(POINTS)
    ends = np.concatenate([[0.0], FAR * 2.0 ** np.arange(1 - PANELS, 1)])
    half, middle = np.diff(ends) / 2, (ends[1:] + ends[:-1]) / 2
    z = (middle[:, None] + half[:, None] * x).ravel()
    weights = (half[:, None] * weights).ravel() * np.exp(-(z**2) / 2)
    z, weights = np.concatenate([-z[::-1], z]), np.concatenate([weights[::-1], weights])
    return torch.from_numpy(z), torch.from_numpy(weights / weights.sum())


def values(activation: str, u: Tensor) -> tuple[Tensor, Tensor]:
    """phi(u) and phi'(u) of the very module that a network has, in the shape of u."""
    with torch.inference_mode(False), torch.enable_grad():
        x = u.detach().clone().requires_grad_()
        y = ACTIVATIONS[activation]()(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


@dataclass(frozen=True)
class Moments:
    """Of pre-activations u ~ N(0, q)."""

    mean: Tensor
    """E phi"""
    square: Tensor
    """E phi^2"""
    slope: Tensor
    """E phi'^2"""
    growth: Tensor
    """d E phi^2 / dq"""


def moments(activation: str, q: Tensor) -> Moments:
    """For variances q [...]."""
    z, weights = nodes()
    root = q.clamp(min=1e-300).sqrt()[..., None]
    y, slope = values(activation, root * z)
    growth = (y * slope * z / root) @ weights  # by parts: that of phi'^2 + phi phi'', and needs no phi''
    return Moments(y @ weights, y.square() @ weights, slope.square() @ weights, growth)


def pairs(activation: str, q: Tensor) -> tuple[Tensor, Tensor]:
    """E phi(u) phi(v) and E phi'(u) phi'(v) for every two of B inputs, [B, B] each.

    q: the covariances of their pre-activations, [B, B]. For two lines that meet at 0 there is a closed form (Cho & Saul
    2009). Else, with the Hermite coefficients a_k of phi, it is the sum of a_k(u) a_k(v) c^k (Mehler's formula); what
    is left of the squares beyond the last term goes with the next power, so that the diagonal is exact.
    """
    root = q.diagonal().clamp(min=1e-300).sqrt()
    c = (q / (root[:, None] * root)).clamp(-1, 1).fill_diagonal_(1.0)
    if activation in SLOPES:
        low, high = SLOPES[activation]
        even, odd = (high - low) / 2, (high + low) / 2  # phi(u) = odd u + even |u|
        bent = (2 / math.pi) * ((1 - c**2).sqrt() + c * c.asin())
        return (odd**2 * c + even**2 * bent) * root[:, None] * root, odd**2 + even**2 * (2 / math.pi) * c.asin()
    z, weights = nodes()
    y = torch.stack(values(activation, root[:, None] * z))  # phi and phi' at once: [2, B, n]
    a = y @ hermite()
    rest = (y.square() @ weights - a.square().sum(-1)).clamp(min=0).sqrt()
    a = torch.cat([a, rest[..., None]], -1)  # [2, B, TERMS + 1]
    powers = torch.stack([torch.ones_like(c), *[c] * TERMS], -1).cumprod(-1)  # [B, B, TERMS + 1]
    products, slopes = (a[:, :, None] * a[:, None, :] * powers).sum(-1)
    return products, slopes


@cache
def hermite() -> Tensor:
    """The first TERMS Hermite polynomials at the nodes, normalised, times the nodes' weights: [n, TERMS]."""
    z, weights = nodes()
    found = [torch.ones_like(z), z]
    for k in range(1, TERMS - 1):
        found.append((z * found[k] - math.sqrt(k) * found[k - 1]) / math.sqrt(k + 1))
    return weights[:, None] * torch.stack(found, 1)


# ---------------------------------------------------------------------------------------------- fixed points and scales


@dataclass(frozen=True)
class FixedPoint:
    """Where signals go in a deep network, and how fast."""

    q: float
    """variance of a pre-activation, q*; inf if it only grows"""
    c: float
    """correlation of two inputs, c*; NaN if q only grows"""
    chi: float
    """by which the square of a gradient changes per layer, on its way back: sigma_w^2 E phi'^2"""
    xi_q: float
    """layers in which the distance from q* falls by a factor of e; inf if it does not"""
    xi_c: float
    """layers in which the distance from c* falls by a factor of e; inf at the edge of chaos"""

    @property
    def factor(self) -> float:
        """By which the norm of a gradient changes per layer, on its way back."""
        return math.sqrt(self.chi)


@cache
def fixed_point(activation: str, sigma_w: float, sigma_b: float, dropout: float = 0.0) -> FixedPoint:
    """Schoenholz et al. 2017, equations 3 to 9 and 16; dropout of activations as in their section 5.

    Where a walk down the layers ends that begins at the q of the first, of inputs whose mean square is 1, and c = 1/2:
    some maps, as GELU's, have two ends. Both maps rise, so that is the next point on the way that stays. It is looked
    for there, as near the edge of chaos, or at q* = 0, a walk of any length ends too soon.
    """
    w2, b2, keep = sigma_w**2, sigma_b**2, 1 - dropout
    q = variance(activation, w2 / keep, b2, w2 + b2)
    found = moments(activation, torch.tensor(min(q, HUGE), dtype=torch.float64))
    chi, grown = float(w2 / keep * found.slope), float(w2 / keep * found.growth)
    if q == math.inf:
        return FixedPoint(q, math.nan, chi, math.inf, math.nan)
    if chi <= 1 + 1e-9 and not dropout:  # up to rounding; two inputs become one, and then part as a gradient does
        return FixedPoint(q, 1.0, chi, scale(grown), scale(chi))
    some = max(q, LEAST)

    def layer(c: float) -> tuple[float, float]:
        """The correlation after a layer, and its derivative."""
        products, slopes = pairs(activation, some * torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64))
        return float((w2 * products[0, 1] + b2) / some), float(w2 * slopes[0, 1])

    falls = layer(0.5)[0] < 0.5
    c = crossing(lambda c: layer(c)[0] > c, 0.0 if falls else 0.5, 0.5 if falls else 1 - 1e-12)
    return FixedPoint(q, c, chi, scale(grown), scale(layer(c)[1]))


def variance(activation: str, w2: float, b2: float, start: float) -> float:
    """Where q ends that begins at `start` and becomes w2 E phi^2 + b2 in each layer; inf if it only grows."""

    def layer(q: Tensor) -> Tensor:
        return w2 * moments(activation, q).square + b2

    start = min(max(start, LEAST), HUGE)
    rise = float(layer(torch.tensor(start, dtype=torch.float64))) / start - 1
    if abs(rise) <= 1e-9:  # up to rounding: it stays
        return start
    way = torch.from_numpy(np.geomspace(start, HUGE if rise > 0 else LEAST, 4000))
    ahead = (layer(way) > way) == (rise > 0)
    if ahead.all():
        return math.inf if rise > 0 else 0.0
    low, high = sorted(way[int(ahead.int().argmin()) + n].item() for n in (-1, 0))
    return crossing(lambda q: bool(layer(torch.tensor(q, dtype=torch.float64)) > q), low, high)


def crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """The point from `low` to `high` up to which `below` holds, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def scale(ratio: float) -> float:
    """Layers in which what is multiplied by `ratio` in each falls by a factor of e; inf if it does not fall."""
    return math.inf if ratio > 1 - 1e-9 else -1 / math.log(ratio) if ratio > 0 else 0.0


def norm_factor(activation: str, norm: str, sigma_w: float, sigma_b: float, dropout: float = 0.0) -> float:
    """By which the norm of a gradient changes per layer, on its way back, where pre-activations are normalised.

    "batch": for large batches (E phi'^2 / Var phi)^(1/2), whatever the weights: for ReLU (pi / (pi - 1))^(1/2) (Yang
    et al. 2019, section 3.3). The standardised pre-activations of two examples are independent there, so sigma_w^2 Var
    phi is the variance over the batch, by whose root the way back is divided. "layer": the variance over units is
    sigma_w^2 E phi^2 + sigma_b^2.
    """
    found, keep = moments(activation, torch.tensor(1.0, dtype=torch.float64)), 1 - dropout
    square, slope = float(found.square) / keep, float(found.slope) / keep
    if norm == "batch":
        return math.sqrt(slope / (square - float(found.mean) ** 2))
    return math.sqrt(sigma_w**2 * slope / (sigma_w**2 * square + sigma_b**2))


def law(initialisation: str, inputs: int, outputs: int, sigma_w: float, sigma_b: float) -> tuple[float, float]:
    """sigma_w and sigma_b of the weights and biases of a layer from `inputs` to `outputs` units.

    torch's default is uniform on +-1 / sqrt(inputs), for both. Xavier's variance is 2 / (inputs + outputs); columns, or
    rows, of an orthogonal matrix have length 1, so that its numbers have variance 1 / the larger of both.
    """
    if initialisation == "sigma":
        return sigma_w, sigma_b
    if initialisation == "default":
        return math.sqrt(1 / 3), math.sqrt(1 / (3 * inputs))
    squares = {
        "lecun": 1.0,
        "he": 2.0,
        "xavier": 2 * inputs / (inputs + outputs),
        "orthogonal": inputs / max(inputs, outputs),
    }
    return math.sqrt(squares[initialisation]), 0.0
