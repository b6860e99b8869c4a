"""imdb-rnn as a Task: is a film review praise or blame?"""

import re
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import draw, text
from etude.confusion import f1
from etude.fingerprint import fingerprint
from etude.text.batching import by_length, pad
from etude.text.lines import clean
from etude.text.tokenizer import Tokenizer
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from imdb_rnn import data
from imdb_rnn.config import SCORES, Config, Text
from imdb_rnn.data import Dataset
from imdb_rnn.model import Classifier, NGrams, ngrams

CLASSES = ("negative", "positive")
SHOWN = 12  # reviews shown before, during and after training
TOKENIZERS: dict[str, Callable[[list[str], int], Tokenizer]] = {
    "words": partial(text.Words.train, byte_fallback=False),  # an unknown word is one unknown word, not its letters
    "bpe": text.BPE.train,
    "wordpiece": partial(text.WordPiece.train, byte_fallback=False),
    "unigram": partial(text.Unigram.train, byte_fallback=False),
    "characters": partial(text.Characters.train, byte_fallback=False),
}
Batch = tuple[Tensor, Tensor, Tensor]  # ids int64 [B, T], lengths int64 [B], labels int64 [B]

LETTER = r"\p{L}\p{N}\p{M}\u200c"  # with the marks on letters, such as vowel signs, and what joins them (Persian)
_contraction = regex.compile(
    rf"([{LETTER}_]) (n't|'(?:s|ve|re|ll|d|m)(?![{LETTER}_]))"
)  # the Penn Treebank's: "do n't"
_words = regex.compile(rf"[{LETTER}]+(?:['’][{LETTER}]+)*|[^{LETTER}\s]").findall


class Sentiment:
    """The Task; `data` is missing when it was restored to predict."""

    metric = "accuracy"
    better = SCORES

    def __init__(
        self, config: Config, tokenizer: Tokenizer, dataset: Dataset | None, keys: Tensor | None = None
    ) -> None:
        """`keys`: the n-grams that are known; None: those of the training part."""
        self.config, self.dataset, self.tokenizer = config, dataset, tokenizer
        self.pad_id = tokenizer.id_of("<pad>")
        self.rows = cache(lambda split: encode(self.part(split).texts, tokenizer, config.text))
        self.examples = cache(self.windows)
        self.keys = self.repeated() if keys is None else keys
        self.model = Classifier(config.model, tokenizer.vocab_size, tokenizer.id_of("<unk>"), self.keys)
        parameters = sum(p.numel() for p in self.model.parameters())
        self.summary = f"{parameters:,} parameters, {self.config.model.kind}, {tokenizer.vocab_size:,} {tokenizer.kind}"
        if dataset is not None:
            self.data = dataset.description
            self.shown = draw.shuffled(len(dataset.valid.texts), config.fit.seed)[:SHOWN]

    def part(self, split: str) -> data.Reviews:
        reviews: data.Reviews = getattr(self.dataset, split)
        return reviews

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        parts = {split: self.part(split) for split in ("train", "valid", "test")}
        return {split: fingerprint(part.texts, part.labels) for split, part in parts.items()}

    def repeated(self) -> Tensor:
        """The n-grams of two training reviews or more, int64, sorted: one of a single review says nothing of others."""
        longest, found = self.config.model.ngrams, [torch.zeros(1, dtype=torch.int64)]  # 0 is none's key
        rows = self.rows("train") if longest else []
        for ids in even_batches(np.arange(len(rows)), 500) if rows else []:
            keys, first = ngrams(*pad([rows[id] for id in ids], self.pad_id), longest)
            found.append(keys[first])
        keys, counts = torch.cat(found).unique(return_counts=True)
        return keys[(counts > 1) | (keys == 0)]

    def windows(self, split: str) -> tuple[list[np.ndarray], np.ndarray]:
        """The rows of ids that a part consists of, and their labels int64: whole reviews, or windows to train on."""
        rows, labels = self.rows(split), self.part(split).labels
        if split != "train" or not self.config.text.window:
            return rows, labels
        cut = [np.array_split(row, max(1, round(len(row) / self.config.text.window))) for row in rows]
        return [window for windows in cut for window in windows], np.repeat(labels, [len(windows) for windows in cut])

    def count_ngrams(self) -> None:
        """Naive Bayes for the linear part of the model, from what it is trained on."""
        if isinstance(linear := self.model.linear, NGrams):
            rows, labels = self.examples("train")
            counts = torch.zeros(2, len(linear.keys), dtype=torch.int64)
            for ids in even_batches(np.arange(len(rows)), 500):
                numbers, counted = linear.numbers(*pad([rows[id] for id in ids], self.pad_id))
                for label in (0, 1):
                    of = counted & torch.from_numpy(labels[ids] == label)[:, None]
                    counts[label] += torch.bincount(numbers[of], minlength=len(linear.keys))
            linear.naive_bayes(counts[1], counts[0], len(rows))

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = np.array([len(row) for row in self.examples(split)[0]])
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return even_batches(np.argsort(lengths, kind="stable"), batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        rows, labels = self.examples(split)
        return *pad([rows[id] for id in ids], self.pad_id), torch.from_numpy(labels[ids])

    def step(self, batch: Batch) -> Sums:
        ids, lengths, labels = batch
        parts = self.model(ids, lengths)
        odds = self.model.answer(parts.detach())
        learning = parts if self.model.training else odds[None]
        loss = F.binary_cross_entropy_with_logits(learning, labels.float().expand_as(learning), reduction="sum")
        if self.model.training and self.model.linear is not None:
            loss = loss + len(labels) * self.model.linear.penalty()
        pairs = labels * 2 + (odds > 0)
        return {
            "loss": (loss, len(labels)),
            "accuracy": ((labels == (odds > 0)).sum(), len(labels)),
            "confusion": (torch.bincount(pairs, minlength=4).view(2, 2), len(labels)),  # [truth, answer]
        }

    def scores(self, totals: Totals) -> dict[str, float]:
        return {**totals.means(), "f1": float(f1(totals.sums["confusion"])[1])}

    def assets(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.state(), "ngrams": self.keys}

    @torch.inference_mode()
    def odds(self, rows: list[np.ndarray]) -> np.ndarray:
        """The log-odds of praise for rows of ids, float64 [N]."""
        self.model.eval()
        where = next(self.model.parameters()).device
        found = np.zeros(len(rows))
        for ids in even_batches(np.argsort([len(row) for row in rows], kind="stable"), 100) if rows else []:
            tokens, lengths = pad([rows[id] for id in ids], self.pad_id)
            found[ids] = self.model.answer(self.model(tokens.to(where), lengths.to(where))).double().cpu().numpy()
        return found

    def show(self, run: Run, epoch: int, step: int) -> None:
        """The same validation reviews each time; at the end also those that were most wrong."""
        name = "end" if epoch < 0 else f"epoch-{epoch:03d}"
        rows = self.rows("valid")
        board = self.table(self.shown, self.odds([rows[id] for id in self.shown]))
        run.text("reviews", board, step, f"reviews-{name}")
        if epoch >= 0:
            return
        odds = self.odds(rows)
        wrong = np.argsort(odds * (2 * self.part("valid").labels - 1), kind="stable")[:SHOWN]
        run.text("most wrong", self.table(wrong, odds[wrong]), step, "most-wrong")
        run.text("model", f"{self.summary}\n\n```\n{self.model}\n```", step)

    def table(self, ids: np.ndarray, odds: np.ndarray) -> str:
        """Markdown: truth, the probability of praise, and the beginning and the end of each review."""
        lines = ["| | truth | praise | review |", "|---|---|---|---|"]
        for id, probability in zip(ids, 1 / (1 + np.exp(-odds)), strict=True):
            truth, review = int(self.part("valid").labels[id]), self.part("valid").texts[id]
            mark = "ok" if (probability > 0.5) == truth else "**wrong**"
            short = review if len(review) < 240 else f"{review[:110]} ... {review[-120:]}"
            short = re.sub(r"([|*_`<\\])", r"\\\1", " ".join(short.split()))
            lines.append(f"| {mark} | {CLASSES[truth]} | {probability:.2f} | {short} |")
        return "\n".join(lines)


def plain(review: str) -> str:
    """Lower case and one space around every word and mark, so that tokenised and ordinary text look alike."""
    return " ".join(_words(_contraction.sub(r"\1\2", clean(review.lower()))))


def encode(reviews: list[str], tokenizer: Tokenizer, config: Text) -> list[np.ndarray]:
    """Ids of every review, at least one; of one longer than `max_length` its first and its last half of that."""
    texts = [" " + plain(review) for review in reviews] if config.plain else reviews
    rows = []
    for row in tokenizer.encode_batch(texts):
        if len(row) > config.max_length:
            tail = config.max_length // 2
            row = row[: config.max_length - tail] + row[len(row) - tail :]
        rows.append(np.array(row or [tokenizer.id_of("<unk>")], dtype=np.int64))
    return rows


def make(config: Config, where: torch.device) -> Task:
    dataset = data.load(config.data, config.fit.seed, config.held_out)
    texts = dataset.train.texts
    if config.text.plain:
        texts = [" " + plain(review) for review in texts]
    tokenizer = TOKENIZERS[config.text.tokenizer](texts, config.text.vocabulary)
    task = Sentiment(config, tokenizer, dataset)
    task.count_ngrams()
    return task


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Sentiment:
    tokenizer = Tokenizer.from_state(assets["tokenizer"], "the tokenizer in the checkpoint")
    dataset = None if where is None else data.load(config.data, config.fit.seed, config.held_out)
    return Sentiment(config, tokenizer, dataset, assets["ngrams"])


def describe(task: Sentiment, totals: Totals) -> tuple[str, dict[str, Any]]:
    scores, confusion = task.scores(totals), totals.sums["confusion"].long().tolist()
    lines = [f"{'truth':<10}{'answered negative':>18}{'positive':>10}"]
    lines += [f"{name:<10}{row[0]:>18}{row[1]:>10}" for name, row in zip(CLASSES, confusion, strict=True)]
    lines.append(f"accuracy {scores['accuracy']:.2%}  F1 {scores['f1']:.2%}  loss {scores['loss']:.4f}")
    return "\n".join(lines), {**scores, "reviews": sum(map(sum, confusion)), "confusion": confusion}


def predict(task: Sentiment, inputs: list[str]) -> list[str]:
    """One 0 (blame) or 1 (praise) for every line of the files, in order; an empty line is answered, too."""
    reviews = [line for name in inputs for line in data.read_lines(Path(name))]
    return [str(int(odds > 0)) for odds in task.odds(encode(reviews, task.tokenizer, task.config.text))]
