"""Many runs at once: each equals the one trained alone."""

import ast
import copy
import csv
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import types
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy.config import SCORES
from toy.config import Config as ToyConfig

from etude import cli, draw
from etude.config import Fit, dump
from etude.fingerprint import fingerprint
from etude.layers.pooling import Pooling
from etude.layers.recurrent import LSTM
from etude.package import Package
from etude.signals import Stopped
from etude.stacked import Unstackable, proof
from etude.stacked import runs as stacked
from etude.study import command
from etude.testing import CPU, different
from etude.text.batching import by_length, pad
from etude.train import checkpoint, loop, run
from etude.train.device import Device
from etude.train.step import Learner, even_batches

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

    metric, better, data, summary = "loss", {"loss": "lower"}, "numbers", "a small net"

    def __init__(self, config):
        self.config, self.kl = config, config.kl
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

    @property
    def fingerprints(self):
        return {"train": fingerprint(self.x, self.labels)}

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
            if self.kl > 0:
                error = error + self.kl * kl
            return {"loss": (error, len(labels)), "kl": (kl, len(labels))}
        logits = self.model(*x)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.config.smoothing)
        sums = {"loss": (loss, len(labels)), "accuracy": ((logits.argmax(1) == labels).sum(), len(labels))}
        if not self.model.training:
            sums["confusion"] = (torch.bincount(labels * 3 + logits.argmax(1), minlength=9).view(3, 3), len(labels))
        return sums

    def scores(self, totals):
        return totals.means()

    def show(self, run, when, step):
        run.text("shown", f"{when}, {torch.rand(())}", step)

    def assets(self):
        return {"kind": self.config.kind}


def config(n=0, kind="mlp", double=False, **fit):
    """Of the n-th run: other seeds, rates and such."""
    fit = {"seed": n, "lr": 0.003 * (1 + n), "weight_decay": 0.02 * n, "clip": (0.0, 0.5, 2.0)[n % 3], **fit}
    return Config(kind=kind, double=double, dropout=0.1 * (n + 1), fit=dataclasses.replace(FIT, **fit))


def started(cfg, folder, make=Task):
    torch.manual_seed(cfg.fit.seed)
    task = make(cfg)
    return stacked.Replica(Learner(task, cfg.fit, CPU), run.Run(folder, cfg, CPU), io.StringIO())


def alone(cfgs, folder, make=Task):
    for n, cfg in enumerate(cfgs):
        replica = started(cfg, folder / str(n), make)
        with redirect_stdout(io.StringIO()):
            loop.fit(replica.learner.task, cfg.fit, replica.run, CPU)
        replica.run.close()


def together(cfgs, folder, make=Task):
    replicas = [started(cfg, folder / str(n), make) for n, cfg in enumerate(cfgs)]
    try:
        scored_alone = stacked.fit(replicas)
    finally:
        for replica in replicas:
            replica.run.close()
    assert scored_alone == ""
    return replicas


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
    """100 steps with other seeds, data, orders, rates, dropout, decays, and clipping."""
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
            a, b = checkpoint.read(one, name), checkpoint.read(other, name)
            a["progress"] = b["progress"] = None
            near(a, b, 100 * rtol)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_optimiser_and_bf16(optimizer, precision, tmp_path, monkeypatch):
    monkeypatch.setattr("test_stacked.CPU", Device(torch.device("cpu"), precision))
    cfgs = [dataclasses.replace(config(n, optimizer=optimizer, lr=1e-3 * (1 + n)), examples=400) for n in range(3)]
    alone(cfgs, tmp_path / "alone")
    together(cfgs, tmp_path / "together")
    for n in range(3):
        a, b = (rows(tmp_path / how / str(n)) for how in ("alone", "together"))
        near(a, b, 1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_every_optimiser_has_the_state_that_it_has_alone(optimizer, momentum, tmp_path):
    cfgs = [
        dataclasses.replace(config(n, double=True, optimizer=optimizer, lr=1e-3, momentum=momentum), examples=200)
        for n in range(3)
    ]
    alone(cfgs, tmp_path / "alone")
    together(cfgs, tmp_path / "together")
    for n in range(3):
        one, other = tmp_path / "alone" / str(n), tmp_path / "together" / str(n)
        near(rows(one), rows(other), 1e-9)
        a, b = (checkpoint.read(folder, "last") for folder in (one, other))
        near(a["model"], b["model"], 1e-7)
        near(a["optimizer"], b["optimizer"], 1e-7)


@pytest.mark.parametrize(("knob", "value"), [("momentum", 0.5), ("optimizer", "sgd")])
def test_runs_of_another_optimiser_are_not_stacked(knob, value, tmp_path):
    with pytest.raises(Unstackable, match=f"its fit.{knob} differs from run to run"):
        together([short(0), short(1, **{knob: value})], tmp_path / "runs")


def short(n, **fit):
    return dataclasses.replace(config(n, double=True, **{"epochs": 3, **fit}), examples=200)


def test_runs_end_when_they_would_alone_and_the_others_go_on(tmp_path):
    """One has no patience, one goes on longer, and one becomes NaN: that one fails, with its reason."""
    cfgs = [
        short(0, patience=1, lr=0.3, schedule="constant", epochs=8),
        short(1, epochs=2),
        short(2, lr=1e200, optimizer="sgd", clip=0.0),
        short(3, epochs=5),
    ]
    cfgs = [dataclasses.replace(c, fit=dataclasses.replace(c.fit, optimizer="sgd")) for c in cfgs]
    alone([cfgs[n] for n in (0, 1, 3)], tmp_path / "alone")
    replicas = together(cfgs, tmp_path / "together")
    lengths = []
    for replica, n in zip([replicas[0], replicas[1], replicas[3]], range(3), strict=True):
        expected = rows(tmp_path / "alone" / str(n))
        near(expected, rows(replica.run.path), 1e-9)
        result, one = (json.loads((f / "result.json").read_text()) for f in (replica.run.path, tmp_path / f"alone/{n}"))
        process = {"seconds": 0, "memory_mb": 0, "weights": ""}  # of the process, whichever runs it has trained
        near({**one, **process}, {**result, **process}, 1e-9)
        lengths.append(len(expected))
    assert lengths[0] < 8
    assert lengths[1:] == [2, 5]
    assert "became" in str(replicas[2].error)
    assert str(replicas[2].error) in replicas[2].log.getvalue()
    assert not (replicas[2].run.path / "result.json").exists()


class Interrupted(Task):
    """Asks the process to stop when the second run loads its 13th batch."""

    loads = 0

    def load(self, split, ids, epoch):
        if self.config.fit.seed == 1:
            self.loads += 1
            if self.loads == 13:
                signal.raise_signal(signal.SIGTERM)
        return super().load(split, ids, epoch)


def test_stopped_and_gone_on_with_it_is_bitwise_the_same_and_alone_the_same_up_to_rounding(tmp_path):
    cfgs = [short(n) for n in range(3)]
    together(cfgs, tmp_path / "whole")
    with pytest.raises(Stopped):
        together(cfgs, tmp_path / "stopped", Interrupted)
    states = [checkpoint.read(tmp_path / "stopped" / str(n), "last") for n in range(3)]
    assert len({(s["progress"]["epoch"], s["progress"]["batch"]) for s in states}) == 1
    assert states[0]["progress"]["step"] in range(1, 30)
    alone(cfgs[2:], tmp_path / "unused")
    shutil.copytree(tmp_path / "stopped" / "2", tmp_path / "alone" / "0")
    alone(cfgs[2:], tmp_path / "alone")
    together(cfgs, tmp_path / "stopped")
    for n in range(3):
        one, other = tmp_path / "whole" / str(n), tmp_path / "stopped" / str(n)
        assert rows(one) == rows(other)
        a, b = checkpoint.read(one, "last"), checkpoint.read(other, "last")
        assert different(a["model"], b["model"], "") is None
        assert different(a["optimizer"], b["optimizer"], "") is None
    near(rows(tmp_path / "whole" / "2"), rows(tmp_path / "alone" / "0"), 1e-9)


def test_a_run_at_another_place_is_trained_with_the_others(tmp_path):
    """After a kill some have saved and some have not."""
    cfgs = [short(n) for n in range(3)]
    together(cfgs, tmp_path / "whole")
    with pytest.raises(Stopped):
        together(cfgs, tmp_path / "stopped", Interrupted)
    shutil.rmtree(tmp_path / "stopped" / "1")
    together(cfgs, tmp_path / "stopped")
    for n in range(3):
        near(rows(tmp_path / "whole" / str(n)), rows(tmp_path / "stopped" / str(n)), 1e-9)


def stubborn(step):
    """A task with another step."""
    return lambda cfg: type("Stubborn", (Task,), {"step": step})(cfg)


def with_noise(draw_noise):
    def step(self, batch):
        x = self.model.encode(batch[0])
        x = draw_noise(self, x) if self.model.training else x
        loss = (x**2).sum() + (self.model.decode(batch[0][:, :2]) ** 2).sum()
        return {"loss": (loss, len(batch[1]))}

    return stubborn(step)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (with_noise(lambda _, x: F.dropout1d(x.unsqueeze(1), 0.5)), "cannot be stacked"),
        (with_noise(lambda _, x: x + torch.bernoulli(torch.full_like(x, 0.5))), "cannot be stacked"),
        (with_noise(lambda _, x: x * float(x.detach().sum())), "decides by a number in which the runs differ"),
        (with_noise(lambda self, x: x * (1 + self.config.fit.seed)), "another loss than one alone"),
        (with_noise(lambda self, x: x.detach() * self.config.fit.seed + x), "another loss than one alone"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_and_the_runs_can_go_on_alone(make, why, tmp_path):
    cfgs = [short(n) for n in range(2)]
    with pytest.raises(Unstackable, match=why):
        together(cfgs, tmp_path / "runs", make)
    alone(cfgs[:1], tmp_path / "alone", make)
    alone(cfgs, tmp_path / "runs", make)
    assert rows(tmp_path / "runs" / "0") == rows(tmp_path / "alone" / "0")


@pytest.mark.parametrize("part", [{"kl": 0.6}, {"smoothing": 0.2}])
def test_what_is_not_declared_may_not_differ(part, tmp_path):
    """A weight of the loss, such as the KL term's, would be that of the first run for all."""
    cfgs = [short(0), dataclasses.replace(short(1), **part)]
    with pytest.raises(Unstackable, match=rf"task.config.{next(iter(part))} differs from run to run \(0.\d, 0.\d\)"):
        together(cfgs, tmp_path / "runs")


def holding(place):
    """A task that holds a number of its own somewhere."""

    def make(cfg):
        task = Task(cfg)
        place(task, 1 + cfg.fit.seed / 1000)
        return task

    return make


def in_a_list(task, x):
    task.weights = [1.0, x]


def in_an_object(task, x):
    task.settings = types.SimpleNamespace(weight=x)


def in_a_module(task, x):
    task.model.encode[0].eps = x


def in_a_tensor(task, x):
    task.weights = {"b": torch.tensor([x])}


def of_numpy(task, x):
    task.weight = np.float32(x)


def in_the_model(task, x):
    task.model.decode[1].approximate = f"by {x}"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (in_a_list, "task.weights[1]"),
        (in_an_object, "task.settings.weight"),
        (in_a_module, "model.encode.0.eps"),
        (in_a_tensor, "task.weights[b]"),
        (of_numpy, "task.weight"),
        (in_the_model, "model.decode.1.approximate"),
    ],
)
def test_a_number_in_which_tasks_or_models_differ_is_named(place, name, tmp_path):
    """Whether a step reads it or not, and however small the difference is."""
    with pytest.raises(Unstackable, match=f"its {re.escape(name)} differs from run to run"):
        together([short(0), short(1)], tmp_path / "runs", holding(place))


class Annealing(Task):
    """The weight of the KL term is another in each epoch."""

    def weight(self, epoch):
        return self.config.kl * min(1, epoch / 3)

    def load(self, split, ids, epoch):
        self.kl = self.weight(epoch)
        return super().load(split, ids, epoch)


class ByWarmUp(Annealing):
    """It rises over one epoch more in each run; in the first epoch it is the same."""

    def weight(self, epoch):
        return self.config.kl * (1 + max(0, epoch - 1) / (1 + self.config.fit.seed))


class Hidden(ByWarmUp):
    """The same, but no attribute has it."""

    def load(self, split, ids, epoch):
        self.kl, kl = self.config.kl, self.weight(epoch)
        self.weigh = lambda loss: loss * kl / self.config.kl
        return Task.load(self, split, ids, epoch)

    def step(self, batch):
        sums = super().step(batch)
        return {**sums, "loss": (self.weigh(sums["loss"][0]), sums["loss"][1])}


def test_a_weight_that_is_annealed_alike_in_all_runs_is_right(tmp_path):
    cfgs = [short(n, epochs=4) for n in range(3)]
    alone(cfgs, tmp_path / "alone", Annealing)
    together(cfgs, tmp_path / "together", Annealing)
    for n in range(3):
        near(rows(tmp_path / "alone" / str(n)), rows(tmp_path / "together" / str(n)), 1e-9)


@pytest.mark.parametrize(
    ("make", "why"), [(ByWarmUp, r"its task.kl differs from run to run \(1.0, 0.75\)"), (Hidden, "another loss")]
)
def test_a_weight_that_is_annealed_otherwise_in_each_run_is_found_out_and_they_go_on_alone(make, why, tmp_path):
    """In the first epoch there is no difference. They go on from the end of it and end as runs alone."""
    cfgs = [short(n, epochs=4) for n in range(2)]
    alone(cfgs, tmp_path / "alone", make)
    with pytest.raises(Unstackable, match=why):
        together(cfgs, tmp_path / "runs", make)
    states = [checkpoint.read(tmp_path / "runs" / str(n), "last") for n in range(2)]
    assert [state["progress"]["epoch"] for state in states] == [2, 2]
    alone(cfgs, tmp_path / "runs", make)
    for n in range(2):
        near(rows(tmp_path / "alone" / str(n)), rows(tmp_path / "runs" / str(n)), 1e-9)


def test_runs_in_other_epochs_do_not_share_a_weight_that_is_annealed(tmp_path):
    cfgs = [short(n, epochs=4) for n in range(2)]
    alone([dataclasses.replace(cfgs[0], fit=dataclasses.replace(cfgs[0].fit, epochs=1))], tmp_path / "runs", Annealing)
    folder = tmp_path / "runs" / "0"
    (folder / "result.json").unlink()
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("epochs: 1", "epochs: 4"))
    with pytest.raises(Unstackable, match=r"its task.kl differs"):
        together(cfgs, tmp_path / "runs", Annealing)


class FadingDropout(Task):
    def load(self, split, ids, epoch):
        self.model.encode[2].p = self.config.dropout / max(1, epoch)
        return super().load(split, ids, epoch)


def test_dropout_is_what_it_is_now_in_every_run(tmp_path):
    cfgs = [short(n) for n in range(3)]
    alone(cfgs, tmp_path / "alone", FadingDropout)
    together(cfgs, tmp_path / "together", FadingDropout)
    for n in range(3):
        near(rows(tmp_path / "alone" / str(n)), rows(tmp_path / "together" / str(n)), 1e-9)


class Harsher(Task):
    """Judges validation by another measure in each run, but for the first epoch; no attribute has it."""

    def plan(self, split, epoch, batch_size):
        if split == "train":
            factor = 1 + self.config.fit.seed * (epoch > 1)
            self.measure = lambda loss: loss * (1 if self.model.training else factor)
        return super().plan(split, epoch, batch_size)

    def step(self, batch):
        sums = super().step(batch)
        return {**sums, "loss": (self.measure(sums["loss"][0]), sums["loss"][1])}


def test_scoring_is_proved_in_every_epoch_too(tmp_path):
    cfgs = [short(n) for n in range(2)]
    alone(cfgs, tmp_path / "alone", Harsher)
    replicas = [started(cfg, tmp_path / "together" / str(n), Harsher) for n, cfg in enumerate(cfgs)]
    assert stacked.fit(replicas) == "a stacked step has another loss than one alone"
    for n, replica in enumerate(replicas):
        replica.run.close()
        near(rows(tmp_path / "alone" / str(n)), rows(tmp_path / "together" / str(n)), 1e-9)


def test_a_small_error_of_the_gradient_does_not_pass_for_rounding_in_bf16(tmp_path, monkeypatch):
    monkeypatch.setattr("test_stacked.CPU", Device(torch.device("cpu"), "bf16"))
    wrong = with_noise(lambda self, x: x + 0.1 * self.config.fit.seed * (x - x.detach()))
    cfgs = [dataclasses.replace(short(n), double=False) for n in range(2)]
    with pytest.raises(Unstackable, match="another gradient than one alone, of encode"):
        together(cfgs, tmp_path / "runs", wrong)


def test_an_error_in_a_small_gradient_is_found_out(tmp_path):
    """That of all parameters together is 100 times as large, and would hide it."""

    def step(self, batch):
        x, encoded = batch[0], self.model.encode(batch[0])
        small = 1e-2 * encoded.sum()
        small = small + 0.5 * self.config.fit.seed * (small - small.detach())
        return {"loss": ((self.model.decode(x[:, :2]) ** 2).sum() + small, len(x))}

    with pytest.raises(Unstackable, match="another gradient than one alone, of encode"):
        together([dataclasses.replace(short(n), double=False) for n in range(2)], tmp_path / "runs", stubborn(step))


def test_random_functions_draw_what_is_drawn_alone(tmp_path):
    def noise(_, x):
        x = x * torch.rand(x.shape) + torch.randn(len(x), 1) + torch.rand_like(x)
        return F.dropout(x, 0.3) + torch.randint(0, 5, (len(x), 1)) + torch.randn_like(x.T).T

    cfgs = [short(n) for n in range(3)]
    alone(cfgs, tmp_path / "alone", with_noise(noise))
    together(cfgs, tmp_path / "together", with_noise(noise))
    for n in range(3):
        near(rows(tmp_path / "alone" / str(n)), rows(tmp_path / "together" / str(n)), 1e-9)


def test_models_of_other_shapes_and_obstacles_are_left_with_a_reason(tmp_path):
    said = []

    def trained(cfgs, name):
        wanted = [stacked.Wanted(cfg, tmp_path / name / str(n), "again") for n, cfg in enumerate(cfgs)]
        for one in wanted:
            one.folder.mkdir(parents=True)
        return wanted, stacked.train(wanted, lambda cfg, where: Task(cfg), said.append)

    _, unfinished = trained([short(n, accumulate=2) for n in range(2)], "pieces")
    assert set(unfinished.left.values()) == {"fit.accumulate is above 1"}
    odd = dataclasses.replace(short(2), kind="cnn")
    wanted, unfinished = trained([short(0), short(1), odd], "shapes")
    assert unfinished.left == {str(wanted[2].folder): "no other run has a model of its shapes"}
    assert [(one.folder / "result.json").exists() for one in wanted] == [True, True, False]
    assert "2 runs as one stacked program" in " ".join(said)
    log = (wanted[0].folder / "log.txt").read_text()
    assert log.count("epoch   1/3") == 1
    assert "done     validation loss" in log


@pytest.mark.parametrize("late", [False, True])
def test_a_log_that_cannot_be_written_ends_its_run_only(tmp_path, monkeypatch, late):
    """On a full disk; `late`: it fills up after the first epoch."""
    said, wanted = [], [stacked.Wanted(short(n), tmp_path / str(n), "again") for n in range(3)]
    for one in wanted:
        one.folder.mkdir()
    (tmp_path / "1" / "log.txt").symlink_to("/dev/null" if late else "/dev/full")
    if late:

        def show(task, run, when, step):
            if run.path.name == "1" and when == "epoch 1":
                print("so far", flush=True)
                with open("/dev/full", "wb") as full:
                    os.dup2(full.fileno(), sys.stdout.fileno())

        monkeypatch.setattr(Task, "show", show)
    unfinished = stacked.train(wanted, lambda cfg, where: Task(cfg), said.append)
    assert unfinished.failed == [str(tmp_path / "1")]
    assert [(one.folder / "result.json").exists() for one in wanted] == [True, False, True]
    assert any("failed" in line and str(tmp_path / "1") in line and "No space left" in line for line in said)


def test_runs_that_began_in_another_precision_go_on_alone(tmp_path):
    wanted = [stacked.Wanted(short(n, precision="auto"), tmp_path / str(n), "again") for n in range(3)]
    for one, precision in zip(wanted, ("fp32", "bf16", "fp32"), strict=True):
        one.folder.mkdir()
        (one.folder / "environment.json").write_text(json.dumps([{"precision": precision}]))
    (tmp_path / "0" / "config.yaml").write_text(dump(wanted[0].config))
    (tmp_path / "2" / "config.yaml").write_text(dump(wanted[2].config))
    unfinished = stacked.train(wanted, lambda cfg, where: Task(cfg), lambda _: None)
    assert unfinished.left == {str(wanted[1].folder): "begun in another precision"}
    for n in (0, 2):
        starts = json.loads((tmp_path / str(n) / "environment.json").read_text())
        assert [start["precision"] for start in starts] == ["fp32", "fp32"]


# Without batch norm: the toy has a bias in front of it, whose gradient is but rounding, of which Adam makes full steps.
STUDY = """
question: Which rate?
compare: {fit.lr: [0.001, 0.01]}
fixed: {norm: false, dropout: 0.2, fit.epochs: 2, fit.device: cpu, fit.precision: fp32}
seeds: 1
metric: loss
expect: []
"""


@pytest.mark.parametrize("long", [3.2, 3.4])
def test_runs_that_are_faster_one_by_one_are_left_where_that_is_asked_and_nothing_has_moved(
    long, tmp_path, monkeypatch
):
    """By a clock on which a step alone takes a second, and a stacked step of three `long` seconds."""
    now = [0.0]

    def lasting(compute, seconds):
        def timed(*given):
            now[0] += seconds
            return compute(*given)

        return timed

    monkeypatch.setattr(proof, "alone", lasting(proof.alone, 1.0))
    monkeypatch.setattr(proof, "tried", lasting(proof.tried, long))
    monkeypatch.setattr(proof, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    cfgs = [config(n, double=True) for n in range(3)]
    replicas = [started(cfg, tmp_path / "asked" / str(n)) for n, cfg in enumerate(cfgs)]
    before = [copy.deepcopy(replica.learner.task.model.state_dict()) for replica in replicas]
    if long > 3.3:
        with pytest.raises(stacked.Unstackable, match="one after the other they are 1.1 times as fast"):
            stacked.fit(replicas, True)
        for replica, state in zip(replicas, before, strict=True):
            near(state, replica.learner.task.model.state_dict(), 0.0)
    else:
        stacked.fit(replicas, True)
    for replica in replicas:
        replica.run.close()
    together(cfgs, tmp_path / "together")  # which asks for no time
    if long < 3.3:  # and to ask moves nothing
        for n in range(3):
            assert rows(tmp_path / "asked" / str(n)) == rows(tmp_path / "together" / str(n))


def test_a_study_of_runs_together_says_so_and_gives_the_same_table(tmp_path, capsys):
    Path("rate.yaml").write_text(STUDY)
    tables, kept = {}, ("fit.lr", "seed", "valid_loss", "test_loss", "test_accuracy", "best_epoch", "parameters")
    for how in ("on", "off"):
        assert (
            command.main(Package("toy", ToyConfig, "", SCORES), ["rate.yaml", "--together", how, "--out", how], "toy")
            == 0
        )
        printed = capsys.readouterr().out
        assert ("2 runs as one stacked program" in printed) == (how == "on")
        assert len(re.findall(r"^\[\d/2\] ", printed, re.M)) == 2
        with open(f"{how}/results.csv", newline="") as file:
            tables[how] = [{k: float(v) for k, v in row.items() if k in kept} for row in csv.DictReader(file)]
    near(tables["off"], tables["on"], 1e-5)
    folder = "on/lr=0.001/seed=0"
    assert sorted(p.name for p in Path(folder).iterdir() if not p.name.startswith(".")) == sorted(
        p.name for p in Path(folder.replace("on", "off")).iterdir() if not p.name.startswith(".")
    )
    assert cli.main(Package("toy", ToyConfig, "", SCORES), ["predict", folder, "123"]) == 0
    for how in ("on", "off"):  # the command that a person would give for this run alone
        folder = Path(how) / "lr=0.001/seed=0"
        [start] = json.loads((folder / "environment.json").read_text())
        words = shlex.split((folder / "log.txt").read_text().splitlines()[0].removeprefix("$ "))
        assert start["command"][-len(words[3:]) :] == words[3:]
        assert start["stacked"] == (how == "on")
        assert "together" not in start["command"]


def test_no_function_is_longer_than_fifty_lines_and_only_train_and_leaves_are_known():
    folder = Path(stacked.__file__).parent
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name}"
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("etude."):
                part = node.module.split(".")[1]
                known = part in ("stacked", "train") or not (folder.parent / part).is_dir()
                assert known, f"{path.name}: {node.module}"
