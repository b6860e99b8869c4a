"""Every knob of a run. No torch here: `cifar-vae train --help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from etude.config import Fit, Scores, absolute, at_least, keep_path, probabilities
from etude.errors import UserError
from etude.package import Package

SIDE = 32  # pixels; pictures of any other size are brought to 32 x 32
VALUES = 3 * SIDE * SIDE  # numbers in a picture
PUBLISHED = ("cifar10", "cifar100")
MAPS = {16: 4, 64: 8, 256: 16}  # codes of vq and fsq -> the side of their map
CODES = 2**20  # the most in a codebook or a grid
WEIGHTS = 250_000_000  # the most: 1 GB of them, and three times that for AdamW
DEEPEST = 1_000  # a module each: beyond it, building them takes longer than one waits
ONLY = {  # knobs that one kind of model has, and which
    "model": dict.fromkeys(("codes", "code", "decay", "restart"), "vq") | {"levels": "fsq"},
    "objective": {"kl": "vae", "warmup": "vae", "commitment": "vq"},
}
RESTORING: Scores = {"loss": "lower", "mse": "lower", "psnr": "higher", "mse_image": "lower", "logcosh_image": "lower"}
CLASSIFYING: Scores = {"loss": "lower", "accuracy": "higher", "macro_f1": "higher"}
SCORES: Scores = {**RESTORING, **CLASSIFYING}
MEANINGS = {
    "loss": (
        "what is minimised: of an autoencoder the objective, summed over a picture, mean over pictures; of a "
        "classifier cross-entropy, mean over pictures, in nats"
    ),
    "mse": (
        "squared difference between a picture and its restoration, mean over the 3,072 values and over pictures, "
        "values in [0, 1]"
    ),
    "psnr": "peak signal-to-noise ratio of that mean error, -10 log10(mse), in dB",
    "mse_image": (
        "squared difference summed over the 3,072 values of a picture in [-1, 1], mean over pictures: 12,288 times mse"
    ),
    "logcosh_image": (
        "log cosh of the difference summed over the 3,072 values of a picture in [-1, 1], mean over pictures; at most "
        "half of mse_image"
    ),
    "bits": (
        "bits for a picture: 32 for each number of ae, of vae the KL term, of vq and fsq codes x log2 of how many "
        "there are"
    ),
    "kl_bits": "KL(q(z | x) || p(z)), mean over pictures, in bits",
    "mse_sample": "mse of a sample of q(z | x) in place of its mean",
    "perplexity": "two to the power of the entropy of the codes in bits: how many equally frequent codes would have it",
    "used": "how many codes of the codebook some picture takes",
    "accuracy": "the part of the pictures whose class was said rightly, from 0 to 1",
    "macro_f1": "F1 = 2 PR / (P + R) of precision P and recall R, mean over all classes; from 0 to 1",
    "mse_se": "standard error of mse, over the test pictures",
    "bits_entropy": (
        "bits for a picture if its codes are entropy-coded: how many, times the entropy of their frequencies"
    ),
    "gaussian": (
        "the least mse of a Gaussian source with the covariance of the training pictures at as many bits (Cover & "
        "Thomas 2006, 10.3.3): an upper bound of the least of pictures"
    ),
    "nearest": "mse of the nearest training picture in place of the restoration",
    "apart": "mse between two different pictures, mean",
    "apart_median": "mse between two different pictures, median",
    "pictures": "how many pictures were scored",
}


def at_most(most: int, group: str, config: Any, *names: str) -> None:
    """Raises UserError unless these fields of the group are at most so much."""
    for name in names:
        if (value := getattr(config, name)) > most:
            raise UserError(f"{group}.{name} must be at most {most:,}, not {value:,}")


@dataclass(frozen=True)
class Data:
    """Which pictures; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: scenes drawn here; cifar10, cifar100: downloaded when first used; start: those that model.start was
    trained on; or a folder, of one folder of pictures for each class or with cifar-10-batches-py in it"""
    images: int = 0
    """use only this many training images, the same for every seed; 0: all"""
    held_out: float = 0.1
    """the fraction of the training images that validates, at most 5,000 and the same for every seed"""
    augment: Literal["none", "mirror", "shift"] = "mirror"
    """of every training image, anew in each epoch: nothing; its mirror image or not; that, moved by up to 4 pixels.
    train classify: a few such views, of which each epoch takes one"""

    def __post_init__(self) -> None:
        keep_path(self, "name", known=("sample", "start", *PUBLISHED))
        at_least(0, "data", self, "images")
        if not 0 < self.held_out < 0.5:
            raise UserError(f"data.held-out is a part, above 0 and below 0.5, not {self.held_out}")
        if self.name == "sample" and self.held_out != type(self).held_out:
            raise UserError("data.held-out does nothing with the sample, whose validation part is drawn: leave it out")


@dataclass(frozen=True)
class Model:
    """The autoencoder; of a classifier only `start` counts, and the rest is that of the run named there."""

    kind: Literal["ae", "vae", "vq", "fsq"] = "ae"
    """numbers: ae, as they are; vae, a normal distribution of each. Codes: vq, of a learnt codebook; fsq, of a grid"""
    latent: int = 64
    """numbers in the latent of ae and vae; of vq and fsq the codes, one for each place of a map: 16, 64 or 256"""
    width: int = 32
    """feature maps at 16 x 16 places; twice as many at half the side. ae and vae begin at 8 x 8, with patches"""
    depth: int = 1
    """residual blocks at each size, in the encoder and in the decoder"""
    linear: bool | None = None
    """a linear path beside each network, which begins as principal components, so that training starts where PCA ends.
    null: for vq and fsq only, as an ae that starts there does not leave"""
    codes: int = 512
    """vq: codes in the codebook"""
    code: int = 8
    """vq: numbers in a code"""
    levels: tuple[int, ...] = (8, 8, 8)
    """fsq: values of each number of a code; their product is the number of codes"""
    decay: float = 0.99
    """vq: what is kept of a code's statistics at each step (van den Oord et al. 2017, appendix A.1)"""
    restart: bool = True
    """vq: a code that is hardly used is drawn anew beside one that is used much"""
    start: str = ""
    """train classify: the run folder of the autoencoder whose latents are classified; it stays as it is"""

    def __post_init__(self) -> None:
        if self.start:
            object.__setattr__(self, "start", absolute(self.start))
        at_least(1, "model", self, "latent", "width", "code")
        at_least(0, "model", self, "depth")
        at_least(2, "model", self, "codes")
        probabilities("model", self, "decay")
        if self.kind in ("vq", "fsq") and self.latent not in MAPS:
            raise UserError(
                f"model.latent {self.latent}: the codes of {self.kind} lie on a square map: 16, 64 or 256 of them"
            )
        if self.kind in ("ae", "vae") and self.latent > VALUES:
            raise UserError(f"model.latent {self.latent} is more than the {VALUES:,} numbers of a picture: lower it")
        if not self.levels or min(self.levels) < 2 or math.prod(self.levels) > CODES:
            raise UserError(f"model.levels {self.levels}: each at least 2, and no more than 2^20 codes in all")
        at_most(CODES, "model", self, "codes")
        at_most(DEEPEST, "model", self, "depth")
        if self.weights > WEIGHTS:
            raise UserError(
                f"this model has {self.weights:.1e} weights, more than {WEIGHTS:,}, which is what a machine can be "
                "asked to hold: lower model.width, model.depth, model.latent or model.code"
            )

    @property
    def weights(self) -> int:
        """How many weights there are, without biases: of convolutions, bottleneck, linear path and codebook."""
        whole = self.kind in ("ae", "vae")
        width, side, last = (2 * self.width, 8, 4) if whole else (self.width, SIDE // 2, MAPS[self.latent])
        found = width * (864 if whole else 156) + 36 * self.depth * width**2
        while side > last:
            found += 16 * width**2
            width, side = 2 * width, side // 2
            found += 36 * self.depth * width**2
        size = self.latent if whole else self.code if self.kind == "vq" else len(self.levels)
        found += size * width * (side**2 * (3 if self.kind == "vae" else 2) if whole else 10)
        if not whole if self.linear is None else self.linear:
            found += 2 * size * (VALUES if whole else 3 * (SIDE // side) ** 2)
        return found + (self.codes * (1 + size) if self.kind == "vq" else 0)

    @property
    def book(self) -> int:
        """How many different codes there are, of vq and fsq."""
        return self.codes if self.kind == "vq" else math.prod(self.levels)


@dataclass(frozen=True)
class Objective:
    """What an autoencoder minimises."""

    loss: Literal["mse", "logcosh", "gaussian"] = "mse"
    """per picture in [-1, 1]: the sum of squares; of log cosh; the negative log-likelihood of a normal distribution
    whose variance, one number for each picture, is the best there is (Rybkin, Daniilidis & Levine 2021)"""
    kl: float = 1.0
    """vae: weight of the KL term, in nats"""
    warmup: int = 0
    """vae: epochs over which that weight rises linearly: 0 in the first, whole in the first after them"""
    commitment: float = 0.25
    """vq: weight of the square distance between what the encoder says and its code"""
    noise: float = 0.0
    """denoising: standard deviation of normal noise on the encoder's input in training, of values in [0, 1]"""
    mask: float = 0.0
    """denoising: the fraction of 4 x 4 squares of the encoder's input that are grey in training"""

    def __post_init__(self) -> None:
        at_least(0, "objective", self, "kl", "warmup", "commitment", "noise")
        probabilities("objective", self, "mask")
        if self.warmup and not self.kl:
            raise UserError("objective.warmup does nothing with objective.kl 0: leave it out")
        for name in ("kl", "commitment", "noise"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"objective.{name} must be finite, not {getattr(self, name)}")


@dataclass(frozen=True)
class Probe:
    """train classify: what tells the class from a frozen latent."""

    hidden: int = 512
    """units of each hidden layer"""
    depth: int = 2
    """hidden layers; 0: the probe is linear"""
    dropout: float = 0.3
    """the fraction of a hidden layer that is zeroed at random in training"""
    features: Literal["latent", "sample", "before"] = "latent"
    """what it sees: the latent (of vae its mean); vae: one drawn anew in each epoch; what the encoder has before the
    bottleneck, which is no longer a few numbers"""

    def __post_init__(self) -> None:
        at_least(1, "probe", self, "hidden")
        at_least(0, "probe", self, "depth")
        at_most(DEEPEST, "probe", self, "depth")
        for name in ("hidden", "dropout"):
            if not self.depth and getattr(self, name) != getattr(type(self), name):
                raise UserError(f"probe.{name} does nothing with probe.depth 0, without hidden layers: leave it out")
        if self.hidden * (1 + max(self.depth - 1, 0) * self.hidden) > WEIGHTS:
            raise UserError(
                f"a probe of probe.depth {self.depth:,} and probe.hidden {self.hidden:,} has more than {WEIGHTS:,} "
                "weights, which is what a machine can be asked to hold: lower one of them"
            )
        probabilities("probe", self, "dropout")


@dataclass(frozen=True)
class Config:
    """One run of cifar-vae."""

    task: Literal["restore", "classify"] = "restore"
    """restore: train an autoencoder; classify: train a classifier on the latents of one, see model.start"""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    probe: Probe = field(default_factory=Probe)
    fit: Fit = field(
        default_factory=lambda: Fit(epochs=15, batch_size=64, lr=2e-3, weight_decay=1e-3, clip=100.0, warmup=0.1)
    )

    def __post_init__(self) -> None:
        classify = self.task == "classify"
        if classify and not self.model.start:
            raise UserError("a classifier needs the run folder of an autoencoder: train classify --model.start RUN")
        if self.model.start and not classify:
            raise UserError("model.start is for a classifier: train classify --model.start RUN")
        if classify and self.model != Model(start=self.model.start):
            raise UserError("the model of a classifier is that of model.start: leave the other knobs of model out")
        if classify and self.objective != Objective():
            raise UserError("a classifier minimises cross-entropy: leave the knobs of objective out")
        if self.data.name == "start" and not classify:
            raise UserError("data start is for a classifier: train classify --model.start RUN")
        if not classify and self.probe != Probe():
            raise UserError("the knobs of probe are for a classifier: train classify --model.start RUN")
        if self.model.kind == "vq" and self.fit.batch_size // self.fit.accumulate < 2:
            raise UserError("a codebook learns from at least 2 pictures at a time: raise fit.batch-size")
        kind = self.model.kind
        for group, given, default in (("model", self.model, Model()), ("objective", self.objective, Objective())):
            for name, only in ONLY[group].items():
                if kind != only and getattr(given, name) != getattr(default, name):
                    raise UserError(
                        f"{group}.{name} does nothing with model.kind {kind}: keep its default, or use "
                        f"--model.kind {only}"
                    )


@dataclass(frozen=True)
class Writing:
    """What `predict` can be told."""

    folder: str = "restored"
    """where an autoencoder writes the restored pictures, as PNG files"""


PACKAGE = Package(
    "cifar-vae",
    Config,
    next_step="--data cifar10",
    scores=SCORES,
    meanings=MEANINGS,
    number=7,
    small="--fit.epochs 3",
    options=Writing,
    embeds=True,
    illustrates=True,
)
