"""Sentences of a corpus, cut where they are too long, and put together as batches for the model."""

from dataclasses import dataclass

import numpy as np
import torch

from etude.text.batching import padded
from lstm_pos.data import Corpus
from lstm_pos.forms import Forms, ranges
from lstm_pos.model import Batch

BLOCK = 100_000  # sentences that are looked at together, where all would need too much memory


@dataclass(frozen=True)
class Part:
    """N sentences, or pieces of long ones, as ranges of a corpus's tokens."""

    starts: np.ndarray  # int64 [N]
    ends: np.ndarray  # int64 [N]
    lengths: np.ndarray  # int64 [N], in pieces


def batch(forms: Forms, words: np.ndarray, lengths: np.ndarray, label: str, dropped: np.ndarray | None = None) -> Batch:
    """Sentences of `lengths` words each, int64 [B], whose forms lie one after another in `words`, int [W].

    Where `dropped`, bool [W], a word passes for an unknown one (it has one piece then). Truths are left empty.
    """
    counts = forms.piece_starts[words + 1] - forms.piece_starts[words]
    pieces = forms.pieces[ranges(forms.piece_starts[words], counts)]
    if dropped is not None:
        pieces = np.where(dropped, forms.classes[words], pieces)
    ends = np.cumsum(counts)
    rows = np.diff(np.concatenate([[0], ends[np.cumsum(lengths) - 1]]))
    used, numbers = np.unique(words, return_inverse=True)
    places, owners = np.flatnonzero(np.arange(rows.max()) < rows[:, None]), None
    if label == "all" and len(places) > len(words):
        owners = np.repeat(np.arange(len(words)), counts)
    elif label != "all":
        places = places[ends - counts if label == "first" else ends - 1]
    starts = forms.character_starts
    lettered = starts[used + 1] - starts[used]
    nothing = torch.empty(0)
    tensor = torch.from_numpy
    return Batch(
        pieces=tensor(padded(pieces, rows)),
        lengths=tensor(rows),
        forms=tensor(padded(np.repeat(numbers, counts), rows)),
        shapes=tensor(forms.shapes[used]),
        dictionary=tensor(forms.dictionary[forms.answers[used]]),
        affixes=tensor(forms.affixes[used]),
        characters=tensor(padded(forms.characters[ranges(starts[used], lettered)], lettered)),
        character_lengths=tensor(lettered),
        carriers=tensor(places),
        words=None if owners is None else tensor(owners),
        tags=tensor(np.zeros(len(words), np.int64)),
        unseen=nothing,
        morphology=nothing,
    )


def cut_all(corpus: Corpus, sentences: np.ndarray, counts: np.ndarray, longest: int) -> Part:
    """The sentences of these numbers as `cut` leaves them; the corpus's words have `counts` pieces."""
    found = [
        cut(corpus.word_ids, corpus.sentences[some], corpus.sentences[some + 1], counts, longest)
        for some in np.array_split(sentences, max(1, len(sentences) // BLOCK))
    ]
    return Part(*(np.concatenate([getattr(part, name) for part in found]) for name in ("starts", "ends", "lengths")))


def cut(words: np.ndarray, starts: np.ndarray, ends: np.ndarray, counts: np.ndarray, longest: int) -> Part:
    """Ranges of `words`, in rising order, cut before the word that would make one longer than `longest` pieces."""
    tokens = ranges(starts, ends - starts)  # no others are looked at: between them there may be a whole file
    bounds = np.concatenate([[0], np.cumsum(ends - starts)])
    before = np.concatenate([[0], np.cumsum(counts[words[tokens]])])  # pieces before each of them
    places = []
    for i in np.flatnonzero(np.diff(before[bounds]) > longest):
        at = bounds[i]
        while (at := np.searchsorted(before, before[at] + longest, side="right") - 1) < bounds[i + 1]:
            places.append(at)
    inner = np.array(places, dtype=np.int64)
    return Part(
        np.sort(np.concatenate([starts, tokens[inner]])),
        np.sort(np.concatenate([ends, tokens[inner]])),
        np.diff(before[np.sort(np.concatenate([bounds, inner]))]),
    )


def occurrences(corpus: Corpus, sentences: np.ndarray) -> np.ndarray:
    """How often each form stands in these sentences, int64 [V]."""
    found = np.zeros(len(corpus.words), np.int64)
    for some in np.array_split(sentences, max(1, len(sentences) // BLOCK)):
        starts, ends = corpus.sentences[some], corpus.sentences[some + 1]
        found += np.bincount(corpus.word_ids[ranges(starts, ends - starts)], minlength=len(found))
    return found
