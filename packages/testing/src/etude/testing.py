"""The battery that every task passes: `check_task` and `check_presets` from its tests, one call each."""

import dataclasses
import importlib
import json
import math
import multiprocessing
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import ExitStack, chdir, closing, contextmanager, redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude import cli, config, draw, tested
from etude.errors import UserError
from etude.package import Package
from etude.report import read as report
from etude.stacked import Unstackable
from etude.stacked import runs as stacked
from etude.study import judge
from etude.study.command import asked_for
from etude.study.file import available, load_of
from etude.train import checkpoint, device, loop, optim, run
from etude.train.device import Device
from etude.train.norm import batch_norms
from etude.train.step import Learner, Step, evaluate, train_step
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

CPU = Device(torch.device("cpu"), "fp32")
PLACES = ("ETUDE_DATA", "XDG_CACHE_HOME")  # of data, which may change from test to test
FEW = 3  # batches of an epoch, where it is not their number that matters


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
    check_config(package, flags, parsed, folder)
    check_batch_size(make(package, parsed), "valid")
    check_batch_size(make(package, parsed), "train")
    check_batch_size(make(package, parsed), "train", training=True)
    check_overfits(make(package, parsed), parsed)
    check_bf16(make(package, parsed))
    check_resume(package, parsed, folder)
    check_fingerprints(package, parsed, folder / "whole")
    check_scores(package, parsed, folder / "whole", uncompared)
    check_accumulation(make(package, parsed), parsed)
    check_processes(package, parsed, folder)
    check_evaluate(package, parsed, folder / "evaluated")
    check_stacking(package, flags, folder)
    check_predict(package, folder / "whole", inputs, folder / "copied")
    check_report(package, folder / "whole")
    check_export(package, folder / "whole", inputs, folder / "exported")


def check_influence(pieces: Sequence[tuple[str, float]], said: Callable[[int, float], float]) -> None:
    """What a demo says of each piece of a text is what the number that it speaks for would lose, to first order.

    `said`: that number, if the vector of the piece of this number, which must not stand twice, were so many times it.
    """
    step = 0.01
    slopes = [(said(n, 1 + step) - said(n, 1 - step)) / (2 * step) for n in range(len(pieces))]
    largest = max(map(abs, slopes))
    assert largest > 1e-4, "an answer that depends on nothing"
    for (piece, weight), slope in zip(pieces, slopes, strict=True):
        assert abs(weight - slope) < 0.05 * largest, f"{piece} speaks {weight:+.4f} for it, not {slope:+.4f}"


@contextmanager
def scaled(tables: Iterable[torch.Tensor], rows: Any, by: float) -> Iterator[None]:
    """Some rows of tables of vectors, what is given and what is learnt, times a number; for `check_influence`."""
    kept = [(table.detach(), table.detach()[rows].clone()) for table in tables]
    try:
        for table, vectors in kept:
            table[rows] = by * vectors
        yield
    finally:
        for table, vectors in kept:
            table[rows] = vectors


def check_presets(package: Package, presets: list[str], studies: list[str]) -> None:
    """The presets and studies that install with the package, no study missing, can be begun: every trial of them.

    Of a search the ends of its ranges can.
    """
    for preset in presets:
        config.parse(package.config, [preset], package=package.module)
    names = available(package.module)
    assert names == studies, f"the studies of {package.name} are {names}"
    for name in names:
        found = load_of(package, name)
        assert found.seeds >= 3
        assert found.expect
        try:
            asked_for(found, Path(name), (), package.config)
        except UserError as error:
            assert found.needs and "which is not there yet" in str(error), f"study {name}: {error}"  # noqa: PT017,PT018


# -- tasks, and what is done to them


def make(package: Package, parsed: Any) -> Task:
    torch.manual_seed(parsed.fit.seed)
    return package.task.make(parsed, CPU.where)


def blind(task: Task) -> Task:
    """The task, showing nothing."""
    task.show = lambda *_: None  # type: ignore[method-assign]
    return task


def short(package: Package, parsed: Any) -> Task:
    """A task with few batches in an epoch, which shows nothing."""
    task = blind(make(package, parsed))
    plan = task.plan
    task.plan = lambda *of: plan(*of)[:FEW]  # type: ignore[method-assign]
    return task


class Still(TorchFunctionMode):
    """Within it nothing is random: dropout keeps all, and what is drawn is the middle of what could be.

    So a step in training mode is a function of its examples, and what is computed of them in another way, in pieces or
    in several processes, has to come out equal.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.dropout, draw.dropout_of_rows):
            return args[0]
        found = func(*args, **(kwargs or {}))
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
    return blind(task)


class Cut(BaseException):
    """Stands for a kill in the middle of a run; nothing catches it."""


def cut_off(task: Task, split: str, number: int) -> Task:
    """The task, which dies when it loads batch `number` of `split`."""
    load, count = task.load, 0

    def counting(of: Split, ids: np.ndarray, epoch: int) -> Any:
        nonlocal count
        count += of == split
        if of == split and count == number:
            raise Cut
        return load(of, ids, epoch)

    task.load = counting  # type: ignore[method-assign,assignment]
    return task


def train(task: Task, parsed: Any, folder: Path, where: Device = CPU) -> None:
    """Trains to the end, or until the task is cut off, as if killed there."""
    with redirect_stdout(StringIO()), closing(run.Run(folder, parsed, where)) as one, suppress(Cut):
        loop.fit(task, parsed.fit, one, where)


def said(package: Package, *words: str) -> str:
    """What a verb prints; it has to end well."""
    with redirect_stdout(StringIO()) as out:
        code = cli.main(package, list(words))
    assert code == 0, f"{words[0]} ended with exit code {code}"
    return out.getvalue()


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# -- how two things are compared


def check_same(found: Totals, whole: Totals, how: str, counted: str, summed: str, within: float) -> None:
    """Counts are equal, sums up to rounding; `within` infinity: counts alone, since of a 0 no part is infinite."""
    for name, value in whole.sums.items():
        assert torch.equal(found.counts[name], whole.counts[name]), f"{how} {counted.format(name)}"
        near = math.isinf(within) or torch.allclose(found.sums[name], value, rtol=within, atol=within)
        assert near, f"{how} {summed.format(name)}"


def different(a: Any, b: Any, name: str) -> str | None:
    """The name of the first value in which two nested states differ, None if they are bitwise equal."""
    if isinstance(a, torch.Tensor):
        return None if torch.equal(a, b) else name
    if isinstance(a, list) and isinstance(b, list):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return name
        return next((found for key in a if (found := different(a[key], b[key], f"{name}.{key}"))), None)
    return None if a == b else name


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two vectors are from each other, relative to the first: 0 for equal ones."""
    return float((a - b).norm() / a.norm().clamp(min=1e-12)) if a.shape == b.shape else math.inf


def vector(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All numbers of these tensors, float64."""
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(x.detach().double().reshape(-1) for x in tensors)])


# -- the checks


def check_config(package: Package, flags: list[str], parsed: Any, folder: Path) -> None:
    """A saved configuration is read back equal; after a default has changed, so that an older run is told from it."""
    file = folder / "saved.yaml"
    config.save(parsed, file)
    assert config.parse(package.config, [str(file)]) == parsed, "the configuration does not survive save and parse"
    fit, knob = package.config().fit, next(n for n in ("weight_decay", "clip", "lr") if flag(n) not in flags)
    changed = dataclasses.replace(fit, **{knob: getattr(fit, knob) + 0.01})
    new = ("fit", config.Fit, dataclasses.field(default_factory=lambda: changed))
    later = dataclasses.make_dataclass(package.config.__name__, [new], bases=(package.config,), frozen=True)
    apart = config.differences(config.parse(later, [str(file)]), config.parse(later, flags))
    told = len(apart) == 1 and apart[0].startswith(flag(knob)[2:] + ": ")
    assert told, f"a run answers for another {flag(knob)[2:]} than it was trained with, after its default has changed"


def flag(knob: str) -> str:
    return f"--fit.{knob.replace('_', '-')}"


def check_batch_size(task: Task, split: Split, training: bool = False) -> None:
    """Sums and counts over the same examples are the same in batches of 1, 5 and all; in training mode: the counts.

    So no padding leaks, nothing is averaged, and augmentation follows from the example, not from a generator.
    """
    epoch = 1 if split == "train" else 0
    ids = np.concatenate(task.plan(split, epoch, 64))[: 16 if training else 48]
    task.model.train(training)
    found = []
    for size in (len(ids), 8) if training else (len(ids), 5, 1):
        torch.manual_seed(size)
        found.append(totals := Totals())
        with torch.no_grad():
            for start in range(0, len(ids), size):
                totals.add(task.step(task.load(split, ids[start : start + size], epoch)))
    counted = "{}: the count depends on the batch size; return sums and counts, never means"
    summed = "{}: the sum depends on the batch size: on padding, or on a generator's state"
    for totals in found[1:]:
        check_same(totals, found[0], split, counted, summed, math.inf if training else 1e-4)


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
    how = f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    assert losses[-1] < losses[0] / 3, f"one batch is not learnt: {how}"


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
    """A run that is cut off anywhere and started again ends bitwise equal to one that was not, shown or not."""
    whole = trained(lambda: make(package, parsed), parsed, folder / "whole")
    steps = whole["progress"]["step"]
    few = f"the flags ask for {steps // 2} optimiser steps an epoch, the battery needs 3: lower fit.batch-size"
    assert steps >= 6, few
    # In the first epoch, in the second, and in an evaluation just before an epoch's checkpoint.
    cuts = [("train", 1 + steps // 4), ("valid", 1), ("train", steps // 4 + 2)]
    resumed = trained(lambda: make(package, parsed), parsed, folder / "resumed", cuts)
    for part in ("model", "optimizer", "progress"):
        where = different(whole[part], resumed[part], part)
        how = "a resumed run differs from an uninterrupted one"
        assert where is None, f"{how} in {where}: it is missing from the checkpoint"
    rows = [metrics(folder / name) for name in ("whole", "resumed")]
    assert rows[0] == rows[1], f"metrics.jsonl: {how}"
    unseen = trained(lambda: blind(make(package, parsed)), parsed, folder / "blind")
    where = different(whole["model"], unseen["model"], "model")
    assert where is None, f"Task.show changes the training: without it {where} is another"


def trained(
    make: Callable[[], Task], parsed: Any, folder: Path, cuts: Sequence[tuple[str, int]] = ()
) -> dict[str, Any]:
    """The last checkpoint of a run that is cut off once for every (split, number of batches loaded since the start)."""
    for split, number in [*cuts, ("", 0)]:
        train(cut_off(make(), split, number), parsed, folder)
        finished = (folder / "result.json").is_file()
        assert finished != bool(split), f"the run ended before batch {number} of {split} was reached"
    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    state["progress"]["seconds"] = 0
    return state


def check_fingerprints(package: Package, parsed: Any, folder: Path) -> None:
    """Each part has a fingerprint, which differs between parts and is found again where the run is scored."""
    made, kept = dict(make(package, parsed).fingerprints), checkpoint.read(folder)
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
    said(package, "evaluate", str(folder))
    names = ("result.json", "test.json", tested.BLOCKS)
    result, test, kept = (json.loads((folder / name).read_text(encoding="utf-8")) for name in names)
    both = {name for name in result["valid"] if isinstance(test.get(name), float)}
    unknown, gone = sorted(both - {*package.scores, *uncompared}), sorted(package.scores.keys() - both)
    assert not unknown, f"Package.scores does not say which way {', '.join(unknown)} is better"
    assert not gone, f"Package.scores has {', '.join(gone)}, which validation and evaluate do not both give"
    told = {name for part in (result["train"], result["valid"], test) for name in part if is_number(part[name])}
    undefined = sorted({*package.scores, *told} - package.meanings.keys())
    assert not undefined, f"Package.meanings does not say what {', '.join(undefined)} is, and in which unit"
    other = make(package, dataclasses.replace(parsed, fit=dataclasses.replace(parsed.fit, seed=parsed.fit.seed + 1)))
    for name in package.scores:
        values = kept["blocks"].get(name)
        if values is None:  # the spread of the seeds shows it, where each has a test part of its own
            same = task.fingerprints["test"] == other.fingerprints["test"]
            assert not same, f"{name} has no evidence (etude.train.evidence), but all seeds share one test part"
        else:
            away, error = abs(judge.mean(values) - test[name]), math.sqrt(judge.of_mean(values).variance)
            near = away <= 3 * error + abs(test[name]) / 4 + 1e-3  # BLEU near 0 is not smooth
            not_it = f"{name} without some examples is not {name} of the others"
            assert near, f"{not_it}: `scores` takes more than the totals"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
            found.append((taken.totals, vector([p.grad for p in task.model.parameters() if p.grad is not None])))
        (whole, expected), (pieces, gradient) = found
        how = f"a batch of {len(ids)} examples in 4 pieces has"
        assert pieces.sums.keys() == whole.sums.keys(), f"{how} other metrics than in one"
        summed = "another sum of {} than in one: a step adds something for each call"
        check_same(pieces, whole, how, "another count of {} than in one", summed, 1e-3)
        apart = distance(expected, gradient)
        assert apart < 1e-3, f"{how} another gradient than in one, by {apart:.1%}"


def check_evaluate(package: Package, parsed: Any, folder: Path) -> None:
    """`evaluate` scores the checkpoint that is there now: that of a run that was cut off, and later that of its end."""
    parsed = dataclasses.replace(parsed, fit=dataclasses.replace(parsed.fit, keep="last", patience=0))
    first = short(package, parsed)
    train(cut_off(first, "train", len(first.plan("train", 1, parsed.fit.batch_size)) + 2), parsed, folder)
    said(package, "evaluate", str(folder))
    train(short(package, parsed), parsed, folder)
    found, best = json.loads(said(package, "evaluate", str(folder)).splitlines()[-1]), checkpoint.read(folder)
    task = package.task.restore(parsed, best["assets"], CPU.where)
    checkpoint.fill(task.model, best, folder)
    truth = task.scores(evaluate(task, "test", CPU, parsed.fit.batch_size))["loss"]
    near = math.isclose(found["loss"], truth, rel_tol=1e-3, abs_tol=1e-6)
    assert near, f"evaluate gives the loss {found['loss']:.6g}, the best checkpoint has {truth:.6g}"


def check_predict(package: Package, folder: Path, inputs: list[str], copied: Path) -> None:
    """A copied run folder predicts alone: the original is moved away."""
    before = said(package, "predict", str(folder), *inputs)
    assert before, "predict printed nothing"
    shutil.copytree(folder, copied)
    moved = folder.rename(folder.with_name("moved"))
    assert said(package, "predict", str(copied), *inputs) == before, "a copied run folder predicts something else"
    moved.rename(folder)


def check_report(package: Package, folder: Path) -> None:
    """The page of a run shows what the task showed before and after training, and its logs can be packed."""
    for kind in ("page", "tensorboard"):
        said(package, "report", str(folder), "--only", kind)
    text = (folder / "report.html").read_text(encoding="utf-8")
    for when in (report.BEFORE, report.AFTER):
        remedy = "give Run.text or Run.picture what `Task.show` is told as `when`"
        assert f"<figcaption>{when}</figcaption>" in text, f"nothing is shown {when}: {remedy}"
    assert (folder / f"tensorboard{package.number}.zip").is_file()


def check_export(package: Package, folder: Path, inputs: list[str], exported: Path) -> None:
    """A run that is exported predicts what it did, to the last letter, and has the same scores.

    It tells no folder of this machine, so that it is scored where its data lie.
    """
    said(package, "export", str(folder), str(exported))
    places = [str(place.resolve()) for place in (folder, exported)]
    knobs = config.flatten(run.read_config(folder, package.config)).values()
    paths = [Path(value) for value in knobs if isinstance(value, str) and os.path.isabs(value)]
    for verb, more in (("predict", inputs), ("evaluate", [])):
        with chdir(paths[0].parent if paths and verb == "evaluate" else os.curdir):
            before, after = (said(package, verb, place, *more) for place in places)
        if verb == "evaluate":
            before, after = (json.loads(text.splitlines()[-1]) | {tested.MARK: None} for text in (before, after))
        assert before == after, f"{verb} of the exported run says {after}, of the run {before}"


# -- many runs as one program


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
                one = stack.enter_context(closing(run.Run(folder / f"stack-{number}" / str(n), cfg, CPU)))
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
            where = replica.error or unlike(folder / alone, replica.run.path)
            assert where is None, f"in a stack of {differ}, {where}"
        proved.append(knobs)


def stacked_knobs(package: Package) -> list[tuple[str, ...]]:
    """In what runs of one stack differ, in each of the package's studies; those that differ in most first."""
    found: list[tuple[str, ...]] = [("fit.seed",)]
    defaults = config.flatten(package.config())
    for name in available(package.module):
        asked = load_of(package, name)
        varied = [knob for knob in (*asked.compare, *asked.tune) if config.stackable(knob, defaults.get(knob))]
        found.append(("fit.seed", *sorted(varied)))
    return sorted(dict.fromkeys(found), key=len, reverse=True)


def other_value(knob: str, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return value / 2 if knob == "fit.lr" else value / 2 + 0.1


def unlike(alone: Path, stacked: Path) -> str | None:
    """The first score in which a run in a stack differs from the run alone by more than rounding grows to."""
    for one, other in zip(metrics(alone), metrics(stacked), strict=True):
        for part in ("train", "valid"):
            for name, value in one[part].items():
                found = other[part][name]
                near = 0.01 if name == "loss" else 0.05  # what is counted may turn at a single example
                if not math.isclose(value, found, rel_tol=near, abs_tol=near):
                    return f"{part} {name} of epoch {one['epoch']} is {found:.6g}, alone {value:.6g}"
    return None


# -- several processes


def check_processes(package: Package, parsed: Any, folder: Path) -> None:
    """Two processes have the same weights, bit by bit, and those of one process up to rounding.

    An epoch of three steps and its validation, where the last batch leaves the second process without an example. In
    training mode: batch norm counts over both.
    """
    fit = dataclasses.replace(parsed.fit, optimizer="sgd", lr=0.01, momentum=0.0, epochs=1, keep="last", patience=0)
    parsed = dataclasses.replace(parsed, fit=fit)
    places = {name: os.environ[name] for name in PLACES if name in os.environ}
    futures = [one.submit(take_part, package.module, parsed, folder / "processes", places) for one in partners()]
    alone = leave_weights(package, parsed, CPU, folder / "process")
    wait(futures, return_when=FIRST_EXCEPTION)
    if any(future.done() and future.exception() for future in futures):
        for one in partners():  # the process that failed ends, so that the other does not wait for it
            one.shutdown(wait=False)
        partners.cache_clear()
    problems = [" ".join(str(future.exception()).split()) for future in futures if future.exception()]
    assert not problems, f"two processes cannot train it: {'; '.join(problems)}"
    first, second = (future.result() for future in futures)
    where = different(first["model"], second["model"], "the model")
    assert where is None, f"two processes end with different weights: in {where}"
    apart = distance(alone["moved"], first["moved"])
    assert apart < 0.02, f"two processes train to other weights than one, by {apart:.1%} of the way"
    [row], [both] = metrics(folder / "process"), metrics(folder / "processes")
    for part in ("train", "valid"):
        x, y = row[part]["loss"], both[part]["loss"]
        near = math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-6)
        assert near, f"two processes have the {part} loss {y:.6g}, one has {x:.6g}"
        assert row[part].keys() == both[part].keys(), f"two processes have other {part} metrics than one"


@cache
def partners() -> list[ProcessPoolExecutor]:
    """Two processes that train together what they are told to; kept until this one ends, as they take long to start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    spawn = multiprocessing.get_context("spawn")
    return [ProcessPoolExecutor(1, spawn, prepare, (settings | {"RANK": rank},)) for rank in ("0", "1")]


def prepare(settings: dict[str, str]) -> None:
    os.environ.update(settings)
    torch.set_num_threads(1)


def take_part(module: str, parsed: Any, folder: Path, places: dict[str, str]) -> dict[str, Any]:
    """What each of the `partners` does."""
    for name in PLACES:
        os.environ.pop(name, None)
    os.environ.update(places)
    try:
        package = importlib.import_module(f"{module}.__main__").PACKAGE
        return leave_weights(package, parsed, device.choose(parsed.fit), folder)
    except Exception as error:  # not every error can be sent to another process
        raise AssertionError(f"{'' if isinstance(error, UserError) else type(error).__name__} {error}") from None


def leave_weights(package: Package, parsed: Any, where: Device, folder: Path) -> dict[str, Any]:
    """Trains for a few steps in a run folder: the model of this process, and how far its weights have moved."""
    task = still(make(package, parsed))
    plan = task.plan
    ragged = 3 if batch_norms(task.model) else 1  # of a single example there is no batch norm

    def shortened(*of: Any) -> list[np.ndarray]:
        batches = plan(*of)
        return [*batches[:2], batches[-1][: ragged if of[0] == "train" else 1]]

    task.plan = shortened  # type: ignore[method-assign,assignment]
    before = vector([*task.model.parameters()])
    train(task, parsed, folder, where)
    return {"model": task.model.state_dict(), "moved": vector([*task.model.parameters()]) - before}
