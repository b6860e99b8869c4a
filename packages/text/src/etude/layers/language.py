"""A language model of LSTMs (Merity et al. 2018, "Regularizing and optimizing LSTM language models"), and its encoder.

In shapes: B pieces of texts of at most T tokens, E numbers a token, V tokens in the vocabulary. A piece is a row of
T + 1 ids, of which all but the last are read and all but the first are predicted, see `etude.text.batching.pieces`;
token 0 stands before and behind a text. So the unit of everything here is a token, the end of a text counted.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.layers.beside import rows
from etude.layers.loss import chances, linear_cross_entropy, sampled_cross_entropy, surprisals
from etude.layers.pooling import real
from etude.layers.recurrent import LSTM

States = list[tuple[Tensor, Tensor]]  # hidden and cell of each layer, [1, B, H]
BOUNDARY = 0  # the token that stands before and behind a text


class Dropped(LSTM):
    """One LSTM with weight drop: in training a part of the weights of its recurrence is zero for a whole batch."""

    def __init__(self, inputs: int, units: int, weight_dropout: float) -> None:
        super().__init__(inputs, units)
        self.weight_dropout = weight_dropout

    def weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        of_x, of_h, bias = super().weights(layer)
        return of_x, F.dropout(of_h, self.weight_dropout, self.training), bias


class Locked(nn.Module):
    """Dropout of the same numbers at all steps of a sequence (Gal & Ghahramani 2016): [B, T, E] -> [B, T, E]."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:, :1]), self.dropout, self.training) if self.training else x


def flipped(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row from its end to its beginning, [B, T, ...]; what stands behind its end stays there."""
    steps = torch.arange(x.shape[1], device=x.device)
    at = lengths[:, None] - 1 - steps
    return x.gather(1, at.where(at >= 0, steps).reshape(*at.shape, *[1] * (x.dim() - 2)).expand(x.shape))


class Encoder(nn.Module):
    """Tokens -> what was read up to each: embeddings, then LSTMs, the last of which has E units again.

    In training `word_dropout` leaves out all occurrences of a token in a batch (Gal & Ghahramani 2016), `dropout` is
    locked and stands behind the embeddings and behind every LSTM. Bidirectional: there are as many LSTMs again that
    read from the end; the two directions share the embeddings and nothing else (as in ELMo, Peters et al. 2018).
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        units: int,
        layers: int,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.word_dropout, self.bidirectional = embedding, word_dropout, bidirectional
        # Of variance 1, as torch has it: what is usual with SGD, +-0.1, hardly reaches the gates, and with Adam a step
        # is too short to change that soon (on 60 batches of qa-category's sample: a loss of 4.1 against 1.9).
        self.embedding = nn.Embedding(vocabulary, embedding)
        sizes = [embedding, *[units] * (layers - 1), embedding]
        self.layers = nn.ModuleList(Dropped(a, b, weight_dropout) for a, b in pairwise(sizes))
        self.reverse = nn.ModuleList(Dropped(a, b, weight_dropout) for a, b in pairwise(sizes) if bidirectional)
        self.dropout = Locked(dropout)

    def parts(self) -> list[list[nn.Module]]:
        """What can be frozen, or learn at a rate of its own, from the lowest on."""
        return [[self.embedding], *([self.layers[n], *self.reverse[n : n + 1]] for n in range(len(self.layers)))]

    def read(self, ids: Tensor, lengths: Tensor, free: int | None = None, shift: Tensor | None = None) -> Tensor:
        """What is known of whole texts at each token, int64 [B, T], [B] -> [B, T, E], or [B, T, 2 E] bidirectional.

        Before the first token that a direction reads stands `BOUNDARY`. `shift` [B, T, E] is added to the embeddings.
        `free`: see `forward`.
        """
        found = []
        for reverse in (False, True)[: 1 + self.bidirectional]:
            row = flipped(ids, lengths) if reverse else ids
            by = None if shift is None else F.pad(flipped(shift, lengths) if reverse else shift, (0, 0, 1, 0))
            given = F.pad(row, (1, 0), value=BOUNDARY), lengths + 1
            read = self(*given, free=free, reverse=reverse, shift=by)[0][:, 1:]
            found.append(flipped(read, lengths) if reverse else read)
        return torch.cat(found, 2)

    def forward(
        self,
        ids: Tensor,
        lengths: Tensor | None = None,
        states: States | None = None,
        free: int | None = None,
        reverse: bool = False,
        shift: Tensor | None = None,
    ) -> tuple[Tensor, States]:
        """int64 [B, T], lengths [B] (None: all T), states of each layer (None: 0) -> outputs [B, T, E], states.

        `free`: how many of `parts`, from the top, a gradient reaches; None: all. `reverse`: by the LSTMs that read from
        the end, which take the ids in their order of reading. `shift` [B, T, E] is added to the embeddings.
        """
        first = 0 if free is None else len(self.layers) + 1 - free
        found: States = []
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and first <= 0):
            x = self.embedded(ids)
            x = self.dropout(x if shift is None else x + shift)
        for number, layer in enumerate(self.reverse if reverse else self.layers):
            with torch.set_grad_enabled(learns and first <= number + 1):
                x, state = layer(x, lengths, None if states is None else states[number])
                x = self.dropout(x)
            found.append(state)
        return x, found

    def embedded(self, ids: Tensor) -> Tensor:
        x = rows(self.embedding, ids)
        if not (self.training and self.word_dropout):
            return x
        kept = F.dropout(x.new_ones(self.embedding.num_embeddings, 1), self.word_dropout)
        return x * F.embedding(ids, kept)


class LanguageModel(nn.Module):
    """Which token comes next? The table of embeddings is that of the answers, too (tied: Press & Wolf 2017).

    Bidirectional: two models that share this table, of which one reads from the end and says which token came before.
    """

    chance: Tensor

    def __init__(
        self, vocabulary: int, embedding: int, units: int, layers: int, bidirectional: bool = False, **dropout: float
    ) -> None:
        """`dropout`: those of `Encoder`."""
        super().__init__()
        self.encoder = Encoder(vocabulary, embedding, units, layers, bidirectional=bidirectional, **dropout)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.register_buffer("chance", torch.zeros(0), persistent=False)

    def sample(self, counts: Tensor, size: int) -> None:
        """Lets training look at some `size` tokens of the vocabulary at a step, see `sampled_cross_entropy`.

        `counts` [V]: how often each token is predicted in training; one that never is counts as one.
        """
        self.chance = chances(counts.clamp(min=1), size)

    def read(self, pieces: Tensor, lengths: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What was read before each token that is predicted, [N, E], these tokens, int64 [N], and which they are."""
        pieces = flipped(pieces, lengths + 1) if reverse else pieces
        outputs, _ = self.encoder(pieces[:, :-1], lengths, reverse=reverse)
        known = real(outputs, lengths)[..., 0]
        return outputs[known], pieces[:, 1:][known], known

    def forward(self, pieces: Tensor, lengths: Tensor, reverse: bool = False) -> Tensor:
        """int64 [B, T + 1], how many tokens of each are predicted, int64 [B] -> the sum of their surprisals, nats."""
        outputs, targets, _ = self.read(pieces, lengths, reverse)
        given = outputs, self.encoder.embedding.weight, self.bias, targets
        return sampled_cross_entropy(*given, self.chance) if self.sampled else linear_cross_entropy(*given)

    @property
    def sampled(self) -> bool:
        """Whether the loss is an estimate: in training only."""
        return self.training and len(self.chance) > 0

    def surprisals(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """The surprisal of each predicted token, in nats, 0 behind the end of a piece: [B, T]."""
        outputs, targets, known = self.read(pieces, lengths, False)
        found = surprisals(outputs, self.encoder.embedding.weight, self.bias, targets)
        return found.new_zeros(known.shape).masked_scatter(known, found)

    @torch.no_grad()
    def written(self, count: int, longest: int, uniform: Tensor, never: tuple[int, ...] = ()) -> list[list[int]]:
        """Texts that the model writes, at most `longest` tokens each, without those in `never`.

        `uniform` [count, longest], numbers in [0, 1), decides everything: the inverse of the distribution function.
        """
        ids = torch.full((count, 1), BOUNDARY, device=self.bias.device)
        states: Any = None
        rows: list[list[int]] = [[] for _ in range(count)]
        done = [False] * count
        for step in range(longest):
            outputs, states = self.encoder(ids, None, states)
            logits = F.linear(outputs[:, 0], self.encoder.embedding.weight, self.bias).double()
            logits[:, list(never)] = -torch.inf
            below = logits.softmax(1).cumsum(1)
            ids = torch.searchsorted(below, uniform[:, step, None].to(below) * below[:, -1:], right=True)
            for row, token in enumerate(ids[:, 0].tolist()):
                done[row] |= token == BOUNDARY
                if not done[row]:
                    rows[row].append(token)
        return rows


def perplexity(nats: float) -> float:
    """Of the mean surprisal of a token; infinite where that cannot be written as a number."""
    return float(torch.tensor(nats, dtype=torch.float64).exp())
