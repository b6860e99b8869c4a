"""Every knob of a run. No torch here: `coco-caption train --help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, absolute, at_least, keep_path, probabilities
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {
    "loss": "lower",
    "perplexity": "lower",
    "bleu1": "higher",
    "bleu2": "higher",
    "bleu3": "higher",
    "bleu4": "higher",
    "rouge_l": "higher",
    "cider": "higher",
}
MEANINGS = {
    "loss": (
        "cross-entropy: minus the natural logarithm of the probability that was given to the true word, mean over "
        "words of captions (ends counted; none beyond the first text.max-length), in nats"
    ),
    "perplexity": "the exponential of the loss: among how many equally likely words the model hesitates",
    "bleu1": (
        "BLEU (Papineni et al. 2002) of one caption for each image against all captions by people, with single words: "
        "BP p1, where p1 is the part of all words said that a reference has, each at most as often as the reference "
        "that has it most; BP = min(1, exp(1 - r / c)), of c words said and r in the references nearest in length; "
        "from 0 to 1"
    ),
    "bleu2": "BLEU as bleu1, but BP (p1 p2)^(1/2), of one and of two words in a row; from 0 to 1",
    "bleu3": "BLEU as bleu1, but BP (p1 p2 p3)^(1/3), of one to three words in a row; from 0 to 1",
    "bleu4": "BLEU as bleu1, but BP (p1 p2 p3 p4)^(1/4), of one to four words in a row; from 0 to 1",
    "rouge_l": (
        "ROUGE-L (Lin 2004): F = 2.44 PR / (R + 1.44 P), where P and R are the longest common subsequence of a caption "
        "and a reference as a part of the caption and of the reference, each of the reference where it is largest; "
        "mean over images, from 0 to 1"
    ),
    "cider": (
        "CIDEr-D (Vedantam et al. 2015): 10 times the mean, over the references and over n = 1 to 4, of the cosine of "
        "the n-grams' counts times their logarithmic rarity among these very images, those of the caption cut to the "
        "reference's, times exp(-d^2 / 72), of lengths that differ by d words; mean over images, from 0 to 10; of "
        "different parts it does not compare"
    ),
    "meteor": (
        "METEOR 1.5 (Denkowski & Lavie 2014): (1 - 0.6 (c / m)^0.2) PR / (0.85 P + 0.15 R), of m words, stems, "
        "synonyms and paraphrases matched in c runs, and weighted precision P and recall R, of the reference where it "
        "is largest; mean over images, from 0 to 1; needs Java"
    ),
    "spice": (
        "SPICE (Anderson et al. 2016): F1 = 2 PR / (P + R) of precision P and recall R of what a caption says: things, "
        "their properties and relations, as the references' parsed sentences have them; mean over images, from 0 to 1; "
        "needs Java"
    ),
    "images": "how many images were scored",
    "different": "how many different captions were said of them",
    "left_out": "how many images were left out, as their files cannot be read",
}


@dataclass(frozen=True)
class Data:
    """Which images with captions; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: generated scenes of coloured shapes; coco: downloaded when first used; or a folder in COCO's format"""
    year: Literal["2014", "2017"] = "2017"
    """the year of COCO's captions"""
    images: int = 0
    """use only this many training images, drawn by fit.seed, and of coco a tenth as many for the test; 0: all"""
    held_out: float = 0.1
    """the fraction of the training images that is held out for validation, at most 5,000; the sample has its own"""

    def __post_init__(self) -> None:
        keep_path(self, "name", known=("sample", "coco"))
        if self.images < 0:
            raise UserError(f"data.images is a number of images, or 0 for all, not {self.images}")
        if not 0 < self.held_out < 0.5:
            raise UserError(f"data.held-out is a part, above 0 and below 0.5, not {self.held_out}")


@dataclass(frozen=True)
class Encoder:
    """The network that sees: trained elsewhere, frozen, its last layer removed."""

    backbone: str = "auto"
    """a convolutional network of torchvision; auto: resnet152, but squeezenet1_1 for the sample"""
    weights: str = "auto"
    """a file, random, or published weights by name, downloaded when first used; auto: IMAGENET1K_V1, sample: random"""
    cache: str = ""
    """the folder in which features are kept; empty: a folder in the user's cache"""

    def __post_init__(self) -> None:
        if not self.weights.replace("_", "").isupper():  # as published ones are called, though a file may be, too
            keep_path(self, "weights", ".pth", ".pt", known=("auto", "random"))
        if self.cache:
            object.__setattr__(self, "cache", absolute(self.cache))


@dataclass(frozen=True)
class Text:
    """How a caption becomes a row of words."""

    threshold: int = 3
    """words that occur less often than this in the training captions are not in the vocabulary"""
    max_length: int = 20
    """words in a caption: longer captions are cut in training, and none longer is generated"""

    def __post_init__(self) -> None:
        at_least(1, "text", self, "threshold", "max_length")


@dataclass(frozen=True)
class Model:
    """The network that tells: an LSTM over words, trained here."""

    image: Literal["first", "state", "attention"] = "state"
    """how the LSTM gets the image: as first word, as initial state, or as state with attention at every word"""
    embedding: int = 256
    """numbers per word"""
    hidden: int = 256
    """units of each LSTM layer"""
    layers: int = 1
    """stacked LSTM layers"""
    dropout: float = 0.3
    """the fraction of image features, embeddings and layer outputs that is zeroed in training"""
    members: int = 1
    """how many such networks, each trained separately, caption together by the mean of their probabilities"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "embedding", "hidden", "layers", "members")
        probabilities("model", self, "dropout")


@dataclass(frozen=True)
class Search:
    """How a caption is found."""

    beam: int = 5
    """captions that the beam search keeps; 1: greedy search"""
    length: float = 0.7
    """captions are ranked by log probability / words ** this: 0 favours short ones, 1 compares the mean per word"""

    def __post_init__(self) -> None:
        at_least(1, "search", self, "beam")
        at_least(0, "search", self, "length")


@dataclass(frozen=True)
class Config:
    """One run of coco-caption."""

    data: Data = field(default_factory=Data)
    encoder: Encoder = field(default_factory=Encoder)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    search: Search = field(default_factory=Search)
    fit: Fit = field(default_factory=lambda: Fit(epochs=10, batch_size=64, clip=5.0, lr=2e-3, precision="fp32"))

    def network(self) -> tuple[str, str]:
        """Backbone and weights, "auto" replaced by what it stands for."""
        sample = self.data.name == "sample"
        names = ("squeezenet1_1", "random") if sample else ("resnet152", "IMAGENET1K_V1")
        given = (self.encoder.backbone, self.encoder.weights)
        backbone = names[0] if given[0] == "auto" else given[0]
        return backbone, names[1] if given[1] == "auto" else given[1]


@dataclass(frozen=True)
class Telling:
    """What `predict` can be told."""

    beam: int | None = None
    """captions that the beam search keeps; by default as many as the run was trained with"""

    def __post_init__(self) -> None:
        if self.beam is not None and self.beam < 1:
            raise UserError(f"--beam is at least 1 (greedy), not {self.beam}")


PACKAGE = Package(
    "coco-caption",
    Config,
    next_step="--data coco",
    scores=SCORES,
    meanings=MEANINGS,
    number=5,
    options=Telling,
    results=True,
    without=True,
)
