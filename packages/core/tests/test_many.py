"""Many runs at once: each equals the one trained alone."""

import dataclasses
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etude import draw, loop, many, run
from etude.config import Fit
from etude.layers.pooling import Pooling
from etude.layers.recurrent import LSTM
from etude.loop import even_batches
from etude.testing import CPU
from etude.text.batching import by_length, pad

FIT = Fit(epochs=1, batch_size=20, device="cpu", precision="fp32")


@dataclass(frozen=True)
class Config:
    kind: str = "mlp"
    double: bool = False
    dropout: float = 0.2
    kl: float = 0.5
    smoothing: float = 0.1
    examples: int = 2000
    fit: Fit = field(default_factory=lambda: FIT)


class VAE(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 4))
        self.decode = nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Linear(16, 12))


class CNN(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.dropout, self.classify = nn.Dropout(dropout), nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = self.features(x.unsqueeze(1).contiguous(memory_format=torch.channels_last))
        return self.classify(self.dropout(x.flatten(1)))


class Reader(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(12, 5), nn.Dropout(dropout)
        self.lstm, self.pooling = LSTM(5, 6, 2, dropout, bidirectional=True), Pooling("max", 12, bidirectional=True)
        self.classify = nn.Linear(12, 3)

    def forward(self, ids, lengths):
        if self.training:
            ids = torch.where(torch.rand(ids.shape) < 0.1, 1, ids)
        x, _ = self.lstm(self.dropout(self.embedding(ids)), lengths)
        return self.classify(self.pooling(x, lengths))


class Task:
    """An MLP (a VAE), a CNN, or an LSTM on texts of ragged length."""

    metric, better, data, summary = "loss", "lower", "numbers", "a small net"

    def __init__(self, config):
        self.config = config
        self.model = {"mlp": VAE, "cnn": CNN, "lstm": Reader}[config.kind](config.dropout)
        if config.double:
            self.model.double()
        rng = np.random.default_rng(config.fit.seed)  # each seed has data of its own
        count = config.examples + 60
        shape = {"mlp": (count, 6), "cnn": (count, 6, 6), "lstm": (count,)}[config.kind]
        self.x = torch.from_numpy(rng.normal(size=shape)).to(torch.float64 if config.double else torch.float32)
        self.texts = [rng.integers(2, 12, rng.integers(0, 9)) for _ in range(count)]
        self.lengths = np.array([len(text) for text in self.texts])
        sums = self.x.reshape(count, -1).sum(1).long() if config.kind != "lstm" else torch.from_numpy(self.lengths)
        self.labels = sums.abs() % 3

    def plan(self, split, epoch, batch_size):
        if split != "train":
            return even_batches(np.arange(self.config.examples, self.config.examples + 60), batch_size)
        if self.config.kind == "lstm":
            return by_length(self.lengths[: self.config.examples], batch_size, self.config.fit.seed, epoch)
        return even_batches(draw.shuffled(self.config.examples, self.config.fit.seed, epoch), batch_size)

    def load(self, split, ids, epoch):
        x = pad([self.texts[n] for n in ids], 0) if self.config.kind == "lstm" else (self.x[ids],)
        return *x, self.labels[ids]

    def step(self, batch):
        *x, labels = batch
        if self.config.kind == "mlp":
            mean, spread = self.model.encode(x[0]).chunk(2, 1)
            z = mean + (spread / 2).exp() * torch.randn_like(spread) if self.model.training else mean
            kl = 0.5 * (mean**2 + spread.exp() - spread - 1).sum()
            found, width = self.model.decode(z).chunk(2, 1)
            error = (0.5 * ((x[0] - found) / width.exp()) ** 2 + width).sum()
            if self.config.kl > 0:  # a decision on which all agree
                error = error + self.config.kl * kl
            return {"loss": (error, len(labels)), "kl": (kl, len(labels))}
        logits = self.model(*x)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.config.smoothing)
        sums = {"loss": (loss, len(labels)), "accuracy": ((logits.argmax(1) == labels).sum(), len(labels))}
        if not self.model.training:
            sums["confusion"] = (torch.bincount(labels * 3 + logits.argmax(1), minlength=9).view(3, 3), len(labels))
        return sums

    def scores(self, totals):
        return totals.means()

    def show(self, run, epoch, step):
        run.text("shown", f"epoch {epoch}, {torch.rand(())}", step)

    def assets(self):
        return {"kind": self.config.kind}


def config(n=0, kind="mlp", double=False, **fit):
    """Of the n-th run: other seeds, rates and such."""
    fit = {"seed": n, "lr": 0.003 * (1 + n), "weight_decay": 0.02 * n, "clip": (0.0, 0.5, 2.0)[n % 3], **fit}
    changed = {"dropout": 0.1 * (n + 1), "kl": 0.5 + 0.25 * n, "smoothing": 0.05 * n}
    return Config(kind=kind, double=double, **changed, fit=dataclasses.replace(FIT, **fit))


def started(cfg, folder, make=Task):
    torch.manual_seed(cfg.fit.seed)
    task = make(cfg)
    return many.Member(loop.Learner(task, cfg.fit, CPU), run.Run(folder, cfg, CPU), io.StringIO())


def alone(cfgs, folder, make=Task):
    for n, cfg in enumerate(cfgs):
        member = started(cfg, folder / str(n), make)
        with redirect_stdout(io.StringIO()):
            loop.fit(member.learner.task, cfg.fit, member.run, CPU)
        member.run.close()


def together(cfgs, folder, make=Task):
    members = [started(cfg, folder / str(n), make) for n, cfg in enumerate(cfgs)]
    try:
        scored_alone = many.fit(members)
    finally:
        for member in members:
            member.run.close()
    assert scored_alone == ""
    return members


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def near(a: Any, b: Any, rtol: float, name: str = "") -> None:
    """Nested states are equal up to rounding."""
    if isinstance(a, torch.Tensor):
        scale = float(a.double().abs().max()) if a.numel() else 0.0
        torch.testing.assert_close(b, a, rtol=rtol, atol=rtol * scale, msg=lambda text: f"{name}: {text}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            near(a[key], b[key], rtol, f"{name}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            near(x, y, rtol, f"{name}[{n}]")
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=rtol, abs=1e-12), name
    else:
        assert a == b, name


@pytest.mark.parametrize(("double", "rtol"), [(False, 1e-4), (True, 1e-9)])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm"])
def test_every_run_is_the_run_alone_up_to_rounding(kind, double, rtol, tmp_path):
    """100 steps with other seeds, data, orders, rates, dropout, weights of the KL term, decays, and clipping."""
    cfgs = [config(n, kind, double) for n in range(3)]
    alone(cfgs, tmp_path / "alone")
    together(cfgs, tmp_path / "together")
    for n in range(3):
        one, other = tmp_path / "alone" / str(n), tmp_path / "together" / str(n)
        for name in ("step/loss", "step/gradient_norm", "step/lr", "loss/valid"):
            expected, found = curves(one)[name], curves(other)[name]
            assert len(found) == (1 if name == "loss/valid" else 100)
            near(expected, found, max(rtol, 1e-6), name)  # events are float32
        near(rows(one), rows(other), rtol)
        for name in ("last", "best"):
            a, b = run.checkpoint(one, name), run.checkpoint(other, name)
            a["progress"] = b["progress"] = None
            near(a, b, 100 * rtol)
