"""What the VAE is held against: log-densities of simpler models, fitted by maximum likelihood. All in float64.

Shapes: N examples, d dimensions, q latent numbers.
"""

import warnings

import numpy as np

from gauss_vae.data import Mixture


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
