import numpy as np
import pytest

from etude.text.rows import Rows


def test_rows_are_what_went_in():
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 100_000, n).tolist() for n in [0, 3, 1, 0, 7, *rng.integers(0, 30, 50), 0]]
    rows = Rows(given[n : n + 9] for n in range(0, len(given), 9))
    assert len(rows) == len(given) and list(rows) == given
    assert rows[-2] == given[-2] and rows[np.int64(4)] == given[4] and rows[3:40:7] == given[3:40:7]
    assert rows.lengths.tolist() == [len(row) for row in given]
    assert rows.flat.tolist() == [id for row in given for id in row] and rows.flat.itemsize == 4
    for beyond in (len(given), -len(given) - 1):
        with pytest.raises(IndexError):
            rows[beyond]
    assert list(Rows([])) == [] and list(Rows([[], [[]]])) == [[]]
