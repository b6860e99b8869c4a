from typing import get_args

import pytest
import torch

from etude.layers.pooling import Join, Joining, Pool, Pooling

KINDS = get_args(Pool)
LENGTHS = torch.tensor([5, 1, 3, 0])


def outputs():
    torch.manual_seed(0)
    return torch.randn(4, 5, 6)


def obvious(pooling, row):
    """One sequence without padding, [T, 6], step by step."""
    if pooling.kind == "last":
        return torch.cat([row[-1, :3], row[0, 3:]]) if pooling.bidirectional else row[-1]
    if pooling.kind == "sum":
        return sum(row)
    if pooling.kind == "mean":
        return sum(row) / len(row)
    if pooling.kind == "max":
        return torch.stack([max(row[:, k]) for k in range(6)])
    weights = [torch.exp(pooling.query(torch.tanh(pooling.project(step)))) for step in row]
    return sum(w * step for w, step in zip(weights, row, strict=True)) / sum(weights)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_equals_the_obvious_one_without_padding(kind, both):
    x, pooling = outputs(), Pooling(kind, 6, both)
    pooled = pooling(x, LENGTHS)
    for n, length in enumerate(LENGTHS[:3].tolist()):
        assert torch.allclose(pooled[n], obvious(pooling, x[n, :length]), atol=1e-6)
    assert torch.equal(pooled[3], torch.zeros(6))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_counts_neither_in_the_result_nor_in_a_gradient(kind):
    pooling = Pooling(kind, 6, True)
    x = outputs().requires_grad_()
    garbage = torch.cat([outputs(), torch.full((4, 2, 6), 1e4)], 1)
    for n, length in enumerate(LENGTHS.tolist()):
        garbage[n, length:] = 1e4
    pooled = pooling(x, LENGTHS)
    assert torch.allclose(pooled, pooling(garbage, LENGTHS), atol=1e-6)
    pooled.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[0].abs().sum() > 0
    for n, length in enumerate(LENGTHS.tolist()):
        assert not x.grad[n, length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_in_bf16_and_mapped(kind):
    pooling = Pooling(kind, 6)
    exact = pooling(outputs(), LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(pooling(outputs().bfloat16(), LENGTHS).float(), exact, atol=0.03)
    mapped = torch.func.vmap(pooling)(torch.stack([outputs(), 2 * outputs()]), torch.stack([LENGTHS, LENGTHS]))
    assert torch.allclose(mapped[0], exact, atol=1e-6)
    assert torch.allclose(mapped[1], pooling(2 * outputs(), LENGTHS), atol=1e-6)


def test_a_pooling_that_is_not_known_is_no_other():
    with pytest.raises(ValueError, match="there is no pooling median"):
        Pooling("median", 6)(outputs(), LENGTHS)


def test_joining():
    x = torch.tensor([[1.0, 2.0, 3.0, -4.0]])
    expected = {"concatenate": [1, 2, 3, -4], "sum": [4, -2], "mean": [2, -1], "max": [3, 2]}
    for kind, values in expected.items():
        joining = Joining(kind, 2)
        assert joining(x).tolist() == [values]
        assert joining.size == len(values)
    gated = Joining("gated", 2)
    gate = torch.sigmoid(gated.gate.weight @ x[0] + gated.gate.bias)
    assert torch.allclose(gated(x)[0], gate * x[0, :2] + (1 - gate) * x[0, 2:])
    assert set(expected) | {"gated"} == set(get_args(Join))
