"""The tagger. Shapes: B sentences, T pieces of the longest, W words, F distinct forms among them, N members."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.layers.norm import BatchNorm
from etude.layers.recurrent import LSTM
from lstm_pos.config import Model
from lstm_pos.forms import SHAPES

SHAPE, AFFIX, CHARACTER, SPELLING = 8, 16, 32, 50  # numbers per shape, ending, character; units per direction


class Batch(NamedTuple):
    """Sentences padded to the longest; what is known of a form stands in it once, however often it comes."""

    pieces: Tensor  # int64 [B, T]
    lengths: Tensor  # int64 [B]
    forms: Tensor  # int64 [B, T] the row of the form that each piece is of
    shapes: Tensor  # int64 [F]
    dictionary: Tensor  # float32 [F, G]
    affixes: Tensor  # int64 [F, A]
    characters: Tensor  # int64 [F, C]
    character_lengths: Tensor  # int64 [F]
    carriers: Tensor  # int64 [P] the places b * T + t of the pieces that carry the tag of their word
    words: Tensor | None  # int64 [P] the word of each carrier, where a word has several; None: P = W, in order
    tags: Tensor  # int64 [W]
    unseen: Tensor  # bool [W] whether training has no such form
    morphology: Tensor  # int64 [W, attributes]


class Sizes(NamedTuple):
    """What the data decide."""

    pieces: int  # the vocabulary
    affixes: list[int]  # how many of each kind are known
    characters: int
    grammemes: int  # G: of the dictionary, 0 without it
    tags: int  # K
    values: int  # M: of the morphology, all attributes together


class Tagger(nn.Module):
    """A Batch -> the log-odds of tags, and those of the morphology's values, of every member: [N, P, K], [N, P, M]."""

    def __init__(self, config: Model, sizes: Sizes) -> None:
        super().__init__()
        self.members = nn.ModuleList(Member(config, sizes) for _ in range(config.members))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        tags, values = zip(*[member(batch) for member in self.members], strict=True)
        return torch.stack(tags), None if values[0] is None else torch.stack(values)


class Member(nn.Module):
    """Embeddings, an LSTM, a linear layer at every carrier: a Batch -> [P, K], [P, M]."""

    def __init__(self, config: Model, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = embedding(sizes.pieces, config.embedding)
        self.spelling = Spelling(config, sizes)
        width = config.embedding + self.spelling.width
        self.drop = nn.Dropout(config.dropout)
        self.lstm = LSTM(width, config.hidden, config.layers, config.dropout, config.bidirectional)
        width = config.hidden * (2 if config.bidirectional else 1)
        self.norm = BatchNorm(width) if config.batch_norm else None
        self.classify = nn.Linear(width, sizes.tags)
        self.analyse = nn.Linear(width, sizes.values) if config.morphology else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        # As an embedding, since the gradient of plain indexing adds up in any order when threads share it.
        spelling = F.embedding(batch.forms, self.spelling(batch))
        x = torch.cat([self.embedding(batch.pieces), spelling], 2)
        y, _ = self.lstm(self.drop(x), batch.lengths)
        y = y.flatten(0, 1).index_select(0, batch.carriers)  # from here on there is no padding
        if self.norm is not None:
            y = self.norm(y)
        y = self.drop(y)
        return self.classify(y), None if self.analyse is None else self.analyse(y)


class Spelling(nn.Module):
    """What a form looks like: a Batch -> [F, width]."""

    def __init__(self, config: Model, sizes: Sizes) -> None:
        super().__init__()
        self.shape, self.width = nn.Embedding(len(SHAPES), SHAPE), SHAPE + sizes.grammemes
        self.affixes: nn.ModuleList | None = None
        self.characters: nn.Embedding | None = None
        if config.features in ("endings", "both"):
            self.affixes = nn.ModuleList(embedding(size + 1, AFFIX) for size in sizes.affixes)
            self.width += AFFIX * len(sizes.affixes)
        if config.features in ("characters", "both"):
            self.characters = nn.Embedding(sizes.characters + 2, CHARACTER)
            self.read = LSTM(CHARACTER, SPELLING, bidirectional=True)
            self.width += 2 * SPELLING

    def forward(self, batch: Batch) -> Tensor:
        found = [self.shape(batch.shapes), batch.dictionary]
        if self.affixes is not None:
            found += [embed(batch.affixes[:, n]) for n, embed in enumerate(self.affixes)]
        if self.characters is not None:
            _, (ends, _) = self.read(self.characters(batch.characters), batch.character_lengths)
            found.append(ends.transpose(0, 1).flatten(1))  # of both directions, side by side
        return torch.cat([x.float() for x in found], 1)


def embedding(size: int, width: int) -> nn.Embedding:
    """Of many and rare things: small at first, so that those hardly seen say little."""
    made = nn.Embedding(size, width)
    nn.init.normal_(made.weight, std=0.1)
    return made
