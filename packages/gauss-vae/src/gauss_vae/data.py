"""Mixtures of Gaussians, whose density is known: drawn by a seed or read from a file; and the rows of CSV files.

Shapes: N examples, d dimensions, K clusters. Everything is float64, except that examples are rounded to float32, which
is what the model sees; their density is that of the rounded numbers.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude import draw
from etude.config import is_path
from etude.errors import UserError
from etude.text.lines import lines
from gauss_vae.config import Data

# The streams that things are drawn from; epochs, which draw their order and noise likewise, count from 0.
MIXTURE, PARTS = -1, {"train": -2, "valid": -3, "test": -4}
AXES = (0.5, 2.0)  # the shortest and the longest standard deviation of a cluster
MOST = 1e15  # the largest mean or standard deviation: squares of what is drawn have to be numbers in float32
ROUNDED = 4  # steps of float32 that a standard deviation has to have
KEYS = ("weights", "means", "covariances")


@dataclass(frozen=True)
class Mixture:
    """p(x) = sum_k weights[k] N(x; means[k], covariances[k])."""

    weights: np.ndarray  # [K], sum 1
    means: np.ndarray  # [K, d]
    covariances: np.ndarray  # [K, d, d], symmetric and positive definite

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def draw(self, n: int, *stream: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n, d] and the cluster of each, int64 [n]: a function of `stream`."""
        generator = np.random.Generator(np.random.PCG64(draw.key(*stream)))
        clusters = generator.choice(len(self.weights), n, p=self.weights)
        normal = generator.standard_normal((n, self.dimension))
        factors = np.linalg.cholesky(self.covariances)
        points = np.empty_like(normal)
        for k, (mean, factor) in enumerate(zip(self.means, factors, strict=True)):
            points[clusters == k] = mean + normal[clusters == k] @ factor.T
        return points.astype(np.float32), clusters

    def log_densities(self, points: np.ndarray) -> np.ndarray:
        """log(weights[k] N(x; means[k], covariances[k])), [N, K]."""
        points = np.asarray(points, np.float64)
        found = np.empty((len(points), len(self.weights)))
        for k, factor in enumerate(np.linalg.cholesky(self.covariances)):
            white = np.linalg.solve(factor, (points - self.means[k]).T)
            scale = np.log(factor.diagonal()).sum() + 0.5 * self.dimension * math.log(2 * math.pi)
            found[:, k] = np.log(self.weights[k]) - 0.5 * (white**2).sum(0) - scale
        return found

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """log p(x), float64 [N]."""
        return np.logaddexp.reduce(self.log_densities(points), axis=1)


def load(data: Data, seed: int) -> Mixture:
    """The mixture that `data` names: drawn by `seed`, or read from a file.

    Raises UserError if the file is no mixture.
    """
    if data.name == "sample":
        mixture = drawn(data, seed)
        check_rounding(f"the mixture of separation {data.separation:g} and noise {data.noise:g}", mixture)
        return check_count(data, mixture)
    if is_path(data.name, ".json"):
        mixture = read_mixture(Path(data.name))
        if len(mixture.weights) > data.train:
            raise UserError(
                f"{data.name} has {len(mixture.weights)} clusters, more than data.train {data.train}: draw more"
            )
        return check_count(data, mixture)
    raise UserError(f"there is no data set {data.name!r}; choose sample, or the path of a JSON file")


def check_count(data: Data, mixture: Mixture) -> Mixture:
    """Raises UserError if there are too few training examples for the single Gaussian that `evaluate` compares with."""
    if data.train <= mixture.dimension:
        raise UserError(
            f"data.train {data.train} examples have no density in {mixture.dimension} dimensions: draw more of them"
        )
    return mixture


def check_rounding(name: str, mixture: Mixture) -> None:
    """Raises UserError for a cluster that is too narrow to be drawn from, as examples are rounded to float32."""
    for k, (mean, sigma) in enumerate(zip(mixture.means, mixture.covariances, strict=True)):
        step = np.spacing((np.abs(mean) + np.sqrt(sigma.diagonal())).astype(np.float32)).astype(np.float64)
        values, directions = np.linalg.eigh(sigma)
        narrow = np.sqrt(np.maximum(values, 0)) < ROUNDED * np.sqrt((directions**2).T @ step**2)
        if narrow.any():
            raise UserError(
                f"{name}: cluster {k} has a standard deviation of {math.sqrt(max(values[narrow][0], 0)):.2g} around "
                f"{np.abs(mean).max():.2g}, where float32 rounds to steps of {step.max():.2g}: move the means towards "
                "0, or make the cluster wider"
            )


def origin(data: Data, mixture: Mixture) -> list[np.ndarray]:
    """What, with a seed, decides a mixture that `load` gives, to the bit on every machine."""
    if data.name == "sample":
        return [np.array([data.clusters, data.dimension, data.intrinsic, data.noise, data.separation])]
    return [mixture.weights, mixture.means, mixture.covariances]


def drawn(data: Data, seed: int) -> Mixture:
    """A mixture of equal weights, a function of the seed.

    The means are normal with mean square distance separation^2. Sigma = A A^T + noise^2 (I - Q Q^T): the `intrinsic`
    columns of A are orthogonal, in random directions Q, with lengths whose logarithm is uniform between those of AXES.
    """
    generator = np.random.Generator(np.random.PCG64(draw.key(seed, MIXTURE)))
    k, d = data.clusters, data.dimension
    rank = data.intrinsic or d
    means = generator.standard_normal((k, d)) * data.separation / math.sqrt(2 * d)
    covariances = np.empty((k, d, d))
    for i in range(k):
        basis, triangle = np.linalg.qr(generator.standard_normal((d, d)))
        basis = basis * np.sign(triangle.diagonal())  # so that all rotations are equally likely
        lengths = np.exp(generator.uniform(math.log(AXES[0]), math.log(AXES[1]), d))
        lengths[rank:] = data.noise
        covariances[i] = (basis * lengths**2) @ basis.T
    return Mixture(np.full(k, 1 / k), means, (covariances + covariances.swapaxes(1, 2)) / 2)


def read_mixture(file: Path) -> Mixture:
    """A JSON object with `weights` [K], `means` [K, d] and `covariances` [K, d, d]; the weights are made to sum to 1.

    Raises UserError, naming the cluster, for what is no mixture of Gaussians.
    """
    try:
        found = json.loads("".join(lines(file, "give a JSON file, or sample")))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a JSON file: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or found.keys() != set(KEYS):
        raise UserError(f"{file}: expected one object with the keys {', '.join(KEYS)}")
    weights, means, covariances = (array(file, key, found[key], axes) for axes, key in enumerate(KEYS, 1))
    ranges = {"weights": (weights, MOST), "means": (means, MOST), "covariances": (covariances, MOST**2)}
    for key, (numbers, most) in ranges.items():
        if np.abs(numbers).max() > most:
            raise UserError(f"{file}: {key} has {numbers.flat[np.abs(numbers).argmax()]:g}; numbers up to {most:g}")
    k = len(weights)
    if len(means) != k or covariances.shape != (k, *means.shape[1:] * 2):
        raise UserError(
            f"{file}: {k} weights go with means [{k}, d] and covariances [{k}, d, d], "
            f"not with {list(means.shape)} and {list(covariances.shape)}"
        )
    if not weights.min() > 0:
        raise UserError(f"{file}: weights must be above 0, not {weights.min():g}; leave that cluster out")
    for i, sigma in enumerate(covariances):
        if not np.allclose(sigma, sigma.T, atol=1e-8 * np.abs(sigma).max()):
            raise UserError(f"{file}: covariances[{i}] is not symmetric")
        if not np.linalg.eigvalsh(sigma)[0] > 0:
            raise UserError(
                f"{file}: covariances[{i}] is not positive definite, its smallest eigenvalue is "
                f"{np.linalg.eigvalsh(sigma)[0]:.3g}; add a little to its diagonal"
            )
    mixture = Mixture(weights / weights.sum(), means, covariances)
    check_rounding(str(file), mixture)
    return mixture


def array(file: Path, key: str, value: Any, axes: int) -> np.ndarray:
    """Nested lists of numbers as float64 with so many axes. Raises UserError for anything else."""
    try:
        found = np.array(value, np.float64)
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != axes or not found.size or not np.isfinite(found).all():
        raise UserError(f"{file}: {key} must be numbers in lists, nested {axes} deep, rows of one length")
    return found


def read_rows(path: str, dimension: int) -> np.ndarray:
    """The rows of a CSV file of `dimension` numbers, float32 [N, d]; "-" is standard input. Blank lines do not count.

    Raises UserError, naming file and line, for what is no such row.
    """
    name = "standard input" if path == "-" else path
    rows = list(parsed(name, lines(path, "give a CSV file of numbers"), dimension))
    return np.array(rows, np.float32).reshape(-1, dimension)


def parsed(name: str, lines: Iterable[str], dimension: int) -> Iterable[list[float]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != dimension:
            raise UserError(f"{name}, line {number}: {len(cells)} numbers, but this run has {dimension} dimensions")
        row = []
        for cell in cells:
            try:
                row.append(float(cell))
            except ValueError:
                raise UserError(f"{name}, line {number}: {cell.strip()[:40]!r} is not a number") from None
            if not abs(row[-1]) < 1e30:
                raise UserError(f"{name}, line {number}: {cell.strip()[:40]!r} is out of range; numbers below 1e30")
        yield row
