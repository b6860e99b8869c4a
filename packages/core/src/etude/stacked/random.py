"""Random numbers of the run alone, drawn within a stacked step; and what `torch.func.vmap` cannot do, or not fast."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude import draw, torch_private
from etude.stacked import Unstackable
from etude.stacked.batch import fill
from etude.train.device import Device

LIKE = {torch.rand_like, torch.randn_like, torch.randint_like}
SHAPED = {torch.rand, torch.randn, torch.randint}
ASKED: dict[Any, Any] = {Tensor.__bool__: bool, Tensor.__float__: float, Tensor.__int__: int, Tensor.__index__: int}
ASKED[Tensor.item] = lambda x: x


def mapped(x: Any) -> bool:
    """Whether `x` stands, within `vmap`, for the tensors of all replicas."""
    return isinstance(x, Tensor) and torch_private.is_batched(x)


def whole(x: Tensor) -> Tensor:
    """The tensors of all replicas, [R, ...], for which `x` stands."""
    if torch_private.level_of(x) != 1:
        raise Unstackable("it uses torch.func itself, within a step")
    return torch_private.unwrapped(x).movedim(torch_private.batch_dim(x), 0)


def standing_for(x: Tensor) -> Tensor:
    """[R, ...] as `vmap` has it: the inverse of `whole`."""
    if torch_private.current_level() != 1:
        raise Unstackable("it uses torch.func itself, within a step")
    return torch_private.add_batch_dim(x, 0, 1)


class StackedFunctions(TorchFunctionMode):
    """Within it a stacked step draws, row by row, what every replica would draw alone, and reads what all agree on.

    `states`: the generator's, one for each replica, moved on by each draw. In a padded batch a size of `width` stands
    for the replica's own: so many numbers are drawn, and the rest is zeros. `vmap` refuses whatever else draws.
    """

    def __init__(self, states: list[Tensor] | None, device: Device, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.states, self.device, self.width, self.widths = states, device, width, widths

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self.dropout(*args, **kwargs)
        if func is draw.dropout_of_rows:
            x, p, known = args
            return self.dropout(x, p, known=known)
        if func in SHAPED:
            return self.shaped(func, args, kwargs)
        if not args or not mapped(args[0]):
            return func(*args, **kwargs)
        if func in LIKE:
            x, *rest = args
            return self.draw(x.shape, lambda row, _: func(row, *rest, **kwargs), x)
        if func in ASKED:
            return agreed([ASKED[func](x) for x in whole(args[0]).tolist()])
        if func is F.linear and len(args) == 3 and all(map(mapped, args)) and args[0].dim() > 1:
            return func(*args) if torch.is_autocast_enabled(self.device.where.type) else linear(*args)
        if func is torch.bincount:
            return bincount(*args, **kwargs)
        if func is Tensor.contiguous:
            return func(args[0])  # vmap knows no other memory format, and convolutions choose theirs
        return func(*args, **kwargs)

    def draw(self, shape: Sequence[int], call: Callable[..., Tensor], *tensors: Any, padded: bool = True) -> Tensor:
        """`call` for every replica, on its rows of the tensors, cut to its own width: [*shape], as seen in `vmap`."""
        if self.states is None:
            raise Unstackable("its step draws random numbers in evaluation mode")
        width = self.width if padded else -1
        columns = [whole(x).detach() if mapped(x) else [x] * len(self.states) for x in tensors]
        generator, found = self.device.generator(), []

        def own(sizes: Sequence[int], r: int) -> list[int]:
            return [self.widths[r] if n == width else n for n in sizes]

        with torch_private.vmap_interpreter().lower(), torch.no_grad():  # not in `vmap`, which has no generator
            for r, *rows in zip(range(len(self.states)), *columns, strict=True):
                rows = [x[tuple(map(slice, own(x.shape, r)))] if isinstance(x, Tensor) else x for x in rows]
                generator.set_state(self.states[r])
                found.append(call(*rows, own(shape, r)))
                self.states[r] = generator.get_state()
        return standing_for(fill(found, shape) if width in shape else torch.stack(found))

    def dropout(
        self, x: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False, known: Tensor | None = None
    ) -> Tensor:
        if not training or (not isinstance(p, Tensor) and p == 0):
            return x
        noise = self.draw(x.shape, dropout_noise, p, x, known, padded=known is None)  # rows are of all steps
        return x.mul_(noise) if inplace else x * noise

    def shaped(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        if func is torch.randint:
            size = kwargs.pop("size", None)
            *bounds, size = args if size is None else (*args, size)
        else:
            bounds, size = [], args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        return self.draw(size, lambda shape: func(*bounds, shape, **kwargs))


def dropout_noise(p: Any, x: Tensor, known: Tensor | None, _: Any) -> Tensor:
    """What dropout multiplies `x` by; where some rows are `known`, the others draw nothing."""
    if known is None:
        return F.dropout(torch.ones_like(x), float(p))
    noise = torch.zeros_like(x)
    noise[known] = F.dropout(torch.ones_like(x[known]), float(p))
    return noise


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
    return standing_for(product.unflatten(1, x.shape[1:-1]))


def bincount(x: Tensor, weights: None = None, minlength: int = 0) -> Tensor:
    """torch.bincount of numbers below `minlength`: the length of the result must not depend on the values."""
    if weights is not None:
        raise Unstackable("its step uses torch.bincount with weights")
    return torch.zeros(minlength, dtype=torch.long, device=x.device).scatter_add(0, x, torch.ones_like(x))
