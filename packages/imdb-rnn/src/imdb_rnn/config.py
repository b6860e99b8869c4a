"""Every knob of a run. No torch here: `imdb-rnn train --help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, probabilities
from etude.errors import UserError
from etude.language import knobs
from etude.language.knobs import LANGUAGE, WORDS, Language, Transfer
from etude.package import Package

CLASSIFYING: Scores = {"loss": "lower", "accuracy": "higher", "f1": "higher"}
SCORES: Scores = {**CLASSIFYING, **LANGUAGE}
MEANINGS = {
    **knobs.MEANINGS,
    "loss": (
        "minus the natural logarithm of the probability that was given to the truth, in nats: of a classifier to blame "
        "or praise, mean over reviews (in training with the penalty of the linear model, where there is one); of a "
        "language model to the next token, mean over tokens (ends of reviews counted)"
    ),
    "accuracy": "the part of the reviews that were rightly read as praise or blame, from 0 to 1",
    "f1": (
        "F1 = 2 PR / (P + R) of praise, of precision P (of those read as praise, the part that are) and recall R (of "
        "those that are, the part so read), from 0 to 1"
    ),
    "reviews": "how many reviews were scored",
}


@dataclass(frozen=True)
class Text:
    """How a review becomes a row of ids."""

    plain: bool = True
    """lower-case, with spaces around every word and punctuation mark: "Don't!" and "do n't !" become the same"""
    tokenizer: Literal["words", "bpe", "wordpiece", "unigram", "characters"] = "words"
    """trained on the training part only"""
    vocabulary: int = 20_000
    """the largest size it may have"""
    max_length: int = 1_000
    """tokens; of a longer review, half of them come from its beginning and half from its end (Sun et al. 2019)"""
    window: int = 0
    """train on windows of about this many tokens, each with the label of its review; 0: on whole reviews"""

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
    """stacked recurrent layers, or stacked convolutions"""
    bidirectional: bool = True
    """also read from the end to the beginning"""
    joining: Literal["concatenate", "sum", "mean", "max", "gated"] = "concatenate"
    """how the two directions become one vector"""
    pooling: Literal["last", "mean", "max", "attention"] = "max"
    """how the vectors of all tokens become one; a CNN always takes the maximum"""
    fixed_gates: tuple[Literal["none", "forget", "input", "output", "candidate"], ...] = ("none",)
    """gates of the LSTM that are held at 1 (Greff et al. 2017)"""
    widths: tuple[int, ...] = (3, 4, 5)
    """how many tokens each of the CNN's parallel convolutions sees (Kim 2014)"""
    dropout: float = 0.5
    """the fraction of the embeddings, of layer outputs and of the pooled vector that is zeroed in training"""
    word_dropout: float = 0.0
    """the fraction of the tokens that is replaced by <unk> in training"""
    members: int = 1
    """how many readers, started from different weights, learn separately and answer with the mean of their log-odds"""
    ngrams: int = 0
    """add a linear model on n-grams up to this length, started from naive Bayes (Wang & Manning 2012); 0: none"""
    share: float = 1.0
    """the weight of the readers' log-odds relative to those of the n-grams"""
    start: str = ""
    """the run folder of a language model (train language), which then reads the reviews, with its words"""
    transfer: Transfer = "whole"
    """what is done with start: its network begins at random; it stays as it is; all of it learns on; that, each layer
    2.6 times slower than the one above; that, and one more layer learns from each epoch on (Howard & Ruder 2018)"""
    rate: float = 1.0
    """how fast what is given by start learns, as a part of fit.lr"""
    adversarial: float = 0.0
    """with start: half of the loss is that of the same reviews with their words moved where it rises most, each review
    so far in all, in standard deviations of the words' numbers (Miyato, Dai & Goodfellow 2017, who take 5); 0: none"""

    def __post_init__(self) -> None:
        knobs.check_start(self, OF_START)
        if not 0 <= self.adversarial < math.inf:
            raise UserError(f"model.adversarial is a distance, or 0 for none, not {self.adversarial}")
        if self.adversarial and (not self.start or self.transfer == "gradual"):
            raise UserError("model.adversarial moves the words of a model.start, none of which rests: not gradual")
        at_least(1, "model", self, "embedding", "hidden", "layers", "members")
        probabilities("model", self, "dropout", "word_dropout")
        if not 0 < self.share < math.inf:
            raise UserError(f"model.share is a weight above 0, not {self.share}")
        if self.kind == "cnn" and (not self.widths or min(self.widths) < 1):
            raise UserError("model.widths must be numbers of tokens, each at least 1: for instance 3 4 5")
        knobs.check_kind(self, OF_KINDS)
        if self.share != 1 and not self.ngrams:
            raise UserError("model.share does nothing without model.ngrams: leave it out, or give --model.ngrams 2")
        if self.rate != 1 and not self.start:
            raise UserError("model.rate is that of a language model: give --model.start RUN, or leave it out")
        if self.fixed_gates != ("none",) and self.kind != "lstm":
            raise UserError(f"model.fixed-gates are gates of an LSTM, not of kind {self.kind}: use --model.kind lstm")
        if not 0 <= self.ngrams <= 5:
            raise UserError(f"model.ngrams is the longest n-gram, from 0 to 5, not {self.ngrams}")
        if self.kind == "none" and not self.ngrams:
            raise UserError("model.kind none reads nothing: give --model.ngrams 2, or another kind")
        knobs.bounded("model", self)

    def weights(self) -> int:
        """About how many there are."""
        if self.kind == "cnn":
            read = sum(self.widths) * self.hidden * (self.embedding + (self.layers - 1) * self.hidden)
        else:
            gates, ways = {"lstm": 4, "gru": 3}.get(self.kind, 1), 1 + self.bidirectional
            sizes = self.embedding + self.hidden + (self.layers - 1) * (ways + 1) * self.hidden
            read = ways * gates * self.hidden * sizes
        return self.members * (WORDS * self.embedding + read)


RECURRENT = ("rnn", "lstm", "gru")
OF_KINDS = {
    **dict.fromkeys(("joining", "pooling", "bidirectional"), RECURRENT),
    **dict.fromkeys(
        ("embedding", "hidden", "layers", "members", "dropout", "word_dropout", "share"), (*RECURRENT, "cnn")
    ),
    "widths": ("cnn",),
}


OF_START = tuple("kind embedding hidden layers bidirectional joining pooling fixed_gates widths members".split())


@dataclass(frozen=True)
class Config:
    """One run of imdb-rnn."""

    task: Literal["classify", "language"] = "classify"
    """classify: praise or blame; language: train a language model on the reviews, for model.start"""
    data: Literal["sample", "imdb", "aclimdb"] = "sample"
    """sample: reviews generated by a grammar; imdb: your own folder; aclimdb: downloaded when first used"""
    held_out: float = 0.1
    """the fraction of the training reviews that is held out for validation; the sample comes with its own part"""
    division: int = 0
    """which of the possible divisions into training and validation part; it is the same for every seed"""
    unlabelled: Literal["none", "imdb-full"] = "none"
    """what a language model reads beside the training part; imdb-full: the texts of $ETUDE_DATA/imdb-full, without
    those that stand in the validation or test part"""
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    language: Language = field(default_factory=Language)
    fit: Fit = field(default_factory=lambda: Fit(epochs=10, batch_size=32, clip=1.0, precision="fp32"))

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"held-out is a part of the training reviews, above 0 and below 1, not {self.held_out}")
        if self.division < 0:
            raise UserError(f"division must be at least 0, not {self.division}")
        if self.division and self.data == "sample":  # held_out stands in presets, which may read the sample, too
            raise UserError("division does nothing with sample, whose parts are its own: leave it at 0")
        knobs.check_rates(self.model, self.fit.optimizer)
        if self.task == "language":
            if self.model != Model():
                raise UserError("the knobs of model are for a classifier: a language model has those of language")
            if (self.text.window, self.text.max_length) != (Text.window, Text.max_length):
                raise UserError("a language model reads whole reviews: leave text.window and text.max-length out")
            knobs.bounded("language", self.language)
        elif self.language != Language():
            raise UserError("the knobs of language are for a language model: train language")
        elif self.unlabelled != "none":
            raise UserError("unlabelled reviews are for a language model: train language")


PACKAGE = Package("imdb-rnn", Config, next_step="--data aclimdb", scores=SCORES, meanings=MEANINGS, number=6)
