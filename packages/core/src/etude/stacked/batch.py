"""Batches of many replicas, stacked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude import torch_private
from etude.stacked import Unstackable
from etude.train.device import Device


@dataclass(frozen=True)
class Batch:
    """The batches of some replicas, stacked."""

    rows: list[int]  # whose they are
    leaves: list[Any]  # tensors [R, ...], or what is the same for all
    spec: Any  # how the leaves are nested in a batch
    width: int  # to which something is padded, else -1
    widths: tuple[int, ...]  # that of each replica, without padding

    @property
    def kind(self) -> tuple[Any, ...]:
        """What a step on it may do otherwise than a step on another one."""
        return self.spec, self.width >= 0, *((x.dtype, x.dim()) if isinstance(x, Tensor) else x for x in self.leaves)


def stack_batches(batches: Mapping[int, Any], taken: set[int], device: Device) -> list[Batch]:
    """Stacks the batches of replicas, by row, whose first sizes and numbers agree.

    `taken`: sizes that a padded width must not be mistaken for. Raises Unstackable.
    """
    groups: dict[Any, dict[int, list[Any]]] = {}
    for r, batch in batches.items():
        leaves, spec = torch_private.tree_flatten(batch)
        groups.setdefault((spec, *map(describe, leaves)), {})[r] = leaves
    if len(groups) > max(2, len(batches) // 2):
        raise Unstackable("its batches have another size in each run")
    return [stack_group(key[0], group, taken, device) for key, group in groups.items()]


def describe(x: Any) -> Any:
    """What must agree."""
    if isinstance(x, Tensor):
        return x.dtype, x.dim(), *x.shape[:1]
    if x is None or isinstance(x, bool | int | float | str):
        return type(x), x
    raise Unstackable(f"its batches hold a {type(x).__name__}: tensors and numbers can be stacked")


def stack_group(spec: Any, group: Mapping[int, list[Any]], taken: set[int], device: Device) -> Batch:
    columns = list(zip(*group.values(), strict=True))
    tensors = [column for column in columns if isinstance(column[0], Tensor)]
    sizes = {size for column in tensors for size in zip(*(x.shape for x in column), strict=True)}
    ragged = [size for size in sizes if len(set(size)) > 1]  # of a dimension, for each replica
    if len(ragged) > 1:
        raise Unstackable("its batches differ from run to run in more than one size")
    widths, width = (ragged[0], max(ragged[0])) if ragged else ((), -1)
    used = taken.union(*sizes) if ragged else taken
    while width in used:
        width += 1

    def stacked(column: tuple[Any, ...]) -> Any:
        if not isinstance(column[0], Tensor):
            return column[0]
        shape = [width if size == widths else size[0] for size in zip(*(x.shape for x in column), strict=True)]
        return device.move(fill(column, shape) if width in shape else torch.stack(column))

    return Batch(list(group), [stacked(column) for column in columns], spec, width, widths)


def fill(rows: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Stacks tensors of at most this shape, filled up with zeros: [R, *shape]."""
    found = rows[0].new_zeros(len(rows), *shape)
    for row, x in zip(found, rows, strict=True):
        row[tuple(slice(n) for n in x.shape)] = x
    return found
