"""Every knob of a run. No torch here: `names-rnn train --help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, keep_path, probabilities
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {"loss": "lower", "accuracy": "higher", "macro_f1": "higher", "top2": "higher"}
MEANINGS = {
    "loss": (
        "minus the natural logarithm of the probability that was given to the true language, mean over names, in nats"
    ),
    "accuracy": "the part of the names whose language was said rightly, from 0 to 1",
    "macro_f1": (
        "F1 = 2 PR / (P + R) of precision P and recall R, mean over all languages, each counting as much; from 0 to "
        "1; 0 for a language that is never met nor said"
    ),
    "top2": "the part of the names whose language is one of the two likeliest, from 0 to 1",
    "ceiling": "the accuracy that no function of the name can exceed, as some names belong to several languages",
    "ceiling_part": "ceiling for the names of the test part alone, where a name that is drawn once has one language",
    "majority": "accuracy of always saying the language that is most frequent in the training part of what is scored",
    "floor_accuracy": "majority, once more: what is reached without reading a name",
    "floor_macro_f1": "macro_f1 of always saying that language",
    "names": "how many names were scored",
    "grammar": "accuracy of who knows the grammars that the sample was drawn from, by Bayes' rule",
}


@dataclass(frozen=True)
class Data:
    """Which names, and how they are divided; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: ten invented languages; names: the 18 of PyTorch's tutorial, downloaded when first used; or the path of a
    folder with a file Language.txt for each language, one name a line"""
    protocol: Literal["distinct", "rows"] = "distinct"
    """distinct: a name counts once for each of its languages, and stands in one part; rows: every line of the files
    counts, and a name may stand in training and in the test part"""
    letters: Literal["ascii", "unicode"] = "ascii"
    """ascii: the lab's 57 letters, others are folded to them; unicode: every letter that training shows"""

    def __post_init__(self) -> None:
        keep_path(self, "name", known=("sample", "names"))


@dataclass(frozen=True)
class Model:
    """A recurrent network over the letters of a name, pooled; one linear layer and log-softmax."""

    cell: Literal["own", "rnn", "lstm", "gru"] = "own"
    """own: the cell of the lab, written out and called letter by letter; the others are those of etude.layers"""
    order: Literal["one-hot", "embedding"] = "one-hot"
    """a letter is one of many, or a point that is learnt"""
    embedding: int = 64
    """numbers a letter, with order embedding"""
    hidden: int = 128
    """units per direction"""
    layers: int = 1
    """recurrent layers on one another"""
    reading: Literal["forward", "backward", "both"] = "forward"
    """from the first letter to the last, from the last to the first, or both side by side"""
    pooling: Literal["last", "mean", "max", "attention"] = "last"
    """how the states after all letters become one: that after the last, ..."""
    widths: tuple[int, ...] = ()
    """beside the recurrent layers, convolutions over so many letters each, with the maximum over the name"""
    channels: int = 128
    """feature maps of each width"""
    ngrams: int = 0
    """beside them, weights for the n-grams up to this length of two training names or more, by tf-idf (none: 0)"""
    dropout: float = 0.0
    """the fraction of the letters' numbers, between layers, and of the pooled vector, that is zeroed in training"""

    letter_dropout: float = 0.0
    """the fraction of the letters that are left out in training, each whole (Iyyer et al. 2015), which makes names
    harder to learn by heart"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "embedding", "hidden", "layers", "channels")
        at_least(0, "model", self, "ngrams")
        probabilities("model", self, "dropout", "letter_dropout")
        if self.widths and min(self.widths) < 1:
            raise UserError("model.widths must be numbers of letters, each at least 1: for instance 2 3 4")
        if self.embedding != Model.embedding and self.order == "one-hot":
            raise UserError("model.embedding does nothing with order one-hot: add --model.order embedding")
        if self.channels != Model.channels and not self.widths:
            raise UserError("model.channels are those of convolutions, but there are none: give --model.widths 2 3")
        directions = 2 if self.reading == "both" else 1
        gates = {"lstm": 4, "gru": 3}.get(self.cell, 1)
        read = self.embedding if self.order == "embedding" else 100
        sizes = read + self.hidden + (self.layers - 1) * (directions + 1) * self.hidden
        weights = directions * gates * self.hidden * sizes
        weights += sum(width * read * self.channels for width in self.widths)
        if self.layers > 100 or weights > 10**8:
            raise UserError(
                f"this network would have about {weights:.0e} weights in {self.layers} layers, of at most 1e8 and 100: "
                "use a smaller model.hidden, model.layers or model.channels"
            )


@dataclass(frozen=True)
class Config:
    """One run of names-rnn."""

    data: Data = field(default_factory=Data)
    drawing: Literal["frequent", "root", "uniform"] = "frequent"
    """training names as frequent as they are; or of a language that is drawn first (uniform: all alike; root: as
    frequent as the square root of its number of names)"""
    per_epoch: int = 0
    """training names that an epoch draws; 0: as many as there are"""
    label_smoothing: float = 0.0
    """the fraction of the target that is spread over all languages in training (Szegedy et al. 2016)"""
    logit_adjustment: float = 0.0
    """so much of the logarithm of a language's frequency is added to its logit, in training alone (Menon et al. 2021):
    the more, the sooner are rare languages named; 1: as if all were as frequent"""
    model: Model = field(default_factory=Model)
    fit: Fit = field(default_factory=lambda: Fit(epochs=15, batch_size=64, clip=1.0, precision="fp32"))

    def __post_init__(self) -> None:
        if self.per_epoch < 0:
            raise UserError(f"per-epoch must be at least 0, which is all names, not {self.per_epoch}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label-smoothing is a part, from 0 to below 1, not {self.label_smoothing}")
        if not 0 <= self.logit_adjustment <= 10:
            raise UserError(f"logit-adjustment is a factor, from 0 to 10, not {self.logit_adjustment}")


PACKAGE = Package(
    "names-rnn",
    Config,
    next_step="--data names",
    scores=SCORES,
    meanings=MEANINGS,
    number=9,
    embeds=True,
    redrawn=1 / 8,  # a tenth of the names is the test part, eight tenths the training part
)
