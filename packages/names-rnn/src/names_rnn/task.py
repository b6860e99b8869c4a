"""names-rnn as a Task: from which language does a name come?"""

import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import confusion, draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.markdown import literal
from etude.text.batching import pad, padded_batches
from etude.text.fingerprints import fingerprints
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from names_rnn import data, sample, show
from names_rnn.config import SCORES, Config
from names_rnn.data import Dataset, Names
from names_rnn.letters import Alphabet, tidy
from names_rnn.model import Classifier

SHOWN = 24  # names shown before, during and after training
POINTS = 1_000  # names in TensorBoard's projector
DRAWN = -2  # the stream that the names of an epoch are drawn from
LIKELIEST = 3  # languages that `predict` names
Batch = tuple[Tensor, Tensor, Tensor]


class Predictor:
    """What predicts: the model, its letters and its languages."""

    def __init__(
        self, config: Config, languages: tuple[str, ...], alphabet: Alphabet, pairs: frozenset[str] | None
    ) -> None:
        """`pairs`: of letters that stand side by side in a name of training; None: not known, of an older run."""
        self.config, self.languages, self.alphabet, self.pairs = config, languages, alphabet, pairs
        self.model = Classifier(config.model, alphabet.size, len(languages))

    @torch.inference_mode()
    def probabilities(self, names: list[str]) -> Tensor:
        """For names as they are read: [N, K], on the CPU."""
        return self.answers(names, lambda *batch: self.model(*batch).exp())

    @torch.inference_mode()
    def answers(self, names: list[str], ask: Any) -> Tensor:
        """What `ask` says of the letters and lengths of names, in their order, on the CPU in fp32."""
        self.model.eval()
        where, rows = next(self.model.parameters()).device, self.alphabet.encode(names)
        numbers, found = [], []
        for some, ids, lengths in padded_batches(rows, 500, 0):
            numbers.append(some)
            found.append(ask(ids.to(where), lengths.to(where)).float().cpu())
        return torch.cat(found)[np.argsort(np.concatenate(numbers))]

    def vectors(self, names: list[str]) -> Tensor:
        """What the model knows of names, as they are read, before its linear layer: [N, width]."""
        return self.answers(names, self.model.vector)

    def new_pairs(self, seen: str) -> list[str]:
        """What stands side by side in a name, as it is read, and in none that the model has learnt from."""
        return [] if self.pairs is None else [pair for pair in side_by_side([seen]) if pair not in self.pairs]

    def unusual(self, seen: str) -> bool:
        """Whether a name, as it is read, is in capitals, as few of those that the model has learnt from are."""
        return len(seen) > 1 and seen.isupper() and self.config.data.name in ("names", "sample")

    def likeliest(self, probabilities: Tensor) -> list[tuple[str, float]]:
        """Some languages with their probabilities, the likeliest first; of [K]."""
        best, which = probabilities.topk(min(LIKELIEST, len(self.languages)))
        return [(self.languages[k], p) for k, p in zip(which.tolist(), best.tolist(), strict=True)]

    def read(self, inputs: list[str]) -> list[str]:
        """What the model sees of names that somebody gives.

        Raises UserError for a name that is empty, or has a letter that the model cannot read.
        """
        found = []
        for given in inputs:
            name = tidy(given)
            seen = self.alphabet.read(name)
            if not name:
                raise UserError(f"the name {given!r} is empty: give one with letters")
            like = "write the name in letters like those of its training names"
            if lost := self.alphabet.lost(name):
                raise UserError(f"{name}: the model does not know {' '.join(lost)}: {like}")
            if not any(letter.isalpha() for letter in seen):
                raise UserError(f"{name}: it has no letter that the model knows: {like}")
            found.append(seen)
        return found


class Surnames(Predictor):
    """The Task: the model, and the names that it learns from and is scored on."""

    metric, better = "accuracy", SCORES

    def __init__(self, config: Config, dataset: Dataset, pairs: frozenset[str] | None) -> None:
        super().__init__(config, dataset.languages, dataset.alphabet, pairs)
        self.parts = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
        self.rows = {split: self.alphabet.encode(part.names) for split, part in self.parts.items()}
        if self.model.ngrams is not None:
            self.model.ngrams.count(batch for _, *batch in padded_batches(self.rows["train"], 500, 0))
        frequency = np.bincount(dataset.train.labels, minlength=len(self.languages)) / len(dataset.train.labels)
        self.model.offset = config.logit_adjustment * torch.from_numpy(frequency).log().float()
        counts = data.sizes(list(self.parts.values()))
        self.ceiling = data.ceiling(*self.parts.values())
        self.data = f"{dataset.name}, {counts} names of {len(self.languages)} languages, ceiling {self.ceiling:.2%}"
        model = config.model
        beside = f", convolutions {model.widths}" if model.widths else ""
        beside += f", {model.ngrams}-grams" if model.ngrams else ""
        self.summary = f"{model.layers} x {model.cell} {model.hidden} ({model.reading}, {model.pooling}){beside}"
        self.shown = draw.shuffled(len(dataset.valid.names), config.fit.seed)[:SHOWN]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {split: fingerprint(part.names, part.labels) for split, part in self.parts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        count = len(self.parts[split].names)
        if split != "train":
            return even_batches(np.arange(count), batch_size)
        seed, n = self.config.fit.seed, self.config.per_epoch or count
        if self.config.drawing != "frequent":
            power = {"uniform": 0.0, "root": 0.5}[self.config.drawing]
            return even_batches(drawn(self.parts["train"].labels, power, n, seed, epoch), batch_size)
        if n == count:
            return even_batches(draw.shuffled(count, seed, epoch), batch_size)
        ids = np.concatenate([draw.shuffled(count, seed, epoch, again) for again in range(-(-n // count))])
        return even_batches(ids[:n], batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        return *pad([self.rows[split][id] for id in ids], 0), torch.from_numpy(self.parts[split].labels[ids])

    def step(self, batch: Batch) -> Sums:
        ids, lengths, labels = batch
        said = self.model(ids, lengths).float()
        smoothing = self.config.label_smoothing if self.model.training else 0.0
        # Of log-probabilities the cross entropy is the negative log-likelihood: their log-softmax is themselves.
        loss = F.cross_entropy(said, labels, reduction="sum", label_smoothing=smoothing)
        answers = said.detach().topk(2, 1).indices
        hits = answers == labels[:, None]
        found = {"loss": loss, "accuracy": hits[:, 0].sum(), "top2": hits.sum()}
        if not self.model.training:
            found["confusion"] = confusion.count(labels, answers[:, 0], len(self.languages))
        return {name: (total, len(labels)) for name, total in found.items()}

    def scores(self, totals: Totals) -> dict[str, float]:
        scores = totals.means()
        if "confusion" in totals.sums:
            scores["macro_f1"] = float(confusion.f1(totals.sums["confusion"]).mean())
        return scores

    @cached_property
    def seen(self) -> Tensor:
        """By what the run recognises the names that it was trained on or chosen by: int64, sorted."""
        names = (name for part in ("train", "valid") for name in self.parts[part].names)
        return torch.from_numpy(np.sort(fingerprints(names)))

    def assets(self) -> dict[str, Any]:
        letters = {"letters": self.alphabet.letters, "folded": self.alphabet.folded}
        pairs = None if self.pairs is None else sorted(self.pairs)
        learnt = {"pairs": pairs, "seen": self.seen, "test": self.fingerprints["test"]}
        return {"languages": list(self.languages), **letters, **learnt}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation names each time; at the end also the pictures, and the answers that were most wrong."""
        part = self.parts["valid"]
        run.text("names", self.table(self.shown, self.probabilities([part.names[id] for id in self.shown])), step, when)
        if when != "after":
            return
        said, labels = self.probabilities(part.names), torch.from_numpy(part.labels)
        counts = confusion.count(labels, said.argmax(1), len(self.languages))
        run.picture("confusion", confusion.picture(counts, self.languages, "names"), step)
        run.picture("calibration", show.calibration(said, labels), step)
        run.picture("languages", show.languages(confusion.f1(counts), counts.sum(1), self.languages), step)
        wrong = (said.argmax(1) != labels).nonzero()[:, 0]
        worst = wrong[said[wrong].amax(1).argsort(descending=True, stable=True)][:SHOWN].numpy()
        run.text("most wrong", self.table(worst, said[worst]), step)
        ids = self.plan("valid", 0, POINTS)[0]
        points = self.vectors([part.names[id] for id in ids])
        columns = {
            "language": [self.languages[label] for label in part.labels[ids]],
            "name": [part.names[id] for id in ids],
        }
        run.embedding("names", points, columns, step)

    def table(self, ids: np.ndarray, probabilities: Tensor) -> str:
        """Markdown: validation names, their language, and the likeliest ones."""
        lines, part = ["| | name | is | read as |", "|---|---|---|---|"], self.parts["valid"]
        for id, said in zip(ids.tolist(), probabilities, strict=True):
            truth = self.languages[part.labels[id]]
            likeliest = self.likeliest(said)
            mark = "ok" if likeliest[0][0] == truth else "**wrong**"
            told = ", ".join(f"{language} {p:.2f}" for language, p in likeliest)
            lines.append(f"| {mark} | {literal(part.names[id])} | {literal(truth)} | {literal(told)} |")
        return "\n".join(lines)


def drawn(labels: np.ndarray, power: float, n: int, *parts: int) -> np.ndarray:
    """`n` ids: a language is drawn in proportion to count ** power, then one of its names: int64 [n]."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    u = draw.uniform(np.arange(n), 2, *parts, DRAWN).double().numpy()
    shares = np.cumsum(counts**power / (counts**power).sum())
    language = np.searchsorted(shares[:-1], u[:, 0], side="right")
    return order[(np.cumsum(counts) - counts)[language] + (u[:, 1] * counts[language]).astype(np.int64)]


def make(config: Config, where: torch.device) -> Task:
    dataset = data.load(config.data, config.fit.seed)
    return Surnames(config, dataset, frozenset(side_by_side(dataset.train.names)))


def side_by_side(names: Iterable[str]) -> dict[str, None]:
    """The pairs of letters that stand side by side in names, whatever their case, in their order."""
    return dict.fromkeys(a + b for name in names for a, b in pairwise(name.lower()) if not (a + b).isspace())


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    """Scored is the run's own test part, or that of other data without the names that it was trained on or chosen by.

    Raises UserError if nothing is left, or for other languages.
    """
    languages, alphabet = tuple(assets["languages"]), Alphabet(assets["letters"], assets["folded"])
    kept = assets.get("pairs")  # the first runs have none
    pairs = None if kept is None else frozenset(kept)
    if where is None:
        return Predictor(config, languages, alphabet, pairs)
    dataset = data.load(config.data, config.fit.seed, alphabet)
    if dataset.languages != languages:
        raise UserError(
            f"this run knows the {len(languages)} languages {', '.join(languages[:3])} ..., but {config.data.name} has "
            f"the {len(dataset.languages)} languages {', '.join(dataset.languages[:3])} ...: give another --data"
        )
    return Surnames(config, unseen(dataset, assets), pairs)


def unseen(found: Dataset, assets: dict[str, Any]) -> Dataset:
    """What a run may be scored on: `found`, if it has the run's own test part, else without what the run has read."""
    names, labels = found.test.names, found.test.labels
    if "seen" not in assets or fingerprint(names, labels) == assets["test"]:  # the first runs have no such thing
        return found
    new = np.flatnonzero(~np.isin(fingerprints(names), assets["seen"].numpy()))
    if not len(new):
        raise UserError(f"the run was trained on all {len(names):,} test names of {found.name}: give another --data")
    if len(new) == len(names):
        return found
    name = f"{found.name} ({len(names) - len(new):,} test names that the run was trained on left out)"
    return replace(found, name=name, test=Names([names[n] for n in new], labels[new]))


def describe(task: Surnames, totals: Totals) -> tuple[str, dict[str, Any]]:
    scores, counts = task.scores(totals), totals.sums["confusion"].cpu()
    test = task.parts["test"]
    lines, languages = confusion.per_class(counts, task.languages, "names")
    majority = float((test.labels == np.bincount(task.parts["train"].labels).argmax()).mean())
    alone = 2 * majority / (1 + majority)  # F1 of the language that is always said, and 0 for the others
    found = {
        **scores,
        "ceiling": task.ceiling,
        "ceiling_part": data.ceiling(test),
        "majority": majority,
        "floor_accuracy": majority,
        "floor_macro_f1": alone / len(task.languages),
        "names": len(test.names),
    }
    lines += [
        f"accuracy {scores['accuracy']:.2%}  macro-F1 {scores['macro_f1']:.2%}  truth among the two likeliest "
        f"{scores['top2']:.2%}  loss {scores['loss']:.4f}",
        f"no function of a name exceeds {task.ceiling:.2%} on all names, {found['ceiling_part']:.2%} on these; "
        f"the most frequent language always: {majority:.2%}",
    ]
    if task.config.data.name == "sample":
        rule = np.array([sample.best(name) for name in test.names])
        found["grammar"] = float((rule == test.labels).mean())
        lines.append(f"who knows the grammars, by Bayes' rule: {found['grammar']:.2%}")
    return "\n".join(lines), found | {"per_class": languages}


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """For each name, between tabs: the name, what is read of it, and the likeliest languages with probabilities.

    Says on stderr which names have letters side by side that no name of training has: of these it can only guess; and
    which are in capitals. Raises UserError for what is no name, see `Predictor.read`, or that of a file.
    """
    if named := [given for given in inputs if given.lower().endswith((".txt", ".csv", ".tsv"))]:
        raise UserError(f"{named[0]} is no name, but that of a file: give names, such as Jones")
    seen = task.read(inputs)
    for name, read in zip(inputs, seen, strict=True):
        if task.unusual(read):
            print(f"{tidy(name)}: in capitals, which few names of training are: try {read.title()}", file=sys.stderr)
        if new := task.new_pairs(read):
            print(f"{tidy(name)}: a guess, no name that was learnt from has {' or '.join(new)}", file=sys.stderr)
    return [
        "\t".join([tidy(name), read, *(f"{language} {p:.4f}" for language, p in task.likeliest(said))])
        for name, read, said in zip(inputs, seen, task.probabilities(seen), strict=True)
    ]


def embed(task: Predictor, inputs: list[str]) -> np.ndarray:
    """What the model knows of each name before its linear layer; with pooling `last` the last hidden state."""
    return task.vectors(task.read(inputs)).numpy()
