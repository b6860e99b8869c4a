"""The battery that every task passes: `check_task` and `check_presets` from its tests, one call each."""

import dataclasses
import json
import math
import shutil
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etude import cli, config, draw, loop, many, optim, report, run, study
from etude.device import Device
from etude.loop import Task, Totals

CPU = Device(torch.device("cpu"), "fp32")
FEW = 3  # batches of an epoch, where it is not their number that matters


class Cut(BaseException):
    """Stands for a kill in the middle of a run; nothing catches it."""


def check_task(package: cli.Package, flags: list[str], inputs: list[str], folder: Path) -> None:
    """Holds a task against the promises of this project; raises AssertionError naming the first that is broken.

    `flags` should ask for something small, of at least 3 optimiser steps an epoch (it is trained for 2 epochs, some
    six times), that can learn 16 examples by heart. `inputs` are given to `predict`. `folder` must be empty.
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
    check_unfinished(package, parsed, folder / "unfinished")
    check_changed_default(package, flags, folder / "older")
    check_stacking(package, flags, folder)
    check_predict(package, folder / "whole", inputs, folder / "copied")
    check_report(package, folder / "whole")


def check_presets(package: cli.Package, presets: list[str], studies: list[str]) -> None:
    """The presets and studies that install with the package, no study missing, can be read: every trial of them."""
    for preset in presets:
        config.parse(package.config, [preset], package=package.module)
    names = study.available(package.module)
    assert names == studies, f"the studies of {package.name} are {names}"
    for name in names:
        found = study.load(name, package.module)
        assert found.seeds >= 3
        assert found.expect
        for trial in found.trials():
            config.parse(package.config, config.to_flags({**found.fixed, **trial.setting, **trial.tuned}))


def make(package: cli.Package, parsed: Any) -> Task:
    torch.manual_seed(parsed.fit.seed)
    return package.task.make(parsed, CPU.where)


def check_config(package: cli.Package, parsed: Any, folder: Path) -> None:
    """A saved configuration is read back equal."""
    file = folder / "saved.yaml"
    config.save(parsed, file)
    assert config.parse(package.config, [str(file)]) == parsed, "the configuration does not survive save and parse"


def check_batch_size(task: Task, split: loop.Split) -> None:
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


def check_resume(package: cli.Package, parsed: Any, folder: Path) -> None:
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
    package: cli.Package, parsed: Any, folder: Path, cuts: list[tuple[str, int]], show: bool = True
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


def blind(package: cli.Package, parsed: Any) -> Task:
    """A task that shows nothing."""
    task = make(package, parsed)
    task.show = lambda *_: None  # type: ignore[method-assign]
    return task


def short(package: cli.Package, parsed: Any) -> Task:
    """A task with few batches in an epoch, which shows nothing."""
    task = blind(package, parsed)
    plan = task.plan
    task.plan = lambda *of: plan(*of)[:FEW]  # type: ignore[method-assign]
    return task


def cut_off(task: Task, split: str, number: int) -> None:
    """Makes `task` die when it loads batch `number` of `split`."""
    load, count = task.load, 0

    def counting(of: loop.Split, ids: np.ndarray, epoch: int) -> Any:
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


def check_unfinished(package: cli.Package, parsed: Any, out: Path) -> None:
    """Test scores of a run that is not finished are not taken for its own; `evaluate` then gives those."""
    parsed = dataclasses.replace(parsed, fit=dataclasses.replace(parsed.fit, keep="last", patience=0))
    task = short(package, parsed)
    asked = one_run(task.metric, "fit.keep", "last", {})
    (trial,) = asked.trials()
    folder = trial.folder(out)
    cut_off(task, "train", len(task.plan("train", 1, parsed.fit.batch_size)) + 2)
    train(task, parsed, folder)
    scores(package, folder)
    assert report.record(folder).test is None, "a report takes the scores of an unfinished run for its own"
    train(short(package, parsed), parsed, folder)
    for taken in (report.record(folder).test, study.measure(asked, out, trial).test):
        assert taken is None, "test scores of epoch 1 are taken for those of the finished run"
    found = scores(package, folder)
    assert study.measure(asked, out, trial).test == found[task.metric]
    best = run.checkpoint(folder)
    task = package.task.restore(parsed, best["assets"], CPU.where)
    run.fill(task.model, best, folder)
    truth = task.scores(loop.evaluate(task, "test", CPU, parsed.fit.batch_size))["loss"]
    near = math.isclose(found["loss"], truth, rel_tol=1e-3, abs_tol=1e-6)
    assert near, f"evaluate gives the loss {found['loss']:.6g}, the best checkpoint has {truth:.6g}"


def one_run(metric: str, knob: str, value: str, fixed: dict[str, Any]) -> study.Study:
    """A study of a single run."""
    raw = {"question": "?", "compare": {knob: [value]}, "metric": metric, "seeds": "1"}
    return dataclasses.replace(study.parse(raw, "check_task", "check", "check"), fixed=fixed)


def scores(package: cli.Package, folder: Path) -> dict[str, Any]:
    with redirect_stdout(StringIO()) as out:
        assert cli.main(package, ["evaluate", str(folder)]) == 0
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return found


def check_changed_default(package: cli.Package, flags: list[str], out: Path) -> None:
    """A run that is older than a default of today's does not answer for it: study and report refuse its folder."""
    fixed = {knob: value for knob, value in study.overrides(flags).items() if knob not in ("fit.seed", "fit.epochs")}
    asked = one_run("loss", "fit.epochs", "2", fixed)
    (trial,) = asked.trials()
    trial.folder(out).mkdir(parents=True)
    now = study.configurations(asked, package.config)
    config.save(now[str(trial)], trial.folder(out) / "config.yaml")
    (out / "study.yaml").write_text(study.dump(asked), encoding="utf-8")
    study.refuse_other_configurations(asked, out, now)
    name = next(n for n in ("weight-decay", "clip", "lr") if f"fit.{n}" not in fixed)
    fit, field = package.config().fit, name.replace("-", "_")
    other = dataclasses.replace(fit, **{field: getattr(fit, field) + 0.01})
    changed = ("fit", config.Fit, dataclasses.field(default_factory=lambda: other))
    later = dataclasses.make_dataclass(package.config.__name__, [changed], bases=(package.config,), frozen=True)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = cli.main(dataclasses.replace(package, config=later), ["report", str(out), "--only", "page"])
    told = code == 2 and f"(fit.{name}: " in said.getvalue()
    assert told, f"a run answers for another fit.{name} than it was trained with, after its default has changed"


def check_stacking(package: cli.Package, flags: list[str], folder: Path) -> None:
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
            members = []
            for n, cfg in enumerate((parsed, second)):
                one = run.Run(folder / f"stack-{number}" / str(n), cfg, CPU)
                stack.callback(one.close)
                members.append(many.Member(loop.Learner(short(package, cfg), cfg.fit, CPU), one, StringIO()))
            try:
                why = many.fit(members)
            except many.Unstackable as error:
                print(f"{package.name}: {differ} are not stacked: {error}")
                continue
        if why:
            print(f"{package.name}: {differ} are scored one after the other: {why}")
        train(short(package, second), second, folder / f"second-{number}")
        for member, alone in zip(members, ("first", f"second-{number}"), strict=True):
            assert member.error is None, f"in a stack of {differ}: {member.error}"
            where = unlike(folder / alone, member.run.path)
            assert where is None, f"in a stack of {differ}, {where}"
        proved.append(knobs)


def stacked_knobs(package: cli.Package) -> list[tuple[str, ...]]:
    """In what runs of one stack differ, in each of the package's studies; those that differ in most first."""
    found: list[tuple[str, ...]] = [("fit.seed",)]
    defaults = config.flatten(package.config())
    for name in study.available(package.module):
        asked = study.load(name, package.module)
        varied = [knob for knob in (*asked.compare, *asked.tune) if config.stackable(knob, defaults.get(knob))]
        found.append(("fit.seed", *sorted(varied)))
    return sorted(dict.fromkeys(found), key=len, reverse=True)


def other_value(knob: str, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1
    return value / 2 if knob == "fit.lr" else value / 2 + 0.1


def unlike(alone: Path, stacked: Path) -> str | None:
    """The first score in which a run in a stack differs from the run alone by more than rounding grows to."""
    rows = [report.read_lines(folder / "metrics.jsonl") for folder in (alone, stacked)]
    for one, other in zip(*rows, strict=True):
        for part in ("train", "valid"):
            for name, value in one[part].items():
                found = other[part][name]
                near = 0.01 if name == "loss" else 0.05  # what is counted may turn at a single example
                if not math.isclose(value, found, rel_tol=near, abs_tol=near):
                    return f"{part} {name} of epoch {one['epoch']} is {found:.6g}, alone {value:.6g}"
    return None


def check_predict(package: cli.Package, folder: Path, inputs: list[str], copied: Path) -> None:
    """A copied run folder predicts alone: the original is moved away."""
    before = predicted(package, folder, inputs)
    shutil.copytree(folder, copied)
    moved = folder.rename(folder.with_name("moved"))
    assert predicted(package, copied, inputs) == before, "a copied run folder predicts something else"
    moved.rename(folder)


def check_report(package: cli.Package, folder: Path) -> None:
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


def predicted(package: cli.Package, folder: Path, inputs: list[str]) -> str:
    with redirect_stdout(StringIO()) as out:
        code = cli.main(package, ["predict", str(folder), *inputs])
    assert code == 0, f"predict ended with exit code {code}"
    assert out.getvalue(), "predict printed nothing"
    return out.getvalue()
