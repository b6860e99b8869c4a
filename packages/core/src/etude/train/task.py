"""What one étude adds to the loop: data, model, and what a step is."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from torch import nn

from etude.config import Scores
from etude.train.run import Run
from etude.train.totals import Sums, Totals

Split = Literal["train", "valid", "test"]


class Task(Protocol):
    """What one étude adds: data, model, and what a step is."""

    data: str  # the data in words, for people: "fashion-mnist, 55,000 / 5,000 / 10,000 images, 10 classes"
    summary: str  # the model in words, without its size: "feature maps 32x14x14 > ..."
    metric: str  # the validation score that chooses the best checkpoint, a key of `scores`

    @property
    def model(self) -> nn.Module: ...

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The content of each part that is loaded, as it came in, by `etude.fingerprint`: {"test": "16 hex digits"}."""

    @property
    def better(self) -> Scores:
        """Which way each score improves; the same as `Package.scores`."""

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        """The ids, int64, of each batch of at most `batch_size`: for "train" a function of (seed, epoch), else fixed.

        Epochs of "train" count from 1; for the others it is 0.
        """

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Any:
        """The batch of these examples. Random augmentation is a function of (seed, epoch, id): see `etude.draw`."""

    def step(self, batch: Any) -> Sums:
        """Sums and counts of a batch; the optimiser minimises sum / count of "loss"."""

    def scores(self, totals: Totals) -> dict[str, float]:
        """Scores of a whole part from its totals; `Totals.means` is the usual answer."""

    def show(self, run: Run, when: str, step: int) -> None:
        """Shows a person what the model does now; `when` is "before" training, "epoch 3" or "after", after the last.

        Called in the first process only, in evaluation mode, without gradients, and at the end with the best weights.
        It writes with `Run.picture`, `text`, `scalars`, `graph` and `embedding`; what is shown each time takes `when`.
        """

    def assets(self) -> dict[str, Any]:
        """What `predict` needs besides the weights (labels, vocabulary, ...): plain data, kept in checkpoints."""


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def summary(task: Task) -> str:
    """The model in words, its size first: "289,130 parameters, feature maps 32x14x14 > ..."."""
    return f"{parameters(task.model):,} parameters, {task.summary}"
