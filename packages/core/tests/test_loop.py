import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import task as toy
from toy.config import Config

from etude import config
from etude.config import Fit
from etude.errors import UserError
from etude.layers.recurrent import LSTM
from etude.testing import CPU, different
from etude.train import checkpoint, loop, run
from etude.train.device import Device
from etude.train.step import Learner, Step, evaluate, even_batches, micro_batches, normalise, separate
from etude.train.totals import Totals


def parsed(*flags):
    return config.parse(Config, ["--fit.device", "cpu", "--fit.precision", "fp32", *flags])


def train(cfg, folder):
    torch.manual_seed(cfg.fit.seed)
    task = toy.make(cfg, CPU.where)
    one = run.Run(folder, cfg, CPU)
    try:
        return task, loop.fit(task, cfg.fit, one, CPU)
    finally:
        one.close()


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(folder):
    events = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_fit_equals_a_loop_written_by_hand(tmp_path):
    """The plain loop, with means, on full batches: every parameter the same bits, every score the same number."""
    cfg = parsed(
        "--fit.batch-size", "22", "--fit.epochs", "2", "--dropout", "0", "--fit.optimizer", "sgd", "--fit.lr", "0.1"
    )
    task, _ = train(cfg, tmp_path / "run")

    torch.manual_seed(cfg.fit.seed)
    plain = toy.make(cfg, CPU.where)
    model = plain.model
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": cfg.fit.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=True)
    losses, step, steps = [], 0, 10
    for epoch in (1, 2):
        for ids in plain.plan("train", epoch, 22):
            done = (step + 0.5) / steps
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (done / 0.2 if done < 0.2 else 1 - (done - 0.2) / 0.8)
            digits, real, labels = plain.load("train", ids, epoch)
            loss = nn.functional.cross_entropy(model(digits, real), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
    trained = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-5, atol=1e-7)
    found = [event.value for event in curves(tmp_path / "run")["step/loss"]]
    assert found == pytest.approx(losses, rel=1e-5)
    assert rows(tmp_path / "run")[1]["train"]["loss"] == pytest.approx(np.mean(losses[5:]), rel=1e-5)


@pytest.mark.parametrize("pieces", ["2", "3", "7"])
def test_accumulation_is_exact_for_ragged_pieces(pieces, tmp_path):
    flags = [
        "--no-norm",
        "--dropout",
        "0",
        "--fit.epochs",
        "2",
        "--fit.clip",
        "0.5",
        "--fit.optimizer",
        "sgd",
        "--fit.lr",
        "0.1",
    ]
    whole, _ = train(parsed(*flags), tmp_path / "whole")
    parts, _ = train(parsed(*flags, "--fit.accumulate", pieces), tmp_path / "parts")
    for (name, a), (_, b) in zip(whole.model.named_parameters(), parts.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_assets_that_a_checkpoint_would_refuse_are_named_before_training(tmp_path):
    class Careless(toy.Toy):
        def assets(self):
            return {"names": ["low"], "sizes": {"mean": np.float64(3)}}

    one = run.Run(tmp_path / "run", Config(), CPU)
    with pytest.raises(TypeError, match=r"assets\['sizes'\]\['mean'\] is a float64"):
        loop.fit(Careless(Config()), Config().fit, one, CPU)
    one.close()


class Counted(toy.Toy):
    """Counts real digits, not examples: the denominator is not the batch size."""

    def step(self, batch):
        digits, real, labels = batch
        each = nn.functional.cross_entropy(self.model(digits, real).float(), labels, reduction="none")
        return {"loss": ((each[:, None] * real).sum(), real.sum()), "accuracy": (each.sum(), len(labels))}


def test_the_gradient_is_that_of_sum_over_count(tmp_path):
    cfg = parsed("--no-norm", "--dropout", "0", "--fit.epochs", "1", "--fit.batch-size", "110", "--fit.accumulate", "3")
    cfg = dataclasses.replace(cfg, fit=dataclasses.replace(cfg.fit, optimizer="sgd", lr=0.1, weight_decay=0, warmup=0))
    torch.manual_seed(0)
    task = Counted(cfg)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    total, count = task.step(task.load("train", task.plan("train", 1, 110)[0], 1))["loss"]
    (total / count).backward()
    gradient = {name: p.grad.clone() for name, p in task.model.named_parameters()}
    one = run.Run(tmp_path / "run", cfg, CPU)
    loop.fit(task, cfg.fit, one, CPU)
    one.close()
    after = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    lr = 0.1 * 0.5  # the only step is in the middle of the fall
    for name, p in before.items():  # the first Nesterov step is 1 + momentum times the gradient
        torch.testing.assert_close(p - after[name], lr * 1.9 * gradient[name], rtol=1e-4, atol=1e-6, msg=name)


def test_clipping_is_pytorchs():
    torch.manual_seed(0)
    for clip in (0.1, 1e3):
        mine = [torch.randn(5, 3), torch.randn(7)]
        theirs = [nn.Parameter(torch.zeros_like(g)) for g in mine]
        for parameter, g in zip(theirs, mine, strict=True):
            parameter.grad = g.clone()
        norm = normalise(mine, [x.norm() for x in mine], 4, torch.tensor(4.0), clip)
        assert float(norm) == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, clip)))
        for g, parameter in zip(mine, theirs, strict=True):
            torch.testing.assert_close(g, parameter.grad)


def test_batches_are_even_and_shared_out_whole():
    order = np.arange(103)
    batches = even_batches(order, 20)
    assert np.array_equal(np.concatenate(batches), order)
    assert {len(b) for b in batches} <= {17, 18}
    pieces = [
        piece for rank in range(3) for _, piece in micro_batches(batches[0], 2, Device(CPU.where, "fp32", rank, 3))
    ]
    assert sorted(np.concatenate(pieces)) == list(batches[0])


@pytest.mark.parametrize("least", [1, 2])
def test_a_small_batch_is_shared_out_without_a_piece_of_nothing_for_all(least):
    for n in range(1, 30):
        ids = np.arange(n)
        ranks = [micro_batches(ids, 4, Device(CPU.where, "fp32", rank, 3), least) for rank in range(3)]
        assert np.array_equal(np.concatenate([p for turn in zip(*ranks, strict=True) for _, p in turn]), ids)
        assert [number for turn in zip(*ranks, strict=True) for number, _ in turn] == list(range(3 * len(ranks[0])))
        for turn in zip(*ranks, strict=True):
            assert any(len(piece) for _, piece in turn)
            assert all(len(piece) == 0 or len(piece) >= min(n, least) for _, piece in turn)
        assert [len(piece) > 0 for _, piece in micro_batches(ids, 4, CPU, least)] == [True] * min(4, max(1, n // least))


def test_no_number_of_examples_ends_a_run_that_accumulates(tmp_path):
    """Batches of all sizes, of which the last are smaller than the pieces; batch norm gets two examples at least."""
    for norm in ("--norm", "--no-norm"):
        cfg = parsed(norm, "--fit.accumulate", "4", "--fit.batch-size", "5", "--fit.epochs", "1")
        task = toy.make(cfg, CPU.where)
        load = task.load
        task.load = lambda split, ids, epoch, load=load: load(split, ids, epoch) if len(ids) else pytest.fail("nothing")
        learner = Learner(task, cfg.fit, CPU)
        task.model.train()
        for n in range(2 if norm == "--norm" else 1, 12):
            taken = learner.do(Step(1, n, np.arange(n), 0.1))
            assert taken.totals.counts["loss"] == n
    cfg = parsed("--fit.batch-size", "1", "--fit.epochs", "1")
    with pytest.raises(UserError, match=r"batch 1 of epoch 1 leaves batch norm a single value.*fit\.batch-size"):
        train(cfg, tmp_path / "run")


def test_metrics_are_added_up_by_name_and_in_one_shape():
    totals = Totals()
    totals.add({"loss": (torch.tensor(1.0), 2), "odd": (torch.tensor(3.0), 1)})
    totals.add({"even": (torch.tensor(4.0), 1), "loss": (torch.tensor(2.0), 3)})
    assert totals.means() == {"loss": 3 / 5, "odd": 3.0, "even": 4.0}
    with pytest.raises(ValueError, match=r"'loss' is of shape \[\] and then \[2\]"):
        totals.add({"loss": (torch.ones(2), 2)})


def test_a_run_in_another_thread_trains_as_in_the_main_one(tmp_path):
    cfg = parsed("--fit.epochs", "1")
    train(cfg, tmp_path / "main")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, cfg, tmp_path / "other").result()
    compare(tmp_path / "main", tmp_path / "other")


class Overflows(toy.Toy):
    """The gradient of every `nth` step is no number, its loss is one."""

    nth = 1

    def step(self, batch):
        sums = super().step(batch)
        self.calls += self.model.training
        if self.model.training and self.calls % self.nth == 0:
            weight = next(self.model.parameters())
            loss, count = sums["loss"]
            sums["loss"] = (loss + (0 * weight.sum()).sqrt(), count)  # the slope of a root at 0
        return sums


@pytest.mark.parametrize(
    ("nth", "epochs", "message"),
    [
        (1, 9, r"not scaled up any more, at step 17: .*\(17 were, up to epoch 3\): .*--fit.precision bf16 or fp32"),
        (2, 9, r"not scaled up any more, at step 34: "),
        (1, 2, r"no number in fp16 at 12 of 12 steps: "),
    ],
)
def test_fp16_that_only_skips_steps_stops_and_says_so(nth, epochs, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Overflows, "nth", nth)
    cfg = parsed("--fit.epochs", str(epochs))
    half = Device(CPU.where, "fp16")
    one = run.Run(tmp_path / "run", cfg, half)
    with pytest.raises(UserError, match=message) as error:
        loop.fit(Overflows(cfg), cfg.fit, one, half)
    one.close()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "result.json").exists()


def test_fp16_that_overflows_now_and_then_trains_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(Overflows, "nth", 5)
    cfg = parsed("--fit.epochs", "3")
    half = Device(CPU.where, "fp16")
    one = run.Run(tmp_path / "run", cfg, half)
    loop.fit(Overflows(cfg), cfg.fit, one, half)
    one.close()
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert (state["progress"]["skipped"], state["progress"]["step"]) == (3, 18)
    assert state["scaler"]["scale"] == 2.0 ** (16 - 3)


def test_totals_refuse_a_mean_of_nothing():
    totals = Totals()
    totals.add({"loss": (torch.tensor(0.0), 0)})
    with pytest.raises(ValueError, match="'loss' has no data"):
        totals.means()


def test_early_stopping_keeps_the_best(tmp_path):
    cfg = parsed("--fit.epochs", "40", "--fit.patience", "3", "--fit.schedule", "constant", "--fit.lr", "0.05")
    _, result = train(cfg, tmp_path / "run")
    scores = [row["valid"]["accuracy"] for row in rows(tmp_path / "run")]
    best = scores.index(max(scores)) + 1
    assert result["best_epoch"] == best
    assert len(scores) == best + 3 < 40
    state = checkpoint.read(tmp_path / "run")
    assert (state["epoch"], state["valid"]["accuracy"]) == (best, max(scores))
    task = toy.make(cfg, CPU.where)
    task.model.load_state_dict(state["model"])
    assert evaluate(task, "valid", CPU, 7).means()["accuracy"] == max(scores)


def test_the_last_epoch_is_the_result_where_it_is_asked_for(tmp_path):
    flags = ["--fit.epochs", "6", "--fit.lr", "0.3", "--fit.schedule", "constant"]
    _, best = train(parsed(*flags), tmp_path / "best")
    _, last = train(parsed(*flags, "--fit.keep", "last"), tmp_path / "last")
    assert best["best_epoch"] < 6 == last["best_epoch"]
    assert last["valid"] == rows(tmp_path / "last")[-1]["valid"] != best["valid"]
    kept, whole = (
        checkpoint.load(tmp_path / "last" / "checkpoints" / f"{name}.pt")["model"] for name in ("best", "last")
    )
    assert different(kept, whole, "model") is None


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_with_the_last_epoch_as_result_the_mark_is_still_for_the_best_so_far(better, tmp_path, capsys, monkeypatch):
    metric = "accuracy" if better == "higher" else "loss"
    monkeypatch.setattr(toy.Toy, "metric", metric)
    assert toy.Toy.better[metric] == better
    flags = ["--fit.lr", "0.3", "--fit.schedule", "constant", "--fit.keep", "last", "--fit.epochs"]
    train(parsed(*flags, "9"), tmp_path / "run")
    marks = [line.endswith("*best") for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    scores = [row["valid"][toy.Toy.metric] for row in rows(tmp_path / "run")]
    best = [
        n == 0 or (s > max(scores[:n]) if better == "higher" else s < min(scores[:n])) for n, s in enumerate(scores)
    ]
    assert marks == best
    before = [n == 0 or (s > scores[n - 1]) == (better == "higher") for n, s in enumerate(scores)]
    assert before != best  # better than the epoch before is not enough


@pytest.mark.parametrize("call", [1, 9])
def test_a_loss_that_is_no_number_stops_at_its_step(call, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=rf"the loss became nan at step {call} .*last good checkpoint"):
        train(parsed("--explode", str(call), "--fit.save-every", "0"), folder)
    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    assert state["progress"]["step"] == call - 1
    assert all(t.isfinite().all() for t in state["model"].values())
    assert len(curves(folder).get("step/loss", [])) == call - 1


def test_a_model_that_breaks_in_the_last_step_of_an_epoch_is_not_saved(tmp_path):
    flags = ["--fit.optimizer", "sgd", "--fit.lr", "1e38", "--fit.warmup", "0", "--fit.batch-size", "110"]
    with pytest.raises(UserError, match="the validation loss became (nan|inf) after step 1"):
        train(parsed(*flags), tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] == 0
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_a_best_checkpoint_of_an_epoch_that_was_not_the_best_is_not_scored(tmp_path, monkeypatch):
    """Such as somebody else's. The best epoch is the first of two here."""
    monkeypatch.setattr(loop, "is_better", lambda task, valid, rows: not rows)
    train(parsed("--fit.epochs", "2"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    file = tmp_path / "run" / "checkpoints" / "best.pt"
    torch.save({**checkpoint.load(file), "epoch": 7}, file)
    with pytest.raises(UserError, match=r"best\.pt is of epoch 7, but the best is epoch 1: train again"):
        train(parsed("--fit.epochs", "2"), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_kill_between_the_two_checkpoints_loses_nothing(epoch, tmp_path, monkeypatch):
    """last.pt comes first, and has the best weights; the run that goes on makes best.pt of it, also as its last act."""
    monkeypatch.setattr(loop, "is_better", lambda task, valid, rows: len(rows) < 2)
    train(parsed("--fit.epochs", "2"), tmp_path / "whole")
    save_best = loop.save_best

    def killed(task, run, progress):
        if len(progress.rows) == epoch:
            raise KeyboardInterrupt
        save_best(task, run, progress)

    monkeypatch.setattr(loop, "save_best", killed)
    with pytest.raises(KeyboardInterrupt):
        train(parsed("--fit.epochs", "2"), tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "best.pt"
    assert file.exists() == (epoch == 2)
    monkeypatch.setattr(loop, "save_best", save_best)
    _, result = train(parsed("--fit.epochs", "2"), tmp_path / "run")
    assert result["best_epoch"] == 2
    found, whole = (checkpoint.load(tmp_path / name / "checkpoints" / "best.pt") for name in ("run", "whole"))
    assert found["epoch"] == whole["epoch"] == 2 and found["valid"] == whole["valid"]
    assert all(found["model"][name].equal(weight) for name, weight in whole["model"].items())


def test_tensorboard_gets_every_step_every_epoch_and_the_knobs(tmp_path):
    cfg = parsed("--fit.epochs", "3")
    task, _ = train(cfg, tmp_path / "run")
    found = curves(tmp_path / "run")
    for name in ("loss", "lr", "gradient_norm", "items_per_s"):
        assert [event.step for event in found[f"step/{name}"]] == list(range(1, 19))
        assert all(math.isfinite(event.value) for event in found[f"step/{name}"])
    for split in ("train", "valid"):
        for metric in ("loss", "accuracy"):
            shown = [(event.step, event.value) for event in found[f"{metric}/{split}"]]
            expected = [(row["step"], row[split][metric]) for row in rows(tmp_path / "run")]
            assert shown == [(step, pytest.approx(value)) for step, value in expected]
    events = EventAccumulator(str(tmp_path / "run" / "tb"))
    events.Reload()
    knobs = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"fit.lr" in knobs
    assert events.Tensors("shown/text_summary")
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")) == [
        "about.json", "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "result.json", "samples", "tb",
    ]  # fmt: skip


def test_a_resumed_run_shows_every_step_once(tmp_path):
    """TensorBoard drops what was written after the checkpoint that a start goes on from."""
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="step 9"):
        train(parsed("--explode", "9", "--fit.save-every", "60"), folder)  # its checkpoint is the first epoch's end
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("explode: 9", "explode: 0"))
    train(parsed("--fit.save-every", "60"), folder)
    steps = [event.step for event in curves(folder)["step/loss"]]
    assert steps == list(range(1, 19))
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]


FORK = """
import os, random, sys
import etude.train.loop, etude.train.run, tensorboard, torch.utils.tensorboard, toy.task
from toy.__main__ import main
while True:
    line = sys.stdin.readline()
    if not line:
        break
    child = os.fork()  # torch is imported and has started no thread yet: each start costs milliseconds, not seconds
    if child == 0:
        code = 1
        try:
            code = main(line.split())
        finally:
            os._exit(code)
    print(child, flush=True)
    sys.stdin.readline()  # until then a child that has ended is not waited for, so that its number is no other's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Starts:
    """A process that starts `toy` again and again by forking."""

    def __init__(self, env):
        command = [sys.executable, "-c", FORK]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )

    def start(self, words, kill_after=None):
        self.process.stdin.write(f"{words} \n")
        self.process.stdin.flush()
        child = int(self.answer())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # killed or done before, the answer tells
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.answer())

    def answer(self):
        while True:
            line = self.process.stdout.readline().strip()
            if line.lstrip("-").isdigit():
                return line
            assert line, "the forking process died"


def test_kill_9_at_random_moments_then_resume_is_bitwise_equal(tmp_path):
    """Ten kills, then the end: dropout, augmentation and batch norm are on, a checkpoint is written at every step."""
    flags = "--fit.epochs 30 --fit.save-every 0 --fit.device cpu --fit.precision fp32"
    starts = Starts(os.environ | {"OMP_NUM_THREADS": "1"})
    began = time.monotonic()
    assert starts.start(f"train {flags} --run {tmp_path}/whole") == 0
    seconds = time.monotonic() - began
    rng = random.Random(0)
    codes = []
    while codes.count(-signal.SIGKILL) < 10:
        codes.append(starts.start(f"train {flags} --run {tmp_path}/killed", rng.uniform(0.02, seconds / 8)))
        if (
            codes[-1] == 0
        ):  # it came to its end between the kills: that many kills were survived, go on with another run
            compare(tmp_path / "whole", tmp_path / "killed")
            (tmp_path / "killed").rename(tmp_path / f"killed-{len(codes)}")
        assert codes[-1] in (0, -signal.SIGKILL)
    assert starts.start(f"train {flags} --run {tmp_path}/killed") == 0
    compare(tmp_path / "whole", tmp_path / "killed")
    starts.process.communicate("")


def compare(a: Path, b: Path) -> None:
    one, two = (checkpoint.load(folder / "checkpoints" / "last.pt") for folder in (a, b))
    for part in ("model", "optimizer"):
        assert different(one[part], two[part], part) is None
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert different(checkpoint.read(a)["model"], checkpoint.read(b)["model"], "best") is None


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(signum, code, tmp_path):
    words = [sys.executable, "-m", "toy", "train", "--run", "run", "--fit.epochs", "100000", "--fit.device", "cpu"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch   2"):
                break
        process.send_signal(signum)
        process.send_signal(signum)  # as uv and `timeout` may pass it on once more: still the first
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    last = rest.splitlines()[-1]
    assert last.endswith("go on with: python -m toy train --run run")
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["progress"]["step"] >= 12
    assert [row["epoch"] for row in rows(tmp_path / "run")] == list(range(1, state["progress"]["epoch"]))


def test_gradients_in_shared_memory_are_scaled_once():
    """Autograd gives both biases of an LSTM the same memory; clipped in place, they would be clipped twice."""
    lstm = LSTM(3, 4)
    lstm(torch.ones(2, 5, 3))[0].sum().backward()
    before = [p.grad.clone() for p in lstm.parameters()]
    gradients = separate(lstm)
    norm = normalise(gradients, [x.norm() for x in gradients], 2, torch.tensor(2.0), 0.5)
    for parameter, old in zip(lstm.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, old * 0.5 / norm)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.classify = (
            nn.Embedding(9, 8),
            LSTM(8, 6, 2, 0.1, bidirectional=True),
            nn.Linear(12, 3),
        )

    def forward(self, ids, lengths):
        return self.classify(self.lstm(self.embed(ids), lengths)[0].sum(1))


class Reading:
    """A task of texts of all lengths, in batches of all sizes."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = Reader()

    def assets(self):
        return {}

    def load(self, split, ids, epoch):
        lengths = torch.from_numpy(1 + ids % 11)
        return torch.from_numpy(ids)[:, None].add(torch.arange(int(lengths.max()))) % 9, lengths

    def step(self, batch):
        return {"loss": (self.model(*batch).square().sum(), len(batch[0]))}


def test_the_gradient_of_an_lstm_in_pieces_is_its_gradient():
    """Both its biases get the same memory as a gradient, to which that of the next piece would be added twice."""
    found = []
    for accumulate in (1, 2, 5):
        learner = Learner(Reading(), Fit(device="cpu", accumulate=accumulate, optimizer="sgd"), CPU)
        learner.model.eval()  # without dropout
        learner.do(Step(1, 0, np.arange(23), 0.0))
        found.append([p.grad for p in learner.model.parameters()])
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo's own, as it looks at what it is given
def test_a_compiled_model_with_an_lstm_compiles_a_few_times_and_gives_what_it_gave(monkeypatch):
    graphs = []
    compile = nn.Module.compile

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda module: compile(module, backend=count))
    losses = {}
    for how in (False, True):
        cfg = Fit(device="cpu", precision="fp32", compile=how, optimizer="sgd", lr=0.1)
        learner = Learner(Reading(), cfg, CPU)
        learner.model.train()
        losses[how] = []
        for number in range(20):
            ids = np.random.default_rng(number).integers(0, 100, 5 + number)
            taken = learner.do(Step(1, number, ids, 0.1))
            losses[how].append(float(taken.totals.mean("loss")))
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert 1 <= len(graphs) <= 6  # what stands before and after the LSTM, for one size and then for any


def test_without_a_compiler_compile_says_so_in_one_line(tmp_path):
    words = [sys.executable, "-m", "toy", "train", "--run", "run", "--fit.compile", "--fit.device", "cpu"]
    env = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("toy: fit.compile does not work here (InvalidCxxCompiler")
    assert ended.stderr.splitlines()[-1].endswith("train with --fit.no-compile")
