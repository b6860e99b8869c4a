"""Many runs at once against the same runs one after the other, in one process, in turns.

    uv run --all-packages python benchmarks/stacked.py [replicas [kind ...]]

Both sides do all that a run does: checkpoints, rows, TensorBoard, validation. What each run would need alone to start a
process is not counted. The replicas differ in seed and learning rate, the readers in dropout, too.

- vae: gauss-vae as it is by default, but for 2 epochs and without its pictures, each of which takes as long either way
- vae-whole: gauss-vae as it is by default, with its six pictures; once
- lstm: a classifier of texts of 20 words: embedding 32, LSTM of 32 units, batches of 32
- lstm-ragged: the same, of 5 to 30 words, in batches by length: alone a batch is as long as its longest text, together
  as the longest of all replicas

- flow: grad-flow as it is by default, without its pictures
- cnn, names, gated, questions: the training steps alone of cnn-emnist, of names-rnn with its own cell and with an LSTM,
  and of qa-category, each as it is by default

Of `vae` and `lstm` also the training steps alone.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnn_emnist.config
import cnn_emnist.task
import gauss_vae.config
import gauss_vae.data
import gauss_vae.task
import grad_flow.config
import grad_flow.data
import grad_flow.task
import names_rnn.config
import names_rnn.task
import qa_category.config
import qa_category.task
from etude.config import MAX_REPLICAS, Fit, Scores
from etude.fingerprint import fingerprint
from etude.layers.pooling import Pooling
from etude.layers.recurrent import LSTM
from etude.stacked import runs as stacked
from etude.text.batching import by_length, pad
from etude.train import device, loop
from etude.train.run import Run
from etude.train.step import Learner, Step, even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

SCORES: Scores = {"loss": "lower"}

ALONE = 4  # runs that are timed one after the other
STEPS = {"vae": 90, "lstm": 90}  # how many training steps are timed alone, of which kinds
ONLY_STEPS = dict.fromkeys(("cnn", "names", "gated", "questions"), 20)  # of these, nothing else is
ROUNDS = {"vae": 3, "vae-whole": 1, "lstm": 3, "lstm-ragged": 3, "flow": 1} | dict.fromkeys(ONLY_STEPS, 3)
EPOCHS = 2


@dataclass(frozen=True)
class Config:
    dropout: float = 0.1
    shortest: int = 20
    longest: int = 20
    fit: Fit = field(default_factory=Fit)


class Reader(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(1000, 32), nn.Dropout(dropout)
        self.lstm, self.pooling, self.classify = LSTM(32, 32), Pooling("mean", 32), nn.Linear(32, 2)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x, _ = self.lstm(self.dropout(self.embedding(ids)), lengths)
        logits: Tensor = self.classify(self.pooling(x, lengths))
        return logits


class Texts(Task):
    metric = "loss"
    better = SCORES
    data = summary = ""
    train = 3_200

    def __init__(self, config: Config) -> None:
        self.config, self.net = config, Reader(config.dropout)
        rng = np.random.default_rng(config.fit.seed)
        self.texts = [
            rng.integers(1, 1000, rng.integers(config.shortest, config.longest + 1)) for _ in range(self.train + 1000)
        ]
        self.lengths = np.array([len(text) for text in self.texts])
        self.labels = torch.tensor([int(text[0]) % 2 for text in self.texts])

    @property
    def model(self) -> nn.Module:
        return self.net

    @property
    def fingerprints(self) -> dict[str, str]:
        return {"all": fingerprint(*self.texts, self.labels)}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        if split != "train":
            return even_batches(np.arange(self.train, self.train + 1000), batch_size)
        return by_length(self.lengths[: self.train], batch_size, self.config.fit.seed, epoch)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        return *pad([self.texts[n] for n in ids], 0), self.labels[torch.from_numpy(ids)]

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Sums:
        ids, lengths, labels = batch
        logits = self.net(ids, lengths)
        hits = (logits.argmax(1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return {"loss": (loss, len(labels)), "accuracy": (hits, len(labels))}

    def scores(self, totals: Totals) -> dict[str, float]:
        return totals.means()

    def show(self, run: Run, when: str, step: int) -> None:
        pass

    def assets(self) -> dict[str, Any]:
        return {}


class Unseen(gauss_vae.task.Compared):
    def show(self, run: Run, when: str, step: int) -> None:
        pass


def whole_vae(n: int) -> gauss_vae.config.Config:
    default = gauss_vae.config.Config()
    fit = dataclasses.replace(default.fit, seed=n, lr=default.fit.lr * (1 - n / 100))
    return dataclasses.replace(default, fit=fit)


def vae(n: int) -> gauss_vae.config.Config:
    config = whole_vae(n)
    return dataclasses.replace(config, fit=dataclasses.replace(config.fit, epochs=EPOCHS))


def unseen(config: gauss_vae.config.Config) -> Unseen:
    mixture = gauss_vae.data.load(config.data, config.fit.seed)
    return Unseen(config, mixture)


class Unshown(grad_flow.task.Dense):
    def show(self, run: Run, when: str, step: int) -> None:
        pass


def flow(n: int) -> grad_flow.config.Config:
    default = grad_flow.config.Config()
    fit = dataclasses.replace(default.fit, seed=n, lr=default.fit.lr * (1 + n / 32))
    return dataclasses.replace(default, fit=fit)


def unshown(config: grad_flow.config.Config) -> Unshown:
    return Unshown(config, grad_flow.data.load(config.data, config.fit.seed), CPU)


def texts(n: int) -> Config:
    fit = Fit(epochs=EPOCHS, batch_size=32, seed=n, lr=1e-3 * (1 + n / 32), precision="fp32")
    return Config(dropout=0.1 + n / 100, fit=fit)


def ragged(n: int) -> Config:
    return dataclasses.replace(texts(n), shortest=5, longest=30)


def seeded(default: Any, n: int, **model: Any) -> Any:
    model = dataclasses.replace(default.model, **model)
    return dataclasses.replace(default, model=model, fit=dataclasses.replace(default.fit, seed=n))


CPU = torch.device("cpu")
KINDS: dict[str, tuple[Callable[[int], Any], Callable[[Any], Task]]] = {
    "vae": (vae, unseen),
    "vae-whole": (whole_vae, lambda config: gauss_vae.task.make(config, CPU)),
    "lstm": (texts, Texts),
    "lstm-ragged": (ragged, Texts),
    "flow": (flow, unshown),
    "cnn": (lambda n: seeded(cnn_emnist.config.Config(), n), lambda config: cnn_emnist.task.make(config, CPU)),
    "names": (lambda n: seeded(names_rnn.config.Config(), n), lambda config: names_rnn.task.make(config, CPU)),
    "gated": (
        lambda n: seeded(names_rnn.config.Config(), n, cell="lstm"),
        lambda config: names_rnn.task.make(config, CPU),
    ),
    "questions": (lambda n: seeded(qa_category.config.Config(), n), lambda config: qa_category.task.make(config, CPU)),
}


def replicas(name: str, count: int, folder: Path) -> list[stacked.Replica]:
    made = []
    configure, make = KINDS[name]
    for n in range(count):
        config = configure(n)
        where = device.choose(config.fit)
        torch.manual_seed(n)
        learner = Learner(make(config), config.fit, where)
        made.append(stacked.Replica(learner, Run(folder / str(n), config, where), StringIO()))
    return made


def one_after_the_other(runs: list[stacked.Replica]) -> None:
    for one in runs:
        with redirect_stdout(StringIO()):
            loop.fit(one.learner.task, one.learner.cfg, one.run, one.learner.device)


def measure(name: str, count: int) -> float:
    """How many times more runs are trained in the same time."""
    ratios = []
    for number in range(ROUNDS[name]):
        took = []
        for how, some in ((one_after_the_other, ALONE), (stacked.fit, count)):
            with TemporaryDirectory() as folder:
                runs = replicas(name, some, Path(folder))
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


def measure_steps(name: str, count: int, steps: int) -> float:
    """The same of training steps alone: load, forward, backward, optimiser."""
    ratios = []
    with TemporaryDirectory() as folder:
        runs = replicas(name, count, Path(folder))
        learners = [one.learner for one in runs]
        plans = [learner.task.plan("train", 1, learner.cfg.batch_size) for learner in learners]
        stacked.keep_memory()
        alone, together = replicas(name, 1, Path(folder, "alone"))[0], stacked.StackedLearner(learners)
        together.train([Step(1, 0, plan[0], 1e-3) for plan in plans])  # which proves itself by steps alone
        batches = min(steps, *map(len, plans))
        for number in range(ROUNDS[name]):
            began = time.perf_counter()
            for batch in range(batches):
                alone.learner.do(Step(1, batch, plans[0][batch], 1e-3))
            middle = time.perf_counter()
            for batch in range(batches):
                together.train([Step(1, batch, plan[batch], 1e-3) for plan in plans])
            one, all_of_them = (middle - began) / batches, (time.perf_counter() - middle) / batches
            ratios.append(count * one / all_of_them)
            print(
                f"  round {number + 1}: {1e3 * one:.2f} ms a step, {1e3 * all_of_them:.2f} ms {count} of them together"
            )
        for run in (*runs, alone):
            run.run.close()
    return statistics.median(ratios)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MAX_REPLICAS
    for name in sys.argv[2:] or KINDS:
        print(f"{name}: {count} replicas, {device.choose(KINDS[name][0](0).fit)}")
        if steps := (STEPS | ONLY_STEPS).get(name):
            ratio = measure_steps(name, count, steps)
            print(f"  {ratio:.2f} times the training steps (median of {ROUNDS[name]} rounds)")
        if name not in ONLY_STEPS:
            print(f"  {measure(name, count):.2f} times the runs (median of {ROUNDS[name]} rounds)")


if __name__ == "__main__":
    main()
