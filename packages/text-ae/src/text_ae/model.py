"""Encoders and decoders. Shapes: B texts of at most T tokens, N tokens of all texts, V the vocabulary, D the latent.

A token's id is its number in the tokenizer; `end` ends a text, `start` stands before it. A latent is float32 always.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.layers.norm import BatchNorm
from etude.layers.recurrent import GRU, LSTM
from text_ae.config import Config

CELLS: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}
LEAST = 2e-4  # the smallest variance of the noise, when nothing is left of it
COMMON = 1_000  # tokens that every training step chooses among
LOOKS = (2, 3, 4)  # training mends the guess one of so many times, and learns to do so once more


class Sizes(NamedTuple):
    """What the data decide."""

    vocabulary: int  # V
    start: int
    end: int


class Texts(NamedTuple):
    """Texts as ids, padded with anything: int64 [B, T], and how many of them count, int64 [B]."""

    ids: Tensor
    lengths: Tensor

    @property
    def real(self) -> Tensor:
        """bool [B, T]"""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


class Told(NamedTuple):
    """What a decoder says to texts that it is shown: the log-odds of N tokens, and their truths."""

    logits: Tensor  # [N, V]
    truths: Tensor  # int64 [N]
    real: Tensor  # bool [N] whether it is a token of the text, or else its end
    latent: Tensor  # [B, D] of the texts
    said: Texts | None = None  # what `restore` gives of it, where that is known by now


class Autoencoder(nn.Module):
    """Texts -> latent [B, D] -> texts."""

    def __init__(self, config: Config, sizes: Sizes, counts: Tensor) -> None:
        """`counts`, float [V], says how often each token stands in training."""
        super().__init__()
        model = config.model
        self.encoder: Recurrent | Superposition
        if model.encoder == "recurrent":
            self.encoder = Recurrent(config, sizes)
        else:
            self.encoder = Superposition(config, sizes)
        norm = model.batch_norm and model.encoder == "recurrent"  # a superposition has to stay a sum
        self.norm = BatchNorm(model.latent) if norm else None
        self.decoder: Autoregressive | Parallel | Unmixing
        if model.decoder == "autoregressive":
            self.decoder = Autoregressive(config, sizes)
        elif model.decoder == "parallel":
            self.decoder = Parallel(config, sizes)
        else:
            assert isinstance(self.encoder, Superposition)
            self.decoder = Unmixing(config, self.encoder, counts)

    def encode(self, texts: Texts) -> Tensor:
        """float32 [B, D]"""
        latent = self.encoder(texts).float()
        return latent if self.norm is None else self.norm(latent)

    def forward(self, texts: Texts) -> Told:
        return self.decoder(self.encode(texts), texts)

    def restore(self, latent: Tensor) -> Texts:
        """What the decoder says of latents [B, D] alone: nothing of the texts is shown to it."""
        return self.decoder.restore(latent)


# Read by a recurrent layer, said by a recurrent layer.


class Recurrent(nn.Module):
    """Texts -> [B, D]: embeddings, recurrent layers, a linear layer on the last states of both directions."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        model = config.model
        self.embedding = nn.Embedding(sizes.vocabulary, model.embedding)
        self.drop = nn.Dropout(model.dropout)
        self.read = CELLS[model.cell](model.embedding, model.hidden, model.layers, model.dropout, model.bidirectional)
        self.directions = 2 if model.bidirectional else 1
        self.latent = nn.Linear(self.directions * model.hidden, model.latent)

    def forward(self, texts: Texts) -> Tensor:
        _, state = self.read(self.drop(self.embedding(texts.ids)), texts.lengths)
        hidden = state[0] if isinstance(state, tuple) else state
        return self.latent(hidden[-self.directions :].transpose(0, 1).flatten(1))


class Autoregressive(nn.Module):
    """Says token after token: its input is the token before, and at every step the latent.

    Shown a text, it is given the true token before each (teacher forcing; Williams & Zipser 1989), some hidden (Bowman
    et al. 2016). `restore` gives it its own.
    """

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        model = config.model
        self.sizes, self.longest, self.hide = sizes, config.text.max_length, model.word_dropout
        self.embedding = nn.Embedding(sizes.vocabulary, model.embedding)
        self.drop = nn.Dropout(model.dropout)
        self.say = CELLS[model.cell](model.embedding + model.latent, model.hidden, model.layers, model.dropout)
        self.classify = nn.Linear(model.hidden, sizes.vocabulary)

    def step(self, before: Tensor, latent: Tensor, lengths: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """ids [B, T], latent [B, D], lengths [B], a state -> [B, T, H], the state after."""
        x = torch.cat([self.drop(self.embedding(before)), latent[:, None].expand(-1, before.shape[1], -1)], 2)
        y, state = self.say(x, lengths, state)
        return self.drop(y), state

    def forward(self, latent: Tensor, texts: Texts) -> Told:
        truths, real, before = with_end(texts, self.sizes)
        if self.training and self.hide:
            hidden = torch.rand(before.shape, device=before.device) < self.hide
            before = before.masked_fill(hidden, self.sizes.start)
        y, _ = self.step(before, latent, texts.lengths + 1, None)
        return Told(self.classify(y[real]), truths[real], truths[real] != self.sizes.end, latent)

    def restore(self, latent: Tensor) -> Texts:
        before = torch.full((len(latent), 1), self.sizes.start, device=latent.device)
        state, said = None, list[Tensor]()
        ended = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
        while len(said) <= self.longest and not ended.all():
            y, state = self.step(before, latent, None, state)
            before = self.classify(y).argmax(2)
            said.append(before)
            ended = ended | (before[:, 0] == self.sizes.end)
        return until_end(torch.cat(said, 1), self.sizes.end, self.longest)


class Parallel(nn.Module):
    """Says all tokens at once: recurrent layers in both directions over the places, each given the latent.

    Not autoregressive (Gu et al. 2018): no token is given another one, so there is nothing to force.
    """

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        model = config.model
        self.sizes, self.longest = sizes, config.text.max_length
        self.place = nn.Embedding(config.text.max_length + 1, model.embedding)
        self.say = CELLS[model.cell](model.embedding + model.latent, model.hidden, model.layers, model.dropout, True)
        self.drop = nn.Dropout(model.dropout)
        self.classify = nn.Linear(2 * model.hidden, sizes.vocabulary)

    def every(self, latent: Tensor) -> Tensor:
        """[B, D] -> [B, T, 2 H], for all places there can be, as nothing says yet how many are needed."""
        batch, places = len(latent), self.longest + 1
        place = self.place.weight[None].expand(batch, -1, -1)
        y, _ = self.say(torch.cat([place, latent[:, None].expand(-1, places, -1)], 2))
        return self.drop(y)

    def forward(self, latent: Tensor, texts: Texts) -> Told:
        truths, real, _ = with_end(texts, self.sizes)
        y = self.every(latent)[:, : truths.shape[1]][real]
        return Told(self.classify(y), truths[real], truths[real] != self.sizes.end, latent)

    def restore(self, latent: Tensor) -> Texts:
        return until_end(self.classify(self.every(latent)).argmax(2), self.sizes.end, self.longest)


def with_end(texts: Texts, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens and the end, which of them count, and what stands before each: int64, bool, int64 [B, T + 1]."""
    truths = F.pad(texts.ids, (0, 1))
    places = torch.arange(truths.shape[1], device=truths.device)
    truths = truths.masked_fill(places == texts.lengths[:, None], sizes.end)
    before = F.pad(truths[:, :-1], (1, 0), value=sizes.start)
    return truths, places <= texts.lengths[:, None], before


def until_end(said: Tensor, end: int, longest: int) -> Texts:
    """What was said [B, T] before the first end, `longest` tokens at most."""
    lengths = F.pad(said == end, (0, 1), value=True).int().argmax(1)
    return Texts(said[:, :longest], lengths.clamp(max=longest))


# Added up, and taken apart again.


class Superposition(nn.Module):
    """Texts -> [B, D]: the sum of a vector for each token; nothing is read, and nothing is trained.

    The first number counts the tokens. The next K add up what each token means, wherever it stands: a vector of length
    1 that says which tokens it goes with (see `text_ae.meaning`; random until `mean` gives better ones). The rest, n =
    D - 1 - K, is a code: token w has a random direction R_w in n dimensions, place t a random rotation M_t, and their
    sum is `sum over t of M_t R_(w_t)`: a sparse superposition code (Barron & Joseph 2012, "Least squares superposition
    codes of moderate dictionary size are reliable at rates up to capacity").
    """

    rotations: Tensor
    vectors: Tensor

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        model, places = config.model, config.text.max_length
        self.meaning = model.meaning
        width = model.latent - 1 - model.meaning
        parts = [F.normalize(torch.randn(sizes.vocabulary, some), dim=1) for some in (model.meaning, width)]
        rotations = torch.linalg.qr(torch.randn(places, width, width))[0]
        self.register_buffer("vectors", torch.cat(parts, 1))  # [V, K + n], meaning and direction
        self.register_buffer("rotations", rotations)  # [T, n, n]

    def mean(self, meanings: Tensor) -> None:
        """Gives tokens their meanings, [V, K], each of length 1; those that have none (zero) keep their random ones."""
        some = meanings.any(1)
        self.vectors[some, : self.meaning] = meanings[some]

    def forward(self, texts: Texts) -> Tensor:
        with torch.autocast(texts.ids.device.type, enabled=False):
            x = self.vectors[texts.ids] * texts.real[:, :, None]
            code = self.mixed(x[:, :, self.meaning :])
        return torch.cat([texts.lengths[:, None].float(), x[:, :, : self.meaning].sum(1), code], 1)

    def mixed(self, x: Tensor) -> Tensor:
        """[B, T, n] -> [B, n]: each place turned by its rotation, all added up."""
        return torch.einsum("btj,tij->bi", x, self.rotations[: x.shape[1]])

    def parted(self, code: Tensor, places: int) -> Tensor:
        """[B, n] -> [B, T, n]: turned back for each place; what belongs to others looks like noise there."""
        return torch.einsum("bi,tij->btj", code, self.rotations[:places])


class Unmixing(nn.Module):
    """Takes a superposition apart by approximate message passing, with a language model as the prior.

    At each place the code, turned back, is the direction of its token plus what all others add, which looks like
    white noise of known variance: Bayes' rule gives the probability of each token there. The expected directions are
    taken from the code, and what is left is looked at again, with less noise; the Onsager term keeps it white
    (Donoho, Maleki & Montanari 2009; for this code Rush, Greig & Venkataramanan 2017). The prior of the first round
    is how often a token is used. From then on a recurrent layer in each direction guesses each token from the guesses
    at the other places, and the meaning that those leave unexplained is held against that of each token; that is all
    that is learnt.
    """

    frequency: Tensor
    common: Tensor

    def __init__(self, config: Config, encoder: Superposition, counts: Tensor) -> None:
        super().__init__()
        model = config.model
        self.code, self.longest, self.rounds = encoder, config.text.max_length, model.rounds
        seen = counts + 0.3
        self.register_buffer("frequency", (seen / seen.sum()).log())
        self.register_buffer("common", counts.topk(min(COMMON, len(counts))).indices.sort().values)
        self.embedding = nn.Embedding(len(counts), model.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.drop = nn.Dropout(model.dropout)
        self.enter = nn.Linear(model.embedding + model.meaning, model.hidden)
        self.read = CELLS[model.cell](model.hidden, model.hidden, model.layers, model.dropout, bidirectional=True)
        self.guess = nn.Linear(2 * model.hidden + model.meaning, model.embedding)
        self.share = nn.Parameter(torch.tensor(0.1))
        self.bias = nn.Parameter(self.frequency.clone())

    def forward(self, latent: Tensor, texts: Texts) -> Told:
        truths = texts.ids[texts.real]
        every = torch.ones_like(truths, dtype=torch.bool)  # is a token; the end is no matter of guessing
        if not self.training:
            assert torch.equal(texts.lengths, latent[:, 0].round().long())  # `restore` would find the same
            logits = self.unmix(latent, texts.lengths, self.rounds)
            said = torch.zeros_like(texts.ids).masked_scatter(texts.real, logits.argmax(1))
            return Told(logits, truths, every, latent, Texts(said, texts.lengths))
        rounds = LOOKS[int(torch.randint(len(LOOKS), ()))]
        some, rarity = self.candidates(truths)
        logits = self.unmix(latent, texts.lengths, rounds, some, rarity)
        places = torch.searchsorted(some, truths)
        return Told(logits, places, every, latent)

    def restore(self, latent: Tensor) -> Texts:
        lengths = latent[:, 0].round().long().clamp(0, self.longest)
        ids = torch.zeros(len(latent), max(1, int(lengths.max())), dtype=torch.long, device=latent.device)
        texts = Texts(ids, lengths)
        if len(found := self.unmix(latent, lengths, self.rounds)):
            ids[texts.real] = found.argmax(1)
        return texts

    def candidates(self, truths: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that a training step chooses among, sorted, int64 [C], and what makes up for the others, [C].

        These are the COMMON most frequent ones and those of the batch. A rare one is seldom there but where it is
        right; its log-odds are raised by -log of how probable it is to be there at all, as if it stood for all the
        times it is not (Bengio & Senecal 2008, importance sampling): so the sum over the candidates is that over all,
        on average.
        """
        some = torch.cat([self.common, truths]).unique()
        absent = (-len(truths) * self.frequency[some].exp()).exp()  # probably, of so many tokens
        rarity = -(1 - absent).log()
        rarity[torch.searchsorted(some, self.common)] = 0
        return some, rarity

    def unmix(
        self, latent: Tensor, lengths: Tensor, rounds: int, some: Tensor | None = None, rarity: Tensor | float = 0.0
    ) -> Tensor:
        """[B, D], [B] -> the log-odds of the tokens [N, V] after so many rounds; gradients flow through the last.

        Except in training, a text is done with as soon as nothing is left to be explained. With `some` [C] only of
        these, [N, C], all `rarity` [C] more probable.
        """
        vectors, frequency = self.code.vectors, self.frequency
        table: Tensor = self.embedding.weight
        bias: Tensor = self.bias
        if some is not None:  # as embeddings, whose gradients add up in a fixed order
            vectors, frequency, table = vectors[some], frequency[some], F.embedding(some, table)
            bias = F.embedding(some, bias[:, None])[:, 0]
        known, width, places = self.code.meaning, vectors.shape[1] - self.code.meaning, max(1, int(lengths.max()))
        real = torch.arange(places, device=latent.device) < lengths[:, None]
        found = latent.new_zeros(0)
        token = torch.arange(int(real.sum()), device=latent.device)  # [N] rows of `found` that are still looked at
        meaning, code, left = latent[:, 1:-width], latent[:, -width:], latent[:, -width:]
        expected, embedded = latent.new_zeros(*real.shape, known + width), latent.new_zeros(*real.shape, table.shape[1])
        onsager = latent.new_zeros(len(latent))
        for round in range(rounds):
            last = round == rounds - 1
            text = real.nonzero()[:, 0]  # [N] of which text each token is
            with torch.set_grad_enabled(torch.is_grad_enabled() and last):
                with torch.autocast(latent.device.type, enabled=False):
                    left = code - self.code.mixed(expected[:, :, known:]) + onsager[:, None] * left
                    variance = left.square().mean(1).clamp(min=LEAST)
                    seen = (expected[:, :, known:] + self.code.parted(left, places))[real] / variance[text, None]
                if round:
                    guess, unexplained = self.prior(embedded, expected[:, :, :known], meaning, lengths, real)
                    logits = torch.cat([unexplained, seen], 1) @ vectors.T + guess @ table.T
                    logits = logits.float() + (bias + rarity)
                else:
                    logits = (seen @ vectors[:, known:].T).float() + (frequency + rarity)
            if round == 0 or self.training:
                found = logits
            else:
                found[token] = logits
            with torch.no_grad():
                open = variance > LEAST  # [B] whether something is left to be explained
                if last or not (self.training or open.any()):
                    break
                chance = logits.softmax(1)
                expected[real] = (chance @ vectors).float()
                embedded[real] = (chance @ table).float()
                onsager = (lengths - expected[:, :, known:].square().sum((1, 2))) / variance / width
                if not self.training and not open.all():
                    token, lengths, real = token[open[text]], lengths[open], real[open]
                    meaning, code, left, onsager = meaning[open], code[open], left[open], onsager[open]
                    expected, embedded = expected[open], embedded[open]
        return found

    def prior(
        self, embedded: Tensor, expected: Tensor, meaning: Tensor, lengths: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the other places say of each one: [N, E] by a recurrent layer, [N, K] by what they leave unexplained.

        From the expected embeddings [B, T, E], the expected meanings [B, T, K] and the meaning [B, K]. The first is to
        be multiplied with the embeddings, the second with the meanings: if what is unexplained, u, is the meaning m_w
        and white noise of variance v, log p(u | w) is u m_w / v and what is the same for all, as all have length 1. As
        the noise is not white, a part of that is learnt.
        """
        places = embedded.shape[1]
        left = meaning - expected.sum(1)
        unexplained = (left[:, None] + expected)[real]
        sharp = self.share / left.square().mean(1, keepdim=True).clamp(min=LEAST)
        whole = meaning[:, None].expand(-1, places, -1)
        y, _ = self.read(self.drop(F.gelu(self.enter(torch.cat([embedded, whole], 2)))), lengths)
        forwards, backwards = y.chunk(2, 2)  # moved by one, so that no place is told what it has said itself
        sides = F.pad(forwards[:, :-1], (0, 0, 1, 0)), F.pad(backwards[:, 1:], (0, 0, 0, 1))
        guess = self.guess(self.drop(torch.cat([*sides, whole], 2)[real]))
        return guess, sharp.expand(-1, places)[real][:, None] * unexplained
