import numpy as np
import torch

from etude.fingerprint import fingerprint
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


def test_a_fingerprint_is_known_and_of_all_that_is_in_a_content():
    assert fingerprint(["мама", "", "\ud800"], np.arange(3)) == "25a5df87532caa8b"
    assert fingerprint(torch.arange(3)) == fingerprint(np.arange(3)) == fingerprint(np.arange(3).astype(">i8"))
    assert fingerprint(iter(["a"])) == fingerprint(["a"])
    alike = [
        *(["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""], []),
        *(np.arange(6), np.arange(6)[::-1], np.arange(6).reshape(2, 3), np.arange(6, dtype=np.int32), np.arange(0)),
    ]
    found = [fingerprint(content) for content in alike]
    found += [fingerprint(["ab"], ["c"]), fingerprint(["a"], ["bc"]), fingerprint(["ab", "c"], []), fingerprint()]
    assert len({*found}) == len(found)


def test_a_large_array_and_many_texts_are_hashed_in_pieces():
    large = np.arange(2**23 + 5, dtype=np.uint8)
    assert fingerprint(large) == fingerprint(np.asfortranarray(large[None])[0])
    changed = large.copy()
    changed[-1] += 1
    assert fingerprint(large) != fingerprint(changed)
    texts = [str(n) for n in range(25_000)]
    assert fingerprint(texts) == fingerprint(iter(texts)) != fingerprint([*texts[:-1], "0"])
