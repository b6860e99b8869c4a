"""Every knob of a run. No torch here: `gauss-vae train --help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, keep_path
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {"loss": "lower", "elbo": "higher", "nll": "lower", "gap": "lower", "reconstruction": "lower"}
MEANINGS = {
    "loss": (
        "in training what is minimised: minus the evidence lower bound, or with several objective.samples minus the "
        "importance-weighted bound (Burda et al. 2016), its KL term weighted by objective.kl; elsewhere the same with "
        "a weight of 1 and 32 latents at most; mean over examples, in nats"
    ),
    "elbo": "the evidence lower bound E log p(x | z) - KL(q(z | x) || p(z)), mean over examples, in nats",
    "nll": "minus the log-likelihood as importance samples bound it (Burda et al. 2016), mean over examples, in nats",
    "gap": (
        "how far that bound lies below the true log-density of the mixture, mean over examples, in nats; 0 is a "
        "perfect model"
    ),
    "reconstruction": (
        "squared difference between an example and the mean of p(x | z) at the mean of q(z | x), mean over its "
        "numbers and over examples, in the squared unit of the data"
    ),
    "kl": "KL(q(z | x) || p(z)), mean over examples, in nats",
    "active": ("how many latent numbers have a mean whose variance over examples is above 0.01 (Burda et al. 2016)"),
    "gap_se": "standard error of gap, over the test examples",
    "entropy": (
        "the entropy of the mixture itself, by the mean over the test examples, in nats: no model has a lower nll but "
        "by chance"
    ),
    "entropy_se": "standard error of entropy, over the test examples",
    "gaussian": "nll of one Gaussian that is fitted to the training part, in nats",
    "ppca": "nll of probabilistic PCA (Tipping & Bishop 1999) with as many latent numbers, in nats",
    "gmm": "nll of a mixture of as many Gaussians as there are, fitted by EM, in nats",
    "iwae": "nll of the model by importance samples (Burda et al. 2016), in nats",
    "iwae_few": "examples of which fewer than ten effective samples decide: there iwae may be off by more, 0 to 1",
    "iwae_error": "how far iwae may be off: three standard errors, and the bias, in nats",
    "quadrature": "nll of the model by an integral over its one or two latent numbers, in nats",
    "quadrature_error": "how far quadrature may be off, in nats",
    "reconstruction_pca": "reconstruction of PCA with as many numbers",
    "reconstruction_linear": (
        "reconstruction from the best linear numbers found, if the way back is the best there is: the conditional mean"
    ),
    "reconstruction_cluster": "reconstruction if the cluster is known beside the numbers, which are linear within it",
    "examples": "how many examples were scored",
    "latent": "how many latent numbers the model has",
}


@dataclass(frozen=True)
class Data:
    """Which mixture of Gaussians, and how much is drawn from it; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: a mixture drawn by fit.seed; or the path of a JSON file with weights, means and covariances"""
    clusters: int = 5
    """Gaussians in the mixture, all with the same weight"""
    dimension: int = 2
    """numbers in an example"""
    intrinsic: int = 0
    """directions in which a cluster extends, different for each cluster; 0: as many as there are dimensions"""
    noise: float = 0.1
    """standard deviation in all other directions; if it is 0, Sigma is not positive definite"""
    separation: float = 6.0
    """distance between two means (root mean square); a cluster's standard deviations lie between 1/2 and 2"""
    train: int = 50_000
    """examples drawn for training"""
    valid: int = 5_000
    """examples drawn for validation"""
    test: int = 10_000
    """examples drawn for the test"""

    def __post_init__(self) -> None:
        keep_path(self, "name", ".json", known=("sample",))
        at_least(1, "data", self, "clusters", "dimension")
        at_least(2, "data", self, "train", "valid", "test")
        at_least(0, "data", self, "intrinsic", "noise", "separation")
        if not (math.isfinite(self.noise) and math.isfinite(self.separation)):
            raise UserError("data.noise and data.separation must be finite")
        if max(self.noise, self.separation) > 1e15:
            raise UserError("data.noise and data.separation must be 1e15 at most")
        if self.name == "sample" and self.noise != Data.noise and self.intrinsic in (0, self.dimension):
            raise UserError(
                f"data.noise does nothing with data.intrinsic {self.intrinsic}, where a cluster extends in every "
                "direction: leave it out, or lower that"
            )
        if self.intrinsic > self.dimension:
            raise UserError(
                f"data.intrinsic {self.intrinsic} is more than data.dimension {self.dimension}: lower it, or 0 for all"
            )
        if 0 < self.intrinsic < self.dimension and self.noise == 0:
            raise UserError(
                f"Sigma is not positive definite: with data.noise 0 its rank is {self.intrinsic} of {self.dimension}; "
                "give data.noise above 0, or data.intrinsic 0"
            )
        if self.clusters > self.train:
            raise UserError(
                f"data.clusters {self.clusters} is more than data.train {self.train} has examples: draw more"
            )


@dataclass(frozen=True)
class Model:
    """Encoder and decoder, each a multilayer perceptron that gives the mean and the variance of a normal vector."""

    latent: int | None = None
    """numbers in the latent; none: as many as in an example"""
    depth: int = 2
    """hidden layers of encoder and decoder; 0: both are linear"""
    hidden: int = 32
    """units of each hidden layer"""
    activation: Literal["silu", "gelu", "relu", "tanh"] = "silu"
    """the function applied after each hidden layer"""
    variance: Literal["dimension", "shared", "full"] = "full"
    """the decoder's covariance: a variance for each dimension, one variance for all, or a full matrix"""
    varying: bool = True
    """the variance is a function of the latent; off: it is learnt, but the same everywhere"""

    def __post_init__(self) -> None:
        if self.latent is not None:
            at_least(1, "model", self, "latent")
        at_least(0, "model", self, "depth")
        at_least(1, "model", self, "hidden")


@dataclass(frozen=True)
class Objective:
    """What is maximised."""

    samples: int = 8
    """latents drawn for each example: 1 gives the ELBO, more the importance-weighted bound (IWAE)"""
    kl: float = 1.0
    """weight of the KL term, and of the latent's terms in an importance weight (beta-VAE)"""
    warmup: int = 0
    """epochs over which that weight rises linearly from 0"""

    def __post_init__(self) -> None:
        at_least(1, "objective", self, "samples")
        at_least(0, "objective", self, "kl", "warmup")
        if not math.isfinite(self.kl):
            raise UserError(f"objective.kl must be finite, not {self.kl}")


@dataclass(frozen=True)
class Config:
    """One run of gauss-vae."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    importance: int = 5_000
    """samples of the importance-weighted likelihood in `evaluate` and `predict`"""
    fit: Fit = field(
        default_factory=lambda: Fit(
            epochs=10,
            batch_size=64,
            lr=1e-2,
            weight_decay=0.0,
            schedule="cosine",
            warmup=0.05,
            clip=1.0,
            precision="fp32",
        )
    )

    def __post_init__(self) -> None:
        if self.importance < 2:
            raise UserError(f"importance must be at least 2, not {self.importance}")


PACKAGE = Package("gauss-vae", Config, next_step="--data.dimension 8", scores=SCORES, meanings=MEANINGS, number=4)
