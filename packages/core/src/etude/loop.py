"""The one training loop. Tasks contain no loop, this file contains no task.

Three rules carry everything below:

- A step returns sums and counts, never means. Ragged batches, padding, accumulation, several processes and whole
  epochs are then exact: sums add up, averages of averages do not.
- Randomness is a function of (seed, epoch, batch): every step seeds the generators anew, and the data's draws are
  hashed from (seed, epoch, example). No generator state has to be saved; a run killed anywhere resumes bitwise equal.
- A hook may look, never steer: `Task.show` gets the run to write to, and what it draws changes no later step.
"""

import dataclasses
import hashlib
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from etude import draw, optim, tested
from etude.config import Fit, Scores
from etude.device import Device
from etude.errors import UserError
from etude.layers.norm import batch_norms, uncounted
from etude.layers.recurrent import keep_from_compiler
from etude.reporter import Reporter
from etude.run import Run, checkpoint, fill

Sums = dict[str, tuple[Tensor, Tensor | int]]  # metric -> (sum over the batch, how many were summed)
Split = Literal["train", "valid", "test"]


class Task(Protocol):
    """What one étude adds: data, model, and what a step is."""

    data: str
    """the data in words, for people: "fashion-mnist, 55,000 / 5,000 / 10,000 images, 10 classes" """
    summary: str
    """the model in words: "289,130 parameters, feature maps 32x14x14 > ..." """
    metric: str
    """the validation score that chooses the best checkpoint, a key of `scores`"""

    @property
    def model(self) -> nn.Module: ...

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The content of each part that is loaded, as it came in, by `etude.fingerprint`: {"test": "16 hex digits"}."""
        ...

    @property
    def better(self) -> Scores:
        """Which way each score improves; the same as `Package.scores`."""
        ...

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        """The ids, int64, of each batch of at most `batch_size`: for "train" a function of (seed, epoch), else fixed.

        Epochs of "train" count from 1; for the others it is 0.
        """
        ...

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Any:
        """The batch of these examples. Random augmentation is a function of (seed, epoch, id): see `etude.draw`."""
        ...

    def step(self, batch: Any) -> Sums:
        """Sums and counts of a batch; the optimiser minimises sum / count of "loss"."""
        ...

    def scores(self, totals: "Totals") -> dict[str, float]:
        """Scores of a whole part from its totals; `Totals.means` is the usual answer."""
        ...

    def show(self, run: Run, epoch: int, step: int) -> None:
        """Shows a person what the model does now: before training (epoch 0), after each epoch, and at the end (-1).

        Called on the first process only, in evaluation mode and without gradients; at the end with the best weights.
        What there is to write with: `Run.picture`, `text`, `scalars`, `graph`, `embedding`.
        """
        ...

    def assets(self) -> dict[str, Any]:
        """What `predict` needs besides the weights (labels, vocabulary, ...): plain data, kept in checkpoints."""
        ...


@dataclass
class Totals:
    """Sums and counts added up over batches, in float64 so that the order of adding does not show."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        for name, (value, count) in sums.items():
            value = value.detach().double()
            if isinstance(count, Tensor):
                count = count.detach().double()
            else:  # filled on the device: a copy from here would make a GPU wait
                count = torch.full((), count, dtype=torch.float64, device=value.device)
            self.include(name, value, count)

    def include(self, name: str, value: Tensor, count: Tensor) -> None:
        """Raises ValueError where shapes differ, which would add up to something else."""
        if name in self.sums and (self.sums[name].shape, self.counts[name].shape) != (value.shape, count.shape):
            shapes = f"{list(self.sums[name].shape)} and then {list(value.shape)}"
            raise ValueError(f"the metric {name!r} is of shape {shapes}: a step gives it one shape, whatever its batch")
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts[name] + count if name in self.counts else count

    def merge(self, other: "Totals") -> None:
        for name, value in other.sums.items():
            self.include(name, value, other.counts[name])

    def share(self, device: Device, model: nn.Module | None = None) -> None:
        """Adds up over all processes, and with it the gradients of `model`.

        By name, as not every process need have the same: what it lacks is 0 there, what none has stays away. Raises
        ValueError, in all processes, for a metric whose shapes differ.
        """
        if device.world == 1:
            return
        parameters = {} if model is None else dict(model.named_parameters())
        mine: Layout = {("sum", name): tuple(value.shape) for name, value in self.sums.items()}
        mine |= {("count", name): tuple(count.shape) for name, count in self.counts.items()}
        mine |= {("gradient", name): tuple(p.shape) for name, p in parameters.items() if p.grad is not None}
        found: dict[str, dict[str, Tensor]] = {"sum": {}, "count": {}, "gradient": {}}
        for (kind, name), shape in union(mine, device).items():
            if kind == "gradient":
                parameter = parameters[name]
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found[kind][name] = parameter.grad
            else:
                had = (self.sums if kind == "sum" else self.counts).get(name)
                # A copy, since what a step returns may be a view, or one number for several metrics.
                zero = torch.zeros(shape, dtype=torch.float64, device=device.where)
                found[kind][name] = zero if had is None else zero + had
        self.sums, self.counts = found["sum"], found["count"]
        device.sum([*self.sums.values(), *self.counts.values()])
        device.sum(found["gradient"].values())

    def mean(self, name: str) -> Tensor:
        return self.sums[name] / self.counts[name]

    def means(self) -> dict[str, float]:
        """sum / count of every scalar metric. Raises ValueError for a metric that was never counted."""
        for name, count in self.counts.items():
            if float(count) == 0:
                raise ValueError(f"the metric {name!r} has no data")
        return {name: float(self.mean(name)) for name, value in self.sums.items() if value.dim() == 0}

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    @classmethod
    def restore(cls, state: dict[str, dict[str, Tensor]], device: Device) -> "Totals":
        return cls(device.move(state["sums"]), device.move(state["counts"]))


Layout = dict[tuple[str, str], tuple[int, ...]]  # what a process adds up: its kind and name -> its shape


def union(mine: Layout, device: Device) -> Layout:
    """The layouts of all processes in one, the same on all. Raises ValueError, on all, where shapes differ."""
    digest = hashlib.blake2b(repr(mine).encode(), digest_size=7).digest()
    mark = int.from_bytes(digest)
    highest, lowest = device.highest([mark, -mark])
    if highest == -lowest:  # the usual: one short message
        return mine
    found: Layout = {}
    for layout in device.gather(mine):
        for (kind, name), shape in layout.items():
            if found.setdefault((kind, name), shape) != shape:
                shapes = f"{list(found[kind, name])} and {list(shape)}"
                raise ValueError(f"the {kind} of {name!r} is of shape {shapes} in two processes: it must be the same")
    return found


@dataclass
class Progress:
    """How far a run is: with model and optimiser, all that a checkpoint holds."""

    epoch: int = 1
    """the epoch under way, from 1"""
    batch: int = 0
    """how many of its batches are done"""
    step: int = 0
    """optimiser steps since the start"""
    seconds: float = 0.0
    """time spent training, over all starts"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """one per finished epoch"""
    best_epoch: int = 0
    skipped: int = 0
    """of the steps, those whose gradient fp16 could not hold"""


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


def check_plain(value: Any, name: str) -> None:
    """Raises TypeError, naming the place, for what a checkpoint would refuse to load again."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_plain(key, f"a key of {name}")
            check_plain(inner, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_plain(inner, f"{name}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)) and not isinstance(value, Tensor):
        raise TypeError(
            f"{name} is a {type(value).__name__}; a checkpoint keeps str, int, float, bool, list, dict and Tensor"
        )


def even_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cuts an order of examples into batches of at most `batch_size` whose sizes differ by at most one.

    A small rest as the last batch would have noisy statistics, and one example alone breaks batch norm.
    """
    return np.array_split(order, math.ceil(len(order) / batch_size))


@dataclass
class Step:
    """An optimiser step that a run asks for; whoever takes it fills in what came of it."""

    epoch: int
    batch: int
    """its number within the epoch, from 0"""
    ids: np.ndarray
    lr: float
    totals: Totals = field(default_factory=Totals)
    norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    """of the gradient, before it is clipped"""


@dataclass
class Score:
    """The totals of a part of the data, in evaluation mode, that a run asks for."""

    split: Split
    totals: Totals = field(default_factory=Totals)


class Learner:
    """A task with its optimiser: computes what its run asks for."""

    def __init__(self, task: Task, cfg: Fit, device: Device) -> None:
        check_plain(task.assets(), "assets")
        self.task, self.cfg, self.device = task, cfg, device
        self.model = device.place(task.model)
        if cfg.compile:
            keep_from_compiler()
            self.model.compile()
        self.optimizer, self.scaler = optim.optimizer(cfg, self.model), device.scaler()
        self.scaler.scale(torch.zeros((), device=device.where))  # so it is ready even where another has all the pieces
        self.norms = bool(batch_norms(self.model))
        self.share = 1.0  # of the time that passes, which other runs may share: see `etude.many`

    def state(self) -> dict[str, Any]:
        model, optimizer, scaler = self.model.state_dict(), self.optimizer.state_dict(), self.scaler.state_dict()
        return {"model": model, "optimizer": optimizer, "scaler": scaler, "assets": self.task.assets()}

    def restore(self, state: dict[str, Any], where: Path) -> None:
        fill(self.model, state, where)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def do(self, work: Step | Score) -> None:
        """Raises UserError if torch.compile cannot do its part, such as where there is no C++ compiler."""
        try:
            if isinstance(work, Step):
                with self.device.step_threads():
                    train_step(self, work)
            else:
                work.totals = evaluate(self.task, work.split, self.device, self.cfg.batch_size)
        except RuntimeError as error:
            if not self.cfg.compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).partition("\nSet TORCH")[0].split())[:300]
            raise UserError(
                f"fit.compile does not work here ({reason}): it needs a C++ compiler, such as g++, and a model that "
                "torch.compile can take; train with --fit.no-compile"
            ) from error


def fit(task: Task, cfg: Fit, run: Run, device: Device) -> dict[str, Any]:
    """Trains `task` to the end and returns the result, which is also written to the run folder.

    Goes on from the run's last checkpoint if there is one. Raises Stopped after a signal, UserError when the loss stops
    being a number or a checkpoint cannot be written.
    """
    learner = Learner(task, cfg, device)
    with watch_signals() as asked, closing(course(learner, run, asked)) as works:
        while True:
            try:
                work = next(works)
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
            learner.do(work)


def course(learner: Learner, run: Run, asked: list[int]) -> Generator[Step | Score, None, dict[str, Any]]:
    """The course of a run: yields what is to be computed next and decides, saves and reports what came of it.

    What it yields is computed by `learner` alone or, in `etude.many`, with that of other runs. `asked`: the signals so
    far. The result and what is raised are those of `fit`.
    """
    task, model, cfg, device = learner.task, learner.model, learner.cfg, learner.device
    progress, seen, fingerprints = Progress(), Totals(), dict(task.fingerprints)

    def save() -> None:
        state = learner.state() | {"progress": dataclasses.asdict(progress), "seen": seen.state()}
        run.save("last", state | {"fingerprints": fingerprints}, keep=True)

    if state := run.last():
        run.compare_data(state.get("fingerprints"), fingerprints)
        try:
            learner.restore(state, run.path)
            progress, seen = Progress(**state["progress"]), Totals.restore(state["seen"], device)
        except (KeyError, ValueError, TypeError) as error:
            reason = f"{run.path}/checkpoints/last.pt is no checkpoint to go on from ({error!r})"
            raise UserError(f"{reason}: put a copy of it there, or give --run another folder") from None
    resumed = progress.step > 0
    run.write_rows(progress.rows)
    higher = task.better[task.metric] == "higher"
    run.about(task.data, task.summary, str(model), task.metric, task.better[task.metric], fingerprints)
    run.open_tensorboard(progress.step + 1 if resumed else 0, f"best/{task.metric}")

    scores = [row["valid"][task.metric] for row in progress.rows]
    best = (max if higher else min)(scores, default=None)
    check_equal(model, progress, device)
    with Reporter(run, cfg, device, progress, learner.scaler, min(10.0, 1 / learner.share)) as reporter:
        if not resumed:
            save()
            look(task, run, device, 0, 0)
        while progress.epoch <= cfg.epochs and not out_of_patience(cfg, progress):
            epoch, began = progress.epoch, time.monotonic()
            model.train()
            plan = task.plan("train", epoch, cfg.batch_size)
            reporter.start_epoch(len(plan))
            for batch in range(progress.batch, len(plan)):
                lr = optim.learning_rate(cfg, (epoch - 1 + (batch + 0.5) / len(plan)) / cfg.epochs)
                yield (step := Step(epoch, batch, plan[batch], lr))
                reporter.step(step.totals.mean("loss"), lr, step.norm, len(step.ids))
                progress.step, progress.batch = progress.step + 1, batch + 1
                seen.merge(step.totals)
                (stop,) = device.highest([max(asked, default=0)])  # all stop at the same step, whichever was asked
                if stop or time.monotonic() - began > 60 * cfg.save_every:
                    progress.seconds += (time.monotonic() - began) * learner.share
                    began = time.monotonic()
                    reporter.flush()
                    save()
                    if stop:
                        raise Stopped(stop)

            reporter.flush()
            check_equal(model, progress, device)
            yield (score := Score("valid"))
            valid = task.scores(score.totals)
            reporter.check_scores(valid)
            row = {"epoch": epoch, "step": progress.step, "train": task.scores(seen), "valid": valid}
            found = valid[task.metric]
            better = best is None or (found > best if higher else found < best)
            progress.rows.append(row)
            progress.epoch, progress.batch, seen = epoch + 1, 0, Totals()
            reporter.epoch(row, better)
            if better:
                best = found
            if better or cfg.keep == "last":
                progress.best_epoch = epoch
                state = {"model": model.state_dict(), "epoch": epoch, "valid": valid, "assets": task.assets()}
                run.save("best", state | {"fingerprints": fingerprints})
            look(task, run, device, epoch, progress.step)
            progress.seconds += (time.monotonic() - began) * learner.share
            reporter.flush()
            save()  # after everything of this epoch is written: what a kill cuts off is done again, not done twice
            run.write_rows(progress.rows)
            (stop,) = device.highest([max(asked, default=0)])
            if stop and progress.epoch <= cfg.epochs:
                raise Stopped(stop)

        reporter.check_steps()
        return finish(task, run, device, progress)


def check_equal(model: nn.Module, progress: Progress, device: Device) -> None:
    """Raises UserError, in all processes, if they are not at the same step, or their weights differ in a bit."""
    if device.world == 1:
        return
    marks: dict[str, Any] = {"its step": progress.step}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        content = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        marks[name] = hashlib.blake2b(content.tobytes(), digest_size=8).hexdigest()
    for rank, other in enumerate(device.gather(marks)):
        apart = [name for name, mark in marks.items() if other.get(name) != mark]
        if apart:
            raise UserError(
                f"the processes have come apart by step {progress.step}: {apart[0]} differs between {device.rank} and "
                f"{rank} (with {len(apart) - 1} more): what they train is no one model, so training stopped; "
                "start a new run with one process, or find what the task does otherwise in one of them"
            )


def finish(task: Task, run: Run, device: Device, progress: Progress) -> dict[str, Any]:
    """Shows and writes down how the run ended, with the best weights."""
    model = task.model
    if device.leads:
        fill(model, checkpoint(run.path), run.path)  # what is shown last is what will be evaluated
        look(task, run, device, -1, progress.step)
    chosen = progress.rows[progress.best_epoch - 1]
    run.scalars({f"best/{name}": value for name, value in chosen["valid"].items()}, progress.step)
    run.flush()
    result = {
        "epochs": len(progress.rows),
        "best_epoch": progress.best_epoch,
        "valid": chosen["valid"],
        "train": chosen["train"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(progress.seconds, 1),
        "device": str(device),
        "memory_mb": round(device.peak_memory() / 2**20),
        "weights": tested.digest(run.path / "checkpoints" / "best.pt") if device.leads else None,
    }
    run.write_result("result.json", result)
    return result


@torch.no_grad()
def look(task: Task, run: Run, device: Device, epoch: int, step: int) -> None:
    """Lets the task show itself. It may look, never steer: in evaluation mode batch norm does not learn from it."""
    if device.leads:
        task.model.eval()
        task.show(run, epoch, step)


def out_of_patience(cfg: Fit, progress: Progress) -> bool:
    return cfg.patience > 0 and len(progress.rows) - progress.best_epoch >= cfg.patience


def train_step(learner: Learner, step: Step) -> None:
    """Takes an optimiser step alone."""
    cfg, device, scaler = learner.cfg, learner.device, learner.scaler
    optim.set_learning_rate(learner.optimizer, step.lr)
    learner.optimizer.zero_grad(set_to_none=True)
    for number, piece in share_out(step.ids, cfg.accumulate, device, 2 if learner.norms else 1):
        if len(piece) > 0:
            step.totals.add(backward(learner, step, number, piece))
        elif learner.norms:  # the others' batch norm waits for every process: go along with an example of theirs
            with uncounted(learner.model):
                backward(learner, step, number, step.ids[:1], counts=False)
        separate(learner.model)  # the next piece is added in place
    step.totals.share(device, learner.model)
    gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
    scaler.unscale_(learner.optimizer)  # after the sum, so that all processes find the same overflow
    step.norm = normalise(gradients, len(step.ids), step.totals.counts["loss"], cfg.clip)
    scaler.step(learner.optimizer)
    scaler.update()


def backward(learner: Learner, step: Step, number: int, piece: np.ndarray, counts: bool = True) -> Sums:
    """What the task's step returns for a piece of a batch; its gradient, if it counts, is added to the model's."""
    task, device = learner.task, learner.device
    device.seed(draw.key(learner.cfg.seed, step.epoch, step.batch, number))
    try:
        with device.autocast():
            sums = task.step(device.move(task.load("train", piece, step.epoch)))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"batch {step.batch + 1} of epoch {step.epoch} leaves batch norm a single value, which has no variance: "
            "choose a fit.batch-size and fit.accumulate that leave no example alone"
        ) from None
    # The true denominator is known only after the last piece; until then any constant will do.
    loss = sums["loss"][0] / len(step.ids)
    learner.scaler.scale(loss if counts else 0 * loss).backward()
    return sums


def separate(model: nn.Module) -> list[Tensor]:
    """The gradients of a model, no two in the same memory, so that what is done in place is done to each once.

    Such as adding the gradient of the next piece, and clipping. Autograd hands on, without a copy, what several
    parameters get alike, such as the two biases of an LSTM.
    """
    found: dict[int, Tensor] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.data_ptr() in found:
                parameter.grad = parameter.grad.clone()
            found[parameter.grad.data_ptr()] = parameter.grad
    return list(found.values())


def share_out(ids: np.ndarray, accumulate: int, device: Device, least: int = 1) -> list[tuple[int, np.ndarray]]:
    """This process's pieces of a batch, with their numbers within the whole batch.

    A small batch makes fewer pieces, of at least `least` examples unless it is smaller itself. A piece is empty only
    where another process has one at the same time that is not.
    """
    count = accumulate * device.world
    pieces = np.array_split(ids, min(count, max(1, len(ids) // least)))
    rounds = math.ceil(len(pieces) / device.world)
    pieces += [ids[:0]] * (rounds * device.world - len(pieces))
    return list(enumerate(pieces))[device.rank :: device.world]


def normalise(gradients: list[Tensor], assumed: int, count: Tensor, clip: float) -> Tensor:
    """Makes gradients of sum / assumed those of sum / count, clips them, and returns their norm before the clipping."""
    norm = torch.nn.utils.get_total_norm(gradients)
    factor: Tensor | float = 1.0
    if count.device.type != "cpu" or float(count) != assumed:
        factor = (assumed / count.clamp(min=1)).to(norm.dtype)
        norm = norm * factor
    if clip > 0:
        factor = factor * (clip / (norm + 1e-6)).clamp(max=1)
    if isinstance(factor, Tensor):
        torch._foreach_mul_(gradients, factor)
    return norm


@torch.inference_mode()
def evaluate(task: Task, split: Split, device: Device, batch_size: int) -> Totals:
    """The totals of one part of the data, over all processes, in evaluation mode."""
    was_training = task.model.training
    task.model.eval()
    totals = Totals()
    for ids in task.plan(split, 0, batch_size):
        for _, piece in share_out(ids, 1, device):
            if len(piece) > 0:
                with device.autocast():
                    totals.add(task.step(device.move(task.load(split, piece, 0))))
    totals.share(device)
    task.model.train(was_training)
    return totals


@contextmanager
def watch_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in the list it gives, so that the loop can finish its step and save.

    A second one acts at once, as it would without us; but not within a second of the first, since Ctrl-C under `uv run`
    and `timeout` may deliver the same one twice. Outside the main thread, which alone gets signals, there are none.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    first = math.inf

    def note(signum: int, _: FrameType | None) -> None:
        nonlocal first
        if not asked:
            first = time.monotonic()
            asked.append(signum)
        elif time.monotonic() - first > 1:
            signal.signal(signum, before[signum])
            signal.raise_signal(signum)

    before: dict[int, Any] = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
