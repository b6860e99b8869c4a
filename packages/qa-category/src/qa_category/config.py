"""Every knob of a run. No torch here: `qa-category train --help` answers at once."""

from dataclasses import dataclass, field
from itertools import pairwise, repeat
from typing import Literal

from etude.config import Fit, Scores, at_least, keep_path, probabilities
from etude.errors import UserError
from etude.language import knobs
from etude.language.knobs import LANGUAGE, WORDS, Language, Transfer
from etude.package import Package

CLASSIFYING: Scores = {"loss": "lower", "accuracy": "higher", "macro_f1": "higher"}
SCORES: Scores = {**CLASSIFYING, **LANGUAGE}
MEANINGS = {
    **knobs.MEANINGS,
    "loss": (
        "minus the natural logarithm of the probability that was given to the truth, in nats: of a classifier to the "
        "category, mean over questions; of a language model to the next token, mean over tokens (ends of questions "
        "counted)"
    ),
    "accuracy": "the part of the questions whose category was said rightly, from 0 to 1",
    "macro_f1": (
        "F1 = 2 PR / (P + R) of precision P and recall R, mean over the categories that occur, in truth or as an "
        "answer; from 0 to 1"
    ),
    "majority": "accuracy of always saying the category that is most frequent in training",
    "unknown_words": (
        "the part of the words (or pieces) without a vector, or, where no vectors are given, that training lacks, "
        "from 0 to 1"
    ),
    "questions": "how many questions were scored",
}
DATA = ("sample", "trec", "amazon")


@dataclass(frozen=True)
class Data:
    """Which questions; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: shop questions made by a grammar; trec: Li & Roth's questions; amazon: McAuley's; or the path of a CSV
    file with the columns question,category, or of a folder with McAuley's files qa_CATEGORY.json.gz"""
    fine: bool = False
    """of trec the 50 fine classes, not the 6 coarse ones"""
    labels: float = 1.0
    """the part of the training questions whose category is used; the others are left out"""
    division: int = 0
    """which of the possible divisions into parts; it is the same for every seed"""

    def __post_init__(self) -> None:
        keep_path(self, "name", ".csv", known=DATA)
        at_least(0, "data", self, "division")
        if not 0 < self.labels <= 1:
            raise UserError(f"data.labels is a part of the training questions, above 0 and up to 1, not {self.labels}")
        if self.fine and self.name in ("sample", "amazon"):  # not for a file, on which a run of fine classes is scored
            raise UserError("data.fine asks for the fine classes of trec: use --data trec")
        if self.division and self.name == "sample" and self.labels == 1:
            raise UserError("data.division does nothing with sample, whose parts are its own: leave it at 0")


@dataclass(frozen=True)
class Text:
    """How a question becomes words."""

    splitter: Literal["spaces", "wordpunct", "treebank", "bpe", "wordpiece", "unigram"] = "treebank"
    """at spaces; as nltk's wordpunct_tokenize; as the Penn Treebank (do n't); or into pieces that are learnt"""
    lowercase: bool = True
    """read questions, and the words of the vectors, in lower case"""
    pieces: int = 4000
    """the size of the vocabulary of pieces that bpe, wordpiece and unigram learn from the training questions"""
    least: int = 2
    """a word without a vector that training has less often than this is unknown"""
    max_length: int = 100
    """words of a question that are read; what follows is cut off"""

    def __post_init__(self) -> None:
        at_least(1, "text", self, "pieces", "least", "max_length")
        if self.pieces != Text.pieces and self.splitter not in ("bpe", "wordpiece", "unigram"):
            raise UserError(f"text.pieces does nothing with splitter {self.splitter}, which has none: leave it out")


@dataclass(frozen=True)
class Model:
    """Vectors of words, one reader of them, pooling over the question, one linear layer."""

    kind: Literal["dan", "lstm", "cnn"] = "dan"
    """dan: layers on the mean of the words (Iyyer et al. 2015); lstm: our own; cnn: convolutions (Kim 2014)"""
    embeddings: Literal["random", "frozen", "tuned"] = "random"
    """random: learnt from nothing; frozen: the vectors as they are; tuned: these, and what is learnt beside them"""
    embedding: int = 100
    """numbers a word, where embeddings are random; else the vectors have theirs"""
    rate: float = 1.0
    """the learning rate of tuned vectors, as a part of fit.lr"""
    unknown: Literal["zero", "mean", "ngrams"] = "ngrams"
    """the vector of a word that has none: zero; the mean of all; what its letters say, by ridge regression"""
    hidden: tuple[int, ...] = (256, 128)
    """units of the layers of dan"""
    units: int = 128
    """units of the LSTM per direction, or feature maps of each width of a CNN"""
    layers: int = 1
    """LSTMs on one another"""
    bidirectional: bool = True
    """also read from the end to the beginning, with kind lstm"""
    arrangement: Literal["parallel", "sequence"] = "parallel"
    """convolutions side by side, or one after another"""
    widths: tuple[int, ...] = (2, 3, 4)
    """how many words each convolution sees"""
    residual: bool = False
    """add what goes into a layer to what comes out, where both are of one size"""
    pooling: tuple[Literal["sum", "mean", "max", "last", "attention"], ...] = ()
    """how the words become one vector; several are put side by side; none: mean for dan, max for the others"""
    norm: Literal["none", "batch", "layer"] = "none"
    """normalise the pooled vector and the layers after it; layer: also between convolutions in sequence"""
    dropout: float = 0.3
    """the fraction of the words' numbers, of layers and of the pooled vector that is zeroed in training"""
    spatial_dropout: float = 0.0
    """the fraction of the numbers of a word that is zeroed in all words of a question alike (Tompson et al. 2015)"""
    word_dropout: float = 0.0
    """the fraction of the words that is left out in training (Iyyer et al. 2015)"""
    masked: bool = True
    """leave padding out; without it padding is read as words, as in the notebook: an answer depends on its batch"""
    start: str = ""
    """the run folder of a language model (train language), which then reads the questions, with its words"""
    transfer: Transfer = "whole"
    """what is done with start: its network begins at random; it stays as it is; all of it learns on; that, each layer
    2.6 times slower than the one above; that, and one more layer learns from each epoch on (Howard & Ruder 2018)"""

    def __post_init__(self) -> None:
        knobs.check_start(self, OF_START)
        at_least(1, "model", self, "embedding", "units", "layers")
        probabilities("model", self, "dropout", "spatial_dropout", "word_dropout")
        if self.hidden and min(self.hidden) < 1:
            raise UserError("model.hidden must be numbers of units, each at least 1: for instance 256 128")
        if not self.widths or min(self.widths) < 1:
            raise UserError("model.widths must be numbers of words, each at least 1: for instance 2 3 4")
        if "last" in self.pooling and self.kind != "lstm" and not self.start:
            raise UserError(
                f"model.pooling last is the last state of an LSTM: it needs --model.kind lstm, not {self.kind}"
            )
        knobs.check_kind(self, OF_KINDS)
        if self.residual and self.kind == "cnn" and self.arrangement == "parallel":
            raise UserError("model.residual does nothing with parallel convolutions: add --model.arrangement sequence")
        if self.rate != 1 and self.embeddings != "tuned" and not self.start:
            raise UserError(f"model.rate does nothing with embeddings {self.embeddings}: use --model.embeddings tuned")
        if self.unknown != Model.unknown and self.embeddings == "random":
            raise UserError("model.unknown does nothing without vectors: give --vectors glove.6B.50d, or a file")
        if self.embedding != Model.embedding and self.embeddings != "random":
            raise UserError("model.embedding does nothing with vectors, which have a length of their own: leave it out")
        knobs.bounded("model", self)

    def weights(self) -> int:
        """About how many there are."""
        size, units = self.embedding, self.units
        if self.kind == "lstm":
            ways = 1 + self.bidirectional
            read = ways * 4 * units * (size + units + (self.layers - 1) * (ways + 1) * units)
        elif self.kind == "dan":
            read = sum(a * b for a, b in pairwise([max(1, len(self.pooling)) * size, *self.hidden]))
        else:
            rows = [size, *[units] * (len(self.widths) - 1)] if self.arrangement == "sequence" else repeat(size)
            read = sum(width * units * row for width, row in zip(self.widths, rows, strict=False))
        return WORDS * size + read


OF_KINDS = {
    "hidden": ("dan",),
    "units": ("lstm", "cnn"),
    "layers": ("lstm",),
    "bidirectional": ("lstm",),
    "arrangement": ("cnn",),
    "widths": ("cnn",),
    "residual": ("dan", "cnn"),
}


OF_START = tuple(  # knobs that have no meaning there
    "kind embeddings embedding unknown hidden units layers bidirectional arrangement widths residual masked "
    "spatial_dropout".split()
)


@dataclass(frozen=True)
class Config:
    """One run of qa-category."""

    task: Literal["classify", "language"] = "classify"
    """classify: tell the category of a question; language: train a language model on the questions, for model.start"""
    data: Data = field(default_factory=Data)
    vectors: str = "none"
    """a file of pretrained vectors (.vec, .txt, gzipped or zipped); or the name of one, such as glove.6B.50d or
    wiki-news-300d-1M.vec, which is looked for in $ETUDE_DATA/vectors and downloaded when it is not there"""
    vectors_most: int = 50_000
    """words that are read of the vectors, from the most frequent on"""
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    language: Language = field(default_factory=Language)
    fit: Fit = field(default_factory=lambda: Fit(epochs=15, batch_size=64, clip=1.0, precision="fp32"))

    def __post_init__(self) -> None:
        keep_path(self, "vectors", ".vec", ".txt", ".gz", ".zip", known=("none", "wiki-news-300d-1M.vec"))
        if self.task == "language":
            if self.model != Model():
                raise UserError("the knobs of model are for a classifier: a language model has those of language")
            if self.vectors != "none":
                raise UserError("a language model learns its vectors itself: leave --vectors out")
            if self.text.max_length != Text.max_length:
                raise UserError("a language model reads whole questions: leave text.max-length out")
            if self.data.labels != 1:
                raise UserError("a language model reads questions without their labels: leave data.labels out")
            knobs.bounded("language", self.language)
        elif self.language != Language():
            raise UserError("the knobs of language are for a language model: train language")
        if self.model.start and self.vectors != "none":
            raise UserError("the words of model.start have vectors of their own: leave --vectors out")
        knobs.check_rates(self.model, self.fit.optimizer)
        if self.vectors_most < 1:
            raise UserError(f"vectors-most must be at least 1, not {self.vectors_most}")
        if self.vectors_most != Config.vectors_most and self.vectors == "none":
            raise UserError("vectors-most does nothing without vectors: leave it out, or give --vectors glove.6B.50d")
        if self.model.embeddings != "random" and self.vectors == "none":
            raise UserError(
                f"model.embeddings {self.model.embeddings} needs vectors: give --vectors glove.6B.50d, or a file"
            )
        if self.model.embeddings == "random" and self.vectors != "none":
            raise UserError(
                "model.embeddings random reads no vectors: add --model.embeddings tuned, or leave --vectors out"
            )
        if self.model.embeddings == "tuned" and self.fit.optimizer == "sgd":
            raise UserError("model.embeddings tuned has a rate of its own with adamw and rmsprop only: use one of them")


PACKAGE = Package(
    "qa-category", Config, next_step="--data trec", scores=SCORES, meanings=MEANINGS, number=8, embeds=True
)
