"""Several processes give what one gives, and whatever keeps them from it is one line."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.config import Fit
from etude.errors import UserError
from etude.train import checkpoint, device, norm, processes

HERE = Path(__file__).parent


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(words, world, **options):
    """The processes of a run, as torchrun would start them."""
    port = str(free_port())
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=env | ({"WORLD_SIZE": str(world), "RANK": str(rank)} if world > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(world)
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process did, and each of two."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    every = [p for world, out in enumerate(folders, 1) for p in start([str(HERE / "pair.py"), str(out)], world)]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in every]
    assert [code for _, code in ended] == [0, 0, 0], ended
    return [torch.load(out / f"{rank}.pt") for out, rank in ((folders[0], 0), (folders[1], 0), (folders[1], 1))]


@pytest.mark.parametrize("case", ["plain", "adamw", "norm", "accumulated"])
def test_ragged_batches_give_in_two_processes_what_they_give_in_one(case, found):
    """A process without an example, a gradient that only one has, and one metric that only one counts among them."""
    one, *two = (state[case] for state in found)
    for name, tensor in two[0]["model"].items():
        assert torch.equal(tensor, two[1]["model"][name]), name
    for state in two:
        for expected, step in zip(one["steps"], state["steps"], strict=True):
            assert step["totals"]["sums"].keys() == expected["totals"]["sums"].keys()
            torch.testing.assert_close(step["totals"], expected["totals"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step["norm"], expected["norm"], rtol=1e-3, atol=1e-5)
            for name, gradient in expected["gradients"].items():
                assert (gradient is None) == (step["gradients"][name] is None), name
                if gradient is not None and case != "adamw":
                    torch.testing.assert_close(step["gradients"][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
        near = {"rtol": 1e-3, "atol": 1e-3 if case == "adamw" else 1e-5}
        torch.testing.assert_close(state["model"], one["model"], **near)
        assert state["optimizer"]["state"].keys() == one["optimizer"]["state"].keys()


def test_a_parameter_without_gradient_in_all_processes_has_none(found):
    for state in found:
        assert all(step["gradients"]["never"] is None for step in state["plain"]["steps"])
        assert all(x == 0 for x in state["plain"]["model"]["never"])
    assert any(step["gradients"]["sometimes"] is not None for step in found[0]["plain"]["steps"])


def test_batch_norm_of_a_single_example_leaves_the_weights_equal_and_finite(found):
    first, second = (state["lone"]["model"] for state in found[1:])
    for name, tensor in first.items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, second[name]), name


def test_parts_are_scored_whatever_a_batch_leaves_a_process(found):
    one, *two = (state["scored"] for state in found)
    assert one["sums"]["odd"] == 1 + 3 + 7
    for state in two:
        assert state["sums"].keys() == one["sums"].keys()
        assert state["counts"]["loss"] == 5


def test_shapes_that_differ_are_an_error_in_all(found):
    for state in found[1:]:
        assert "'loss' is of shape [2] and [3] in two processes" in state["shapes"]


def test_processes_that_came_apart_stop_with_a_line(found):
    for rank, state in enumerate(found[1:]):
        assert f"come apart by step 7: bias differs between {rank} and {1 - rank}" in state["apart"]
        assert state["alike"] is None
        assert "its step differs" in state["late"]
        assert state["highest"] == [1, 5]


def test_a_process_whose_neighbour_has_ended_says_so(found):
    assert "another process of this run cannot be reached any more" in found[1]["left"]
    assert "\n" not in found[1]["left"]


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    words = ["-m", "toy", "train", "--run", "run", "--fit.epochs", "100000", "--fit.device", "cpu"]
    first, second = start(words, 2, cwd=tmp_path)
    for line in first.stdout:
        if line.startswith("epoch   2"):
            break
    second.send_signal(signal.SIGTERM)  # not the one that writes
    ended = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [143, 143], ended
    assert ended[0][0].splitlines()[-1].endswith("go on with: python -m toy train --run run")
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, state["progress"]["epoch"]))


CPU = Fit(device="cpu", precision="fp32")
TOGETHER = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', not a whole number from 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE is '²'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({**TOGETHER, "MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({**TOGETHER, "RANK": "2"}, "RANK is '2', not a whole number from 0 to 1"),
        ({**TOGETHER, "RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "1"}, "RANK is '1', not a whole number from 0 to 0"),
        ({"RANK": ""}, "RANK is ''"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({**TOGETHER, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({**TOGETHER, "MASTER_PORT": "99999"}, "MASTER_PORT is '99999', not a whole number from 1 to 65535"),
    ],
)
def test_what_the_environment_says_wrongly_is_one_line(environment, message, monkeypatch):
    for name in ("LOCAL_RANK", *TOGETHER):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        device.choose(CPU)
    assert message in str(error.value)
    assert "torchrun" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_who_waits_in_vain_for_the_others_says_so(rank, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 1)
    for name, value in {**TOGETHER, "RANK": rank, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"process {rank} of 2 did not meet the others at 127.0.0.1:\d+ within 1 s"):
        device.choose(CPU)


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm2d, (6, 3, 4, 5)), (nn.BatchNorm3d, (2, 3, 4, 5, 2))]
)
def test_batch_norm_over_processes_of_any_dimension_is_torchs_where_there_is_one(monkeypatch, kind, shape):
    monkeypatch.setattr(norm, "sum_over_processes", lambda x: x.clone())
    ours, theirs = kind(3), kind(3)
    norm.synchronise_batch_norm(nn.Sequential(ours))
    for seed in range(2):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
