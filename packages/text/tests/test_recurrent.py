import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from etude.errors import UserError
from etude.layers.recurrent import GRU, LSTM, RNN

KINDS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
LENGTHS = torch.tensor([4, 9, 1, 9, 6])
SIZE, H, B, T = 4, 6, len(LENGTHS), 9

every_kind = pytest.mark.parametrize("kind", KINDS)


def batch(time=T, dtype=torch.float32):
    return torch.randn(B, time, SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def initial(kind, layer, dtype=torch.float32):
    """A state that is not 0, as a tuple."""
    generator = torch.Generator().manual_seed(2)
    shape = (layer.num_layers * (2 if layer.bidirectional else 1), B, H)
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2 if kind == "LSTM" else 1))


def run(layer, x, lengths=None, state=None):
    """One interface for ours and torch's: states are tuples."""
    state = state if state is None or isinstance(layer, LSTM | nn.LSTM) else state[0]
    if not isinstance(layer, nn.RNNBase):
        outputs, end = layer(x, lengths, state)
    elif lengths is None:
        outputs, end = layer(x, state)
    else:
        packed, end = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
        outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    return outputs, end if isinstance(end, tuple) else (end,)


def loss(outputs, end):
    """Weighs every number differently, and alike however long the padding."""
    total = 0
    for part in (outputs, *end):
        a, b, c = (torch.arange(size) for size in part.shape)
        total = total + (part.float() * torch.cos(7 * a[:, None, None] + 3 * b[:, None] + c)).sum()
    return total


def results(layer, x, lengths, state):
    """Everything that a layer gives: outputs, states at the end, and all gradients."""
    x, state = x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in state)
    outputs, end = run(layer, x, lengths, state)
    named = dict(sorted(layer.named_parameters()))
    gradients = torch.autograd.grad(loss(outputs, end), [x, *state, *named.values()])
    return [outputs, *end, *gradients]


def pair(kind, **options):
    """torch's layer, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(SIZE, H, batch_first=True, **options)
    ours = KINDS[kind](SIZE, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def close(got, expected, atol=1e-5):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


@every_kind
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_results_and_gradients_are_those_of_torch(kind, layers, bidirectional, lengths):
    theirs, ours = pair(kind, num_layers=layers, bidirectional=bidirectional)
    state = initial(kind, ours)
    close(results(ours, batch(), lengths, state), results(theirs, batch(), lengths, state))


@every_kind
def test_many_steps_of_many_sequences(kind):
    theirs, ours = pair(kind, bidirectional=True)  # more rows than one part has
    x, lengths = torch.randn(40, 90, SIZE), torch.randint(1, 91, (40,))
    state = (torch.randn(2, 40, H),) * (2 if kind == "LSTM" else 1)
    close(results(ours, x, lengths, state), results(theirs, x, lengths, state), atol=1e-4)
    x = torch.randn(1, 2500, SIZE)
    close([run(ours, x)[0]], [run(theirs, x)[0]])


@every_kind
def test_one_step_and_one_sequence(kind):
    theirs, ours = pair(kind, bidirectional=True, num_layers=2)
    for x in (batch(time=1), batch()[:1], batch(time=1)[:1]):
        state = tuple(part[:, : len(x)].contiguous() for part in initial(kind, ours))
        close(results(ours, x, None, state), results(theirs, x, None, state))


@every_kind
def test_a_batch_without_sequences(kind):
    outputs, end = run(KINDS[kind](SIZE, H), torch.empty(0, T, SIZE))
    assert outputs.shape == (0, T, H)
    assert all(part.shape == (1, 0, H) for part in end)


@every_kind
def test_gradients_are_those_of_finite_differences(kind):
    layer = KINDS[kind](SIZE, 3, num_layers=2, bidirectional=True).double()
    names = [name for name, _ in layer.named_parameters()]
    x = batch(time=3, dtype=torch.float64)[:3]
    state = [torch.randn(4, 3, 3, dtype=torch.float64) for _ in range(2 if kind == "LSTM" else 1)]
    inputs = [x, *state, *layer.parameters()]

    def function(x, *rest):
        state, weights = rest[: len(state_like)], dict(zip(names, rest[len(state_like) :], strict=True))
        outputs, end = functional_call(
            layer, weights, (x, torch.tensor([2, 3, 0]), state if kind == "LSTM" else state[0])
        )
        return outputs, *(end if kind == "LSTM" else [end])

    state_like = state
    assert torch.autograd.gradcheck(function, [t.detach().requires_grad_() for t in inputs], fast_mode=True)


@every_kind
def test_the_state_at_the_end_goes_on(kind):
    layer = KINDS[kind](SIZE, H, num_layers=2)
    whole, end = run(layer, batch())
    first, middle = run(layer, batch()[:, :4])
    second, last = run(layer, batch()[:, 4:], state=middle)
    close([torch.cat([first, second], 1), *last], [whole, *end])


@every_kind
def test_padding_changes_nothing(kind):
    layer = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    state = initial(kind, layer)
    padded = torch.full((B, T + 5, SIZE), float("nan"))
    for n, length in enumerate(LENGTHS):
        padded[n, :length] = batch()[n, :length]
    outputs, *rest = results(layer, batch(), LENGTHS, state)
    longer, *rest_of_longer = results(layer, padded, LENGTHS, state)
    for n, length in enumerate(LENGTHS):
        assert not outputs[n, length:].any()
        assert not longer[n, length:].any()
        assert not rest_of_longer[len(state)][n, length:].any()  # the gradient of x
    rest_of_longer[len(state)] = rest_of_longer[len(state)][:, :T]
    close([longer[:, :T], *rest_of_longer], [outputs, *rest])


@every_kind
def test_a_sequence_alone_is_as_in_a_batch(kind):
    layer = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    outputs, end = run(layer, batch(), LENGTHS)
    for n, length in enumerate(LENGTHS):
        alone, end_alone = run(layer, batch()[n : n + 1, :length])
        close([outputs[n, :length], *(part[:, n] for part in end)], [alone[0], *(part[:, 0] for part in end_alone)])


@every_kind
@pytest.mark.parametrize("lengths", [[0, 3, 0, 9, 1], [0, 0, 0, 0, 0]])
def test_an_empty_sequence_gives_0_and_leaves_its_state(kind, lengths):
    layer = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    lengths = torch.tensor(lengths)
    x = batch()
    x[lengths == 0] = float("nan")
    outputs, *rest = results(layer, x, lengths, initial(kind, layer))
    assert not outputs[lengths == 0].any()
    for end, start in zip(rest, initial(kind, layer), strict=False):
        assert torch.equal(end[:, lengths == 0], start[:, lengths == 0])
    assert all(part.isfinite().all() for part in rest)
    some = lengths > 0
    if some.any():
        parameters = list(layer.parameters())
        with_empty, without = run(layer, x, lengths)[0], run(layer, x[some], lengths[some])[0]
        close([with_empty[some]], [without])
        gradients = torch.autograd.grad(with_empty.square().sum(), parameters)
        close(gradients, torch.autograd.grad(without.square().sum(), parameters))


def test_dropout_stands_between_layers_only():
    x, size = batch(), B * T
    alone = GRU(SIZE, H, dropout=0.5)
    assert torch.equal(alone(x)[0], alone.eval()(x)[0])
    both = GRU(SIZE, H, num_layers=2, dropout=0.5)
    layers = GRU(SIZE, H), GRU(H, H)
    for number, layer in enumerate(layers):
        state = {name: both.state_dict()[name.replace("l0", f"l{number}")] for name in layer.state_dict()}
        layer.load_state_dict(state)

    def by_hand(p):
        torch.manual_seed(5)
        between = F.dropout(layers[0](x)[0].transpose(0, 1).reshape(size, H), p)
        return layers[1](between.unflatten(0, (T, B)).transpose(0, 1))[0]

    torch.manual_seed(5)
    dropped = both(x)[0]
    close([dropped], [by_hand(0.5)])
    close([both.eval()(x)[0]], [by_hand(0.0)])
    assert not torch.allclose(dropped, by_hand(0.0), atol=1e-3)


@pytest.mark.parametrize(
    "fixed",
    [["forget"], ["input"], ["output"], ["candidate"], ["output", "input"], ["forget", "input", "output", "candidate"]],
)
def test_fixed_gates_are_1(fixed):
    layer = LSTM(SIZE, H, fixed_gates=fixed).double()
    assert layer.weight_ih_l0.shape == ((4 - len(fixed)) * H, SIZE)
    x = batch(dtype=torch.float64)
    h = c = torch.zeros(B, H, dtype=torch.float64)
    expected = []
    for t in range(T):
        sums = x[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T + layer.bias_hh_l0
        free = [name for name in ("input", "forget", "candidate", "output") if name not in fixed]
        gate = dict.fromkeys(fixed, torch.ones_like(h))
        for name, part in zip(free, sums.split(H, 1), strict=bool(free)):
            gate[name] = torch.tanh(part) if name == "candidate" else torch.sigmoid(part)
        c = gate["forget"] * c + gate["input"] * gate["candidate"]
        h = gate["output"] * torch.tanh(c)
        expected.append(h)
    expected = torch.stack(expected, 1)
    outputs, (hidden, cell) = layer(x)
    close([outputs, hidden[0], cell[0]], [expected, h, c])
    if len(fixed) < 4:
        parameters = list(layer.parameters())
        ours = torch.autograd.grad(outputs.square().sum(), parameters)
        close(ours, torch.autograd.grad(expected.square().sum(), parameters))


@every_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_replicas_under_vmap_are_replicas_alone(kind, lengths):
    torch.manual_seed(0)
    replicas = [KINDS[kind](SIZE, H, num_layers=2, bidirectional=True) for _ in range(3)]
    parameters, buffers = stack_module_state(replicas)
    base = copy.deepcopy(replicas[0]).to("meta")
    x = batch()

    def forward(weights, x):
        outputs, end = functional_call(base, (weights, buffers), (x, lengths))
        return outputs, *(end if kind == "LSTM" else (end,))

    def squares(weights, x):
        return sum(part.square().sum() for part in forward(weights, x))

    alone = [[outputs, *end] for outputs, end in (run(layer, x, lengths) for layer in replicas)]
    expected = [
        torch.autograd.grad(sum(part.square().sum() for part in parts), list(layer.parameters()))
        for parts, layer in zip(alone, replicas, strict=True)
    ]
    expected = [torch.stack(parts) for parts in zip(*expected, strict=True)]
    together = vmap(forward, (0, None))(parameters, x)
    close(together, [torch.stack(parts) for parts in zip(*alone, strict=True)])
    close(vmap(grad(squares), (0, None))(parameters, x).values(), expected)
    close(torch.autograd.grad(sum(part.square().sum() for part in together), list(parameters.values())), expected)
    with torch.no_grad():
        close(vmap(forward, (0, None))(parameters, x), together)


@every_kind
def test_gradients_of_each_example_under_vmap(kind):
    layer = KINDS[kind](SIZE, H, bidirectional=True)
    lengths = torch.tensor([4, 9, 0, 1, 6])
    x = batch()
    x[1, 9:] = x[2] = float("nan")

    def squares(weights, x, lengths):
        return functional_call(layer, weights, (x[None], lengths[None]))[0].square().sum()

    weights = {name: weight.detach() for name, weight in layer.named_parameters()}
    together = vmap(grad(squares), (None, 0, 0))(weights, x, lengths)
    for n in range(B):
        alone = grad(squares)(weights, x[n], lengths[n])
        close([part[n] for part in together.values()], list(alone.values()))


@every_kind
def test_autocast(kind):
    layer = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    state = initial(kind, layer)
    exact = results(layer, batch(), LENGTHS, state)
    with torch.autocast("cpu", torch.bfloat16):
        rough = results(layer, batch(), LENGTHS, state)
        assert copy.deepcopy(layer).double()(batch(dtype=torch.float64))[0].dtype == torch.float64
    assert rough[0].dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in rough[1:])
    for a, b in zip(rough, exact, strict=True):
        assert (a - b).norm() < 0.03 * b.norm()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        close([run(layer, batch(), LENGTHS, state)[0]], [rough[0]])


def test_the_cell_does_not_forget_under_autocast():
    layer = LSTM(1, 1, fixed_gates=["forget", "input"])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[0] = 2**-8  # the candidate: too small to be added to 2 in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        _, (_, cell) = layer(torch.zeros(1, 1024, 1))
    assert cell.item() == pytest.approx(4.0, rel=1e-2)


@every_kind
def test_without_gradients_copied_and_saved(kind, tmp_path):
    layer = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    expected, _ = run(layer, batch(), LENGTHS)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(run(layer, batch(), LENGTHS)[0], expected)
    assert torch.equal(run(copy.deepcopy(layer), batch(), LENGTHS)[0], expected)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other = KINDS[kind](SIZE, H, num_layers=2, bidirectional=True)
    assert not torch.equal(run(other, batch(), LENGTHS)[0], expected)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(run(other, batch(), LENGTHS)[0], expected)


@every_kind
def test_backward_twice_and_frozen_weights(kind):
    layer = KINDS[kind](SIZE, H)
    outputs, _ = layer(batch())
    parameters = list(layer.parameters())
    first = torch.autograd.grad(outputs.sum(), parameters, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(outputs.sum(), parameters)))
    layer.requires_grad_(False)
    x = batch().requires_grad_()
    frozen = torch.autograd.grad(layer(x)[0].sum(), x)[0]
    layer.requires_grad_(True)
    assert torch.equal(frozen, torch.autograd.grad(layer(x)[0].sum(), x)[0])


@every_kind
def test_second_derivatives_are_refused(kind):
    layer, x = KINDS[kind](SIZE, H), batch().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient.square().sum().backward()


@every_kind
def test_initial_weights_are_uniform(kind):
    layer = KINDS[kind](100, 100)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= 0.1
        assert parameter.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)


def test_what_cannot_work_is_refused():
    for options, told in [
        ({"hidden_size": 0}, "RNN: hidden_size is 0: give at least 1"),
        ({"num_layers": 0}, "RNN: num_layers is 0: give at least 1"),
        ({"dropout": 1.0}, "RNN: dropout is 1.0: give"),
    ]:
        with pytest.raises(UserError, match=told):
            RNN(**{"input_size": SIZE, "hidden_size": H, **options})
    with pytest.raises(UserError, match="fixed_gates has 'reset': choose among input, forget, candidate, output"):
        LSTM(SIZE, H, fixed_gates=["reset"])
    layer = GRU(SIZE, H)
    for arguments, told in [
        ((torch.zeros(B, T, SIZE + 1),), r"input is of shape \[5, 9, 5\]: \[batch, steps >= 1, 4\] is needed"),
        ((torch.zeros(B, 0, SIZE),), "steps >= 1"),
        ((batch(), torch.tensor([1, 2])), r"lengths are of shape \[2\]"),
        ((batch(), LENGTHS + 1), r"lengths go from 2 to 10: they must be in 0\.\.9"),
        ((batch(), LENGTHS - 2), "lengths go from -1 to 7"),
        ((batch(), None, torch.zeros(1, B, H + 1)), "state is of shape"),
    ]:
        with pytest.raises(ValueError, match=told):
            layer(*arguments)
