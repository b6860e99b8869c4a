"""The language model against slow, obvious versions of it, and the trigrams it is measured by."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etude.layers import loss
from etude.layers.beside import learn_beside, rows
from etude.layers.language import BOUNDARY, Encoder, LanguageModel, flipped, perplexity
from etude.layers.loss import chances, linear_cross_entropy, sampled_cross_entropy, surprisals
from etude.text.batching import pad, pieces
from etude.text.kneser_ney import KneserNey


def texts_of(count=60, vocabulary=12, seed=0):
    draws = np.random.default_rng(seed)
    return [1 + draws.geometric(0.3, draws.integers(0, 9)).clip(max=vocabulary - 2) for _ in range(count)]


def batch_of(texts, longest=100):
    rows = [piece for text in texts for piece in pieces(text, longest)]
    ids, lengths = pad(rows, BOUNDARY)
    return ids, lengths - 1


def model_of(vocabulary=12, **dropout):
    torch.manual_seed(0)
    return LanguageModel(vocabulary, 8, 16, 2, **dropout)


def gradient_of(tensor):
    assert tensor.grad is not None
    return tensor.grad


# -- the loss


@pytest.mark.parametrize("together", [40, 10**6])
def test_the_loss_is_that_of_torch_and_so_are_its_gradients(together, monkeypatch):
    monkeypatch.setattr(loss, "TOGETHER", together)
    torch.manual_seed(0)
    given = [torch.randn(n, dtype=torch.float64) for n in ((50, 6), (20, 6), (20,))]
    targets = torch.randint(0, 20, (50,))
    found = []
    for own in (True, False):
        x, weight, bias = (tensor.clone().requires_grad_() for tensor in given)
        if own:
            total = linear_cross_entropy(x, weight, bias, targets)
        else:
            total = F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")
        (total / 7).backward()
        found.append([total.detach(), x.grad, weight.grad, bias.grad])
    torch.testing.assert_close(*found)
    torch.testing.assert_close(surprisals(given[0], given[1], given[2], targets).sum(), found[1][0])


def test_in_bf16_the_loss_is_near_and_the_gradients_are_of_the_weights_own_type():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(n, requires_grad=True) for n in ((40, 32), (300, 32), (300,)))
    targets = torch.randint(0, 300, (40,))
    exact = linear_cross_entropy(x, weight, bias, targets)
    exact.backward()
    gradients = [gradient_of(tensor).clone() for tensor in (x, weight, bias)]
    for tensor in (x, weight, bias):
        tensor.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(x, weight, bias, targets)
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0)
    for tensor, gradient in zip((x, weight, bias), gradients, strict=True):
        assert gradient_of(tensor).dtype == torch.float32
        assert (gradient_of(tensor) - gradient).norm() < 0.02 * gradient.norm()


# -- the model


def test_chances_are_as_frequencies_as_far_as_1_and_add_up():
    counts = torch.tensor([1000, 1, 500, 20, 20, 9, 1])
    found = chances(counts, 4)
    assert found.sum().item() == pytest.approx(4) and found.max() == 1
    free = found < 1
    assert found[0] == found[2] == 1 and free.sum() == 5
    torch.testing.assert_close(found[free] / counts[free], (found[free] / counts[free])[:1].expand(5))
    assert (chances(counts, 7) == 1).all() and (chances(counts, 100) == 1).all()


def test_the_sampled_loss_with_all_chances_at_1_is_the_loss():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(n, dtype=torch.float64) for n in ((50, 6), (20, 6), (20,)))
    targets = torch.randint(0, 20, (50,))
    found = sampled_cross_entropy(x, weight, bias, targets, torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(found, linear_cross_entropy(x, weight, bias, targets))


def test_the_sampled_sum_of_softmax_is_right_on_the_average_and_its_gradient_reaches_what_was_drawn():
    """Of one row the estimated loss is log Z - s, where Z has no bias: exp(loss) has the exact mean."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 6).double(), torch.randn(20, 6).double(), torch.randn(20).double()
    targets, chance = torch.tensor([3]), torch.linspace(0.2, 1, 20).double()
    draws = torch.stack([sampled_cross_entropy(x, weight, bias, targets, chance).exp() for _ in range(4000)])
    exact = linear_cross_entropy(x, weight, bias, targets).exp()
    assert abs(draws.mean() - exact) < 4 * draws.std() / 4000**0.5 and draws.std() > 0.01 * exact
    weight.requires_grad_()
    sampled_cross_entropy(x, weight, bias, targets, chance.clamp(max=0.5)).backward()
    reached = gradient_of(weight).abs().sum(1) > 0
    assert reached[3] and 0 < reached.sum() < 20


def test_what_a_row_adds_to_the_sampled_loss_depends_on_no_other():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(9, 6), torch.randn(20, 6, requires_grad=True), torch.randn(20)
    targets, chance = torch.randint(0, 20, (9,)), torch.linspace(0.2, 1, 20)
    found = []
    for parts in ([slice(0, 9)], [slice(0, 4), slice(4, 5), slice(5, 9)]):
        total = torch.zeros(())
        for part in parts:
            torch.manual_seed(1)  # the same sample
            total = total + sampled_cross_entropy(x[part], weight, bias, targets[part], chance)
        found.append([total.detach(), *torch.autograd.grad(total, weight)])
    torch.testing.assert_close(*found)
    torch.manual_seed(1)
    drawn = torch.rand(20) < chance
    logits = F.linear(x, weight, bias).detach()
    expected = torch.zeros(())
    for row, target in zip(logits, targets.tolist(), strict=True):
        others = [row[k].exp() / chance[k] for k in range(20) if drawn[k] and k != target]
        expected = expected + (row[target].exp() + sum(others)).log() - row[target]
    torch.testing.assert_close(found[0][0], expected)


def test_every_token_and_every_end_is_predicted_once():
    text = np.arange(1, 8)
    for longest in (1, 3, 7, 8, 20):
        rows = pieces(text, longest)
        assert max(map(len, rows)) <= longest + 1
        assert np.concatenate([row[1:] for row in rows]).tolist() == [*text, BOUNDARY]
        assert np.concatenate([row[:-1] for row in rows]).tolist() == [BOUNDARY, *text]
    assert [row.tolist() for row in pieces([], 5)] == [[BOUNDARY, BOUNDARY]]


def test_the_model_is_torchs_lstms_with_tied_weights_token_by_token():
    model = model_of().eval()
    layers = []
    for ours in model.encoder.layers:
        layers.append(torchs := nn.LSTM(ours.input_size, ours.hidden_size, batch_first=True))
        torchs.load_state_dict(ours.state_dict())
    texts, total = texts_of(10), torch.zeros(())
    for text in texts:
        row = torch.tensor([BOUNDARY, *text.tolist(), BOUNDARY])
        x = model.encoder.embedding(row[None, :-1])
        for layer in layers:
            x, _ = layer(x)
        total = total + F.cross_entropy(
            (x @ model.encoder.embedding.weight.T + model.bias)[0], row[1:], reduction="sum"
        )
    ids, lengths = batch_of(texts)
    torch.testing.assert_close(model(ids, lengths), total)
    torch.testing.assert_close(model.surprisals(ids, lengths).sum(), total)
    assert lengths.sum() == sum(len(text) + 1 for text in texts)


def test_what_the_model_says_does_not_depend_on_the_company_or_on_padding():
    model = model_of().eval()
    texts = texts_of(8)
    together = model(*batch_of(texts))
    torch.testing.assert_close(together, sum(model(*batch_of([text])) for text in texts))


def test_a_row_is_turned_round_within_its_length():
    ids = torch.tensor([[1, 2, 3, 9], [4, 9, 9, 9], [5, 6, 7, 8]])
    assert flipped(ids, torch.tensor([3, 1, 4])).tolist() == [[3, 2, 1, 9], [4, 9, 9, 9], [8, 7, 6, 5]]
    x = torch.randn(3, 4, 2)
    torch.testing.assert_close(flipped(flipped(x, torch.tensor([3, 1, 4])), torch.tensor([3, 1, 4])), x)


def test_both_ways_are_two_models_of_one_table():
    torch.manual_seed(0)
    both = LanguageModel(12, 8, 16, 2, bidirectional=True).eval()
    ways = [LanguageModel(12, 8, 16, 2).eval() for _ in range(2)]
    for way, layers in zip(ways, (both.encoder.layers, both.encoder.reverse), strict=True):
        way.encoder.embedding, way.encoder.layers, way.bias = both.encoder.embedding, layers, both.bias
    texts = texts_of(10)
    batch, turned = batch_of(texts), batch_of([text[::-1] for text in texts])
    torch.testing.assert_close(both(*batch), ways[0](*batch))
    torch.testing.assert_close(both(*batch, reverse=True), ways[1](*turned))
    ids, lengths = pad([text for text in texts if len(text)], BOUNDARY)
    read = both.encoder.read(ids, lengths)
    assert read.shape == (*ids.shape, 16)
    for row, text in zip(read, (text for text in texts if len(text)), strict=True):
        forward, _ = ways[0].encoder(torch.tensor([[BOUNDARY, *text.tolist()]]))
        backward, _ = ways[1].encoder(torch.tensor([[BOUNDARY, *text[::-1].tolist()]]))
        expected = torch.cat([forward[0, 1:], backward[0, 1:].flip(0)], 1)
        torch.testing.assert_close(row[: len(text)], expected)
    (both(*batch) + both(*batch, reverse=True)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in both.parameters())


def test_only_training_samples():
    model = model_of()
    batch = batch_of(texts_of(30))
    exact = model(*batch).detach()
    model.sample(torch.arange(12), 6)
    losses = {float(model(*batch).detach()) for _ in range(5)}
    assert len(losses) > 1 and float(exact) not in losses
    torch.testing.assert_close(model.eval()(*batch).detach(), exact)
    assert "chance" not in model.state_dict()


def test_the_states_can_be_handed_on():
    model = model_of().eval().encoder
    ids = torch.randint(1, 12, (3, 9))
    whole, _ = model(ids)
    first, states = model(ids[:, :4])
    second, _ = model(ids[:, 4:], None, states)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_locked_dropout_is_the_same_at_every_step_and_word_dropout_for_every_occurrence():
    torch.manual_seed(0)
    encoder = Encoder(12, 8, 16, 1, dropout=0.5).train()
    with torch.no_grad():
        encoder.embedding.weight.fill_(1)
        x = encoder.dropout(encoder.embedded(torch.ones(20, 7, dtype=torch.long)))
    assert set(x.unique().tolist()) == {0.0, 2.0} and (x == x[:, :1]).all()
    encoder.word_dropout = 0.5
    with torch.no_grad():
        x = encoder.embedded(torch.arange(12).repeat(5, 2))
    assert set(x.unique().tolist()) == {0.0, 2.0} and (x == x[:1, :12].repeat(5, 2, 1)).all()
    assert (encoder.eval()(torch.arange(12)[None])[0] == encoder(torch.arange(12)[None])[0]).all()


def test_weight_drop_drops_weights_of_the_recurrence_alone_and_only_in_training():
    model = model_of(weight_dropout=0.5)
    _, whole, _ = model.eval().encoder.layers[0].weights(0)
    of_x, dropped, _ = model.train().encoder.layers[0].weights(0)
    assert 0.3 < (dropped == 0).double().mean() < 0.7
    assert ((dropped == 0) | torch.isclose(dropped, 2 * whole)).all()
    torch.testing.assert_close(of_x[0], model.encoder.layers[0].weight_ih_l0)


def test_every_weight_takes_part():
    model = model_of()
    model(*batch_of(texts_of(10))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("free", [0, 1, 2, 3])
def test_a_gradient_reaches_the_upper_parts_only(free):
    encoder = model_of().encoder
    outputs, _ = encoder(torch.randint(1, 12, (3, 9)), free=free)
    assert outputs.requires_grad == bool(free)
    if free:
        outputs.sum().backward()
    learns = [all(p.grad is not None for one in part for p in one.parameters()) for part in encoder.parts()]
    assert learns == [False] * (3 - free) + [True] * free
    torch.testing.assert_close(
        encoder(torch.ones(1, 4, dtype=torch.long), free=free)[0].detach(),
        encoder(torch.ones(1, 4, dtype=torch.long))[0].detach(),
    )


def test_a_language_is_learnt_and_written():
    """Texts 1 2 3 ... of random length: what comes next is known but for the end."""
    texts = [np.arange(1, 2 + n % 9) for n in range(64)]
    torch.manual_seed(0)
    model = LanguageModel(12, 16, 32, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    ids, lengths = batch_of(texts)
    for _ in range(150):
        optimizer.zero_grad()
        (model(ids, lengths) / lengths.sum()).backward()
        optimizer.step()
    assert perplexity(float(model(ids, lengths).detach() / lengths.sum())) < 1.7  # the entropy of the length: 1.45
    rows = model.eval().written(20, 12, torch.rand(20, 12, generator=torch.Generator().manual_seed(0)), (10, 11))
    followed = [b == a + 1 for row in rows for a, b in zip([0, *row], row, strict=False)]
    assert np.mean(followed) > 0.9 and len({len(row) for row in rows}) > 2


def test_perplexity_is_the_exponential_of_nats():
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf


# -- weights that are learnt beside given ones


def test_vectors_that_are_looked_up_where_nothing_learns_are_those_of_the_table():
    table, ids = nn.Embedding(50, 8), torch.tensor([[3, 0, 49], [3, 3, 7]])
    plain = table(ids)
    assert torch.equal(rows(table, ids), plain)
    learn_beside(table, 0.3)
    with torch.no_grad():
        assert torch.equal(rows(table, ids), plain)
        table.parametrizations.weight.original.normal_()
        moved = table(ids)
        assert torch.equal(rows(table, ids), moved) and not torch.allclose(moved, plain)
    rows(table, ids).sum().backward()
    assert table.parametrizations.weight.original.grad[3].allclose(torch.tensor(0.9))


def test_what_is_learnt_beside_moves_at_its_own_rate():
    """Against torch's parameter groups; no weight decay, which draws to another place."""
    torch.manual_seed(0)
    one, x = nn.Linear(5, 3), torch.randn(4, 5)
    two = nn.Linear(5, 3)
    two.load_state_dict(one.state_dict())
    start = one(x).detach()
    learn_beside(one, 0.1)
    assert torch.equal(one(x), start)
    ours = torch.optim.AdamW(one.parameters(), lr=0.01, weight_decay=0)
    theirs = torch.optim.AdamW(two.parameters(), lr=0.001, weight_decay=0)
    for _ in range(20):
        for module, optimizer in ((one, ours), (two, theirs)):
            optimizer.zero_grad()
            (module(x) - 1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(one(x), two(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one(x), start, atol=1e-3)


def test_weight_decay_draws_to_what_was_given():
    torch.manual_seed(0)
    one = nn.Linear(5, 3)
    given = one.weight.detach().clone()
    learn_beside(one, 1.0)
    with torch.no_grad():
        dict(one.named_parameters())["parametrizations.weight.original"].fill_(1.0)
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.5, weight_decay=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        (0 * one.weight.sum() + 0 * one.bias.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(one.weight.detach(), given)


# -- Kneser-Ney


def slowly(texts, vocabulary, discounts):
    """p(w | u, v) from dictionaries, as the formula of Chen & Goodman (1999) says it; discounts by length of n-gram."""
    counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(4)]
    for text in texts:
        row = [0, 0, *text, 0]
        counts[3].update(zip(row, row[1:], row[2:], strict=False))
    for order in (2, 1):
        counts[order].update(ngram[1:] for ngram in counts[order + 1])
    followers: list[dict[tuple[int, ...], list[int]]] = [defaultdict(list) for _ in range(4)]
    for order in (1, 2, 3):
        for ngram, count in counts[order].items():
            followers[order][ngram[:-1]].append(count)

    def p(ngram):
        order = len(ngram)
        if order == 0:
            return 1 / vocabulary
        seen = followers[order].get(ngram[:-1], [])
        if not seen:
            return p(ngram[1:])
        d = (0, *discounts[3 - order])
        count = counts[order][ngram]
        kept = max(count - d[min(count, 3)], 0) / sum(seen)
        return kept + sum(min(d[min(c, 3)], c) for c in seen) / sum(seen) * p(ngram[1:])

    return p


DISCOUNTS = [(0.5, 0.9, 1.3), (0.6, 1.0, 1.4), (0.4, 0.7, 1.1)]


def test_kneser_ney_is_its_formula():
    training, test = texts_of(), texts_of(20, seed=1)
    model = KneserNey(training, 12, DISCOUNTS)
    p = slowly(training, 12, DISCOUNTS)
    expected = [
        -math.log(p((u, v, w))) for text in test for u, v, w in zip([0, 0, *text], [0, *text], [*text, 0], strict=False)
    ]
    np.testing.assert_allclose(model.surprisals(test), expected, rtol=1e-12)
    assert len(expected) == sum(len(text) + 1 for text in test)


def test_kneser_ney_is_that_of_nltk_where_conventions_agree():
    """One discount, and at the bottom none: nltk does not go down to the uniform distribution."""
    from nltk.lm import KneserNeyInterpolated, Vocabulary

    training = texts_of()
    rows = [["0", "0", *map(str, text), "0"] for text in training]
    trigrams = [list(zip(row, row[1:], row[2:], strict=False)) for row in rows]
    grams = [[*row, *(gram[1:] for gram in row), *(gram[2:] for gram in row)] for row in trigrams]
    theirs = KneserNeyInterpolated(3, discount=0.7, vocabulary=Vocabulary(map(str, range(12))))
    theirs.fit(grams)
    ours = KneserNey(training, 12, [(0.7,) * 3, (0.7,) * 3, (0.0,) * 3])
    seen = {word for row in rows for word in row}
    test = [text for text in texts_of(20, seed=1) if set(map(str, text)) <= seen]
    expected = [
        -math.log(theirs.score(str(w), [str(u), str(v)]))
        for text in test
        for u, v, w in zip([0, 0, *text], [0, *text], [*text, 0], strict=False)
    ]
    np.testing.assert_allclose(ours.surprisals(test), expected, rtol=1e-9)


@pytest.mark.parametrize("training", [texts_of(), texts_of(2), [], [np.array([3])]])
def test_the_probabilities_of_all_tokens_add_up_to_1(training):
    model = KneserNey(training, 12)
    for context in ([], [3], [3, 5], [7, 7, 7]):
        total = 0.0
        for word in range(12):
            row = np.array([*context, word])
            p = np.exp(-model.surprisals([row[row > 0]]))  # of the end, where the word is 0
            total += p[len(context)]
        assert total == pytest.approx(1)


def test_the_discounts_are_those_of_chen_and_goodman():
    """n1 = 6, n2 = 3, n3 = 2, n4 = 1: Y = 1/2; 1 - 2 Y 3/6, 2 - 3 Y 2/3, 3 - 4 Y 1/2."""
    from etude.text.kneser_ney import estimated

    assert estimated(np.array([1] * 6 + [2] * 3 + [3] * 2 + [4])) == pytest.approx((0.5, 1.0, 2.0))
    assert estimated(np.array([1, 1])) == pytest.approx((0.5, 1.0, 1.5))


def test_a_vocabulary_that_three_ids_of_do_not_fit_into_a_key_is_refused():
    with pytest.raises(ValueError, match="too large"):
        KneserNey([], 2**21)
