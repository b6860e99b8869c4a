import pytest
import torch
from torch import nn

from etude.config import Fit
from etude.errors import UserError
from etude.train import optim


def rates(fit, steps):
    return [optim.learning_rate(fit, (step + 0.5) / steps) for step in range(steps)]


def test_cosine_is_pytorchs():
    steps = 50
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, 2 * steps
    )  # asked twice a step, to meet the middles
    expected = []
    for _ in range(2 * steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(Fit(lr=0.1, schedule="cosine", warmup=0), steps) == pytest.approx(expected[1::2])


def test_one_cycle_is_pytorchs_in_straight_lines():
    steps = 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        0.1,
        total_steps=2 * steps + 1,
        pct_start=(0.25 * 2 * steps + 1) / (2 * steps + 1),  # its peak is at pct_start * total_steps - 1
        anneal_strategy="linear",
        cycle_momentum=False,
        div_factor=1e9,
        final_div_factor=1e9,
    )
    expected = []
    for _ in range(2 * steps + 1):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step() if len(expected) <= 2 * steps else None
    assert rates(Fit(lr=0.1, schedule="linear", warmup=0.25), steps) == pytest.approx(expected[1::2], abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_schedules_rise_to_the_rate_asked_for_and_never_above(schedule, warmup):
    found = rates(Fit(lr=0.1, schedule=schedule, warmup=warmup), 1000)
    assert max(found) == pytest.approx(0.1, rel=1e-2)
    assert max(found) <= 0.1
    assert min(found) > 0
    rise = found[: int(warmup * 1000)]
    assert rise == sorted(rise)
    fall = found[int(warmup * 1000) :]
    assert fall == sorted(fall, reverse=True)
    if warmup < 1:
        assert (found[-1] == 0.1) == (schedule == "constant")


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_decay_spares_biases_and_norms_and_every_optimiser_learns(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = optim.optimizer(Fit(optimizer=name, lr=0.01, weight_decay=0.1), model)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: decays[id(p)] for n, p in model.named_parameters()} == {
        n: 0.1 if p.dim() > 1 else 0.0 for n, p in model.named_parameters()
    }
    x = torch.randn(64, 3)
    losses = []
    for _ in range(100):
        loss = (model(x)[:, 0] - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_momentum_and_decay_are_those_of_the_formulas(name, momentum):
    """Three steps on a matrix, by hand: Loshchilov & Hutter 2019; Nesterov as torch has it; Tieleman & Hinton 2012."""
    lr, decay = 0.01, 0.1
    weight = nn.Linear(3, 2, bias=False)
    optimizer = optim.optimizer(Fit(optimizer=name, lr=lr, weight_decay=decay, momentum=momentum), weight)
    w = weight.weight.detach().clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, 4):
        torch.manual_seed(step)
        g = torch.randn_like(w)
        weight.weight.grad = g.clone()
        optimizer.step()
        if name != "adamw":
            g = g + decay * w
        if name == "adamw":
            w = w - lr * decay * w
            m, v = momentum * m + (1 - momentum) * g, 0.999 * v + 0.001 * g**2
            w = w - lr * (m / (1 - momentum**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        elif name == "sgd":
            m = momentum * m + g
            w = w - lr * (g + momentum * m)
        else:
            v = 0.99 * v + 0.01 * g**2
            m = momentum * m + g / (v.sqrt() + 1e-8)
            w = w - lr * m
        torch.testing.assert_close(weight.weight.detach(), w)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_is_none_is_refused(momentum):
    with pytest.raises(UserError, match=r"fit\.momentum is a part of the step before, from 0 to below 1, not"):
        Fit(momentum=momentum)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True)),
        ("sgd", lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1, foreach=True)),
    ],
)
def test_a_step_is_torchs_to_the_bit(name, plain):
    x, weights = torch.randn(64, 5), []
    for make in (
        lambda model: optim.optimizer(Fit(optimizer=name, lr=0.01, weight_decay=0.1, momentum=0.9), model),
        lambda model: plain([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]),
    ):
        torch.manual_seed(1)
        model = nn.Linear(5, 4)
        optimizer = make(model)
        for rows in x.split(8):
            optimizer.zero_grad()
            model(rows).square().sum().backward()
            optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
        assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
