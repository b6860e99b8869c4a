"""The second task: a language model on the questions alone, without their categories.

The unit is a token: a word (or piece) of the vocabulary, the unknown word, or the end of a question. Each question is a
row of its own and not a part of one long stream: questions have nothing to do with each other, so that the state of one
says nothing of the next, and without a state that is carried on a step is a function of its batch alone, which is what
batches by length, resuming in every bit and evidence by blocks need.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude import draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.layers.language import BOUNDARY, LanguageModel, perplexity
from etude.markdown import literal
from etude.text.batching import pad, padded_batches, pieces, sorted_by_length
from etude.text.fingerprints import fingerprints
from etude.text.kneser_ney import KneserNey
from etude.text.tokenizer import Tokenizer
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split
from etude.train.totals import Sums, Totals
from qa_category import data, words
from qa_category.config import DATA, LANGUAGE, Config
from qa_category.data import Dataset, Questions
from qa_category.words import UNK, Vocabulary

SHOWN = 8  # questions that are scored, and written, before, during and after training
Batch = tuple[Tensor, Tensor]  # pieces int64 [B, T + 1], how many tokens of each are predicted int64 [B]


class Writer:
    """What predicts: the model, its vocabulary, and what it has seen."""

    def __init__(self, config: Config, vocabulary: Vocabulary, tokenizer: Tokenizer | None, seen: Tensor) -> None:
        """`seen`: the sorted fingerprints of the questions that it was trained and chosen on, int64."""
        self.config, self.vocabulary, self.tokenizer, self.seen = config, vocabulary, tokenizer, seen
        self.split = words.splitter(config.text, tokenizer)
        of = config.language
        dropout = {name: getattr(of, name) for name in ("dropout", "word_dropout", "weight_dropout")}
        self.model = LanguageModel(len(vocabulary.trained) + UNK + 1, of.embedding, of.units, of.layers, **dropout)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of whole questions, int64 [T] each."""
        rows = self.vocabulary.rows
        return [np.array([rows.get(word, UNK) for word in self.split(text)], np.int64) for text in texts]

    def cut(self, rows: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """Pieces of rows that are read at once, and of which row each is."""
        found = [pieces(row, self.config.text.max_length, BOUNDARY) for row in rows]
        return [piece for some in found for piece in some], np.repeat(np.arange(len(rows)), [len(x) for x in found])

    @torch.inference_mode()
    def surprisals(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each text the mean surprisal of a token, in nats, and how many tokens it has, with its end: [N], [N]."""
        self.model.eval()
        where = self.model.bias.device
        cut, owners = self.cut(self.encode(texts))
        nats, tokens = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for some, ids, lengths in padded_batches(cut, 500, BOUNDARY):
            found = self.model.surprisals(ids.to(where), (lengths - 1).to(where)).double().sum(1).cpu().numpy()
            np.add.at(nats, owners[some], found)
            np.add.at(tokens, owners[some], lengths.numpy() - 1)
        return nats / tokens, tokens

    def written(self, count: int, *stream: int) -> list[str]:
        """Questions that the model writes; the same for the same stream."""
        uniform = draw.uniform(np.arange(count), 40, *stream).double()
        rows = self.model.eval().written(count, 40, uniform.to(self.model.bias.device), (UNK,))
        names = ["", "", *self.vocabulary.trained]
        return [("" if self.tokenizer else " ").join(names[id] for id in row).strip() for row in rows]


class Speaking(Writer):
    """The Task: the model, and the questions that it learns from and is scored on."""

    metric, better = "perplexity", LANGUAGE

    def __init__(
        self,
        config: Config,
        parts: dict[Split, list[str]],
        told: str,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer | None,
        seen: Tensor,
    ) -> None:
        """`told`: the data in words."""
        super().__init__(config, vocabulary, tokenizer, seen)
        self.texts, self.data = parts, told
        self.rows = {split: self.encode(texts) for split, texts in parts.items()}
        self.pieces = {split: self.cut(rows)[0] for split, rows in self.rows.items()}
        of = config.language
        self.summary = f"{of.layers} LSTMs, {of.embedding} numbers a word, {len(vocabulary.trained):,} "
        self.summary += f"{config.text.splitter} words of training"
        self.shown = draw.shuffled(len(parts["valid"]), config.fit.seed)[:SHOWN]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {split: fingerprint(texts) for split, texts in self.texts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        """In training of any length: padding costs our LSTMs nothing, and of one length all would end at one place."""
        if split == "train":
            return even_batches(draw.shuffled(len(self.pieces[split]), self.config.fit.seed, epoch), batch_size)
        return sorted_by_length(np.array([len(piece) for piece in self.pieces[split]]), batch_size)

    def load(self, split: Split, ids: np.ndarray, _epoch: int) -> Batch:
        found, lengths = pad([self.pieces[split][id] for id in ids], BOUNDARY)
        return found, lengths - 1

    def step(self, batch: Batch) -> Sums:
        return {"loss": (self.model(*batch), batch[1].sum())}

    def scores(self, totals: Totals) -> dict[str, float]:
        """`loss`: nats per token, the end of a question counted; `perplexity`: its exponential."""
        found = totals.means()
        return {**found, "perplexity": perplexity(found["loss"])}

    def assets(self) -> dict[str, Any]:
        kept: dict[str, Any] = {
            "task": "language",
            "vocabulary": self.vocabulary.state(),
            "data": self.config.data.name,
        }
        kept["division"] = self.config.data.division
        return kept | {"tokenizer": self.tokenizer and self.tokenizer.state(), "seen": self.seen}

    def show(self, run: Run, when: str, step: int) -> None:
        """How well the same validation questions are known, and what the model writes itself."""
        texts = [self.texts["valid"][id] for id in self.shown]
        lines = ["| perplexity | validation question |", "|---:|---|"]
        for text, nats in zip(texts, self.surprisals(texts)[0] if texts else (), strict=True):
            lines.append(f"| {perplexity(nats):.1f} | {literal(text[:200])} |")
        lines += ["", "| written by the model |", "|---|"]
        lines += [f"| {literal(text)} |" for text in self.written(SHOWN, self.config.fit.seed)]
        run.text("questions", "\n".join(lines), step, when)


def make(config: Config) -> Speaking:
    dataset = data.load(config.data)
    texts = dataset.train.texts
    tokenizer = words.learn(config.text, texts)
    split = words.splitter(config.text, tokenizer)
    vocabulary = Vocabulary.of(config, [split(text) for text in texts])
    seen = torch.from_numpy(np.unique(fingerprints(map(data.identity, texts + dataset.valid.texts))))
    return Speaking(config, parts_of(dataset), dataset.description, vocabulary, tokenizer, seen)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None) -> Writer:
    vocabulary, kept = Vocabulary.restore(config, assets["vocabulary"]), assets["tokenizer"]
    tokenizer = Tokenizer.from_state(kept, "the tokenizer in the checkpoint") if kept else None
    if where is None:
        return Writer(config, vocabulary, tokenizer, assets["seen"])
    parts, told = to_score(config, assets)
    return Speaking(config, parts, told, vocabulary, tokenizer, assets["seen"])


def to_score(config: Config, assets: dict[str, Any]) -> tuple[dict[Split, list[str]], str]:
    """The parts that are to be scored, and the data in words; of other data what the run was not trained on.

    Raises UserError if nothing is left.
    """
    name, seen = config.data.name, assets["seen"].numpy()
    if name in DATA or name == assets["data"]:
        dataset = data.unseen(data.load(config.data), seen)
        if [name, config.data.division] == [assets["data"], assets["division"]]:
            return parts_of(dataset), dataset.description
    else:
        texts = list(dict.fromkeys(question for question, _ in data.read(name)))
        nothing = Questions([], np.zeros(0, np.int64))
        found = Questions(texts, np.zeros(len(texts), np.int64))
        dataset = data.unseen(Dataset(name, (), nothing, nothing, found, []), seen)
    texts = dataset.test.texts
    return {"train": [], "valid": [], "test": texts}, f"{dataset.name}, {len(texts):,} questions{dataset.note}"


def parts_of(dataset: Dataset) -> dict[Split, list[str]]:
    return {"train": dataset.train.texts, "valid": dataset.valid.texts, "test": dataset.test.texts}


def describe(task: Speaking, totals: Totals) -> tuple[str, dict[str, Any]]:
    """The perplexity, and that of trigrams with modified Kneser-Ney smoothing of the same tokens, if they are there."""
    scores, tokens = task.scores(totals), int(totals.counts["loss"])
    unknown = float(np.mean(np.concatenate(task.rows["test"]) == UNK))
    found = {**scores, "tokens": tokens, "unknown_words": unknown, "vocabulary": task.model.bias.numel()}
    lines = [f"perplexity {scores['perplexity']:.2f} per token (of {tokens:,}, ends of questions counted)"]
    if task.rows["train"]:
        peer = KneserNey(task.rows["train"], task.model.bias.numel()).surprisals(task.rows["test"])
        found["kneser_ney"] = perplexity(float(peer.mean()))
        lines.append(f"perplexity {found['kneser_ney']:.2f} of trigrams with Kneser-Ney smoothing, on the same tokens")
    lines.append(f"unknown words {unknown:.2%}, a token like any other, for both")
    return "\n".join(lines), found


def predict(task: Writer, inputs: list[str]) -> list[str]:
    """For every line of the files the perplexity of a token, and how many there are, the end counted."""
    texts = [text for name in inputs for text in data.read_lines(name)]
    if not texts:
        return []
    nats, tokens = task.surprisals(texts)
    return [f"{perplexity(x):.3f}\t{n}" for x, n in zip(nats.tolist(), tokens.tolist(), strict=True)]


@torch.inference_mode()
def embed(task: Writer, inputs: list[str]) -> np.ndarray:
    """What the last LSTM has read at the end of every line of the files, float32 [N, E]; of a long one of its end."""
    texts = [text for name in inputs for text in data.read_lines(name)]
    if not texts:
        raise UserError(f"{', '.join(inputs)}: there is no question; give a text file, one question a line")
    where = task.model.bias.device
    found = torch.zeros(len(texts), task.config.language.embedding)
    last = [task.cut([row])[0][-1] for row in task.encode(texts)]
    for some, ids, lengths in padded_batches(last, 500, BOUNDARY):
        read, _ = task.model.encoder(ids[:, :-1].to(where), (lengths - 1).to(where))
        found[some] = read[torch.arange(len(some)), lengths - 2].float().cpu()
    return found.numpy()
