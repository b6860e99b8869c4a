"""Many runs at once against the same runs one after the other, in one process, in turns.

    uv run --all-packages python benchmarks/many.py [replicas]

Both sides do all that a run does: checkpoints, rows, TensorBoard, validation. What each run would need alone to start a
process is not counted. The replicas differ in seed, learning rate and dropout or weight of the KL term.

- vae: a VAE as the default of gauss-vae, 2 -> 64 -> 64 -> 2 latents -> 64 -> 64 -> 2 means and variances, batches
  of 500
- lstm: a classifier of texts of 5 to 30 words: embedding 32, LSTM of 32 units, batches of 32
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import device, draw, loop, many
from etude.config import Fit
from etude.layers.pooling import Pooling
from etude.layers.recurrent import LSTM
from etude.run import Run
from etude.text.batching import by_length, pad

ALONE = 4  # runs that are timed one after the other
ROUNDS = 3


@dataclass(frozen=True)
class Config:
    weight: float = 1.0
    dropout: float = 0.1
    fit: Fit = field(default_factory=Fit)


class Base(loop.Task):
    metric = "loss"
    data = summary = ""
    train: int
    net: nn.Module

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def model(self) -> nn.Module:
        return self.net

    @property
    def better(self) -> Literal["lower"]:
        return "lower"

    def plan(self, split: loop.Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        if split != "train":
            return loop.even_batches(np.arange(self.train, self.train + 1000), batch_size)
        return loop.even_batches(draw.shuffled(self.train, self.config.fit.seed, epoch), batch_size)

    def scores(self, totals: loop.Totals) -> dict[str, float]:
        return totals.means()

    def show(self, run: Run, epoch: int, step: int) -> None:
        pass

    def assets(self) -> dict[str, Any]:
        return {}


def perceptron(*widths: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


class VAE(Base):
    train = 50_000

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encode, self.decode = perceptron(2, 64, 64, 4), perceptron(2, 64, 64, 4)
        self.net = nn.ModuleList([self.encode, self.decode])
        self.x = torch.randn(self.train + 1000, 2, generator=torch.Generator().manual_seed(config.fit.seed))

    def load(self, split: loop.Split, ids: np.ndarray, epoch: int) -> Tensor:  # noqa: ARG002 - a Task's
        return self.x[torch.from_numpy(ids)]

    def step(self, batch: Tensor) -> loop.Sums:
        x = batch
        mean, log_sd = self.encode(x).chunk(2, 1)
        z = mean + log_sd.exp() * torch.randn_like(mean) if self.net.training else mean
        said, spread = self.decode(z).chunk(2, 1)
        error = (0.5 * ((x - said) * (-spread).exp()) ** 2 + spread).sum()
        kl = 0.5 * (mean**2 + (2 * log_sd).exp() - 1).sum() - log_sd.sum()
        return {"loss": (error + self.config.weight * kl, len(x)), "kl": (kl, len(x)), "error": (error, len(x))}


class Reader(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(1000, 32), nn.Dropout(dropout)
        self.lstm, self.pooling, self.classify = LSTM(32, 32), Pooling("mean", 32), nn.Linear(32, 2)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x, _ = self.lstm(self.dropout(self.embedding(ids)), lengths)
        logits: Tensor = self.classify(self.pooling(x, lengths))
        return logits


class Texts(Base):
    train = 3_200

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = Reader(config.dropout)
        rng = np.random.default_rng(config.fit.seed)
        self.texts = [rng.integers(1, 1000, rng.integers(5, 31)) for _ in range(self.train + 1000)]
        self.lengths = np.array([len(text) for text in self.texts])
        self.labels = torch.tensor([int(text[0]) % 2 for text in self.texts])

    def plan(self, split: loop.Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        if split != "train":
            return super().plan(split, epoch, batch_size)
        return by_length(self.lengths[: self.train], batch_size, self.config.fit.seed, epoch)

    def load(self, split: loop.Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        return *pad([self.texts[n] for n in ids], 0), self.labels[torch.from_numpy(ids)]

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> loop.Sums:
        ids, lengths, labels = batch
        logits = self.net(ids, lengths)
        hits = (logits.argmax(1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return {"loss": (loss, len(labels)), "accuracy": (hits, len(labels))}


def members(kind: Callable[[Config], Base], batch_size: int, count: int, folder: Path) -> list[many.Member]:
    made = []
    for n in range(count):
        fit = Fit(epochs=2, batch_size=batch_size, seed=n, lr=1e-3 * (1 + n / count), precision="fp32")
        config = Config(weight=1 - n / 100, dropout=0.1 + n / 100, fit=fit)
        where = device.choose(fit)
        torch.manual_seed(n)
        learner = loop.Learner(kind(config), fit, where)
        made.append(many.Member(learner, Run(folder / str(n), config, where), StringIO()))
    return made


def one_after_the_other(runs: list[many.Member]) -> None:
    for one in runs:
        with redirect_stdout(StringIO()):
            loop.fit(one.learner.task, one.learner.cfg, one.run, one.learner.device)


def measure(kind: Callable[[Config], Base], batch_size: int, count: int) -> float:
    """How many times more runs are trained in the same time."""
    ratios = []
    for number in range(ROUNDS):
        took = []
        for how, some in ((one_after_the_other, ALONE), (many.fit, count)):
            with TemporaryDirectory() as folder:
                runs = members(kind, batch_size, some, Path(folder))
                began = time.perf_counter()
                how(runs)
                took.append((time.perf_counter() - began) / some)
                for one in runs:
                    one.run.close()
        ratios.append(took[0] / took[1])
        print(
            f"  round {number + 1}: {took[0]:.3f} s a run alone, {took[1]:.3f} s a run together: {ratios[-1]:.2f} times"
        )
    return statistics.median(ratios)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else many.MOST
    print(f"{count} replicas, {device.choose(Fit())}")
    for name, kind, batch_size in (("vae", VAE, 500), ("lstm", Texts, 32)):
        print(f"{name}: {measure(kind, batch_size, count):.2f} times the throughput (median of {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
