import numpy as np
import torch

from etude.text.batching import by_length, of_equal_work, pad, padded_batches, sorted_by_length
from etude.train.step import even_batches


def review_lengths():
    return np.random.default_rng(0).gamma(4, 40, 5000).astype(np.int64) + 1


def padded(lengths, batches):
    return 1 - lengths.sum() / sum(len(ids) * lengths[ids].max() for ids in batches)


def test_every_text_is_in_one_batch_and_little_is_padding():
    lengths = review_lengths()
    batches = by_length(lengths, 64, 0, 1)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(5000))
    sizes = {len(ids) for ids in batches}
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1
    assert padded(lengths, batches) <= 0.05


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = review_lengths()
    once, again, later, other = (by_length(lengths, 64, *parts) for parts in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    for batches in (later, other):
        assert not any(np.array_equal(a, b) for a, b in zip(once, batches, strict=True))


def test_short_and_long_texts_come_mixed_and_meet_others_in_every_epoch():
    lengths = review_lengths()
    first, second = by_length(lengths, 64, 0, 1), by_length(lengths, 64, 0, 2)
    means = [lengths[ids].mean() for ids in first]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    company = {int(id): set(ids.tolist()) for ids in second for id in ids}
    kept = [len(company[int(id)] & set(ids.tolist())) - 1 for ids in first for id in ids]
    assert np.mean(kept) < 63 / 2  # less than half of a batch meets again


def test_batches_of_equal_work():
    """None has more tokens than the batch size times the mean length, padding included, nor more texts than allowed."""
    lengths = review_lengths()
    batches = of_equal_work(lengths, 64, 0, 1)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(5000))
    assert max(len(ids) for ids in batches) == 64
    work = np.array([len(ids) * lengths[ids].max() for ids in batches])
    assert work.max() <= 64 * lengths.mean()
    of_count = np.array([len(ids) * lengths[ids].max() for ids in by_length(lengths, 64, 0, 1)])
    assert work.std() / work.mean() < 0.7 * of_count.std() / of_count.mean()
    assert padded(lengths, batches) <= 0.05
    again, later = of_equal_work(lengths, 64, 0, 1), of_equal_work(lengths, 64, 0, 2)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not np.array_equal(batches[0], later[0])
    assert [len(ids) for ids in of_equal_work(np.array([1000, 1, 1]), 2, 0)].count(1) >= 1  # a long one goes alone


def test_texts_of_one_length_are_simply_shuffled():
    batches = by_length(np.full(100, 7), 30, 5)
    assert [len(ids) for ids in batches] == [25] * 4
    assert not np.array_equal(np.concatenate(batches), np.arange(100))


def test_pad():
    ids, lengths = pad([[5, 6, 7], [], np.array([8])], 9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert lengths.tolist() == [3, 0, 1]
    assert ids.dtype == lengths.dtype == torch.int64
    assert pad([[]], 9)[0].tolist() == [[9]]


def test_batches_to_be_scored_go_by_length_in_a_fixed_order():
    lengths = review_lengths()
    batches = sorted_by_length(lengths, 64)
    expected = even_batches(np.argsort(lengths, kind="stable"), 64)
    assert all(np.array_equal(a, b) for a, b in zip(batches, expected, strict=True))
    assert sorted_by_length(np.zeros(0, np.int64), 64) == []


def test_padded_batches_have_every_row_once():
    rows = [[1, 2, 3], [], [4], [5, 6]]
    found = {}
    for numbers, ids, lengths in padded_batches(rows, 2, 9):
        assert ids.shape[1] == max(1, int(lengths.max()))
        for number, row, length in zip(numbers, ids.tolist(), lengths.tolist(), strict=True):
            assert set(row[length:]) <= {9}
            found[int(number)] = row[:length]
    assert found == dict(enumerate(rows))
    assert list(padded_batches([], 2, 9)) == []
