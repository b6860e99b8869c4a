"""Many runs at once: replicas of one model, trained as one stacked program.

They may differ in what `config.stackable` names: the seed, learning rate, weight decay, clipping, patience and dropout.

A small model leaves the machine idle: most of a step is spent on calling many small operations. So the weights of R
replicas are stacked, and `torch.func.vmap` calls each operation once for all, after PyTorch's tutorial "Model
ensembling" (`stack_module_state`, `functional_call`, `vmap`). What is stacked is the step alone. Everything else is
what every run has: its own task, order of data, course (`loop.course`), folder, checkpoints, patience and result.

- *Weights are shared.* The parameters, buffers and optimiser states of a run's own model are views of rows of the
  stack. So a run saves, shows, scores and ends as if it were alone, at any time.
- *Random numbers are those of the run alone.* In a stacked step a function that draws is called once for each replica,
  with the state that the generator would have, and with the shape that its own batch has (see `Streams`).
- *Nothing is believed.* In every epoch the first stacked step of each kind is held against the same step of every
  replica alone, in fp32: loss, scores, gradient. Numbers that the tasks or their models hold must be alike then, as a
  stacked step reads those of one replica. Otherwise the runs are not trained together (`Unstackable`), and a study lets
  each go on alone from its last checkpoint.

What differs in shape is padded: batches whose first sizes agree, but others do not (texts), are filled up with zeros on
the right to the widest. Batches whose first sizes differ are stacked apart.
"""

import ctypes
import math
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, is_dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude import draw, files, torch_private
from etude.config import Fit
from etude.errors import UserError
from etude.layers import recurrent
from etude.signals import Stopped, watch_signals
from etude.train import optim
from etude.train.device import Device, choose
from etude.train.loop import course
from etude.train.run import Run, first_start
from etude.train.step import Learner, Score, Step, Taken
from etude.train.task import Task, summary
from etude.train.totals import Totals

MOST = 32  # replicas in a stack: more are no faster, as by then the machine has enough to do
SLOTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",), "rmsprop": ("square_avg", "momentum_buffer")}


class Unstackable(Exception):
    """Why runs cannot be trained together; alone they can."""


# ---------------------------------------------------------------------------------- random numbers of the run alone


def mapped(x: Any) -> bool:
    """Whether `x` stands, within `vmap`, for the tensors of all replicas."""
    return isinstance(x, Tensor) and torch_private.is_batched(x)


def whole(x: Tensor) -> Tensor:
    """The tensors of all replicas, [R, ...]."""
    if torch_private.level_of(x) != 1:
        raise Unstackable("it uses torch.func itself, within a step")
    return torch_private.unwrapped(x).movedim(torch_private.batch_dim(x), 0)


def each(x: Tensor) -> Tensor:
    """[R, ...] as `vmap` has it: what `whole` takes apart."""
    if torch_private.current_level() != 1:
        raise Unstackable("it uses torch.func itself, within a step")
    return torch_private.add_batch_dim(x, 0, 1)


LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}
SHAPED = {torch.rand, torch.randn, torch.randint}
ASKED: dict[Any, Callable[[Any], Any]] = {
    torch.Tensor.__bool__: bool,
    torch.Tensor.__float__: float,
    torch.Tensor.__int__: int,
    torch.Tensor.__index__: int,
    torch.Tensor.item: lambda x: x,
}


class Streams(TorchFunctionMode):
    """Within it a stacked step draws, row by row, what every replica would draw alone, and reads what all agree on.

    `states` are the states of the generator, one for each replica, moved on by each draw. In a padded batch of `width`
    a size of that number stands for the replica's own width: so many numbers are drawn, and the rest is filled up with
    zeros. What else draws is refused by `vmap`.
    """

    def __init__(self, states: list[Tensor] | None, device: Device, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.states, self.device, self.width, self.widths = states, device, width, widths

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self.dropout(*args, **kwargs)
        if func is recurrent.dropout:
            return self.dropout_of_rows(*args, **kwargs)
        if func in LIKE and mapped(args[0]):
            x, *rest = args
            return self.draw(x.shape, lambda row, *_: func(row, *rest, **kwargs), x)
        if func in SHAPED:
            return self.shaped(func, args, kwargs)
        plain = func is F.linear and len(args) == 3 and all(map(mapped, args)) and args[0].dim() > 1
        if plain and not torch.is_autocast_enabled(self.device.where.type):
            return linear(*args)
        if func in ASKED and mapped(args[0]):
            return agreed([ASKED[func](x) for x in whole(args[0]).tolist()])
        if func is torch.bincount and mapped(args[0]):
            return bincount(*args, **kwargs)
        if func is torch.Tensor.contiguous and mapped(args[0]):
            return func(args[0])  # vmap knows no other memory format, and convolutions choose theirs
        return func(*args, **kwargs)

    def draw(self, shape: Sequence[int], call: Callable[..., Tensor], *tensors: Any) -> Tensor:
        """`call` for every replica, on its rows of the tensors, cut to its own width: [*shape], as seen in `vmap`."""
        if self.states is None:
            raise Unstackable("its step draws random numbers in evaluation mode")
        states, shape = self.states, tuple(shape)
        padded = self.width in shape

        def cut(x: Any, r: int) -> Any:
            if not padded or not isinstance(x, Tensor):
                return x
            return x[tuple(slice(self.widths[r] if n == self.width else n) for n in x.shape)]

        columns = [whole(x).detach() if mapped(x) else [x] * len(states) for x in tensors]
        found = []
        with torch_private.vmap_interpreter().lower(), torch.no_grad():  # not in `vmap`, which has no generator
            for r in range(len(states)):
                own = tuple(self.widths[r] if padded and n == self.width else n for n in shape)
                with self.device.generator_at(states[r]) as after:
                    found.append(call(*(cut(column[r], r) for column in columns), own))
                states[r] = after()
        return each(fill(found, shape) if padded else torch.stack(found))

    def dropout(self, x: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or (not isinstance(p, Tensor) and p == 0):
            return x
        noise = self.draw(x.shape, lambda p, x, _: F.dropout(torch.ones_like(x), float(p)), p, x)
        return x.mul_(noise) if inplace else x * noise

    def dropout_of_rows(self, x: Tensor, p: Any, known: Tensor) -> Tensor:
        if not isinstance(p, Tensor) and p == 0:
            return x

        def noise(p: Any, x: Tensor, known: Tensor, _: Any) -> Tensor:
            found = torch.zeros_like(x)
            found[known] = F.dropout(torch.ones_like(x[known]), float(p))
            return found

        width, self.width = self.width, -1  # rows are of all steps: which of them count is known
        try:
            return x * self.draw(x.shape, noise, p, x, known)
        finally:
            self.width = width

    def shaped(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        if func is torch.randint:
            size = kwargs.pop("size", None)
            *bounds, size = args if size is None else (*args, size)
        else:
            bounds, size = [], args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        return self.draw(size, lambda shape: func(*bounds, shape, **kwargs))


def agreed(values: Sequence[Any]) -> Any:
    """What Python reads of a number in every replica. Raises Unstackable if that differs."""
    if any(value != values[0] for value in values):
        raise Unstackable(f"its step decides by a number in which the runs differ ({values[0]:.6g}, ...)")
    return values[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear of x [..., I] with weight [O, I] and bias [O]; of all replicas, one product with the bias in it.

    `vmap` itself adds the bias to the product in a step of its own, for which the results go through memory again.
    """
    x, weight, bias = whole(x), whole(weight), whole(bias)
    product = torch.baddbmm(bias[:, None], x.flatten(1, -2), weight.mT)  # [R, B, O]
    return each(product.unflatten(1, x.shape[1:-1]))


def bincount(x: Tensor, weights: None = None, minlength: int = 0) -> Tensor:
    """torch.bincount of numbers below `minlength`: the length of the result must not depend on the values."""
    if weights is not None:
        raise Unstackable("its step uses torch.bincount with weights")
    return torch.zeros(minlength, dtype=torch.long, device=x.device).scatter_add(0, x, torch.ones_like(x))


# -------------------------------------------------------------------------------------------- batches of many replicas


@dataclass
class Batch:
    """The batches of some replicas, stacked."""

    rows: list[int]
    """whose they are"""
    leaves: list[Any]
    """tensors [R, ...], or what is the same for all"""
    spec: Any
    """how the leaves are nested in a batch"""
    width: int = -1
    widths: list[int] = field(default_factory=list)
    """of each replica, where something is padded to `width`"""

    @property
    def kind(self) -> Any:
        """What a step on it may do otherwise than a step on another one."""
        seen = [(x.dtype, x.dim()) if isinstance(x, Tensor) else x for x in self.leaves]
        return (str(self.spec), str(seen), self.width >= 0)


def stacked(batches: Sequence[Any], taken: set[int], device: Device) -> list[Batch]:
    """Stacks batches whose first sizes agree. `taken`: sizes that a padded width must not be mistaken for."""
    groups: dict[Any, list[tuple[int, list[Any]]]] = {}
    kind: Any
    for r, batch in enumerate(batches):
        if isinstance(batch, tuple) and all(isinstance(x, Tensor) for x in batch):  # the usual, quickly
            leaves, kind = list(batch), type(batch)
        else:
            leaves, spec = torch_private.tree_flatten(batch)
            kind = str(spec)
        groups.setdefault((kind, *map(describe, leaves)), []).append((r, leaves))
    found = []
    for members in groups.values():
        rows, columns = [r for r, _ in members], list(zip(*(leaves for _, leaves in members), strict=True))
        widths = {
            tuple(x.shape[d] for x in column)
            for column in columns
            if isinstance(column[0], Tensor)
            for d in range(1, column[0].dim())
            if any(x.shape[d] != column[0].shape[d] for x in column)
        }
        batch = Batch(rows, [], torch_private.tree_flatten(batches[rows[0]])[1])
        if len(widths) > 1:
            raise Unstackable("its batches differ from run to run in more than one size")
        if widths:
            batch.widths = list(widths.pop())
            sizes = {n for column in columns for x in column if isinstance(x, Tensor) for n in x.shape}
            batch.width = max(batch.widths)
            while batch.width in taken | sizes:
                batch.width += 1
        batch.leaves = [device.move(stack(column, batch)) for column in columns]
        found.append(batch)
    return found


def describe(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.dtype, x.dim(), x.shape[0] if x.dim() else 0
    if isinstance(x, float):
        return float
    if x is None or isinstance(x, bool | int | str):
        return x
    raise Unstackable(f"its batches hold a {type(x).__name__}: tensors and numbers can be stacked")


def stack(column: Sequence[Any], batch: Batch) -> Any:
    first = column[0]
    if isinstance(first, float):
        same = all(x == first for x in column)
        return first if same else torch.tensor(column, dtype=torch.float64)
    if not isinstance(first, Tensor):
        return first
    if (
        all(x.shape == first.shape for x in column)
        and first.shape[1:].count(batch.widths[0] if batch.widths else -1) == 0
    ):
        return torch.stack(list(column))
    ragged = [
        d
        for d in range(1, first.dim())
        if all(x.shape[d] == width for x, width in zip(column, batch.widths, strict=True))
    ]
    shape = [batch.width if d in ragged else n for d, n in enumerate(first.shape)]
    return fill(column, shape)


def fill(rows: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Stacks tensors of at most this shape, filled up with zeros: [R, *shape]."""
    found = rows[0].new_zeros(len(rows), *shape)
    for row, x in zip(found, rows, strict=True):
        row[tuple(slice(n) for n in x.shape)] = x
    return found


# ------------------------------------------------------------------------------------------------------------ the stack


class Module(nn.Module):
    """A task's step as the forward pass of a module, so that `functional_call` can give it other weights."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.model = task, task.model

    def forward(self, batch: Any) -> Any:
        return self.task.step(batch)


Place = tuple[dict[str, Any], str]  # the attributes of a task or module, and the name of one of them


def dropouts(task: Task) -> list[Place]:
    """Where a task and its model hold probabilities of dropout: `p` of nn.Dropout, and what is named ...dropout."""
    return [
        (vars(owner), name)
        for owner in (task, *task.model.modules())
        for name, value in vars(owner).items()
        if type(value) in (int, float) and (name.endswith("dropout") or (name == "p" and isinstance(owner, nn.Dropout)))
    ]


@contextmanager
def holding(places: Sequence[Place], values: Sequence[Tensor]) -> Iterator[None]:
    """In it the values stand at these places."""
    before = [attributes[name] for attributes, name in places]
    try:
        for (attributes, name), value in zip(places, values, strict=True):
            attributes[name] = value
        yield
    finally:
        for (attributes, name), value in zip(places, before, strict=True):
            attributes[name] = value


FOR_PEOPLE = ("data", "summary")  # strings of a Task
FEW = 64  # parts of a list or dict that can be settings; more are data
DEEP = 5  # how far attributes of attributes are looked at


def settings(value: Any, name: str, deep: int = 0) -> Iterator[tuple[str, Any]]:
    """The numbers and words, with their names, that a step might read there; arrays and long lists are data.

    Whole numbers count in dataclasses and modules only, elsewhere something is counted by them; of lists and dicts
    floats do, as the rest are mostly vocabularies.
    """
    value = number_of(value)
    if value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif deep == DEEP:
        return
    elif isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items if len(value) <= FEW else ():
            yield from ((n, x) for n, x in settings(part, f"{name}[{key}]", deep + 1) if isinstance(x, float))
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | Fit | type):  # a Fit is for the loop
        for part, x in vars(value).items():
            varied = part == "seed" or part.endswith("dropout")
            if not varied and (type(number_of(x)) is not int or is_dataclass(value)):
                yield from settings(x, f"{name}.{part}", deep + 1)


def number_of(value: Any) -> Any:
    """The number in an array or tensor of one; what else there is as it is."""
    one = isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1
    return value.item() if one else value


def held(task: Task) -> dict[str, Any]:
    """All that a step might read of a task and its model, by name, but for what may differ from run to run."""
    found = dict(settings(task, "task"))
    for name in FOR_PEOPLE:
        found.pop(f"task.{name}", None)
    places = {(id(attributes), name) for attributes, name in dropouts(task)}
    for path, module in task.model.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and (id(vars(module)), name) not in places:
                found.update(settings(value, f"model.{path}.{name}" if path else f"model.{name}", 1))
    return found


def alike(tasks: Sequence[Task]) -> None:
    """A stacked step reads the numbers of the first task. Raises Unstackable if others hold other ones."""
    first = held(tasks[0])
    for task in tasks[1:]:
        other = held(task)
        for name in first | other:
            a, b = first.get(name), other.get(name)
            if type(a) is not type(b) or (a != b and not (a != a and b != b)):
                raise Unstackable(f"its {name} differs from run to run ({a}, {b})")


class Stack:
    """The models and optimisers of several learners in shared memory.

    `weights` is [R, D]: in a row lie all parameters of a replica, those that weight decay falls on first. So what is to
    be done to a replica's gradient or state is done to one vector. Raises Unstackable if the models have other shapes.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners, self.device = list(learners), learners[0].device
        first = learners[0].model
        named = {name: p for name, p in first.named_parameters() if p.requires_grad}
        self.names = sorted(
            named, key=lambda name: named[name].dim() <= 1
        )  # stable: the order of the optimiser's groups
        self.shapes = [named[name].shape for name in self.names]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.decaying = sum(n for n, shape in zip(self.sizes, self.shapes, strict=True) if len(shape) > 1)
        if not self.names:
            raise Unstackable("it has no parameters")
        for learner in learners[1:]:
            if (difference := structure(learner.model)) != structure(first):
                changed = [name for name, kind in difference.items() if structure(first).get(name) != kind]
                raise Unstackable(f"its {(changed or ['model'])[0]} is of another shape")
        self.parameters = [dict(learner.model.named_parameters()) for learner in learners]
        flat = [torch.cat([p[name].detach().reshape(-1) for name in self.names]) for p in self.parameters]
        self.weights = torch.stack(flat).requires_grad_()
        for r in range(len(learners)):
            for name, row in zip(self.names, self.cut(self.weights.detach()[r]), strict=True):
                self.parameters[r][name].data = row
        # Buffers, and parameters that do not learn.
        rest = [
            {**p, **dict(learner.model.named_buffers())} for p, learner in zip(self.parameters, learners, strict=True)
        ]
        self.others: dict[str, Tensor] = {}
        for name in rest[0]:
            if name not in named:
                self.others[name] = torch.stack([tensors[name].detach() for tensors in rest])
                for tensors, row in zip(rest, self.others[name], strict=True):
                    tensors[name].data = row
        self.kind = learners[0].cfg.optimizer
        if any(learner.cfg.optimizer != self.kind for learner in learners):
            raise Unstackable("its optimizer is another one")
        self.slots = {name: torch.zeros_like(self.weights) for name in SLOTS[self.kind]}
        self.steps = torch.zeros(len(learners), device=self.device.where)
        vectors, d, size = (self.weights.detach(), *self.slots.values()), self.decaying, sum(self.sizes)
        self.rows = {part: [x[:, slice(*part)].unbind() for x in vectors] for part in ((0, d), (d, size), (0, size))}
        for r, learner in enumerate(learners):
            self.share_state(r, learner.optimizer)
        self.module = Module(learners[0].task)
        alike([learner.task for learner in learners])
        self.dropouts = [dropouts(learner.task) for learner in learners]
        if len({len(places) for places in self.dropouts}) > 1:
            raise Unstackable("its dropout is not at the same places in each run")
        self.taken = {n for shape in self.shapes for n in shape}

    def cut(self, row: Tensor) -> list[Tensor]:
        """[..., D] -> the parameters."""
        pieces = row.split(self.sizes, -1)
        return [
            piece.unflatten(-1, shape) if shape else piece[..., 0]
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    def share_state(self, r: int, optimizer: torch.optim.Optimizer) -> None:
        """Moves the state of a replica's optimiser to the stack; what it has not yet is 0."""
        kept = [name for name in self.slots if name != "momentum_buffer" or self.learners[r].cfg.momentum > 0]
        if not kept:
            return
        pieces = {name: self.cut(self.slots[name][r]) for name in kept}
        for n, name in enumerate(self.names):
            parameter = self.parameters[r][name]
            state = optimizer.state[parameter]
            for slot, rows in pieces.items():
                if state.get(slot) is not None:
                    rows[n].copy_(state[slot])
                state[slot] = rows[n]
            if self.kind != "sgd":
                if "step" in state:
                    self.steps[r] = state["step"]
                state["step"] = self.steps[r]

    def forward(
        self, batch: Batch, training: bool, states: list[Tensor] | None, device: Device
    ) -> dict[str, tuple[Tensor, Any]]:
        """What the step of every replica of the batch returns, with a row in front for each; as exact as `device`."""
        rows, every = batch.rows, len(batch.rows) == len(self.learners)
        weights = self.weights if every else self.weights[rows]
        others = self.others if every else {name: x[rows] for name, x in self.others.items()}
        if self.module.model.training != training:
            self.module.model.train(training)
        given = {f"model.{name}": x for name, x in zip(self.names, self.cut(weights), strict=True)}
        given |= {f"model.{name}": x for name, x in others.items()}
        places, values = [], []  # the dropout in which they differ now: there a tensor stands for the number
        for n, place in enumerate(self.dropouts[0]):
            each_p = [attributes[name] for attributes, name in (self.dropouts[r][n] for r in rows)]
            if any(p != place[0][place[1]] for p in each_p):
                places.append(place)
                values.append(torch.tensor(each_p, dtype=torch.float64, device=weights.device))
        tensors = [x for x in batch.leaves if isinstance(x, Tensor)]
        names: list[str] = []
        numbers: dict[int, int] = {}

        def one(given: dict[str, Tensor], values: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
            at = iter(tensors)
            leaves = [next(at) if isinstance(x, Tensor) else x for x in batch.leaves]
            mine = None if states is None else [states[r] for r in rows]
            with holding(places, values), Streams(mine, self.device, batch.width, batch.widths):
                sums = functional_call(self.module, given, (torch_private.tree_unflatten(leaves, batch.spec),))
            found: list[Tensor] = []
            names.extend(sums)
            for value, count in sums.values():
                found.append(value)
                if isinstance(count, Tensor):
                    found.append(count)
                else:
                    numbers[len(found)] = count
                    found.append(value.new_zeros(()))
            return found

        with device.autocast():
            found = vmap(one, randomness="error")(given, values, tensors)
        if not every:
            for name, x in self.others.items():
                x[rows] = others[name]
        pairs = zip(range(1, len(found), 2), found[::2], found[1::2], strict=True)
        sums = [(value, numbers.get(n, count)) for n, value, count in pairs]
        return dict(zip(names, sums, strict=True))

    def update(self, gradient: Tensor, lrs: Sequence[float]) -> None:
        """A step of every replica's optimiser, each with its learning rate, weight decay and momentum."""
        groups: dict[tuple[float, float, float], list[int]] = {}
        for r, (learner, lr) in enumerate(zip(self.learners, lrs, strict=True)):
            groups.setdefault((lr, learner.cfg.weight_decay, learner.cfg.momentum), []).append(r)
            optim.set_learning_rate(learner.optimizer, lr)  # which is kept in its checkpoints
        self.steps += 1
        size, cut = self.weights.shape[1], self.decaying if any(decay for _, decay, _ in groups) else 0
        for start, stop in ((0, cut), (cut, size)):
            if start == stop:
                continue
            weights, *slots = self.rows[start, stop]
            vectors = weights, gradient[:, start:stop].unbind(), *slots
            steps = self.steps.clone().unbind()  # which a function of torch's may count on
            for (lr, decay, _), some in groups.items():
                knobs = self.learners[some[0]].optimizer.param_groups[0]
                chosen = [[x[r] for r in some] for x in (*vectors, steps)]
                optimise(self.kind, chosen[:-1], chosen[-1], lr, decay if start < cut else 0.0, knobs)


def structure(model: nn.Module) -> dict[str, Any]:
    """What models must have alike."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found: dict[str, Any] = {name: (x.shape, x.dtype, x.requires_grad) for name, x in tensors.items()}
    return found | {f"{name} ({type(module).__name__})": None for name, module in model.named_modules()}


def optimise(
    kind: str, lists: list[list[Tensor]], steps: list[Tensor], lr: float, weight_decay: float, knobs: dict[str, Any]
) -> None:
    """The functions that torch.optim calls, with the knobs of a param group of theirs; the steps include this one."""
    weights, gradients = lists[:2]
    slots: list[Any] = lists[2:]
    if kind == "adamw":
        (beta1, beta2), (means, squares) = knobs["betas"], slots
        common: Any = {"amsgrad": False, "beta1": beta1, "beta2": beta2, "eps": knobs["eps"], "maximize": False}
        common |= {"lr": lr, "weight_decay": weight_decay}
        torch_private.fused_adamw(
            weights, gradients, means, squares, [], steps, **common
        )  # what torch.optim.AdamW calls
    elif kind == "sgd":
        common = {name: knobs[name] for name in ("momentum", "dampening", "nesterov", "maximize")}
        moments = slots[0] if knobs["momentum"] > 0 else [None] * len(weights)
        torch_private.sgd(weights, gradients, moments, fused=True, lr=lr, weight_decay=weight_decay, **common)
    else:
        squares, moments = slots if knobs["momentum"] > 0 else (slots[0], [])
        common = {name: knobs[name] for name in ("alpha", "eps", "momentum", "centered", "maximize")}
        common |= {"lr": lr, "weight_decay": weight_decay, "foreach": True}
        torch_private.rmsprop(weights, gradients, squares, [], moments, steps, **common)


# ----------------------------------------------------------------------------------------------- what is to be computed


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within it a GPU's convolutions in fp32 are that: as they are by default, their rounding would hide errors."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Together:
    """Computes what the courses of several runs ask for: `Learner.do` for many."""

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.stack = Stack(learners)
        self.device = self.stack.device
        self.exact = replace(self.device, precision="fp32")
        self.proved: dict[Learner, tuple[int, set[Any]]] = {}
        """the epoch of each run, and the kinds of steps that were held against those alone in it"""
        self.known: set[Any] = set()
        """those kinds of any epoch"""
        self.largest: dict[str, float] = {}
        """how large losses, scores and gradients have been"""
        self.alone = ""
        """why the runs are scored one after the other"""

    def keep(self, learners: Sequence[Learner]) -> None:
        """Goes on with these; the others have ended."""
        if len(learners) != len(self.stack.learners):
            self.stack = Stack(learners)

    def due(self, learner: Learner, epoch: int, kind: Any) -> bool:
        """Whether a step is the first of its kind in an epoch of this run; then it has to be proved."""
        at, kinds = self.proved.get(learner, (-1, set()))
        if at != epoch:
            self.proved[learner], kinds = (epoch, set()), set()
        return kind not in kinds

    def train(self, steps: Sequence[Step]) -> list[Taken]:
        """Takes an optimiser step of every run."""
        stack, device = self.stack, self.device
        batches, states = [], []
        for learner, step in zip(stack.learners, steps, strict=True):
            device.seed(draw.key(learner.cfg.seed, step.epoch, step.batch, 0))
            batches.append(learner.task.load("train", step.ids, step.epoch))
            states.append(device.generator_state())
        parts = stacked(batches, stack.taken, device)
        if len(parts) > max(2, len(batches) // 2):
            raise Unstackable("its batches have another size in each run")
        sizes = torch.tensor([float(len(step.ids)) for step in steps], device=device.where, dtype=stack.weights.dtype)
        for part in parts:
            kind = ("train", part.kind)
            if due := [r for r in part.rows if self.due(stack.learners[r], steps[r].epoch, kind)]:
                with without_tf32():
                    self.prove(kind, part, due, batches, states, sizes)
        rows: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in steps]
        for part in parts:
            sums = stack.forward(part, True, states, device)
            (sums["loss"][0] / sizes[part.rows]).sum().backward()
            share_out(sums, part.rows, rows)
        gradient = stack.weights.grad
        assert gradient is not None
        totals = [Totals({k: v for k, (v, _) in row.items()}, {k: n for k, (_, n) in row.items()}) for row in rows]
        counts = torch.stack([total.counts["loss"] for total in totals])
        norms = normalise(gradient, sizes, counts, [learner.cfg.clip for learner in stack.learners])
        stack.update(gradient, [step.lr for step in steps])
        stack.weights.grad = None
        return [Taken(total, norm) for total, norm in zip(totals, norms.unbind(), strict=True)]

    def prove(
        self,
        kind: Any,
        part: Batch,
        rows: Sequence[int],
        batches: Sequence[Any],
        states: Sequence[Tensor],
        sizes: Tensor,
    ) -> None:
        """Holds a stacked training step against the same step of the replicas `rows` alone; all stay as they were.

        In fp32, where an error cannot pass for rounding; in bf16, for what only that does, once more at the first such
        step of all. Raises Unstackable.
        """
        stack = self.stack
        alike([learner.task for learner in stack.learners])
        for device in self.ways(kind):
            expected = [self.alone_step(r, batches[r], states[r], sizes[r], device) for r in rows]
            buffers = {name: x.clone() for name, x in stack.others.items()}
            sums = stack.forward(part, True, list(states), device)
            (sums["loss"][0] / sizes[part.rows]).sum().backward()
            found: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in stack.learners]
            share_out(sums, part.rows, found)
            gradient, stack.weights.grad = cast(Tensor, stack.weights.grad), None
            for name, x in buffers.items():
                stack.others[name].copy_(x)
            for r, (alone, own_gradient) in zip(rows, expected, strict=True):
                self.compare(alone, found[r], device)
                self.compare_gradient(own_gradient, gradient[r], device)
        self.note(kind, [stack.learners[r] for r in rows])

    def ways(self, kind: Any) -> list[Device]:
        rough = self.device.precision != "fp32" and kind not in self.known
        return [self.exact, self.device] if rough else [self.exact]

    def note(self, kind: Any, learners: Sequence[Learner]) -> None:
        self.known.add(kind)
        for learner in learners:
            self.proved[learner][1].add(kind)

    def alone_step(
        self, r: int, batch: Any, state: Tensor, size: Tensor, device: Device
    ) -> tuple[dict[str, Any], Tensor]:
        """What the step of a replica alone returns, and its gradient; the replica stays as it was."""
        learner, stack = self.stack.learners[r], self.stack
        buffers = {name: x[r].clone() for name, x in stack.others.items()}
        learner.model.train()
        with device.generator_at(state), device.autocast():
            sums = learner.task.step(device.move(batch))
        (sums["loss"][0] / size).backward()
        gradients = [stack.parameters[r][name].grad for name in stack.names]
        for name, x in zip(stack.names, gradients, strict=True):
            if x is None:
                raise Unstackable(f"its {name} gets no gradient")
        flat = torch.cat([cast(Tensor, x).reshape(-1) for x in gradients])
        learner.optimizer.zero_grad(set_to_none=True)
        for name, x in buffers.items():
            stack.others[name][r] = x
        return sums, flat

    def compare(self, alone: dict[str, Any], together: dict[str, Any], device: Device) -> None:
        """Holds what a stacked step returned against the step alone. Raises Unstackable.

        Rounding is judged by what a number is now, or by a hundredth of what it has been: in a model that knows its
        data by heart a loss is a small difference of large numbers.
        """
        if alone.keys() != together.keys():
            raise Unstackable("a stacked step returns other metrics than one alone")
        for name, (value, count) in alone.items():
            a, b, n = value.detach().double(), together[name][0], torch.as_tensor(count)
            if a.shape != b.shape or not torch.equal(n.double().cpu(), together[name][1].cpu()):
                raise Unstackable(f"a stacked step counts another {name} than one alone")
            size = float(a.abs().sum())
            if name == "loss":
                limit = {"fp32": 1e-4}.get(device.precision, 3e-2) * max(size, 0.01 * self.seen(name, size))
            else:  # where a decision counts, rounding may turn it
                counted = device.precision != "fp32" or torch.equal(a, a.round())
                limit = (5e-2 if counted else 1e-4) * (size + float(n.double().sum()))
            if self.stack.weights.dtype == torch.float64 and device.precision == "fp32" and name == "loss":
                limit *= 1e-5
            if a.isfinite().all() and not float((a - b).abs().sum()) <= limit + 1e-12:
                raise Unstackable(f"a stacked step has another {name} than one alone")

    def compare_gradient(self, alone: Tensor, together: Tensor, device: Device) -> None:
        """The gradient of every parameter, and that of all. Raises Unstackable.

        It has jumps, where a ReLU or the maximum of a window turns: with six layers of them rounding by 1e-7 moved the
        gradient by 4e-3, that of one parameter by 9e-3. One that all but cancels out is rounding, beside that of all.
        """
        if not alone.isfinite().all():
            return
        norm, off = float(alone.norm()), together - alone
        size = max(norm, 0.01 * self.seen("gradient", norm))
        limit = 0.2 if device.precision != "fp32" else 1e-7 if alone.dtype == torch.float64 else 0.01
        norms, offs = (torch.stack([x.norm() for x in self.stack.cut(row)]) for row in (alone, off))
        wrong = ~(offs <= limit * (3 * norms + size / 3) + 1e-12)
        if wrong.any() or not float(off.norm()) <= limit * size + 1e-12:
            name = self.stack.names[int((offs / (norms + limit * size + 1e-12)).nan_to_num(nan=torch.inf).argmax())]
            raise Unstackable(f"a stacked step has another gradient than one alone, of {name}")

    def seen(self, name: str, size: float) -> float:
        self.largest[name] = max(self.largest.get(name, 0.0), size)
        return self.largest[name]

    def score(self, learners: Sequence[Learner], scores: Sequence[Score]) -> list[Totals]:
        """The totals of a part of the data for some of the runs."""
        if not self.alone:
            try:
                return self.score_together(learners, scores)
            except Exception as error:  # alone it comes again, if it is no matter of stacking
                self.alone = reason(error)
        return [cast(Totals, learner.do(score)) for learner, score in zip(learners, scores, strict=True)]

    @torch.no_grad()
    def score_together(self, learners: Sequence[Learner], scores: Sequence[Score]) -> list[Totals]:
        rows = [self.stack.learners.index(learner) for learner in learners]
        split = scores[0].split
        plans = [learner.task.plan(split, 0, learner.cfg.batch_size) for learner in learners]
        if len({len(plan) for plan in plans}) > 1:
            raise Unstackable("its parts have another number of batches in each run")
        totals = [Totals() for _ in learners]
        for every in zip(*plans, strict=True):
            batches = [learner.task.load(split, ids, 0) for learner, ids in zip(learners, every, strict=True)]
            found: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in self.stack.learners]
            parts = stacked(batches, self.stack.taken, self.device)
            if len(parts) > max(2, len(batches) // 2):
                raise Unstackable("its batches have another size in each run")
            for part in parts:
                mine = part.rows
                part.rows = [rows[n] for n in mine]
                kind, epochs = (split, part.kind), [self.proved.get(learner, (0, ()))[0] for learner in learners]
                if due := [n for n in mine if self.due(learners[n], epochs[n], kind)]:
                    with without_tf32():
                        self.prove_score(kind, part, [learners[n] for n in due], [batches[n] for n in due])
                share_out(self.stack.forward(part, False, None, self.device), part.rows, found)
            for n, r in enumerate(rows):
                totals[n].add(cast(Any, found[r]))
        return totals

    def prove_score(self, kind: Any, part: Batch, learners: Sequence[Learner], batches: Sequence[Any]) -> None:
        """As `prove`, in evaluation mode."""
        stack = self.stack
        alike([stack.learners[0].task, *(learner.task for learner in learners)])
        for device in self.ways(kind):
            found: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in stack.learners]
            share_out(stack.forward(part, False, None, device), part.rows, found)
            for learner, batch in zip(learners, batches, strict=True):
                learner.model.eval()
                with device.autocast():
                    alone = learner.task.step(device.move(batch))
                self.compare(alone, found[stack.learners.index(learner)], device)
        self.note(kind, learners)


def share_out(sums: dict[str, tuple[Tensor, Any]], rows: list[int], to: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
    """Gives every replica its row of what a stacked step returned, in float64 as `Totals` have it."""
    for name, (value, count) in sums.items():
        values = value.detach().double().unbind()
        if isinstance(count, Tensor):
            counts = list(count.detach().double().unbind())
        else:
            counts = [torch.full((), count, dtype=torch.float64, device=value.device)] * len(rows)
        for r, one, n in zip(rows, values, counts, strict=True):
            to[r][name] = (one, n)


def normalise(gradient: Tensor, assumed: Tensor, counts: Tensor, clips: Sequence[float]) -> Tensor:
    """As `step.normalise`, for every row of `gradient` [R, D]; returns the norms [R]."""
    norms = torch.linalg.vector_norm(gradient, dim=1)
    factors = (assumed / counts.clamp(min=1)).to(norms.dtype)
    norms = norms * factors
    if any(clip > 0 for clip in clips):
        limits = torch.tensor(
            [clip if clip > 0 else torch.inf for clip in clips], device=norms.device, dtype=norms.dtype
        )
        factors = factors * (limits / (norms + 1e-6)).clamp(max=1)
    if gradient.device.type != "cpu" or bool((factors != 1).any()):
        gradient.mul_(factors[:, None])
    return norms


def reason(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, Unstackable):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"its step cannot be stacked ({type(error).__name__}: {lines[0] if lines else ''})"


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass
class Member:
    """One of the runs that are trained together."""

    learner: Learner
    run: Run
    log: TextIO
    """where it says what it says"""
    result: dict[str, Any] | None = None
    error: UserError | None = None
    works: Generator[Step | Score, Any, dict[str, Any]] | None = None
    work: Step | Score | None = None
    answer: Taken | Totals | None = None

    def go_on(self) -> None:
        """To the next thing that it needs computed; with `result` or `error` it has ended."""
        assert self.works is not None
        with redirect_stdout(self.log), redirect_stderr(self.log):
            try:
                self.work = self.works.send(self.answer)
            except StopIteration as end:
                self.result, self.work = end.value, None
            except UserError as error:
                self.error, self.work = error, None
                with suppress(files.Unsaid):  # by a log on the full disk that ended the run
                    print(error, file=self.log)
            except files.Unsaid as error:
                wrong = f"{self.run.path}/log.txt cannot be written ({error})"
                self.error, self.work = UserError(wrong), None


def obstacle(cfg: Fit, device: Device) -> str | None:
    """What in a configuration keeps a run from being stacked."""
    if cfg.accumulate > 1:
        return "fit.accumulate is above 1"
    if cfg.compile:
        return "fit.compile is on"
    if device.world > 1:
        return "it has several processes"
    if device.precision == "fp16":
        return "fp16 scales each loss by itself"
    return None


def fit(members: Sequence[Member]) -> str:
    """Trains runs together until each has its `result` or `error`; one that fails does not stop the others.

    Returns why they are scored one after the other, if they are. Raises Unstackable if they cannot go on together: each
    then goes on alone from its last checkpoint, as after a kill. Raises Stopped after a signal, when all have saved.
    """
    keep_memory()
    active = list(members)
    with watch_signals() as asked, ExitStack() as stack:
        for member in active:
            member.works = course(member.learner, member.run, asked)
            stack.callback(member.works.close)
        crew, stopped = Crew(active), None
        while crew.active:
            for member in crew.active:
                member.learner.time_share = 1 / len(crew.active)
            stopped = crew.turn() or stopped
        if stopped:
            raise stopped
    return crew.together.alone if crew.together else ""


class Crew:
    """The members that are still at work, and what computes for them."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.active = self.turns = list(members)
        self.together: Together | None = None

    def turn(self) -> Stopped | None:
        """Lets the members go on whose work is done, and does what is asked for next; scoring first, so that all step.

        Raises Unstackable. Returns what stopped a member, if a signal did.
        """
        stopped = None
        for member in self.turns:
            try:
                member.go_on()
            except Stopped as found:
                stopped, member.work = found, None
        self.active = [member for member in self.active if member.work is not None]
        self.turns = [member for member in self.active if isinstance(member.work, Score)] or self.active
        if not self.active:
            return stopped
        learners = [member.learner for member in self.active]
        try:
            if self.together is None:
                self.together = Together(learners)
            self.together.keep(learners)
            if isinstance(self.turns[0].work, Score):
                scores = [cast(Score, m.work) for m in self.turns]
                answers: Sequence[Taken | Totals] = self.together.score([m.learner for m in self.turns], scores)
            else:
                answers = self.together.train([cast(Step, m.work) for m in self.turns])
            for member, answer in zip(self.turns, answers, strict=True):
                member.answer = answer
        except Exception as error:  # alone it comes again, if it is no matter of stacking
            raise Unstackable(reason(error)) from error
        return stopped


def keep_memory() -> None:
    """Tells glibc to keep what is freed: stacked tensors are so large that each would be mapped, and cleared, anew."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@dataclass
class Wish:
    """A run that is to be trained with others."""

    config: Any
    folder: Path
    again: str
    """the command that goes on with it alone"""
    command: Sequence[str] = ()
    """that which trains it alone"""


@dataclass
class Outcome:
    left: dict[str, str] = field(default_factory=dict)
    """folder -> why this run was not trained to its end here: alone it can be"""
    failed: list[str] = field(default_factory=list)
    """folders of the runs that ended with an error, which their logs tell"""


def train(wishes: Sequence[Wish], make: Callable[[Any, torch.device], Task], say: Callable[[str], None]) -> Outcome:
    """Trains runs together, in groups that fit into memory; each has its folder and, in it, log.txt.

    `say` gets lines for people. Raises Stopped after a signal, when all runs at work have saved.
    """
    outcome = Outcome()
    devices = [choose(wish.config.fit, first_start(wish.folder).get("precision", "")) for wish in wishes]
    device = devices[0]

    def leave(some: Sequence[Wish], why: str) -> None:
        say(f"alone    {len(some)} runs: {why}" if len(some) > 1 else f"alone    {some[0].folder}: {why}")
        outcome.left.update((str(wish.folder), why) for wish in some)

    if others := [wish for wish, one in zip(wishes, devices, strict=True) if one.precision != device.precision]:
        leave(others, "begun in another precision")
        wishes = [wish for wish in wishes if wish not in others]
    why, size = obstacle(wishes[0].config.fit, device), 0
    if why is None:
        try:
            size = room(wishes[:2], make, device)
        except Exception as error:  # alone it comes again, if it is no matter of stacking
            why = reason(error)
    if why is None and size < 2:
        why = "there is no memory for two of them"
    if why is not None:
        leave(wishes, why)
        return outcome
    for start in range(0, len(wishes), size):
        with ExitStack() as stack:
            groups: dict[str, list[tuple[Wish, Member]]] = {}
            for wish in wishes[start : start + size]:
                log = stack.enter_context(files.open_log(wish.folder / "log.txt"))
                with redirect_stdout(log), redirect_stderr(log):
                    try:
                        task = made(wish, make, device)
                        run = Run(wish.folder, wish.config, device, wish.again, wish.command)
                        stack.callback(run.close)
                        print(f"run      {run.path}\ndata     {task.data}\nmodel    {summary(task)}")
                        print(f"device   {device.told}")
                        member = Member(Learner(task, wish.config.fit, device), run, log)
                    except (UserError, files.Unsaid) as error:
                        say(f"failed   {wish.folder}: {error}")
                        with suppress(files.Unsaid):  # by a log on a full disk
                            print(error)
                        outcome.failed.append(str(wish.folder))
                        continue
                groups.setdefault(str(structure(member.learner.model)), []).append((wish, member))
            for pairs in groups.values():
                members = [member for _, member in pairs]
                if len(pairs) == 1:
                    leave([pairs[0][0]], "no other run has a model of its shapes")
                    continue
                say(f"together {len(pairs)} runs as one stacked program: {pairs[0][0].folder} ...")
                try:
                    scored_alone = fit(members)
                    if scored_alone:
                        say(f"         their validation part is scored one after the other: {scored_alone}")
                except Unstackable as error:
                    unfinished = [wish for wish, member in pairs if member.result is None and member.error is None]
                    leave(unfinished, str(error))
                for wish, member in pairs:
                    if member.error is not None:
                        say(f"failed   {wish.folder}: {member.error}")
                        outcome.failed.append(str(wish.folder))
                    elif member.result is not None:
                        metric = member.learner.task.metric
                        score = member.result["valid"][metric]
                        ended = f"epoch {member.result['best_epoch']} of {member.result['epochs']}"
                        with suppress(files.Unsaid):
                            print(f"done     validation {metric} {score:.4f}, {ended}", file=member.log)
    return outcome


def made(wish: Wish, make: Callable[[Any, torch.device], Task], device: Device) -> Task:
    torch.manual_seed(wish.config.fit.seed)
    return make(wish.config, device.where)


def room(wishes: Sequence[Wish], make: Callable[[Any, torch.device], Task], device: Device) -> int:
    """How many runs fit into half of the memory that is free, at most MOST; tried with a step of the first two.

    Raises Unstackable if that step cannot be stacked.
    """
    began = device.peak_memory()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        learners = [Learner(made(wish, make, device), wish.config.fit, device) for wish in wishes]
    steps = [Step(1, 0, learner.task.plan("train", 1, learner.cfg.batch_size)[0], 0.0) for learner in learners]
    Together(learners).train(steps)
    return min(MOST, int(free(device) / 2 / max(1, (device.peak_memory() - began) / len(learners))))


def free(device: Device) -> int:
    """Bytes that are free."""
    if device.where.type == "cuda":
        return torch.cuda.mem_get_info(device.where)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # with what is used as a cache, and can be had
        return 1024 * int(re.findall(r"MemAvailable: *(\d+)", meminfo.read_text())[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
