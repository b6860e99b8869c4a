"""Random numbers that are a function of what they are for.

The numbers of example `id` follow from `(seed, epoch, id)` alone, by hashing a counter (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), however examples are batched, shared out or interrupted. The hash is the output
function of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, made odd: the step of SplitMix64's counter
MASK = 2**64 - 1


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 [...] -> uint64 [...], a bijection whose outputs look independent."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(*parts: int) -> int:
    """One 64-bit key out of several integers, order included; the seed of whatever those integers name."""
    z = 0
    for part in parts:  # as `mix`, but with Python's integers: for a single number they are ten times faster
        z = (z + int(GOLDEN) + part) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
    return z


def uniform(ids: np.ndarray, k: int, *parts: int) -> Tensor:
    """`k` numbers in [0, 1) for every id: int [B] -> float32 [B, k].

    `parts` (seed, epoch, ...) name the stream. Row i depends on ids[i] and `parts` only, never on the other rows.
    """
    rows = mix(ids.astype(np.uint64) * GOLDEN + np.uint64(key(*parts)))
    bits = mix(rows[:, None] + np.arange(1, k + 1, dtype=np.uint64) * GOLDEN)
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))


def shuffled(n: int, *parts: int) -> np.ndarray:
    """A permutation of 0..n-1, int64 [n]: a function of `parts` (seed, epoch)."""
    return np.random.Generator(np.random.PCG64(key(*parts))).permutation(n)


def dropout_of_rows(x: Tensor, p: float, known: Tensor) -> Tensor:
    """Dropout of packed rows [N, H] in training, of which a batch with known lengths has those in `known` [N] only.

    `etude.stacked` overrides it, as functions of torch are, to draw for these rows what is drawn for known lengths.
    """
    if has_torch_function((x, known)):
        return handle_torch_function(dropout_of_rows, (x, known), x, p, known)
    return F.dropout(x, p)
