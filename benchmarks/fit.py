"""`fit` against the same training written by hand, in one process, in turns: what do the conveniences cost?

    uv run --package cnn-emnist python benchmarks/fit.py

Both sides get the same model, batches, precision, optimiser and schedule, and score the same validation images. `fit`
also checks every loss, accumulates exact totals, logs every step to TensorBoard, and writes checkpoints and rows.
"""

import statistics
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F

from cnn_emnist.config import Config
from cnn_emnist.task import Letters, make
from etude import config, draw
from etude.train import device, loop, optim, run
from etude.train.task import Split

BATCHES, VALID = 150, 1000
ROUNDS = 5


class Part(Letters):
    """A part of an epoch, and no pictures: what is compared is the loop."""

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        return super().plan(split, epoch, batch_size)[: BATCHES if split == "train" else VALID // batch_size]

    def show(self, run: run.Run, when: str, step: int) -> None:
        pass


def fresh(parsed: Config, where: device.Device, kind: type[Part] = Part) -> Part:
    torch.manual_seed(0)
    task = make(parsed, where.where)
    task.__class__ = kind
    return cast(Part, task)


def with_fit(parsed: Config, where: device.Device, folder: Path, kind: type[Part] = Part) -> float:
    task = fresh(parsed, where, kind)
    began = time.perf_counter()
    with redirect_stdout(StringIO()):
        one = run.Run(folder, parsed, where)
        loop.fit(task, parsed.fit, one, where)
        one.close()
    return time.perf_counter() - began


def by_hand(parsed: Config, where: device.Device) -> float:
    task = fresh(parsed, where)
    began = time.perf_counter()
    model = task.model.to(where.where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optim.optimizer(parsed.fit, model)
    model.train()
    plan = task.plan("train", 1, parsed.fit.batch_size)
    for number, ids in enumerate(plan):
        optim.set_learning_rate(optimizer, optim.learning_rate(parsed.fit, (number + 0.5) / len(plan)))
        torch.manual_seed(draw.key(parsed.fit.seed, 1, number, 0))
        images, labels = task.load("train", ids, 1)
        with where.autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=parsed.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    hits = 0
    with torch.inference_mode(), where.autocast():
        for ids in task.plan("valid", 0, parsed.fit.batch_size):
            images, labels = task.load("valid", ids, 0)
            hits += int((model(images).argmax(1) == labels).sum())
    if where.where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(flags: list[str]) -> float:
    """How many times the time of the loop by hand `fit` takes."""
    parsed = config.parse(Config, ["--data", "fashion-mnist", "--fit.epochs", "1", *flags])
    where = device.choose(parsed.fit)
    print(f"{BATCHES} batches of {parsed.fit.batch_size}, {where}")
    by_hand(parsed, where)  # warm up
    times: list[tuple[float, float]] = []
    with TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            times.append((with_fit(parsed, where, Path(folder) / str(number)), by_hand(parsed, where)))
            print(f"round {number + 1}: fit {times[-1][0]:.2f} s, by hand {times[-1][1]:.2f} s")
    ratio = statistics.median(ours for ours, _ in times) / statistics.median(theirs for _, theirs in times)
    print(f"fit takes {ratio:.3f} times the time of the hand-written loop (median of {ROUNDS} rounds)")
    return ratio


if __name__ == "__main__":
    measure(sys.argv[1:])
