"""From the outputs of a recurrent layer to one vector: pooling over time that ignores padding, joining two directions.

Shapes: B sequences, T steps, H hidden units, D directions (1 or 2), side by side as `recurrent.LSTM` gives them.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["last", "sum", "mean", "max", "attention"]
Join = Literal["concatenate", "sum", "mean", "max", "gated"]


def real(x: Tensor, lengths: Tensor) -> Tensor:
    """[B, T, ...], [B] -> bool [B, T, 1]: which steps are not padding."""
    return (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]


def last(x: Tensor, lengths: Tensor, bidirectional: bool) -> Tensor:
    """Where each direction has read everything: the last step, for the direction that reads backwards the first."""
    at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
    end = x.gather(1, at)[:, 0].where(lengths[:, None] > 0, 0)
    if not bidirectional:
        return end
    start = x[:, 0].where(lengths[:, None] > 0, 0)
    return torch.cat([end.chunk(2, 1)[0], start.chunk(2, 1)[1]], 1)


def total(x: Tensor, lengths: Tensor) -> Tensor:
    return x.where(real(x, lengths), 0).sum(1)


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    return total(x, lengths) / lengths.clamp(min=1)[:, None]


def maximum(x: Tensor, lengths: Tensor) -> Tensor:
    lowest = torch.finfo(x.dtype).min
    return x.where(real(x, lengths), lowest).amax(1).where(lengths[:, None] > 0, 0)


class Pooling(nn.Module):
    """Outputs [B, T, D * H], lengths [B] -> [B, D * H]; what stands after a sequence's end does not count.

    last: see `last`. sum, mean, max: of every unit. attention: the mean weighted by softmax(query . tanh(W x)), W and
    query learned (Yang et al. 2016, "Hierarchical attention networks"). An empty sequence gives 0.
    """

    def __init__(self, kind: Pool, size: int, bidirectional: bool = False) -> None:
        """`size`: D * H."""
        super().__init__()
        self.kind, self.bidirectional = kind, bidirectional
        if kind == "attention":
            self.project, self.query = nn.Linear(size, size), nn.Linear(size, 1, bias=False)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        match self.kind:
            case "last":
                return last(x, lengths, self.bidirectional)
            case "sum":
                return total(x, lengths)
            case "mean":
                return mean(x, lengths)
            case "max":
                return maximum(x, lengths)
            case "attention":
                return self.attended(x, lengths)
            case other:
                raise ValueError(f"there is no pooling {other}")

    def attended(self, x: Tensor, lengths: Tensor) -> Tensor:
        seen = real(x, lengths)
        weights = self.query(torch.tanh(self.project(x.where(seen, 0)))).float()
        weights = weights.where(seen, torch.finfo(weights.dtype).min).softmax(1)
        return (weights * x.where(seen, 0)).sum(1)


class Joining(nn.Module):
    """Two directions side by side, [..., 2 H], become one: [..., 2 H] for concatenate, [..., H] for the others.

    gated: g a + (1 - g) b, with g = sigmoid(W [a, b] + bias) learned for every unit.
    """

    def __init__(self, kind: Join, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.size = 2 * hidden if kind == "concatenate" else hidden
        if kind == "gated":
            self.gate = nn.Linear(2 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        if self.kind == "concatenate":
            return x
        if self.kind == "sum":
            return a + b
        if self.kind == "mean":
            return (a + b) / 2
        if self.kind == "max":
            return torch.maximum(a, b)
        gate = torch.sigmoid(self.gate(x))
        return gate * a + (1 - gate) * b
