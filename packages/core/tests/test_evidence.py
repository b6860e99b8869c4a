"""What is kept of a test part: blocks, leave-one-out scores, pseudo-values."""

import json
import math

import numpy as np
import pytest
import torch
from toy.__main__ import PACKAGE
from toy.task import Toy, make

from etude import cli, config
from etude.study import judge
from etude.train import evidence
from etude.train.device import Device
from etude.train.step import evaluate

CPU = Device(torch.device("cpu"), "fp32")


@pytest.fixture
def task():
    torch.manual_seed(0)
    return make(config.parse(PACKAGE.config, []), CPU.where)


def test_blocks_share_out_the_examples_alike_whatever_their_order():
    ids = np.arange(7, 130)
    parts = evidence.blocks(ids)
    assert len(parts) == evidence.BLOCKS
    assert {len(part) for part in parts} == {2, 3}
    assert sorted(np.concatenate(parts)) == list(ids)
    again = evidence.blocks(ids[::-1].copy())
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    assert [len(part) for part in evidence.blocks(np.arange(3))] == [1, 1, 1]
    assert not any((np.diff(part) == 1).all() for part in parts if len(part) > 2), "neighbours are not kept together"


def test_a_score_without_a_block_is_that_of_the_other_examples(task):
    ids = np.concatenate(task.plan("test", 0, 16))
    parts = evidence.blocks(ids)
    found = evidence.stepped(task, CPU, 16, parts)
    assert found.keys() == {"loss", "accuracy"}
    whole = task.scores(evaluate(task, "test", CPU, 16))
    for name, values in found.items():
        assert values[0] == pytest.approx(whole[name], rel=1e-6)
    for n in (0, 7, len(parts) - 1):
        task.parts["test"] = np.setdiff1d(ids, parts[n])
        rest = task.scores(evaluate(task, "test", CPU, 16))
        for name, values in found.items():
            assert values[n + 1] == pytest.approx(rest[name], rel=1e-6)


def test_the_pseudo_values_of_a_mean_are_the_examples():
    values = [0.25, 0.5, 1.0, 0.125]
    without = [(sum(values) - x) / 3 for x in values]
    assert evidence.pseudo_values(sum(values) / 4, without) == pytest.approx(values, abs=1e-6)


def test_the_error_of_a_score_that_is_no_mean_is_that_of_many_test_parts():
    """Macro-F1 of 400 examples, drawn again and again: its spread is what the jackknife says from one part."""
    rng = np.random.default_rng(0)

    def drawn():
        truth = rng.choice(3, 400, p=[0.7, 0.2, 0.1])
        answer = np.where(rng.random(400) < 0.75, truth, rng.integers(0, 3, 400))
        return truth, answer

    def macro_f1(truth, answer):
        counts = np.zeros((3, 3))
        np.add.at(counts, (truth, answer), 1)
        return float((2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).mean())

    def error(truth, answer):
        parts = evidence.blocks(np.arange(400))
        keep = [np.setdiff1d(np.arange(400), part) for part in parts]
        values = evidence.pseudo_values(macro_f1(truth, answer), [macro_f1(truth[k], answer[k]) for k in keep])
        return judge.of_mean(values).variance

    spread = np.var([macro_f1(*drawn()) for _ in range(4000)])
    assert np.mean([error(*drawn()) for _ in range(100)]) == pytest.approx(spread, rel=0.1)


def test_evaluate_keeps_the_evidence_of_the_scores_that_it_reports(tmp_path, capsys):
    assert cli.main(PACKAGE, ["train", "--fit.epochs", "1", "--run", "r"]) == 0
    assert cli.main(PACKAGE, ["evaluate", "r"]) == 0
    test, kept = (json.loads((tmp_path / "r" / name).read_text()) for name in ("test.json", "test-blocks.json"))
    assert kept["scores"] == test
    assert kept["part"].endswith("-40")
    assert kept["blocks"].keys() == {"loss", "accuracy"}
    for name, values in kept["blocks"].items():
        assert len(values) == 40
        assert math.fsum(values) / 40 == pytest.approx(test[name], rel=1e-5)
    assert set(kept["blocks"]["accuracy"]) == {0.0, 1.0}, "each example was right or wrong"
    before = (tmp_path / "r" / "test-blocks.json").read_text()
    assert cli.main(PACKAGE, ["evaluate", "r", "--checkpoint", "last"]) == 0
    assert (tmp_path / "r" / "test-blocks.json").read_text() == before


def test_a_score_that_evaluate_computes_in_another_way_has_no_evidence(task):
    scores = task.scores(evaluate(task, "test", CPU, 16))
    kept = evidence.of(task, CPU, 16, scores | {"accuracy": scores["accuracy"] + 0.05, "images": 40})
    assert kept["blocks"].keys() == {"loss"}


def test_one_example_or_a_score_that_needs_all_of_them_gives_none(task, monkeypatch):
    scores = task.scores(evaluate(task, "test", CPU, 16))

    def all_or_nothing(self, totals):
        if float(totals.counts["loss"]) < 40:
            raise ValueError("the metric 'loss' has no data")
        return totals.means()

    monkeypatch.setattr(Toy, "scores", all_or_nothing)
    assert evidence.of(task, CPU, 16, scores)["blocks"] == {}
    monkeypatch.undo()
    task.parts["test"] = task.parts["test"][:1]
    assert evidence.of(task, CPU, 16, scores)["blocks"] == {}
