"""The same theory for a network of finite depth and for the examples of a batch, so that nothing is left to fit.

A fixed point says what happens far from both ends. Here the products of all pairs of examples go through the network
layer by layer, and those of their gradients back, which gives the norm of the gradient of every weight as an optimiser
sees it: of the mean loss of the batch. Two things are idealised: layers are infinitely wide, and the weights of the way
back are independent of those of the way there (Yang 2019, "Scaling limits of wide neural networks", says when that does
no harm). Shapes: B examples, L hidden layers, K classes, n drawn units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grad_flow.theory import moments, pairs, values

DRAWS = 256  # networks, by the logits that they give a batch
UNITS = 4096  # that are drawn of a layer with batch norm, whose means over a batch have no closed form
EPS = 1e-5  # what torch's norms add to a variance
Back = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """What the theory has to know of a network."""

    activation: str
    norm: str
    residual: bool
    dropout: float
    sizes: tuple[int, ...]
    """units, from the input to the classes: L + 2 numbers"""
    laws: tuple[tuple[float, float], ...]
    """sigma_w and sigma_b of each of the L + 1 matrices"""


@dataclass(frozen=True)
class Walk:
    """The way through the L hidden layers, and to the logits."""

    entered: list[Tensor]
    """mean over units of the products of what enters each of the L + 1 matrices, [B, B]"""
    covariances: list[Tensor]
    """of what comes out of each, before it is normalised, [B, B]"""
    back: list[Back]
    """for each hidden layer, from products of gradients by its output to those by what came out of its matrix"""

    def correlations(self) -> Tensor:
        """Of what comes out of each matrix, [L + 1, B, B]."""
        q = torch.stack(self.covariances)
        root = q.diagonal(dim1=1, dim2=2).clamp(min=1e-300).sqrt()
        return q / (root[:, :, None] * root[:, None, :])


@dataclass(frozen=True)
class Gradients:
    """Norms of gradients by layer, of the mean loss of a batch."""

    weights: np.ndarray
    """by each weight matrix, [L + 1]"""
    signals: np.ndarray
    """by what comes out of each hidden matrix, all examples and units as one vector, [L]"""


def walk(network: Network, x: Tensor, pieces: int = 1) -> Walk:
    """For inputs x, [B, d]; batch norm takes its means over each of so many pieces, cut as `tensor_split` does."""
    x = x.double()
    product, mean = x @ x.T / x.shape[1], torch.zeros(len(x), dtype=torch.float64)  # mean: of the units
    found = Walk([], [], [])
    for layer, (sigma_w, sigma_b) in enumerate(network.laws):
        q = sigma_w**2 * product + sigma_b**2
        found.entered.append(product)
        found.covariances.append(q)
        if layer == len(network.laws) - 1:
            break
        products, middle, back = drawn(network, q, pieces) if network.norm == "batch" else exact(network, q)
        if network.residual and layer:
            # A unit's own weights know nothing of what passes it by, so only the means of both meet.
            crossed = mean[:, None] * middle
            product, mean = product + products + crossed + crossed.T, mean + middle
        else:
            product, mean = products, middle
        found.back.append(back)
    return found


def kept(network: Network, q: Tensor) -> Tensor:
    """What products are divided by where units are dropped: 1 - p for an example with itself, [B, B]."""
    return torch.ones_like(q).fill_diagonal_(1 - network.dropout)


def exact(network: Network, q: Tensor) -> tuple[Tensor, Tensor, Back]:
    """A hidden layer: products [B, B] and means [B] of its outputs, for pre-activations of covariance q [B, B].

    The means are 0 where nothing passes the layer by, as nobody asks for them there.
    """
    root = (q.diagonal() + EPS).sqrt() if network.norm == "layer" else torch.ones(len(q), dtype=torch.float64)
    divided = root[:, None] * root
    products, slopes = pairs(network.activation, q / divided)
    keep = kept(network, q)
    slopes = slopes / keep / divided
    means = moments(network.activation, (q / divided).diagonal()).mean if network.residual else torch.zeros_like(root)
    return products / keep, means, lambda gradient: gradient * slopes


def drawn(network: Network, q: Tensor, pieces: int = 1) -> tuple[Tensor, Tensor, Back]:
    """The same with batch norm: of units that are drawn, each with the mean and variance that it has over a piece."""
    u = root_of(q) @ torch.randn(len(q), UNITS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = u - within(u, pieces)
    scale = (within(u.square(), pieces) + EPS).sqrt()  # [B, n]
    u = u / scale
    y, slope = values(network.activation, u)
    slope = slope / scale
    keep = kept(network, q)

    def back(gradient: Tensor) -> Tensor:
        """Each unit's gradient, less its mean over the piece and its part along the unit's own values there."""
        gradient = gradient / keep
        found = slope @ slope.T * gradient / UNITS
        for rows in torch.arange(len(u)).tensor_split(pieces):
            along = slope * (gradient[:, rows] @ (slope * u)[rows]) / len(rows)  # [B, n]
            crossed = along @ u[rows].T / UNITS
            found[:, rows] += (u * within(u * along, pieces)) @ u[rows].T / UNITS - crossed
            found[rows] -= crossed.T
        return centred(found, pieces)

    return y @ y.T / UNITS / keep, y.mean(1), back


def within(found: Tensor, pieces: int) -> Tensor:
    """For each row its piece's mean over rows, [B, n]."""
    return torch.cat([piece.mean(0, keepdim=True).expand_as(piece) for piece in found.tensor_split(pieces)])


def root_of(q: Tensor) -> Tensor:
    """R with R R^T = q, for a covariance [B, B] that may be singular."""
    values, vectors = torch.linalg.eigh(q)
    return vectors * values.clamp(min=0).sqrt()


def centred(q: Tensor, pieces: int) -> Tensor:
    """Products [B, B] of vectors whose mean over their piece is taken off."""
    q = q - within(q, pieces)
    return q - within(q.T, pieces).T


def gradients(network: Network, way: Walk, labels: Tensor) -> Gradients:
    """What is predicted for labels [B], as geometric means over networks; the loss is the mean cross-entropy.

    Networks differ however wide they are, in their logits, and so does the gradient of their loss, with which all
    begins. Without batch norm each pair of images goes its way back alone, so that the way is gone once, and met with
    the loss of each network that is drawn. With it the way is gone with the mean over networks alone: it takes long.
    """
    *_, last, classes = network.sizes
    losses = of_losses(way.covariances[-1], labels, classes)
    arrived = torch.ones_like(losses[0])
    if network.norm == "batch":
        arrived, losses = losses.mean(0), torch.ones_like(losses[:1])
    weights, signals = [arrived * way.entered[-1] * last], []  # [B, B], to be met with losses
    arrived = network.laws[-1][0] ** 2 * arrived  # products of the gradients by the output of a hidden layer
    for layer in reversed(range(len(way.back))):
        inside = way.back[layer](arrived)
        signals.append(inside.diagonal().diag())
        weights.append(inside * way.entered[layer] * network.sizes[layer])
        through = network.laws[layer][0] ** 2 * inside
        arrived = arrived + through if network.residual and layer else through
    return Gradients(*(mean_norms(losses, found[::-1]) for found in (weights, signals)))


def mean_norms(losses: Tensor, met: list[Tensor]) -> np.ndarray:
    """Of squared norms, each the sum over pairs of losses [n, B, B] times one of `met`: geometric means over n."""
    squares = losses.flatten(1) @ torch.stack(met).flatten(1).T
    return np.asarray((squares.clamp(min=0).log().mean(0) / 2).exp())


def of_losses(q: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Products of the gradients of the mean cross-entropy by the logits, of networks that are drawn, [n, B, B].

    `q`: the covariance of their logits, [B, B].
    """
    normal = torch.randn(DRAWS, len(q), classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = (root_of(q) @ normal).softmax(-1) - F.one_hot(labels, classes)
    return wrong @ wrong.mT / len(q) ** 2


def factor(norms: Sequence[float] | np.ndarray) -> float:
    """By which a norm changes per layer on its way back: from the line through its logarithm over layers, norms [n].

    NaN for fewer than two layers, or where a norm is 0.
    """
    if len(norms) < 2 or not np.all(np.asarray(norms) > 0):
        return float("nan")
    return float(np.exp(-np.polyfit(np.arange(len(norms)), np.log(norms), 1)[0]))
