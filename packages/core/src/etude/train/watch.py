"""What `fit.watch` measures of every layer at every step: gradients, updates, dead and saturated units."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from etude import torch_private
from etude.errors import UserError
from etude.train.run import Run, now_and_then
from etude.train.task import Task
from etude.train.totals import exact
from etude.train.watched import pictures

MOST = 8192  # steps of the history: with 30 layers and their activations, 4 MB
FIRST = 128  # of them those that are kept however many come
TINY = 1e-14  # of float32 norms below it the squares may have been too small to add up
NOT_BY_UNIT = (nn.MultiheadAttention, nn.GLU, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax)
ACTIVATIONS = tuple({getattr(activation, name) for name in activation.__all__}.difference(NOT_BY_UNIT))

Key = tuple[tuple[int, int], ...]  # activations by their number, and how many units each has
Units = tuple[Key, Tensor]  # the extremes [3, F] of so many units in all


def limits(module: nn.Module) -> tuple[float, float]:
    """The ends of an activation's range, where it saturates; infinity for no upper end, NaN for no end at all.

    ReLU's 0 is no such end: a unit that stays there is dead.
    """
    if isinstance(module, nn.Hardtanh):  # ReLU6, too
        return module.min_val, module.max_val
    if isinstance(module, nn.ELU | nn.CELU | nn.SELU):
        return -getattr(module, "alpha", 1.7580993408473766), math.inf
    if isinstance(module, nn.Tanh | nn.Softsign):
        return -1.0, 1.0
    return (0.0, 1.0) if isinstance(module, nn.Sigmoid | nn.Hardsigmoid) else (math.nan, math.nan)


class Waiting(NamedTuple):
    """What was measured at a step, before it is made numbers of: that is done for many steps at once."""

    norms: list[Tensor]
    """of the gradient of each parameter, of its change, and of itself before"""
    factor: Tensor
    examples: int
    units: Units


def over_units(x: Tensor, reduce: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """[..., F] -> [F]. Narrow rows of half precision, at which torch is ten times slower, are taken eight at a time."""
    width = x.shape[-1]
    if x.dtype != torch.float32 and width < 256 and x.numel() % (8 * width) == 0 and x.is_contiguous():
        x = reduce(x.reshape(-1, 8 * width), [0]).view(8, width)
    return reduce(x, list(range(x.dim() - 1)))


class Watch:
    """Measures the layers of a model while it learns. It looks, never steers: the run is the same in every bit.

    A *layer* is a module with parameters of its own that learn and have two dimensions or more (weights, kernels,
    embeddings; not biases, not gains), taken together, in the order of `named_modules`. What several modules share
    belongs to the first. Of each layer, at each step:

    - gradient: the L2 norm of the gradient of the batch's mean loss, before clipping; 0 where there is none;
    - update: the L2 norm of the change of the weights, divided by that of the weights before it (if that is 0: inf).

    An *activation* is a module of torch.nn that works number by number (ReLU, Tanh, GELU, ...; not softmax, and no
    function). A *unit* is an index of the last dimension of its output, or, of four dimensions or more, of the second
    (channels). All that it gives in a step counts: of all examples, pieces, places, times (padding, too) and calls. Of
    each activation, at each step:

    - dead: the share of units that always gave 0 (ReLU), or always the same number (the others; in a batch of one
      example, always 0);
    - saturated: the share of units that always were within 1 % of an end of their range, whichever: of the width of the
      range (sigmoid, tanh, softsign, ReLU6, ...), or of the value of the only end (ELU, CELU, SELU). NaN without ends.

    Steps count from 0: what is measured at step 0 is of the weights as they began. Kept is every step of up to `MOST`;
    of more, the first `FIRST` and the even ones; of more than 2 `MOST` those and the multiples of 4, and so on.
    """

    def __init__(self, model: nn.Module) -> None:
        """Raises UserError if the model has no layer."""
        self.layers: list[str] = []
        self.activations: list[str] = []
        self.parameters: dict[str, Tensor] = {}
        """of all layers, by name"""
        self.ends: list[tuple[float, float]] = []
        self.seen: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] | None = None
        """in the step under way, so far; None: not looking"""
        learning = {id(p): name for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1}
        owners: list[int] = []
        for name, module in model.named_modules():
            own = {found: p for p in module.parameters(recurse=False) if (found := learning.pop(id(p), None))}
            if own:
                owners += [len(self.layers)] * len(own)
                self.layers.append(name or "model")
                self.parameters |= own
            if isinstance(module, ACTIVATIONS):
                module.register_forward_hook(self.look(len(self.activations), *limits(module)))
                self.ends.append(limits(module))
                self.activations.append(name or "model")
        if not self.layers:
            raise UserError("fit.watch has nothing to watch, as no parameter has two dimensions: leave it out")
        self.where = next(iter(self.parameters.values())).device
        self.owners = torch.tensor(owners, device=exact(torch.zeros(0, device=self.where)).device)
        self.before: list[Tensor] = []
        """the parameters before the step, which needs as much memory as they do"""
        self.sizes: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.places: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}
        self.waiting: list[Waiting] = []
        self.steps = torch.zeros(0, dtype=torch.long)
        self.history = torch.zeros(0, 2 * len(self.layers) + 2 * len(self.activations))
        self.done = 0
        """how many steps were measured, kept or not"""

    def look(self, number: int, low: float, high: float) -> Any:
        """The hook that notes of each unit its highest and lowest value, and minus the least distance from the middle.

        The highest stands for the last where there are no two ends to be between, 0 for the lowest of ReLU.
        """

        def note(module: nn.Module, _args: Any, output: Tensor) -> None:
            if self.seen is None or output.numel() == 0:
                return
            x = output.detach() if output.dim() > 1 else output.detach().reshape(-1, 1)
            x = x.movedim(1, -1) if x.dim() > 3 else x
            highest = over_units(x, torch.amax)
            lowest = torch.zeros_like(highest) if isinstance(module, nn.ReLU) else over_units(x, torch.amin)
            free = -over_units((x - (low + high) / 2).abs_(), torch.amin) if math.isfinite(high) else highest
            key = (number, x.shape[-1])
            if key in self.seen:
                before = self.seen[key]
                highest, free = torch.maximum(before[0], highest), torch.maximum(before[2], free)
                lowest = torch.minimum(before[1], lowest)
            self.seen[key] = (highest, lowest, free)

        return note

    def begin(self) -> None:
        """Before the first piece of a step."""
        self.seen = {}
        if not self.before:
            self.before = [p.detach().clone() for p in self.parameters.values()]
            self.sizes = list(torch_private.foreach_norm(self.before))

    def take(self) -> Units:
        """What was seen of the units since `begin`; ends looking."""
        seen, self.seen = self.seen or {}, None
        rows = [units for row in zip(*seen.values(), strict=True) for units in row]
        return tuple(seen), torch.cat(rows).view(3, -1) if rows else torch.zeros(3, 0, device=self.where)

    def measure(self, gradients: Mapping[str, Tensor], norms: Sequence[Tensor]) -> None:
        """After the last piece, before clipping: the gradients of all parameters that have one, and their norms."""
        found = dict(zip(gradients, norms, strict=True))
        names = [name for name in self.parameters if name in found]
        if self.where.type == "cuda":
            norms = torch_private.foreach_norm([gradients[name] for name in names], 2, torch.float64)
            found = dict(zip(names, norms, strict=True))
        elif self.where.type == "cpu" and names and float(torch.stack([found[name] for name in names]).min()) < TINY:
            for name in names:
                if found[name] < TINY:
                    found[name] = torch.linalg.vector_norm(gradients[name], dtype=torch.float64)
        zero = torch.zeros((), device=self.where)
        self.norms = [found.get(name, zero) for name in self.parameters]

    def end(self, factor: Tensor, examples: int, units: Units) -> None:
        """After the optimiser's step; `factor` makes what was measured that of the mean loss of so many examples."""
        changes: list[Tensor] = []
        sizes: list[Tensor] = []
        now = [p.detach() for p in self.parameters.values()]
        some = 1 if self.where.type == "cpu" else len(now)  # one after the other they stay in the cache
        for at in range(0, len(now), some):
            old, new = self.before[at : at + some], now[at : at + some]
            torch_private.foreach_sub(old, new)
            changes += torch_private.foreach_norm(old)
            torch_private.foreach_copy(old, new)
            sizes += torch_private.foreach_norm(old)
        self.waiting.append(Waiting([*self.norms, *changes, *self.sizes], factor, examples, units))
        self.sizes = sizes
        if len(self.waiting) >= 100:
            self.absorb()

    def absorb(self) -> Tensor | None:
        """Takes what is waiting into the history, and thins it out; returns the last of it."""
        if not self.waiting:
            return None
        waiting, self.waiting = self.waiting, []
        squares = exact(torch.stack([norm for one in waiting for norm in one.norms])).square()
        sums = squares.new_zeros(len(waiting), 3, len(self.layers))
        sums.index_add_(2, self.owners, squares.view(len(waiting), 3, -1))
        gradient, change, size = sums.sqrt().unbind(1)
        gradient *= torch.stack([one.factor for one in waiting])[:, None]
        alike = groupby(waiting, lambda one: (one.units[0], one.examples == 1))  # in a row
        shares = torch.cat([self.shares(key, [one.units[1] for one in some], single) for (key, single), some in alike])
        new = torch.cat([gradient, change / size, shares.flatten(1)], 1).float().cpu()
        steps = torch.cat([self.steps, self.done + torch.arange(len(new))])
        self.done += len(new)
        stride = 2 ** max(0, math.ceil(math.log2(self.done / MOST)))
        kept = (steps < FIRST) | (steps % stride == 0)
        self.steps, self.history = steps[kept], torch.cat([self.history, new])[kept]
        return new[-1]

    def shares(self, key: Key, units: list[Tensor], single: bool) -> Tensor:
        """The shares of dead and of saturated units of n steps, of one example each or of more: [n, 2, A], float64.

        NaN for an activation that was not called.
        """
        highest, lowest, free = exact(torch.stack(units)).unbind(1)
        if key not in self.places:
            self.places[key] = self.place(key)
        owners, bounds, counts = self.places[key]
        dead = (highest == lowest) & (highest == 0) if single else highest == lowest
        found = torch.stack([dead, free <= bounds], 1).double()
        return found.new_zeros(len(units), *counts.shape).index_add_(2, owners, found) / counts

    def place(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """Of the units in `seen`: their activations, up to where they are saturated; and how many an activation has."""
        where = self.owners.device
        owners = torch.tensor([number for number, units in key for _ in range(units)], dtype=torch.long)
        low, high = torch.tensor(self.ends, dtype=torch.float64).reshape(-1, 2).unbind(1)
        bounds = torch.where(high.isfinite(), -0.49 * (high - low), low + 0.01 * low.abs())
        counts = torch.bincount(owners, minlength=len(low)).double().expand(2, -1).clone()
        counts[1, low.isnan()] = torch.nan
        return owners.to(where), bounds[owners].to(where), counts.to(where)

    def state(self) -> dict[str, Any]:
        self.absorb()
        return {"done": self.done, "steps": self.steps, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises KeyError or ValueError for the state of something else."""
        self.done, self.steps, history = state["done"], state["steps"], state["history"]
        if history.shape != (len(self.steps), self.history.shape[1]):
            raise ValueError(f"a history of shape {list(history.shape)}")
        self.history = history

    def arrays(self) -> dict[str, np.ndarray]:
        """The history: step [S], layers [L], gradient and update [S, L], activations [A], dead and saturated [S, A]."""
        self.absorb()
        layers, activations = len(self.layers), len(self.activations)
        parts = self.history.split([layers, layers, activations, activations], 1)
        found = dict(zip(("gradient", "update", "dead", "saturated"), (x.numpy() for x in parts), strict=True))
        names = {"layers": np.array(self.layers), "activations": np.array(self.activations, dtype=np.str_)}
        return {"step": self.steps.numpy(), **names, **found}

    def tell(self, run: Run) -> None:
        """Writes the last step's numbers to TensorBoard."""
        if (last := self.absorb()) is None:
            return
        tags = [f"{what}/{name}" for what in ("gradient", "update") for name in self.layers]
        tags += [f"{what}/{name}" for what in ("dead", "saturated") for name in self.activations]
        run.scalars({tag: x for tag, x in zip(tags, last.tolist(), strict=True) if math.isfinite(x)}, self.done)

    def show(self, run: Run, when: str, step: int, task: Task) -> None:
        """Writes watch.npz, with what `arrays` says and no pickled objects, and after epochs 1, 2, 4, 8, ... pictures.

        Beside what is measured stands what a task's `predicted_gradients() -> dict[str, float]`, if it has one, says of
        the gradient at initialisation: see `watched.by_layer`.
        """
        buffer, found = io.BytesIO(), self.arrays()
        np.savez(buffer, **found)  # type: ignore[arg-type]
        run.write("watch.npz", buffer.getvalue())
        if now_and_then(when):
            for tag, picture in pictures(found, getattr(task, "predicted_gradients", dict)()):
                run.picture(tag, picture, step, when)
