"""fit.watch: what it measures equals a slow, obvious computation, and it changes nothing."""

import dataclasses
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from test_stacked import FIT, Config, alone, rows, together
from torch import nn
from torch.nn import functional as F
from toy import task as toy
from toy.config import Config as ToyConfig

from etude import config, draw
from etude.errors import UserError
from etude.testing import CPU, Cut, cut_off, different
from etude.train import checkpoint, loop, optim, run, watched
from etude.train.device import Device
from etude.train.step import Learner, Step, train_step
from etude.train.watch import FIRST, Watch

KINDS = [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.ReLU6, nn.SELU, nn.GELU, nn.LeakyReLU]


class Net(nn.Module):
    """An activation of each kind; layers that are frozen, shared, without a gradient, and one with two inputs."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(4, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), kind()) for kind in KINDS)
        with torch.no_grad():
            for layer in self.layers:  # a unit that says nothing, two that are far out, and one that is on either side
                layer[0].weight[0] = 0
                layer[0].bias[1:3] = torch.tensor([100.0, -100.0])
                layer[0].weight[3] *= 1000
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.shared = self.enter
        self.pair = nn.Bilinear(8, 8, 3)
        self.idle = nn.Linear(2, 2)
        self.table = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return self.pair(x, self.frozen(x)) @ self.table


class Plain:
    """A task whose every second example counts twice, so that a batch's count is not its size."""

    metric, better, data, summary = "loss", {"loss": "lower"}, "numbers", "a net"

    def __init__(self):
        torch.manual_seed(0)
        self.model = Net()
        self.x, self.labels = 3 * torch.randn(60, 4), torch.arange(60) % 3
        self.fingerprints = {"train": "0"}

    def plan(self, split, epoch, batch_size):
        return np.array_split(np.arange(60), 60 // batch_size)

    def load(self, split, ids, epoch):
        return self.x[ids], self.labels[ids], torch.from_numpy(1.0 + ids % 2)

    def step(self, batch):
        x, labels, weights = batch
        return {"loss": ((F.cross_entropy(self.model(x), labels, reduction="none") * weights).sum(), weights.sum())}

    def scores(self, totals):
        return totals.means()

    def show(self, run, when, step):
        pass

    def assets(self):
        return {}


def layers_of(model):
    """The weights of each layer, by name, written down."""
    found = {"model": [model.table], "enter": [model.enter.weight]}
    found |= {f"layers.{n}.0": [layer[0].weight] for n, layer in enumerate(model.layers)}
    return found | {"pair": [model.pair.weight], "idle": [model.idle.weight]}


def by_hand(fit, steps):
    """Gradient, update, dead and saturated of every step, from autograd and copies of all weights and activations."""
    task = Plain()
    model, layers = task.model, layers_of(task.model)
    optimizer, found = optim.optimizer(fit, model), []
    model.train()
    for number, ids in enumerate(task.plan("train", 1, fit.batch_size)[:steps]):
        optim.set_learning_rate(optimizer, fit.lr)
        outputs = {n: [] for n in range(len(KINDS))}
        sums = counts = 0
        for piece in np.array_split(ids, fit.accumulate):
            hooks = [
                layer[1].register_forward_hook(lambda _m, _a, y, kept=outputs[n]: kept.append(y.detach().clone()))
                for n, layer in enumerate(model.layers)
            ]
            torch.manual_seed(draw.key(fit.seed, 1, number, 0))
            loss, count = task.step(task.load("train", piece, 1))["loss"]
            sums, counts = sums + loss, counts + count
            for hook in hooks:
                hook.remove()
        optimizer.zero_grad()
        (sums / counts).backward()
        gradient = [sum(float((p.grad.double() ** 2).sum()) for p in own if p.grad is not None) ** 0.5
                    for own in layers.values()]  # fmt: skip
        if fit.clip:
            nn.utils.clip_grad_norm_(model.parameters(), fit.clip)
        before = [[p.detach().clone() for p in own] for own in layers.values()]
        optimizer.step()
        update = []
        for old, new in zip(before, layers.values(), strict=True):
            change = sum(float((b.detach() - a).double().square().sum()) for a, b in zip(old, new, strict=True))
            update.append((change / sum(float(a.double().square().sum()) for a in old)) ** 0.5)
        y = [torch.cat(outputs[n]) for n in range(len(KINDS))]
        dead = [
            float(torch.tensor([len(column.unique()) == 1 for column in x.T]).double().mean())
            if kind is not nn.ReLU
            else float((x == 0).all(0).double().mean())
            for kind, x in zip(KINDS, y, strict=True)
        ]
        ends = {nn.Sigmoid: (0, 1), nn.Tanh: (-1, 1), nn.ReLU6: (0, 6)}
        saturated = []
        for kind, x in zip(KINDS, y, strict=True):
            if kind in ends:
                low, high = ends[kind]
                near = 0.01 * (high - low)
                stuck = ((x <= low + near) | (x >= high - near)).all(0)
            else:
                stuck = (x <= -1.7580993408473766 * 0.99).all(0)
            has = kind in ends or kind is nn.SELU
            saturated.append(float(stuck.double().mean()) if has else float("nan"))
        found.append((gradient, update, dead, saturated))
    return [np.array(x) for x in zip(*found, strict=True)]


@pytest.mark.parametrize(
    "fit",
    [
        {"optimizer": "sgd", "lr": 0.1},
        {"optimizer": "sgd", "lr": 3.0, "momentum": 0.0},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "clip": 0.01, "accumulate": 3},
    ],
)
def test_what_is_measured_equals_a_slow_obvious_computation(fit):
    fit = dataclasses.replace(FIT, watch=True, schedule="constant", warmup=0.0, batch_size=15, **fit)
    learner, task = Learner(Plain(), fit, CPU), Plain()
    learner.model.train()
    for number, ids in enumerate(task.plan("train", 1, 15)):
        train_step(learner, Step(1, number, ids, fit.lr))
    found = learner.watch.arrays()
    assert list(found["layers"]) == list(layers_of(task.model))
    assert list(found["activations"]) == [f"layers.{n}.1" for n in range(len(KINDS))]
    assert list(found["step"]) == [0, 1, 2, 3]
    gradient, update, dead, saturated = by_hand(fit, 4)
    np.testing.assert_allclose(found["gradient"], gradient, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found["update"], update, rtol=1e-3)
    np.testing.assert_array_equal(found["dead"], dead.astype(np.float32))
    np.testing.assert_array_equal(found["saturated"], saturated.astype(np.float32))
    assert (found["gradient"][:, -1] == 0).all()  # idle
    assert (found["dead"][0] > 0).all()
    assert (found["saturated"][0, :2] >= 0.25).all()


def trained(folder, *flags, task=None):
    cfg = config.parse(ToyConfig, ["--fit.device", "cpu", "--fit.precision", "fp32", "--fit.save-every", "0", *flags])
    torch.manual_seed(cfg.fit.seed)
    task = toy.make(cfg, CPU.where) if task is None else task(toy.make(cfg, CPU.where))
    one = run.Run(folder, cfg, CPU)
    try:
        with redirect_stdout(io.StringIO()):
            loop.fit(task, cfg.fit, one, CPU)
    finally:
        one.close()


def test_a_run_is_the_same_in_every_bit_with_and_without(tmp_path):
    trained(tmp_path / "on", "--fit.watch", "--fit.clip", "0.3")
    trained(tmp_path / "off", "--fit.clip", "0.3")
    assert (tmp_path / "on/metrics.jsonl").read_bytes() == (tmp_path / "off/metrics.jsonl").read_bytes()
    for name in ("best", "last"):
        a, b = (checkpoint.read(tmp_path / how, name) for how in ("on", "off"))
        for part in ("model", "optimizer"):
            assert part not in a or different(a[part], b[part], part) is None
    assert (tmp_path / "on/watch.npz").exists()
    assert not (tmp_path / "off/watch.npz").exists()


def test_a_killed_run_goes_on_with_its_history(tmp_path):
    trained(tmp_path / "whole", "--fit.watch")
    with pytest.raises(Cut):
        trained(tmp_path / "cut", "--fit.watch", task=lambda task: cut_off(task, "train", 9))
    trained(tmp_path / "cut", "--fit.watch")
    assert (tmp_path / "whole/watch.npz").read_bytes() == (tmp_path / "cut/watch.npz").read_bytes()
    with np.load(tmp_path / "cut/watch.npz", allow_pickle=False) as found:
        assert list(found["step"]) == list(range(18))
        assert found["gradient"].dtype == np.float32
        assert found["gradient"].shape == (18, len(found["layers"]))


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm"])
def test_a_stacked_run_measures_what_it_measures_alone(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("etude.train.watch.pictures", lambda *_: [])
    fits = [dataclasses.replace(FIT, seed=n, lr=1e-3 * (n + 1), watch=True) for n in range(2)]
    cfgs = [Config(kind, True, 0.1 * (n + 1), examples=120, fit=fit) for n, fit in enumerate(fits)]
    alone(cfgs, tmp_path / "alone")
    together(cfgs, tmp_path / "together")
    for n in range(2):
        with np.load(tmp_path / f"alone/{n}/watch.npz") as a, np.load(tmp_path / f"together/{n}/watch.npz") as b:
            assert list(a) == list(b)
            assert list(a["layers"]) == list(b["layers"])
            for name in ("step", "gradient", "update", "dead", "saturated"):
                np.testing.assert_allclose(b[name], a[name], rtol=1e-6)
            assert a["gradient"].shape[0] == 6
    cfgs = [dataclasses.replace(c, fit=dataclasses.replace(c.fit, watch=False)) for c in cfgs]
    together(cfgs, tmp_path / "off")
    assert all(rows(tmp_path / f"off/{n}") == rows(tmp_path / f"together/{n}") for n in range(2))


def test_gradients_whose_squares_are_no_float32_are_not_said_to_be_0():
    found = []
    for size in (1.0, 1e-33):
        learner = Learner(Plain(), dataclasses.replace(FIT, watch=True), CPU)
        step = learner.task.step
        learner.task.step = lambda batch, step=step, size=size: {"loss": (size * step(batch)["loss"][0], 60)}
        train_step(learner, Step(1, 0, np.arange(60), 0.0))
        found.append(learner.watch.arrays()["gradient"][0])
    np.testing.assert_allclose(found[1], 1e-33 * found[0], rtol=1e-3)
    assert 0 < found[1].max() < 1e-21


def test_in_a_batch_of_one_example_only_0_is_dead():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.0, 1.0, -1.0, -1.0]))
    for examples, dead in ((1, [0.25, 0.75]), (2, [1.0, 0.75])):
        watch = Watch(model)
        watch.begin()
        loss = model(torch.randn(examples, 2)).sum()
        loss.backward()
        watch.measure({"0.weight": model[0].weight.grad}, [model[0].weight.grad.norm()])
        watch.end(torch.tensor(1.0), examples, watch.take())
        assert watch.arrays()["dead"][0] == pytest.approx(dead)


def test_of_long_runs_the_first_steps_and_ever_rarer_ones_are_kept(monkeypatch):
    monkeypatch.setattr("etude.train.watch.MOST", 256)
    watch = Watch(nn.Linear(1, 1))
    for n in range(813):
        watch.begin()
        watch.measure({"weight": torch.tensor([[float(n)]])}, [torch.tensor(float(n))])
        watch.end(torch.tensor(1.0), 1, watch.take())
        if n in (20, 150, 255, 256, 257, 511, 600):  # whenever a checkpoint is written
            watch.state()
    found = watch.arrays()
    assert list(found["step"]) == [n for n in range(813) if n < FIRST or n % 4 == 0]
    assert (found["gradient"][:, 0] == found["step"]).all()


def test_what_cannot_be_watched_is_refused_in_one_line():
    with pytest.raises(UserError, match="leave out one"):
        dataclasses.replace(FIT, watch=True, compile=True)
    with pytest.raises(UserError, match="one process"):
        Learner(Plain(), dataclasses.replace(FIT, watch=True), Device(torch.device("cpu"), "fp32", world=2))
    with pytest.raises(UserError, match="nothing to watch"):
        Watch(nn.BatchNorm1d(3))


def test_running_means_are_those_of_the_last_hundred_steps():
    step = np.array([*range(128), *range(128, 1000, 4)])
    y = np.random.default_rng(0).normal(size=len(step)).astype(np.float32)
    y[[3, 200]] = np.inf, np.nan
    slow = [y[(step > last - 100) & (step <= last) & np.isfinite(y)].astype(np.float64).mean() for last in step]
    np.testing.assert_allclose(watched.running_mean(step, y), slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 3000])
def test_pictures_are_drawn_of_whatever_was_measured(steps):
    """No warning of matplotlib's, which would be an error here, for gradients that are 0, infinite or no number."""
    layers, activations = np.array(["a", "b", "c"]), np.array(["x"])
    gradient = np.geomspace(1e-30, 1, 3)[None].repeat(steps, 0).astype(np.float32)
    gradient[:1, 0], gradient[5:6, 1], gradient[7:8, 2] = 0, np.inf, np.nan
    found = {"step": np.arange(steps), "layers": layers, "gradient": gradient, "update": np.zeros_like(gradient)}
    found |= {"activations": activations, "dead": np.ones((steps, 1)), "saturated": np.full((steps, 1), np.nan)}
    drawn = dict(watched.pictures(found, {"a": 0.1, "c": 1.0}))
    assert len(drawn) == (4 if steps else 0)
    assert all(picture.size[0] >= 700 for picture in drawn.values())
    if steps:
        with pytest.raises(ValueError, match="names d, which is no layer"):
            list(watched.pictures(found, {"d": 1.0}))
