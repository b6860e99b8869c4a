"""The models. Shapes: B reviews, T tokens of the longest, E embedding, H hidden, D directions."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.language import start
from etude.language.start import Start
from etude.layers.pooling import Joining, Pooling
from etude.layers.recurrent import GRU, LSTM, RNN
from imdb_rnn.config import Model

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class Classifier(nn.Module):
    """Is it praise? ids int64 [B, T], lengths int64 [B] -> log-odds [P, B]; what stands after a review is ignored.

    The parts P are a linear model on n-grams, if there is one, and the readers. Each learns alone: the linear one soon
    knows every training review by heart, and would leave the others nothing to learn. `answer` puts them together.
    """

    share: Tensor

    def __init__(self, config: Model, vocabulary: int, unknown: int, keys: Tensor, start: Start | None = None) -> None:
        """`keys`: the n-grams that are known, see `NGrams`; `start`: the language model that the reader begins as."""
        super().__init__()
        self.linear = NGrams(config.ngrams, keys) if config.ngrams else None
        members = 0 if config.kind == "none" else config.members
        self.readers = nn.ModuleList(
            Started(config, vocabulary, start) if start else Reader(config, vocabulary, unknown) for _ in range(members)
        )
        weights = [1.0] * bool(config.ngrams) + [config.share / config.members] * members
        self.register_buffer("share", torch.tensor(weights), persistent=False)

    def forward(self, ids: Tensor, lengths: Tensor, *started: Any) -> Tensor:
        """`started`: what else `Started` takes."""
        odds = [] if self.linear is None else [self.linear(ids, lengths)]
        return torch.stack(odds + [reader(ids, lengths, *started) for reader in self.readers])

    def answer(self, odds: Tensor) -> Tensor:
        """The log-odds of all parts together: [P, B] -> [B]."""
        return (self.share[:, None] * odds).sum(0)  # no matrix product: autocast would round it


class Reader(nn.Module):
    """Embeddings, one reader of them, pooling over time, one linear layer: ids, lengths -> log-odds [B].

    `shift` [B, T, E] is added to the embeddings.
    """

    def __init__(self, config: Model, vocabulary: int, unknown: int) -> None:
        super().__init__()
        self.word_dropout, self.unknown, self.size = config.word_dropout, unknown, config.embedding
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.body: CNN | Recurrent = CNN(config) if config.kind == "cnn" else Recurrent(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(self.body.width, 1)

    def forward(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        if self.training and self.word_dropout:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.word_dropout, self.unknown, ids)
        x = self.embedding(ids)
        pooled = self.body(self.dropout(x if shift is None else x + shift), lengths)
        odds: Tensor = self.classify(self.dropout(pooled))
        return odds[:, 0].float()


class Started(nn.Module):
    """What begins as a language model, with concatenated pooling and one linear layer: ids, lengths -> log-odds [B].

    `free`: how many layers of the language model learn, from the top; None: all. `shift` [B, T, E] is added to the
    embeddings.
    """

    def __init__(self, config: Model, vocabulary: int, of: Start) -> None:
        super().__init__()
        how: dict[str, Any] = {"rate": config.rate, "dropout": config.dropout, "word_dropout": config.word_dropout}
        self.body = start.Reader(of, config.transfer, vocabulary, config.start, **how)
        self.size = of.language.embedding
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(self.body.size, 1)

    @property
    def embedding(self) -> nn.Embedding:
        return self.body.encoder.embedding

    def forward(self, ids: Tensor, lengths: Tensor, free: int | None = None, shift: Tensor | None = None) -> Tensor:
        odds: Tensor = self.classify(self.dropout(self.body(ids, lengths, free, shift)))
        return odds[:, 0].float()


def surprise(odds: Tensor, labels: Tensor) -> Tensor:
    """The sum of minus the log-probabilities of labels, int64 [B], over the log-odds of each part, [P, B] or [B]."""
    return F.binary_cross_entropy_with_logits(odds, labels.float().expand_as(odds), reduction="sum")


class CNN(nn.Module):
    """Convolutions of W widths side by side, the maximum over time of each (Kim 2014): [B, T, E] -> [B, W * H]."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(config.embedding if layer == 0 else config.hidden, config.hidden, width)
                for layer in range(config.layers)
            )
            for width in config.widths
        )
        self.pool = Pooling("max", config.hidden)
        self.width = config.hidden * len(config.widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        pooled = []
        for stack in self.stacks:
            y = x.transpose(1, 2)
            for conv in cast(list[nn.Conv1d], stack):
                # Zeros around a review, never its neighbours' padding: the answer does not depend on the batch.
                y = y * real[:, None]
                width = conv.kernel_size[0]
                y = F.relu(conv(F.pad(y, ((width - 1) // 2, width // 2))))
            pooled.append(self.pool(y.transpose(1, 2), lengths))
        return torch.cat(pooled, 1)


class Recurrent(nn.Module):
    """A recurrent layer of our own, its directions joined and pooled over time: [B, T, E] -> [B, H] or [B, 2 H]."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        fixed = {"fixed_gates": set(config.fixed_gates) - {"none"}} if config.kind == "lstm" else {}
        self.rnn = CELLS[config.kind](
            config.embedding, config.hidden, config.layers, config.dropout, config.bidirectional, **fixed
        )
        self.join = Joining(config.joining, config.hidden) if config.bidirectional else None
        self.width = self.join.size if self.join else config.hidden
        self.pool = Pooling(config.pooling, config.hidden * (2 if config.bidirectional else 1), config.bidirectional)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        outputs, _ = self.rnn(x, lengths)
        pooled: Tensor = self.pool(outputs, lengths)
        return pooled if self.join is None else self.join(pooled)


NONE = torch.iinfo(torch.int64).max  # the key of no n-gram


def in_order(ids: Tensor, longest: int) -> list[Tensor]:
    """The keys of the n-grams that begin at each place, for every n up to `longest`: int64 [B, T - n + 1] of [B, T]."""
    key, found = torch.zeros_like(ids), []
    for n in range(1, min(longest, ids.shape[1]) + 1):
        key = key[:, : ids.shape[1] - n + 1] * 1_000_003 + ids[:, n - 1 :] + 1
        found.append(key)
    return found


def ngrams(ids: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Keys of the n-grams up to `longest` of every row, sorted, and which count: no padding, the first of its kind.

    int64 [B, T], [B] -> int64 [B, M], bool [B, M]. Up to three ids below a million make a key of their own, longer ones
    a hash in 64 bits.
    """
    steps = torch.arange(ids.shape[1], device=ids.device)
    found = [
        key.masked_fill(steps[: key.shape[1]] + n > lengths[:, None], NONE)
        for n, key in enumerate(in_order(ids, longest), 1)
    ]
    keys = torch.cat(found, 1).sort(1).values
    first = F.pad(keys[:, 1:] != keys[:, :-1], (1, 0), value=True)
    return keys, first & (keys != NONE)


class NGrams(nn.Module):
    """A linear model on the set of n-grams of a review (Wang & Manning 2012, "NB-SVM"): ids, lengths -> log-odds [B].

    Each of the G known n-grams counts once, with its naive-Bayes log-count ratio (`ratio`, see `naive_bayes`) times a
    learned factor; the vector of ratios is brought to length 1, so that a sentence weighs as much as a review.
    """

    keys: Tensor
    ratio: Tensor

    def __init__(self, longest: int, keys: Tensor) -> None:
        """`keys` int64 [G], sorted: the n-grams that are known, as `ngrams` writes them."""
        super().__init__()
        self.longest = longest
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("ratio", torch.zeros(len(keys)))  # from the training data: part of what was learnt
        self.factor = nn.Parameter(torch.full((len(keys),), 0.3))
        self.bias = nn.Parameter(torch.zeros(()))
        self.examples = 1  # it was counted in

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        numbers, counted = self.numbers(ids, lengths)
        ratios = self.ratio[numbers] * counted
        length = ratios.square().sum(1).sqrt().clamp(min=1e-6)
        return (F.embedding(numbers, self.factor[:, None])[..., 0] * ratios).sum(1) / length + self.bias

    def numbers(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The number of every n-gram among the known ones, int64 [B, M], and whether it counts, bool [B, M]."""
        keys, first = ngrams(ids, lengths, self.longest)
        numbers, known = self.find(keys)
        return numbers, first & known

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The number of each of these n-grams, and whether it is known, in the shape of `keys`."""
        numbers = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return numbers, self.keys[numbers] == keys

    def shares(self, ids: Tensor) -> Tensor:
        """What each token of a review, ids [1, T], adds to its log-odds: all of them, but for the bias. float [T].

        What an n-gram adds is shared out equally over the tokens of all places where it stands.
        """
        numbers, counted = self.numbers(ids, torch.tensor([ids.shape[1]], device=ids.device))
        length = (self.ratio[numbers] * counted).norm().clamp(min=1e-6)
        found = torch.zeros(ids.shape[1], device=ids.device)
        for n, (keys,) in enumerate(in_order(ids, self.longest), 1):
            number, known = self.find(keys)
            number, (at,) = number[known], known.nonzero(as_tuple=True)
            _, which, places = number.unique(return_inverse=True, return_counts=True)
            added = self.factor[number] * self.ratio[number] / length / places[which]
            for step in range(n):
                found.index_add_(0, at + step, added / n)
        return found

    def penalty(self) -> Tensor:
        """Half the sum of squared factors, shared out over the examples: the L2 penalty of logistic regression.

        It is part of the loss and not AdamW's weight decay: seen through Adam it pulls the factor of a rare n-gram as
        fast as its few examples push it, which keeps the thousands of them from being learnt by heart.
        """
        return self.factor.square().sum() / 2 / self.examples

    def naive_bayes(self, positive: Tensor, negative: Tensor, examples: int = 1) -> None:
        """Sets `ratio` from how many positive and negative of the training examples each n-gram stands in, int64 [G].

        ratio = log((1 + p) / |1 + p|) - log((1 + q) / |1 + q|)
        """
        self.examples = examples
        p, q = 1.0 + positive.double(), 1.0 + negative.double()
        self.ratio.copy_((p / p.sum()).log() - (q / q.sum()).log())
