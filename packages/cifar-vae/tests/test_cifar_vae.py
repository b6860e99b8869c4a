"""The promises of every task, for each kind of model and for the classifier."""

import dataclasses

import pytest
from PIL import Image

from cifar_vae import data
from cifar_vae.__main__ import PACKAGE, main
from cifar_vae.config import CLASSIFYING, RESTORING
from etude import testing
from etude.testing import check_task

SMALL = ["--data.held-out", "0.3", "--fit.batch-size", "24", "--model.width", "8"]
KINDS = {
    "ae": ["--model.latent", "12", "--data.augment", "shift"],
    "vae": ["--model.kind", "vae", "--model.latent", "12", "--objective.warmup", "2", "--objective.kl", "0.2"],
    "vq": [
        "--model.kind",
        "vq",
        "--model.latent",
        "16",
        "--model.codes",
        "24",
        "--model.code",
        "4",
        "--model.no-linear",
    ],
    "fsq": [
        "--model.kind",
        "fsq",
        "--model.latent",
        "16",
        "--model.levels",
        "5",
        "4",
        "--objective.noise",
        "0.05",
        "--model.no-linear",
    ],
}


def studies_of(monkeypatch, scores):
    """Of the package's studies those whose metric is among these scores."""
    from etude.study.file import load

    all_of_them = testing.available("cifar_vae")
    mine = [name for name in all_of_them if load(name, "cifar_vae", PACKAGE.scores).metric in scores]
    monkeypatch.setattr(testing, "available", lambda _: mine)
    return dataclasses.replace(PACKAGE, scores=scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_battery(kind, few, tmp_path, monkeypatch):
    Image.fromarray(data.sample.drawn("test")[0][3].transpose(1, 2, 0)).save("3.png")
    runs = tmp_path / "runs"
    runs.mkdir()
    package = studies_of(monkeypatch, RESTORING)
    uncompared = ["bits", "kl_bits", "mse_sample", "perplexity", "used", "bits_entropy"]
    check_task(package, ["--data", few, *SMALL, *KINDS[kind]], [str(tmp_path / "3.png")], runs, uncompared)


def test_the_battery_of_the_classifier(few, tmp_path, monkeypatch):
    Image.fromarray(data.sample.drawn("test")[0][3].transpose(1, 2, 0)).save("3.png")
    assert main(["train", "--data", few, *SMALL, *KINDS["vae"], "--fit.epochs", "1", "--run", "start"]) == 0
    runs = tmp_path / "runs"
    runs.mkdir()
    package = studies_of(monkeypatch, CLASSIFYING)
    flags = ["--task", "classify", "--model.start", str(tmp_path / "start"), "--data", "start"]
    flags += ["--data.held-out", "0.3", "--fit.batch-size", "24", "--probe.features", "sample", "--probe.hidden", "64"]
    check_task(package, flags, [str(tmp_path / "3.png")], runs)
