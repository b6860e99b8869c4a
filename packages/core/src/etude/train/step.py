"""One optimiser step, and the scoring of a part of the data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from etude import draw, torch_private
from etude.config import Fit
from etude.errors import UserError
from etude.train import checkpoint, optim
from etude.train.device import Device
from etude.train.norm import batch_norms, synchronise_batch_norm
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from etude.train.watch import Watch


def check_plain(value: Any, name: str) -> None:
    """Raises TypeError, naming the place, for what a checkpoint would refuse to load again."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            check_plain(key, f"a key of {name}")
            check_plain(inner, f"{name}[{key!r}]")
    elif type(value) not in (str, int, float, bool, type(None)) and not isinstance(value, Tensor):
        told = f"{name} is a {type(value).__name__}"
        raise TypeError(f"{told}; a checkpoint keeps str, int, float, bool, list, dict and Tensor")


def even_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cuts an order of examples into batches of at most `batch_size` whose sizes differ by at most one.

    A small rest as the last batch would have noisy statistics, and one example alone breaks batch norm.
    """
    return np.array_split(order, math.ceil(len(order) / batch_size))


@dataclass(frozen=True)
class Step:
    """A request for an optimiser step; `Taken` is the answer."""

    epoch: int
    batch: int  # its number within the epoch, from 0
    ids: np.ndarray
    lr: float


class Taken(NamedTuple):
    """What came of an optimiser step."""

    totals: Totals
    norm: Tensor  # of the gradient, before it is clipped


Request = Step | Split  # of a split the `Totals` are the answer, in evaluation mode


class Learner:
    """A task with its optimiser: computes what its run asks for."""

    def __init__(self, task: Task, cfg: Fit, device: Device) -> None:
        check_plain(task.assets(), "assets")
        self.task, self.cfg, self.device = task, cfg, device
        self.model = device.place(task.model)
        if cfg.compile:
            for module in self.model.modules():
                if callable(prepare := getattr(module, "before_compile", None)):  # a layer that has a say in it
                    prepare()
            self.model.compile()
        self.optimizer, self.scaler = optim.optimizer(cfg, self.model), device.scaler()
        self.scaler.scale(torch.zeros((), device=device.where))  # so it is ready even where another has all the pieces
        self.norms = bool(batch_norms(self.model))
        if cfg.watch and device.world > 1:
            raise UserError("fit.watch would see the units of one process only: train in one, or with --fit.no-watch")
        self.watch = Watch(self.model) if cfg.watch else None
        self.time_share = 1.0  # of the time that passes, where several runs are trained together

    def state(self) -> dict[str, Any]:
        model, optimizer, scaler = self.model.state_dict(), self.optimizer.state_dict(), self.scaler.state_dict()
        watched = {"watch": self.watch.state()} if self.watch else {}
        return {"model": model, "optimizer": optimizer, "scaler": scaler, "assets": self.task.assets(), **watched}

    def restore(self, state: dict[str, Any], where: Path) -> None:
        checkpoint.fill(self.model, state, where)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.watch:
            self.watch.restore(state["watch"])

    def do(self, request: Request) -> Taken | Totals:
        """Raises UserError if torch.compile cannot do its part, such as where there is no C++ compiler."""
        try:
            if not isinstance(request, Step):
                return evaluate(self.task, request, self.device, self.cfg.batch_size)
            with self.device.step_threads():
                return train_step(self, request)
        except RuntimeError as error:
            if not self.cfg.compile or not torch_private.of_compiler(error):
                raise
            reason = " ".join(str(error).partition("\nSet TORCH")[0].split())[:300]
            needs = "a C++ compiler, such as g++, and a model that torch.compile can take; train with --fit.no-compile"
            raise UserError(f"fit.compile does not work here ({reason}): it needs {needs}") from error


def train_step(learner: Learner, step: Step) -> Taken:
    """Takes an optimiser step of one run."""
    cfg, device, scaler, totals, watch = learner.cfg, learner.device, learner.scaler, Totals(), learner.watch
    if watch:
        watch.begin()
    optim.set_learning_rate(learner.optimizer, step.lr)
    learner.optimizer.zero_grad(set_to_none=True)
    for number, piece in micro_batches(step.ids, cfg.accumulate, device, 2 if learner.norms else 1):
        if len(piece) > 0:
            totals.add(backward(learner, step, number, piece))
        elif learner.norms:  # the others' batch norm waits for every process: go along with an example of theirs
            synchronise_batch_norm(learner.model, 0.0)
            backward(learner, step, number, step.ids[:1], counts=False)
            synchronise_batch_norm(learner.model)
        separate(learner.model)  # the next piece is added in place
    totals.all_reduce(device, learner.model)
    named = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
    gradients = list(named.values())
    scaler.unscale_(learner.optimizer)  # after the sum, so that all processes find the same overflow
    norms = torch_private.foreach_norm(gradients)
    if watch:
        watch.measure(named, norms)
    norm = normalise(gradients, norms, len(step.ids), totals.counts["loss"], cfg.clip)
    scaler.step(learner.optimizer)
    scaler.update()
    if watch:
        watch.end(len(step.ids) / totals.counts["loss"].clamp(min=1), len(step.ids), watch.take())
    return Taken(totals, norm)


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
        told = f"batch {step.batch + 1} of epoch {step.epoch} leaves batch norm a single value, which has no variance"
        raise UserError(f"{told}: give a fit.batch-size and fit.accumulate that leave no example alone") from None
    if "loss" not in sums:
        raise ValueError(f"{type(task).__name__}.step returns no sum and count of 'loss', which is what is minimised")
    # The true denominator is known only after the last piece; until then any constant will do.
    loss = sums["loss"][0] / len(step.ids)
    learner.scaler.scale(loss if counts else 0 * loss).backward()
    return sums


def separate(model: nn.Module) -> list[Tensor]:
    """The gradients of a model, no two in the same memory, so that what is done in place, as clipping, is done once.

    Autograd hands on, without a copy, what several parameters get alike, such as the two biases of an LSTM.
    """
    found: dict[int, Tensor] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.data_ptr() in found:
                parameter.grad = parameter.grad.clone()
            found[parameter.grad.data_ptr()] = parameter.grad
    return list(found.values())


def micro_batches(ids: np.ndarray, accumulate: int, device: Device, least: int = 1) -> list[tuple[int, np.ndarray]]:
    """This process's pieces of a batch, with their numbers within the whole batch.

    A small batch makes fewer pieces, of at least `least` examples unless it is smaller itself. A piece is empty only
    where another process has one at the same time that is not.
    """
    pieces = np.array_split(ids, min(accumulate * device.world, max(1, len(ids) // least)))
    rounds = math.ceil(len(pieces) / device.world)
    pieces += [ids[:0]] * (rounds * device.world - len(pieces))
    return list(enumerate(pieces))[device.rank :: device.world]


def normalise(gradients: list[Tensor], norms: Sequence[Tensor], assumed: int, count: Tensor, clip: float) -> Tensor:
    """Makes gradients of sum / assumed those of sum / count, clips them, and returns their norm before the clipping.

    `norms`: those of each.
    """
    norm = torch.linalg.vector_norm(torch.stack(list(norms)))
    factor: Tensor | float = 1.0
    if count.device.type != "cpu" or float(count) != assumed:
        factor = (assumed / count.clamp(min=1)).to(norm.dtype).to(norm.device)
        norm = norm * factor
    if clip > 0:
        factor = factor * (clip / (norm + 1e-6)).clamp(max=1)
    if isinstance(factor, Tensor):
        torch_private.foreach_mul(gradients, factor)
    return norm


@torch.inference_mode()
def evaluate(task: Task, split: Split, device: Device, batch_size: int) -> Totals:
    """The totals of one part of the data, over all processes, in evaluation mode."""
    pieces = [piece for ids in task.plan(split, 0, batch_size) for _, piece in micro_batches(ids, 1, device)]
    totals = totals_of(task, split, device, [piece for piece in pieces if len(piece) > 0])
    totals.all_reduce(device)
    return totals


@torch.inference_mode()
def totals_of(task: Task, split: Split, device: Device, batches: Sequence[np.ndarray]) -> Totals:
    """The totals of batches of ids, computed by this process, in evaluation mode."""
    was_training, totals = task.model.training, Totals()
    task.model.eval()
    for ids in batches:
        with device.autocast():
            totals.add(task.step(device.move(task.load(split, ids, 0))))
    task.model.train(was_training)
    return totals
