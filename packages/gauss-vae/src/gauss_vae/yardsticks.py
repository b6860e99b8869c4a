"""What the VAE is held against: log-densities of simpler models, fitted by maximum likelihood, and how well an example
can be restored from as many numbers. All in float64.

Shapes: N examples, d dimensions, q latent numbers, K clusters.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from gauss_vae.data import Mixture

EPSILON = 1e-14  # of the data's variance: keeps a cluster without extent, as seen, from having no inverse
STARTS = 2  # directions that the best projection is looked for from, beside the principal axes


def gaussian(train: np.ndarray) -> Mixture:
    """A single Gaussian, by maximum likelihood on training examples [N, d]."""
    train = np.asarray(train, np.float64)
    return single(train.mean(0), np.cov(train, rowvar=False, bias=True).reshape(train.shape[1], -1))


def ppca(train: np.ndarray, q: int) -> Mixture:
    """Probabilistic PCA with `q` latent numbers, by maximum likelihood on training examples [N, d].

    Tipping & Bishop 1999, "Probabilistic principal component analysis", equations 7 and 8: x is normal with covariance
    W W^T + sigma^2 I, where sigma^2 is the mean of the d - q smallest eigenvalues of the sample covariance. With q >=
    d - 1 that is the single Gaussian.
    """
    whole = gaussian(train)
    weights, sigma2 = principal(whole.covariances[0], q)
    return single(whole.means[0], weights @ weights.T + sigma2 * np.eye(whole.dimension))


def principal(covariance: np.ndarray, q: int) -> tuple[np.ndarray, float]:
    """W [d, q'] with orthogonal columns and sigma^2 of probabilistic PCA; q' = min(q, d - 1), which is as good."""
    values, vectors = np.linalg.eigh(covariance)
    q = min(q, len(values) - 1)
    sigma2 = float(values[: len(values) - q].mean())
    chosen = slice(len(values) - q, None)
    return vectors[:, chosen] * np.sqrt(np.maximum(values[chosen] - sigma2, 0)), sigma2


def gmm(train: np.ndarray, clusters: int, seed: int) -> Mixture:
    """A mixture of so many Gaussians by EM (Dempster, Laird & Rubin 1977): scikit-learn's, the best of 3 starts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    scale = train.std(0, dtype=np.float64)
    # Added to the variances of a cluster, so that one of few examples is no spike; far below the smallest variance.
    smallest = max(float(np.linalg.eigvalsh(np.cov(train / scale, rowvar=False).reshape(len(scale), -1))[0]), 0)
    model = GaussianMixture(
        clusters, reg_covar=max(1e-3 * min(smallest, 1e-2), 1e-12), n_init=3, max_iter=500, random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture cut short is still one to compare with
        model.fit(np.asarray(train / scale, np.float64))
    return Mixture(model.weights_, model.means_ * scale, model.covariances_ * np.outer(scale, scale))


def single(mean: np.ndarray, covariance: np.ndarray) -> Mixture:
    return Mixture(np.ones(1), mean[None], covariance[None])


def pca_error(train: np.ndarray, test: np.ndarray, q: int) -> float:
    """Squared error per number of test examples [N, d] restored by PCA of the training part: all linear."""
    if q >= test.shape[1]:
        return 0.0
    whole = gaussian(train)
    axes = np.linalg.eigh(whole.covariances[0])[1][:, -q:]
    centred = np.asarray(test, np.float64) - whole.means[0]
    return float(((centred - centred @ axes @ axes.T) ** 2).mean())


def projection_error(mixture: Mixture, train: np.ndarray, test: np.ndarray, q: int, seed: int) -> float:
    """Squared error per number of test examples [N, d], restored in the best way from their q best linear numbers.

    The best that can be said of x when y = U^T x [q] is known is E(x | y), and what is left is Var(x | y). In a mixture
    both are known: E(x | y) = sum_k p(k | y) (m_k + S_k U (U^T S_k U)^-1 (y - U^T m_k)). U [d, q] is looked for on
    training examples, with L-BFGS from the principal axes and from random directions: the error is that of the best U
    found, in expectation at least the smallest.
    """
    from scipy.optimize import minimize

    if q >= mixture.dimension:
        return 0.0
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    covariance = gaussian(train).covariances[0]
    unit = np.sqrt(covariance.diagonal().mean())  # in this the search knows when to end
    mixture = Mixture(mixture.weights, mixture.means / unit, mixture.covariances / unit**2)
    x = torch.from_numpy(train / unit)
    generator = np.random.Generator(np.random.PCG64(seed))
    starts = [np.linalg.eigh(covariance)[1][:, -q:]]
    starts += [generator.standard_normal((mixture.dimension, q)) for _ in range(STARTS)]

    def error(flat: np.ndarray) -> tuple[float, np.ndarray]:
        axes = torch.from_numpy(flat).view(-1, q).requires_grad_()
        left = unsaid(mixture, torch.linalg.qr(axes).Q, x)
        (slope,) = torch.autograd.grad(left, axes)
        return left.item(), slope.numpy().ravel()

    found = [minimize(error, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 60}) for start in starts]
    axes = torch.linalg.qr(torch.from_numpy(min(found, key=lambda one: float(one.fun)).x).view(-1, q)).Q
    return float(unit**2 * unsaid(mixture, axes, torch.from_numpy(test / unit)))


def unsaid(mixture: Mixture, axes: Tensor, x: Tensor) -> Tensor:
    """Mean square per number of x - E(x | axes^T x), for examples [N, d] and axes [d, q]."""
    weights, means, sigmas = map(torch.from_numpy, (mixture.weights, mixture.means, mixture.covariances))
    spread = sigmas @ axes  # [K, d, q]
    seen = axes.T @ spread  # [K, q, q]
    factors = torch.linalg.cholesky(seen + EPSILON * torch.eye(seen.shape[-1], dtype=x.dtype))
    apart = x @ axes - (means @ axes)[:, None]  # [K, N, q]
    white = torch.linalg.solve_triangular(factors, apart.mT, upper=False)  # [K, q, N]
    logs = weights.log()[:, None] - 0.5 * white.square().sum(1) - factors.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
    expected = means[:, None] + (spread @ torch.cholesky_solve(apart.mT, factors)).mT  # [K, N, d]
    return (x - (logs.softmax(0)[..., None] * expected).sum(0)).square().mean()


def cluster_error(mixture: Mixture, q: int) -> float:
    """Squared error per number if the cluster of an example is known, and its q best linear numbers within that.

    The mean of the d - q smallest eigenvalues' sums. A code of q numbers can come as near to it as one likes, by
    laying the clusters side by side; a curved one may even do better.
    """
    values = np.linalg.eigvalsh(mixture.covariances)[:, : max(mixture.dimension - q, 0)]  # ascending
    return float(mixture.weights @ values.sum(1) / mixture.dimension)
