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
        ("penalty", "a batch of 11 examples in 4 pieces has another sum of loss than in one"),
        ("ranks", "two processes train to other weights than one"),
        ("apart", "two processes cannot train it: .*come apart"),
    ],
)
def test_a_broken_task_fails(flaw, reason, tmp_path):
    with pytest.raises(AssertionError, match=reason):
        check_task(PACKAGE, ["--flaw", flaw], INPUTS, tmp_path)


def test_a_task_that_keeps_too_little_to_predict_fails(tmp_path):
    with pytest.raises(KeyError):
        check_task(PACKAGE, ["--flaw", "assets"], INPUTS, tmp_path)
