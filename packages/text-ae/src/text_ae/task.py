"""text-ae as a Task: one vector per text, and the text back."""

import re
import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import draw, text
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.text.batching import by_length, pad, padded_batches, sorted_by_length
from etude.text.fingerprints import fingerprints
from etude.text.rows import Rows
from etude.text.tokenizer import Tokenizer, without_surrogates
from etude.train.device import Device, best_precision
from etude.train.run import Run
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from text_ae import data, scores
from text_ae.config import SCORES, Config
from text_ae.data import Dataset
from text_ae.meaning import meanings
from text_ae.model import Autoencoder, Autoregressive, Sizes, Superposition, Texts
from text_ae.probe import probe

SHOWN = 10  # texts shown before, during and after training
POINTS = 2_000  # latents in TensorBoard's projector, and among which neighbours are looked for
STEPS = 7  # from one text to another
TOGETHER = 250  # texts that are encoded or restored together, but no more than
LARGEST = 2**26  # log-odds at once
BLOCK = 10_000  # texts that become rows together
CORPUS = ("restored", "floor")  # sums of `scores.sums`: with the latent, and with zeros in its place

TOKENIZERS: dict[str, type[text.BPE | text.WordPiece | text.Unigram | text.Words]] = {
    "words": text.Words,
    "bpe": text.BPE,
    "wordpiece": text.WordPiece,
    "unigram": text.Unigram,
}


class Batch(NamedTuple):
    ids: Tensor  # int64 [B, T]
    lengths: Tensor  # int64 [B]
    numbers: Tensor  # int64 [B] which of all texts these are


class Predictor:
    """What predicts: the autoencoder, and the tokenizer that makes rows of ids for it."""

    def __init__(self, config: Config, tokenizer: Tokenizer, counts: Tensor, seen: Tensor) -> None:
        """`counts`: how often training has each token, float [V]; `seen`: the sorted fingerprints of its texts."""
        self.config, self.tokenizer, self.counts, self.seen = config, tokenizer, counts, seen
        start, end = (id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None)
        self.model = Autoencoder(config, Sizes(tokenizer.vocab_size, start, end), counts)

    def device(self) -> Device:
        where = next(self.model.parameters()).device
        return Device(where, best_precision(where))

    @torch.inference_mode()
    def encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Latents of rows of ids, float32 [B, D], on the CPU."""
        self.model.eval()
        device, found = self.device(), torch.zeros(len(rows), self.config.model.latent)
        for numbers, *texts in padded_batches(rows, TOGETHER, 0):
            found[numbers] = self.model.encode(Texts(*device.move(texts))).cpu()
        return found

    @torch.inference_mode()
    def said(self, latents: Tensor) -> list[list[int]]:
        """The ids that the decoder makes of latents [B, D]."""
        self.model.eval()
        device = self.device()
        together = min(TOGETHER, max(1, LARGEST // (self.tokenizer.vocab_size * self.config.text.max_length)))
        batches = latents.split(together) if len(latents) else ()
        return [row for some in batches for row in unpadded(self.model.restore(some.to(device.where)))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return decode(rows, self.tokenizer)


class Restoring(Predictor):
    """The Task: the autoencoder, and the texts that it learns from and is scored on."""

    metric, better = "accuracy", SCORES

    def __init__(
        self, config: Config, tokenizer: Tokenizer, counts: Tensor, seen: Tensor, dataset: Dataset, rows: Rows
    ) -> None:
        """`rows`: of all parts, see `encode_parts`; those of more than `text.max_length` tokens are in no part."""
        super().__init__(config, tokenizer, counts, seen)
        self.forced = isinstance(self.model.decoder, Autoregressive)
        model, vocabulary = config.model, f"{tokenizer.vocab_size:,} {tokenizer.kind}"
        self.summary = f"{vocabulary}, {model.encoder} > {model.latent} numbers > {model.decoder}"
        every = (dataset.train, dataset.valid, dataset.test)
        self.dataset, self.classes, self.rows = dataset, dataset.classes, rows
        self.texts = [text for part in every for text in part.texts]
        self.labels = np.concatenate([part.labels for part in every])
        longest = config.text.max_length
        short = rows.lengths <= longest
        ends = np.cumsum([len(part.texts) for part in every])
        parts = [np.flatnonzero(some) for some in np.split(short, ends[:-1])]
        parts = [some + end for some, end in zip(parts, (0, *ends), strict=False)]
        self.parts: dict[Split, np.ndarray] = dict(zip(("train", "valid", "test"), parts, strict=True))
        self.data = f"{dataset.description}; {int((~short).sum()):,} of more than {longest} tokens left out"
        if not all(len(part) for part in parts[1:]):
            raise UserError(
                f"no message of a part of {dataset.name} has at most {longest} tokens; raise text.max-length"
            )
        self.shown = self.parts["valid"][draw.shuffled(len(parts[1]), config.fit.seed)]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        parts = {"train": self.dataset.train, "valid": self.dataset.valid, "test": self.dataset.test}
        return {
            split: fingerprint(part.texts, (self.classes[label] for label in part.labels))
            for split, part in parts.items()
        }

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = self.rows.lengths[self.parts[split]]
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return sorted_by_length(lengths, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        numbers = self.parts[split][ids]
        return Batch(*pad([self.rows[n] for n in numbers], 0), torch.from_numpy(numbers))

    def step(self, batch: Batch) -> Sums:
        """Training: the loss, and how many tokens are right with the true ones before them. Else what restores well."""
        texts = Texts(batch.ids, batch.lengths)
        told = self.model(texts)
        logits = told.logits.float()
        loss = F.cross_entropy(logits, told.truths, reduction="sum")
        hits = ((logits.argmax(1) == told.truths) & told.real).sum()
        count = int(told.real.sum())
        found: Sums = {"loss": (loss, len(told.truths))}
        if self.forced or self.model.training:
            found["teacher_forced" if self.forced else "accuracy"] = (hits, count)
        if self.model.training:
            return found
        numbers = batch.numbers.tolist()
        rows, truths = [self.rows[n] for n in numbers], [self.texts[n] for n in numbers]
        said = unpadded(told.said or self.model.restore(told.latent))
        zeros = torch.zeros(1, self.config.model.latent, device=batch.ids.device)
        floor = unpadded(self.model.restore(zeros)) * len(rows)  # of the weights as they are now
        for name, ids in zip(CORPUS, (said, floor), strict=True):
            found[name] = (scores.sums(rows, ids, truths, self.decode(ids)).to(batch.ids.device), len(rows))
        return found

    def scores(self, totals: Totals) -> dict[str, float]:
        found = totals.means()
        if "restored" in totals.sums:
            whole, floor = (scores.scores(totals.sums[name].sum(0)) for name in CORPUS)
            found |= whole | {f"floor_{name}": value for name, value in floor.items()}
        return found

    def assets(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.state(), "counts": self.counts, "seen": self.seen}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation texts each time: restored, on the way from one to another, and with their neighbours."""
        points = self.shown[:POINTS]
        latents = self.encode([self.rows[n] for n in points])
        said = self.said(latents[:SHOWN])
        run.text("restored", self.table(points[:SHOWN], said), step, when)
        run.text("interpolation", self.between(points, latents), step, when)
        run.text("neighbours", self.neighbours(points, latents), step, when)
        if when in ("before", "after"):
            columns = {"text": [self.texts[n] for n in points], "tag": [self.classes[k] for k in self.labels[points]]}
            run.embedding("latents", latents, columns, step)
        if when == "after":
            said = self.said(latents)
            wrong = [len(self.rows[n]) - scores.hits(self.rows[n], row) for n, row in zip(points, said, strict=True)]
            worst = np.argsort(wrong, kind="stable")[::-1][:SHOWN]
            run.text("most wrong", self.table(points[worst], [said[n] for n in worst]), step)

    def table(self, numbers: np.ndarray, said: list[list[int]]) -> str:
        """Markdown: each text and what was restored, with the tokens that are wrong in bold."""
        lines = ["| right | text | restored |", "|---|---|---|"]
        for n, row in zip(numbers, said, strict=True):
            truth = self.rows[n]
            marked = []
            right = [place < len(truth) and truth[place] == id for place, id in enumerate(row)]
            for same, run in groupby(range(len(row)), right.__getitem__):
                piece = re.sub(r"\s", " ", self.tokenizer.decode([row[place] for place in run]))
                bare = piece.strip()
                marked.append(escaped(piece) if same or not bare else piece.replace(bare, f"**{escaped(bare)}**"))
            restored = "".join(marked).strip() or "(nothing)"
            lines.append(f"| {scores.hits(truth, row)} of {len(truth)} | {escaped(self.texts[n])} | {restored} |")
        return "\n".join(lines)

    def between(self, points: np.ndarray, latents: Tensor) -> str:
        """Markdown: what lies on the straight way from one text's latent to another's."""
        lines = []
        for a, b in ((0, 1), (2, 3)) if len(points) > 3 else ():
            lines += ["| part of the way | restored |", "|---|---|", f"| from | {escaped(self.texts[points[a]])} |"]
            parts = torch.linspace(0, 1, STEPS)
            said = self.said(torch.lerp(latents[a], latents[b], parts[:, None]))
            lines += [
                f"| {part:.2f} | {escaped(found)} |" for part, found in zip(parts, self.decode(said), strict=True)
            ]
            lines += [f"| to | {escaped(self.texts[points[b]])} |", ""]
        return "\n".join(lines)

    def neighbours(self, points: np.ndarray, latents: Tensor) -> str:
        """Markdown: the texts whose latents have the largest cosine with that of a text, all less their mean."""
        unit = F.normalize(latents - latents.mean(0), dim=1)
        near = (unit[:SHOWN] @ unit.T).fill_diagonal_(-2).topk(min(3, len(points) - 1))
        lines = ["| cosine | text |", "|---|---|"]
        for a in range(min(SHOWN, len(points))):
            lines.append(f"| | **{escaped(self.texts[points[a]])}** |")
            for cosine, b in zip(near.values[a].tolist(), near.indices[a].tolist(), strict=True):
                lines.append(f"| {cosine:.2f} | {escaped(self.texts[points[b]])} |")
        return "\n".join(lines)


def escaped(shown: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]#~])", r"\\\1", re.sub(r"\s", " ", shown))


def unpadded(texts: Texts) -> list[list[int]]:
    return [row[:n] for row, n in zip(texts.ids.tolist(), texts.lengths.tolist(), strict=True)]


def encode(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Rows of ids. A space is put before each text, so that its first word is the token that it is elsewhere."""
    return tokenizer.encode_batch([" " + text for text in texts])


def encode_parts(dataset: Dataset, tokenizer: Tokenizer) -> Rows:
    """The rows of training, then of validation, then of the test."""
    every = (dataset.train.texts, dataset.valid.texts, dataset.test.texts)
    return Rows(encode(texts[n : n + BLOCK], tokenizer) for texts in every for n in range(0, len(texts), BLOCK))


def decode(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    return [without_surrogates(text.removeprefix(" ")) for text in tokenizer.batch_decode(rows)]  # bytes may say any


def make(config: Config, where: torch.device) -> Task:
    dataset = load(config)
    tokenizer: Tokenizer
    if config.text.tokenizer == "pretrained":
        tokenizer = text.Pretrained(config.text.pretrained)
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise UserError(f"{config.text.pretrained} has no tokens to begin and end a text; choose another tokenizer")
    else:
        texts = [" " + text for text in dataset.train.texts]
        tokenizer = TOKENIZERS[config.text.tokenizer].train(texts, config.text.vocabulary, bos="<bos>", eos="<eos>")
    rows = encode_parts(dataset, tokenizer)
    kept = (rows.lengths <= config.text.max_length) & (np.arange(len(rows)) < len(dataset.train.texts))
    if not kept.any():
        raise UserError(
            f"no message of the training part has at most {config.text.max_length} tokens; raise text.max-length"
        )
    flat = rows.flat[np.repeat(kept, rows.lengths)]
    counts = torch.bincount(torch.from_numpy(flat), minlength=tokenizer.vocab_size).float()
    seen = torch.from_numpy(np.sort(fingerprints(map(data.identity, dataset.train.texts + dataset.valid.texts))))
    task = Restoring(config, tokenizer, counts, seen, dataset, rows)
    if isinstance(encoder := task.model.encoder, Superposition):
        encoder.mean(meanings(flat, rows.lengths[kept], tokenizer.vocab_size, config.model.meaning))
    return task


def load(config: Config) -> Dataset:
    given = config.data
    return data.load(given.name, config.fit.seed, given.held_out, given.normalise, given.messages, given.longest)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    """With data, texts that training had are left out of the test part, whatever file they come from."""
    tokenizer = Tokenizer.from_state(assets["tokenizer"], "the tokenizer in the checkpoint")
    counts, seen = assets["counts"], assets["seen"]
    if where is None:
        return Predictor(config, tokenizer, counts, seen)
    dataset = load(config)
    dataset = dataset.without_tests(np.isin(fingerprints(map(data.identity, dataset.test.texts)), seen.numpy()))
    return Restoring(config, tokenizer, counts, seen, dataset, encode_parts(dataset, tokenizer))


def describe(task: Restoring, totals: Totals) -> tuple[str, dict[str, Any]]:
    found = task.scores(totals)
    lines = [
        f"{'tokens':<10}{'texts':>8}{'accuracy':>10}{'exact':>8}{'BLEU':>7}{'chrF':>7}   restored from the latent alone"
    ]
    sums = totals.sums["restored"].cpu()
    buckets = {}

    def line(name: str, sums: Tensor, note: str = "") -> dict[str, float]:
        of = scores.scores(sums)
        lines.append(
            f"{name:<10}{int(sums[0]):>8,}{of['accuracy']:>10.2%}{of['exact']:>8.1%}{of['bleu']:>7.1f}{of['chrf']:>7.1f}{note}"
        )
        return of

    for name, row in zip(scores.BUCKETS, sums, strict=True):
        if row[0]:
            buckets[name] = {"texts": int(row[0]), **line(name, row)}
    line("all", sums.sum(0))
    line("floor", totals.sums["floor"].cpu().sum(0), "   the same decoder, the latent zeroed")
    if "teacher_forced" in found:
        lines.append(f"teacher-forced accuracy {found['teacher_forced']:.2%} (the true token before each is given)")
    result = {**found, "texts": int(sums[:, 0].sum()), "buckets": buckets}
    train, test = (task.parts[split] for split in ("train", "test"))
    if not len(train):
        lines.append("the tag is not guessed: no message of the training part is short enough")
    elif len(set(task.labels[train].tolist())) < 2:
        lines.append("the tag is not guessed: the training part has one only")
    else:
        some = train[draw.shuffled(len(train), task.config.fit.seed)]
        tags = probe(task.encode, task.rows, task.texts, task.labels, some, test)
        told = [f"{tags['tag_latent']:.2%} from the latent"]
        for name in ("tokens", "words"):
            if f"tag_{name}" in tags:
                gain, error = 100 * tags[f"tag_gain_{name}"], 196 * tags[f"tag_gain_{name}_se"]
                told.append(
                    f"{tags[f'tag_{name}']:.2%} from components of a bag of {name} (the latent's lead: {gain:+.1f}, "
                    f"interval {gain - error:+.1f} to {gain + error:+.1f})"
                )
        lines.append(
            f"tag of {len(test):,} texts guessed by logistic regression: {', '.join(told)}; "
            f"{tags['tag_majority']:.2%} always the same"
        )
        result |= tags
    return "\n".join(lines), result


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """The restoration of each line of the files ("-": standard input), from its latent alone; an empty one stays so."""
    rows = rows_of(task, inputs)
    said = task.decode(task.said(task.encode(rows)))
    return [" ".join(line.splitlines()) if row else "" for row, line in zip(rows, said, strict=True)]


def embed(task: Predictor, inputs: list[str]) -> np.ndarray:
    """The latent of each line of the files, float32 [N, D]."""
    return task.encode(rows_of(task, inputs)).numpy()


def rows_of(task: Predictor, inputs: list[str]) -> list[list[int]]:
    """Ids of each line of the files, cut to the longest there may be. Raises UserError for a file not to be read."""
    texts = [line for name in inputs for line in data.read_lines(name)]
    if task.config.data.normalise:
        texts = [data.normalised(line) for line in texts]
    longest = task.config.text.max_length
    rows = [row if line else [] for line, row in zip(texts, encode(texts, task.tokenizer), strict=True)]
    if longer := sum(len(row) > longest for row in rows):
        print(f"{longer:,} of {len(rows):,} texts are cut to their first {longest} tokens", file=sys.stderr)
    return [row[:longest] for row in rows]
