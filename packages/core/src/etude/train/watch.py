"""What `fit.watch` measures of every layer at every step: gradients, updates, dead and saturated units."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from etude import torch_private
from etude.errors import UserError
from etude.train.run import Run
from etude.train.task import Task
from etude.train.totals import exact
from etude.train.watched import pictures

MOST = 8192  # steps of the history: with 30 layers and their activations, 4 MB
FIRST = 128  # of them those that are kept however many come
TINY = 1e-14  # of float32 norms below it the squares may have been too small to add up
NOT_BY_UNIT = (nn.MultiheadAttention, nn.GLU, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax)
ACTIVATIONS = tuple({getattr(activation, name) for name in activation.__all__}.difference(NOT_BY_UNIT))

Seen = dict[tuple[int, int], Tensor]  # the number of an activation, and how many units F -> their extremes [3, F]


def limits(module: nn.Module) -> tuple[float, float]:
    """The ends of the range of an activation where it saturates; without an upper end infinite, without any NaN.

    That of ReLU is no such end: units that stay there are dead.
    """
    if isinstance(module, nn.Hardtanh):  # ReLU6, too
        return module.min_val, module.max_val
    if isinstance(module, nn.ELU | nn.CELU | nn.SELU):
        return -getattr(module, "alpha", 1.7580993408473766), math.inf
    if isinstance(module, nn.Tanh | nn.Softsign):
        return -1.0, 1.0
    return (0.0, 1.0) if isinstance(module, nn.Sigmoid | nn.Hardsigmoid) else (math.nan, math.nan)


class Watch:
    """Measures the layers of a model while it learns. It looks, never steers: the run is the same in every bit.

    A *layer* is a module with parameters of its own that learn and have two dimensions or more (weights, kernels,
    embeddings; not biases, not gains), taken together, in the order of `named_modules`. What several modules share
    belongs to the first. Of each layer, at each step:

    - gradient: the L2 norm of the gradient of the batch's mean loss, before clipping; 0 where there is none;
    - update: the L2 norm of the change of the weights, divided by that of the weights before it.

    An *activation* is a module of torch.nn that works number by number (ReLU, Tanh, GELU, ...; not softmax, and no
    function). A *unit* is an index of the last dimension of its output, or, of four dimensions or more, of the second
    (channels). All that it gives in a step counts: of all examples, pieces, places, times (padding, too) and calls. Of
    each activation, at each step:

    - dead: the share of units that always gave the same number, such as 0; in a batch of one example: always 0;
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
        self.seen: Seen | None = None
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
            raise UserError(
                "fit.watch has nothing to watch, as no parameter of this model has two dimensions: leave it out"
            )
        self.where = next(iter(self.parameters.values())).device
        self.owners = torch.tensor(owners, device=exact(torch.zeros(0, device=self.where)).device)
        self.before: list[Tensor] = []
        """the parameters before the step, which needs as much memory as they do"""
        self.sizes: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.places: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}
        self.waiting: list[Tensor] = []
        self.steps = torch.zeros(0, dtype=torch.long)
        self.history = torch.zeros(0, 2 * len(self.layers) + 2 * len(self.activations))
        self.done = 0
        """how many steps were measured, kept or not"""

    def look(self, number: int, low: float, high: float) -> Any:
        """The hook that notes of each unit its highest value, minus its lowest, and how near it came to being free."""

        @torch.no_grad()
        def note(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if self.seen is None or output.numel() == 0:
                return
            x = output.detach() if output.dim() > 1 else output.detach().reshape(-1, 1)
            others = [d for d in range(x.dim()) if d != (1 if x.dim() > 3 else x.dim() - 1)]
            highest = x.amax(others)
            free = -(x - (low + high) / 2).abs_().amin(others) if math.isfinite(high) else highest
            found, key = torch.stack([highest, -x.amin(others), free]), (number, len(highest))
            self.seen[key] = torch.maximum(self.seen[key], found) if key in self.seen else found

        return note

    def take(self) -> Seen:
        """What was seen since `begin`; ends looking."""
        seen, self.seen = self.seen or {}, None
        return seen

    def begin(self) -> None:
        """Before the first piece of a step."""
        self.seen = {}
        if not self.before:
            self.before = [p.detach().clone() for p in self.parameters.values()]
            self.sizes = list(torch_private.foreach_norm(self.before))

    def measure(self, gradients: Sequence[Tensor | None]) -> None:
        """After the last piece, before clipping: the gradients of `parameters`."""
        there = [x for x in gradients if x is not None]
        wide = torch.float64 if self.where.type == "cuda" else None
        found = list(torch_private.foreach_norm(there, 2, wide))
        if self.where.type == "cpu":
            pairs = zip(there, found, strict=True)
            found = [torch.linalg.vector_norm(x, dtype=torch.float64) if n < TINY else n for x, n in pairs]
        norms = iter(found)
        self.norms = [torch.zeros((), device=self.where) if x is None else next(norms) for x in gradients]

    def end(self, factor: Tensor, examples: int) -> None:
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
        squares = torch.stack([exact(torch.stack(x)).square() for x in (self.norms, changes, self.sizes)])
        self.sizes = sizes
        gradient, change, size = squares.new_zeros(3, len(self.layers)).index_add_(1, self.owners, squares).sqrt()
        self.waiting.append(torch.cat([gradient * factor, change / size, *self.shares(self.take(), examples)]).float())

    def shares(self, seen: Seen, examples: int) -> Tensor:
        """The shares of dead and of saturated units, [2, A], float64; NaN for an activation that was not called."""
        key = tuple(seen)
        if key not in self.places:
            self.places[key] = self.place(key)
        owners, bounds, counts = self.places[key]
        found = torch.zeros(2, len(self.ends), dtype=torch.float64, device=owners.device)
        if seen:
            highest, lowest, free = exact(torch.cat([x.float() for x in seen.values()], 1))
            dead = (highest == -lowest) & ((highest == 0) if examples == 1 else True)
            found.index_add_(1, owners, torch.stack([dead, free <= bounds]).double())
        return found / counts

    def place(self, key: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the units in `seen`: their activations, up to where they are saturated; and how many an activation has."""
        where = self.owners.device
        owners = torch.tensor([number for number, units in key for _ in range(units)], dtype=torch.long)
        ends = torch.tensor(self.ends, dtype=torch.float64).reshape(-1, 2)
        low, high = ends.unbind(1)
        bounds = torch.where(high.isfinite(), -0.49 * (high - low), low + 0.01 * low.abs())
        counts = torch.bincount(owners, minlength=len(ends)).double().expand(2, -1).clone()
        counts[1, low.isnan()] = torch.nan
        return owners.to(where), bounds[owners].to(where), counts.to(where)

    def absorb(self) -> Tensor | None:
        """Takes what is waiting into the history, and thins it out; returns the last of it."""
        if not self.waiting:
            return None
        new, self.waiting = torch.stack(self.waiting).cpu(), []
        steps = torch.cat([self.steps, self.done + torch.arange(len(new))])
        self.done += len(new)
        stride = 2 ** max(0, math.ceil(math.log2(self.done / MOST)))
        kept = (steps < FIRST) | (steps % stride == 0)
        self.steps, self.history = steps[kept], torch.cat([self.history, new])[kept]
        return new[-1]

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
        np.savez(buffer, allow_pickle=False, **found)
        run.write("watch.npz", buffer.getvalue())
        if when == "after" or int(when.removeprefix("epoch ")).bit_count() == 1:
            for tag, picture in pictures(found, getattr(task, "predicted_gradients", dict)()):
                run.picture(tag, picture, step, when)
