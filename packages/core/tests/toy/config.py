"""A task in little: which residue do digits of different lengths add up to? It has padding, dropout and batch norm."""

from dataclasses import dataclass, field, replace
from typing import Literal

from etude.config import Fit, Scores
from etude.package import Package

SCORES: Scores = {"loss": "lower", "accuracy": "higher"}
MEANINGS = {"loss": "cross-entropy, mean over rows, in nats", "accuracy": "the part of the rows with the right residue"}


@dataclass(frozen=True)
class Config:
    """One run of toy."""

    flaw: Literal[
        *("none", "padding", "padding-train", "means", "means-train", "state", "assets", "generator", "steer"),
        *("penalty", "ranks", "apart", "fingerprint", "part-size", "remembers", "default", "stack"),
    ] = "none"
    """a promise that is broken on purpose"""
    norm: bool = True
    """batch norm"""
    dropout: float = 0.1
    """dropout"""
    widths: tuple[int, ...] = (8, 16)
    """sizes of the hidden layers"""
    explode: int = 0
    """the call of `step` that returns NaN"""
    fit: Fit = field(default_factory=lambda: Fit(batch_size=20, epochs=3))

    def __post_init__(self) -> None:
        if self.flaw == "default":  # whatever was asked for
            object.__setattr__(self, "fit", replace(self.fit, weight_decay=0.05))


PACKAGE = Package("toy", Config, next_step="--no-norm", scores=SCORES, meanings=MEANINGS)
