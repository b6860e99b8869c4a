"""A task for tests of searches: its score is a known function of its knobs, and it trains at once."""

from dataclasses import dataclass, field
from typing import Literal

from etude import config as configs
from etude.config import Fit
from etude.package import Package


@dataclass(frozen=True)
class Model:
    kernel: int = 3
    hidden: int = 32
    dropout: float = 0.0
    cell: Literal["rnn", "lstm"] = "rnn"


@dataclass(frozen=True)
class Config:
    """What can be asked for."""

    model: Model = field(default_factory=Model)
    data: str = "sample"
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        configs.probabilities("model", self.model, "dropout")


PACKAGE = Package("searched", Config, next_step="", scores={"accuracy": "higher", "loss": "lower"})
