"""A number for each text, by which a run recognises what it was trained on without keeping it."""

import hashlib
from collections.abc import Iterable

import numpy as np


def fingerprints(texts: Iterable[str]) -> np.ndarray:
    """int64 [N], the same everywhere; two of 10 million texts share one with probability 1e-5 (BLAKE2b, 64 bits)."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)
