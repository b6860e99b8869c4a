import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal, kl_divergence
from torch.distributions import Normal as Gauss

from etude import cli, config
from etude.testing import check_presets, check_task
from gauss_vae import data, demo, likelihood, show, task, yardsticks
from gauss_vae.__main__ import PACKAGE, main
from gauss_vae.config import Config, Data, Model
from gauss_vae.data import Mixture
from gauss_vae.model import LARGEST, SMALLEST, VAE, Normal, bound, bounded, softplus

SMALL = [
    *("--data.train", "400", "--data.valid", "90", "--data.test", "120", "--fit.batch-size", "100"),
    *("--model.hidden", "32", "--model.depth", "1", "--importance", "200"),
]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, [*SMALL, *flags]), CPU)


def vae(dimension=3, std=0.6, **knobs):
    """An untrained model, with weights as large as `std` says, so that its decoder says something else everywhere."""
    torch.manual_seed(0)
    model = VAE(dimension, Model(**knobs)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    model.standardise(torch.randn(50, dimension) * torch.arange(1, dimension + 1) + 3)
    return model


# -- the promises of every task


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective.samples", "1", "--model.variance", "dimension"],
        ["--objective.samples", "4", "--model.variance", "full", "--objective.warmup", "2"],
    ],
)
def test_the_battery(flags, tmp_path):
    """On small numbers, so that the loss is small too, and learning a batch by heart takes it far below a third."""
    (tmp_path / "rows.csv").write_text("".join(f"{i}.5, -1,2e-1\n" for i in range(5)))
    small = mixture_file(
        tmp_path / "small.json",
        means=[[0, 0, 0], [0.3, 0.2, -0.1]],
        covariances=(np.eye(3) * [[[0.04]], [[0.02]]]).tolist(),
    )
    runs = tmp_path / "runs"
    runs.mkdir()
    flags = [*SMALL, *flags, "--data", small, "--model.hidden", "64", "--model.depth", "2", "--objective.kl", "0.3"]
    check_task(PACKAGE, flags, [str(tmp_path / "rows.csv")], runs, ["kl", "active"])


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    check_presets(
        PACKAGE, ["best"], ["complexity", "data-size", "latent-size", "network", "objective", "ratio", "reconstruction"]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--data.train", "6000", "--data.valid", "500", "--data.test", "300", "--fit.epochs", "4"]
    assert main(["train", "--run", str(folder), *SMALL, *flags, "--importance", "2000"]) == 0
    return folder


def evaluated(folder, capsys, *flags):
    capsys.readouterr()
    assert main(["evaluate", str(folder), *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# -- the data


def test_the_density_is_that_of_scipy():
    mixture = data.drawn(Data(clusters=4, dimension=3, intrinsic=2), 5)
    points = mixture.draw(50, 1)[0]
    parts = [
        weight * multivariate_normal(mean, sigma).pdf(points.astype(np.float64))
        for weight, mean, sigma in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ]
    np.testing.assert_allclose(mixture.log_density(points), np.log(sum(parts)), rtol=1e-9)


def test_one_cluster_has_the_entropy_of_a_gaussian():
    mixture = data.drawn(Data(clusters=1, dimension=4, intrinsic=3, noise=0.01), 0)
    exact = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * mixture.covariances[0])[1]
    density = mixture.log_density(mixture.draw(20_000, 1)[0])
    error = task.se(density)
    assert error == pytest.approx(math.sqrt(4 / 2 / 20_000), rel=0.05)  # (x - mu)^T Sigma^-1 (x - mu) / 2 is Gamma(2)
    assert -density.mean() == pytest.approx(exact, abs=3 * error)


def test_what_is_drawn_has_the_means_and_covariances_of_its_cluster():
    mixture = data.drawn(Data(clusters=3, dimension=3, intrinsic=1, noise=0.3), 2)
    points, clusters = mixture.draw(60_000, 7)
    assert points.dtype == np.float32
    for k in range(3):
        mine = points[clusters == k].astype(np.float64)
        assert len(mine) == pytest.approx(20_000, rel=0.05)
        np.testing.assert_allclose(mine.mean(0), mixture.means[k], atol=0.06)
        np.testing.assert_allclose(np.cov(mine, rowvar=False), mixture.covariances[k], atol=0.1)


def test_knobs_of_the_mixture_mean_what_they_say():
    distances = []
    for seed in range(300):
        mixture = data.drawn(Data(clusters=2, dimension=6, intrinsic=2, noise=0.05, separation=4), seed)
        distances.append(((mixture.means[0] - mixture.means[1]) ** 2).sum())
        values = np.linalg.eigvalsh(mixture.covariances)
        np.testing.assert_allclose(values[:, :4], 0.05**2, rtol=1e-6)
        assert values[:, 4:].min() > 0.5**2 * 0.999 and values[:, 4:].max() < 2**2 * 1.001
    assert math.sqrt(np.mean(distances)) == pytest.approx(4, rel=0.05)


def test_parts_are_drawn_afresh_and_follow_from_the_seed():
    one, again, other = made(), made(), made("--fit.seed", "1")
    for split, part in one.parts.items():
        np.testing.assert_array_equal(part.x, again.parts[split].x)
        assert not np.isin(part.x, other.parts[split].x).any()
    assert not np.isin(one.parts["train"].x, one.parts["test"].x).any()
    assert not np.isin(one.parts["valid"].x, one.parts["test"].x).any()


def mixture_file(path, **other):
    content = {"weights": [1, 3], "means": [[0, 0], [4, 1]], "covariances": [[[1, 0.5], [0.5, 1]], [[2, 0], [0, 0.1]]]}
    path.write_text(json.dumps(content | other))
    return str(path)


def test_a_mixture_can_come_from_a_file(tmp_path, capsys):
    name = mixture_file(tmp_path / "two.json")
    assert main(["train", "--run", "r", *SMALL, "--data", name, "--fit.epochs", "1", "--model.latent", "3"]) == 0
    assert "2 clusters in 2 dimensions" in capsys.readouterr().out
    mixture = data.read_mixture(tmp_path / "two.json")
    assert mixture.weights.tolist() == [0.25, 0.75]
    assert evaluated("r", capsys)["entropy"] == pytest.approx(
        -mixture.log_density(mixture.draw(50_000, 0)[0]).mean(), abs=0.3
    )


SINGULAR = [[[1, 1], [1, 1]], [[1, 0], [0, 1]]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"covariances": SINGULAR}, "covariances[0] is not positive definite"),
        ({"covariances": [[[1, 0.3], [0, 1]], [[1, 0], [0, 1]]]}, "covariances[0] is not symmetric"),
        ({"covariances": [[[2e-10, 1.9e-10], [0, 2e-10]], [[1, 0], [0, 1]]]}, "covariances[0] is not symmetric"),
        ({"weights": [1, 0]}, "weights must be above 0"),
        ({"weights": [1]}, "1 weights go with means [1, d]"),
        ({"means": [[0, 0], [1]]}, "means must be numbers in lists, nested 2 deep"),
        ({"means": [[0, 0], [1, None]]}, "means must be numbers in lists, nested 2 deep"),
        ({"means": [[0], [1]]}, "covariances [2, d, d]"),
        ({"more": 1}, "expected one object with the keys weights, means, covariances"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused(other, message, tmp_path, capsys):
    name = mixture_file(tmp_path / "x.json", **other)
    refused(["train", "--data", name], message, capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def refused(words, message, capsys):
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model.latent 0", "model.latent must be at least 1, not 0"),
        ("--model.hidden 0", "model.hidden must be at least 1"),
        ("--model.depth -1", "model.depth must be at least 0"),
        ("--data.intrinsic 3", "data.intrinsic 3 is more than data.dimension 2"),
        ("--data.intrinsic 1 --data.noise 0", "Sigma is not positive definite"),
        ("--data.clusters 100 --data.train 99", "data.clusters 100 is more than data.train 99 has examples"),
        ("--data.clusters 0", "data.clusters must be at least 1"),
        ("--data.dimension 0", "data.dimension must be at least 1"),
        ("--data.noise 0.2", "data.noise does nothing with data.intrinsic 0"),
        ("--data.noise -1", "data.noise must be at least 0"),
        ("--data.separation nan", "data.separation must be at least 0"),
        ("--data.separation inf", "must be finite"),
        ("--objective.kl -0.5", "objective.kl must be at least 0"),
        ("--objective.warmup -1", "objective.warmup must be at least 0"),
        ("--objective.samples 0", "objective.samples must be at least 1"),
        ("--importance 1", "importance must be at least 2"),
        ("--data none.json", "none.json cannot be read (No such file or directory)"),
        ("--data mnist", "there is no data set 'mnist'; choose sample"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    refused(["train", *flags.split()], message, capsys)
    assert list(tmp_path.iterdir()) == []


# -- the model


@pytest.mark.parametrize("variance", ["dimension", "shared", "full"])
@pytest.mark.parametrize("varying", [True, False])
def test_the_decoder_is_the_normal_distribution_of_torch(variance, varying):
    model = vae(3, latent=2, variance=variance, varying=varying)
    z, x = torch.randn(7, 2), torch.randn(7, 3) * 2
    said = model.decode(z)
    factor = said.factor()
    assert torch.equal(factor, factor.tril())
    reference = MultivariateNormal(said.mean.double(), scale_tril=factor.double())
    expected = reference.log_prob(x.double()).float()
    torch.testing.assert_close(said.log_density(x), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(model.log_likelihood(x, z[:, None])[:, 0], expected, rtol=1e-4, atol=1e-3)
    sds = factor.square().sum(-1).sqrt() / model.scale
    assert (variance == "shared") == torch.allclose(sds, sds[:, :1].expand_as(sds))
    assert varying != torch.allclose(sds, sds[:1].expand_as(sds))
    corners = factor - factor.diagonal(dim1=1, dim2=2).diag_embed()
    assert (variance == "full") == bool(corners.abs().max() > 0.01)


def test_kl_and_bounds_equal_the_obvious_ones():
    model = vae(3, std=0.1, latent=2, variance="dimension")
    x, noise = torch.randn(5, 3), torch.randn(5, 6, 2)
    with torch.no_grad():
        weighed, q = model(x, noise), model.encode(x)
    posterior, prior = Gauss(q.mean, q.log_sd.exp()), Gauss(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(weighed.kl, kl_divergence(posterior, prior).sum(-1))
    z = posterior.mean[:, None] + posterior.stddev[:, None] * noise
    with torch.no_grad():
        said = model.decode(z)
    joint = Gauss(said.mean, said.log_sd.exp()).log_prob(x[:, None]).sum(-1) + prior.log_prob(z).sum(-1)
    weights = joint - Gauss(q.mean[:, None], q.log_sd.exp()[:, None]).log_prob(z).sum(-1)
    one = torch.ones(5)
    torch.testing.assert_close(bound(weighed, one), weights.exp().mean(1).log(), rtol=1e-4, atol=1e-4)
    elbo = Gauss(said.mean, said.log_sd.exp()).log_prob(x[:, None]).sum(-1)[:, 0] - 0.3 * weighed.kl
    torch.testing.assert_close(bound(weighed.first(1), 0.3 * one), elbo, rtol=1e-4, atol=1e-4)


def test_bounds_of_the_variance_are_smooth_and_far():
    raw = torch.tensor([-1e4, -30.0, -5.0, 0.0, 5.0, 30.0, 1e4], requires_grad=True)
    assert torch.allclose(bounded(raw)[2:5], raw[2:5], atol=0.01)
    assert (bounded(raw) >= SMALLEST).all() and (bounded(raw) <= LARGEST + 1e-3).all()
    bounded(raw).sum().backward()
    assert raw.grad.isfinite().all() and (raw.grad[1:6] > 0).all()
    x = torch.linspace(-40, 40, 999)
    torch.testing.assert_close(softplus(x), torch.nn.functional.softplus(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variance", ["dimension", "shared", "full"])
@pytest.mark.parametrize("raw", [-1e4, -30.0, 30.0, 1e4])
def test_tiny_and_huge_variances_stay_finite(variance, raw):
    model = vae(3, std=0.2, latent=2, variance=variance)
    with torch.no_grad():
        model.decoder[-1].bias[3 : 3 + model.sizes[1]] = raw
        model.encoder[-1].bias[2:] = raw
    x, noise = torch.randn(5, 3) * 100, torch.randn(5, 4, 2)
    for samples in (1, 4):
        model.zero_grad()
        loss = -bound(model(x, noise[:, :samples]), torch.ones(5)).sum()
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name


def test_nearly_flat_data_can_be_trained_on(capsys):
    flat = ["--data.dimension", "3", "--data.intrinsic", "1", "--data.noise", "1e-5", "--model.latent", "1"]
    assert main(["train", "--run", "r", *SMALL, *flat, "--fit.epochs", "2"]) == 0
    found = evaluated("r", capsys)
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, int | float))
    assert found["entropy"] < -10


def test_warmup_raises_the_weight_of_the_kl_term():
    one = made("--objective.warmup", "4", "--objective.kl", "2", "--objective.samples", "1")
    ids = np.arange(3)
    weights = [one.load("train", ids, epoch).kl.tolist() for epoch in (1, 2, 4, 9)]
    assert weights == [[0.5] * 3, [1] * 3, [2] * 3, [2] * 3]
    assert one.load("valid", ids, 0).kl.tolist() == [1] * 3
    batch = one.load("train", ids, 1)
    with torch.no_grad():
        found = [one.step(batch._replace(kl=torch.full((3,), kl))) for kl in (0.0, 1.0, 2.0)]
    losses, kl = [float(sums["loss"][0]) for sums in found], float(found[0]["kl"][0])
    assert kl > 0
    assert losses == pytest.approx([losses[0] + weight * kl for weight in (0, 1, 2)], rel=1e-4)


@pytest.mark.parametrize(("samples", "used"), [(1, 1), (4, 4), (40, 32)])
def test_the_loss_of_validation_is_what_its_meaning_says(samples, used):
    """The bound of as many latents as in training, 32 at most, with a weight of 1 whatever objective.kl is."""
    one = made("--objective.kl", "0.3", "--objective.samples", str(samples))
    batch = one.load("valid", np.arange(90), 0)
    one.model.eval()
    with torch.no_grad():
        found = one.step(batch)["loss"]
        weighed = one.model(batch.x, batch.noise)
    assert weighed.log_likelihood.shape == (90, 32)
    if samples == 1:
        obvious = weighed.log_likelihood[:, 0] - weighed.kl
    else:
        ratios = (weighed.log_likelihood + weighed.log_ratio)[:, :used]
        obvious = ratios.exp().mean(1).log()
    assert float(found[0]) == pytest.approx(-float(obvious.sum()), rel=1e-4)
    said = PACKAGE.meanings["loss"]
    assert all(words in said for words in ("importance-weighted", "weight of 1", "32 latents at most"))


def test_noise_is_normal_and_follows_from_the_example():
    drawn = task.normal(np.arange(20_000), 4, 1, 2)
    assert drawn.isfinite().all()
    np.testing.assert_allclose(torch.cov(drawn.T), np.eye(4), atol=0.03)
    np.testing.assert_array_equal(drawn[[5, 3]], task.normal(np.array([5, 3]), 4, 1, 2))
    assert not torch.equal(drawn[:9], task.normal(np.arange(9), 4, 1, 3))


def test_noise_drawn_for_the_whole_epoch_is_that_of_each_batch(monkeypatch):
    config = Config(data=Data(train=400, valid=90, test=120), model=Model(hidden=8))
    together, batchwise = task.make(config, CPU), task.make(config, CPU)
    for split, epoch, ids in (("train", 1, [7, 3]), ("train", 2, [3, 7]), ("valid", 2, [5]), ("train", 1, [399])):
        monkeypatch.setattr(task, "AT_ONCE", 10**9)
        expected = together.load(split, np.array(ids), epoch).noise
        monkeypatch.setattr(task, "AT_ONCE", 0)
        assert torch.equal(expected, batchwise.load(split, np.array(ids), epoch).noise)


@pytest.mark.parametrize("cell", [0.0, 1 - 2**-24])
def test_the_first_and_the_last_cell_are_finite_noise(cell, monkeypatch):
    monkeypatch.setattr("etude.draw.uniform", lambda ids, count, *_: torch.full((len(ids), count), cell))
    assert abs(float(task.normal(np.arange(1), 1)[0, 0])) == pytest.approx(5.42, abs=0.01)


# -- the likelihood, against closed answers


def linear(train, q):
    """The VAE that is probabilistic PCA, with the exact posterior; and the log-density that PCA gives."""
    mixture = yardsticks.ppca(train, q)
    weights, sigma2 = yardsticks.principal(yardsticks.gaussian(train).covariances[0], q)
    model = VAE(train.shape[1], Model(latent=q, depth=0, variance="shared", varying=False)).eval()
    precision = (weights**2).sum(0) / sigma2 + 1  # W's columns are orthogonal, so that the posterior is diagonal
    with torch.no_grad():
        model.shift.copy_(torch.from_numpy(mixture.means[0]))
        model.decoder[0].weight.copy_(torch.from_numpy(weights))
        model.decoder[0].bias.zero_()
        model.constant.fill_(0.5 * math.log(sigma2))
        model.encoder[0].weight[:q] = torch.from_numpy((weights / sigma2 / precision).T)
        model.encoder[0].weight[q:] = 0
        model.encoder[0].bias[:q] = 0
        model.encoder[0].bias[q:] = torch.from_numpy(-0.5 * np.log(precision))
    return model, mixture


@pytest.mark.parametrize("q", [1, 2, 3])
def test_a_linear_vae_at_its_optimum_is_probabilistic_pca(q):
    train = data.drawn(Data(clusters=2, dimension=5, separation=3), 1).draw(2_000, 0)[0]
    model, mixture = linear(train, q)
    x = torch.from_numpy(train[:200])
    exact = mixture.log_density(train[:200])
    # The posterior is exact, so every importance weight is p(x), and the ELBO is log p(x) too.
    found = likelihood.importance(model, x, 10, 0)
    np.testing.assert_allclose(found.log_density, exact, atol=2e-3)
    assert found.error.max() < 2e-3
    weighed = model(x, torch.zeros(200, 1, q))  # at the posterior's mean
    np.testing.assert_allclose((weighed.log_likelihood + weighed.log_ratio)[:, 0].detach(), exact, atol=2e-3)
    with torch.no_grad():
        many = model(x, torch.randn(200, 5_000, q, generator=torch.Generator().manual_seed(0)))
    elbo = many.log_likelihood.mean(1) - many.kl
    np.testing.assert_allclose(elbo.mean(), exact.mean(), atol=5e-3)
    if q <= 2:
        found = likelihood.quadrature(model, x)
        np.testing.assert_allclose(found.log_density, exact, atol=1e-3)
        assert found.error.max() < 1e-3


def test_probabilistic_pca_is_that_of_scikit_learn():
    train = data.drawn(Data(clusters=2, dimension=5, separation=3), 1).draw(300, 0)[0].astype(np.float64)
    points = train[:50] + 0.5
    for q in (1, 2, 4):
        weights, sigma2 = yardsticks.principal(np.cov(train, rowvar=False), q)  # scikit-learn divides by n - 1
        ours = yardsticks.single(train.mean(0), weights @ weights.T + sigma2 * np.eye(5))
        np.testing.assert_allclose(ours.log_density(points), PCA(q).fit(train).score_samples(points), rtol=1e-9)
        best = yardsticks.ppca(train, q).log_density(train).mean()
        assert best > ours.log_density(train).mean()  # dividing by n is the maximum
    whole = yardsticks.gaussian(train)
    for q in (4, 5, 9):
        np.testing.assert_allclose(yardsticks.ppca(train, q).covariances, whole.covariances, atol=1e-12)
    np.testing.assert_allclose(
        whole.log_density(points), multivariate_normal(train.mean(0), np.cov(train.T, bias=True)).logpdf(points)
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_em_finds_the_clusters_at_any_scale(scale):
    mixture = data.drawn(Data(clusters=3, dimension=2, separation=12), 0)
    train, test = (mixture.draw(n, n)[0].astype(np.float64) for n in (4_000, 1_000))
    found = yardsticks.gmm(train * scale, 3, 0).log_density(test * scale) + 2 * math.log(scale)
    assert mixture.log_density(test).mean() - found.mean() < 0.02


def test_of_one_gaussian_no_way_back_beats_that_of_pca():
    """There E(x | y) is linear, so that the best projection is that of PCA, and its error the smallest eigenvalues."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    truth = yardsticks.single(rng.normal(size=5), basis * [9.0, 4.0, 1.0, 0.25, 0.04] @ basis.T)
    train, test = truth.draw(4000, 1)[0], truth.draw(20_000, 2)[0]
    for q, left in ((1, 5.29), (2, 1.29), (3, 0.29), (5, 0.0)):
        assert yardsticks.cluster_error(truth, q) == pytest.approx(left / 5)
        assert yardsticks.pca_error(train, test, q) == pytest.approx(left / 5, rel=0.03)
        assert yardsticks.projection_error(truth, train, test, q, 0) == pytest.approx(left / 5, rel=0.03)


def test_a_projection_is_restored_by_the_conditional_mean():
    """x - E(x | y) of a mixture, against draws of it whose y is within a hair of that asked for."""
    mixture = data.drawn(Data(dimension=2, clusters=3), 3)
    axes = torch.linalg.qr(torch.tensor([[1.0], [0.5]], dtype=torch.float64)).Q
    x = torch.from_numpy(mixture.draw(400_000, 7)[0]).double()
    for y in (-2.0, 0.0, 3.0):
        near = x[((x @ axes)[:, 0] - y).abs() < 0.04]
        assert len(near) > 500
        spread = (near - near.mean(0)).square().mean()
        torch.testing.assert_close(yardsticks.unsaid(mixture, axes, near), spread, rtol=0.02, atol=0)


def test_the_best_projection_is_found_where_pca_looks_the_wrong_way():
    """Two clusters that differ across the long axis: along it PCA says where in a cluster, not which."""
    sigma = np.diag([4.0, 0.01])
    mixture = Mixture(np.array([0.5, 0.5]), np.array([[0.0, 3.0], [0.0, -3.0]]), np.stack([sigma, sigma]))
    sheared = Mixture(mixture.weights, mixture.means, mixture.covariances + np.diag([6.0, 0.0]))
    train, test = sheared.draw(2000, 1)[0], sheared.draw(5000, 2)[0]
    found = yardsticks.projection_error(sheared, train, test, 1, 0)
    assert yardsticks.pca_error(train, test, 1) > 4  # the nine of the second number are lost, by half
    assert found < 0.3  # one slanted number says both: which cluster, and nearly where in it
    for q in (1, 2):
        best = yardsticks.projection_error(sheared, train, test, q, 0)
        assert yardsticks.cluster_error(sheared, q) <= best + 0.01


@pytest.mark.parametrize("scale", [1e-6, 1e12])
def test_the_best_projection_scales_with_the_data(scale):
    mixture = data.drawn(Data(dimension=4), 1)
    large = Mixture(mixture.weights, mixture.means * scale, mixture.covariances * scale**2)
    train, test = mixture.draw(1000, 1)[0], mixture.draw(2000, 2)[0]
    one = yardsticks.projection_error(mixture, train, test, 2, 0)
    other = yardsticks.projection_error(large, train * np.float32(scale), test * np.float32(scale), 2, 0)
    assert other == pytest.approx(one * scale**2, rel=0.02)


@pytest.mark.parametrize("variance", ["dimension", "shared", "full"])
@pytest.mark.parametrize("latent", [1, 2])
def test_quadrature_is_the_obvious_sum_and_importance_sampling_agrees(variance, latent):
    model = vae(2, std=0.4, latent=latent, variance=variance, hidden=8, depth=1)
    with torch.no_grad():  # q(z | x) is the prior, a bad proposal, but one that misses nothing
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.zero_()
        x = model.decode(torch.randn(12, latent)).mean
        found = likelihood.quadrature(model, x)
        line = torch.linspace(-6.5, 6.5, 12_001 if latent == 1 else 801)
        z = torch.cartesian_prod(*[line] * latent).view(-1, latent)
        said = model.decode(z)
        log_weights = Gauss(0.0, 1.0).log_prob(z).sum(-1) + latent * math.log(float(line[1] - line[0]))
        sums = torch.stack([(said.log_density(row) + log_weights).double().logsumexp(0) for row in x])
    np.testing.assert_allclose(found.log_density, sums, atol=5e-4)
    assert found.error.max() < likelihood.ENOUGH
    sampled = likelihood.importance(model, x, 20_000, 0)
    difference = (sampled.log_density - found.log_density).abs()
    assert (difference < 5 * sampled.error + 1e-3).all()
    assert sampled.error.max() < 0.2


@pytest.mark.parametrize("latent", [1, 2])
def test_kept_grids_give_the_same_answer_and_are_not_decoded_again(latent, monkeypatch):
    model = vae(2, std=0.4, latent=latent, hidden=8, depth=1)
    kept: likelihood.Kept = {}
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    plain = likelihood.quadrature(model, x)
    first, spoken, decoded = likelihood.quadrature(model, x, kept), model.spoken, []
    monkeypatch.setattr(model, "spoken", lambda z: decoded.append(len(z)) or spoken(z))
    second = likelihood.quadrature(model, x, kept)
    for found in (first, second):
        assert torch.equal(found.log_density, plain.log_density) and torch.equal(found.error, plain.error)
    assert kept and not decoded


def test_importance_sampling_needs_no_memory_for_all_samples(monkeypatch):
    model = vae(3, latent=3)
    x = torch.randn(7, 3)
    whole = likelihood.importance(model, x, 300, 4)
    sizes = []
    spoken = model.spoken
    monkeypatch.setattr(model, "spoken", lambda z: sizes.append(z[..., 0].numel()) or spoken(z))
    monkeypatch.setattr(likelihood, "ROWS", 64)
    pieces = likelihood.importance(model, x, 300, 4)
    assert max(sizes) <= 64
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert (whole.largest > 1 / 300).all() and (likelihood.importance(model, x, 1, 4).largest == 1).all()
    alone = likelihood.importance(model, x[:2], 300, 4)  # a row's answer does not depend on the rows after it
    torch.testing.assert_close(alone.log_density, whole.log_density[:2], rtol=1e-5, atol=1e-5)


def test_a_posterior_narrower_than_the_grid_is_found():
    """With a decoder that is the identity with sd 0.02, whose integral is known: N(x; 0, 1 + 0.02^2)."""
    model = VAE(2, Model(latent=2, depth=0, variance="shared", varying=False)).eval()
    with torch.no_grad():
        model.decoder[0].weight.copy_(torch.eye(2))
        model.decoder[0].bias.zero_()
        model.constant.fill_(math.log(0.02))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    found = likelihood.quadrature(model, x)
    exact = Gauss(0.0, math.sqrt(1 + 0.02**2)).log_prob(x).sum(1)
    np.testing.assert_allclose(found.log_density, exact, atol=2e-3)


# -- the verbs


def test_evaluate_says_everything_on_the_same_draws(trained, capsys):
    found = evaluated(trained, capsys)
    assert {"gap", "gap_se", "entropy", "entropy_se", "nll", "elbo", "ppca", "gaussian", "gmm", "iwae"} <= found.keys()
    one = task.make(config.parse(Config, [str(trained / "config.yaml")]), CPU)
    test = one.parts["test"]
    assert found["entropy"] == pytest.approx(-one.mixture.log_density(test.x).mean())
    assert found["gaussian"] == pytest.approx(-yardsticks.gaussian(one.parts["train"].x).log_density(test.x).mean())
    assert found["ppca"] == pytest.approx(found["gaussian"])  # as many latent numbers as dimensions
    assert found["gap"] == pytest.approx(found["nll"] - found["entropy"])
    assert found["nll"] == found["quadrature"]
    assert abs(found["quadrature"] - found["iwae"]) < found["iwae_error"] + found["quadrature_error"]
    assert found["entropy"] < found["gmm"] < found["nll"] < found["gaussian"]
    assert -found["elbo"] > found["nll"]
    one.model.load_state_dict(torch.load(trained / "checkpoints" / "best.pt", weights_only=True)["model"])
    density = likelihood.quadrature(one.model, torch.from_numpy(test.x)).log_density.numpy()
    assert found["gap_se"] == pytest.approx((test.truth - density).std(ddof=1) / math.sqrt(300))
    assert 0 < found["active"] <= 2
    assert found["reconstruction"] > 0
    assert found["reconstruction_pca"] == found["reconstruction_linear"] == 0  # 2 of 2 numbers
    assert found["reconstruction_cluster"] == 0
    valid = json.loads((trained / "result.json").read_text())["valid"]
    assert valid["gap"] == pytest.approx(found["gap"], abs=0.15)


def test_evaluate_on_other_data_needs_the_same_dimension(trained, capsys):
    assert evaluated(trained, capsys, "--data.clusters", "2")["gap"] > 0.1
    refused(["evaluate", str(trained), "--data.dimension", "3"], "this run has 2 dimensions, but sample 3", capsys)


def test_a_unit_that_says_nothing_is_not_active():
    one = made("--model.latent", "3")
    with torch.no_grad():
        one.model.encoder[-1].weight[1] = 0
        one.model.encoder[-1].weight[[0, 2]] = torch.randn(2, 32)
    from etude.train.totals import Totals

    totals = Totals()
    one.model.eval()
    totals.add(one.step(one.load("valid", np.arange(90), 0)))
    assert one.scores(totals)["active"] == 2


def test_what_is_sampled_for_an_example_does_not_depend_on_what_stands_beside_it():
    model = vae(4, latent=3)
    x = torch.randn(5, 4).repeat(2, 1)
    found = likelihood.best(model, x, 200, 7, -6)
    assert torch.equal(found.log_density[:5], found.log_density[5:])
    assert torch.equal(likelihood.best(model, x.flip(0), 200, 7, -6).log_density, found.log_density.flip(0))
    assert (found.error > 0).all()


def test_predict_gives_density_and_reconstruction_of_each_row(trained, capsys, tmp_path, monkeypatch):
    rows = made().parts["test"].x[:3].tolist()
    text = "".join(f"{a}, {b}\n" for a, b in rows)
    (tmp_path / "rows.csv").write_text(text + "\n")
    capsys.readouterr()
    assert main(["predict", str(trained), "rows.csv", "--out", "out.txt"]) == 0
    lines = [line.split("\t") for line in (tmp_path / "out.txt").read_text().splitlines()]
    assert len(lines) == 3
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert main(["predict", str(trained), "-"]) == 0
    assert capsys.readouterr().out == (tmp_path / "out.txt").read_text()
    one = task.restore(config.parse(Config, [str(trained / "config.yaml")]), {"dimension": 2})
    one.model.load_state_dict(torch.load(trained / "checkpoints" / "best.pt", weights_only=True)["model"])
    one.model.eval()
    x = torch.tensor(rows)
    density = likelihood.quadrature(one.model, x).log_density
    np.testing.assert_allclose([float(line[0]) for line in lines], density, atol=1e-4)
    said = one.model.decode(one.model.encode(x).mean)
    factor = said.factor()
    variances = (factor @ factor.mT).diagonal(dim1=1, dim2=2)
    for line, mean, variance in zip(lines, said.mean.tolist(), variances.tolist(), strict=True):
        for cell, m, v in zip(line[1:], mean, variance, strict=True):
            shown = [float(part) for part in cell.split(" ± ")]
            assert shown == pytest.approx([m, math.sqrt(v)], rel=0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1,2\n1,2,3\n", "rows.csv, line 2: 3 numbers, but this run has 2 dimensions"),
        (b"1,2\n\n1,two\n", "rows.csv, line 3: 'two' is not a number"),
        (b"1,\n", "rows.csv, line 1: '' is not a number"),
        (b"1,nan\n", "rows.csv, line 1: 'nan' is out of range"),
        (b"1,inf\n", "rows.csv, line 1: 'inf' is out of range"),
        (b"1,2\n1,\xff\n", "rows.csv, line 2: byte 0xff is not UTF-8"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(text, message, trained, tmp_path, capsys):
    (tmp_path / "rows.csv").write_bytes(text)
    refused(["predict", str(trained), "rows.csv", "--out", "out.txt"], message, capsys)
    assert not (tmp_path / "out.txt").exists()
    refused(["predict", str(trained), "none.csv"], "none.csv cannot be read", capsys)


def test_a_run_leaves_pictures_before_during_and_after(trained):
    names = sorted(file.name for file in (trained / "samples").iterdir())
    assert names == ["board-end.png", *(f"board-epoch-{n:03d}.png" for n in (0, 1, 2, 4))]


@pytest.mark.parametrize(("dimension", "latent"), [(1, 1), (1, 3), (2, 1), (3, 2), (5, 4)])
def test_pictures_of_any_size(dimension, latent):
    one = made("--data.dimension", str(dimension), "--model.latent", str(latent), "--model.variance", "full")
    one.model.eval()
    part = one.parts["valid"]
    first, again = (show.board(one.model, one.mixture, part.x, part.clusters, 0) for _ in range(2))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert first.size[0] > first.size[1] > 300


def test_samples_follow_the_model():
    model, mixture = linear(data.drawn(Data(clusters=1, dimension=3), 3).draw(500, 0)[0], 2)
    with torch.inference_mode():
        drawn = show.drawn(model, 40_000, 0)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), mixture.covariances[0], atol=0.12)
    np.testing.assert_allclose(drawn.mean(0), mixture.means[0], atol=0.05)


def test_normal_of_any_batch_shape():
    normal = Normal(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1))
    torch.testing.assert_close(normal.log_density(torch.zeros(4)), torch.full((2, 3), -2 * math.log(2 * math.pi)))


def test_an_estimate_that_few_samples_decide_says_so(tmp_path, capsys):
    """Its standard error would be small, and wrong: no sample has met what decides (Kong 1992)."""
    run, rows = str(tmp_path / "run"), tmp_path / "rows.csv"
    few = "--data.train 2000 --data.valid 200 --data.test 200 --fit.epochs 3 --fit.device cpu".split()
    assert main(["train", *few, "--data.dimension", "3", "--objective.kl", "0.1", "--run", run]) == 0
    rows.write_text("30,0,0\n0.1,0.2,0.1\n1e18,0,0\n")
    capsys.readouterr()
    assert main(["predict", run, str(rows)]) == 0
    far, near, beyond = capsys.readouterr().out.splitlines()
    assert far.startswith("at least -") and " ± " in near.split("\t")[0]
    assert beyond.startswith("too far away to say\t")
    answer = demo.demo(cli.restored(PACKAGE, Path(run))).panels[-1].answer
    assert answer("1e18,0,0").headline == "too far away to say" and answer("30,0,0").headline.startswith("at least -")
    assert main(["evaluate", run]) == 0
    out = capsys.readouterr().out
    few = json.loads(out.splitlines()[-1])["iwae_few"]
    assert 0.01 < few <= 1 and f"{few:.0%} of the examples rest on fewer than ten effective samples" in out


def test_effective_samples_are_kongs():
    """(sum w)^2 / sum w^2 of the weights themselves."""
    torch.manual_seed(0)
    model, x = VAE(2, Model(latent=1, hidden=8, depth=1)), torch.randn(3, 2)
    drawn = likelihood.noise(torch.arange(3), 50, 1, 7)
    with torch.inference_mode():
        weighed = model(x, drawn)
        weights = (weighed.log_likelihood + weighed.log_ratio).double().exp()
    found = likelihood.importance(model, x, 50, 7)
    torch.testing.assert_close(found.effective, weights.sum(1) ** 2 / weights.square().sum(1))
