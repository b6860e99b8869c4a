"""What can be varied of language models, and of what starts from one. No torch here, as in every `config.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etude.config import Scores, absolute, at_least, dashed, probabilities
from etude.errors import UserError

LANGUAGE: Scores = {"loss": "lower", "perplexity": "lower"}
MEANINGS = {
    "perplexity": (
        "the exponential of a language model's loss: among how many equally likely tokens it hesitates; of different "
        "vocabularies it does not compare"
    ),
    "perplexity_forward": (
        "perplexity of the direction alone that reads from the beginning, where a language model reads both ways"
    ),
    "kneser_ney": "perplexity of trigrams with modified Kneser-Ney smoothing (Chen & Goodman 1999), on the same tokens",
    "tokens": "of a language model: how many tokens were scored",
    "vocabulary": "of a language model: how many tokens it tells apart",
    "unknown_words": "of a language model: the part of the tokens that its vocabulary lacks, from 0 to 1",
}
WORDS = 10_000  # about so many a vocabulary has, which is not known before data are read
Transfer = Literal["scratch", "frozen", "whole", "discriminative", "gradual"]


@dataclass(frozen=True)
class Language:
    """train language: LSTMs that say which token comes next (Merity et al. 2018)."""

    embedding: int = 128
    """numbers a token, and units of the last LSTM; the table of tokens is that of the answers, too"""
    units: int = 256
    """units of the LSTMs below the last one"""
    layers: int = 2
    """LSTMs on one another"""
    bidirectional: bool = False
    """as many LSTMs again that read from the end, and say which token came before (Peters et al. 2018)"""
    dropout: float = 0.3
    """the fraction of the numbers between layers that is zeroed in training, the same for all tokens of a text"""
    word_dropout: float = 0.1
    """the fraction of the different tokens that is left out of a batch in training"""
    weight_dropout: float = 0.2
    """the fraction of the weights of each LSTM's recurrence that is zeroed for a batch in training"""
    sampled: int = 0
    """of about how many tokens of the vocabulary the loss is estimated at a step of training; 0: of all, exactly"""
    piece: int = 100
    """tokens that are read at once; longer texts are read in pieces"""

    def __post_init__(self) -> None:
        at_least(1, "language", self, "embedding", "units", "layers", "piece")
        probabilities("language", self, "dropout", "word_dropout", "weight_dropout")
        if self.sampled < 0:
            raise UserError(f"language.sampled is a number of tokens, or 0 for all of them, not {self.sampled}")

    def weights(self) -> int:
        """About how many there are."""
        low, high = (self.units, self.embedding) if self.layers > 1 else (self.embedding, 0)
        lstms = 4 * low * (self.embedding + low) + 4 * high * (low + high)
        lstms += max(0, self.layers - 2) * 8 * low * low
        return WORDS * self.embedding + (1 + self.bidirectional) * lstms


def bounded(group: str, config: Any) -> None:
    """Raises UserError for a network of more `weights()` or `layers` than a machine can be asked to hold."""
    weights, layers = config.weights(), config.layers
    if layers > 100 or weights > 10**9:
        raise UserError(
            f"the network of {group} would have about {weights:.0e} weights in {layers:,} layers, of at most 1e9 and "
            "100: use a smaller one"
        )


def check_kind(model: Any, of_kinds: Mapping[str, tuple[str, ...]]) -> None:
    """Raises UserError for a knob of a `Model` that does nothing with its `kind`; `of_kinds`: with which it does."""
    for name, kinds in of_kinds.items():
        if model.kind not in kinds and getattr(model, name) != getattr(type(model), name):
            raise UserError(f"model.{name} does nothing with kind {model.kind}: leave it out")


def check_kept(now: Mapping[str, Any], kept: Mapping[str, Any], otherwise: str) -> None:
    """Raises UserError if a run is to be scored with other knobs, by name, than it has `kept`; the first kept none.

    `otherwise`: what would come of that, "read questions".
    """
    for name, value in now.items():
        if value != kept.get(name, value):
            raise UserError(
                f"{dashed(name)} {value} would {otherwise} otherwise than the run, which was trained with "
                f"{kept[name]}: leave --{dashed(name)} out"
            )


def check_start(model: Any, of_start: tuple[str, ...]) -> None:
    """The knobs `start`, `transfer` and `rate` of a `Model`: `start` becomes an absolute path.

    `of_start`: the other knobs that have no meaning with it. Raises UserError for what does not go together.
    """
    if model.start:
        object.__setattr__(model, "start", absolute(model.start))
    if not 0 < model.rate <= 1:
        raise UserError(f"model.rate is a part of fit.lr, above 0 and up to 1, not {model.rate}")
    if model.transfer != type(model).transfer and not model.start:
        raise UserError(f"model.transfer {model.transfer} needs a language model: give --model.start RUN")
    for name in of_start if model.start else ():
        if getattr(model, name) != getattr(type(model), name):
            raise UserError(f"model.{dashed(name)} is that of the language model in model.start: leave it out")


def check_rates(model: Any, optimizer: str) -> None:
    """Raises UserError where layers are to learn at rates of their own with an optimizer that cannot do it so."""
    slower = model.transfer in ("discriminative", "gradual") or model.rate != 1
    if model.start and slower and optimizer == "sgd":
        raise UserError("model.start learns on at rates of its own with adamw and rmsprop only: use one of them")
