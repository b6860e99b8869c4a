"""How many threads a training step computes on: all that there are, or one where that is as fast and changes no bit.

Handing out the pieces of a small step takes longer than it saves, the more so where other processes want the cores.
How busy a machine is differs from minute to minute, but what is learnt on it must not. So before a run begins, `train`
tries some of its steps on one thread and on all, and takes one only if it was as fast *and* gave the same gradients,
weights and scores in every bit. The choice is kept in environment.json, and a run that is resumed goes on with it. What
scores and shows uses all threads. Where one would be much faster but rounds in another way, the user is told.
"""

import copy
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from etude.config import Fit
from etude.train.device import Device
from etude.train.step import Learner, Step, train_step
from etude.train.task import Task

LARGE = 0.2  # seconds of all threads' work for a step; with more it is worth sharing out, and too long to be tried
ROUNDS, BUDGET = (3, 75), 0.3  # how many steps, in turns, and after how many seconds it is enough
MUCH = 1.5  # times as fast is worth a word to the user where it cannot be chosen


class Trial(NamedTuple):
    """Training steps on one thread and on all: seconds for each, and whether the results are the same in every bit."""

    one: float
    all: float
    same: bool


def choose(task: Task, cfg: Fit, device: Device, begun: Mapping[str, Any]) -> tuple[Device, str]:
    """The device with the number of threads for training steps, and a line for people if there is something to say.

    `begun` is the first entry of environment.json, or empty. Nothing is chosen where the user has said how many threads
    there are, where a run has several processes, and for a model that is compiled for them.
    """
    most = torch.get_num_threads()
    given = any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    if given or most == 1 or device.where.type != "cpu" or device.world > 1 or cfg.compile:
        return device, ""
    if begun.get("step_threads") == 1:
        return replace(device, threads=1), f"1 of {most} for training steps, as the run began"
    if begun or (trial := tried(task, cfg, device, most)) is None:
        return device, ""
    times = f"{1e3 * trial.one:.1f} ms for a step on one, {1e3 * trial.all:.1f} ms on all"
    if trial.same and trial.one <= trial.all:
        return replace(device, threads=1), f"1 of {most} for training steps: {times}, the same result to the bit"
    if trial.one * MUCH <= trial.all:
        return device, f"{most}: {times}; with OMP_NUM_THREADS=1 it is faster now, but rounds in another way"
    return device, ""


def tried(task: Task, cfg: Fit, device: Device, most: int) -> Trial | None:
    """Tries training steps of the first epoch on one thread and on `most`, without a trace; None if one is too long."""
    learner = Learner(copy.copy(task), cfg, device)  # copied, so that what a step counts is not counted twice
    model, plan = learner.model, task.plan("train", 1, cfg.batch_size)
    tensors = [*model.parameters(), *model.buffers()]
    before = [x.detach().clone() for x in tensors]

    def restore() -> None:
        model.zero_grad(set_to_none=True)
        learner.optimizer.state.clear()
        with torch.no_grad():
            for x, old in zip(tensors, before, strict=True):
                x.copy_(old)

    def timed(threads: int, n: int) -> tuple[float, list[Tensor]]:
        """Seconds for the step of this number, and what came of it."""
        restore()
        model.train()
        step, began = Step(1, n, plan[n], cfg.lr), time.perf_counter()
        with replace(device, threads=threads).step_threads():
            totals, norm = train_step(learner, step)
        took = time.perf_counter() - began
        gradients = [x.grad for x in model.parameters() if x.grad is not None]  # Adam hides their last bits
        sums = (*totals.sums.values(), *totals.counts.values(), norm)
        return took, [x.detach().clone() for x in (*tensors, *gradients, *sums)]

    rounds: list[Trial] = []
    with torch.random.fork_rng(devices=[]):
        try:
            timed(most, 0)  # what a first step sets up
            worked = time.process_time()  # of this process alone, however busy the machine is
            timed(most, 0)
            if time.process_time() - worked > LARGE:
                return None
            began = time.perf_counter()
            for r in range(ROUNDS[1]):
                if r >= ROUNDS[0] and time.perf_counter() - began > BUDGET:
                    break
                n = r * len(plan) // ROUNDS[1]
                (one, mine), (every, theirs) = timed(1, n), timed(most, n)
                rounds.append(Trial(one, every, all(map(torch.equal, mine, theirs))))
        finally:
            restore()
    ones, alls, same = zip(*rounds, strict=True)
    return Trial(statistics.median(ones), statistics.median(alls), all(same))
