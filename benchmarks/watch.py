"""What `--fit.watch` costs: training steps with it and without it, in one process, in turns.

    uv run --all-packages python benchmarks/watch.py [--threads N] [--seconds S] [--device D] [--precision P] [kind ...]

- mlp: 10 hidden layers of 256 units with ReLU, batches of 128 examples of 64 numbers
- cnn: cnn-emnist as it is by default, on its sample
- flow: grad-flow with ten layers of 256 units, on its sample
- lstm: imdb-rnn as it is by default, on its sample

Both sides take the same steps; pictures and files, which are made after epochs 1, 2, 4, 8, ..., are not counted but
timed apart. Timed is the processor's time on a CPU, which others do not stretch, and the clock's on a GPU. The ratio is
that of the medians; beside it stand the quartiles of the ratios of neighbouring steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cnn_emnist.config
import cnn_emnist.task
import grad_flow.config
import grad_flow.task
import imdb_rnn.config
import imdb_rnn.task
from etude.config import Fit, Scores
from etude.train import device, watched
from etude.train.run import Run
from etude.train.step import Learner, Step, even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

DEPTH, WIDTH, INPUTS, CLASSES, EXAMPLES = 10, 256, 64, 10, 12_800


class Dense:
    """Depth 10, width 256, of random numbers."""

    metric, data, summary = "loss", "numbers", "dense"
    better: Scores = {"loss": "lower"}  # noqa: RUF012
    fingerprints: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        sizes = [INPUTS] + [WIDTH] * DEPTH
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
        self.x = torch.randn(EXAMPLES, INPUTS)
        self.labels = self.x[:, :CLASSES].argmax(1)

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:  # noqa: ARG002
        return even_batches(np.arange(EXAMPLES), batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.x[ids], self.labels[ids]

    def step(self, batch: tuple[Tensor, Tensor]) -> Sums:
        x, labels = batch
        return {"loss": (F.cross_entropy(self.model(x), labels, reduction="sum"), len(labels))}

    def scores(self, totals: Totals) -> dict[str, float]:
        return totals.means()

    def show(self, run: Run, when: str, step: int) -> None:
        pass

    def assets(self) -> dict[str, Any]:
        return {}


def dense(_where: torch.device) -> tuple[Task, Fit]:
    return Dense(), Fit(batch_size=128)


def cnn(where: torch.device) -> tuple[Task, Fit]:
    parsed = cnn_emnist.config.Config()
    return cnn_emnist.task.make(parsed, where), parsed.fit


def flow(where: torch.device) -> tuple[Task, Fit]:
    parsed = grad_flow.config.Config(model=grad_flow.config.Model(depth=DEPTH, width=WIDTH))
    return grad_flow.task.make(parsed, where), parsed.fit


def lstm(where: torch.device) -> tuple[Task, Fit]:
    parsed = imdb_rnn.config.Config()
    return imdb_rnn.task.make(parsed, where), parsed.fit


KINDS: dict[str, Callable[[torch.device], tuple[Task, Fit]]] = {"mlp": dense, "cnn": cnn, "flow": flow, "lstm": lstm}


def compare(kind: str, seconds: float, base: Fit) -> float:
    """How many times the time of a step without it a step with `--fit.watch` takes."""
    learners = []
    for watch in (False, True):
        torch.manual_seed(0)
        where = device.choose(base)
        task, fit = KINDS[kind](where.where)
        learners.append(Learner(task, replace(fit, watch=watch), where))
        task.model.train()
    clock = time.process_time if where.where.type == "cpu" else time.perf_counter
    times: list[tuple[float, float]] = []
    began, epoch = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        epoch += 1
        for batch, ids in enumerate(learners[0].task.plan("train", epoch, learners[0].cfg.batch_size)):
            took = [0.0, 0.0]
            for side in (0, 1) if batch % 2 else (1, 0):
                start = clock()
                learners[side].do(Step(epoch, batch, ids, 1e-3))
                if where.where.type == "cuda":
                    torch.cuda.synchronize()
                took[side] = clock() - start
            times.append((took[0], took[1]))
            if time.perf_counter() - began > seconds:
                break
    times = times[10:]  # to warm up
    off, on = (statistics.median(side) for side in zip(*times, strict=True))
    low, _, high = statistics.quantiles([b / a for a, b in times])
    print(f"{kind:5} {where}: {1000 * off:.2f} ms off, {1000 * on:.2f} ms on, ratio {on / off:.3f}", end="")
    print(f" (of neighbours {low:.3f} .. {high:.3f}; {len(times)} steps each)", end="")
    watching = learners[1].watch
    assert watching is not None
    start = time.process_time()
    found = watching.arrays()
    list(watched.pictures(found, {}))
    print(f"; pictures {time.process_time() - start:.1f} s")
    return on / off


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for kind in asked.kinds:
        compare(kind, asked.seconds, Fit(device=asked.device, precision=asked.precision))


if __name__ == "__main__":
    main()
