"""Every knob of a run. No torch here: `text-ae train --help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude.config import Fit, Scores, at_least, keep_folder, keep_path, probabilities
from etude.errors import UserError
from etude.package import Package

SCORES: Scores = {
    "loss": "lower",
    "accuracy": "higher",
    "exact": "higher",
    "bleu": "higher",
    "chrf": "higher",
}


@dataclass(frozen=True)
class Data:
    """Which messages; --data X is short for --data.name X."""

    name: str = "sample"
    """sample: messages made up here by a grammar; twitter: downloaded when first used; or the path of a CSV file"""
    messages: int = 0
    """use only so many of them; 0: all"""
    held_out: float = 0.1
    """the part that is held out for validation, and as many for the test; the sample has parts of its own"""
    normalise: bool = True
    """HTML entities become characters, each link <link>, white space single spaces; off: texts as they are"""

    def __post_init__(self) -> None:
        keep_path(self, "name", ".csv", known=("sample", "twitter"))
        if self.messages < 0:
            raise UserError(f"data.messages is a number of messages, or 0 for all, not {self.messages}")
        if not 0 < self.held_out < 0.5:
            raise UserError(f"data.held-out is a part, above 0 and below 0.5, not {self.held_out}")


@dataclass(frozen=True)
class Text:
    """How a message becomes a row of tokens."""

    tokenizer: Literal["words", "bpe", "wordpiece", "unigram", "pretrained"] = "bpe"
    """trained on the training part only; pretrained: see below"""
    vocabulary: int = 8_000
    """its size at most; pretrained has its own"""
    pretrained: str = "sentence-transformers/LaBSE"
    """the tokenizer of this name on the Hugging Face hub, or in this folder, with tokenizer pretrained"""
    max_length: int = 24
    """tokens; longer messages are left out of all parts, and how many is said; `predict` cuts them, and says so"""

    def __post_init__(self) -> None:
        at_least(1, "text", self, "vocabulary", "max_length")
        keep_folder(self, "pretrained")
        if self.max_length > 1_000:
            raise UserError(
                f"text.max-length is 1,000 tokens at most, not {self.max_length:,}: this is for short texts"
            )


@dataclass(frozen=True)
class Model:
    """Encoder, one vector, decoder."""

    latent: int = 128
    """numbers in the vector that a message becomes"""
    encoder: Literal["recurrent", "superposition"] = "recurrent"
    """read the message; or add up a vector for each token, turned by its place"""
    decoder: Literal["autoregressive", "parallel", "unmixing"] = "autoregressive"
    """say token after token, each given those before; say all at once; or take a superposition apart, round by round"""
    embedding: int = 96
    """numbers per token"""
    hidden: int = 192
    """units of each recurrent layer, per direction"""
    layers: int = 1
    """recurrent layers on one another, in encoder and decoder"""
    cell: Literal["lstm", "gru"] = "gru"
    """what the recurrent layers are made of"""
    bidirectional: bool = True
    """the recurrent encoder reads also from the end to the beginning"""
    dropout: float = 0.0
    """the part of the embeddings, and between layers, that is zeroed in training"""
    word_dropout: float = 0.0
    """the part of the tokens given to the autoregressive decoder that is hidden from it in training"""
    batch_norm: bool = True
    """normalise each number that the recurrent encoder writes, over a batch"""
    meaning: int = 64
    """superposition: so many numbers of the vector say which tokens there are, wherever; the rest say where, too"""
    rounds: int = 10
    """unmixing: so often is the guess of all tokens mended, each time knowing the others better"""

    def __post_init__(self) -> None:
        at_least(1, "model", self, "latent", "embedding", "hidden", "layers", "meaning", "rounds")
        probabilities("model", self, "dropout", "word_dropout")
        if self.decoder == "unmixing" and self.encoder != "superposition":
            raise UserError("model.decoder unmixing takes a superposition apart: use --model.encoder superposition")
        if self.encoder == "superposition" and self.latent < self.meaning + 2:
            raise UserError(
                f"model.latent {self.latent} leaves no room beside model.meaning {self.meaning}: lower that"
            )


@dataclass(frozen=True)
class Config:
    """One run of text-ae."""

    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    fit: Fit = field(default_factory=lambda: Fit(epochs=10, batch_size=64, clip=1.0, lr=6e-3, precision="fp32"))


PACKAGE = Package("text-ae", Config, next_step="--data twitter", scores=SCORES, number=3, embeds=True)
