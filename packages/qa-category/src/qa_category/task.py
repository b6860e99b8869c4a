"""qa-category as a Task: into which category does a customer's question belong?"""

import sys
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import confusion, draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.language import start as starts
from etude.language import task as speech
from etude.language.knobs import check_kept
from etude.language.start import Start
from etude.language.task import Speaking, Writer
from etude.markdown import literal
from etude.text.batching import by_length, pad, padded_batches, sorted_by_length
from etude.text.fingerprints import fingerprints
from etude.text.tokenizer import Tokenizer
from etude.train.run import Run
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from qa_category import data, language, show, starting, words
from qa_category.config import CLASSIFYING, DATA, Config
from qa_category.data import Dataset, Questions
from qa_category.model import Classifier
from qa_category.starting import Started
from qa_category.words import PAD, Vocabulary

SHOWN = 16  # questions shown before, during and after training
LIKELIEST = 3  # categories named of each
Batch = tuple[Any, ...]  # labels int64 [B], ids int64 [B, T], lengths int64 [B], and what else the model takes


class Predictor:
    """What predicts: the model, its vocabulary, its categories, and what it has seen."""

    def __init__(
        self,
        config: Config,
        categories: tuple[str, ...],
        vocabulary: Vocabulary,
        tokenizer: Tokenizer | None,
        seen: Tensor,
        start: Start | None = None,
    ) -> None:
        """`seen`: the sorted fingerprints of the questions that it was trained and chosen on, int64."""
        self.config, self.categories, self.vocabulary = config, categories, vocabulary
        self.tokenizer, self.seen, self.start = tokenizer, seen, start
        self.split = words.splitter(config.text, tokenizer)
        self.model: Classifier | Started = (
            Started(config.model, start, len(vocabulary.trained) + words.UNK + 1, len(categories))
            if start
            else Classifier(config.model, torch.from_numpy(vocabulary.table()), len(categories))
        )

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of questions; words that were not met before may get a row of the model's table."""
        rows = [self.vocabulary.encode(self.split(text)) for text in texts]
        added = self.vocabulary.take()
        if added is not None and isinstance(self.model, Classifier):
            self.model.embedding.grow(torch.from_numpy(added))
        return rows

    def blind(self, text: str, row: np.ndarray) -> bool:
        """Whether it knows no word of a question, which marks such as `?` are not, given its ids as well."""
        pieces = zip(self.split(text), row.tolist(), strict=False)
        return not any(id != words.UNK and any(map(str.isalnum, piece)) for piece, id in pieces)

    @torch.inference_mode()
    def answers(self, rows: list[np.ndarray], ask: Any) -> Tensor:
        """What `ask` says of ids and lengths of questions, in their order, on the CPU in fp32: [N, ...]."""
        self.model.eval()
        where = next(self.model.parameters()).device
        numbers, found = [], []
        for some, ids, lengths in padded_batches(rows, 500, PAD):
            numbers.append(some)
            found.append(ask(ids.to(where), lengths.to(where)).float().cpu())
        return torch.cat(found)[np.argsort(np.concatenate(numbers))]

    def probabilities(self, rows: list[np.ndarray]) -> Tensor:
        """[N, K]."""
        return self.answers(rows, lambda *batch: self.model(*batch).float().softmax(1))


class Categories(Predictor):
    """The Task: the model, and the questions that it learns from and is scored on."""

    metric, better = "accuracy", CLASSIFYING

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer | None,
        seen: Tensor,
        start: Start | None = None,
    ) -> None:
        super().__init__(config, dataset.categories, vocabulary, tokenizer, seen, start)
        self.parts = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
        self.rows = {split: self.encode(part.texts) for split, part in self.parts.items()}
        self.data = dataset.description
        self.shown = draw.shuffled(len(dataset.valid.texts), config.fit.seed)[:SHOWN]
        self.summary = f"{self.told()}, {len(vocabulary.trained):,} {config.text.splitter} words of training"

    def told(self) -> str:
        """The network in words."""
        model = self.config.model
        if isinstance(self.model, Started):
            return f"{len(self.model.body.encoder.layers)} LSTMs of a language model, {model.transfer}"
        kind = f"cnn {model.arrangement} {'-'.join(map(str, model.widths))}" if model.kind == "cnn" else model.kind
        name = self.config.vectors.replace(chr(92), "/").rpartition("/")[2]
        vectors = "" if name == "none" else f" of {name}"
        return f"{kind} on {model.embeddings} embeddings of {self.model.embedding.size} numbers{vectors}"

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The language model counts where it is learnt from."""
        found = {split: fingerprint(part.texts, part.labels) for split, part in self.parts.items()}
        return found | ({"train": fingerprint([found["train"], self.start.mark])} if self.start else {})

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = np.array([len(row) for row in self.rows[split]])
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return sorted_by_length(lengths, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        labels = torch.from_numpy(self.parts[split].labels[ids])
        found = labels, *pad([self.rows[split][id] for id in ids], PAD)
        if not isinstance(self.model, Started):
            return found
        return *found, starts.free(self.config.model.transfer, len(self.model.body.encoder.parts()), epoch)

    def step(self, batch: Batch) -> Sums:
        labels, *question = batch
        said = self.model(*question).float()
        answers, kinds = said.detach().argmax(1), torch.arange(len(self.categories), device=labels.device)
        # No bincount, which has no rule for many runs at once (torch.func.vmap).
        counts = ((labels[:, None] == kinds)[:, :, None] & (answers[:, None] == kinds)[:, None]).sum(0)
        found = {"loss": F.cross_entropy(said, labels, reduction="sum"), "accuracy": (answers == labels).sum()}
        return {name: (total, len(labels)) for name, total in (found | {"confusion": counts}).items()}

    def scores(self, totals: Totals) -> dict[str, float]:
        return {**totals.means(), "macro_f1": macro_f1(totals.sums["confusion"])}

    def assets(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"categories": list(self.categories), "vocabulary": self.vocabulary.state()}
        kept |= {"tokenizer": self.tokenizer and self.tokenizer.state(), "seen": self.seen, "data": self.source}
        return kept | {"start": self.start and self.start.kept(), "knobs": words.knobs(self.config)}

    @property
    def source(self) -> str:
        """The name of the data, by which `restore` knows whether others are to be scored."""
        return self.config.data.name

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation questions each time; at the end also pictures, and the answers that were most wrong."""
        part, rows = self.parts["valid"], self.rows["valid"]
        run.text("questions", self.table(self.shown, self.probabilities([rows[id] for id in self.shown])), step, when)
        if when == "before":
            run.picture(
                "lengths", show.lengths([len(row) for row in self.rows["train"]], self.config.text.max_length), step
            )
        if when != "after":
            return
        said, labels = self.probabilities(rows), torch.from_numpy(part.labels)
        counts = confusion.count(labels, said.argmax(1), len(self.categories))
        run.picture("confusion", confusion.picture(counts, self.categories, "questions"), step)
        wrong = (said.argmax(1) != labels).nonzero()[:, 0]
        worst = wrong[said[wrong].amax(1).argsort(descending=True, stable=True)][:SHOWN].numpy()
        run.text("most wrong", self.table(worst, said[worst]), step)

    def table(self, ids: np.ndarray, probabilities: Tensor) -> str:
        """Markdown: validation questions, their category, and the likeliest ones."""
        lines, part = ["| | question | is | read as |", "|---|---|---|---|"], self.parts["valid"]
        for id, said in zip(ids.tolist(), probabilities, strict=True):
            truth = int(part.labels[id])
            best, which = said.topk(min(LIKELIEST, len(self.categories)))
            told = ", ".join(
                f"{self.categories[k]} {p:.2f}" for k, p in zip(which.tolist(), best.tolist(), strict=True)
            )
            mark = "ok" if int(which[0]) == truth else "**wrong**"
            question = part.texts[id] if len(part.texts[id]) < 200 else f"{part.texts[id][:197]}..."
            lines.append(f"| {mark} | {literal(question)} | {literal(self.categories[truth])} | {literal(told)} |")
        return "\n".join(lines)


def macro_f1(counts: Tensor) -> float:
    """The mean F1 of the categories that occur, in truth or as an answer; of counts [truth, answer], [K, K]."""
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    return float(confusion.f1(counts)[occurs].mean())


def make(config: Config, where: torch.device) -> Task:
    if config.task == "language":
        return language.make(config)
    if config.model.start:
        return begun(config, starting.begun(config))
    dataset = data.load(config.data)
    tokenizer = words.learn(config.text, dataset.train.texts)
    split = words.splitter(config.text, tokenizer)
    vocabulary = Vocabulary.of(config, [split(text) for text in dataset.train.texts])
    return Categories(config, dataset, vocabulary, tokenizer, torch.from_numpy(np.unique(marks(dataset))))


def marks(dataset: Dataset) -> np.ndarray:
    """The fingerprints of the questions that are trained and chosen on, int64 [N]."""
    return fingerprints(map(data.identity, dataset.train.texts + dataset.valid.texts))


def begun(config: Config, begin: Start) -> Categories:
    """The task that starts from a language model, whose words and whose way to find them it takes over."""
    config = starting.as_read(config, begin)
    dataset = data.load(config.data)
    remedy = "give the data and the data.division that it was trained with"
    begin.check(fingerprints(map(data.identity, dataset.test.texts)), f"test questions of {dataset.name}", remedy)
    vocabulary, tokenizer = Vocabulary.restore(config, begin.assets["vocabulary"]), starting.tokenizer_of(begin)
    seen = torch.from_numpy(np.union1d(marks(dataset), begin.assets["seen"].numpy()))
    return Categories(config, dataset, vocabulary, tokenizer, seen, begin)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor | Writer:
    if config.task != (was := assets.get("task", "classify")):
        raise UserError(f"the run is of task {was}, not {config.task}: leave --task out")
    start = Start.restored(assets["start"], assets) if assets.get("start") else None
    if start:
        config = starting.as_read(config, start)
    check_kept(words.knobs(config), assets.get("knobs", {}), "read questions")
    if config.task == "language":
        return language.restore(config, assets, where)
    categories, vocabulary = tuple(assets["categories"]), Vocabulary.restore(config, assets["vocabulary"])
    kept = assets["tokenizer"]
    tokenizer = Tokenizer.from_state(kept, "the tokenizer in the checkpoint") if kept else None
    if where is None:
        return Predictor(config, categories, vocabulary, tokenizer, assets["seen"], start)
    if config.data.name in DATA or config.data.name == assets["data"]:
        dataset = data.unseen(data.load(config.data), assets["seen"].numpy())
        if dataset.categories != categories:
            raise UserError(
                f"this run knows the {len(categories)} categories {', '.join(categories[:3])} ..., but "
                f"{config.data.name} has the {len(dataset.categories)} categories "
                f"{', '.join(dataset.categories[:3])} ...: give another --data"
            )
    else:
        dataset = others(config, categories, assets["seen"].numpy())
    return Categories(config, dataset, vocabulary, tokenizer, assets["seen"], start)


def others(config: Config, categories: tuple[str, ...], seen: np.ndarray) -> Dataset:
    """Any file as a test part: all of its questions, but for those that the run was trained or chosen on."""
    found, nothing = data.whole(config.data.name, categories), Questions([], np.zeros(0, np.int64))
    return data.unseen(Dataset(config.data.name, categories, nothing, nothing, found, []), seen)


def describe(task: Categories | Speaking, totals: Totals) -> tuple[str, dict[str, Any]]:
    if isinstance(task, Speaking):
        return speech.describe(task, totals)
    scores, counts = task.scores(totals), totals.sums["confusion"].cpu()
    lines, categories = confusion.per_class(counts, task.categories, "questions")
    test, training = task.parts["test"], task.parts["train"]
    without, _ = words.unknown(map(task.split, test.texts), task.vocabulary.known or task.vocabulary.rows_of_training())
    found = {**scores, "questions": len(test.texts), "unknown_words": without}
    if len(training.labels):
        found["majority"] = float((test.labels == np.bincount(training.labels).argmax()).mean())
    lines.append(
        f"accuracy {scores['accuracy']:.2%}  macro-F1 {scores['macro_f1']:.2%}  loss {scores['loss']:.4f}  "
        f"words {'without a vector' if task.vocabulary.given else 'that training lacks'} {without:.2%}"
    )
    return "\n".join(lines), found | {"per_class": categories, "confusion": counts.long().tolist()}


def predict(task: Predictor | Writer, inputs: list[str]) -> list[str]:
    """The category of every line of the files, in order; of a language model what that of `speech` says."""
    texts = [text for name in inputs for text in data.read_lines(name)]
    if isinstance(task, Writer):
        return speech.predict(task, texts)
    if not texts:
        return []
    rows = task.encode(texts)
    for text, row in zip(texts, rows, strict=True):
        if task.blind(text, row):
            print(f"{text}: a guess, the model knows none of its words", file=sys.stderr)
    return [task.categories[k] for k in task.probabilities(rows).argmax(1).tolist()]


def embed(task: Predictor | Writer, inputs: list[str]) -> np.ndarray:
    """What the model knows of every line of the files before its last linear layer."""
    texts = [text for name in inputs for text in data.read_lines(name)]
    if not texts:
        raise UserError(f"{', '.join(inputs)}: there is no question; give a text file, one question a line")
    if isinstance(task, Writer):
        return speech.embed(task, texts)
    return task.answers(task.encode(texts), task.model.vector).numpy()
