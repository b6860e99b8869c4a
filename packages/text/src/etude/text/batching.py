"""Batches of texts: padded as little as possible, and still in random order for training."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from etude import draw

JITTER = 0.03  # how much longer or shorter a text may pass for, as a part of its length


def by_length(lengths: np.ndarray, batch_size: int, *parts: int) -> list[np.ndarray]:
    """Batches of texts of about the same length, in random order: the ids, int64, of each.

    `parts` (seed, epoch) decide everything. Texts are sorted by their length times a random factor of 1 +- JITTER, so
    that others meet in every epoch; the batches, of at most `batch_size` and sizes that differ by one at most, are
    shuffled. Sorting alone would show short texts first and the same batches always.
    """
    batches = np.array_split(roughly_sorted(lengths, *parts), math.ceil(len(lengths) / batch_size))
    return [batches[n] for n in draw.shuffled(len(batches), *parts, len(batches))]


def sorted_by_length(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of texts of about the same length, shortest first: the ids, int64, of each; sizes as in `by_length`."""
    order = np.argsort(lengths, kind="stable")
    return np.array_split(order, math.ceil(len(order) / batch_size)) if len(order) else []


def padded_batches(
    rows: Sequence[Sequence[int] | np.ndarray], batch_size: int, pad_id: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """All rows in batches, shortest first: the numbers of some, then these rows and their lengths, see `pad`."""
    for ids in sorted_by_length(np.array([len(row) for row in rows], np.int64), batch_size):
        yield ids, *pad([rows[id] for id in ids], pad_id)


def of_equal_work(lengths: np.ndarray, batch_size: int, *parts: int) -> list[np.ndarray]:
    """The same with batches of about as many tokens: of long texts there are fewer in one.

    None has more than `batch_size` texts, or more tokens, padding included, than so many texts of mean length (unless
    it is one text).
    """
    order = roughly_sorted(lengths, *parts)
    most = batch_size * lengths.mean()
    batches, start, longest = [], 0, 0
    for end, length in enumerate(lengths[order].tolist()):
        longest = max(longest, length)
        if end - start == batch_size or (end > start and longest * (end - start + 1) > most):
            batches.append(order[start:end])
            start, longest = end, length
    batches.append(order[start:])
    return [batches[n] for n in draw.shuffled(len(batches), *parts, len(batches))]


def roughly_sorted(lengths: np.ndarray, *parts: int) -> np.ndarray:
    """Texts by their length times a random factor of 1 +- JITTER, int64 [N]."""
    order = draw.shuffled(len(lengths), *parts)  # so that texts of one length, too, meet others
    factor = 1 + JITTER * (2 * draw.uniform(order, 1, *parts)[:, 0].numpy() - 1)
    return order[np.argsort(lengths[order] * factor, kind="stable")]


def pad(rows: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids -> int64 [B, T], T at least 1, filled up with `pad_id` on the right; and their lengths, int64 [B]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = np.concatenate(rows) if len(rows) else np.zeros(0, np.int64)
    return torch.from_numpy(padded(flat, lengths, pad_id)), torch.from_numpy(lengths)


def padded(flat: np.ndarray, lengths: np.ndarray, fill: int = 0) -> np.ndarray:
    """Rows of `lengths` [N], which lie one after another in `flat`, filled up on the right: int64 [N, T], T >= 1."""
    rows = np.full((len(lengths), lengths.max(initial=1)), fill, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    return rows


def pieces(text: Sequence[int] | np.ndarray, longest: int, boundary: int = 0) -> list[np.ndarray]:
    """What a language model reads and predicts of a text: in each piece all but the last id is read, all but the first
    predicted; int64 [at most longest + 1] each.

    Before and behind the text stands the token `boundary`. A piece begins with the id that the one before it ends with,
    so that every token, and the end of the text, is predicted once.
    """
    row = np.concatenate([[boundary], np.asarray(text, np.int64), [boundary]])
    return [row[start : start + longest + 1] for start in range(0, len(row) - 1, longest)]
