"""lstm-pos as a Task: which part of speech is each word of a sentence?"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import confusion, draw
from etude.errors import UserError
from etude.layers.recurrent import LSTM
from etude.text.batching import by_length, sorted_by_length
from etude.text.fingerprints import fingerprints
from etude.text.lines import clean
from etude.train.device import Device, best_precision
from etude.train.run import Run
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from lstm_pos import conllu, data
from lstm_pos.batches import BLOCK, Part, batch, cut, cut_all, occurrences
from lstm_pos.config import SCORES, Config
from lstm_pos.data import Corpus, Dataset
from lstm_pos.forms import Encoder, Forms, Morphology, Words, packed, ranges
from lstm_pos.inputs import is_conllu, sentences_of
from lstm_pos.model import Batch, Sizes, Tagger

SHOWN = 10  # sentences shown before, during and after training
COUNTED = 2_000  # sentences that the confusion matrix is drawn from, at most
TOGETHER = 4_000  # pieces that are tagged together: more no longer fit the cache, fewer make small products
NONE = np.zeros(0, np.int64)  # the sentences of a part that is not needed
DROPPED = 1  # the stream that word dropout is drawn from


@dataclass(frozen=True)
class Learnt:
    """What a run knows beside its weights."""

    encoder: Encoder
    tags: list[str]
    morphology: Morphology
    seen: np.ndarray  # int64, sorted: the fingerprints of the forms that training has
    source: dict[str, Any]  # the data it was trained on, see `source`: the same again have the same test part
    read: np.ndarray | None  # int64, sorted: the `marks` of what it was trained on or chosen by; of the first runs None

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state(),
            "tags": self.tags,
            "morphology": self.morphology.values,
            "seen": torch.from_numpy(self.seen),
            "source": self.source,
        } | ({} if self.read is None else {"read": torch.from_numpy(self.read)})

    @classmethod
    def restore(cls, config: Config, state: dict[str, Any]) -> "Learnt":
        return cls(
            Encoder.restore(config, state["encoder"]),
            state["tags"],
            Morphology(state["morphology"]),
            state["seen"].numpy(),
            state["source"],
            state["read"].numpy() if "read" in state else None,
        )


class Predictor:
    """What predicts: the network, and what was learnt beside its weights."""

    def __init__(self, config: Config, learnt: Learnt) -> None:
        self.config, self.learnt, self.tags = config, learnt, list(learnt.tags)
        encoder = learnt.encoder
        self.model = Tagger(
            config.model,
            Sizes(
                pieces=encoder.cutter.vocab_size,
                affixes=[len(known) for known in encoder.affixes],
                characters=len(encoder.characters),
                grammemes=len(encoder.dictionary.grammemes) if encoder.dictionary else 0,
                tags=len(self.tags),
                values=sum(learnt.morphology.sizes),
            ),
        )

    def tagged(self, sentences: Sequence[Sequence[str]], precision: str = "fp32") -> list[list[str]]:
        """The tags of every word of every sentence."""
        names: dict[str, int] = {}
        plain = ((clean(word) or word for word in words) for words in sentences)
        flat, bounds = packed([[names.setdefault(word, len(names)) for word in words] for words in plain])
        forms = self.learnt.encoder.encode(list(names))
        part = cut(flat, bounds[:-1], bounds[1:], forms.counts, self.config.text.max_length)
        found = self.answers(forms, flat, part, precision)
        return [[self.tags[k] for k in found[a:b]] for a, b in pairwise(bounds)]

    @torch.inference_mode()
    def answers(self, forms: Forms, words: np.ndarray, part: Part, precision: str) -> np.ndarray:
        """The number of the tag of each of `words`, numbers of `forms`, that lies in `part`: int64 [W]."""
        self.model.eval()
        device = Device(next(self.model.parameters()).device, precision)
        found = np.zeros(len(words), np.int64)
        order = np.argsort(part.lengths, kind="stable")
        shares = np.cumsum(part.lengths[order]) // TOGETHER
        for ids in np.split(order, np.flatnonzero(np.diff(shares)) + 1) if len(order) else []:
            counts = part.ends[ids] - part.starts[ids]
            tokens = ranges(part.starts[ids], counts)
            one = device.move(batch(forms, words[tokens], counts, self.config.text.label))
            with device.autocast():
                logits, _ = self.model(one)
            found[tokens] = of_words(mean(logits.float()), one.words, len(tokens)).argmax(1).cpu().numpy()
        return found


class Tagging(Predictor):
    """The Task: a tagger, and the sentences that it learns from and is scored on: the test part only, if restored."""

    metric, better = "accuracy", SCORES

    def __init__(self, config: Config, learnt: Learnt, dataset: Dataset) -> None:
        super().__init__(config, learnt)
        encoder, corpus = learnt.encoder, dataset.corpus
        self.summary = f"{encoder.cutter.vocab_size:,} {encoder.cutter.kind}, LSTM: {LSTM.__module__}"
        self.data, self.corpus = dataset.description, corpus
        self.tags += [tag for tag in corpus.tags if tag not in learnt.tags]  # never answered
        self.tag_ids = np.array([self.tags.index(tag) for tag in corpus.tags], dtype=np.int64)
        self.morphology = learnt.morphology.encode(corpus.feats)
        self.sentences = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
        used = np.flatnonzero(sum(occurrences(corpus, sentences) for sentences in self.sentences.values()))
        words = [corpus.words[n] for n in used]
        self.numbers = np.zeros(len(corpus.words), np.int32)  # of the corpus's words among `forms`
        self.numbers[used] = np.arange(len(used))
        self.forms = encoder.encode(words)
        self.unseen = ~np.isin(fingerprints(words), learnt.seen)
        counts = self.forms.counts[self.numbers]
        longest = config.text.max_length
        self.parts = {name: cut_all(corpus, some, counts, longest) for name, some in self.sentences.items()}
        self.shown = np.sort(draw.shuffled(len(self.parts["valid"].starts), config.fit.seed)[:SHOWN])
        self.dropped: np.ndarray | None = None
        if isinstance(encoder.cutter, Words) and config.model.word_dropout:
            self.dropped = self.rarity(dataset.train, encoder.cutter)

    def rarity(self, sentences: np.ndarray, words: Words) -> np.ndarray:
        """With which probability each form passes for an unknown word in training, float [V]."""
        counts = np.zeros(words.vocab_size)
        np.add.at(counts, self.forms.pieces[self.numbers], occurrences(self.corpus, sentences))
        often = counts[self.forms.pieces]
        return self.config.model.word_dropout / (self.config.model.word_dropout + np.maximum(often, 1))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of words and tags; the column FEATS counts where training learns from it."""
        loaded = {split: sentences for split, sentences in self.sentences.items() if len(sentences)}
        return data.part_fingerprints(self.corpus, loaded, bool(self.config.model.morphology))

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        lengths = self.parts[split].lengths
        if split == "train":
            return by_length(lengths, batch_size, self.config.fit.seed, epoch)
        return sorted_by_length(lengths, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        part, corpus = self.parts[split], self.corpus
        counts = part.ends[ids] - part.starts[ids]
        tokens = ranges(part.starts[ids], counts)
        forms = self.numbers[corpus.word_ids[tokens]]
        dropped = None
        if split == "train" and self.dropped is not None:
            chance = draw.uniform(tokens, 1, self.config.fit.seed, epoch, DROPPED)[:, 0].numpy()
            dropped = chance < self.dropped[forms]
        tags, feats = self.tag_ids[corpus.tag_ids[tokens]], self.morphology[torch.from_numpy(corpus.feat_ids[tokens])]
        unseen = torch.from_numpy(self.unseen[forms])
        return batch(self.forms, forms, counts, self.config.text.label, dropped)._replace(
            tags=torch.from_numpy(tags), unseen=unseen, morphology=feats
        )

    def step(self, batch: Batch) -> Sums:
        logits, values = self.model(batch)
        logits, known = logits.float(), len(self.learnt.tags)
        together = mean(logits.detach())
        tags = batch.tags if batch.words is None else batch.tags[batch.words]
        truth = tags.masked_fill(tags >= known, -1)
        if self.model.training:  # each member learns alone
            loss = F.cross_entropy(logits.flatten(0, 1), truth.repeat(len(logits)), reduction="sum", ignore_index=-1)
            if values is not None:
                truths = batch.morphology if batch.words is None else batch.morphology[batch.words]
                parts = values.float().flatten(0, 1).split(self.learnt.morphology.sizes, 1)
                for part, of in zip(parts, truths.repeat(len(logits), 1).unbind(1), strict=True):
                    loss = loss + self.config.model.morphology * F.cross_entropy(part, of, reduction="sum")
            loss = loss / len(logits)
        else:
            loss = F.cross_entropy(together, truth, reduction="sum", ignore_index=-1)
        answers = of_words(together, batch.words, len(batch.tags)).argmax(1)
        hits = answers == batch.tags
        sums: Sums = {"loss": (loss, (truth >= 0).sum()), "accuracy": (hits.sum(), len(hits))}
        if not self.model.training:
            sums["unseen"] = (torch.stack([(hits & batch.unseen).sum(), batch.unseen.sum()]), len(hits))
            sums["confusion"] = (confusion.count(batch.tags, answers, len(self.tags)), len(hits))
        return sums

    def scores(self, totals: Totals) -> dict[str, float]:
        counted = [name for name, count in totals.counts.items() if count > 0]  # no loss, where no tag is known
        scores = Totals(*({name: part[name] for name in counted} for part in (totals.sums, totals.counts))).means()
        if "confusion" in totals.sums:
            counts = totals.sums["confusion"]
            used = counts.sum(0) + counts.sum(1) > 0
            scores["macro_f1"] = float(confusion.f1(counts)[used].mean())
            hits, unseen = totals.sums["unseen"].tolist()
            if unseen:
                scores["unseen_accuracy"] = hits / unseen
        return scores

    def assets(self) -> dict[str, Any]:
        return self.learnt.state()

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation sentences each time; at the end also the confusion matrix and the worst sentences."""
        part = self.parts["valid"]
        pairs = [self.read(part.starts[id], part.ends[id]) for id in self.shown]
        run.text("sentences", table(pairs, self.tagged([words for words, _ in pairs])), step, when)
        if when != "after":
            return
        some = draw.shuffled(len(part.starts), self.config.fit.seed)[:COUNTED]
        pairs = [self.read(part.starts[id], part.ends[id]) for id in some]
        found = self.tagged([words for words, _ in pairs])
        wrong = [
            sum(a != b for a, b in zip(tags, truth, strict=True)) for tags, (_, truth) in zip(found, pairs, strict=True)
        ]
        worst = sorted(range(len(pairs)), key=lambda n: -wrong[n])[:SHOWN]
        run.text("most wrong", table([pairs[n] for n in worst], [found[n] for n in worst]), step)
        numbers = {tag: n for n, tag in enumerate(self.tags)}
        truths, answers = (
            torch.tensor([numbers[tag] for tags in every for tag in tags])
            for every in ([truth for _, truth in pairs], found)
        )
        counts = confusion.count(truths, answers, len(numbers))
        what = f"words of {len(some):,} of its {len(part.starts):,} sentences"
        run.picture("confusion", confusion.picture(counts, self.tags, what), step)

    def read(self, start: int, end: int) -> tuple[list[str], list[str]]:
        """The words and their true tags from one token of the corpus to another."""
        words = [self.corpus.words[n] for n in self.corpus.word_ids[start:end]]
        return words, [self.corpus.tags[n] for n in self.corpus.tag_ids[start:end]]


def mean(logits: Tensor) -> Tensor:
    """The mean of the members' log-probabilities: [N, P, K] -> [P, K], log-odds again."""
    return logits[0] if len(logits) == 1 else logits.log_softmax(2).mean(0)


def of_words(logits: Tensor, words: Tensor | None, count: int) -> Tensor:
    """From carriers to words: [P, K] -> [W, K]; those of one word add up their log-probabilities."""
    if words is None:
        return logits
    return logits.new_zeros(count, logits.shape[1]).index_add(0, words, logits.log_softmax(1))


def table(pairs: Iterable[tuple[list[str], list[str]]], found: Iterable[list[str]]) -> str:
    """Markdown: a sentence a line, each word with its tag below it; what is wrong is bold, with the truth."""
    lines = ["| errors | sentence |", "|---|---|"]
    for (words, truths), tags in zip(pairs, found, strict=True):
        shown = []
        for word, truth, tag in zip(words, truths, tags, strict=True):
            word = "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>~" else c for c in word)
            shown.append(f"{word}/{tag}" if tag == truth else f"**{word}/{tag}≠{truth}**")
        wrong = sum(a != b for a, b in zip(tags, truths, strict=True))
        lines.append(f"| {wrong} of {len(words)} | {' '.join(shown)} |")
    return "\n".join(lines)


def source(config: Config, corpus: Corpus) -> dict[str, Any]:
    """What decides the parts of the data: `corpus`, which was read as `config` says, and the flags."""
    flags = {"documents": config.data.documents, "held_out": config.data.held_out, "seed": config.fit.seed}
    return {"name": config.data.name, **flags, "fingerprint": data.fingerprint(corpus)}


def load(config: Config) -> Dataset:
    return data.load(config.data.name, config.fit.seed, config.data.documents, config.data.held_out)


def make(config: Config, where: torch.device) -> Task:
    dataset = load(config)
    corpus = dataset.corpus
    often = occurrences(corpus, dataset.train)
    seen = np.flatnonzero(often)
    counts = Counter({corpus.words[n]: int(often[n]) for n in seen})
    texts = partial(joined, corpus, dataset.train)
    here = dataset.train[: 10 * BLOCK]  # tags and morphology that a million sentences do not show do not matter
    tokens = ranges(corpus.sentences[here], corpus.sentences[here + 1] - corpus.sentences[here])
    tags = sorted(corpus.tags[k] for k in np.unique(corpus.tag_ids[tokens]))
    feats = [corpus.feats[k] for k in np.unique(corpus.feat_ids[tokens])] if config.model.morphology else []
    morphology = Morphology.train(feats)
    if config.model.morphology and not morphology.values:
        raise UserError(
            f"column FEATS of {config.data.name} is empty: leave out --model.morphology, which learns from it"
        )
    if len(tags) < 2:
        raise UserError(
            f"all words of the training part of {config.data.name} are tagged {tags[0]}, which is nothing to learn: "
            "tag the words in column UPOS, or use more documents"
        )
    encoder = Encoder.train(config, counts, texts)
    if isinstance(encoder.cutter, Words) and not encoder.cutter.classes and not encoder.cutter.words:
        raise UserError(f"text.vocabulary {config.text.vocabulary} has room for no word: raise it")
    seen, read = (np.sort(found) for found in (fingerprints(counts), marks(corpus, dataset.train, dataset.valid)))
    return Tagging(config, Learnt(encoder, tags, morphology, seen, source(config, corpus), read), dataset)


def joined(corpus: Corpus, sentences: np.ndarray) -> Iterator[str]:
    for some in np.array_split(sentences, max(1, len(sentences) // BLOCK)):
        starts, counts = corpus.sentences[some], corpus.sentences[some + 1] - corpus.sentences[some]
        words = [corpus.words[n] for n in corpus.word_ids[ranges(starts, counts)].tolist()]
        yield from (" ".join(words[a:b]) for a, b in pairwise(np.concatenate([[0], np.cumsum(counts)]).tolist()))


def marks(corpus: Corpus, *parts: np.ndarray) -> np.ndarray:
    """By what a run recognises sentences, whatever their tags and wherever they stand: int64, one for each."""
    blocks = (some for part in parts for some in np.array_split(part, max(1, len(part) // BLOCK)))
    return np.concatenate([fingerprints(joined(corpus, some)) for some in blocks])


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    """Scored is the run's own test part, or of other data every sentence that the run was not trained on.

    They are told apart by what is in them, not by their name: a copy of the training data, or a file that begins with
    them, is refused unless it has the same parts. Raises UserError.
    """
    learnt = Learnt.restore(config, assets)
    if where is None:
        return Predictor(config, learnt)
    name, trained, asked = config.data.name, learnt.source, config.data.documents
    # Of what the run was trained on, fewer documents may be asked for: as many are read as it has.
    corpus = data.read(name, max(asked, trained["documents"]) if asked and trained["documents"] else 0)
    begins = data.fingerprint(data.first(corpus, trained["fingerprint"]["documents"])) == trained["fingerprint"]
    if not begins and name != trained["name"] and asked == trained["documents"] > 0:
        asked, corpus = 0, data.read(name, 0)  # it is how much was read of other data, and not asked of these
    corpus = data.first(corpus, asked)
    given = source(config, corpus) | {"documents": asked}
    if given == {**trained, "name": name}:
        dataset = data.divided(name, corpus, config.fit.seed, config.data.held_out)
        return Tagging(config, learnt, replace(dataset, train=NONE, valid=NONE))
    told = "name {name}, documents {documents}, held_out {held_out}, seed {seed}".format(**trained)
    if name == trained["name"] and (not begins or given == {**trained, "fingerprint": given["fingerprint"]}):
        raise UserError(f"{name} was changed since this run was trained on it ({told}): evaluate on other --data")
    if begins:
        raise UserError(
            f"{name} has what this run was trained on ({told}): evaluate it without other flags, or on other --data"
        )
    return Tagging(config, learnt, unread(name, corpus, learnt.read, asked))


def unread(name: str, corpus: Corpus, read: np.ndarray | None, asked: int) -> Dataset:
    """What a run may be scored on of other data: the sentences that it has not `read`, if it keeps which it has.

    One that anybody may write, such as `Да .`, is left out with the others. Raises UserError if nothing is left.
    """
    every = np.arange(len(corpus.sentences) - 1)
    new = every if read is None else every[~np.isin(marks(corpus, every), read)]
    if not len(new):
        raise UserError(f"the run was trained on all {len(every):,} sentences of {name}: evaluate on other --data")
    words, left = int(np.diff(corpus.sentences)[new].sum()), len(every) - len(new)
    some = f"of the first {asked:,} documents " if asked else "" if left else "all "
    description = f"{name}, {some}{len(new):,} sentences ({words:,} words)"
    if left:
        description += f"; {left:,} sentences that the run was trained on left out"
    return Dataset(name, corpus, NONE, NONE, new, description)


def describe(task: Tagging, totals: Totals) -> tuple[str, dict[str, Any]]:
    scores, counts = task.scores(totals), totals.sums["confusion"].long().cpu()
    used = [k for k in range(len(task.tags)) if counts[k].sum() + counts[:, k].sum() > 0]
    counts, tags = counts[used][:, used], [task.tags[k] for k in used]
    lines, classes = confusion.per_class(counts, tags, "words")
    lines += ["", f"{'is / read as':<14}" + "".join(f"{tag:>7}" for tag in tags)]
    lines += [
        f"{tag:<14}" + "".join(f"{n or '.':>7}" for n in row) for tag, row in zip(tags, counts.tolist(), strict=True)
    ]
    unseen = f"{scores['unseen_accuracy']:.2%}" if "unseen_accuracy" in scores else "none"
    loss = f"{scores['loss']:.4f}" if "loss" in scores else "none, as training knows none of the tags"
    lines.append(
        f"\naccuracy {scores['accuracy']:.2%}  macro-F1 {scores['macro_f1']:.2%}  "
        f"words unseen in training {unseen}  loss {loss}"
    )
    object = {**scores, "words": int(counts.sum()), "tags": tags, "per_class": classes, "confusion": counts.tolist()}
    return "\n".join(lines), object


def predict(task: Predictor, inputs: list[str], format: str = "text") -> list[str]:
    """Words and tags of texts, text files, CoNLL-U files (their words, as they are cut) and, for "-", of stdin.

    As CoNLL-U a CoNLL-U file keeps all that stands in it but the tags.
    """
    parts = [sentences_of(given) for given in inputs]
    sentences = [sentence for part in parts for sentence in part]
    where = next(task.model.parameters()).device
    found = task.tagged([words for _, words in sentences], best_precision(where))
    lines: list[str] = []
    if format == "conllu":
        at = 0
        for given, part in zip(inputs, parts, strict=True):
            answers = found[at : at + len(part)]
            if is_conllu(given):
                with open(given, "rb") as file:
                    lines += conllu.retagged(file, chain.from_iterable(answers))
            else:
                pairs = [(words, tags) for (_, words), tags in zip(part, answers, strict=True)]
                lines += conllu.write(pairs, [text for text, _ in part], at + 1)
            at += len(part)
        return lines
    for (_, words), tags in zip(sentences, found, strict=True):
        lines += [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)] + [""]
    return lines[:-1]
