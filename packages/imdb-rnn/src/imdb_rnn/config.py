"""Every knob of a run. No torch here: `imdb-rnn train --help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, probabilities
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {"loss": "lower", "accuracy": "higher", "f1": "higher"}


@dataclass(frozen=True)
class Text:
    """How a review becomes a row of ids."""

    plain: bool = True
    """lower case, and a space around every word and mark: "Don't!" and "do n't !" become the same"""
    tokenizer: Literal["words", "bpe", "wordpiece", "unigram", "characters"] = "words"
    """trained on the training part only"""
    vocabulary: int = 20_000
    """its size at most"""
    max_length: int = 1_000
    """tokens; of a longer review the first and the last half of them are read (Sun et al. 2019)"""
    window: int = 0
    """train on windows of about so many tokens, each with the label of its review; 0 trains on whole reviews"""

    def __post_init__(self) -> None:
        at_least(1, "text", self, "vocabulary", "max_length")
        if self.window < 0:
            raise UserError(f"text.window is a number of tokens, or 0 for whole reviews, not {self.window}")


@dataclass(frozen=True)
class Model:
    """Embedding, one reader, pooling over time, one linear layer."""

    kind: Literal["cnn", "rnn", "lstm", "gru", "none"] = "lstm"
    """how the words are read: by convolutions, by a recurrent layer, or not at all (with ngrams)"""
    embedding: int = 96
    """numbers per token"""
    hidden: int = 96
    """units of a recurrent layer per direction, or feature maps per width of a CNN"""
    layers: int = 1
    """recurrent layers, or convolutions on one another"""
    bidirectional: bool = True
    """read also from the end to the beginning"""
    joining: Literal["concatenate", "sum", "mean", "max", "gated"] = "concatenate"
    """how the two directions become one vector"""
    pooling: Literal["last", "mean", "max", "attention"] = "max"
    """how the vectors of all tokens become one; a CNN takes the maximum"""
    fixed_gates: tuple[Literal["none", "forget", "input", "output", "candidate"], ...] = ("none",)
    """gates of the LSTM that are held at 1 (Greff et al. 2017)"""
    widths: tuple[int, ...] = (3, 4, 5)
    """how many tokens the CNN's convolutions see, side by side (Kim 2014)"""
    dropout: float = 0.5
    """the part of the embeddings, between layers, and of the pooled vector that is zeroed in training"""
    word_dropout: float = 0.0
    """the part of the tokens that is replaced by the unknown one in training; of no effect with kind none"""
    members: int = 1
    """so many readers, but with kind none, learn alone from other weights and answer with the mean of their log-odds"""
    ngrams: int = 0
    """beside them a linear model on n-grams up to this length, from naive Bayes on (Wang & Manning 2012); 0: none"""
    share: float = 1.0
    """the weight of the readers' log-odds beside those of the n-grams"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "embedding", "hidden", "layers", "members")
        probabilities("model", self, "dropout", "word_dropout")
        if not 0 < self.share < math.inf:
            raise UserError(f"model.share is a weight above 0, not {self.share}")
        if self.kind == "cnn" and (not self.widths or min(self.widths) < 1):
            raise UserError("model.widths must be numbers of tokens, each at least 1: for instance 3 4 5")
        if self.fixed_gates != ("none",) and self.kind != "lstm":
            raise UserError(f"model.fixed-gates are gates of an LSTM, not of kind {self.kind}: use --model.kind lstm")
        if not 0 <= self.ngrams <= 5:
            raise UserError(f"model.ngrams is the longest n-gram, from 0 to 5, not {self.ngrams}")
        if self.kind == "none" and not self.ngrams:
            raise UserError("model.kind none reads nothing: give --model.ngrams 2, or another kind")


@dataclass(frozen=True)
class Config:
    """One run of imdb-rnn."""

    data: Literal["sample", "imdb", "aclimdb"] = "sample"
    """sample: reviews made up here by a grammar; imdb: a folder of your own; aclimdb: downloaded when first used"""
    held_out: float = 0.1
    """the part of the training reviews that is held out for validation; the sample has a part of its own"""
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    fit: Fit = field(default_factory=lambda: Fit(epochs=10, batch_size=32, clip=1.0, precision="fp32"))

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"held-out is a part of the training reviews, above 0 and below 1, not {self.held_out}")


PACKAGE = Package("imdb-rnn", Config, next_step="--data aclimdb", scores=SCORES, number=6)
