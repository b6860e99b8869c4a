"""lstm-pos against the same tagger written plainly: words per second in training and in tagging, in turns.

    ETUDE_DATA=... uv run --package lstm-pos python benchmarks/tagger.py [--threads 1] [--rounds 5] [--data nerus]

The other side is what a tutorial writes: an embedding, `nn.LSTM` on packed sequences, a linear layer, AdamW, random
batches, fp32, the same sizes of everything (embeddings of words and of shapes). Both train in fp32, in batches of 32; a
round is a tenth of an epoch of one side, then of the other. Then both tag the training part: ours as `predict` does it,
some 4,000 pieces at a time and in bf16 where the machine multiplies it natively. The ratio is the median of the rounds'
ratios.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude import config, draw
from etude.train import optim
from etude.train.device import best_precision
from etude.train.step import even_batches
from lstm_pos.config import Config
from lstm_pos.model import SHAPE
from lstm_pos.task import Tagging, make

EVERY = 10


class Plain(nn.Module):
    """Ids of words and shapes [B, T], lengths [B] -> log-odds [B, T, K]."""

    def __init__(self, words: int, shapes: int, tags: int, parsed: Config) -> None:
        super().__init__()
        model = parsed.model
        self.words, self.shapes = nn.Embedding(words, model.embedding), nn.Embedding(shapes, SHAPE)
        width = model.embedding + SHAPE
        self.lstm = nn.LSTM(width, model.hidden, model.layers, batch_first=True, bidirectional=model.bidirectional)
        self.drop = nn.Dropout(model.dropout)
        self.classify = nn.Linear(model.hidden * (2 if model.bidirectional else 1), tags)

    def forward(self, words: Tensor, shapes: Tensor, lengths: Tensor) -> Tensor:
        x = self.drop(torch.cat([self.words(words), self.shapes(shapes)], 2))
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.classify(self.drop(y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="nerus")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    parsed = config.parse(Config, ["--data", asked.data])
    torch.manual_seed(0)
    ours = make(parsed, torch.device("cpu"))
    assert isinstance(ours, Tagging)
    optimizer = optim.optimizer(parsed.fit, ours.model)

    forms, corpus = ours.forms, ours.corpus
    words = ours.numbers[corpus.word_ids]
    theirs = Plain(ours.learnt.encoder.cutter.vocab_size, int(forms.shapes.max()) + 1, len(ours.tags), parsed)
    their_optimizer = torch.optim.AdamW(theirs.parameters(), parsed.fit.lr)
    part = ours.parts["train"]
    rows = [  # what a tutorial's Dataset holds: tensors for each sentence
        (
            torch.from_numpy(forms.pieces[words[a:b]]),
            torch.from_numpy(forms.shapes[words[a:b]]),
            torch.from_numpy(ours.tag_ids[corpus.tag_ids[a:b]]),
        )
        for a, b in zip(part.starts, part.ends, strict=True)
    ]

    def padded(ids: np.ndarray) -> tuple[list[Tensor], Tensor]:
        some = [rows[n] for n in ids]
        lengths = torch.tensor([len(row[0]) for row in some])
        columns = zip(*some, strict=True)
        return [nn.utils.rnn.pad_sequence(list(c), batch_first=True, padding_value=-1) for c in columns], lengths

    def train_ours(epoch: int) -> int:
        ours.model.train()
        seen = 0
        for ids in ours.plan("train", epoch, parsed.fit.batch_size)[::EVERY]:
            sums = ours.step(ours.load("train", ids, epoch))
            optimizer.zero_grad()
            (sums["loss"][0] / sums["loss"][1]).backward()
            nn.utils.clip_grad_norm_(ours.model.parameters(), parsed.fit.clip)
            optimizer.step()
            seen += int(sums["accuracy"][1])
        return seen

    def train_theirs(epoch: int) -> int:
        theirs.train()
        seen = 0
        for ids in even_batches(draw.shuffled(len(rows), 0, epoch), parsed.fit.batch_size)[::EVERY]:
            (pieces, shapes, tags), lengths = padded(ids)
            logits = theirs(pieces.clamp(min=0), shapes.clamp(min=0), lengths)
            loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=-1)
            their_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), parsed.fit.clip)
            their_optimizer.step()
            seen += int(lengths.sum())
        return seen

    precision = best_precision(torch.device("cpu"))

    def tag_ours(_: int) -> int:
        ours.answers(forms, words, part, precision)
        return int((part.ends - part.starts).sum())

    @torch.inference_mode()
    def tag_theirs(_: int) -> int:
        theirs.eval()
        seen = 0
        for ids in even_batches(draw.shuffled(len(rows), 0), parsed.fit.batch_size):
            (pieces, shapes, _tags), lengths = padded(ids)
            theirs(pieces.clamp(min=0), shapes.clamp(min=0), lengths).argmax(2)
            seen += int(lengths.sum())
        return seen

    for name, one, other in (("training", train_ours, train_theirs), ("tagging", tag_ours, tag_theirs)):
        rates = []
        for epoch in range(1, asked.rounds + 2):  # the first warms up
            pair = []
            for work in (one, other):
                began = time.perf_counter()
                count = work(epoch)
                pair.append(count / (time.perf_counter() - began))
            rates.append(pair)
        mine, plain = (statistics.median(side) for side in zip(*rates[1:], strict=True))
        ratio = statistics.median(a / b for a, b in rates[1:])
        print(f"{name}: {mine:,.0f} words/s, written plainly {plain:,.0f}: {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
