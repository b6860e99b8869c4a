"""What two processes do, one thing after the other: test_processes.py runs this and looks at what is left."""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from toy.config import Config
from toy.task import Toy

from etude.config import Fit
from etude.errors import UserError
from etude.train import device, loop
from etude.train.progress import Progress
from etude.train.step import Learner, Step
from etude.train.totals import Totals

FIT = Fit(device="cpu", precision="fp32", optimizer="sgd", lr=0.1, batch_size=20, epochs=1)


class Gated(Toy):
    """Has a bias that only even ids use, one that none uses; and counts the odd ones apart, where there are any."""

    def __init__(self, config):
        super().__init__(config)
        for name in ("sometimes", "never"):
            self.model.register_parameter(name, torch.nn.Parameter(torch.zeros(3)))

    def load(self, split, ids, epoch):
        assert len(ids), "no task is asked for a batch of nothing"
        return super().load(split, ids, epoch), torch.from_numpy(ids)

    def step(self, batch):
        (digits, real, labels), ids = batch
        logits, odd = self.model(digits, real), ids % 2 == 1
        sums = {"odd": (ids[odd].sum(), int(odd.sum()))} if odd.any() else {}
        if not odd.all():
            logits = logits + self.model.sometimes * ~odd[:, None]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return sums | {"loss": (loss, len(labels)), "each": (torch.full((3,), len(labels)), len(labels))}


def config(**knobs):
    fit = dataclasses.replace(FIT, **{name: knobs.pop(name) for name in list(knobs) if hasattr(FIT, name)})
    return Config(dropout=0.0, fit=fit, **knobs)


def steps(where, batches, task=Gated, **knobs):
    """Weights, gradients and totals after some optimiser steps on these batches."""
    cfg = config(**knobs)
    torch.manual_seed(0)
    learner = Learner(task(cfg), cfg.fit, where)
    learner.model.train()
    said = []
    for number, ids in enumerate(batches):
        taken = learner.do(Step(1, number, np.array(ids), 0.1))
        gradients = {n: p.grad for n, p in learner.model.named_parameters()}
        said.append({"totals": taken.totals.state(), "norm": taken.norm, "gradients": gradients})
    return {"model": learner.model.state_dict(), "steps": said, "optimizer": learner.optimizer.state_dict()}


def error(kind, call):
    try:
        call()
    except kind as found:
        return str(found)
    return None


def scored(where):
    cfg = config(batch_size=13)
    task = Gated(cfg)
    task.plan = lambda split, epoch, size: [np.array([1, 3, 4]), np.array([7]), np.array([8])]
    torch.manual_seed(0)
    learner = Learner(task, cfg.fit, where)
    return learner.do("valid").state()


RAGGED = [range(20), [1, 2], [3], [4, 5, 6], [7]]  # on two processes: both, one at a time


def main(out):
    where = device.choose(FIT)
    found = {
        "plain": steps(where, [range(1, 21), *RAGGED], norm=False),
        "adamw": steps(where, [range(1, 21), *RAGGED], norm=False, optimizer="adamw"),
        "norm": steps(where, RAGGED[:2] + RAGGED[3:4] + [[8, 9]]),
        "accumulated": steps(where, [range(1, 21), *RAGGED], norm=False, accumulate=3),
        "scored": scored(where),
    }
    if where.world == 2:
        found["lone"] = steps(where, [range(20), [3], range(20)])
        shapes = Totals()
        shapes.add({"loss": (torch.ones(2 + where.rank), 1)})
        found["shapes"] = error(ValueError, lambda: shapes.all_reduce(where))
        model = torch.nn.Linear(2, 2)
        with torch.no_grad():
            model.bias.fill_(where.rank)
        model.weight.data.fill_(1)
        found["apart"] = error(UserError, lambda: loop.check_equal(model, Progress(step=7), where))
        model.bias.data.fill_(1)
        found["alike"] = error(UserError, lambda: loop.check_equal(model, Progress(step=7), where))
        found["late"] = error(UserError, lambda: loop.check_equal(model, Progress(step=where.rank), where))
        began = time.perf_counter()
        found["highest"] = where.highest([where.rank, 5 - where.rank])
        found["seconds"] = time.perf_counter() - began
        if where.rank == 1:  # ends without a word: the other says so
            torch.save(found, out / f"{where.rank}.pt")
            return
        found["left"] = error(UserError, lambda: where.gather(None))
    torch.save(found, out / f"{where.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
