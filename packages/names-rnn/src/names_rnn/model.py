"""A recurrent network over the letters of a name. Shapes: B names, T letters, H units per direction, D directions."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.layers.pooling import Pooling
from etude.layers.recurrent import GRU, LSTM, RNN
from names_rnn.config import Model

BUCKETS = 1 << 16  # of the hashed n-grams
EDGE = 1  # letters are counted up by it: 0 is beyond the end, 1 the edge of a name


class RNNCell(nn.Module):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh) (Elman 1990), one letter at a time, as the lab has it.

    Weights start uniform in +-1/sqrt(H), as those of `nn.RNNCell`.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h, self.h2h = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """A letter [B, I], the state before it [B, H] -> the state after it [B, H]."""
        return torch.tanh(self.i2h(input) + self.h2h(hidden))

    def initHidden(self, batch: int = 1) -> Tensor:  # the lab's name
        """The state before the first letter, [B, H]."""
        return torch.zeros(batch, self.hidden_size, device=self.h2h.weight.device)


class Stepped(nn.Module):
    """`RNNCell`s called letter by letter, in layers and directions, with the interface of `etude.layers.recurrent`."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float, bidirectional: bool) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        sizes = [input_size] + [self.directions * hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(RNNCell(size, hidden_size) for size in sizes for _ in range(self.directions))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """x [B, T, I], lengths [B] -> the states after each letter [B, T, D * H], 0 where a name has ended."""
        for number in range(0, len(self.cells), self.directions):
            x = self.dropout(x) if number else x
            read = [self.run(number, x, lengths)]
            if self.directions == 2:
                back = self.run(number + 1, turned(x, lengths), lengths)
                read.append(turned(back, lengths))
            x = torch.cat(read, 2)
        return x, None

    def run(self, number: int, x: Tensor, lengths: Tensor) -> Tensor:
        cell = cast(RNNCell, self.cells[number])
        hidden = cell.initHidden(len(x))
        states = []
        for step, letter in enumerate(x.unbind(1)):
            hidden = cell(letter, hidden)
            states.append(hidden.where(lengths[:, None] > step, 0))
        return torch.stack(states, 1)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Every name from its last letter to its first, what is beyond its end stays: [B, T, ...], [B] -> [B, T, ...]."""
    place = torch.arange(x.shape[1], device=x.device)
    order = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return x.gather(1, order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand_as(x))


CELLS = {"own": Stepped, "rnn": RNN, "lstm": LSTM, "gru": GRU}


class Convolutions(nn.Module):
    """Convolutions of several widths side by side, and the maximum of each over the name (Kim 2014)."""

    def __init__(self, size: int, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.widths, self.size = widths, len(widths) * channels
        self.maps = nn.ModuleList(nn.Conv1d(size, channels, width, padding=width - 1) for width in widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [B, T, I], 0 beyond the end -> [B, self.size]; a name is seen with its edges, whatever it is padded to."""
        found = []
        for width, convolution in zip(self.widths, self.maps, strict=True):
            y = F.relu(convolution(x.mT))
            seen = torch.arange(y.shape[2], device=x.device) < lengths[:, None] + width - 1
            found.append(y.where(seen[:, None], 0).amax(2))
        return torch.cat(found, 1)


class NGrams(nn.Module):
    """Logistic regression on the n-grams of a name, edges included, as one more term of the logits.

    What a name gives each of its n-grams is tf-idf: the n-gram's idf, divided by the L2 norm of all of the name's.
    N-grams are hashed into buckets (Weinberger et al. 2009), so that no list of them is kept. Dropout leaves some out.
    """

    def __init__(self, longest: int, languages: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.longest, self.dropout = longest, nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.zeros(BUCKETS, languages))
        self.idf: Tensor
        self.register_buffer("idf", torch.ones(BUCKETS))

    def buckets(self, ids: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Letters [B, T] -> for each length of n-gram int64 [B, P], where it is kept, and bool [B, P], if it is one.

        A letter that is left out, 0, is part of none.
        """
        framed = F.pad(ids + EDGE, (1, 1))
        place = torch.arange(framed.shape[1], device=ids.device)
        inside = (place > 0) & (place <= lengths[:, None])
        known = ~inside | (framed > EDGE)
        framed = framed.where(inside, EDGE)
        key, whole = torch.zeros_like(framed), torch.ones_like(known)
        for n in range(1, min(self.longest, framed.shape[1]) + 1):
            key = (key[:, : framed.shape[1] - n + 1] * 1_000_003 + framed[:, n - 1 :] + 7_919) % 2_147_483_647
            whole = whole[:, : known.shape[1] - n + 1] & known[:, n - 1 :]
            yield key % BUCKETS, whole & (place[: key.shape[1]] + n <= lengths[:, None] + 2)

    def count(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """The idf of the n-grams of training names, 1 + ln((1 + N) / (1 + df)); 0 of those that one name alone has."""
        df, names = torch.zeros(BUCKETS), 0
        for ids, lengths in batches:
            row = BUCKETS * torch.arange(len(ids))[:, None]
            seen = torch.cat([(row + bucket)[real] for bucket, real in self.buckets(ids, lengths)]).unique()
            df, names = df + (seen % BUCKETS).bincount(minlength=BUCKETS), names + len(ids)
        self.idf = (1 + ((1 + names) / (1 + df)).log()).where(df > 1, 0).to(self.idf)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Letters [B, T] -> [B, K]."""
        total, square = torch.zeros(()), torch.zeros(())
        for bucket, real in self.buckets(ids, lengths):
            idf = F.embedding(bucket, self.idf[:, None]) * real[..., None]
            total = total + (F.embedding(bucket, self.weight) * self.dropout(idf)).sum(1)
            square = square + idf.square().sum(1)
        return total / square.clamp(min=1e-6).sqrt()


class Classifier(nn.Module):
    """Letters -> log-probabilities of K languages."""

    def __init__(self, config: Model, letters: int, languages: int) -> None:
        """`letters`: the highest id of a letter; 0 is padding, or a letter that is left out."""
        super().__init__()
        self.reading = config.reading
        both = config.reading == "both"
        if config.order == "one-hot":
            self.register_buffer("letters", torch.eye(letters + 1)[:, 1:].contiguous(), persistent=False)
            size = letters
        else:
            self.letters = nn.Parameter(torch.randn(letters + 1, config.embedding))
            size = config.embedding
        self.recurrent = CELLS[config.cell](size, config.hidden, config.layers, config.dropout, both)
        self.pooling = Pooling(config.pooling, (1 + both) * config.hidden, both)
        width = (1 + both) * config.hidden
        self.convolutions = Convolutions(size, config.widths, config.channels) if config.widths else None
        self.ngrams = NGrams(config.ngrams, languages, config.dropout) if config.ngrams else None
        self.dropout = nn.Dropout(config.dropout)
        self.letter_dropout: float | Tensor = config.letter_dropout  # a tensor where stacked runs differ in it
        self.output = nn.Linear(width + (self.convolutions.size if self.convolutions else 0), languages)
        self.offset: Tensor
        self.register_buffer("offset", torch.zeros(languages), persistent=False)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """int64 [B, T], [B] -> [B, K]. In training letters are left out, and `offset` is added to the logits."""
        left_out = self.letter_dropout
        if self.training and (torch.is_tensor(left_out) or left_out):
            ids = ids.where(torch.rand(ids.shape, device=ids.device) >= left_out, 0)
        logits = self.output(self.dropout(self.vector(ids, lengths)))
        if self.ngrams is not None:
            logits = logits + self.ngrams(ids, lengths)
        return (logits + self.offset if self.training else logits).log_softmax(1)

    def vector(self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None) -> Tensor:
        """What is known of a name before the linear layer, [B, width]. `shift` [B, T, E] is added to the letters."""
        back = self.reading == "backward"
        x = F.embedding(turned(ids, lengths) if back else ids, self.letters)
        if shift is not None:
            x = x + (turned(shift, lengths) if back else shift)
        x = x.where((torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None], 0)
        x = self.dropout(x)
        found = self.pooling(self.recurrent(x, lengths)[0], lengths)
        if self.convolutions is not None:
            found = torch.cat([found, self.convolutions(x, lengths)], 1)
        return found
