"""What loading the next batch while a step runs could bring at most: the part of a training step that loading takes.

    uv run --all-packages python benchmarks/loading.py [--seconds S]

For cnn-emnist and lstm-pos, each as it is by default, on its sample: one epoch after the other on one thread, time of
the processor. If a second core did all of the loading, for nothing, so many more examples a second would be read.
"""

import argparse
import time
from typing import Any

import torch

import cnn_emnist.config
import cnn_emnist.task
import lstm_pos.config
import lstm_pos.task
from etude.train import device
from etude.train.step import Learner, Step

TASKS = {"cnn-emnist": (cnn_emnist.config, cnn_emnist.task), "lstm-pos": (lstm_pos.config, lstm_pos.task)}


def measure(name: str, seconds: float) -> tuple[float, float]:
    """How many times as many examples a second there could be at most, and how many there are."""
    config: Any = TASKS[name][0].Config()
    where = device.choose(config.fit)
    torch.manual_seed(0)
    task: Any = TASKS[name][1].make(config, where.where)
    learner, load, loading = Learner(task, config.fit, where), task.load, 0.0

    def timed(*given: Any) -> Any:
        nonlocal loading
        start = time.process_time()
        try:
            return load(*given)
        finally:
            loading += time.process_time() - start

    task.load = timed
    task.model.train()
    took, examples, epoch = 0.0, 0, 0
    while took < seconds:
        epoch += 1
        for batch, ids in enumerate(task.plan("train", epoch, config.fit.batch_size)):
            start = time.process_time()
            learner.do(Step(epoch, batch, ids, 1e-3))
            took, examples = took + time.process_time() - start, examples + len(ids)
    return took / (took - loading), examples / took


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    for name in TASKS:
        most, rate = measure(name, seconds)
        print(f"{most:.3f}  {name}: at most so many times as many examples, of {rate:,.0f} a second")


if __name__ == "__main__":
    main()
