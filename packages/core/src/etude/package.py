"""What a task package says of itself."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from etude import files
from etude.config import Scores

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import device as TorchDevice


def task_of(folder: Path, remedy: str) -> str | None:
    """The package whose run a folder is, by its about.json; None if that does not say.

    Raises UserError, with the remedy, if about.json cannot be read.
    """
    about = files.read_json(folder / "about.json", dict, remedy, {}) or {}
    task = about.get("task")
    return task.replace("_", "-") if isinstance(task, str) else None


class TaskModule(Protocol):
    """What the module `task` of a package defines; imported only when a verb needs it."""

    def make(self, config: Any, where: "TorchDevice") -> Any:
        """The task with its data, which may be kept on the device `where`; the model freshly initialised."""
        ...

    def restore(self, config: Any, assets: dict[str, Any], where: "TorchDevice | None" = None) -> Any:
        """The task of a checkpoint, from what it kept (`Task.assets`): what was learnt, learns nothing anew.

        With `where`, to be scored: with the data that `config` names, of which the part "test" is asked for, and which
        may be kept there. Without, to predict: what `predict` and `embed` take, which needs no data and has a
        `model`; it need not be a whole `Task`.
        Raises UserError if assets and data do not fit.
        """
        ...

    def describe(self, task: Any, totals: Any) -> tuple[str, dict[str, Any]]:
        """What `evaluate` says of a part of the data: a text for people, and the JSON object of the last line.

        The object has the scores of `Task.scores` under the same names: a study reads its metric there.
        """
        ...

    def results(self, task: Any, totals: Any) -> Any:
        """What was answered for each example, as JSON, for `evaluate` to write; where the package has `results`."""
        ...

    def illustrate(self, task: Any, totals: Any) -> "dict[str, Image]":
        """What `evaluate` shows beside what it says, by name; where the package `illustrates`.

        The model is in evaluation mode, without gradients, and computes as precisely as when it was scored.
        """
        ...

    def without(self, task: Any, totals: Any, blocks: "list[np.ndarray]") -> dict[str, list[float]]:
        """Scores of the test part: of all of it, then without each of these blocks of ids; see `etude.train.evidence`.

        Only where the package says so (`Package.without`), because `scores` cannot be had from the totals of a block,
        or because it would cost too much.
        """
        ...

    def predict(self, task: Any, inputs: list[str], **options: Any) -> list[str]:
        """The lines of the output; the model is on its device, in evaluation mode, without gradients.

        `options` are the fields of the package's `options`.
        """
        ...

    def embed(self, task: Any, inputs: list[str]) -> "np.ndarray":
        """A vector for each input, float32 [N, D], in order; only where the package `embeds`."""
        ...


@dataclass(frozen=True)
class Package:
    """A task package, as its config.py describes it."""

    name: str
    """of the distribution and the command, such as cnn-emnist"""
    config: type
    """its configuration: a dataclass with a field `fit: Fit`"""
    next_step: str
    """the flags that `train` suggests to try after it, such as --data emnist-letters"""
    scores: Scores
    """the scores that both validation and `evaluate` give, of those that can be compared: which way each is better"""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """of each of them, and of others that people meet: its definition, with its unit, for pages and glossaries"""
    number: int = 0
    """its place among the tasks that are handed in: `report` writes taskN.ipynb"""
    small: str = "--fit.epochs 2"
    """the flags of the small run that the notebook of `report` trains before its reader's eyes"""
    options: type | None = None
    """what `predict` can be told: a dataclass, each field a flag"""
    embeds: bool = False
    """whether it has the verb `embed`"""
    results: bool = False
    """whether `evaluate` writes what was answered for each example"""
    illustrates: bool = False
    """whether `evaluate` shows pictures of what was answered"""
    redrawn: float = 0.0
    """where each seed draws its own test part of one finite set of data: how large it is to the training part; 0: seeds
    share one, or draw theirs afresh. See `etude.study.judge`"""
    without: bool = False
    """whether it says itself what its scores are without some of the examples"""

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def task(self) -> TaskModule:
        return cast(TaskModule, importlib.import_module(f"{self.module}.task"))
