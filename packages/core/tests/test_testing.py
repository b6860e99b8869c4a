"""The battery passes a sound task and fails each deliberately broken one, for the right reason."""

import pytest
from toy.__main__ import PACKAGE

from etude.testing import check_task

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
        ("state", "missing from the checkpoint"),
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
