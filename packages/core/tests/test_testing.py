"""The battery passes a sound task and fails each deliberately broken one, for the right reason."""

from dataclasses import replace

import pytest
from toy.__main__ import PACKAGE
from toy.config import SCORES, Config
from toy.task import Toy

from etude import cli, config
from etude.testing import check_scores, check_task
from etude.train import evidence

INPUTS = ["123", "9", "40"]


def test_a_sound_task_passes(tmp_path):
    check_task(PACKAGE, [], INPUTS, tmp_path)


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("padding", "valid .*: the sum depends on the batch size: on padding"),
        ("padding-train", "train .*: the sum depends on the batch size: on padding"),
        ("generator", "train .*: the sum depends on the batch size: .* a generator's state"),
        ("means", "valid .*: the count depends on the batch size"),
        ("means-train", "train .*: the count depends on the batch size"),
        ("steer", "Task.show changes the training"),
        ("part-size", "loss without some examples is not loss of the others: `scores` takes more than the totals"),
        ("state", "missing from the checkpoint"),
        ("fingerprint", "two parts have the same fingerprint"),
        ("penalty", "a batch of 11 examples in 4 pieces has another sum of loss than in one"),
        ("ranks", "two processes train to other weights than one"),
        ("apart", "two processes cannot train it: .*come apart"),
        ("remembers", r"evaluate gives the loss 1\.\d+, the best checkpoint has 1\.\d+"),
        ("default", "a run answers for another fit.weight-decay than it was trained with"),
        ("stack", r"in a stack of runs that differ in fit.seed, train loss of epoch 1 is [\d.]+, alone [\d.]+"),
    ],
)
def test_a_broken_task_fails(flaw, reason, tmp_path):
    with pytest.raises(AssertionError, match=reason):
        check_task(PACKAGE, ["--flaw", flaw], INPUTS, tmp_path)


def test_a_task_that_keeps_too_little_to_predict_fails(tmp_path):
    with pytest.raises(KeyError):
        check_task(PACKAGE, ["--flaw", "assets"], INPUTS, tmp_path)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"accuracy": "higher"}, "Package.scores does not say which way loss is better"),
        ({"loss": "lower"}, "Package.scores does not say which way accuracy is better"),
        (SCORES | {"f1": "higher"}, "Package.scores has f1, which validation and evaluate do not both give"),
    ],
)
def test_a_task_that_does_not_say_which_way_its_scores_are_better_fails(scores, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "better", scores)
    with pytest.raises(AssertionError, match=reason):
        checked(replace(PACKAGE, scores=scores), tmp_path)
    monkeypatch.setattr(Toy, "better", SCORES)
    with pytest.raises(AssertionError, match="Task.better is not Package.scores"):
        checked(replace(PACKAGE, scores=scores), tmp_path)


def test_a_score_without_a_definition_fails(tmp_path):
    with pytest.raises(AssertionError, match="Package.meanings does not say what accuracy is, and in which unit"):
        checked(replace(PACKAGE, meanings={"loss": "cross-entropy, in nats"}), tmp_path)


def test_scores_of_which_neither_way_is_better_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "better", {"accuracy": "higher"})
    checked(replace(PACKAGE, scores={"accuracy": "higher"}), tmp_path, ("loss",))


def test_scores_of_a_shared_test_part_need_evidence(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "stepped", lambda *_: {})
    with pytest.raises(AssertionError, match="loss has no evidence .*, but all seeds share one test part"):
        checked(PACKAGE, tmp_path)


def checked(package, folder, uncompared=()):
    """What `check_task` does with the scores, of a run that is there already."""
    parsed = config.parse(Config, ["--fit.epochs", "1", "--fit.device", "cpu"])
    if not (folder / "run").exists():
        flags = ["--fit.epochs", "1", "--fit.device", "cpu", "--run", str(folder / "run")]
        better, Toy.better = Toy.better, SCORES
        assert cli.main(PACKAGE, ["train", *flags]) == 0
        Toy.better = better
    check_scores(package, parsed, folder / "run", uncompared)
