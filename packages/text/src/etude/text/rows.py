"""Many rows of ids in little memory."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Rows(Sequence[list[int]]):
    """Rows of ids, each of any length, which lie one after another in one array: 4 bytes an id instead of some 36."""

    def __init__(self, blocks: Iterable[Sequence[Sequence[int]]]) -> None:
        """The rows of all blocks, of which one at a time has to exist."""
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for block in blocks:
            lengths.append(np.fromiter(map(len, block), np.int64, count=len(block)))
            ids = (id for row in block for id in row)
            flat.append(np.fromiter(ids, np.int32, count=int(lengths[-1].sum())))
        self.flat, self.lengths = np.concatenate(flat), np.concatenate(lengths)
        self.ends = self.lengths.cumsum()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, n: int) -> list[int]: ...
    @overload
    def __getitem__(self, n: slice) -> list[list[int]]: ...
    def __getitem__(self, n: int | slice) -> list[int] | list[list[int]]:
        if isinstance(n, slice):
            return [self[k] for k in range(*n.indices(len(self)))]
        end = self.ends[n]
        return self.flat[end - self.lengths[n] : end].tolist()
