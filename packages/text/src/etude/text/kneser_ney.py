"""Trigrams with modified, interpolated Kneser-Ney smoothing (Chen & Goodman 1999), which a network is held against.

The unit is a token, the end of a text counted. Each text is read as two tokens 0, its tokens, and one token 0, which is
predicted; what is never predicted, such as those in front, is counted nowhere.
"""

from collections.abc import Sequence

import numpy as np

Discounts = tuple[float, float, float]  # of what was seen once, twice, more often
ORDER = 3


class KneserNey:
    """p(w | u, v) = max(c - D(c), 0) / sum c + (sum D(c) / sum c) p(w | v), and so down to the uniform distribution.

    c is how often u, v, w stand in training; for shorter n-grams the number of different tokens that stand before them.
    D(c) depends on c only as far as 3. By default the discounts are estimated as in Chen & Goodman, equation (17).
    """

    def __init__(
        self, texts: Sequence[np.ndarray], vocabulary: int, discounts: Sequence[Discounts] | None = None
    ) -> None:
        """`texts`: ids, int64 [T] each, from 1 to `vocabulary` - 1; `discounts`: of trigrams, pairs and tokens."""
        if vocabulary >= 2**21:
            raise ValueError(f"a vocabulary of {vocabulary:,} is too large: three ids have to fit into 63 bits")
        self.vocabulary = vocabulary
        keys = self.keys(self.contexts(texts))
        counts = [np.ones(len(keys), np.int64)]
        self.levels: list[tuple[np.ndarray, ...]] = []
        for order in range(ORDER, 0, -1):
            ngrams, counts = summed(keys, counts)
            given = None if discounts is None else discounts[ORDER - order]
            self.levels.append(level(ngrams, counts[0], vocabulary, given))
            # Of a shorter one the tokens before it are counted, each once: the first id is cut off.
            keys, counts = ngrams % vocabulary ** (order - 1), [np.ones(len(ngrams), np.int64)]

    def contexts(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Every predicted token, behind the two before it: int64 [N, 3]."""
        found = [np.zeros((0, ORDER), np.int64)]
        for text in texts:
            row = np.concatenate([[0, 0], text, [0]])
            found.append(np.lib.stride_tricks.sliding_window_view(row, ORDER))
        return np.concatenate(found)

    def keys(self, ngrams: np.ndarray) -> np.ndarray:
        """One number for each n-gram: int64 [N, 3] -> [N]."""
        return ngrams @ (self.vocabulary ** np.arange(ORDER - 1, -1, -1, dtype=np.int64))

    def surprisals(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """-log p of every token, in nats, of all texts one after another, each with its end: float64 [N]."""
        keys = self.keys(self.contexts(texts))
        p = np.full(len(keys), 1 / self.vocabulary)
        for order, (ngrams, seen, starts, left) in enumerate(reversed(self.levels), 1):
            some = keys % self.vocabulary**order
            p = look_up(ngrams, seen, some, 0.0) + look_up(starts, left, some // self.vocabulary, 1.0) * p
        return -np.log(p)


def summed(keys: np.ndarray, counts: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The different keys, sorted, and the sums of their counts."""
    different, places = np.unique(keys, return_inverse=True)
    return different, [np.bincount(places, count, len(different)).astype(np.int64) for count in counts]


def level(ngrams: np.ndarray, counts: np.ndarray, vocabulary: int, given: Discounts | None) -> tuple[np.ndarray, ...]:
    """Of n-grams of one length: these, sorted, and max(c - D, 0) / sum c; their contexts, and sum D / sum c."""
    taken = np.minimum(np.array((0.0, *(given or estimated(counts))))[np.minimum(counts, 3)], counts)
    starts, places = np.unique(ngrams // vocabulary, return_inverse=True)
    totals = np.bincount(places, counts, len(starts))
    return ngrams, (counts - taken) / totals[places], starts, np.bincount(places, taken, len(starts)) / totals


def estimated(counts: np.ndarray) -> Discounts:
    """D(1), D(2), D(3): k - (k + 1) Y n(k + 1) / n(k), Y = n1 / (n1 + 2 n2), n(k) of the n-grams seen k times.

    In a text so small that one of these numbers is 0, or a discount would not lie in (0, k], it is k / 2.
    """
    n = [float((counts == k).sum()) for k in range(5)]
    y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.0
    found = [k - (k + 1) * y * n[k + 1] / n[k] if n[k] * n[k + 1] else -1.0 for k in (1, 2, 3)]
    one, two, three = (d if 0 < d <= k else k / 2 for k, d in enumerate(found, 1))
    return one, two, three


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, otherwise: float) -> np.ndarray:
    """The values of keys, which are sorted; `otherwise` where there is no such key."""
    if not len(keys):
        return np.full(len(wanted), otherwise)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], otherwise)
