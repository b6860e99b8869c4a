"""Every knob of a run. No torch here: `cnn-emnist train --help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, probabilities
from etude.errors import UserError
from etude.package import Package

SIDE = 28  # pixels; all four data sets have images of 28 x 28
SCORES: Scores = {"loss": "lower", "accuracy": "higher", "macro_f1": "higher"}
MEANINGS = {
    "loss": (
        "cross-entropy: minus the natural logarithm of the probability that was given to the true letter, mean over "
        "images, in nats"
    ),
    "accuracy": "the part of the images whose letter was said rightly, from 0 to 1",
    "macro_f1": (
        "F1 = 2 PR / (P + R) of precision P and recall R, mean over all letters, each counting as much; from 0 to 1; "
        "0 for a letter that is never met nor said"
    ),
    "images": "how many images were scored",
}


@dataclass(frozen=True)
class Model:
    """The convolutional network: `layers` convolutions, then one linear layer."""

    kernel: int = 3
    """side of every convolution's kernel, in pixels"""
    layers: int = 5
    """how many convolutions"""
    channels: int = 32
    """feature maps of the first stage; each later stage has twice as many as the one before"""
    stages: int = 3
    """each stage ends with pooling that halves the image; layers are spread evenly, extra ones go to later stages"""
    pooling: Literal["max", "average", "stride", "none"] = "max"
    """how a stage shrinks the image: maximum or mean of 2 x 2 pixels, stride 2 in its last convolution, or none"""
    padding: Literal["same", "none"] = "same"
    """same: zeros around the image keep its size; none: each convolution shrinks it by kernel - 1 pixels"""
    batch_norm: bool = True
    """normalise every feature map over the batch (Ioffe & Szegedy 2015)"""
    dropout: float = 0.0
    """the fraction of the last feature map that is zeroed at random in training (Srivastava et al. 2014)"""
    head: Literal["flatten", "average"] = "flatten"
    """what of the last feature map the linear layer sees: every place, or the mean over all places (Lin et al. 2014)"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "kernel", "layers", "channels", "stages")
        probabilities("model", self, "dropout")
        if self.padding == "same" and self.kernel % 2 == 0:
            raise UserError(
                f"model.kernel {self.kernel} is even, padding cannot keep the size: use --model.padding none"
            )
        widths = [width for width, _ in self.plan()]
        weights = sum(a * b * self.kernel**2 for a, b in zip([1, *widths], widths, strict=False)) + self.inputs()
        if weights > 10**8:
            raise UserError(
                f"this network would have more than {weights:.0e} weights: use fewer channels, stages or layers"
            )

    def plan(self) -> list[tuple[int, bool]]:
        """For every convolution: its number of feature maps, and whether a stage ends with it.

        With fewer layers than stages there are as many stages as layers.
        """
        stages = min(self.stages, self.layers)
        plan = []
        for stage in range(stages):
            depth = (self.layers + stage) // stages  # differ by at most one and add up to `layers`
            plan += [(self.channels * 2**stage, index == depth - 1) for index in range(depth)]
        return plan

    def sizes(self) -> list[int]:
        """Side of the image after every convolution (and its pooling). Raises UserError if nothing is left of it."""
        side, sizes = SIDE, []
        for layer, (_, ends) in enumerate(self.plan(), start=1):
            side -= 0 if self.padding == "same" else self.kernel - 1
            if ends and self.pooling != "none":
                side = (side + 1) // 2 if self.pooling == "stride" else side // 2
            if side < 1:
                raise UserError(
                    f"the image shrinks to nothing in convolution {layer} of {self.layers}: "
                    "use fewer model.layers or model.stages, a smaller model.kernel, or --model.padding same"
                )
            sizes.append(side)
        return sizes

    def inputs(self) -> int:
        """How many numbers the linear layer sees. Raises UserError as `sizes` does."""
        return self.plan()[-1][0] * (self.sizes()[-1] ** 2 if self.head == "flatten" else 1)


@dataclass(frozen=True)
class Config:
    """One run of cnn-emnist."""

    data: Literal["sample", "emnist-letters", "fashion-mnist", "mnist"] = "sample"
    """sample: letters rendered from the fonts that matplotlib ships; the others are downloaded when first used"""
    augment: bool = True
    """distort each training image anew every epoch: letters and digits are bent, garments mirrored and shifted"""
    erase: int = 0
    """fashion-mnist with augment: side in pixels of a square blackened in every image (DeVries & Taylor 2017)"""
    views: bool = True
    """fashion-mnist with augment: average the answers for six views, shifted by a pixel and mirrored"""
    label_smoothing: float = 0.1
    """the fraction of the target that is spread over all classes in training (Szegedy et al. 2016)"""
    model: Model = field(default_factory=Model)
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        if self.model.batch_norm and self.fit.batch_size // self.fit.accumulate < 2:
            raise UserError(
                "batch norm needs at least 2 images at a time: raise fit.batch-size or use --model.no-batch-norm"
            )
        if not 0 <= self.erase <= SIDE:
            raise UserError(f"erase is a number of pixels, from 0 to {SIDE}, not {self.erase}")
        if self.erase and not (self.augment and self.data == "fashion-mnist"):
            raise UserError("erase does nothing but to fashion-mnist with augment: leave it out")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label-smoothing is a part, from 0 to below 1, not {self.label_smoothing}")


PACKAGE = Package(
    "cnn-emnist",
    Config,
    next_step="--data emnist-letters",
    scores=SCORES,
    meanings=MEANINGS,
    number=1,
    small="--fit.epochs 2 --model.layers 3 --model.channels 16",
)
