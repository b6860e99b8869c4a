import numpy as np

from etude.text.fingerprints import fingerprints


def test_fingerprints_are_known_and_distinct():
    assert fingerprints(["", "hello", "Привет \ud800"]).tolist() == [
        *(-5426141060434712860, 9022087748821825191, 462922663678642244)
    ]
    assert fingerprints([]).shape == (0,)
    texts = [f"text {n}" for n in range(5000)]
    found = fingerprints(iter(texts))
    assert found.dtype == np.int64 and len(set(found.tolist())) == 5000
    assert np.array_equal(fingerprints(texts[::-1]), found[::-1])
