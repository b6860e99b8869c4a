import numpy as np
import torch

from etude import draw

MASK = 2**64 - 1


def splitmix64(z):
    """The published finaliser in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    # first outputs of SplitMix64 with seed 1234567 (Vigna's reference implementation)
    state, found = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        found.append(int(draw.mix(np.array([state], np.uint64))[0]))
        assert found[-1] == splitmix64(state)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_row_depends_on_its_id_only():
    ids = np.arange(1000)
    whole = draw.uniform(ids, 5, 3, 7)
    pick = np.array([999, 0, 17, 17])
    assert torch.equal(draw.uniform(pick, 5, 3, 7), whole[pick])
    assert torch.equal(draw.uniform(ids, 3, 3, 7), whole[:, :3])


def test_streams_differ_and_are_uniform():
    a, b = draw.uniform(np.arange(20_000), 4, 0, 1), draw.uniform(np.arange(20_000), 4, 1, 0)
    assert (a == b).float().mean() < 1e-3
    for numbers in (a, b):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = torch.histc(numbers, 100, 0, 1)
        chi2 = float(((counts - 800) ** 2 / 800).sum())
        assert 50 < chi2 < 160  # 99 degrees of freedom; the numbers are fixed, so this cannot flake
        correlation = np.corrcoef(numbers.T.numpy()) - np.eye(4)
        assert np.abs(correlation).max() < 0.03
        neighbours = np.corrcoef(numbers[:-1, 0].numpy(), numbers[1:, 0].numpy())[0, 1]
        assert abs(neighbours) < 0.03


def test_shuffled_is_a_permutation_named_by_its_parts():
    assert sorted(draw.shuffled(100, 1, 2)) == list(range(100))
    assert (draw.shuffled(100, 1, 2) == draw.shuffled(100, 1, 2)).all()
    assert (draw.shuffled(100, 1, 2) != draw.shuffled(100, 2, 1)).any()
