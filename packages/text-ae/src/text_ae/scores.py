"""How well texts were restored, as sums over texts: so that scores of batches, processes and buckets add up.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus are functions of such sums, too. They come from
sacrebleu (Post 2018, "A call for clarity in reporting BLEU scores"), whose own methods for a corpus do the same two
steps, but all at once.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

EDGES = (8, 16, 24)  # the longest texts of each bucket, in tokens; the last bucket has those above
BUCKETS = (*(f"{a + 1}-{b}" for a, b in zip((0, *EDGES), EDGES, strict=False)), f"{EDGES[-1] + 1}-")
OWN = ("texts", "tokens", "hits", "exact")  # columns; then come those of BLEU and of chrF


@cache
def metrics() -> tuple[Any, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(), CHRF()


def hits(row: Sequence[int], said: Sequence[int]) -> int:
    """How many tokens of a text stand at their place in what was said."""
    return sum(a == b for a, b in zip(row, said, strict=False))


def sums(rows: Sequence[Sequence[int]], said: Sequence[Sequence[int]], texts: list[str], restored: list[str]) -> Tensor:
    """Of texts with the ids `rows`, of which `said` was restored: float64 [buckets, columns]."""
    kept = np.zeros((len(rows), len(OWN)))
    kept[:, 0] = 1
    kept[:, 1] = [len(row) for row in rows]
    kept[:, 2] = [hits(row, other) for row, other in zip(rows, said, strict=True)]
    kept[:, 3] = [a == b for a, b in zip(texts, restored, strict=True)]
    columns = [kept, *(np.array(metric._extract_corpus_statistics(restored, [texts])) for metric in metrics())]
    every = np.concatenate(columns, 1)
    found = np.zeros((len(BUCKETS), every.shape[1]))
    np.add.at(found, np.searchsorted(EDGES, kept[:, 1]), every)
    return torch.from_numpy(found)


def scores(totals: Tensor) -> dict[str, float]:
    """Of sums [columns]: token accuracy and exact matches, parts of 1; BLEU and chrF, of 100."""
    numbers = totals.tolist()
    found = dict(zip(OWN, numbers, strict=False))
    bleu, chrf = metrics()
    split = len(numbers) - 3 * (chrf.char_order + chrf.word_order)
    return {
        "accuracy": found["hits"] / found["tokens"],
        "exact": found["exact"] / found["texts"],
        "bleu": bleu._aggregate_and_compute([list(map(int, numbers[len(OWN) : split]))]).score,
        "chrf": chrf._aggregate_and_compute([list(map(int, numbers[split:]))]).score,
    }
