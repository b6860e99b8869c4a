"""gauss-vae as a Task: how far is a variational autoencoder from the density that its data have?"""

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from etude import draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train.run import Run, now_and_then
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from gauss_vae import data, likelihood, show, yardsticks
from gauss_vae.config import SCORES, Config
from gauss_vae.data import PARTS, Mixture
from gauss_vae.model import VAE, Weighed, bound

SAMPLES = 32  # latents drawn for each example in validation
# A latent unit whose posterior mean has a larger variance is active (Burda et al. 2016, section 5.2).
ACTIVE = 0.01
AT_ONCE = 2_000_000  # random numbers: those of an epoch are drawn together if they are no more, which is much cheaper
SEARCHED = 2_000  # training examples on which the best projection is looked for
NOISE, SCORING = -5, -6  # streams of random numbers beside those of `gauss_vae.data`


class Batch(NamedTuple):
    x: Tensor
    """float32 [B, d]"""
    noise: Tensor
    """standard normal, to draw latents with, float32 [B, S, L]"""
    truth: Tensor
    """log p(x) of the mixture, float32 [B]"""
    kl: Tensor
    """weight of the KL term, float32 [B], all the same"""


class Part(NamedTuple):
    """One part of the data."""

    x: np.ndarray  # float32 [N, d]
    clusters: np.ndarray  # int64 [N]
    truth: np.ndarray  # log p(x), float64 [N]


class Predictor:
    """What predicts: the VAE, for examples of `dimension` numbers."""

    def __init__(self, config: Config, dimension: int) -> None:
        self.config, self.model = config, VAE(dimension, config.model)


class Compared(Predictor):
    """The Task: a VAE, and what is drawn from a mixture whose density is known."""

    metric, better = "gap", SCORES

    def __init__(self, config: Config, mixture: Mixture) -> None:
        super().__init__(config, dimension := mixture.dimension)
        self.mixture = mixture
        widths = [config.model.hidden] * config.model.depth
        self.summary = " > ".join(map(str, [dimension, *widths, self.model.latent, *widths, dimension]))
        self.drawn: dict[Split, tuple[int, np.ndarray]] = {}  # an epoch of each part and its noise
        self.parts: dict[Split, Part] = {}
        for split, n in (("train", config.data.train), ("valid", config.data.valid), ("test", config.data.test)):
            x, clusters = mixture.draw(n, config.fit.seed, PARTS[split])
            self.parts[split] = Part(x, clusters, mixture.log_density(x))  # type: ignore[index]
        sizes = " / ".join(f"{len(part.x):,}" for part in self.parts.values())
        of = f" extending in {config.data.intrinsic}" if config.data.intrinsic and config.data.name == "sample" else ""
        self.data = (
            f"{config.data.name}, {len(mixture.weights)} clusters in {dimension} dimensions{of}, "
            f"{sizes} examples to train, validate and test"
        )
        self.model.standardise(torch.from_numpy(self.parts["train"].x))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of what decides the draws: their last bits are another machine's own, as it multiplies in another order."""
        what, seed = data.origin(self.config.data, self.mixture), self.config.fit.seed
        drawn = {split: np.array([seed, PARTS[split], len(part.x)]) for split, part in self.parts.items()}
        return {split: fingerprint(*what, of, self.parts[split].clusters) for split, of in drawn.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        n = len(self.parts[split].x)
        order = draw.shuffled(n, self.config.fit.seed, epoch) if split == "train" else np.arange(n)
        return even_batches(order, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        part, objective = self.parts[split], self.config.objective
        kl = objective.kl * min(1.0, epoch / objective.warmup if objective.warmup else 1.0) if split == "train" else 1.0
        truth = torch.from_numpy(part.truth[ids]).float()
        return Batch(torch.from_numpy(part.x[ids]), self.noise(split, ids, epoch), truth, torch.full((len(ids),), kl))

    def noise(self, split: Split, ids: np.ndarray, epoch: int) -> Tensor:
        """Standard normal, float32 [B, S, L]: a row is a function of (seed, epoch, id)."""
        samples, n = self.config.objective.samples if split == "train" else SAMPLES, len(self.parts[split].x)
        count, stream = samples * self.model.latent, (self.config.fit.seed, NOISE, PARTS[split], epoch)
        if n * count > AT_ONCE:
            return normal(ids, count, *stream).view(-1, samples, self.model.latent)
        if split not in self.drawn or self.drawn[split][0] != epoch:
            noise = normal(np.arange(n), count, *stream).view(-1, samples, self.model.latent)
            self.drawn[split] = epoch, noise.numpy()
        return torch.from_numpy(self.drawn[split][1][ids])

    def step(self, batch: Batch) -> Sums:
        """Training: minus the bound. Else also the gap by SAMPLES importance samples, and what the latent says."""
        n, training = len(batch.x), self.model.training
        weighed: Weighed = self.model(batch.x, batch.noise)
        loss = -bound(weighed.first(self.config.objective.samples), batch.kl).sum()
        sums: Sums = {"loss": (loss, n), "kl": (weighed.kl.sum(), n)}
        if training or weighed.reconstruction is None:
            return sums
        elbo = weighed.log_likelihood.mean(1) - weighed.kl
        iwae = bound(weighed, torch.ones_like(batch.kl)) if batch.noise.shape[1] > 1 else elbo
        sums["elbo"] = (elbo.sum(), n)
        sums["nll"] = (-iwae.sum(), n)
        sums["gap"] = ((batch.truth - iwae).double().sum(), n)
        sums["reconstruction"] = ((batch.x - weighed.reconstruction).square().mean(1).sum(), n)
        sums["latent"] = (torch.stack([weighed.latent, weighed.latent**2]).double().sum(1), n)
        return sums

    def scores(self, totals: Totals) -> dict[str, float]:
        found = totals.means()
        if "latent" in totals.sums:
            mean, square = totals.mean("latent")
            found["active"] = float((square - mean**2 > ACTIVE).sum())
        return found

    def assets(self) -> dict[str, Any]:
        return {"dimension": self.model.dimension}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation examples each time: before training, after epochs 1, 2, 4, 8, ..., and at the end."""
        if not now_and_then(when):
            return
        x, clusters = (values[: show.POINTS] for values in (self.parts["valid"].x, self.parts["valid"].clusters))
        picture = show.board(self.model, self.mixture, x, clusters, self.config.fit.seed)
        run.picture("board", picture, step, when)
        if when == "after":
            latents = self.model.encode(torch.from_numpy(x).to(self.model.shift.device)).mean.cpu()
            run.embedding("latents", latents, {"cluster": list(map(str, clusters))}, step)


def normal(ids: np.ndarray, count: int, *stream: int) -> Tensor:
    """Standard normal numbers, float32 [B, count]: a row is a function of its id and `stream` alone."""
    # The middle of its cell, neither 0 nor 1: in float32 the last would be rounded to 1, whose quantile is infinite.
    uniform = draw.uniform(ids, count, *stream).double() + 2**-25
    return torch.special.ndtri(uniform).float()


def make(config: Config, where: torch.device) -> Task:
    return Compared(config, data.load(config.data, config.fit.seed))


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    dimension = assets["dimension"]
    if where is None:
        return Predictor(config, dimension)
    mixture = data.load(config.data, config.fit.seed)
    if mixture.dimension != dimension:
        raise UserError(
            f"this run has {dimension} dimensions, but {config.data.name} {mixture.dimension}: give another --data"
        )
    return Compared(config, mixture)


def describe(task: Compared, totals: Totals) -> tuple[str, dict[str, Any]]:
    """All in nats per example, on the same draws of the test part; what is fitted is fitted to the training part."""
    train, test = task.parts["train"].x, task.parts["test"]
    seed, q, k = task.config.fit.seed, task.model.latent, len(task.mixture.weights)
    n, samples = len(test.x), task.config.importance
    found = task.scores(totals)
    x = torch.from_numpy(test.x).to(task.model.shift.device)
    iwae = likelihood.importance(task.model, x, samples, seed, SCORING)
    try:
        densities = {
            "gaussian": yardsticks.gaussian(train).log_density(test.x),
            "ppca": yardsticks.ppca(train, q).log_density(test.x),
            "gmm": yardsticks.gmm(train, k, seed).log_density(test.x),
        }
    except (np.linalg.LinAlgError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no density can be fitted to {len(train):,} training examples ({reason}): draw more") from None
    densities["iwae"] = iwae.log_density.numpy()
    result: dict[str, Any] = {"entropy": -test.truth.mean(), "entropy_se": se(test.truth)}
    # Three standard errors of the mean, and the bias: what was never drawn weighs about as much as the largest weight
    # that was (as of Good 1953). The delta method's bias, half the square of the error, is too small for heavy tails.
    result["iwae_error"] = float(3 * iwae.error.square().sum().sqrt() / n + iwae.largest.mean())
    names = {
        "gaussian": "single Gaussian",
        "ppca": f"probabilistic PCA, {q} latent numbers",
        "gmm": f"mixture of {k} Gaussians by EM",
        "iwae": f"VAE, {samples:,} importance samples",
    }
    if q <= 2:
        exact = likelihood.quadrature(task.model, x)
        densities["quadrature"], names["quadrature"] = exact.log_density.numpy(), "VAE, quadrature"
        result["quadrature_error"] = float(exact.error.mean())
    lines = [f"{'nats per example, ' + f'{n:,} examples':<40}{'NLL':>9}{'gap':>10}      se"]

    def line(name: str, nll: float, gap: float, error: float | None, note: str = "") -> None:
        shown = "" if error is None else f"{error:>8.4f}"
        lines.append(f"{name:<40}{nll:>9.4f}{gap:>10.4f}{shown}{note}")

    entropy = float(result["entropy"])
    line("the data's own density (entropy)", entropy, 0.0, None, f"   entropy ± {result['entropy_se']:.4f}")
    for name, density in densities.items():
        if name == "iwae":
            line("VAE, ELBO", -found["elbo"], -found["elbo"] - entropy, None, "   a bound of the NLL")
        result[name] = -density.mean()
        errors = {"iwae": "iwae_error", "quadrature": "quadrature_error"}
        note = f"   NLL ± {result[errors[name]]:.4f}" if name in errors else ""
        line(names[name], result[name], result[name] - entropy, se(test.truth - density), note)
    chosen = "quadrature" if "quadrature" in densities else "iwae"
    difference = test.truth - densities[chosen]
    result |= {"nll": result[chosen], "gap": difference.mean(), "gap_se": se(difference)}
    restored = {
        "reconstruction_pca": yardsticks.pca_error(train, test.x, q),
        "reconstruction_linear": yardsticks.projection_error(task.mixture, train[:SEARCHED], test.x, q, seed),
        "reconstruction_cluster": yardsticks.cluster_error(task.mixture, q),
    }
    result["iwae_few"] = few = float((iwae.effective < likelihood.FEWEST).double().mean())
    if few > 0.01:
        told = "rest on fewer than ten effective samples: there the NLL may be too high by more than is said"
        lines.append(f"note: {few:.0%} of the examples {told}{', and so the gap' * (chosen == 'iwae')}")
    result = found | restored | {name: float(value) for name, value in result.items()} | {"examples": n, "latent": q}
    lines.append(f"gap {result['gap']:.4f} ± {result['gap_se']:.4f}  active units {found['active']:.0f} of {q}")
    lines += ["", f"squared error per number, from {q} of {test.x.shape[1]}"]
    for name, squared in (
        ("VAE, mean of p(x | z) at the mean of q", found["reconstruction"]),
        ("PCA: linear there and back", restored["reconstruction_pca"]),
        ("linear there, the best way back", restored["reconstruction_linear"]),
        ("the cluster, and linear within it", restored["reconstruction_cluster"]),
    ):
        lines.append(f"{name:<40}{squared:>9.4f}")
    return "\n".join(lines), result


def se(values: np.ndarray) -> float:
    """Standard error of the mean of values [N]."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def words_of(density: float) -> str:
    """A log-density with four decimals, or as many digits as one can be sure of where it is large."""
    if not math.isfinite(density):
        return "too far away to say"  # squares of such numbers are more than a float32 holds
    return f"{density:.4f}" if abs(density) < 100_000 else f"{density:.6g}"


def sampled_words(density: float, error: float, effective: float) -> str:
    """A log-likelihood that was sampled, with its standard error, or "at least", if so few samples decide: no error."""
    if not math.isfinite(density):
        return words_of(density)
    return f"{words_of(density)} ± {error:.2g}" if effective >= likelihood.FEWEST else f"at least {words_of(density)}"


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """For each row of the CSV files ("-": standard input) its log-likelihood, then each number restored: mean ± sd.

    A log-likelihood that was sampled, as with more than two latent numbers, has its standard error behind it, or
    "at least" before it, if so few samples decide that it has none.
    """
    rows = [data.read_rows(name, task.model.dimension) for name in inputs]
    x = torch.from_numpy(np.concatenate(rows)).to(task.model.shift.device)
    if not len(x):
        return []
    found = likelihood.best(task.model, x, task.config.importance, task.config.fit.seed, SCORING)
    said = task.model.decode(task.model.encode(x).mean)
    means, sds = said.mean.tolist(), said.factor().double().square().sum(-1).sqrt().tolist()
    if isinstance(found, likelihood.Sampled):
        told = zip(found.log_density.tolist(), found.error.tolist(), found.effective.tolist(), strict=True)
        densities = [sampled_words(*one) for one in told]
    else:
        densities = [words_of(value) for value in found.log_density.tolist()]
    return [
        "\t".join([density, *(f"{m:.4g} ± {s:.2g}" for m, s in zip(mean, sd, strict=True))])
        for density, mean, sd in zip(densities, means, sds, strict=True)
    ]
