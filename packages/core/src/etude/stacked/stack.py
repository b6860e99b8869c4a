"""The models and optimisers of several learners in shared memory, and what is computed on them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from etude import torch_private
from etude.stacked import Unstackable
from etude.stacked.batch import Batch
from etude.stacked.random import StackedFunctions
from etude.train import optim
from etude.train.device import Device
from etude.train.step import Learner
from etude.train.task import Task
from etude.train.totals import Totals
from etude.train.watch import Key, Units

SLOTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",), "rmsprop": ("square_avg", "momentum_buffer")}


class Training(NamedTuple):
    """What a training step needs of every replica, beside its batch."""

    states: list[Tensor]  # of the generator
    sizes: Tensor  # [R] how many examples are in the batch: what a loss is divided by until its count is known


class StepModule(nn.Module):
    """A task's step as the forward pass of a module, so that `functional_call` can give it other weights."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.task, self.model, self.watch = learner.task, learner.model, learner.watch
        self.key: Key = ()

    def forward(self, batch: Any) -> Any:
        if self.watch and self.model.training:
            self.watch.begin()
        sums = self.task.step(batch)
        self.key, seen = self.watch.take() if self.watch else ((), None)
        return {
            name: (x, n if isinstance(n, Tensor) else torch.full((), n, dtype=torch.float64, device=x.device))
            for name, (x, n) in sums.items()
        }, [] if seen is None else [seen]


def is_dropout(owner: Any, name: str) -> bool:
    """Whether an attribute is a probability of dropout: `p` of nn.Dropout, and what is named ...dropout."""
    return name.endswith("dropout") or (name == "p" and isinstance(owner, nn.Dropout))


Place = tuple[dict[str, Any], str]  # the attributes of a task or module, and the name of one of them


def dropouts(task: Task) -> list[Place]:
    """Where a task and its model hold probabilities of dropout."""
    return [
        (vars(owner), name)
        for owner in (task, *task.model.modules())
        for name, value in vars(owner).items()
        if type(value) in (int, float) and is_dropout(owner, name)
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


def structure(learner: Learner) -> dict[str, Any]:
    """What learners must have alike, by name."""
    model, cfg = learner.model, learner.cfg
    found: dict[str, Any] = {"fit.optimizer": cfg.optimizer, "fit.momentum": cfg.momentum}
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        found[f"model.{name}"] = f"{list(x.shape)}, {x.dtype}" + ", fixed" * (not x.requires_grad)
    return found | {f"model.{name}": type(module).__name__ for name, module in model.named_modules()}


def check_alike(found: Sequence[dict[str, Any]]) -> None:
    """Raises Unstackable, with its name, for a value in which runs differ."""
    first = found[0]
    for other in found[1:]:
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
        check_alike([structure(learner) for learner in learners])
        self.learners, self.device, self.kind = list(learners), learners[0].device, learners[0].cfg.optimizer
        named = {name: p for name, p in learners[0].model.named_parameters() if p.requires_grad}
        self.names = sorted(named, key=lambda name: named[name].dim() <= 1)  # stable: the order of optimiser's groups
        self.shapes = [named[name].shape for name in self.names]
        self.sizes = [shape.numel() for shape in self.shapes]
        decaying = sum(n for n, shape in zip(self.sizes, self.shapes, strict=True) if len(shape) > 1)
        self.taken = {n for shape in self.shapes for n in shape}
        self.parameters = [dict(learner.model.named_parameters()) for learner in learners]
        flat = [torch.cat([p[name].detach().reshape(-1) for name in self.names]) for p in self.parameters]
        self.weights = torch.stack(flat).requires_grad_()
        for p, weights in zip(self.parameters, self.weights.detach(), strict=True):
            for name, row in zip(self.names, self.cut(weights), strict=True):
                p[name].data = row
        self.others = self.share_others()
        self.slots = {name: torch.zeros_like(self.weights) for name in SLOTS[self.kind]}
        self.steps = torch.zeros(len(learners), device=self.device.where)
        for r in range(len(learners)):
            self.share_state(r)
        vectors = (self.weights.detach(), *self.slots.values())
        ends = {True: slice(decaying), False: slice(decaying, None)}  # whether weight decay falls on it
        ends = {decays: at for decays, at in ends.items() if vectors[0][:, at].numel()}
        self.parts = [(decays, at, [x[:, at].unbind() for x in vectors]) for decays, at in ends.items()]
        self.module = StepModule(learners[0])
        self.units: dict[int, Units] = {}
        """what `fit.watch` saw of each replica, by row, in the step computed last"""
        self.dropouts = [dropouts(learner.task) for learner in learners]
        if len({len(places) for places in self.dropouts}) > 1:
            raise Unstackable("its dropout is not at the same places in each run")

    def cut(self, row: Tensor) -> list[Tensor]:
        """[..., D] -> the parameters."""
        pieces = zip(row.split(self.sizes, -1), self.shapes, strict=True)
        return [piece.unflatten(-1, shape) if shape else piece[..., 0] for piece, shape in pieces]

    def share_others(self) -> dict[str, Tensor]:
        """Moves buffers, and parameters that do not learn, to memory that is shared: [R, ...] by name."""
        found = {}
        tensors = [{**p, **dict(x.model.named_buffers())} for p, x in zip(self.parameters, self.learners, strict=True)]
        for name in [name for name in tensors[0] if name not in self.names]:
            found[name] = torch.stack([some[name].detach() for some in tensors])
            for some, row in zip(tensors, found[name], strict=True):
                some[name].data = row
        return found

    def share_state(self, r: int) -> None:
        """Moves the state of a replica's optimiser to the stack; what it has not yet is 0."""
        learner = self.learners[r]
        kept = [name for name in self.slots if name != "momentum_buffer" or learner.cfg.momentum > 0]
        pieces = {name: self.cut(self.slots[name][r]) for name in kept}
        for n, name in enumerate(self.names if kept else ()):
            state = learner.optimizer.state[self.parameters[r][name]]
            for slot, rows in pieces.items():
                if state.get(slot) is not None:
                    rows[n].copy_(state[slot])
                state[slot] = rows[n]
            if self.kind != "sgd":
                if "step" in state:
                    self.steps[r] = state["step"]
                state["step"] = self.steps[r]

    def compute(self, batch: Batch, device: Device, training: Training | None) -> dict[int, Totals]:
        """What the step of every replica of the batch returns, by row, as exact as `device`.

        In training their gradients are added to that of `weights`.
        """
        sums = self.forward(batch, device, training)
        if training:
            (sums["loss"][0] / training.sizes[batch.rows]).sum().backward()
        found = {r: Totals() for r in batch.rows}
        for name, pair in sums.items():
            values, counts = (x.detach().double().unbind() for x in pair)
            for r, value, count in zip(batch.rows, values, counts, strict=True):
                found[r].include(name, value, count)
        return found

    def forward(self, batch: Batch, device: Device, training: Training | None) -> dict[str, tuple[Tensor, Tensor]]:
        """The sums and counts of every replica of the batch, with a row in front for each."""
        rows, every = batch.rows, len(batch.rows) == len(self.learners)
        weights = self.weights if every else self.weights[rows]
        others = self.others if every else {name: x[rows] for name, x in self.others.items()}
        if self.module.model.training != bool(training):
            self.module.model.train(bool(training))
        given = {f"model.{name}": x for name, x in zip(self.names, self.cut(weights), strict=True)}
        given |= {f"model.{name}": x for name, x in others.items()}
        places, values = self.differing_dropouts(rows)

        def one(given: dict[str, Tensor], values: list[Tensor], tensors: list[Tensor]) -> Any:
            at = iter(tensors)
            leaves = [next(at) if isinstance(x, Tensor) else x for x in batch.leaves]
            states = [training.states[r] for r in rows] if training else None
            with holding(places, values), StackedFunctions(states, self.device, batch.width, batch.widths):
                return functional_call(self.module, given, (torch_private.tree_unflatten(leaves, batch.spec),))

        with device.autocast():
            tensors = [x for x in batch.leaves if isinstance(x, Tensor)]
            found: dict[str, tuple[Tensor, Tensor]]
            found, seen = vmap(one, randomness="error")(given, values, tensors)
        for units in seen:
            self.units |= {r: (self.module.key, x) for r, x in zip(rows, units, strict=True)}
        if not every:
            for name, x in self.others.items():
                x[rows] = others[name]
        return found

    def differing_dropouts(self, rows: Sequence[int]) -> tuple[list[Place], list[Tensor]]:
        """Where the replicas' dropout differs in this step, in the first task, and the numbers [R] that stand there."""
        places, values = [], []
        for n, place in enumerate(self.dropouts[0]):
            numbers = [attributes[name] for attributes, name in (self.dropouts[r][n] for r in rows)]
            if any(p != place[0][place[1]] for p in numbers):
                places.append(place)
                values.append(torch.tensor(numbers, dtype=torch.float64, device=self.weights.device))
        return places, values

    def update(self, lrs: Sequence[float]) -> None:
        """A step of every replica's optimiser, each with its learning rate and weight decay; ends the gradient."""
        gradient, self.weights.grad = self.gradient(), None
        groups: dict[tuple[float, float], list[int]] = {}
        for r, (learner, lr) in enumerate(zip(self.learners, lrs, strict=True)):
            groups.setdefault((lr, learner.cfg.weight_decay), []).append(r)
            optim.set_learning_rate(learner.optimizer, lr)  # which is kept in its checkpoints
        self.steps += 1
        knobs = self.learners[0].optimizer.param_groups[0]
        for decays, at, (weights, *slots) in self.parts:
            steps = self.steps.clone().unbind()  # which a function of torch's may count on
            lists = [weights, gradient[:, at].unbind(), *slots, steps]
            for (lr, decay), some in groups.items():
                optimise(self.kind, [[x[r] for r in some] for x in lists], lr, decay if decays else 0.0, knobs)

    def gradient(self) -> Tensor:
        """[R, D]"""
        assert self.weights.grad is not None
        return self.weights.grad

    def measure(self) -> None:
        """As `Watch.measure`, for the learners that watch."""
        for r, learner in enumerate(self.learners):
            if watch := learner.watch:
                rows = self.cut(self.gradient()[r])
                watch.begin()
                watch.measure(dict(zip(self.names, rows, strict=True)), torch_private.foreach_norm(rows))


def optimise(kind: str, lists: list[list[Tensor]], lr: float, weight_decay: float, knobs: dict[str, Any]) -> None:
    """The functions that torch.optim calls, with the knobs of a param group of theirs.

    `lists`: weights, gradients, the slots of the optimiser, and the numbers of the steps with this one.
    """
    weights, gradients, *slots, steps = lists
    common = {"lr": lr, "weight_decay": weight_decay, "maximize": False}
    if kind == "adamw":
        beta1, beta2 = knobs["betas"]
        common |= {"amsgrad": False, "beta1": beta1, "beta2": beta2, "eps": knobs["eps"]}
        torch_private.fused_adamw(weights, gradients, *slots, [], steps, **common)
    elif kind == "sgd":
        common |= {name: knobs[name] for name in ("momentum", "dampening", "nesterov")}
        moments = slots[0] if knobs["momentum"] > 0 else [None] * len(weights)
        torch_private.sgd(weights, gradients, moments, fused=True, **common)
    else:
        squares, moments = slots if knobs["momentum"] > 0 else (slots[0], [])
        common |= {name: knobs[name] for name in ("alpha", "eps", "momentum", "centered")}
        torch_private.rmsprop(weights, gradients, squares, [], moments, steps, foreach=True, **common)


def normalise_rows(gradient: Tensor, assumed: Tensor, counts: Tensor, clips: Sequence[float]) -> Tensor:
    """As `step.normalise`, for every row of `gradient` [R, D], in place; returns the norms [R]."""
    norms = torch.linalg.vector_norm(gradient, dim=1)
    factors = (assumed / counts.clamp(min=1)).to(norms.dtype)
    norms = norms * factors
    if any(clip > 0 for clip in clips):
        limits = norms.new_tensor([clip if clip > 0 else torch.inf for clip in clips])
        factors = factors * (limits / (norms + 1e-6)).clamp(max=1)
    if gradient.device.type != "cpu" or bool((factors != 1).any()):
        gradient.mul_(factors[:, None])
    return norms
