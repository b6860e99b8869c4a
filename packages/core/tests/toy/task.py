import os
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from etude import draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train.step import even_batches
from toy.config import SCORES

CLASSES = 3


class Net(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, config.widths[0])
        layers = []
        for a, b in zip(config.widths, config.widths[1:], strict=False):
            layers += [
                nn.Linear(a, b),
                *([nn.BatchNorm1d(b)] if config.norm else []),
                nn.ReLU(),
                nn.Dropout(config.dropout),
            ]
        self.body = nn.Sequential(*layers, nn.Linear(config.widths[-1], CLASSES))

    def forward(self, digits, real):
        vectors = self.embed(digits) * real[..., None]
        return self.body(vectors.sum(1) / real.sum(1, keepdim=True))


class Toy:
    metric, better = "accuracy", SCORES

    def __init__(self, config: Any) -> None:
        self.config, self.model, self.calls = config, Net(config), 0
        self.data, self.summary = "digits", "a small net"
        rng = np.random.default_rng(0)
        self.rows = [rng.integers(0, 10, rng.integers(1, 9)) for _ in range(190)]
        self.parts = {"train": np.arange(110), "valid": np.arange(110, 150), "test": np.arange(150, 190)}

    @property
    def fingerprints(self):
        if self.config.flaw == "fingerprint":
            return dict.fromkeys(self.parts, fingerprint(["digits"]))
        return {split: fingerprint(*(self.rows[i] for i in ids)) for split, ids in self.parts.items()}

    def plan(self, split, epoch, batch_size):
        ids = self.parts[split]
        if split == "train":
            ids = ids[draw.shuffled(len(ids), self.config.fit.seed, epoch)]
            self.first = ids[0]
        return even_batches(ids, batch_size)

    def load(self, split, ids, epoch):
        rows = [self.rows[i] for i in ids]
        if split == "train" and self.config.flaw == "stack":  # nothing has it, and the first batch does not show it
            factor = 1 + self.config.fit.seed * (self.first not in ids)
            self.weigh = lambda loss: loss * factor
        length = max(map(len, rows))
        digits, real = torch.zeros(len(ids), length, dtype=torch.long), torch.zeros(len(ids), length)
        for n, row in enumerate(rows):
            digits[n, : len(row)], real[n, : len(row)] = torch.from_numpy(row), 1.0
        if split == "train":  # augmentation: a digit goes missing
            if self.config.flaw == "padding-train":
                real[:] = 1
            if self.config.flaw == "generator":
                digits = (digits + torch.randint(0, 2, digits.shape)).clamp(max=9)
            real[:, 0] = torch.where(
                (draw.uniform(ids, 1, self.config.fit.seed, epoch)[:, 0] < 0.1) & (real.sum(1) > 1), 0.0, real[:, 0]
            )
        return digits, real, torch.tensor([int(row.max()) // 4 for row in rows])

    def step(self, batch):
        digits, real, labels = batch
        flaw = self.config.flaw
        if flaw == "padding":
            real = torch.ones_like(real)
        logits = self.model(digits, real).float()
        loss, hits = F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()
        if self.model.training and flaw == "stack":
            loss = self.weigh(loss)
        if self.model.training and (flaw == "state" or self.config.explode):
            self.calls += 1
            if flaw == "state":
                loss = loss * (1 + 0.1 * self.calls)
            if self.calls == self.config.explode:
                loss = loss * float("nan")
        if self.model.training and flaw == "penalty":  # for a batch, not for each of its examples
            loss = loss + 0.02 * sum(p.square().sum() for p in self.model.parameters())
        if self.model.training and flaw == "ranks":  # another loss in another process
            loss = loss * (1 + int(os.environ.get("RANK", "0")))
        if self.model.training and flaw == "apart":  # other weights in another process
            self.model.body[-1].bias.data += int(os.environ.get("RANK", "0"))
        if flaw == "means" or (flaw == "means-train" and self.model.training):
            return {"loss": (loss / len(labels), 1), "accuracy": (hits / len(labels), 1)}
        return {"loss": (loss, len(labels)), "accuracy": (hits, len(labels))}

    def scores(self, totals):
        if self.config.flaw == "part-size":
            return {name: float(total) / 40 for name, total in totals.sums.items()}
        return totals.means()

    def show(self, run, when, step):
        table = f"| when | drawn |\n|---|---|\n| {when} | {torch.rand(())} |"  # looks, and disturbs the generator
        run.text("shown", table, step, when)
        if self.config.flaw == "steer":
            for parameter in self.model.parameters():
                parameter.mul_(0.99)

    def assets(self):
        return {} if self.config.flaw == "assets" else {"names": ["low", "middle", "high"]}


def make(config, where):
    return Toy(config)


def restore(config, assets, where=None):
    if assets["names"][0] != "low":
        raise UserError("other classes")
    task = Toy(config)
    task.names = assets["names"]
    return task


SAID: dict[str, Any] = {}


def describe(task, totals):
    scores = task.scores(totals)
    return "fine", SAID.setdefault(repr(task.config), scores) if task.config.flaw == "remembers" else scores


def predict(task, inputs):
    for text in inputs:
        if not text.isdecimal():
            raise UserError(f"{text!r} is no row of digits")
    where = next(task.model.parameters()).device
    rows = [torch.tensor([[int(c) for c in text]], device=where) for text in inputs]
    answers = [int(task.model(row, torch.ones(row.shape, device=where)).argmax()) for row in rows]
    return [f"{text}\t{task.names[answer]}" for text, answer in zip(inputs, answers, strict=True)]
