"""Every knob of a run. No torch here: `grad-flow train --help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, probabilities
from etude.errors import UserError
from etude.package import Package

SIDES = {"sample": 8, "mnist": 28, "fashion-mnist": 28}  # pixels
CLASSES = 10
WEIGHTS = 250_000_000  # the most: 1 GB of them, and three times that for AdamW
SCORES: Scores = {"loss": "lower", "accuracy": "higher"}
MEANINGS = {
    "loss": (
        "minus the natural logarithm of the probability that was given to the true class, mean over images, in nats"
    ),
    "accuracy": "the part of the images whose class was said rightly, from 0 to 1",
    "majority": (
        "accuracy of always saying the class that is most frequent in training: what is reached without looking"
    ),
    "signal_factor": (
        "by what the norm of the gradient with respect to a layer's pre-activations is multiplied from layer to "
        "layer, on its way back, before the first step, of 128 training images: the fitted slope of its logarithm"
    ),
    "signal_factor_predicted": (
        "signal_factor, predicted for this depth and these images with nothing fitted, in the limit of wide layers"
    ),
    "weight_factor": "signal_factor, but of the gradient with respect to a layer's weights, as measured",
    "weight_factor_predicted": "weight_factor, as predicted: see signal_factor_predicted",
    "fixed_point": (
        "the factor of an infinitely deep network, predicted by the mean-field theory (Schoenholz et al. 2017); with "
        "batch norm for large batches (Yang et al. 2019): smaller ones have a larger factor"
    ),
    "images": "how many images were scored",
}


@dataclass(frozen=True)
class Model:
    """The dense network: `depth` hidden layers of `width` units, then a linear layer and log-softmax."""

    depth: int = 4
    """hidden layers"""
    width: int = 128
    """units of each"""
    activation: Literal["sigmoid", "tanh", "relu", "leaky-relu", "gelu", "selu", "identity"] = "relu"
    """the function applied to each unit"""
    initialisation: Literal["default", "lecun", "xavier", "he", "orthogonal", "sigma"] = "default"
    """torch's default (uniform); normal weights of variance 1 / inputs (lecun), 2 / (inputs + outputs) (xavier) or 2 /
    inputs (he); orthogonal matrices; or as sigma-w and sigma-b say. Biases begin at 0, but for default and sigma"""
    sigma_w: float = 1.0
    """with initialisation sigma: weights are normal with variance sigma-w^2 / inputs"""
    sigma_b: float = 0.0
    """with initialisation sigma: biases are normal with variance sigma-b^2"""
    norm: Literal["none", "batch", "layer"] = "none"
    """before the activation: none; over the batch (Ioffe & Szegedy 2015); over the units (Ba et al. 2016)"""
    residual: bool = False
    """add what enters a hidden layer to what comes out of it (He et al. 2016); the first has none"""
    dropout: float = 0.0
    """the fraction of each hidden layer's outputs that is zeroed at random in training (Srivastava et al. 2014)"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "depth", "width")
        at_least(0, "model", self, "sigma_w", "sigma_b")
        probabilities("model", self, "dropout")
        if not (math.isfinite(self.sigma_w) and math.isfinite(self.sigma_b)):
            raise UserError("model.sigma-w and model.sigma-b must be finite")
        if self.initialisation != "sigma" and (self.sigma_w, self.sigma_b) != (1.0, 0.0):
            raise UserError(
                f"model.sigma-w and model.sigma-b do nothing with model.initialisation {self.initialisation}: "
                "use --model.initialisation sigma"
            )

    def sizes(self, inputs: int) -> tuple[int, ...]:
        """Units from the input to the classes: depth + 2 numbers."""
        return (inputs, *[self.width] * self.depth, CLASSES)


@dataclass(frozen=True)
class Config:
    """One run of grad-flow."""

    data: Literal["sample", "mnist", "fashion-mnist"] = "sample"
    """sample: the 1,797 digits of 8 x 8 pixels in scikit-learn; the others are downloaded when first used"""
    model: Model = field(default_factory=Model)
    fit: Fit = field(
        default_factory=lambda: Fit(
            epochs=20, lr=1e-3, weight_decay=0.0, schedule="constant", warmup=0.0, precision="fp32"
        )
    )

    def __post_init__(self) -> None:
        depth, width = self.model.depth, self.model.width
        weights = width * (SIDES[self.data] ** 2 + (depth - 1) * width + CLASSES)
        if weights > WEIGHTS:
            raise UserError(
                f"a network of model.depth {depth:,} and model.width {width:,} has {weights:.1e} weights, more than "
                f"{WEIGHTS:,}, which is what a machine can be asked to hold: lower one of them"
            )
        if depth > DEEPEST:
            raise UserError(f"model.depth must be at most {DEEPEST:,}, not {depth:,}")
        if self.model.norm == "batch" and self.fit.batch_size // self.fit.accumulate < 2:
            raise UserError(
                "batch norm needs at least 2 images at a time: raise fit.batch-size or use --model.norm none"
            )


DEEPEST = 1_000  # a module each: beyond it, building them takes longer than one waits
PACKAGE = Package(
    "grad-flow",
    Config,
    next_step="--model.activation sigmoid --model.depth 16",
    scores=SCORES,
    meanings=MEANINGS,
    number=10,
    redrawn=300 / 1197,  # of the sample's digits; of MNIST all seeds share one test part
    small="--fit.epochs 4 --model.depth 8 --model.activation tanh",
)
