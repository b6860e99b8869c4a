"""The proof of stacked steps: each is held against the same step of the replicas alone."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.config import Fit
from etude.stacked import Unstackable
from etude.stacked.batch import Batch
from etude.stacked.stack import Stack, Training, check_alike, is_dropout
from etude.train.device import Device
from etude.train.step import Learner
from etude.train.task import Task
from etude.train.totals import Totals

FOR_PEOPLE = {"task.data", "task.summary"}  # strings of a Task that no step reads
FEW = 64  # parts of a list or dict that can be settings; more are data
SLOWER = 1.1  # how many times as long a stacked step may take as the steps alone, where it is to be faster
DEEP = 5  # how far attributes of attributes are looked at


def number_of(value: Any) -> Any:
    """The number in an array or tensor of one; what else there is as it is."""
    one = isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1
    return value.item() if one else value


def settings(value: Any, name: str, deep: int = DEEP) -> Iterator[tuple[str, Any]]:
    """The numbers and words, with their names, that a step might read there; arrays and long lists are data.

    Whole numbers count in dataclasses and modules only, elsewhere something is counted by them; of lists and dicts
    floats do, as the rest are mostly vocabularies. Seeds and dropout may differ.
    """
    value = number_of(value)
    if value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, list | tuple | dict) and deep:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items if len(value) <= FEW else ():
            yield from ((n, x) for n, x in settings(part, f"{name}[{key}]", deep - 1) if isinstance(x, float))
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | Fit | type) and deep:  # a Fit: for the loop
        for part, x in vars(value).items():
            counts = type(number_of(x)) is not int or is_dataclass(value)
            if counts and part != "seed" and not is_dropout(value, part):
                yield from settings(x, f"{name}.{part}", deep - 1)


def held(task: Task) -> dict[str, Any]:
    """All that a step might read of a task and its model, by name, but for what may differ from run to run."""
    found = dict(settings(task, "task"))
    for path, module in task.model.named_modules(prefix="model"):
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and not is_dropout(module, name):
                found.update(settings(value, f"{path}.{name}", DEEP - 1))
    return {name: value for name, value in found.items() if name not in FOR_PEOPLE}


class Proof:
    """What was proved of the steps of several learners in their present epochs, and how large numbers have been."""

    def __init__(self, device: Device, faster: bool = False) -> None:
        self.device, self.exact = device, replace(device, precision="fp32")
        self.faster = faster  # whether it is still to be seen that a stacked step takes less time
        self.epochs: dict[Learner, int] = {}
        self.proved: dict[Learner, set[Any]] = defaultdict(set)  # kinds of steps held against those alone, in the epoch
        self.known: set[Any] = set()  # in any epoch
        self.largest: dict[str, float] = defaultdict(float)

    def enter(self, learner: Learner, epoch: int) -> None:
        """Of another epoch than before nothing is proved."""
        if self.epochs.get(learner) != epoch:
            self.epochs[learner], self.proved[learner] = epoch, set()

    def prove(
        self, stack: Stack, part: Batch, kind: Any, batches: Mapping[int, Any], training: Training | None
    ) -> None:
        """Holds a stacked step, where it is the first of its kind, against the step of each replica alone.

        `part` is some of the `batches`, by row, stacked. All stay as they were. In fp32, where an error cannot pass for
        rounding; in bf16, for what only that does, once more at the first such step of all. Raises Unstackable.
        """
        kind = (kind, part.kind)
        due = [r for r in part.rows if kind not in self.proved[stack.learners[r]]]
        if not due:
            return
        # A stacked step reads the numbers of the first task.
        check_alike([held(stack.learners[r].task) for r in dict.fromkeys((0, *batches))])
        rough = self.device.precision != "fp32" and kind not in self.known
        for device in (self.exact, self.device) if rough else (self.exact,):
            # TF32 is off in it: on a GPU its rounding, in convolutions that count as fp32, would hide errors.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                expected = {r: alone(stack, r, batches[r], device, training) for r in due}
                found, gradient = tried(stack, part, device, training)
            for r, (totals, own) in expected.items():
                self.compare(stack, totals, found[r], device)
                if own is not None and gradient is not None:
                    self.compare_gradient(stack, own, gradient[r], device)
        self.known.add(kind)
        for r in due:
            self.proved[stack.learners[r]].add(kind)
        if self.faster and training and len(due) == len(stack.learners):
            self.faster = False
            self.time(stack, part, batches, training)

    def time(self, stack: Stack, part: Batch, batches: Mapping[int, Any], training: Training) -> None:
        """Raises Unstackable if a stacked step, forward and back, takes longer than the steps of all one by one.

        Stacked, small operations are called once for all; large ones, and convolutions of a processor above all, may be
        slower than alone. All stay as they were.
        """
        apart, together = math.inf, math.inf
        for _ in range(2):  # in turns, and the faster of two: something else may be at work, too
            began = time.perf_counter()
            for r in part.rows:
                alone(stack, r, batches[r], self.device, training)
            self.wait()
            middle = time.perf_counter()
            tried(stack, part, self.device, training)
            self.wait()
            apart, together = min(apart, middle - began), min(together, time.perf_counter() - middle)
        if together > SLOWER * apart:
            raise Unstackable(f"one after the other they are {together / apart:.1f} times as fast")

    def wait(self) -> None:
        if self.device.where.type == "cuda":
            torch.cuda.synchronize(self.device.where)

    def compare(self, stack: Stack, alone: Totals, stacked: Totals, device: Device) -> None:
        """Holds what a stacked step returned against the step alone. Raises Unstackable.

        Rounding is judged by what a number is now, or by a hundredth of what it has been: in a model that knows its
        data by heart a loss is a small difference of large numbers.
        """
        if alone.sums.keys() != stacked.sums.keys():
            raise Unstackable("a stacked step returns other metrics than one alone")
        fp32 = device.precision == "fp32"
        for name, a in alone.sums.items():
            b, n = stacked.sums[name], alone.counts[name]
            if a.shape != b.shape or not torch.equal(n, stacked.counts[name]):
                raise Unstackable(f"a stacked step counts another {name} than one alone")
            size = float(a.abs().sum())
            if name == "loss":
                exact = 1e-9 if stack.weights.dtype == torch.float64 else 1e-4
                limit = (exact if fp32 else 3e-2) * max(size, 0.01 * self.seen(name, size))
            else:  # where a decision counts, rounding may turn it
                counted = not fp32 or torch.equal(a, a.round())
                limit = (5e-2 if counted else 1e-4) * (size + float(n.sum()))
            if a.isfinite().all() and not float((a - b).abs().sum()) <= limit + 1e-12:
                raise Unstackable(f"a stacked step has another {name} than one alone")

    def compare_gradient(self, stack: Stack, alone: Tensor, stacked: Tensor, device: Device) -> None:
        """The gradient of every parameter, and that of all. Raises Unstackable.

        It has jumps, where a ReLU or the maximum of a window turns: with six layers of them rounding by 1e-7 moved the
        gradient by 4e-3, that of one parameter by 9e-3. One that all but cancels out is rounding, beside that of all.
        """
        if not alone.isfinite().all():
            return
        norm, off = float(alone.norm()), stacked - alone
        size = max(norm, 0.01 * self.seen("gradient", norm))
        limit = 0.2 if device.precision != "fp32" else 1e-7 if alone.dtype == torch.float64 else 0.01
        norms, offs = (torch.stack([x.norm() for x in stack.cut(row)]) for row in (alone, off))
        wrong = ~(offs <= limit * (3 * norms + size / 3) + 1e-12)
        if wrong.any() or not float(off.norm()) <= limit * size + 1e-12:
            name = stack.names[int((offs / (norms + limit * size + 1e-12)).nan_to_num(nan=torch.inf).argmax())]
            raise Unstackable(f"a stacked step has another gradient than one alone, of {name}")

    def seen(self, name: str, size: float) -> float:
        self.largest[name] = max(self.largest[name], size)
        return self.largest[name]


def tried(
    stack: Stack, part: Batch, device: Device, training: Training | None
) -> tuple[dict[int, Totals], Tensor | None]:
    """What a stacked step returns, and in training its gradients [R, D]; all stay as they were."""
    buffers = {name: x.clone() for name, x in stack.others.items()}
    found = stack.compute(part, device, training)
    gradient, stack.weights.grad = stack.weights.grad, None
    for name, x in buffers.items():
        stack.others[name].copy_(x)
    return found, gradient


def alone(stack: Stack, r: int, batch: Any, device: Device, training: Training | None) -> tuple[Totals, Tensor | None]:
    """What the step of a replica alone returns, and in training its gradient [D]; the replica stays as it was."""
    learner = stack.learners[r]
    buffers = {name: x[r].clone() for name, x in stack.others.items()}
    learner.model.train(bool(training))
    if training:
        device.generator().set_state(training.states[r])
    with device.autocast():
        sums = learner.task.step(device.move(batch))
    totals = Totals()
    totals.add(sums)
    if not training:
        return totals, None
    (sums["loss"][0] / training.sizes[r]).backward()
    gradients = {name: stack.parameters[r][name].grad for name in stack.names}
    if without := [name for name, gradient in gradients.items() if gradient is None]:
        raise Unstackable(f"its {without[0]} gets no gradient")
    learner.optimizer.zero_grad(set_to_none=True)
    for name, x in buffers.items():
        stack.others[name][r] = x
    return totals, torch.cat([gradient.reshape(-1) for gradient in gradients.values() if gradient is not None])
