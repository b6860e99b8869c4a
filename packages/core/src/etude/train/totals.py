"""Sums and counts of a part of the data, from which every score is computed."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from etude.fingerprint import fingerprint
from etude.train.device import Device

Sums = dict[str, tuple[Tensor, Tensor | int]]  # metric -> (sum over the batch, how many were summed)


@dataclass
class Totals:
    """Sums and counts added up over batches, in float64 so that the order of adding does not show."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        for name, (value, count) in sums.items():
            value = exact(value)
            if not isinstance(count, Tensor):  # filled on the device: a copy from here would make a GPU wait
                count = torch.full((), count, dtype=torch.float64, device=value.device)
            self.include(name, value, exact(count))

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

    def all_reduce(self, device: Device, model: nn.Module | None = None) -> None:
        """Adds up over all processes, and with it the gradients of `model`.

        By name, as not every process need have the same: what it lacks is 0 there, what none has stays away. Raises
        ValueError, in all processes, for a metric whose shapes differ.
        """
        if device.world == 1:
            return
        parameters = {} if model is None else dict(model.named_parameters())
        mine = {("sum", name): tuple(value.shape) for name, value in self.sums.items()}
        mine |= {("count", name): tuple(count.shape) for name, count in self.counts.items()}
        mine |= {("gradient", name): tuple(p.shape) for name, p in parameters.items() if p.grad is not None}
        found: dict[str, dict[str, Any]] = {"sum": {}, "count": {}, "gradient": {}}
        had = {"sum": self.sums, "count": self.counts, "gradient": {}}
        for (kind, name), shape in union(mine, device).items():
            if kind == "gradient":
                if parameters[name].grad is None:
                    parameters[name].grad = torch.zeros_like(parameters[name])
                found[kind][name] = parameters[name].grad
            else:  # a copy, since what a step returns may be a view, or one number for several metrics
                zero = torch.zeros(shape, dtype=torch.float64, device=device.exact)
                found[kind][name] = zero + had[kind].get(name, 0)
        self.sums, self.counts, gradients = found.values()
        device.sum([*self.sums.values(), *self.counts.values()])
        device.sum(gradients.values())

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
        return cls(*({name: x.to(device.exact) for name, x in state[kind].items()} for kind in ("sums", "counts")))


def exact(value: Tensor) -> Tensor:
    """In float64, which Apple's GPUs do not have: there totals are added up on the CPU."""
    value = value.detach()
    return (value.cpu() if value.device.type == "mps" else value).double()


Layout = dict[tuple[str, str], tuple[int, ...]]  # what a process adds up: its kind and name -> its shape


def union(mine: Layout, device: Device) -> Layout:
    """The layouts of all processes in one, the same on all. Raises ValueError, on all, where shapes differ."""
    mark = int(fingerprint([repr(mine)])[1:], 16)  # of the 64 bits of an int one is the sign
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
