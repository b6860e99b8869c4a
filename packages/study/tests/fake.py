"""The package of the task that the tests of studies make up: test_study.py writes its __main__.py."""

from dataclasses import dataclass, field

from etude import config as configs
from etude.config import Fit
from etude.package import Package

SCORES = {"accuracy": "higher", "loss": "lower"}


@dataclass(frozen=True)
class Model:
    kernel: int = 3
    norm: bool = True


@dataclass(frozen=True)
class Layers:
    layers: int = 1


@dataclass(frozen=True)
class Config:
    """What the fake task can be asked for."""

    model: Model = field(default_factory=Model)
    encoder: Layers = field(default_factory=Layers)
    decoder: Layers = field(default_factory=Layers)
    data: str = "sample"
    fit: Fit = field(default_factory=Fit)

    def __post_init__(self) -> None:
        configs.keep_path(self, "data")


PACKAGE = Package("fake-task", Config, next_step="", scores=SCORES)
