"""imdb-rnn as a Task: is a film review praise or blame?"""

import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude import confusion, draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.language import start
from etude.language import task as speech
from etude.language.knobs import check_kept
from etude.language.start import Start
from etude.language.task import Speaking, Writer
from etude.layers.language import Encoder
from etude.text.batching import by_length, pad, padded_batches, sorted_by_length
from etude.text.fingerprints import fingerprints
from etude.text.tokenizer import Tokenizer
from etude.train import run as runs
from etude.train.run import Run, now_and_then
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from imdb_rnn import data, language, positions, reading
from imdb_rnn.config import CLASSIFYING, Config, Text
from imdb_rnn.data import CLASSES, Dataset, Reviews
from imdb_rnn.model import Classifier, NGrams, Started, ngrams, surprise
from imdb_rnn.reading import encode

SHOWN = 12  # reviews shown before, during and after training
WATCHED = 64  # reviews whose gradient `fit.watch` looks at
OF_VOCABULARY = ("plain", "tokenizer", "vocabulary")  # the knobs of text that a language model's words follow from
Batch = tuple[Any, ...]  # ids int64 [B, T], lengths int64 [B], labels int64 [B], and what else the model takes


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

    def __init__(self, config: Config, tokenizer: Tokenizer, keys: Tensor, start: Start | None = None) -> None:
        """`keys`: the n-grams that are known, see `repeated`; `start`: what it begins as."""
        self.config, self.tokenizer, self.keys, self.start = config, tokenizer, keys, start
        self.pad_id = tokenizer.id_of("<pad>")
        self.model = Classifier(config.model, tokenizer.vocab_size, tokenizer.id_of("<unk>"), keys, start)

    @torch.inference_mode()
    def odds(self, rows: list[np.ndarray]) -> np.ndarray:
        """The log-odds of praise for rows of ids, float64 [N]."""
        self.model.eval()
        where = next(self.model.parameters()).device
        found = np.zeros(len(rows))
        for numbers, ids, lengths in padded_batches(rows, 100, self.pad_id):
            found[numbers] = self.model.answer(self.model(ids.to(where), lengths.to(where))).double().cpu().numpy()
        return found

    @cached_property
    def words(self) -> np.ndarray:
        """Which ids stand for words or parts of them, not for marks such as `!`: bool [V]."""
        unknown, pieces = self.tokenizer.unk_id, range(self.tokenizer.vocab_size)
        return np.array([id != unknown and any(map(str.isalnum, self.tokenizer.decode([id]))) for id in pieces])


class Sentiment(Predictor):
    """The Task: the model, and the reviews that it learns from and is scored on."""

    metric, better = "accuracy", CLASSIFYING

    def __init__(
        self, config: Config, tokenizer: Tokenizer, keys: Tensor, parts: Parts, start: Start | None = None
    ) -> None:
        super().__init__(config, tokenizer, keys, start)
        self.parts, self.data = parts, parts.dataset.description
        kind = f"{config.model.transfer}, from a language model" if start else config.model.kind
        self.summary = f"{kind}, {tokenizer.vocab_size:,} {tokenizer.kind}"
        self.shown = draw.shuffled(len(parts.dataset.valid.texts), config.fit.seed)[:SHOWN]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The language model counts where it is learnt from."""
        parts = {split: self.parts.reviews(split) for split in ("train", "valid", "test")}
        found = {split: fingerprint(part.texts, part.labels) for split, part in parts.items()}
        return found | ({"train": fingerprint([found["train"], self.start.mark])} if self.start else {})

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = np.array([len(row) for row in self.parts.examples(split)[0]])
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return sorted_by_length(lengths, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        rows, labels = self.parts.examples(split)
        found = *pad([rows[id] for id in ids], self.pad_id), torch.from_numpy(labels[ids])
        if self.start is None:
            return found
        return *found, start.free(self.config.model.transfer, self.start.language.layers + 1, epoch)

    def step(self, batch: Batch) -> Sums:
        ids, lengths, labels, *free = batch
        moving = self.model.training and torch.is_grad_enabled() and self.config.model.adversarial > 0
        shift = self.nowhere(ids) if moving else None
        parts = self.model(ids, lengths, *free, *([] if shift is None else [shift]))
        odds = self.model.answer(parts.detach())
        loss = surprise(parts if self.model.training else odds[None], labels)
        if shift is not None:
            away = self.moved(loss, shift)
            loss = (loss + surprise(self.model(ids, lengths, *free, away), labels)) / 2
        if self.model.training and self.model.linear is not None:
            loss = loss + len(labels) * self.model.linear.penalty()
        answers = (odds > 0).long()
        found = {"loss": loss, "accuracy": (labels == answers).sum(), "confusion": confusion.count(labels, answers, 2)}
        return {name: (total, len(labels)) for name, total in found.items()}

    def nowhere(self, ids: Tensor) -> Tensor:
        """By how much the words of reviews, int64 [B, T], are moved at first: not at all, [B, T, E]."""
        return torch.zeros(*ids.shape, self.encoder().size, device=ids.device, requires_grad=True)

    def moved(self, loss: Tensor, shift: Tensor) -> Tensor:
        """Where the loss rises most, for each review as far as `model.adversarial` says: [B, T, E]."""
        [gradient] = torch.autograd.grad(loss, shift, retain_graph=True)
        far = self.config.model.adversarial * self.encoder().embedding.weight.detach().std()
        return far * gradient / gradient.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)

    def encoder(self) -> Encoder:
        """That of the language model that was begun with."""
        [reader] = self.model.readers
        assert isinstance(reader, Started)
        return reader.body.encoder

    def scores(self, totals: Totals) -> dict[str, float]:
        return {**totals.means(), "f1": float(confusion.f1(totals.sums["confusion"])[1])}

    @cached_property
    def read(self) -> Tensor:
        """By what the run recognises the reviews that it was trained on or chosen by: int64, sorted."""
        texts = (text for name in ("train", "valid") for text in self.parts.reviews(name).texts)
        return torch.from_numpy(np.sort(marks(texts)))

    def assets(self) -> dict[str, Any]:
        learnt = {"ngrams": self.keys, "start": self.start and self.start.kept()}
        knobs = reading.knobs(self.config)
        return {"tokenizer": self.tokenizer.state(), **learnt, "read": self.read, "knobs": knobs}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation reviews each time; at the end also those that were most wrong."""
        rows = self.parts.rows("valid")
        run.text("reviews", self.table(self.shown, self.odds([rows[id] for id in self.shown])), step, when)
        if self.config.fit.watch:
            self.show_gradients(run, when, step)
        if when == "after":
            odds = self.odds(rows)
            wrong = np.argsort(odds * (2 * self.parts.dataset.valid.labels - 1), kind="stable")[:SHOWN]
            run.text("most wrong", self.table(wrong, odds[wrong]), step)

    def show_gradients(self, run: Run, when: str, step: int) -> None:
        """The gradient by the place of a word, of the same validation reviews each time, none of them short.

        As numbers before training and after each epoch, as pictures when `fit.watch` makes its own, and before.
        """
        rows = self.parts.rows("valid")
        half = int(np.median([len(row) for row in rows]))
        order = draw.shuffled(len(rows), self.config.fit.seed)
        watched = [id for id in order if len(rows[id]) >= half][:WATCHED]
        places, labels = positions.powers(half), self.parts.dataset.valid.labels[watched]
        some = [rows[id] for id in watched]
        norms = positions.gradients(self.model.readers, some, labels, self.pad_id, places)
        if when != "after":
            tags = [f"gradient by place from the end/{place:04d}" for place in places]
            run.scalars(dict(zip(tags, norms.tolist(), strict=True)), step)
        if now_and_then(when):
            run.picture("gradient by place", positions.picture(places, norms, len(watched)), step, when)

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


def make(config: Config, where: torch.device) -> Task:
    if config.task == "language":
        return language.make(config)
    begin = begun(config) if config.model.start else None
    dataset = data.load(config.data, config.division, config.held_out)
    if begin:
        config = as_read(config, begin)
        tokenizer = tokenizer_of(begin.assets)
        held = {"test": dataset.test, "validation": dataset.valid}
        for name, part in held.items():
            remedy = "give the data, the division and the held-out that it was trained with"
            known = "seen" if name == "test" else "trained"
            begin.check(language.marks(part.texts), f"{name} reviews of {dataset.name}", remedy, known)
    else:
        tokenizer = reading.learnt(dataset.train.texts, config.text)
    parts = Parts(dataset, tokenizer, config.text)
    longest, pad_id = config.model.ngrams, tokenizer.id_of("<pad>")
    keys = repeated(parts.rows("train") if longest else [], pad_id, longest)
    task = Sentiment(config, tokenizer, keys, parts, begin)
    if isinstance(linear := task.model.linear, NGrams):
        count_ngrams(linear, *parts.examples("train"), pad_id)
    return task


def begun(config: Config) -> Start:
    """The language model that a classifier begins as. Raises UserError if it is none."""
    folder = Path(config.model.start)
    if not folder.exists():
        make = f"imdb-rnn train language --data {shlex.quote(config.data)} --run {shlex.quote(str(folder))}"
        raise UserError(f"there is no language model at {folder} to start from: train one first by {make}")
    of = runs.read_config(folder, Config)
    found = Start.of_run(folder, of, "imdb-rnn")
    found.assets["text"] = {name: getattr(of.text, name) for name in OF_VOCABULARY}
    return found


def as_read(config: Config, begin: Start) -> Config:
    """The configuration with the language model's way to read text. Raises UserError if another one was asked for."""
    has = replace(Text(), **begin.assets["text"])
    return replace(config, text=start.same(config.text, has, OF_VOCABULARY, config.model.start))


def tokenizer_of(assets: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_state(assets["tokenizer"], "the tokenizer in the checkpoint")


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


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor | Writer:
    if config.task != (was := assets.get("task", "classify")):
        raise UserError(f"the run is of task {was}, not {config.task}: leave --task out")
    begin = Start.restored(kept, assets) if (kept := assets.get("start")) else None
    if begin:
        config = as_read(config, begin)
    check_kept(reading.knobs(config), assets.get("knobs", {}), "read or divide reviews")
    if config.task == "language":
        return language.restore(config, assets, where)
    tokenizer = tokenizer_of(assets)
    if where is None:
        return Predictor(config, tokenizer, assets["ngrams"], begin)
    dataset = data.load(config.data, config.division, config.held_out)
    if begin:
        tested = language.marks(dataset.test.texts)
        begin.check(tested, f"test reviews of {dataset.name}", "score it on other reviews")
    parts = Parts(unread(dataset, assets.get("read")), tokenizer, config.text)
    return Sentiment(config, tokenizer, assets["ngrams"], parts, begin)


def marks(texts: Iterable[str]) -> np.ndarray:
    """By what a run recognises the reviews that it was trained on or chosen by: int64 [N]."""
    return fingerprints(map(data.identity, texts))


def unread(dataset: Dataset, read: Tensor | None) -> Dataset:
    """What a run may be scored on: the test part without what it has read, `read`, if it keeps that.

    Of its own data nothing is left out. Raises UserError if nothing is left.
    """
    if read is None:
        return dataset
    new = np.flatnonzero(~np.isin(marks(dataset.test.texts), read.numpy()))
    left = len(dataset.test.texts) - len(new)
    if not left:
        return dataset
    if not len(new):
        raise UserError(
            f"the run was trained on all {left:,} test reviews of {dataset.name}: score it on other reviews"
        )
    test = Reviews([dataset.test.texts[n] for n in new], dataset.test.labels[new])
    told = f"{dataset.description}; {left:,} test reviews that the run was trained on left out"
    return replace(dataset, test=test, description=told)


def describe(task: Sentiment | Speaking, totals: Totals) -> tuple[str, dict[str, Any]]:
    if isinstance(task, Speaking):
        return speech.describe(task, totals)
    scores, counts = task.scores(totals), totals.sums["confusion"].long().tolist()
    lines = [f"{'truth':<10}{'answered negative':>18}{'positive':>10}"]
    lines += [f"{name:<10}{row[0]:>18}{row[1]:>10}" for name, row in zip(CLASSES, counts, strict=True)]
    lines.append(f"accuracy {scores['accuracy']:.2%}  F1 {scores['f1']:.2%}  loss {scores['loss']:.4f}")
    return "\n".join(lines), {**scores, "reviews": sum(map(sum, counts)), "confusion": counts}


def predict(task: Predictor | Writer, inputs: list[str]) -> list[str]:
    """One 0 (blame) or 1 (praise) for every line of the files, in order; an empty line is answered, too.

    Of a language model the perplexity of each line, and how many tokens it has.
    """
    reviews = [line for name in inputs for line in data.read_lines(Path(name))]
    if isinstance(task, Writer):
        return speech.predict(task, reviews)
    rows = encode(reviews, task.tokenizer, task.config.text)
    for review, row in zip(reviews, rows, strict=True):
        if review.strip() and not task.words[row].any():
            print(f"{shorten(review, 80)}: a guess, the model knows none of its words", file=sys.stderr)
    return [str(int(odds > 0)) for odds in task.odds(rows)]
