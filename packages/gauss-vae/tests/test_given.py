"""Mixtures in files that are odd, or whose numbers no example in float32 can have."""

import json

import numpy as np
import pytest
import torch

from etude import config
from etude.errors import UserError
from gauss_vae import data, task, yardsticks
from gauss_vae.__main__ import main
from gauss_vae.config import Config, Data

SMALL = ["--data.train", "300", "--data.valid", "30", "--data.test", "40", "--fit.epochs", "1", "--importance", "20"]
EYE = [[1, 0], [0, 1]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(file, weights=(1, 1), means=((0, 0), (3, 3)), covariances=(EYE, EYE), before=""):
    content = {"weights": weights, "means": means, "covariances": covariances}
    file.write_text(before + json.dumps(content), encoding="utf-8")
    return str(file)


def test_a_byte_order_mark_is_read(tmp_path):
    file = written(tmp_path / "d.json", before="\ufeff")
    assert main(["train", "--data", file, *SMALL, "--run", "r"]) == 0
    assert main(["evaluate", "r"]) == 0
    (tmp_path / "rows.csv").write_text("\ufeff1,2\n", encoding="utf-8")
    assert main(["predict", "r", "rows.csv"]) == 0


TINY = (np.eye(2) * 1e-30).tolist()
ODD = {
    "tiny": ({"means": [[5, 5], [5, 5]], "covariances": [TINY, TINY]}, "standard deviation of 1e-15 around 5"),
    "far": ({"means": [[1e9, 1e9], [1e9 + 10, 1e9]]}, r"standard deviation of 1 around 1e\+09, where float32 rounds"),
    "far in one direction": ({"means": [[0, 0], [0, -1e9]]}, "cluster 1 has a standard deviation of 1"),
    "wide": ({"covariances": [EYE, [[1e300, 0], [0, 1e300]]]}, r"covariances has 1e\+300; numbers up to 1e\+30"),
    "heavy": ({"weights": [1e308, 1e308]}, r"weights has 1e\+308"),
    "beyond float32": ({"means": [[0, 0], [1e39, 0]]}, r"means has 1e\+39"),
    "negative": ({"means": [[0, 0], [-1e16, 0]]}, r"means has -1e\+16"),
}


@pytest.mark.parametrize("name", ODD)
def test_numbers_that_no_example_can_have_are_named(name, tmp_path, capsys):
    changed, says = ODD[name]
    file = written(tmp_path / "d.json", **changed)
    with pytest.raises(UserError, match=says):
        data.load(Data(file), 0)
    assert main(["train", "--data", file, *SMALL]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert file in line and not (tmp_path / "runs").exists()


def test_a_narrow_cluster_near_0_and_a_wide_one_far_away_can_be_drawn_from(tmp_path):
    means, wide = [[0, 0], [1e9, 0]], [[1e12, 0], [0, 1e-20]]
    mixture = data.load(Data(written(tmp_path / "d.json", means=means, covariances=[TINY, wide])), 0)
    x, clusters = mixture.draw(2000, 1)
    for k in (0, 1):
        np.testing.assert_allclose(x[clusters == k].std(0), np.sqrt(np.diag(mixture.covariances[k])), rtol=0.1)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data.separation", "1e30"], "1e15 at most"),
        (["--data.separation", "1e9"], "mixture of separation 1e.09 .* standard deviation"),
        (["--data.intrinsic", "1", "--data.noise", "1e-9"], "standard deviation"),
        (
            ["--data.dimension", "9", "--data.train", "9", "--data.clusters", "2"],
            "data.train 9 examples have no density",
        ),
    ],
)
def test_what_is_drawn_here_is_held_to_the_same(flags, says):
    with pytest.raises(UserError, match=says):
        task.make(config.parse(Config, flags), torch.device("cpu"))


def test_yardsticks_that_cannot_be_fitted_are_one_line(tmp_path, capsys, monkeypatch):
    assert main(["train", *SMALL, "--run", "r"]) == 0

    def singular(*_):
        raise np.linalg.LinAlgError("Matrix is not positive definite")

    monkeypatch.setattr(yardsticks, "gaussian", singular)
    capsys.readouterr()
    assert main(["evaluate", "r"]) == 2
    assert "no density can be fitted to 300 training examples (Matrix is not" in capsys.readouterr().err


def test_the_mixture_and_what_is_drawn_are_what_a_run_was_trained_on(tmp_path, capsys):
    file = written(tmp_path / "d.json")
    assert main(["train", "--data", file, *SMALL, "--run", "r"]) == 0
    written(tmp_path / "d.json", means=[[0, 0], [3, 3.5]])
    capsys.readouterr()
    for words in (["train", "--run", "r"], ["evaluate", "r"]):
        assert main(words) == 2
        assert "changed since" in capsys.readouterr().err
    assert main(["evaluate", "r", "--data", file]) == 0
    found = [
        dict(task.make(config.parse(Config, [*SMALL, *flags]), torch.device("cpu")).fingerprints)
        for flags in ([], [], ["--fit.seed", "1"], ["--data.separation", "5"], ["--data.test", "41"])
    ]
    assert found[0] == found[1]
    assert all(found[0][part] != other[part] for other in found[2:4] for part in ("train", "valid", "test"))
    assert found[0]["train"] == found[4]["train"] and found[0]["test"] != found[4]["test"]
