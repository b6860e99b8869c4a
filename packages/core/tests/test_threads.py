import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from toy import task as toy
from toy.__main__ import PACKAGE
from toy.config import Config

from etude import cli, config
from etude.testing import CPU, Cut, cut_off, different
from etude.train import checkpoint, threads
from etude.train.threads import Trial

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SEEN = """
import json, os, sys
from toy.__main__ import main
assert "torch" not in sys.modules
class Finder:
    def find_spec(self, name, *_):
        if name == "torch" and "torch" not in sys.modules:
            json.dump({name: os.environ[name] for name in sys.argv[1].split() if name in os.environ}, sys.stderr)
            raise SystemExit
sys.meta_path.insert(0, Finder())
sys.exit(main(sys.argv[2:]))
"""


def environment_of_torch(words, given):
    """How torch finds the environment when it is imported by the command."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | given
    command = [sys.executable, "-c", SEEN, " ".join(WAITING), *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(ended.stderr)


@pytest.fixture
def two(monkeypatch):
    """A machine with two threads, whose user has not said how many to use."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_that_wait_sleep_unless_the_user_says_how_they_wait():
    for words in (["train"], ["evaluate", "r"], ["predict", "r", "12"], ["together"]):
        assert environment_of_torch(words, {}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    for given in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"}):
        assert environment_of_torch(["train"], given) == given


def made(*flags):
    cfg = config.parse(Config, ["--fit.device", "cpu", "--fit.precision", "fp32", "--no-norm", *flags])
    torch.manual_seed(cfg.fit.seed)
    return cfg, toy.make(cfg, CPU.where)


def test_a_trial_leaves_no_trace(two):
    cfg, task = made()
    before = {name: x.clone() for name, x in task.model.state_dict().items()}
    state = torch.get_rng_state()
    trial = threads.tried(task, cfg.fit, CPU, 2)
    assert trial.same
    assert trial.one > 0
    assert trial.all > 0
    assert different(before, dict(task.model.state_dict()), "model") is None
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert task.calls == 0
    assert torch.get_num_threads() == 2


def test_a_trial_sees_results_that_depend_on_the_threads_and_gives_up_on_a_long_step(two, monkeypatch):
    cfg, task = made()
    step = task.step

    def rounding(batch):
        sums = step(batch)
        loss, count = sums["loss"]
        return sums | {"loss": (loss * (1 + 1e-6 * torch.get_num_threads()), count)}

    task.step = rounding
    assert not threads.tried(task, cfg.fit, CPU, 2).same
    monkeypatch.setattr(threads, "LARGE", 0.0)
    assert threads.tried(task, cfg.fit, CPU, 2) is None


@pytest.mark.parametrize(
    ("trial", "chosen", "told"),
    [
        (Trial(0.001, 0.002, True), 1, "1 of 2 for training steps: 1.0 ms for a step on one, 2.0 ms on all, the same"),
        (Trial(0.002, 0.001, True), 0, ""),
        (Trial(0.001, 0.0011, False), 0, ""),
        (Trial(0.001, 0.009, False), 0, "2: 1.0 ms for a step on one, 9.0 ms on all; with OMP_NUM_THREADS=1"),
        (None, 0, ""),
    ],
)
def test_one_thread_is_taken_where_it_is_as_fast_and_changes_no_bit(trial, chosen, told, two, monkeypatch):
    cfg, task = made()
    monkeypatch.setattr(threads, "tried", lambda *_: trial)
    device, line = threads.choose(task, cfg.fit, CPU, {})
    assert device.threads == chosen
    assert line.startswith(told)
    assert bool(line) == bool(told)


def test_nothing_is_tried_where_the_number_is_given_or_kept(two, monkeypatch):
    cfg, task = made()
    monkeypatch.setattr(threads, "tried", lambda *_: pytest.fail("it was tried"))
    for begun, number in (({"step_threads": 1}, 1), ({"step_threads": 2}, 0), ({"threads": 1}, 0)):
        assert threads.choose(task, cfg.fit, CPU, begun)[0].threads == number
    for alone in (replace(CPU, world=2), replace(CPU, where=torch.device("cuda"))):
        assert threads.choose(task, cfg.fit, alone, {}) == (alone, "")
    assert threads.choose(task, replace(cfg.fit, compile=True), CPU, {}) == (CPU, "")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        with monkeypatch.context() as environment:
            environment.setenv(name, "2")
            assert threads.choose(task, cfg.fit, CPU, {"step_threads": 1}) == (CPU, "")
    torch.set_num_threads(1)
    assert threads.choose(task, cfg.fit, CPU, {}) == (CPU, "")


def test_the_number_is_chosen_once_kept_by_a_resumed_run_and_changes_no_bit(two, monkeypatch, capsys, tmp_path):
    tried, seen, cut = [], {}, None

    def make(cfg, where):
        task = toy.Toy(cfg)
        step = task.step

        def counting(batch):
            seen.setdefault(task.model.training, set()).add(torch.get_num_threads())
            return step(batch)

        task.step = counting
        if cut:
            cut_off(task, "train", cut)
        return task

    def train(name, trial):
        monkeypatch.setattr(threads, "tried", lambda *_: tried.append(name) or trial)
        words = ["train", "--fit.device", "cpu", "--fit.precision", "fp32", "--fit.epochs", "2", "--no-norm"]
        words += ["--fit.save-every", "0", "--run", name]
        assert cli.main(PACKAGE, words) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(toy, "make", make)
    train("all", Trial(0.002, 0.001, True))
    assert seen == {True: {2}, False: {2}}
    seen.clear()
    cut = 4
    with pytest.raises(Cut):
        train("one", Trial(0.001, 0.002, True))
    cut = None
    out = train("one", Trial(0.002, 0.001, True))  # by now it would be chosen otherwise
    assert tried == ["all", "one"]
    assert "threads  1 of 2 for training steps, as the run began\n" in out
    assert seen == {True: {1}, False: {2}}
    starts = json.loads((tmp_path / "one" / "environment.json").read_text())
    assert [(start["threads"], start["step_threads"]) for start in starts] == [(2, 1), (2, 1)]
    assert torch.get_num_threads() == 2
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == (tmp_path / "all" / "metrics.jsonl").read_bytes()
    one, every = (checkpoint.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "all"))
    for part in ("model", "optimizer"):
        assert different(one[part], every[part], part) is None
