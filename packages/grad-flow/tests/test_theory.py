import math

import numpy as np
import pytest
import torch

from grad_flow import kernels, theory
from grad_flow.config import Model
from grad_flow.data import sample
from grad_flow.flow import measure
from grad_flow.model import DeepDenseNet, network

DEFAULT = math.sqrt(1 / 3), math.sqrt(1 / (3 * 256))  # torch's, at width 256
SMOOTH = [name for name in theory.ACTIVATIONS if name not in theory.SLOPES]


def normal(points=50_000, far=10.0):
    """A dense grid without a point at 0, and normal weights: the slow and obvious mean over z."""
    z = (np.arange(2 * points) + 0.5) / points * far - far
    weights = np.exp(-(z**2) / 2)
    return torch.from_numpy(z), torch.from_numpy(weights / weights.sum())


# ------------------------------------------------------------------------------------------------------- fixed points


@pytest.mark.parametrize(
    ("activation", "factor"), [("sigmoid", 0.141), ("tanh", 0.576), ("relu", 0.408), ("gelu", 0.289), ("selu", 0.808)]
)
def test_the_factor_of_torchs_default_at_width_256(activation, factor):
    assert theory.law("default", 256, 256, 1.0, 0.0) == DEFAULT
    assert theory.fixed_point(activation, *DEFAULT).factor == pytest.approx(factor, abs=5e-4)


def test_the_factor_of_he_and_of_batch_norm():
    assert theory.fixed_point("relu", math.sqrt(2), 0.0).factor == pytest.approx(1.0, abs=1e-12)
    assert theory.norm_factor("relu", "batch", 1.0, 0.0) == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=1e-9)
    assert theory.norm_factor("identity", "batch", 3.0, 0.5) == pytest.approx(1.0, abs=1e-9)


def test_an_odd_number_of_gauss_hermite_nodes_would_miss_relus_chi():
    z, weights = np.polynomial.hermite_e.hermegauss(51)
    assert 2 * ((z > 0) * weights).sum() / weights.sum() < 0.92
    z, weights = theory.nodes()
    assert 0 not in z.tolist()
    assert float(2 * ((z > 0) * weights).sum()) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
def test_moments_are_those_of_a_dense_grid(activation):
    z, weights = normal()
    for q in (1e-4, 0.3, 4.0, 100.0):
        found = theory.moments(activation, torch.tensor(q, dtype=torch.float64))
        y, slope = theory.values(activation, z * math.sqrt(q))
        assert float(found.square) == pytest.approx(float(y.square() @ weights), rel=1e-6)
        assert float(found.slope) == pytest.approx(float(slope.square() @ weights), rel=1e-6)
        assert float(found.mean) == pytest.approx(float(y @ weights), rel=1e-6, abs=1e-9)
        more, less = (theory.moments(activation, torch.tensor(q * (1 + h), dtype=torch.float64)) for h in (1e-4, -1e-4))
        assert float(found.growth) == pytest.approx(float(more.square - less.square) / (2e-4 * q), rel=1e-5)


@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
@pytest.mark.parametrize("c", [-0.6, 0.2, 0.9, 0.999])
def test_products_of_two_inputs_are_those_of_a_plane_of_points(activation, c):
    z, weights = normal(300, 7.0)
    first, second = z[:, None].expand(-1, len(z)), c * z[:, None] + math.sqrt(1 - c**2) * z
    q = torch.tensor([[2.0, c * math.sqrt(2.0 * 0.3)], [c * math.sqrt(2.0 * 0.3), 0.3]], dtype=torch.float64)
    u, v = (theory.values(activation, root * x) for root, x in ((math.sqrt(2.0), first), (math.sqrt(0.3), second)))
    for found, a, b in zip(theory.pairs(activation, q), u, v, strict=True):
        obvious = float(weights @ (a * b) @ weights)
        assert float(found[0, 1]) == pytest.approx(obvious, rel=5e-3, abs=1e-3)
        assert float(found[0, 0]) == pytest.approx(float(weights @ a.square() @ weights), rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "sigma_w", "sigma_b", "dropout"),
    [("tanh", 1.0, 0.2236, 0.0), ("tanh", 2.0, 0.2236, 0.0), ("sigmoid", 3.0, 0.1, 0.0), ("tanh", 1.3, 0.2236, 0.1)],
)
def test_fixed_points_stay_and_are_approached_as_fast_as_is_said(activation, sigma_w, sigma_b, dropout):
    point = theory.fixed_point(activation, sigma_w, sigma_b, dropout)

    def layer(q, c):
        products, _ = theory.pairs(activation, q * torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64))
        mapped = sigma_w**2 * products + sigma_b**2
        length = float(sigma_w**2 * products[0, 0] / (1 - dropout) + sigma_b**2)
        return length, float(mapped[0, 1])

    q, product = layer(point.q, point.c)
    assert q == pytest.approx(point.q, rel=1e-7)
    assert product / q == pytest.approx(point.c, abs=1e-6)
    moved, _ = layer(point.q * 1.001, point.c)
    assert (moved - point.q) / (0.001 * point.q) == pytest.approx(math.exp(-1 / point.xi_q), rel=1e-2)
    _, product = layer(point.q, point.c - 1e-3)
    assert (point.c - product / point.q) / 1e-3 == pytest.approx(math.exp(-1 / point.xi_c), rel=1e-2)


def test_signals_that_only_grow_and_the_edge_of_chaos():
    grown = theory.fixed_point("relu", 2.0, 0.1)
    assert grown.q == math.inf
    assert grown.factor == pytest.approx(math.sqrt(2))
    assert math.isnan(grown.c)
    assert theory.fixed_point("relu", math.sqrt(2), 0.0).xi_c == math.inf
    assert theory.fixed_point("tanh", 1.0, 0.05**0.5).c == 1.0
    assert theory.fixed_point("tanh", 2.0, 0.05**0.5).c < 0.2
    # GELU's map has two ends here: a walk that began at 1 would fall, one from 2.25, where a network begins, grows.
    assert theory.fixed_point("gelu", 1.5, 0.0).factor == pytest.approx(1.5 / math.sqrt(2))


@pytest.mark.parametrize(
    ("activation", "sigma_w", "sigma_b", "q"),
    [("tanh", 1.0, 0.0, 0.0), ("relu", 2**0.5, 0.1, math.inf), ("identity", 1.0, 0.0, 1.0), ("relu", 1.4, 0.0, 0.0)],
)
def test_what_a_walk_of_thousands_of_layers_does_not_reach_is_said_all_the_same(activation, sigma_w, sigma_b, q):
    """At the edge q moves as 1 / layer or as layer: after 20,000 of them tanh had a xi_c of 19,998, which has none."""
    point = theory.fixed_point(activation, sigma_w, sigma_b)
    assert point.q == pytest.approx(q, abs=1e-9)
    assert point.chi == pytest.approx(0.98 if sigma_w == 1.4 else 1.0, abs=1e-9)
    assert point.xi_q == (pytest.approx(-1 / math.log(0.98)) if sigma_w == 1.4 else math.inf)


# ------------------------------------------------------------------------------- held against networks of finite width

CASES = {
    "sigmoid": {"activation": "sigmoid"},
    "gelu": {"activation": "gelu"},
    "selu": {"activation": "selu", "initialisation": "lecun"},
    "leaky, he": {"activation": "leaky-relu", "initialisation": "he"},
    "xavier": {"activation": "tanh", "initialisation": "xavier"},
    "orthogonal": {"activation": "tanh", "initialisation": "orthogonal"},
    "chaos": {"activation": "tanh", "initialisation": "sigma", "sigma_w": 2.0, "sigma_b": 0.3},
    "dropout": {"activation": "tanh", "initialisation": "lecun", "dropout": 0.3},
    "batch norm": {"activation": "relu", "norm": "batch"},
    "batch norm, dropout": {"activation": "tanh", "norm": "batch", "dropout": 0.2},
    "layer norm": {"activation": "gelu", "norm": "layer"},
    "residual": {"activation": "sigmoid", "residual": True},
    "residual, relu": {"activation": "relu", "residual": True, "initialisation": "lecun"},
    "residual, norm, dropout": {"activation": "tanh", "residual": True, "norm": "layer", "dropout": 0.2},
}


@pytest.fixture(scope="module")
def digits():
    part = sample()
    images, labels = part.images[::20][:80].float(), part.labels[::20][:80]
    return images, labels


@pytest.mark.parametrize("case", CASES)
def test_wide_networks_do_what_is_predicted(case, digits):
    """Norms by layer, geometric means of a few networks of 512 units: nothing is fitted, so they are held to be equal.

    What all layers have in common comes from ten outputs of eight networks, and so is known less well.
    """
    images, labels = digits
    config = Model(depth=5, width=512, **CASES[case])
    weights, signals, correlations = [], [], []
    for seed in range(8):
        torch.manual_seed(seed)
        model = DeepDenseNet(64, config)
        model.mean.fill_(images.mean()), model.std.fill_(images.std())
        flow = measure(model, images, labels)
        weights.append(flow.gradients.weights), signals.append(flow.gradients.signals)
        correlations.append(flow.correlations)
    way = kernels.walk(network(64, config), model.inputs(images))
    predicted = kernels.gradients(network(64, config), way, labels)
    for found, theirs in ((weights, predicted.weights), (signals, predicted.signals)):
        ratio = np.exp(np.mean(np.log(found), 0)) / theirs
        assert 0.75 < ratio[-1] < 1.33
        np.testing.assert_allclose(ratio / ratio[-1], 1, rtol=0.1)
    factors = [kernels.factor(of) for of in signals]
    assert np.exp(np.mean(np.log(factors))) == pytest.approx(kernels.factor(predicted.signals), rel=0.02)
    apart = (torch.stack(correlations).mean(0) - way.correlations()).abs()[
        :-1
    ]  # of the last matrix there are ten units
    chance = 1 / math.sqrt(8 * 512)  # what a correlation over so many units is off by
    assert float(apart.mean()) < 2 * chance
    assert float(apart.max()) < 10 * chance


@pytest.mark.parametrize("pieces", [(6,), (8, 7)], ids=str)
def test_the_way_back_through_batch_norm_is_that_of_autograd(pieces):
    """Units drawn one by one: the mean over them of the products of their gradients, by autograd."""
    torch.manual_seed(0)
    b, units = sum(pieces), 200_000
    root = torch.randn(b, b, dtype=torch.float64)
    gradient = torch.randn(b, b, dtype=torch.float64)
    shape = kernels.Network("tanh", "batch", False, 0.0, (1, 1, 1), ((1.0, 0.0),) * 2)
    products, means, back = kernels.drawn(shape, root @ root.T, len(pieces))
    u = (root @ torch.randn(b, units, dtype=torch.float64)).requires_grad_()
    each = u.split(pieces)
    hat = torch.cat([(x - x.mean(0)) / (x.var(0, unbiased=False) + kernels.EPS).sqrt() for x in each])
    y = hat.tanh()
    arriving = gradient @ torch.randn(b, units, dtype=torch.float64)
    (found,) = torch.autograd.grad((y * arriving).sum(), u)
    torch.testing.assert_close(products, (y @ y.T / units).detach(), atol=0.03, rtol=0.03)
    torch.testing.assert_close(means, y.mean(1).detach(), atol=0.03, rtol=0)
    obvious = found @ found.T / units
    torch.testing.assert_close(back(gradient @ gradient.T), obvious, rtol=0.1, atol=0.05 * float(obvious.abs().max()))


@pytest.mark.parametrize("initialisation", ["default", "lecun", "xavier", "he", "orthogonal", "sigma"])
@pytest.mark.parametrize(("inputs", "outputs"), [(300, 300), (500, 200), (200, 500)])
def test_weights_are_drawn_by_the_law_that_the_theory_takes(initialisation, inputs, outputs):
    torch.manual_seed(0)
    sigmas = {"sigma_w": 1.7, "sigma_b": 0.4} if initialisation == "sigma" else {}
    model = DeepDenseNet(inputs, Model(depth=1, width=outputs, initialisation=initialisation, **sigmas))
    linear = model.hidden[0].linear
    sigma_w, sigma_b = theory.law(initialisation, inputs, outputs, *(sigmas.values() or (1.0, 0.0)))
    assert float(linear.weight.detach().std()) * math.sqrt(inputs) == pytest.approx(sigma_w, rel=0.02)
    assert float(linear.bias.detach().square().mean().sqrt()) == pytest.approx(sigma_b, rel=0.15, abs=1e-12)


def test_a_factor_is_the_slope_of_a_line():
    assert kernels.factor([0.5**n for n in (5, 4, 3, 2)]) == pytest.approx(0.5)
    assert kernels.factor([8.0, 4.0, 2.0]) == pytest.approx(2.0)
    assert math.isnan(kernels.factor([1.0]))
    assert math.isnan(kernels.factor([1.0, 0.0]))
