"""The models and the measures, held against references or slow, obvious versions."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from cifar_vae import restoring, sample, show, yardsticks
from cifar_vae.book import Codebook, Grid, distances
from cifar_vae.config import Model
from cifar_vae.model import Autoencoder, Patches, principal
from cifar_vae.pictures import plain

KINDS = {
    "ae": {"latent": 10},
    "vae": {"kind": "vae", "latent": 10},
    "vq": {"kind": "vq", "latent": 16, "codes": 12, "code": 4},
    "vq of 64": {"kind": "vq", "latent": 64, "codes": 12, "code": 4, "depth": 2},
    "fsq": {"kind": "fsq", "latent": 16, "levels": (5, 4)},
    "fsq of 256": {"kind": "fsq", "latent": 256, "levels": (3, 3, 3), "depth": 0},
    "ae from PCA": {"latent": 10, "linear": True},
    "vq, no path": {"kind": "vq", "latent": 16, "codes": 12, "code": 4, "linear": False},
}


def images(count=40):
    return plain(torch.from_numpy(sample.drawn("train", 120)[0][:count]))


def made(kind, begin=True, **knobs):
    torch.manual_seed(0)
    model = Autoencoder(Model(**{"width": 4, **KINDS[kind], **knobs})).eval()
    if begin:
        model.begin(images(), 0)
    return model


# -- the autoencoders


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_that_pictures_do_not_see_each_other(kind):
    model, x = made(kind), images(6)
    with torch.no_grad():
        for module in (model.encoder, model.decoder):  # which at first add nothing
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        coded = model.encode(x)
        read = model.read(coded)
        assert coded.mean.shape == read.latent.shape == (6, model.places, model.size)
        assert (read.codes is not None) == (model.book is not None)
        whole = model(x)
        assert whole.shape == x.shape
        torch.testing.assert_close(model(x[2:3]), whole[2:3], rtol=1e-4, atol=1e-4)


def test_weights_are_counted_as_they_are():
    for kind, linear in itertools.product(("ae", "vae", "vq", "fsq"), (None, True, False)):
        for latent, depth, width in ((16, 0, 3), (64, 1, 4), (256, 2, 2)):
            config = Model(kind=kind, latent=latent, depth=depth, width=width, linear=linear, codes=24, code=5)
            one = Autoencoder(config)
            found = sum(weight.numel() for weight in one.parameters() if weight.dim() > 1)
            found += one.book.seen.running_mean.numel() if kind == "vq" else 0
            assert config.weights == found


def test_training_begins_where_pca_ends():
    model, x = made("ae from PCA"), images()
    pca = PCA(10, svd_solver="full").fit(x.flatten(1).double())
    expected = pca.inverse_transform(pca.transform(x.flatten(1).double()))
    with torch.no_grad():
        found = model(x)
        latents = model.encode(x).mean[:, 0]
    np.testing.assert_allclose(found.flatten(1), expected, atol=2e-3)
    np.testing.assert_allclose(latents.var(0, correction=0), 1, rtol=1e-3)


def test_at_principal_components_the_encoder_has_nothing_to_learn():
    """Why training that begins there hardly leaves: what PCA loses is at right angles to all that its decoder makes."""
    x, found = images(), []
    for turned in (False, True):
        model = made("ae from PCA")
        if turned:  # a decoder of other directions, as long as those of PCA
            with torch.no_grad():
                weight = model.linear_out.weight
                torch.manual_seed(1)
                weight.copy_(torch.linalg.qr(torch.randn_like(weight)).Q * weight.norm(dim=0))
        latents = model.encode(x).mean
        (gradient,) = torch.autograd.grad(restoring.squares(x, model.decode(latents)).sum(), latents)
        found.append(gradient.flatten(1).norm(dim=1))
    assert found[0].max() < 0.001 * found[1].median()


def test_principal_components_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    for n, d, count in ((200, 30, 5), (20, 900, 6), (300, 900, 7)):
        rows = torch.randn(n, d, generator=generator) * torch.logspace(1, -1, d)
        rows = rows - rows.mean(0)
        directions, spread = principal(rows, count)
        known = PCA(count, svd_solver="full").fit(rows.double())
        np.testing.assert_allclose(spread, np.sqrt(known.explained_variance_ * (n - 1) / n), rtol=5e-3)
        # Where variances are nearly alike, single directions may be mixed; what all of them hold may not be less.
        np.testing.assert_allclose(directions @ directions.T, np.eye(count), atol=1e-3)
        held = float((rows @ directions.T).square().sum()) / (n * known.explained_variance_.sum() * (n - 1) / n)
        assert 0.98 < held < 1.001
    few, spread = principal(rows[:4] - rows[:4].mean(0), 7)  # three directions, and four that are not there
    assert (few.norm(dim=1) > 0.5).tolist() == [True] * 3 + [False] * 4 and (spread[3:] == 1).all()


@pytest.mark.parametrize("kind", ["vq", "vq of 64", "ae"])
def test_pieces_are_cut_and_put_together_as_the_obvious_loop_does(kind):
    model, x = made(kind, begin=False), images(3)
    pieces = model.pieces(x)
    assert torch.equal(model.whole(pieces), x)
    r = 32 if kind == "ae" else 32 // model.side
    for p in range(model.places):
        top, left = p // (32 // r) * r, p % (32 // r) * r
        assert torch.equal(pieces[:, p], x[:, :, top : top + r, left : left + r].flatten(1))


def test_patches_are_the_principal_components_of_the_obvious_loop():
    x = images()
    centred = x - x.mean(0)
    patches = Patches()
    assert torch.equal(patches.whole(patches(x)), x)
    patches.begin(centred)
    rows = torch.stack(
        [p[:, i : i + 4, j : j + 4].flatten() for p in centred for i in range(0, 32, 4) for j in range(0, 32, 4)]
    )
    pca = PCA(48, svd_solver="full").fit(rows)
    known = pca.transform(rows) / pca.singular_values_**0.5 * len(rows) ** 0.25
    found = patches(centred)
    assert found.shape == (40, 48, 8, 8)
    same = found.permute(0, 2, 3, 1).flatten(0, 2).abs() - torch.from_numpy(known).abs()
    assert same[:, :20].abs().max() < 1e-2  # those whose variances are well apart
    torch.testing.assert_close(patches.whole(found), centred, rtol=0, atol=1e-4)


def test_a_place_of_the_map_sees_its_own_corner_of_the_picture():
    """The linear path and the convolutions agree on which place is where."""
    model, x = made("vq of 64", linear=False, depth=0), images(1)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        changed = x.clone()
        changed[:, :, 28:, :4] += 1  # the corner of place 56
        latent = model.encode(x).mean
        moved = (model.encode(changed).mean - latent).abs().sum(-1)[0]
        assert moved[56] > 0 and set(moved.nonzero()[:, 0].tolist()) <= {48, 49, 56, 57}
        other = latent.clone()
        other[0, 56] += 3
        away = (model.decode(other) - model.decode(latent)).abs().sum(1)[0]
        assert away[28:, :4].min() > 0 and away[:20].max() == 0 and away[:, 12:].max() == 0


def test_a_sample_has_the_mean_and_variance_that_the_encoder_says():
    model, x = made("vae"), images(3)
    with torch.no_grad():
        torch.nn.init.normal_(model.to_latent.weight, std=0.2)
        torch.nn.init.normal_(model.encoder[0].weight, std=0.2)
        coded = model.encode(x)
        noise = torch.randn(4000, *coded.mean.shape, generator=torch.Generator().manual_seed(0))
        drawn = torch.stack([model.read(coded, some).latent for some in noise])
    deviation = (0.5 * coded.log_variance).exp()
    np.testing.assert_allclose((drawn.mean(0) - coded.mean) / deviation, torch.zeros_like(deviation), atol=0.07)
    np.testing.assert_allclose(drawn.var(0), coded.log_variance.exp(), rtol=0.15)
    mean, log_variance = coded.mean, coded.log_variance
    exact = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(restoring.divergence(mean, log_variance), exact, rtol=1e-4, atol=1e-4)


def test_losses_are_those_of_torch():
    x, y = images(5), images(40)[5:10]
    mse = torch.stack([F.mse_loss(a, b, reduction="sum") for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(restoring.distance(x, y, "mse"), mse)
    torch.testing.assert_close(
        restoring.distance(x, y, "logcosh"), (x - y).double().cosh().log().sum((1, 2, 3)).float(), rtol=1e-5, atol=1e-3
    )
    for a, b, found in zip(x, y, restoring.distance(x, y, "gaussian"), strict=True):
        likelihoods = [-Normal(b, sd).log_prob(a).sum() for sd in torch.linspace(0.05, 1, 400)]
        assert float(found) == pytest.approx(float(min(likelihoods)), rel=1e-4)


# -- codebooks


def trained_book(decay=0.9, restart=False, codes=6, size=3):
    book = Codebook(codes, size, decay, restart)
    generator = torch.Generator().manual_seed(3)
    book.begin(torch.randn(500, size, generator=generator), 0)
    return book.train(), generator


def test_codes_are_the_running_means_of_the_paper():
    """van den Oord et al. 2017, appendix A.1: N = g N + (1 - g) n, m = g m + (1 - g) sum z, e = m / N."""
    book, generator = trained_book()
    use, codes = (x.double().numpy() for x in book.statistics())
    count, total = use.copy(), use[:, None] * codes
    for _ in range(5):
        said = torch.randn(4, 7, 3, generator=generator)
        nearest = ((said.double().numpy()[:, :, None] - codes) ** 2).sum(-1).argmin(-1)
        _, which, apart = book(said)
        assert np.array_equal(which.numpy(), nearest)
        away = ((said.double().numpy() - codes[nearest]) ** 2).sum((1, 2))
        np.testing.assert_allclose(apart.numpy(), away, rtol=1e-4)
        for k in range(6):
            mine = said.double().numpy()[nearest == k]
            count[k] = 0.9 * count[k] + 0.1 * len(mine) / 28
            total[k] = 0.9 * total[k] + 0.1 * mine.sum(0) / 28
        codes = total / count[:, None]
        np.testing.assert_allclose(book.statistics()[1], codes, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(book.statistics()[0], count, rtol=1e-4, atol=1e-6)


def test_the_gradient_goes_straight_through():
    book, generator = trained_book()
    said = torch.randn(2, 5, 3, generator=generator, requires_grad=True)
    found, _, apart = book(said)
    (found * torch.arange(30.0).view(2, 5, 3)).sum().backward(retain_graph=True)
    assert torch.equal(said.grad, torch.arange(30.0).view(2, 5, 3))
    said.grad = None
    apart.sum().backward()
    torch.testing.assert_close(said.grad, 2 * (said - found).detach())


def test_k_means_begins_no_worse_than_rows_drawn():
    rows = torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    book = Codebook(20, 4, 0.99, True)
    book.begin(rows, 0)
    codes = book.statistics()[1]
    away = (torch.cdist(rows, codes).amin(1) ** 2).mean()
    assert away < 0.8 * (torch.cdist(rows, rows[:20]).amin(1) ** 2).mean()
    from sklearn.cluster import KMeans

    assert away < 1.05 * -KMeans(20, n_init=3, random_state=0).fit(rows.numpy()).score(rows.numpy()) / 800


def test_dead_codes_are_drawn_anew_beside_those_that_are_used_most():
    book = Codebook(8, 2, 0.99, True)
    codes = torch.arange(16.0).view(8, 2)
    use = torch.tensor([0.3, 0.0, 0.2, 0.1, 1e-9, 0.2, 0.1, 0.1])
    book.write(use, codes)
    before = book.statistics()[1].clone()
    book.revive()
    after_use, after = book.statistics()
    np.testing.assert_allclose(after_use, [0.15, 0.15, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1], rtol=1e-5)
    near = 0.1 * before.std(0) * 4
    assert ((after[1] - codes[0]).abs() < near).all() and ((after[4] - codes[2]).abs() < near).all()
    assert not torch.equal(after[1], codes[0])
    np.testing.assert_allclose(after[[0, 2, 3, 5, 6, 7]], codes[[0, 2, 3, 5, 6, 7]], rtol=1e-5)
    book.eval()(torch.zeros(2, 3, 2))  # in evaluation nothing is learnt
    assert torch.equal(book.statistics()[1], after)


def test_a_collapsed_codebook_comes_back_to_life():
    """All codes but one far away: without a restart only one is ever used."""
    generator, used = torch.Generator().manual_seed(0), {}
    for restart in (False, True):
        book = Codebook(16, 2, 0.9, restart).train()
        book.write(torch.full((16,), 1 / 16), torch.cat([torch.zeros(1, 2), torch.full((15, 2), 100.0)]))
        for _ in range(150):
            book(torch.randn(16, 8, 2, generator=generator))
        which = book.eval()(torch.randn(64, 8, 2, generator=generator))[1]
        used[restart] = len(which.unique())
    assert used == {False: 1, True: used[True]} and used[True] >= 14


@pytest.mark.parametrize("levels", [(8, 8, 8), (5, 4), (2,), (3, 2, 7)])
def test_a_grid_has_all_its_codes_and_each_says_its_numbers(levels):
    grid = Grid(levels)
    said = 3 * torch.randn(400, 50, len(levels), generator=torch.Generator().manual_seed(0))
    rounded, which, _ = grid(said)
    assert which.min() >= 0 and which.max() < grid.codes
    assert len(which.unique()) > 0.8 * grid.codes
    torch.testing.assert_close(grid.at(which), rounded, rtol=0, atol=1e-5)
    for axis, count in enumerate(levels):
        found = rounded[..., axis].mul(100).round().unique()
        assert len(found) == count and found.min() >= -100 and found.max() <= 100
    everything = grid.at(torch.arange(grid.codes))
    assert len(everything.unique(dim=0)) == grid.codes


def test_distances_order_codes_as_euclid_does():
    generator = torch.Generator().manual_seed(0)
    rows, codes = torch.randn(50, 5, generator=generator), torch.randn(9, 5, generator=generator)
    assert torch.equal(distances(rows, codes).argmin(1), torch.cdist(rows, codes).argmin(1))


# -- what is known exactly


def test_moments_are_exact(monkeypatch):
    monkeypatch.setattr(yardsticks, "VALUES", 48)
    pictures = np.ascontiguousarray(sample.drawn("train", 120)[0][:, :, 12:16, 12:16])
    mean, second = yardsticks.moments(np.concatenate([pictures] * 9))
    rows = pictures.reshape(120, -1).astype(np.int64) - 128
    np.testing.assert_array_equal(np.round(mean * 120).astype(int), rows.sum(0))
    np.testing.assert_allclose(second, rows.T @ rows / 120, rtol=0, atol=1e-9)
    white = np.zeros((1000, 48), np.uint8)  # the largest squares: none is rounded
    assert yardsticks.moments(white)[1].min() == 128**2


@pytest.mark.parametrize("count", [40, 120])
def test_pca_errors_are_those_of_scikit_learn(count, monkeypatch):
    """On corners of 4 x 4 pixels, of which there are fewer or more than they have values."""
    monkeypatch.setattr(yardsticks, "VALUES", 48)
    train, test = (sample.drawn(part, n)[0][:, :, 12:16, 12:16] for part, n in (("train", 120), ("test", 40)))
    train = train[:count]
    errors = yardsticks.pca(yardsticks.spectrum(train), test)
    x, y = (part.reshape(len(part), -1) / 255 for part in (train, test))
    for k in (1, 20, 39):
        pca = PCA(k, svd_solver="full").fit(x)
        assert errors[k] == pytest.approx(((pca.inverse_transform(pca.transform(y)) - y) ** 2).mean(), rel=1e-4)
    assert errors[0] == pytest.approx(((y - x.mean(0)) ** 2).mean())
    assert (np.diff(errors) <= 1e-12).all()


def test_the_rate_of_a_gaussian_is_that_of_the_book():
    """One variance: D = v 2^(-2R). Several: by a fine search over water levels."""
    one = np.full(3072, 0.04)
    for bits in (100, 3072, 9000):
        assert yardsticks.distortion(one, bits) == pytest.approx(0.04 * 2 ** (-2 * bits / 3072), rel=1e-9)
    variances = np.geomspace(5, 1e-4, 3072)
    for bits in (1, 64, 576, 4000):
        levels = np.geomspace(1e-8, 5, 20_001)
        rates = np.array([0.5 * np.log2(np.maximum(variances / level, 1)).sum() for level in levels])
        expected = np.minimum(variances, levels[np.abs(rates - bits).argmin()]).sum() / 3072
        assert yardsticks.distortion(variances, bits) == pytest.approx(expected, rel=2e-3)
    assert yardsticks.distortion(variances, 0) == pytest.approx(variances.mean())
    assert yardsticks.distortion(np.zeros(5), 10) == 0


def test_how_far_pictures_are_apart_is_the_mean_over_all_pairs():
    pictures = sample.drawn("test", 40)[0]
    rows = pictures.reshape(40, -1) / 255
    pairs = [((rows[i] - rows[j]) ** 2).mean() for i in range(40) for j in range(40) if i != j]
    mean, median = yardsticks.apart(pictures)
    assert mean == pytest.approx(np.mean(pairs))
    assert median == pytest.approx(np.median(pairs), rel=0.15)


def test_the_nearest_picture_is_found():
    train, test = sample.drawn("train", 120)[0], sample.drawn("test", 40)[0]
    x, y = (part.reshape(len(part), -1) / 255 for part in (train, test))
    expected = np.mean([((x - row) ** 2).mean(1).min() for row in y])
    assert yardsticks.nearest(train, test) == pytest.approx(expected, rel=1e-4)
    assert yardsticks.nearest(np.concatenate([train, test]), test) < 1e-6


def test_image_files_cost_their_whole_length(tmp_path):
    from PIL import Image

    pictures = sample.drawn("test", 40)[0][:3]
    found = {(p["format"], p["quality"]): p for p in yardsticks.image_files(pictures)}
    sizes = []
    for n, picture in enumerate(pictures):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / f"{n}.jpg", quality=10)
        sizes.append(8 * (tmp_path / f"{n}.jpg").stat().st_size)
    assert found["JPEG", 10]["bits"] == np.mean(sizes)
    assert found["JPEG", 1]["mse"] > found["JPEG", 40]["mse"] > 0
    files = [{"format": "X", "bits": 100.0, "mse": 0.02}, {"format": "X", "bits": 200.0, "mse": 0.01}]
    assert yardsticks.at_bits(files, "X", 150) == pytest.approx(math.sqrt(0.02 * 0.01))
    assert yardsticks.at_bits(files, "X", 200) == pytest.approx(0.01)
    assert yardsticks.at_bits(files, "X", 99) is None


def test_the_transform_code_is_that_of_the_obvious_loop(monkeypatch):
    monkeypatch.setattr(yardsticks, "VALUES", 48)
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (n, 3, 4, 4)).astype(np.uint8) // 2 + 60 for n in (30, 25))
    known = PCA(29, svd_solver="full").fit(train.reshape(30, -1) / 255)  # 30 pictures have 29 directions
    for point in yardsticks.transform_code(yardsticks.spectrum(train), test):
        restored, said = np.zeros((25, 48)), []
        for row, picture in enumerate(test.reshape(25, -1) / 255):
            levels = [
                round(float((picture - known.mean_) @ direction) / point["step"]) for direction in known.components_
            ]
            restored[row] = known.mean_ + point["step"] * np.array(levels) @ known.components_
            said.append(levels)
        errors = ((restored - test.reshape(25, -1) / 255) ** 2).mean(1)
        assert point["mse"] == pytest.approx(errors.mean(), rel=1e-4)
        assert point["mse_se"] == pytest.approx(errors.std(ddof=1) / 5, rel=1e-3)
        bits = 0.0
        for column in zip(*said, strict=True):
            # a direction is known but for its sign, and so are its levels: their counts are not
            bits -= sum(column.count(level) / 25 * np.log2(column.count(level) / 25) for level in set(column))
        assert point["bits"] == pytest.approx(bits, abs=1e-6)


def test_entropy_is_that_of_the_frequencies():
    assert yardsticks.entropy(np.array([4, 4, 0, 8])) == pytest.approx(1.5)
    assert yardsticks.entropy(np.array([[1, 1], [5, 0]])) == pytest.approx(0.5)


# -- pictures


@pytest.mark.parametrize("kind", KINDS)
def test_samples_walks_and_the_network_can_be_drawn(kind):
    model = made(kind)
    with torch.no_grad():
        latents = model.read(model.encode(images())).latent
    config = Model(**{"width": 4, **KINDS[kind]})
    drawn = show.samples(config, latents, 0)
    assert drawn.shape == (show.MANY, model.places, model.size)
    assert torch.equal(drawn, show.samples(config, latents, 0))
    if model.book is not None:  # made of codes that there are
        assert set(map(tuple, drawn.flatten(0, 1).tolist())) <= set(map(tuple, latents.flatten(0, 1).tolist()))
    walked = show.walks(latents)
    assert walked.shape == (show.MANY, model.places, model.size)
    torch.testing.assert_close(walked[[0, show.STEPS - 1]], latents[:2])
    picture = show.architecture(model)
    assert picture.size[0] > 300 and picture.size[1] > 300


def test_samples_of_an_ae_have_the_covariance_of_its_latents(monkeypatch):
    monkeypatch.setattr(show, "MANY", 20_000)
    mixing = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    latents = (torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)) @ mixing + 2)[:, None]
    drawn = show.samples(Model(latent=3), latents, 0)[:, 0]
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(latents[:, 0].T), atol=0.15)
    np.testing.assert_allclose(drawn.mean(0), latents[:, 0].mean(0), atol=0.06)


def test_one_number_at_a_time_is_moved():
    latents = torch.randn(200, 1, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5, 2, 0.1, 3])
    moved = show.turned(latents[0], latents).view(-1, show.STEPS, 5)
    for row, k in zip(moved, (1, 4, 2, 0), strict=True):
        others = [j for j in range(5) if j != k]
        assert torch.equal(row[:, others], latents[0, 0, others].expand(show.STEPS, -1))
        low, high = (latents[:, 0, k].mean() + sign * 2 * latents[:, 0, k].std() for sign in (-1, 1))
        torch.testing.assert_close(row[[0, -1], k], torch.stack([low, high]))
