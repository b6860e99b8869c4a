"""A short name for the content of a part of the data, by which a run knows again what it was trained on."""

import hashlib
from collections.abc import Iterable
from itertools import islice

import numpy as np
from torch import Tensor

TOGETHER = 1 << 22  # numbers that are hashed at once: an array that is mapped into memory may be larger than that
BLOCK = 10_000  # texts that are hashed at once


def fingerprint(*contents: np.ndarray | Tensor | Iterable[str]) -> str:
    """16 hex digits (BLAKE2b, 64 bits) of arrays and texts; the same on every machine.

    Order counts, and so do types, shapes and where a text ends: what is only alike when it is strung together differs.
    """
    found = hashlib.blake2b(digest_size=8)
    for content in contents:
        if isinstance(content, Tensor):
            content = content.detach().cpu().numpy()
        if isinstance(content, np.ndarray):
            little = content.dtype.newbyteorder("<")
            found.update(f"array {little.str} {content.shape}\n".encode())
            for some in np.array_split(content.reshape(-1), max(1, content.size // TOGETHER)):
                found.update(np.ascontiguousarray(some, little).data)
            continue
        texts = (text.encode("utf-8", "surrogatepass") for text in content)
        while encoded := list(islice(texts, BLOCK)):
            lengths = np.fromiter(map(len, encoded), "<i8", len(encoded))
            found.update(f"texts {len(encoded)}\n".encode())
            found.update(lengths.data)
            found.update(b"".join(encoded))
        found.update(b"end\n")
    return found.hexdigest()
