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

from etude import confusion, draw, text
from etude.fingerprint import fingerprint
from etude.text.batching import by_length, pad, padded_batches, sorted_by_length
from etude.text.lines import clean
from etude.text.tokenizer import Tokenizer
from etude.train.run import Run
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from imdb_rnn import data
from imdb_rnn.config import SCORES, Config, Text
from imdb_rnn.data import CLASSES, Dataset, Reviews
from imdb_rnn.model import Classifier, NGrams, ngrams

SHOWN = 12  # reviews shown before, during and after training
TOKENIZERS: dict[str, Callable[[list[str], int], Tokenizer]] = {
    # Without byte fallback an unknown word is one unknown token, not its letters.
    "words": partial(text.Words.train, byte_fallback=False),
    "bpe": text.BPE.train,
    "wordpiece": partial(text.WordPiece.train, byte_fallback=False),
    "unigram": partial(text.Unigram.train, byte_fallback=False),
    "characters": partial(text.Characters.train, byte_fallback=False),
}
Batch = tuple[Tensor, Tensor, Tensor]  # ids int64 [B, T], lengths int64 [B], labels int64 [B]

LETTER = r"\p{L}\p{N}\p{M}\u200c"  # with the marks on letters, such as vowel signs, and what joins them (Persian)
# As the Penn Treebank writes them: "do n't".
_contraction = regex.compile(rf"([{LETTER}_]) (n't|'(?:s|ve|re|ll|d|m)(?![{LETTER}_]))")
_words = regex.compile(rf"[{LETTER}]+(?:['’][{LETTER}]+)*|[^{LETTER}\s]").findall


class Parts:
    """A data set as rows of ids: those of a part are made when they are first asked for."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, config: Text) -> None:
        self.dataset, self.window = dataset, config.window
        self.rows = cache(lambda split: encode(self.reviews(split).texts, tokenizer, config))
        self.examples = cache(self.windows)

    def reviews(self, split: str) -> Reviews:
        reviews: Reviews = getattr(self.dataset, split)
        return reviews

    def windows(self, split: str) -> tuple[list[np.ndarray], np.ndarray]:
        """The rows of ids that a part consists of, and their labels int64: whole reviews, or windows to train on."""
        rows, labels = self.rows(split), self.reviews(split).labels
        if split != "train" or not self.window:
            return rows, labels
        cut = [np.array_split(row, max(1, round(len(row) / self.window))) for row in rows]
        return [window for windows in cut for window in windows], np.repeat(labels, [len(windows) for windows in cut])


class Predictor:
    """What predicts: the model, and the tokenizer that makes rows of ids for it."""

    def __init__(self, config: Config, tokenizer: Tokenizer, keys: Tensor) -> None:
        """`keys`: the n-grams that are known, see `repeated`."""
        self.config, self.tokenizer, self.keys = config, tokenizer, keys
        self.pad_id = tokenizer.id_of("<pad>")
        self.model = Classifier(config.model, tokenizer.vocab_size, tokenizer.id_of("<unk>"), keys)

    @torch.inference_mode()
    def odds(self, rows: list[np.ndarray]) -> np.ndarray:
        """The log-odds of praise for rows of ids, float64 [N]."""
        self.model.eval()
        where = next(self.model.parameters()).device
        found = np.zeros(len(rows))
        for numbers, ids, lengths in padded_batches(rows, 100, self.pad_id):
            found[numbers] = self.model.answer(self.model(ids.to(where), lengths.to(where))).double().cpu().numpy()
        return found


class Sentiment(Predictor):
    """The Task: the model, and the reviews that it learns from and is scored on."""

    metric, better = "accuracy", SCORES

    def __init__(self, config: Config, tokenizer: Tokenizer, keys: Tensor, parts: Parts) -> None:
        super().__init__(config, tokenizer, keys)
        self.parts, self.data = parts, parts.dataset.description
        self.summary = f"{config.model.kind}, {tokenizer.vocab_size:,} {tokenizer.kind}"
        self.shown = draw.shuffled(len(parts.dataset.valid.texts), config.fit.seed)[:SHOWN]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        parts = {split: self.parts.reviews(split) for split in ("train", "valid", "test")}
        return {split: fingerprint(part.texts, part.labels) for split, part in parts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = np.array([len(row) for row in self.parts.examples(split)[0]])
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return sorted_by_length(lengths, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        rows, labels = self.parts.examples(split)
        return *pad([rows[id] for id in ids], self.pad_id), torch.from_numpy(labels[ids])

    def step(self, batch: Batch) -> Sums:
        ids, lengths, labels = batch
        parts = self.model(ids, lengths)
        odds = self.model.answer(parts.detach())
        learning = parts if self.model.training else odds[None]
        loss = F.binary_cross_entropy_with_logits(learning, labels.float().expand_as(learning), reduction="sum")
        if self.model.training and self.model.linear is not None:
            loss = loss + len(labels) * self.model.linear.penalty()
        answers = (odds > 0).long()
        found = {"loss": loss, "accuracy": (labels == answers).sum(), "confusion": confusion.count(labels, answers, 2)}
        return {name: (total, len(labels)) for name, total in found.items()}

    def scores(self, totals: Totals) -> dict[str, float]:
        return {**totals.means(), "f1": float(confusion.f1(totals.sums["confusion"])[1])}

    def assets(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.state(), "ngrams": self.keys}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation reviews each time; at the end also those that were most wrong."""
        rows = self.parts.rows("valid")
        run.text("reviews", self.table(self.shown, self.odds([rows[id] for id in self.shown])), step, when)
        if when == "after":
            odds = self.odds(rows)
            wrong = np.argsort(odds * (2 * self.parts.dataset.valid.labels - 1), kind="stable")[:SHOWN]
            run.text("most wrong", self.table(wrong, odds[wrong]), step)

    def table(self, ids: np.ndarray, odds: np.ndarray) -> str:
        """Markdown: truth, the probability of praise, and the beginning and the end of each review."""
        lines, valid = ["| | truth | praise | review |", "|---|---|---|---|"], self.parts.dataset.valid
        for id, probability in zip(ids, 1 / (1 + np.exp(-odds)), strict=True):
            truth, review = int(valid.labels[id]), valid.texts[id]
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
    parts = Parts(dataset, tokenizer, config.text)
    longest, pad_id = config.model.ngrams, tokenizer.id_of("<pad>")
    keys = repeated(parts.rows("train") if longest else [], pad_id, longest)
    task = Sentiment(config, tokenizer, keys, parts)
    if isinstance(linear := task.model.linear, NGrams):
        count_ngrams(linear, *parts.examples("train"), pad_id)
    return task


def repeated(rows: list[np.ndarray], pad_id: int, longest: int) -> Tensor:
    """The n-grams of two training reviews or more, int64, sorted: one of a single review says nothing of others."""
    found = [torch.zeros(1, dtype=torch.int64)]  # 0 is the key of no n-gram
    for _, ids, lengths in padded_batches(rows, 500, pad_id):
        keys, first = ngrams(ids, lengths, longest)
        found.append(keys[first])
    keys, counts = torch.cat(found).unique(return_counts=True)
    return keys[(counts > 1) | (keys == 0)]


def count_ngrams(linear: NGrams, rows: list[np.ndarray], labels: np.ndarray, pad_id: int) -> None:
    """Naive Bayes for the linear part of the model, from what it is trained on."""
    counts = torch.zeros(2, len(linear.keys), dtype=torch.int64)
    for numbers, ids, lengths in padded_batches(rows, 500, pad_id):
        known, counted = linear.numbers(ids, lengths)
        for label in (0, 1):
            of = counted & torch.from_numpy(labels[numbers] == label)[:, None]
            counts[label] += torch.bincount(known[of], minlength=len(linear.keys))
    linear.naive_bayes(counts[1], counts[0], len(rows))


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    tokenizer = Tokenizer.from_state(assets["tokenizer"], "the tokenizer in the checkpoint")
    if where is None:
        return Predictor(config, tokenizer, assets["ngrams"])
    dataset = data.load(config.data, config.fit.seed, config.held_out)
    return Sentiment(config, tokenizer, assets["ngrams"], Parts(dataset, tokenizer, config.text))


def describe(task: Sentiment, totals: Totals) -> tuple[str, dict[str, Any]]:
    scores, counts = task.scores(totals), totals.sums["confusion"].long().tolist()
    lines = [f"{'truth':<10}{'answered negative':>18}{'positive':>10}"]
    lines += [f"{name:<10}{row[0]:>18}{row[1]:>10}" for name, row in zip(CLASSES, counts, strict=True)]
    lines.append(f"accuracy {scores['accuracy']:.2%}  F1 {scores['f1']:.2%}  loss {scores['loss']:.4f}")
    return "\n".join(lines), {**scores, "reviews": sum(map(sum, counts)), "confusion": counts}


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """One 0 (blame) or 1 (praise) for every line of the files, in order; an empty line is answered, too."""
    reviews = [line for name in inputs for line in data.read_lines(Path(name))]
    return [str(int(odds > 0)) for odds in task.odds(encode(reviews, task.tokenizer, task.config.text))]
