"""The models. Shapes: B questions, T words of the longest, E numbers a word, W numbers pooled, K categories."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.layers.norm import BatchNorm
from etude.layers.pooling import Pool, Pooling, real
from etude.layers.recurrent import LSTM
from qa_category.config import Model


class Embedding(nn.Module):
    """ids [B, T] -> vectors [B, T, E]: given ones, what is learnt beside them, or both.

    Tuned vectors are given + rate * learnt, where what is learnt starts at 0. A step of Adam or RMSprop is as long
    whatever the scale of the gradient (up to their epsilon), so `rate` is the learning rate of the vectors as a part of
    that of the network; and weight decay draws them to what was given, not to 0 (L2-SP, Li et al. 2018). Words beyond
    those that training has have no row in `learnt`: there would be no gradient.
    """

    given: Tensor

    def __init__(self, config: Model, table: Tensor) -> None:
        """`table`: vectors of padding, the unknown word and the words of training, [2 + N, E]; random: [2 + N, 0]."""
        super().__init__()
        self.rate = {"random": 1.0, "frozen": 0.0, "tuned": config.rate}[config.embeddings]
        self.size = config.embedding if config.embeddings == "random" else table.shape[1]
        if config.embeddings == "random":
            table = torch.zeros(len(table), self.size)
        # What is given is in the assets of a run, and may grow: not a part of the weights.
        self.register_buffer("given", table, persistent=False)
        self.learnt = None
        if self.rate:
            start = (
                torch.randn(len(table), self.size) * 0.1 if config.embeddings == "random" else torch.zeros_like(table)
            )
            start[0] = 0
            self.learnt = nn.Parameter(start)

    def grow(self, rows: Tensor) -> None:
        """Adds vectors of words that training does not have, [N, E]."""
        self.given = torch.cat([self.given, rows.to(self.given)])

    def forward(self, ids: Tensor) -> Tensor:
        found = F.embedding(ids, self.given)
        if self.learnt is not None:
            within = ids < len(self.learnt)
            learnt = F.embedding(ids.where(within, 0), self.learnt)
            found = found + self.rate * learnt * within[..., None]
        return found


class Pooled(nn.Module):
    """Vectors [B, T, W], lengths [B] -> several poolings side by side; what stands after a question does not count."""

    def __init__(self, kinds: tuple[Pool, ...], size: int, bidirectional: bool) -> None:
        super().__init__()
        self.size = size * len(kinds)
        self.pools = nn.ModuleList(Pooling(kind, size, bidirectional) for kind in kinds)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat([pool(x, lengths) for pool in self.pools], 1)


def convolved(convolution: nn.Conv1d, x: Tensor, lengths: Tensor) -> Tensor:
    """A convolution [B, T, E] -> [B, T, C] around each word; beyond a question there are zeros."""
    width = convolution.kernel_size[0]
    inside = x.where(real(x, lengths), 0).mT
    return cast(Tensor, convolution(F.pad(inside, ((width - 1) // 2, width // 2)))).mT


class Parallel(nn.Module):
    """Convolutions of several widths side by side, each followed by ReLU (Kim 2014): [B, T, E] -> [B, T, W]."""

    def __init__(self, config: Model, size: int) -> None:
        super().__init__()
        self.size = len(config.widths) * config.units
        self.maps = nn.ModuleList(nn.Conv1d(size, config.units, width) for width in config.widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat([F.relu(convolved(cast(nn.Conv1d, conv), x, lengths)) for conv in self.maps], 2)


class Sequence(nn.Module):
    """Convolutions one after another, of these widths, with ReLU, and dropout between: [B, T, E] -> [B, T, W].

    Residual: what goes in is added, where it has as many numbers, which only the first layer may change.
    """

    def __init__(self, config: Model, size: int) -> None:
        super().__init__()
        self.size, self.residual = config.units, config.residual
        sizes = [size, *[config.units] * len(config.widths)]
        self.maps = nn.ModuleList(
            nn.Conv1d(a, b, width) for (a, b), width in zip(pairwise(sizes), config.widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(a) if config.norm == "layer" else nn.Identity() for a in sizes[:-1])
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.maps, self.norms, strict=True)):
            y = F.relu(convolved(cast(nn.Conv1d, conv), norm(self.dropout(x) if number else x), lengths))
            x = x + y if self.residual and x.shape == y.shape else y
        return x


class Recurrent(nn.Module):
    """Our LSTM over the words: [B, T, E] -> [B, T, W]."""

    def __init__(self, config: Model, size: int) -> None:
        super().__init__()
        self.size = (1 + config.bidirectional) * config.units
        self.rnn = LSTM(size, config.units, config.layers, config.dropout, config.bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return cast(Tensor, self.rnn(x, lengths)[0])


class Words(nn.Module):
    """The words as they are, for the deep averaging network."""

    def __init__(self, _: Model, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return x


READERS: dict[str, type[Recurrent] | type[Parallel] | type[Sequence] | type[Words]] = {
    "lstm": Recurrent,
    "parallel": Parallel,
    "sequence": Sequence,
    "dan": Words,
}


def normalised(kind: str, size: int) -> nn.Module:
    return BatchNorm(size) if kind == "batch" else nn.LayerNorm(size) if kind == "layer" else nn.Identity()


class Dense(nn.Module):
    """Linear layers with ReLU, each after normalisation, if there is any, and before dropout: [B, W] -> [B, H]."""

    def __init__(self, config: Model, size: int) -> None:
        super().__init__()
        sizes = [size, *(config.hidden if config.kind == "dan" and not config.start else ())]
        self.size, self.residual = sizes[-1], config.residual
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(normalised(config.norm, b) for b in sizes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norms[0](x))
        for linear, norm in zip(self.linears, list(self.norms)[1:], strict=True):
            y = self.dropout(F.relu(norm(linear(x))))
            x = x + y if self.residual and x.shape == y.shape else y
        return x


class Classifier(nn.Module):
    """ids int64 [B, T], lengths int64 [B] -> logits [B, K]; what stands after a question is ignored.

    `shift` [B, T, E] is added to the embeddings.
    """

    def __init__(self, config: Model, table: Tensor, categories: int) -> None:
        """`table`: see `Embedding`."""
        super().__init__()
        self.word_dropout, self.masked = config.word_dropout, config.masked
        self.embedding = Embedding(config, table)
        self.dropout, self.spatial = nn.Dropout(config.dropout), nn.Dropout(config.spatial_dropout)
        kind = config.arrangement if config.kind == "cnn" else config.kind
        self.reader: Recurrent | Parallel | Sequence | Words = READERS[kind](config, self.embedding.size)
        kinds: tuple[Pool, ...] = config.pooling or ("mean" if config.kind == "dan" else "max",)
        self.pool = Pooled(kinds, self.reader.size, config.kind == "lstm" and config.bidirectional)
        self.dense = Dense(config, self.pool.size)
        self.output = nn.Linear(self.dense.size, categories)

    def forward(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.output(self.dense(self.pooled(ids, lengths, shift))))

    def vector(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What is known of a question before the last linear layer, [B, H]."""
        return cast(Tensor, self.dense(self.pooled(ids, lengths)))

    def pooled(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        if not self.masked:
            lengths = torch.full_like(lengths, ids.shape[1])
        ids = ids.where(real(ids, lengths)[..., 0], 0)
        x = self.embedding(ids) if shift is None else self.embedding(ids) + shift
        if self.training:
            if self.word_dropout:
                x = x * (torch.rand(ids.shape, device=ids.device) >= self.word_dropout)[..., None]
            x = x * self.spatial(torch.ones_like(x[:, :1]))
        x = self.dropout(x)
        return cast(Tensor, self.pool(self.reader(x, lengths), lengths))
