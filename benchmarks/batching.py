"""Batches of reviews of about one length against random batches: padding, and the time of an epoch, in turns.

    ETUDE_DATA=... uv run --package imdb-rnn python benchmarks/batching.py [--threads 1] [--rounds 5] [--data imdb]

Both sides train the same model on the same task with the same batch size, 64. A round is every tenth batch of an
epoch's plan, first one side's, then the other's; the ratio is the median of the rounds' ratios. Our recurrent layers
never compute padding, so for them only the shorter batches count; a CNN computes it.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from etude import config, draw
from etude.text.batching import by_length
from etude.train import optim
from etude.train.step import even_batches
from imdb_rnn.config import Config
from imdb_rnn.task import Sentiment, make

BATCH, EVERY = 64, 10


def seconds(task: Sentiment, optimizer: torch.optim.Optimizer, batches: list[np.ndarray]) -> float:
    """Of training on a tenth of these batches, an epoch's plan."""
    task.model.train()
    began = time.perf_counter()
    for ids in batches[::EVERY]:
        loss, count = task.step(task.load("train", ids, 1))["loss"]
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="imdb")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for kind in ("lstm", "cnn"):
        parsed = config.parse(Config, ["--data", asked.data, "--model.kind", kind])
        torch.manual_seed(0)
        task = make(parsed, torch.device("cpu"))
        assert isinstance(task, Sentiment)
        optimizer = optim.optimizer(parsed.fit, task.model)
        lengths = np.array([len(row) for row in task.parts.rows("train")])
        times: list[tuple[float, float]] = []
        padding: tuple[float, float] = (0, 0)
        for epoch in range(asked.rounds + 1):  # the first warms up
            plans = by_length(lengths, BATCH, 0, epoch), even_batches(draw.shuffled(len(lengths), 0, epoch), BATCH)
            padding = tuple(1 - lengths.sum() / sum(len(b) * lengths[b].max() for b in plan) for plan in plans)
            times.append((seconds(task, optimizer, plans[0]), seconds(task, optimizer, plans[1])))
        ratio = statistics.median(random / sorted_ for sorted_, random in times[1:])
        print(
            f"{asked.data}, {kind}, {asked.threads} thread(s): padding {padding[0]:.1%} of a batch by length, "
            f"{padding[1]:.1%} of a random one; an epoch by length is {ratio:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
