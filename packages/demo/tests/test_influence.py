import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etude.demo.influence import influence, log_odds
from etude.layers.recurrent import LSTM

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def test_of_a_linear_network_the_influences_are_all_of_the_answer():
    """Over two tables, one of which is not learnt; and what is looked up for other ids does not count."""
    torch.manual_seed(0)
    learnt, given, weight = nn.Embedding(6, 3), torch.randn(6, 3), torch.randn(3)

    def ask():
        other = F.embedding(torch.tensor([0, 1]), given).sum()
        return ((learnt(IDS) + F.embedding(IDS, given)) @ weight).sum() + 0 * other

    found = influence(ask, IDS)
    assert sum(found) == pytest.approx(ask().item(), rel=1e-5)
    assert found[1] == found[3]
    assert F.embedding(IDS, given).equal(given[IDS])  # as it was, and nothing is kept
    assert not F.embedding(IDS, given).requires_grad
    assert not given.requires_grad


def test_of_an_lstm_they_are_gradient_times_input():
    torch.manual_seed(0)
    table, lstm, head = nn.Embedding(6, 4), LSTM(4, 5, bidirectional=True), nn.Linear(10, 3)

    def of(x):
        return log_odds(head(lstm(x)[0].amax(1))[0], 2)

    found = influence(lambda: of(table(IDS)), IDS)
    x = table(IDS).detach().requires_grad_()
    of(x).backward()
    assert found == pytest.approx((x.grad * x).sum(2)[0].tolist())


def test_a_failure_leaves_look_ups_as_they_were():
    before = F.embedding

    def ask():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        influence(ask, IDS)
    assert F.embedding is before
    assert not F.embedding(IDS, torch.randn(6, 3)).requires_grad
