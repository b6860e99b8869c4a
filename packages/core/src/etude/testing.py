"""The battery that every task passes: `check_task` and `check_presets` from its tests, one call each."""

import atexit
import dataclasses
import importlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude import cli, config, draw
from etude.errors import UserError
from etude.package import Package
from etude.report import read as report
from etude.stacked import Unstackable
from etude.stacked import runs as stacked
from etude.study import judge
from etude.study.command import configurations, refuse_other_configurations
from etude.study.file import available, dump, flags_as_values, load, parse
from etude.study.outcome import measure
from etude.study.question import Study
from etude.train import device, loop, optim, run
from etude.train.device import Device
from etude.train.norm import batch_norms
from etude.train.step import Learner, Step, evaluate, train_step
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

CPU = Device(torch.device("cpu"), "fp32")
PLACES = ("ETUDE_DATA", "XDG_CACHE_HOME")  # of data, which may change from test to test
FEW = 3  # batches of an epoch, where it is not their number that matters


class Cut(BaseException):
    """Stands for a kill in the middle of a run; nothing catches it."""


def check_task(
    package: Package, flags: list[str], inputs: list[str], folder: Path, uncompared: Collection[str] = ()
) -> None:
    """Holds a task against the promises of this project; raises AssertionError naming the first that is broken.

    `flags` should ask for something small, of at least 3 optimiser steps an epoch (it is trained for 2 epochs, some
    six times), that can learn 16 examples by heart. `inputs` are given to `predict`. `folder` must be empty.
    `uncompared`: scores that are not in `Package.scores`, because neither way is better, or not every configuration
    gives them.
    """
    flags = [*flags, "--fit.epochs", "2", "--fit.save-every", "0", "--fit.device", "cpu", "--fit.precision", "fp32"]
    parsed: Any = config.parse(package.config, flags)
    check_config(package, parsed, folder)
    check_batch_size(make(package, parsed), "valid")
    check_batch_size(make(package, parsed), "train")
    check_counts(make(package, parsed))
    check_overfits(make(package, parsed), parsed)
    check_bf16(make(package, parsed))
    check_resume(package, parsed, folder)
    check_fingerprints(package, parsed, folder / "whole")
    check_scores(package, parsed, folder / "whole", uncompared)
    check_accumulation(make(package, parsed), parsed)
    check_processes(package, parsed, folder)
    check_unfinished(package, parsed, folder / "unfinished")
    check_changed_default(package, flags, folder / "older")
    check_stacking(package, flags, folder)
    check_predict(package, folder / "whole", inputs, folder / "copied")
    check_report(package, folder / "whole")


def check_presets(package: Package, presets: list[str], studies: list[str]) -> None:
    """The presets and studies that install with the package, no study missing, can be read: every trial of them."""
    for preset in presets:
        config.parse(package.config, [preset], package=package.module)
    names = available(package.module)
    assert names == studies, f"the studies of {package.name} are {names}"
    for name in names:
        found = load(name, package.module, package.scores)
        assert found.seeds >= 3
        assert found.expect
        for trial in found.trials():
            config.parse(package.config, config.to_flags({**found.fixed, **trial.setting, **trial.tuned}))


def make(package: Package, parsed: Any) -> Task:
    torch.manual_seed(parsed.fit.seed)
    return package.task.make(parsed, CPU.where)


def check_config(package: Package, parsed: Any, folder: Path) -> None:
    """A saved configuration is read back equal."""
    file = folder / "saved.yaml"
    config.save(parsed, file)
    assert config.parse(package.config, [str(file)]) == parsed, "the configuration does not survive save and parse"


def check_batch_size(task: Task, split: Split) -> None:
    """Sums and counts over the same examples are the same in batches of 1, 5 and all.

    So no padding leaks, nothing is averaged, and augmentation follows from the example, not from a generator.
    """
    epoch = 1 if split == "train" else 0
    ids = np.concatenate(task.plan(split, epoch, 64))[:48]
    task.model.eval()
    found = []
    for size in (len(ids), 5, 1):
        torch.manual_seed(size)
        totals = Totals()
        with torch.inference_mode():
            for start in range(0, len(ids), size):
                totals.add(task.step(task.load(split, ids[start : start + size], epoch)))
        found.append(totals)
    whole, *parts = found
    for totals in parts:
        for name, value in whole.sums.items():
            same = torch.equal(totals.counts[name], whole.counts[name])
            assert same, f"{split} {name}: the count depends on the batch size; return sums and counts, never means"
            near = torch.allclose(totals.sums[name], value, rtol=1e-4, atol=1e-4)
            assert near, f"{split} {name}: the sum depends on the batch size: on padding, or on a generator's state"


def check_counts(task: Task) -> None:
    """In training mode too the counts of two halves add up to that of the whole."""
    ids = task.plan("train", 1, 16)[0]
    task.model.train()
    whole, halves = Totals(), Totals()
    whole.add(task.step(task.load("train", ids, 1)))
    for half in np.array_split(ids, 2):
        halves.add(task.step(task.load("train", half, 1)))
    for name, count in whole.counts.items():
        same = torch.equal(halves.counts[name], count)
        assert same, f"train {name}: the count depends on the batch size; return sums and counts, never means"


def check_overfits(task: Task, parsed: Any) -> None:
    """A model that can learn at all learns one batch by heart: the loss falls below a third."""
    batch = task.load("train", task.plan("train", 1, 16)[0], 1)
    optimizer = optim.optimizer(dataclasses.replace(parsed.fit, optimizer="adamw", lr=3e-3), task.model)
    task.model.train()
    losses = []
    for step in range(150):
        torch.manual_seed(draw.key(step))
        total, count = task.step(batch)["loss"]
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append((total / count).item())
    assert losses[-1] < losses[0] / 3, (
        f"one batch is not learnt: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    )


def check_bf16(task: Task) -> None:
    """A training step in bf16 gives about the loss of fp32, and a gradient."""
    batch = task.load("train", task.plan("train", 1, 16)[0], 1)
    losses = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        task.model.train()
        with Device(CPU.where, precision).autocast():
            total, count = task.step(batch)["loss"]
        losses.append((total / count).item())
        task.model.zero_grad()
        total.backward()
        for name, parameter in task.model.named_parameters():
            finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
            assert finite, f"{name} has a gradient that is no number in {precision}"
    assert math.isclose(*losses, rel_tol=0.1), f"bf16 gives the loss {losses[1]:.4f}, fp32 {losses[0]:.4f}"


def check_resume(package: Package, parsed: Any, folder: Path) -> None:
    """A run that is cut off anywhere and started again ends bitwise equal to one that was not."""
    whole = trained(package, parsed, folder / "whole", [])
    steps = whole["progress"]["step"]
    assert steps >= 6, (
        f"the flags ask for {steps // 2} optimiser steps an epoch, the battery needs 3: lower fit.batch-size"
    )
    # in the first epoch, in the second, and in an evaluation just before an epoch's checkpoint
    cuts = [("train", 1 + steps // 4), ("valid", 1), ("train", steps // 4 + 2)]
    resumed = trained(package, parsed, folder / "resumed", cuts)
    for part in ("model", "optimizer", "progress"):
        where = different(whole[part], resumed[part], part)
        assert where is None, (
            f"a resumed run differs from an uninterrupted one in {where}: it is missing from the checkpoint"
        )
    blind = trained(package, parsed, folder / "blind", [], show=False)
    where = different(whole["model"], blind["model"], "model")
    assert where is None, f"Task.show changes the training: without it {where} is another"
    rows = [(folder / name / "metrics.jsonl").read_text() for name in ("whole", "resumed")]
    assert rows[0] == rows[1], "metrics.jsonl of a resumed run differs from an uninterrupted one"


def trained(
    package: Package, parsed: Any, folder: Path, cuts: list[tuple[str, int]], show: bool = True
) -> dict[str, Any]:
    """The last checkpoint of a run that is cut off once for every (split, number of batches loaded since the start)."""
    for split, number in [*cuts, ("", 0)]:
        task = make(package, parsed) if show else blind(package, parsed)
        cut_off(task, split, number)
        train(task, parsed, folder)
        finished = (folder / "result.json").is_file()
        assert finished != bool(split), f"the run ended before batch {number} of {split} was reached"
    state = run.load(folder / "checkpoints" / "last.pt")
    state["progress"]["seconds"] = 0
    return state


def train(task: Task, parsed: Any, folder: Path) -> None:
    """Trains to the end, or until the task is cut off, as if killed there."""
    with redirect_stdout(StringIO()), closing(run.Run(folder, parsed, CPU)) as one, suppress(Cut):
        loop.fit(task, parsed.fit, one, CPU)


def blind(package: Package, parsed: Any) -> Task:
    """A task that shows nothing."""
    task = make(package, parsed)
    task.show = lambda *_: None  # type: ignore[method-assign]
    return task


def short(package: Package, parsed: Any) -> Task:
    """A task with few batches in an epoch, which shows nothing."""
    task = blind(package, parsed)
    plan = task.plan
    task.plan = lambda *of: plan(*of)[:FEW]  # type: ignore[method-assign]
    return task


def cut_off(task: Task, split: str, number: int) -> None:
    """Makes `task` die when it loads batch `number` of `split`."""
    load, count = task.load, 0

    def counting(of: Split, ids: np.ndarray, epoch: int) -> Any:
        nonlocal count
        count += of == split
        if of == split and count == number:
            raise Cut
        return load(of, ids, epoch)

    task.load = counting  # type: ignore[method-assign,assignment]


def different(a: Any, b: Any, name: str) -> str | None:
    """The name of the first value in which two nested states differ, None if they are bitwise equal."""
    if isinstance(a, torch.Tensor):
        return None if torch.equal(a, b) else name
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return name
        return next((found for key in a if (found := different(a[key], b[key], f"{name}.{key}"))), None)
    if isinstance(a, list):
        return name if len(a) != len(b) else different(dict(enumerate(a)), dict(enumerate(b)), name)
    return None if a == b else name


def check_fingerprints(package: Package, parsed: Any, folder: Path) -> None:
    """Each part has a fingerprint, which differs between parts and is found again where the run is scored."""
    made, kept = dict(make(package, parsed).fingerprints), run.checkpoint(folder)
    assert made.keys() == {"train", "valid", "test"}, f"the parts with a fingerprint are {', '.join(made)}"
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in made.values()), f"{made} are no fingerprints"
    assert len(set(made.values())) == 3, "two parts have the same fingerprint: is it of their content?"
    assert kept["fingerprints"] == made, "the fingerprints are not a function of the data"
    scored = package.task.restore(parsed, kept["assets"], CPU.where).fingerprints
    assert "test" in scored, "restored to be scored, the task has no fingerprint of its test part"
    assert {**made, **scored} == made, "restored to be scored, the task has other data"


def check_scores(package: Package, parsed: Any, folder: Path, uncompared: Collection[str]) -> None:
    """A study knows which way every score is better, and what it owes to the examples of the test part."""
    task = make(package, parsed)
    assert dict(task.better) == dict(package.scores), "Task.better is not Package.scores"
    assert task.metric in package.scores, f"Package.scores does not say which way {task.metric} is better"
    with redirect_stdout(StringIO()):
        assert cli.main(package, ["evaluate", str(folder)]) == 0
    result, test, kept = (
        json.loads((folder / name).read_text()) for name in ("result.json", "test.json", judge.BLOCKS)
    )
    valid = result["valid"]
    both = {name for name in valid if isinstance(test.get(name), float)}
    known = {*package.scores, *uncompared}
    assert both <= known, f"Package.scores does not say which way {', '.join(sorted(both - known))} is better"
    gone = sorted(package.scores.keys() - both)
    assert not gone, f"Package.scores has {', '.join(gone)}, which validation and evaluate do not both give"
    other = make(package, dataclasses.replace(parsed, fit=dataclasses.replace(parsed.fit, seed=parsed.fit.seed + 1)))
    for name in package.scores:
        values = kept["blocks"].get(name)
        if values is None:  # the spread of the seeds shows it, where each has a test part of its own
            same = task.fingerprints["test"] == other.fingerprints["test"]
            assert not same, f"{name} has no evidence (etude.train.evidence), but all seeds share one test part"
        else:
            away, error = abs(judge.mean(values) - test[name]), math.sqrt(judge.of_mean(values).variance)
            assert away <= 3 * error + abs(test[name]) / 4 + 1e-3, (  # BLEU near 0 is not smooth
                f"{name} without some examples is not {name} of the others: `scores` takes more than the totals"
            )


def check_unfinished(package: Package, parsed: Any, out: Path) -> None:
    """Test scores of a run that is not finished are not taken for its own; `evaluate` then gives those."""
    parsed = dataclasses.replace(parsed, fit=dataclasses.replace(parsed.fit, keep="last", patience=0))
    task = short(package, parsed)
    asked = one_run(package, task.metric, "fit.keep", "last", {})
    (trial,) = asked.trials()
    folder = trial.folder(out)
    cut_off(task, "train", len(task.plan("train", 1, parsed.fit.batch_size)) + 2)
    train(task, parsed, folder)
    scores(package, folder)
    assert report.record(folder).test is None, "a report takes the scores of an unfinished run for its own"
    train(short(package, parsed), parsed, folder)
    for taken in (report.record(folder).test, measure(asked, out, trial).test):
        assert taken is None, "test scores of epoch 1 are taken for those of the finished run"
    found = scores(package, folder)
    assert measure(asked, out, trial).test == found[task.metric]
    best = run.checkpoint(folder)
    task = package.task.restore(parsed, best["assets"], CPU.where)
    run.fill(task.model, best, folder)
    truth = task.scores(evaluate(task, "test", CPU, parsed.fit.batch_size))["loss"]
    near = math.isclose(found["loss"], truth, rel_tol=1e-3, abs_tol=1e-6)
    assert near, f"evaluate gives the loss {found['loss']:.6g}, the best checkpoint has {truth:.6g}"


def one_run(package: Package, metric: str, knob: str, value: str, fixed: dict[str, Any]) -> Study:
    """A study of a single run."""
    raw = {"question": "?", "compare": {knob: [value]}, "metric": metric, "seeds": "1"}
    return dataclasses.replace(parse(raw, "check_task", "check", "check", package.scores), fixed=fixed)


def scores(package: Package, folder: Path) -> dict[str, Any]:
    with redirect_stdout(StringIO()) as out:
        assert cli.main(package, ["evaluate", str(folder)]) == 0
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return found


def check_changed_default(package: Package, flags: list[str], out: Path) -> None:
    """A run that is older than a default of today's does not answer for it: study and report refuse its folder."""
    given = flags_as_values(flags, package.config)
    fixed = {knob: value for knob, value in given.items() if knob not in ("fit.seed", "fit.epochs")}
    asked = one_run(package, "loss", "fit.epochs", "2", fixed)
    (trial,) = asked.trials()
    trial.folder(out).mkdir(parents=True)
    now = configurations(asked, package.config)
    config.save(now[str(trial)], trial.folder(out) / "config.yaml")
    (out / "study.yaml").write_text(dump(asked), encoding="utf-8")
    refuse_other_configurations(asked, out, now)
    name = next(n for n in ("weight-decay", "clip", "lr") if f"fit.{n}" not in fixed)
    fit, field = package.config().fit, name.replace("-", "_")
    other = dataclasses.replace(fit, **{field: getattr(fit, field) + 0.01})
    changed = ("fit", config.Fit, dataclasses.field(default_factory=lambda: other))
    later = dataclasses.make_dataclass(package.config.__name__, [changed], bases=(package.config,), frozen=True)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = cli.main(dataclasses.replace(package, config=later), ["report", str(out), "--only", "page"])
    told = code == 2 and f"(fit.{name}: " in said.getvalue()
    assert told, f"a run answers for another fit.{name} than it was trained with, after its default has changed"


def check_stacking(package: Package, flags: list[str], folder: Path) -> None:
    """Runs that differ in what the runs of a study may, trained as one program for two epochs, are the runs alone.

    What cannot be stacked is said; it is no failure.
    """
    flags = [*flags, "--fit.save-every", "60"]
    parsed: Any = config.parse(package.config, flags)
    train(short(package, parsed), parsed, folder / "first")
    values = config.flatten(parsed)
    proved: list[tuple[str, ...]] = []
    for number, knobs in enumerate(stacked_knobs(package)):
        if any(set(knobs) <= set(more) for more in proved):
            continue
        differ = f"runs that differ in {', '.join(knobs)}"
        new = {knob: other_value(knob, values[knob]) for knob in knobs}
        second: Any = config.parse(package.config, [*flags, *config.to_flags(new)])
        with ExitStack() as stack:
            replicas = []
            for n, cfg in enumerate((parsed, second)):
                one = run.Run(folder / f"stack-{number}" / str(n), cfg, CPU)
                stack.callback(one.close)
                replicas.append(stacked.Replica(Learner(short(package, cfg), cfg.fit, CPU), one, StringIO()))
            try:
                why = stacked.fit(replicas)
            except Unstackable as error:
                print(f"{package.name}: {differ} are not stacked: {error}")
                continue
        if why:
            print(f"{package.name}: {differ} are scored one after the other: {why}")
        train(short(package, second), second, folder / f"second-{number}")
        for replica, alone in zip(replicas, ("first", f"second-{number}"), strict=True):
            assert replica.error is None, f"in a stack of {differ}: {replica.error}"
            where = unlike(folder / alone, replica.run.path)
            assert where is None, f"in a stack of {differ}, {where}"
        proved.append(knobs)


def stacked_knobs(package: Package) -> list[tuple[str, ...]]:
    """In what runs of one stack differ, in each of the package's studies; those that differ in most first."""
    found: list[tuple[str, ...]] = [("fit.seed",)]
    defaults = config.flatten(package.config())
    for name in available(package.module):
        asked = load(name, package.module, package.scores)
        varied = [knob for knob in (*asked.compare, *asked.tune) if config.stackable(knob, defaults.get(knob))]
        found.append(("fit.seed", *sorted(varied)))
    return sorted(dict.fromkeys(found), key=len, reverse=True)


def other_value(knob: str, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return value / 2 if knob == "fit.lr" else value / 2 + 0.1


def unlike(alone: Path, together: Path) -> str | None:
    """The first score in which a run in a stack differs from the run alone by more than rounding grows to."""
    rows = [report.read_lines(folder / "metrics.jsonl") for folder in (alone, together)]
    for one, other in zip(*rows, strict=True):
        for part in ("train", "valid"):
            for name, value in one[part].items():
                found = other[part][name]
                near = 0.01 if name == "loss" else 0.05  # what is counted may turn at a single example
                if not math.isclose(value, found, rel_tol=near, abs_tol=near):
                    return f"{part} {name} of epoch {one['epoch']} is {found:.6g}, alone {value:.6g}"
    return None


def check_predict(package: Package, folder: Path, inputs: list[str], copied: Path) -> None:
    """A copied run folder predicts alone: the original is moved away."""
    before = predicted(package, folder, inputs)
    shutil.copytree(folder, copied)
    moved = folder.rename(folder.with_name("moved"))
    assert predicted(package, copied, inputs) == before, "a copied run folder predicts something else"
    moved.rename(folder)


def check_report(package: Package, folder: Path) -> None:
    """The page of a run shows what the task showed before and after training, and its logs can be packed."""
    with redirect_stdout(StringIO()):
        for kind in ("page", "tensorboard"):
            assert cli.main(package, ["report", str(folder), "--only", kind]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    for when in (report.BEFORE, report.AFTER):
        assert f"<figcaption>{when}</figcaption>" in text, (
            f"nothing is shown {when}: give Run.text or Run.picture the names NAME-epoch-000, ... and NAME-end"
        )
    assert (folder / f"tensorboard{package.number}.zip").is_file()


def predicted(package: Package, folder: Path, inputs: list[str]) -> str:
    with redirect_stdout(StringIO()) as out:
        code = cli.main(package, ["predict", str(folder), *inputs])
    assert code == 0, f"predict ended with exit code {code}"
    assert out.getvalue(), "predict printed nothing"
    return out.getvalue()


class Still(TorchFunctionMode):
    """Within it nothing is random: dropout keeps all, and what is drawn is the middle of what could be.

    So a step in training mode is a function of its examples, and what is computed of them in another way, in pieces or
    in several processes, has to come out equal.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.dropout, draw.dropout_of_rows):
            return args[0]
        found = func(*args, **kwargs)
        if func in (torch.rand, torch.rand_like):
            return torch.full_like(found, 0.5)
        if func in (torch.randn, torch.randn_like):
            return torch.zeros_like(found)
        if func in (torch.randint, torch.randint_like):
            return torch.full_like(found, args[1 if func is torch.randint_like else 0] if len(args) > 2 else 0)
        return found


def still(task: Task) -> Task:
    """The task with steps that draw nothing, and that shows nothing."""
    step = task.step

    def without_chance(batch: Any) -> Sums:
        with Still():
            return step(batch)

    task.step = without_chance  # type: ignore[method-assign]
    task.show = lambda *_: None  # type: ignore[method-assign]
    return task


def check_accumulation(task: Task, parsed: Any) -> None:
    """A gradient in four pieces is the gradient, for batches that leave pieces ragged or empty, too.

    In training mode, but batch norm rests: its statistics are those of a piece.
    """
    still(task)
    fit = dataclasses.replace(parsed.fit, optimizer="sgd", batch_size=16)
    for n in (11, 3):
        ids, found = task.plan("train", 1, 16)[0][:n], []
        for accumulate in (1, 4):
            learner = Learner(task, dataclasses.replace(fit, accumulate=accumulate), CPU)
            task.model.train()
            for norm in batch_norms(task.model):
                norm.eval()
            taken = train_step(learner, Step(1, 0, ids, 0.0))
            gradient = {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}
            found.append((taken.totals, gradient))
        (whole, expected), (pieces, gradient) = found
        how = f"a batch of {len(ids)} examples in 4 pieces"
        assert pieces.sums.keys() == whole.sums.keys(), f"{how} has other metrics than in one"
        for name, value in whole.sums.items():
            same = torch.equal(pieces.counts[name], whole.counts[name])
            assert same, f"{how} has another count of {name} than in one"
            near = torch.allclose(pieces.sums[name], value, rtol=1e-3, atol=1e-3)
            assert near, f"{how} has another sum of {name} than in one: a step adds something for each call"
        apart = distance(expected, gradient)
        assert apart < 1e-3, f"{how} has another gradient than in one, by {apart:.1%}"


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """How far tensors of the same names are from each other, in parts of the first: 0 for equal ones."""
    if a.keys() != b.keys():
        return math.inf
    if not a:
        return 0.0
    x, y = (torch.cat([tensors[name].double().reshape(-1) for name in a]) for tensors in (a, b))
    return float((x - y).norm() / x.norm().clamp(min=1e-12))


def check_processes(package: Package, parsed: Any, folder: Path) -> None:
    """Two processes have the same weights, bit by bit, and those of one process up to rounding.

    An epoch of three steps and its validation, where the last batch leaves the second process without an example. In
    training mode: batch norm counts over both.
    """
    fit = dataclasses.replace(parsed.fit, optimizer="sgd", lr=0.01, momentum=0.0, epochs=1, keep="last", patience=0)
    parsed = dataclasses.replace(parsed, fit=fit)
    config.save(parsed, folder / "processes.yaml")
    both = partners()
    for partner in both:
        assert partner.stdin is not None
        places = {name: os.environ.get(name) for name in PLACES}
        partner.stdin.write(json.dumps([package.module, str(folder), places]) + "\n")
        partner.stdin.flush()
    alone = leave_weights(package, parsed, CPU, folder / "process")
    said = [json.loads(partner.stdout.readline() or '"it ended"') for partner in both if partner.stdout is not None]
    if any(said):
        dismiss(both)
        partners.cache_clear()
        raise AssertionError(f"two processes cannot train it: {'; '.join(filter(None, said))}")
    first, second = (run.load(folder / f"processes-{rank}.pt") for rank in range(2))
    where = different(first["model"], second["model"], "the model")
    assert where is None, f"two processes end with different weights: in {where}"
    apart = distance(moved(alone), moved(first))
    assert apart < 0.02, f"two processes train to other weights than one, by {apart:.1%} of the way"
    rows = [json.loads((folder / name / "metrics.jsonl").read_text()) for name in ("process", "processes")]
    for part in ("train", "valid"):
        one, two = (row[part]["loss"] for row in rows)
        near = math.isclose(one, two, rel_tol=1e-3, abs_tol=1e-6)
        assert near, f"two processes have the {part} loss {two:.6g}, one has {one:.6g}"
        assert rows[0][part].keys() == rows[1][part].keys(), f"two processes have other {part} metrics than one"


def moved(weights: dict[str, Any]) -> dict[str, Any]:
    """How far training has moved weights: those that have."""
    ways = {name: weights["model"][name].double() - x.double() for name, x in weights["before"].items()}
    return {name: way for name, way in ways.items() if way.is_floating_point()}


@cache
def partners() -> list[subprocess.Popen[str]]:
    """Two processes that train together what they are told to; kept until this one ends, as they take long to start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words, pipe = [sys.executable, "-c", "from etude.testing import process; process()"], subprocess.PIPE
    both = [
        subprocess.Popen(words, env=env | {"RANK": f"{rank}"}, stdin=pipe, stdout=pipe, text=True) for rank in (0, 1)
    ]
    atexit.register(dismiss, both)
    return both


def dismiss(both: Sequence[subprocess.Popen[str]]) -> None:
    for partner in both:
        partner.communicate()  # closes its input, and waits for its end


def process() -> None:
    """What each of the `partners` does: answers each line [module, folder, places] by "" or what ended it."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is said is no answer
    for line in sys.stdin:
        module, name, places = json.loads(line)
        for place, path in places.items():
            os.environ.pop(place, None)
            os.environ.update({place: path} if path is not None else {})
        package, folder, problem = importlib.import_module(f"{module}.__main__").PACKAGE, Path(name), ""
        try:
            parsed: Any = config.parse(package.config, [str(folder / "processes.yaml")])
            where = device.choose(parsed.fit)
            torch.save(
                leave_weights(package, parsed, where, folder / "processes"), folder / f"processes-{where.rank}.pt"
            )
        except Exception as error:
            problem = " ".join(f"{'' if isinstance(error, UserError) else type(error).__name__} {error}".split())
        answers.write(json.dumps(problem) + "\n")
        answers.flush()
        if problem:  # the other one must not wait for this one
            return


def leave_weights(package: Package, parsed: Any, where: Device, folder: Path) -> dict[str, Any]:
    """Trains for a few steps in a run folder; the model of this process before and after."""
    task = still(make(package, parsed))
    plan = task.plan
    ragged = 3 if batch_norms(task.model) else 1  # of a single example there is no batch norm

    def shortened(*of: Any) -> list[np.ndarray]:
        batches = plan(*of)
        return [*batches[:2], batches[-1][: ragged if of[0] == "train" else 1]]

    task.plan = shortened  # type: ignore[method-assign,assignment]
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    with redirect_stdout(StringIO()), closing(run.Run(folder, parsed, where)) as one:
        loop.fit(task, parsed.fit, one, where)
    return {"before": before, "model": task.model.state_dict()}
