import pytest
import torch
from torch import nn

from etude.demo.influence import influence, log_odds
from etude.layers.recurrent import LSTM

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def test_of_a_linear_network_the_influences_are_all_of_the_answer():
    """Also of vectors that are not learnt, and where nobody asks for gradients."""
    torch.manual_seed(0)
    vectors, weight = torch.randn(6, 3)[IDS], torch.randn(3)
    with torch.no_grad():
        found = influence(lambda shift: ((vectors + shift) @ weight).sum(), vectors)
    assert sum(found) == pytest.approx((vectors @ weight).sum().item(), rel=1e-5)
    assert found[1] == found[3] and not vectors.requires_grad


def test_of_an_lstm_they_are_gradient_times_input():
    """No parameter gets a gradient of it, nor do the vectors."""
    torch.manual_seed(0)
    table, lstm, head = nn.Embedding(6, 4), LSTM(4, 5, bidirectional=True), nn.Linear(10, 3)

    def of(x):
        return log_odds(head(lstm(x)[0].amax(1))[0], 2)

    found = influence(lambda shift: of(table(IDS) + shift), table(IDS))
    assert all(parameter.grad is None for part in (table, lstm, head) for parameter in part.parameters())
    x = table(IDS).detach().requires_grad_()
    of(x).backward()
    assert found == pytest.approx((x.grad * x).sum(2)[0].tolist())
