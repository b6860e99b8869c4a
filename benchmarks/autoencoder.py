"""text-ae against the autoencoder that tutorials write, on tweets: what each restores after the same time of training.

    ETUDE_DATA=... uv run --package text-ae python benchmarks/autoencoder.py [--minutes 10] [--threads 2]
    # into packages/text-ae/results/autoencoder.csv

The other side is an `nn.LSTM` encoder of one layer, a latent, and an `nn.LSTM` decoder of one layer that starts from it
and is given the true token before each (teacher forcing): fp32, padded batches in random order, Adam. Both sides have
the tokenizer, the texts (of at most 24 tokens), the latent and the sizes of `best`, and train in turns, a minute each.
Both restore freely: from the latent alone, by the greedy choice. Scored are up to 1,000 texts of the validation part.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rows import put
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from etude import config, draw
from etude.text.batching import pad
from etude.train import optim
from etude.train.device import Device, best_precision
from etude.train.step import even_batches
from etude.train.task import summary
from text_ae.config import Config
from text_ae.task import Restoring, make

RESULTS = Path(__file__).parents[1] / "packages/text-ae/results/autoencoder.csv"
TURN = 60.0  # seconds
LONGEST = 24  # tokens


class Tutorial(nn.Module):
    """Ids [B, T], lengths [B] -> log-odds [B, T + 1, V]."""

    def __init__(self, vocabulary: int, parsed: Config) -> None:
        super().__init__()
        model = parsed.model
        self.embedding = nn.Embedding(vocabulary, model.embedding)
        self.encoder = nn.LSTM(model.embedding, model.hidden, batch_first=True)
        self.latent = nn.Linear(model.hidden, model.latent)
        self.begin = nn.Linear(model.latent, model.hidden)
        self.decoder = nn.LSTM(model.embedding, model.hidden, batch_first=True)
        self.classify = nn.Linear(model.hidden, vocabulary)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.encoder(packed)
        return self.latent(hidden[-1])

    def forward(self, ids: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        hidden = self.begin(self.encode(ids, lengths))[None]
        y, _ = self.decoder(self.embedding(before), (hidden, torch.zeros_like(hidden)))
        return self.classify(y)

    def restore(self, ids: Tensor, lengths: Tensor, start: int, end: int) -> list[list[int]]:
        hidden = self.begin(self.encode(ids, lengths))[None]
        state, before, said = (hidden, torch.zeros_like(hidden)), torch.full((len(ids), 1), start), []
        for _ in range(LONGEST + 1):
            y, state = self.decoder(self.embedding(before), state)
            before = self.classify(y).argmax(2)
            said.append(before)
        return [row[: row.index(end)] if end in row else row for row in torch.cat(said, 1).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    parsed = config.parse(Config, ["best", "--data.held-out", "0.1", f"--text.max-length={LONGEST}"], package="text_ae")
    device = Device(torch.device("cpu"), best_precision(torch.device("cpu")))
    torch.manual_seed(0)
    task = make(parsed, device.where)
    assert isinstance(task, Restoring)
    print(f"data     {task.data}\nours     {summary(task)}, {device}")
    start, end = task.tokenizer.bos_id, task.tokenizer.eos_id
    assert start is not None
    assert end is not None
    tutorial = Tutorial(task.tokenizer.vocab_size, parsed)
    print(f"tutorial {sum(p.numel() for p in tutorial.parameters()):,} parameters, fp32")
    seconds = 60 * asked.minutes

    def ours() -> Iterator[None]:
        optimizer, epoch, used = optim.optimizer(parsed.fit, task.model), 0, 0.0
        while True:
            epoch += 1
            for ids in task.plan("train", epoch, parsed.fit.batch_size):
                began = time.perf_counter()
                task.model.train()
                rate = optim.learning_rate(parsed.fit, min(1.0, used / seconds))
                optim.set_learning_rate(optimizer, rate)
                with device.autocast():
                    sums = task.step(task.load("train", ids, epoch))
                optimizer.zero_grad()
                (sums["loss"][0] / sums["loss"][1]).backward()
                nn.utils.clip_grad_norm_(task.model.parameters(), parsed.fit.clip)
                optimizer.step()
                used += time.perf_counter() - began
                yield

    def theirs() -> Iterator[None]:
        optimizer, epoch = torch.optim.Adam(tutorial.parameters(), lr=1e-3), 0
        tutorial.train()
        train = task.parts["train"]
        while True:
            epoch += 1
            for numbers in even_batches(train[draw.shuffled(len(train), 0, epoch)], parsed.fit.batch_size):
                rows = [task.rows[n] for n in numbers]
                ids, lengths = pad(rows, 0)
                truths, _ = pad([[*row, end] for row in rows], -1)
                before, _ = pad([[start, *row] for row in rows], 0)
                logits = tutorial(ids, lengths, before)
                loss = F.cross_entropy(logits.flatten(0, 1), truths.flatten(), ignore_index=-1)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(tutorial.parameters(), 1.0)
                optimizer.step()
                yield

    numbers = task.parts["valid"][:1000]
    rows = [task.rows[n] for n in numbers]

    def scored(said: list[list[int]]) -> tuple[float, float]:
        """Tokens that are right, texts that are."""
        hits = sum(sum(a == b for a, b in zip(row, other, strict=False)) for row, other in zip(rows, said, strict=True))
        return hits / sum(map(len, rows)), float(np.mean([a == b for a, b in zip(rows, said, strict=True)]))

    @torch.inference_mode()
    def restored() -> list[list[int]]:
        tutorial.eval()
        return tutorial.restore(*pad(rows, 0), start, end)

    sides: list[tuple[str, Iterator[None], Callable[[], list[list[int]]]]] = [
        ("ours", ours(), lambda: task.said(task.encode(rows))),
        ("tutorial", theirs(), restored),
    ]
    before = scored(sides[0][2]())
    print("before training: ours {:.1%} of the tokens, {:.1%} of the texts".format(*before))
    used = [0.0, 0.0]
    while min(used) < seconds:
        for k, (_, steps, _) in enumerate(sides):
            began = time.perf_counter()
            while (spent := time.perf_counter() - began) < min(TURN, seconds - used[k]):
                next(steps)
            used[k] += spent
    found = []
    for name, _, said in sides:
        found.append(scored(said()))
        print(f"{name:<8} after {asked.minutes:g} minutes: {found[-1][0]:.1%} of tokens, {found[-1][1]:.1%} of texts")
    (tokens, texts), (their_tokens, their_texts) = found
    lines = [
        ("ours", 0.0, before),
        *((side[0], asked.minutes, score) for side, score in zip(sides, found, strict=True)),
    ]
    names = ("side", "minutes", "threads", "texts", "tokens", "exact")
    told = [(name, minutes, asked.threads, len(rows), *score) for name, minutes, score in lines]
    put(RESULTS, [dict(zip(names, line, strict=True)) for line in told], "side", "minutes")
    print(
        f"ours restores {texts / max(their_texts, 1 / len(rows)):.1f} times as many texts exactly, "
        f"and {100 * (tokens - their_tokens):.1f} points more of the tokens"
    )


if __name__ == "__main__":
    main()
