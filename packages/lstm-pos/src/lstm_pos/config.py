"""Every knob of a run. No torch here: `lstm-pos train --help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, keep_folder, keep_path, probabilities
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {"loss": "lower", "accuracy": "higher", "macro_f1": "higher", "unseen_accuracy": "higher"}


@dataclass(frozen=True)
class Data:
    """Which sentences; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: sentences made up here by a grammar; nerus: downloaded when first used; or the path of a CoNLL-U file"""
    documents: int = 0
    """use only the first so many documents; 0: all"""
    held_out: float = 0.1
    """the part of the documents that is held out for validation, and as many for the test"""

    def __post_init__(self) -> None:
        keep_path(self, "name", ".conllu", ".conllu.gz", known=("sample", "nerus"))
        if self.documents < 0:
            raise UserError(f"data.documents is a number of documents, or 0 for all, not {self.documents}")
        if not 0 < self.held_out < 0.5:
            raise UserError(f"data.held-out is a part, above 0 and below 0.5, not {self.held_out}")


@dataclass(frozen=True)
class Text:
    """How a word becomes one or several pieces, each with an embedding."""

    tokenizer: Literal["words", "bpe", "wordpiece", "unigram", "pretrained"] = "words"
    """whole words, or pieces of them, learnt from the training part; pretrained: see below"""
    vocabulary: int = 30_000
    """its size at most, <pad> and <unk> included, which are always there; a pretrained tokenizer has its own"""
    pretrained: str = "sentence-transformers/LaBSE"
    """the pieces of this tokenizer of the Hugging Face hub, or in this folder, with tokenizer pretrained"""
    label: Literal["first", "last", "all"] = "first"
    """which pieces of a word learn its tag; with all, its tag is what they together find most probable"""
    max_length: int = 200
    """pieces; a longer sentence is cut into several, none of its words is left out"""

    def __post_init__(self) -> None:
        at_least(1, "text", self, "vocabulary", "max_length")
        keep_folder(self, "pretrained")


@dataclass(frozen=True)
class Model:
    """Embeddings, an LSTM, and a linear layer on its output at every word."""

    embedding: int = 64
    """numbers per piece"""
    features: Literal["none", "endings", "characters", "both"] = "none"
    """what is known of a word beside its pieces and its shape: beginning and ending, or an LSTM over its characters"""
    dictionary: bool = False
    """what the OpenCorpora dictionary (pymorphy3) takes a word for, by itself: knowledge that is not in the data"""
    hidden: int = 128
    """units of the LSTM per direction"""
    layers: int = 1
    """LSTM layers on one another"""
    members: int = 1
    """so many taggers, each from other weights, learn alone and answer with the mean of their log-probabilities"""
    bidirectional: bool = True
    """read also from the end to the beginning"""
    dropout: float = 0.5
    """the part of the LSTM's input and output, and between its layers, that is zeroed in training"""
    batch_norm: bool = False
    """normalise the LSTM's output over all words of a batch, with label all over all pieces; padding does not count"""
    word_dropout: float = 0.25
    """a: in training one that is there n times passes for unknown with probability a / (a + n), with tokenizer words"""
    morphology: float = 0.0
    """the weight of a second exercise beside the tags, the words' case, number, tense, ... (column FEATS); 0: none"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "embedding", "hidden", "layers", "members")
        probabilities("model", self, "dropout")
        at_least(0, "model", self, "word_dropout", "morphology")


@dataclass(frozen=True)
class Config:
    """One run of lstm-pos."""

    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    fit: Fit = field(default_factory=lambda: Fit(epochs=15, batch_size=32, clip=1.0, precision="fp32"))


@dataclass(frozen=True)
class Predict:
    """What `predict` can be told."""

    format: Literal["text", "conllu"] = "text"
    """a word, a tab and its tag on each line; or CoNLL-U"""


PACKAGE = Package(
    "lstm-pos", Config, next_step="--data nerus --data.documents 10000", scores=SCORES, number=2, options=Predict
)
