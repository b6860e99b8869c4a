"""The task of a language model: texts alone, without their labels.

The unit is a token of the vocabulary, the unknown one included, or the end of a text. Each text is a row of its own and
not a part of one long stream: texts have nothing to do with each other, so that the state of one says nothing of the
next, and without a state that is carried on a step is a function of its batch alone, which is what batches by length,
resuming in every bit and evidence by blocks need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude import draw
from etude.fingerprint import fingerprint
from etude.language.knobs import LANGUAGE, Language
from etude.layers.language import BOUNDARY, LanguageModel, perplexity
from etude.markdown import literal
from etude.text.batching import pad, padded_batches, pieces, sorted_by_length
from etude.text.kneser_ney import KneserNey
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split
from etude.train.totals import Sums, Totals

SHOWN = 8  # texts that are scored, and written, before, during and after training
WRITTEN = 40  # tokens that are written of a text, at most
Batch = tuple[Tensor, Tensor]  # pieces int64 [B, T + 1], how many tokens of each are predicted int64 [B]


@dataclass(frozen=True)
class Script:
    """How texts become tokens and back, which is all that a language model has to know of them."""

    encode: Callable[[list[str]], list[np.ndarray]]  # the ids of whole texts, int64 [T] each, without `BOUNDARY`
    decode: Callable[[list[int]], str]
    tokens: int  # the size of the vocabulary, `BOUNDARY` included
    unknown: int
    never: tuple[int, ...]  # tokens that are not to be written
    noun: str  # what a text is: "question"


class Writer:
    """What predicts: the model, and how texts are read."""

    def __init__(self, language: Language, script: Script, assets: dict[str, Any]) -> None:
        """`assets`: what is kept with the model, by which the same script can be made again."""
        self.language, self.script, self.kept = language, script, assets
        dropout = {name: getattr(language, name) for name in ("dropout", "word_dropout", "weight_dropout")}
        sizes = language.embedding, language.units, language.layers, language.bidirectional
        self.model = LanguageModel(script.tokens, *sizes, **dropout)

    def cut(self, rows: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """Pieces of rows that are read at once, and of which row each is."""
        found = [pieces(row, self.language.piece, BOUNDARY) for row in rows]
        return [piece for some in found for piece in some], np.repeat(np.arange(len(rows)), [len(x) for x in found])

    @torch.inference_mode()
    def surprisals(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each text the mean surprisal of a token, in nats, and how many tokens it has, with its end: [N], [N].

        Read from the beginning, also where the model is bidirectional.
        """
        self.model.eval()
        where = self.model.bias.device
        cut, owners = self.cut(self.script.encode(texts))
        nats, tokens = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for some, ids, lengths in padded_batches(cut, 500, BOUNDARY):
            found = self.model.surprisals(ids.to(where), (lengths - 1).to(where)).double().sum(1).cpu().numpy()
            np.add.at(nats, owners[some], found)
            np.add.at(tokens, owners[some], lengths.numpy() - 1)
        return nats / tokens, tokens

    def written(self, count: int, *stream: int) -> list[str]:
        """Texts that the model writes; the same for the same stream."""
        uniform = draw.uniform(np.arange(count), WRITTEN, *stream).double()
        rows = self.model.eval().written(count, WRITTEN, uniform.to(self.model.bias.device), self.script.never)
        return [self.script.decode(row).strip() for row in rows]


class Speaking(Writer):
    """The Task: the model, and the texts that it learns from and is scored on."""

    metric, better = "perplexity", LANGUAGE

    def __init__(
        self,
        language: Language,
        script: Script,
        assets: dict[str, Any],
        parts: dict[Split, list[str]],
        told: str,
        seed: int,
    ) -> None:
        """`told`: the data in words; `seed`: of the order of training, and of what is shown."""
        super().__init__(language, script, assets)
        self.texts, self.data, self.seed = parts, told, seed
        self.rows = {split: script.encode(texts) for split, texts in parts.items()}
        self.pieces = {split: self.cut(rows)[0] for split, rows in self.rows.items()}
        both = " both ways" if language.bidirectional else ""
        self.summary = f"{language.layers} LSTMs{both}, {language.embedding} numbers a token, {script.tokens:,} tokens"
        self.shown = draw.shuffled(len(parts["valid"]), seed)[:SHOWN]
        if language.sampled and self.pieces["train"]:
            said = np.concatenate([piece[1:] for piece in self.pieces["train"]])
            self.model.sample(torch.from_numpy(np.bincount(said, minlength=script.tokens)), language.sampled)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {split: fingerprint(texts) for split, texts in self.texts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        """In training of any length: padding costs our LSTMs nothing, and of one length all would end at one place."""
        if split == "train":
            return even_batches(draw.shuffled(len(self.pieces[split]), self.seed, epoch), batch_size)
        return sorted_by_length(np.array([len(piece) for piece in self.pieces[split]]), batch_size)

    def load(self, split: Split, ids: np.ndarray, _epoch: int) -> Batch:
        found, lengths = pad([self.pieces[split][id] for id in ids], BOUNDARY)
        return found, lengths - 1

    def step(self, batch: Batch) -> Sums:
        count, forward = batch[1].sum(), self.model(*batch)
        if not self.language.bidirectional:
            return {"loss": (forward, count)}
        return {"loss": (forward + self.model(*batch, reverse=True), 2 * count), "forward": (forward, count)}

    def scores(self, totals: Totals) -> dict[str, float]:
        """`loss`: nats per token, the end of a text counted; `perplexity`: its exponential. Both ways: of both."""
        found = totals.means()
        return {"loss": found["loss"], "perplexity": perplexity(found["loss"])}

    def assets(self) -> dict[str, Any]:
        return {"task": "language", **self.kept}

    def show(self, run: Run, when: str, step: int) -> None:
        """How well the same validation texts are known, and what the model writes itself."""
        texts = [self.texts["valid"][id] for id in self.shown]
        lines = [f"| perplexity | validation {self.script.noun} |", "|---:|---|"]
        for text, nats in zip(texts, self.surprisals(texts)[0] if texts else (), strict=True):
            lines.append(f"| {perplexity(nats):.1f} | {literal(text[:200])} |")
        lines += ["", "| written by the model |", "|---|"]
        lines += [f"| {literal(text)} |" for text in self.written(SHOWN, self.seed)]
        run.text(f"{self.script.noun}s", "\n".join(lines), step, when)


def describe(task: Speaking, totals: Totals) -> tuple[str, dict[str, Any]]:
    """The perplexity, and that of trigrams with modified Kneser-Ney smoothing of the same tokens, if they are there."""
    scores, means, rows = task.scores(totals), totals.means(), task.rows["test"]
    tokens = sum(map(len, rows)) + len(rows)
    unknown = float(np.mean(np.concatenate(rows) == task.script.unknown))
    found = {**scores, "tokens": tokens, "unknown_words": unknown, "vocabulary": task.script.tokens}
    noun = task.script.noun
    lines = [f"perplexity {scores['perplexity']:.2f} per token (of {tokens:,}, ends of {noun}s counted)"]
    if "forward" in means:
        found["perplexity_forward"] = perplexity(means["forward"])
        lines[0] += f", read both ways; {found['perplexity_forward']:.2f} from the beginning alone"
    if task.rows["train"]:
        peer = KneserNey(task.rows["train"], task.script.tokens).surprisals(rows)
        found["kneser_ney"] = perplexity(float(peer.mean()))
        lines.append(f"perplexity {found['kneser_ney']:.2f} of trigrams with Kneser-Ney smoothing, on the same tokens")
    lines.append(f"unknown words {unknown:.2%}, a token like any other, for both")
    return "\n".join(lines), found


def predict(task: Writer, texts: list[str]) -> list[str]:
    """For every text the perplexity of a token, and how many there are, the end counted."""
    if not texts:
        return []
    nats, tokens = task.surprisals(texts)
    return [f"{perplexity(x):.3f}\t{n}" for x, n in zip(nats.tolist(), tokens.tolist(), strict=True)]


@torch.inference_mode()
def embed(task: Writer, texts: list[str]) -> np.ndarray:
    """What the last LSTM has read at the end of every text, float32 [N, E]; of a long one of its end."""
    device = task.model.bias.device
    found = torch.zeros(len(texts), task.language.embedding)
    last = [task.cut([row])[0][-1] for row in task.script.encode(texts)]
    for some, ids, lengths in padded_batches(last, 500, BOUNDARY):
        read, _ = task.model.encoder(ids[:, :-1].to(device), (lengths - 1).to(device))
        found[some] = read[torch.arange(len(some)), lengths - 2].float().cpu()
    return found.numpy()
