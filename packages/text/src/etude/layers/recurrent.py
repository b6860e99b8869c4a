"""Recurrent layers from their formulas: RNN, LSTM and GRU, with the weights and the results of torch's own.

A batch is packed first: its sequences sorted, longest first, its steps laid one after another. So the sequences that
still run at a step are the first rows of the step before, and padding is never computed. Then each layer is one `Scan`
over the steps, whose backward pass is written by hand: what needs no recurrence, namely the products with the inputs
and the gradients of the weights, is done for many steps at once; step by step only what a step hands to the next.

In shapes: B sequences of at most T steps make N packed rows; I is the input size, H the hidden size, K the gates of a
cell times H, D the directions, G the scans side by side (the directions, times the replicas under `torch.func.vmap`).
"""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import draw
from etude.errors import UserError
from etude.torch_private import is_wrapped, sigmoid_backward, tanh_backward

States = Sequence[Tensor]  # the hidden states, and for an LSTM those of its cells
Gate = Literal["input", "forget", "candidate", "output"]  # in the order of torch's weights


# Packing: from [B, T, ...] to [N, ...] and back.


class Packing(NamedTuple):
    """Where the steps of a padded batch lie when packed."""

    running: list[int]  # how many sequences run at each step, never growing; the sum is N
    order: Tensor  # [B] the sequences, longest first
    rows: Tensor | None  # [N] the row of the padded batch, b * T + t, of each packed row; None: a transpose
    flip: Tensor  # [N] the packed row at the mirrored step of the same sequence; applied twice it changes nothing
    last: Tensor  # [B] the packed row of the last step of each sequence
    empty: Tensor  # [B] whether a sequence has no step
    padding: Tensor | None  # [N, 1] whether a packed row is no step of its sequence; None: all are
    known: Tensor | None = None  # [N] whether there would be such a row if the lengths were known; None: they are


def pack(lengths: Tensor | None, batch: int, steps: int, device: torch.device) -> Packing:
    """The packing of sequences of `lengths` [B]; None: all have all steps.

    There is padding among the rows in two cases: an empty sequence gets one row, and under `torch.func`, where Python
    may not know the lengths as they differ from replica to replica, every sequence gets a row for every step.
    """
    running = [batch] * steps
    whole = lengths is None
    padded = False
    if lengths is None:
        lengths = torch.full((batch,), steps, device=device)
    elif lengths.shape != (batch,):
        raise ValueError(f"lengths are of shape {list(lengths.shape)}: give one for each of the {batch} sequences")
    elif is_wrapped(lengths):
        padded = True
    else:
        known = sorted(lengths.tolist())
        if known and (known[0] < 0 or known[-1] > steps):
            raise ValueError(f"lengths go from {known[0]} to {known[-1]}: they must be in 0..{steps}, the steps given")
        padded = 0 in known
        held = torch.tensor(known, dtype=torch.long).clamp(min=1)
        running = [batch - n for n in torch.searchsorted(held, torch.arange(max([1, *known])), right=True).tolist()]
        lengths = lengths.to(device)
    sizes = torch.tensor(running, device=device)
    starts = sizes.cumsum(0) - sizes
    step = torch.arange(len(running), device=device).repeat_interleave(sizes)
    rank = torch.arange(len(step), device=device) - starts[step]
    held = lengths.clamp(min=1)
    order = held.argsort(descending=True, stable=True)
    left = held[order][rank] - 1 - step
    return Packing(
        running=running,
        order=order,
        rows=None if whole else order[rank] * steps + step,
        flip=starts[torch.where(left >= 0, left, step)] + rank,
        last=starts[held - 1] + order.argsort(),
        empty=lengths == 0,
        padding=(step >= lengths[order][rank])[:, None] if padded else None,
        known=step < held[order][rank] if padded else None,
    )


# The cells: their formulas, forward and backward, over some steps. In front of everything lie G scans side by side.


class Steps(NamedTuple):
    """What belongs to the n packed rows of some steps; for `forward` without the last three."""

    running: list[int]  # how many rows each step has
    gates: Tensor  # [G, n, K]
    after: States  # [G, n, H] the states after each step
    earlier: States = ()  # [G, n, H] the states each step started from
    d_after: States = ()  # their gradients, from outside of the recurrence
    d_gates: Tensor = torch.empty(0)  # [G, n, K]


@dataclass(frozen=True)
class Cell:
    """The formulas of a layer.

    `forward(part, weight, first, keep)`: to the first rows of `gates` the products of the inputs were added; it adds
    those of the state with `weight` [G, H, K_hh] to the leading K_hh columns, leaves there, if asked to `keep` it, what
    `backward` needs, and writes the states after each step. `first` are the states before the first step.
    `backward(part, weight, d_states)`: `d_states` hold the gradients of the states after the last step and then of
    those before the first; the gradients of all sums are written to `d_gates`.
    Products are taken in the type of `gates`, states keep their own: float32 if that is bfloat16.
    """

    states: int
    forward: Callable[[Steps, Tensor, States, bool], None]
    backward: Callable[[Steps, Tensor, States], None]


def by_step(running: list[int], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each step's rows of packed tensors [G, n, ...]."""
    return list(zip(*(x.split(running, 1) for x in tensors), strict=True))


def leading(x: Tensor, n: int) -> Tensor:
    return x if x.shape[1] == n else x[:, :n]


def before(running: list[int], first: Tensor, after: Tensor) -> list[Tensor]:
    """The state that each step starts from, given that before the first and those after each."""
    return [leading(x, n) for x, n in zip((first, *after.split(running, 1)), running, strict=False)]


def rnn_forward(part: Steps, weight: Tensor, first: States, _keep: bool) -> None:
    """h = tanh(a), where a is the sum of the products"""
    running, gates, after, *_ = part
    (state,) = first
    for a, h in by_step(running, gates, *after):
        torch.tanh(a.baddbmm_(leading(state, a.shape[1]).to(a.dtype), weight), out=h)
        state = h


def rnn_backward(part: Steps, weight: Tensor, d_states: States) -> None:
    for h, d_h_after, d_a in reversed(by_step(part.running, *part.after, *part.d_after, part.d_gates)):
        d_h = leading(d_states[0], h.shape[1])
        tanh_backward(d_h.add_(d_h_after), h, grad_input=d_a)
        d_h.copy_(torch.bmm(d_a, weight))


def lstm_forward(part: Steps, weight: Tensor, first: States, keep: bool) -> None:
    """i, f, o = sigmoid and g = tanh of the sums of the products;  c = f c + i g;  h = o tanh(c)

    Without `keep` the gates of all steps have one place, and views of it are made where the number of rows changes:
    to make the views of a step takes a third of its time where there is one sequence.
    """

    def views(gates: Tensor) -> tuple[Tensor, ...]:
        return gates[..., : gates.shape[2] // 2], *gates.chunk(4, 2)  # i and f side by side, so one call does for both

    running, gates, after, *_ = part
    h_before, c_before = first
    lower, rows = gates.dtype != h_before.dtype, -1
    shared = torch.empty_like(gates[:, : 0 if keep else running[0]])
    for a, h, c, *own in by_step(running, gates, *after, *(views(gates) if keep else ())):
        if rows != h.shape[1]:
            rows = h.shape[1]
            h_before, c_before, tanh_c = leading(h_before, rows), leading(c_before, rows), torch.empty_like(c)
            here = () if keep else (shared[:, :rows], *views(shared[:, :rows]))
        to, i_f, i, f, g, o = (a, *own) if keep else here
        torch.baddbmm(a, h_before.to(a.dtype) if lower else h_before, weight, out=to)
        i_f.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(f, c_before, out=c).addcmul_(i, g)
        torch.mul(o, torch.tanh(c, out=tanh_c), out=h)
        h_before, c_before = h, c


def lstm_backward(part: Steps, weight: Tensor, d_states: States) -> None:
    running, gates, after, earlier, d_after, d_gates = part
    i, f, g, o = gates.chunk(4, 2)
    d_i, d_f, d_g, d_o = d_gates.chunk(4, 2)
    tanh_c = torch.tanh(after[1])
    sigmoid_backward(g, i, grad_input=d_i)  # for now dc/di and so on: what is left is to multiply by the gradient of c
    sigmoid_backward(earlier[1], f, grad_input=d_f)
    tanh_backward(i, g, grad_input=d_g)
    sigmoid_backward(tanh_c, o, grad_input=d_o)  # and here by that of h
    d_ifg = d_gates[..., : 3 * o.shape[2]].unflatten(2, (3, -1))
    dh_dc = tanh_backward(o, tanh_c, grad_input=tanh_c)
    every = by_step(running, f, dh_dc, d_gates, d_ifg, d_o, *d_after)
    for f_t, dh_dc_t, d_a, d_ifg_t, d_o_t, d_h_after, *d_c_after in reversed(every):
        d_h, d_c = leading(d_states[0], f_t.shape[1]), leading(d_states[1], f_t.shape[1])
        d_h.add_(d_h_after)
        for d in d_c_after:
            d_c.add_(d)
        d_c.addcmul_(d_h, dh_dc_t)
        d_o_t.mul_(d_h)
        d_ifg_t.mul_(d_c[:, :, None])
        d_c.mul_(f_t)
        d_h.copy_(torch.bmm(d_a, weight))


def gru_forward(part: Steps, weight: Tensor, first: States, _keep: bool) -> None:
    """r, z = sigmoid of the sums;  m = the product of h;  n = tanh(that of the inputs + r m);  h = n + z (h - n)

    The columns of `gates` are m, r, z, n: products of h go to m, r, z and those of the inputs to r, z, n.
    """
    running, gates, after, *_ = part
    size = gates.shape[2] // 4
    steps = by_step(running, gates[..., : 3 * size], gates[..., size : 3 * size], *gates.chunk(4, 2), *after)
    (state,) = first
    for of_h, r_z, m, r, z, n, h in steps:
        state = leading(state, h.shape[1])
        of_h.baddbmm_(state.to(m.dtype), weight)
        r_z.sigmoid_()
        n.addcmul_(r, m).tanh_()
        torch.sub(state, n, out=h).mul_(z).add_(n)
        state = h


def gru_backward(part: Steps, weight: Tensor, d_states: States) -> None:
    running, gates, _, earlier, d_after, d_gates = part
    m, r, z, n = gates.chunk(4, 2)
    d_m, d_r, d_z, d_n = d_gates.chunk(4, 2)
    tanh_backward(1 - z, n, grad_input=d_n)  # for now dh/dn and so on: what is left is to multiply by the gradient of h
    sigmoid_backward(earlier[0] - n, z, grad_input=d_z)
    sigmoid_backward(d_n * m, r, grad_input=d_r)
    torch.mul(d_n, r, out=d_m)
    of_h, every = d_gates[..., : 3 * n.shape[2]], d_gates.unflatten(2, (4, -1))
    for z_t, d_of_h, d_every, d_h_after in reversed(by_step(running, z, of_h, every, *d_after)):
        d_h = leading(d_states[0], z_t.shape[1]).add_(d_h_after)
        d_every.mul_(d_h[:, :, None])
        d_h.mul_(z_t).add_(torch.bmm(d_of_h, weight))


# The scan: a cell over all steps of a layer, with the products of the inputs, as one operation of autograd.


class Part(NamedTuple):
    """Consecutive steps of a packed batch."""

    running: list[int]
    rows: slice
    earlier: slice | None  # the rows of the step before


def parts(running: list[int], scans: int) -> list[Part]:
    """Cuts the steps into parts of some 1024 rows over all scans.

    The products of the inputs need no recurrence and are taken for a whole part at once: enough rows to be fast even
    for few sequences, and so few that what the recurrence does with them next is still in the cache. Gradients of
    gates, the largest of all tensors, need memory for a single part only.
    """
    found: list[Part] = []
    start = row = 0
    while start < len(running):
        end, stop = start, row
        while end < len(running) and (stop - row) * scans < 1024:
            stop += running[end]
            end += 1
        earlier = slice(row - running[start - 1], row) if start else None
        found.append(Part(running[start:end], slice(row, stop), earlier))
        start, row = end, stop
    return found


def started(part: Part, first: States, after: States) -> list[Tensor]:
    """The states before the first step of a part."""
    return [*first] if part.earlier is None else [state[:, part.earlier] for state in after]


class OverReplicas(torch.autograd.Function):
    """A function of tensors [G, ...] under `torch.func.vmap`: the replicas become more scans side by side."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        folded = []
        for x, dim in zip(args, in_dims, strict=True):
            if isinstance(x, Tensor):
                x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
                x = x.flatten(0, 1)
            folded.append(x)
        outputs = [x.unflatten(0, (info.batch_size, -1)) for x in cls.apply(*folded)]
        return tuple(outputs), (0,) * len(outputs)


class Scan(OverReplicas):
    """(cell, running, keep, x, weight_ih, weight_hh, bias, *first) -> states after each step [G, N, H], gates.

    x is [G, N, I], the weights [G, K_ih, I] and [G, K_hh, H], the bias [G, K], the first states [G, B, H]. Products
    of x go to the last K_ih columns of the gates. Without `keep`, gates are not kept for backward.
    """

    @staticmethod
    def forward(cell: Cell, running: list[int], keep: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, weight_ih, weight_hh, bias, *first = tensors
        cut = parts(running, x.shape[0])
        held = x.shape[1] if keep else max(sum(part.running) for part in cut)
        gates = x.new_empty(x.shape[0], held, bias.shape[1])
        after = [state.new_empty(*x.shape[:2], state.shape[2]) for state in first]
        weight_ih, weight_hh, bias = weight_ih.mT.contiguous(), weight_hh.mT.contiguous(), bias[:, None]
        for part in cut:
            inputs = x[:, part.rows]
            here = gates[:, part.rows] if keep else gates[:, : inputs.shape[1]]
            here.copy_(bias)[..., -weight_ih.shape[2] :].baddbmm_(inputs, weight_ih)
            steps = Steps(part.running, here, [state[:, part.rows] for state in after])
            cell.forward(steps, weight_hh, started(part, first, after), keep)
        return *after, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.cell, ctx.running, keep, *tensors = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        if keep:
            ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        after = saved[-1 - ctx.cell.states : -1]
        d_after = list(gradients[: ctx.cell.states])
        if d_after[0] is None:
            d_after[0] = torch.zeros_like(after[0])
        found = ScanGradient.apply(ctx.cell, ctx.running, ctx.needs_input_grad[3], *d_after, *saved)
        return None, None, None, *found


class ScanGradient(OverReplicas):
    """(cell, running, needs_x, *gradients of the states, *tensors in, *tensors out) -> gradients of the tensors in."""

    @staticmethod
    def forward(cell: Cell, running: list[int], needs_x: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        first = tensors[cell.states + 4 : 2 * cell.states + 4]
        d_after = [d for d in tensors[: cell.states] if d is not None]
        x, weight_ih, weight_hh, bias = tensors[cell.states : cell.states + 4]
        *after, gates = tensors[2 * cell.states + 4 :]
        cut = parts(running, x.shape[0])
        d_x = torch.empty_like(x) if needs_x else x.new_zeros(()).expand_as(x)
        d_states = [torch.zeros_like(state) for state in first]
        # Sums over parts are as exact as states. Those of the weights are transposed: so their products are faster.
        d_ih, d_hh, d_bias = (torch.zeros_like(w, dtype=first[0].dtype) for w in (weight_ih.mT, weight_hh.mT, bias))
        memory = gates.new_empty(gates.shape[0], max(sum(part.running) for part in cut), gates.shape[2])
        for part in reversed(cut):
            d_gates = memory[:, : sum(part.running)]
            end, d_end = ([x[:, part.rows] for x in states] for states in (after, d_after))
            begin = zip(started(part, first, after), end, strict=True)
            earlier = [torch.cat(before(part.running, *states), 1) for states in begin]
            cell.backward(Steps(part.running, gates[:, part.rows], end, earlier, d_end, d_gates), weight_hh, d_states)
            from_x, from_hidden = d_gates[..., -weight_ih.shape[1] :], d_gates[..., : weight_hh.shape[1]]
            d_ih += torch.bmm(x[:, part.rows].mT, from_x)
            d_hh += torch.bmm(earlier[0].to(gates.dtype).mT, from_hidden)
            d_bias += d_gates.sum(1)
            if needs_x:
                d_x[:, part.rows] = torch.bmm(from_x, weight_ih)
        return d_x, d_ih.mT.to(x.dtype), d_hh.mT.to(x.dtype), d_bias.to(x.dtype), *d_states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, *_gradients: Tensor) -> Any:
        raise NotImplementedError("recurrent layers have no second derivatives: use nn.RNN, nn.LSTM, nn.GRU for them")


# The layers.


class Recurrent(nn.Module):
    """What RNN, LSTM and GRU share: parameters named and laid out as torch's, packing, directions, layers.

    Parameters start uniform in +-1/sqrt(H), as torch's. Dropout stands between layers, so with one layer there is none.
    Raises UserError if a size is below 1 or dropout is not in [0, 1).
    """

    cell: ClassVar[Cell]
    gates: ClassVar[int]

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0, bidirectional: bool = False
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise UserError(f"{type(self).__name__}: {name} is {size}: give at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"{type(self).__name__}: dropout is {dropout}: give a probability of at least 0, below 1")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.bidirectional = dropout, bidirectional
        self.directions = 2 if bidirectional else 1
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else self.directions * hidden_size
            for direction in ("", "_reverse")[: self.directions]:
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                for name, shape in {**shapes, "bias_ih": (rows,), "bias_hh": (rows,)}.items():
                    bound = hidden_size**-0.5
                    parameter = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                    self.register_parameter(f"{name}_l{layer}{direction}", parameter)

    def extra_repr(self) -> str:
        told = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, dropout={self.dropout}"
        return f"{told}, bidirectional={self.bidirectional}"

    def stacked(self, name: str, layer: int) -> Tensor:
        """The parameter of a layer for all directions, [D, K, ...]."""
        return torch.stack([getattr(self, f"{name}_l{layer}{d}") for d in ("", "_reverse")[: self.directions]])

    def weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """The weights and the bias of a layer as its cell takes them, see `Scan`."""
        bias = self.stacked("bias_ih", layer) + self.stacked("bias_hh", layer)
        return self.stacked("weight_ih", layer), self.stacked("weight_hh", layer), bias

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Any]:
        """x [B, T, I], lengths [B] (None: all T), state [layers * D, B, H] (None: 0) -> outputs, state at the end.

        Outputs [B, T, D * H] are 0 where a sequence has ended, and what stands in `x` there does not count. The state
        is that after the last step, for the direction that reads backwards after the first; an empty sequence leaves
        it as it was. An LSTM has two, hidden and cell. Raises ValueError for other shapes and for lengths outside 0..T.
        """
        given: States | None = (state,) if isinstance(state, Tensor) else state
        if x.dim() != 3 or x.shape[2] != self.input_size or x.shape[1] == 0:
            raise ValueError(f"input is of shape {list(x.shape)}: [batch, steps >= 1, {self.input_size}] is needed")
        batch, time, _ = x.shape
        shape = (self.num_layers * self.directions, batch, self.hidden_size)
        if given is None:
            given = [x.new_zeros(shape)] * self.cell.states
        elif any(state.shape != shape for state in given):
            raise ValueError(f"state is of shape {[list(s.shape) for s in given]}: {list(shape)} is needed")
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(x.device.type)
        # States are kept in float32 at least, as they add up over many steps.
        first = [state.to(torch.promote_types(dtype, torch.float32)) for state in given]
        packing = pack(lengths, batch, time, x.device)
        rows = packing.rows
        x = x.transpose(0, 1).flatten(0, 1) if rows is None else x.flatten(0, 1).index_select(0, rows)
        if packing.padding is not None:
            x = x.masked_fill(packing.padding, 0)
        ends = []
        for layer in range(self.num_layers):
            if layer > 0:
                if self.training and packing.known is not None:
                    x = draw.dropout_of_rows(x, self.dropout, packing.known)
                else:
                    x = F.dropout(x, self.dropout, self.training)
            x = x.to(dtype)
            x = torch.stack([x, x.index_select(0, packing.flip)]) if self.bidirectional else x[None]
            start = slice(layer * self.directions, (layer + 1) * self.directions)
            states = [state[start].index_select(1, packing.order) for state in first]
            weights = [weight.to(dtype) for weight in self.weights(layer)]
            *after, _ = Scan.apply(self.cell, packing.running, torch.is_grad_enabled(), x, *weights, *states)
            x = after[0][0]
            if self.bidirectional:
                x = torch.cat([x, after[0][1].index_select(0, packing.flip)], 1)
            ends.append([state.index_select(1, packing.last) for state in after])
        end = tuple(torch.cat(states) for states in zip(*ends, strict=True))
        x = x.to(dtype)
        if packing.padding is not None:
            x = x.masked_fill(packing.padding, 0)
            end = tuple(torch.where(packing.empty[:, None], a, b) for a, b in zip(first, end, strict=True))
        if rows is None:
            outputs = x.unflatten(0, (time, batch)).transpose(0, 1)
        else:
            outputs = x.new_zeros(batch * time, x.shape[1]).index_copy(0, rows, x).unflatten(0, (batch, time))
        return outputs, end if len(end) > 1 else end[0]

    @staticmethod
    @cache
    def before_compile() -> None:
        """Lets torch.compile leave recurrent layers as they are and compile what is around them.

        Their steps are lists of Python's, of another length in each batch: it would compile anew for each, if it could.
        The loop calls this where it compiles, since torch.compiler.disable takes a second to import what it needs.
        A run is told so in one line.
        """
        told = "fit.compile does not apply to recurrent layers, whose steps differ in number from batch to batch"
        print(f"{told}: what is around them is compiled", file=sys.stderr)
        Recurrent.forward = torch.compiler.disable(Recurrent.forward)  # type: ignore[method-assign]


class RNN(Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh) (Elman 1990, Finding Structure in Time), as `nn.RNN`."""

    cell = Cell(1, rnn_forward, rnn_backward)
    gates = 1


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014), in the variant of cuDNN and `nn.GRU`.

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))     h' = (1 - z) * n + z * h

    (There the reset gate acts on the product with h, not on h itself.)
    """

    cell = Cell(1, gru_forward, gru_backward)
    gates = 3

    def weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        # torch's order is r, z, n, that of the cell m, r, z, n, with two biases for what of n comes of h and of x.
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        of_x, of_h, bias, bias_h = (self.stacked(name, layer) for name in names)
        size = self.hidden_size
        m, both, n = bias_h[:, 2 * size :], (bias + bias_h)[:, : 2 * size], bias[:, 2 * size :]
        return of_x, of_h.roll(size, 1), torch.cat([m, both, n], 1)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000), as `nn.LSTM`.

        i, f, o = sigmoid(W_i* x + b_i* + W_h* h + b_h*)  g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f * c + i * g                                h' = o * tanh(c')

    Gates among `fixed_gates` are held at 1 (as in Greff et al. 2017, LSTM: A Search Space Odyssey) and have no
    parameters: the rows of the others stay, in the same order. Raises UserError for a gate of another name.
    """

    cell = Cell(2, lstm_forward, lstm_backward)
    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = False,
        fixed_gates: Collection[Gate] = (),
    ) -> None:
        names = get_args(Gate)
        for gate in fixed_gates:
            if gate not in names:
                raise UserError(f"LSTM: fixed_gates has '{gate}': choose among {', '.join(names)}")
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.fixed_gates = tuple(gate for gate in names if gate in fixed_gates)
        for name, parameter in list(self.named_parameters()):
            rows = (len(names) - len(self.fixed_gates)) * hidden_size
            setattr(self, name, nn.Parameter(parameter.detach()[:rows].clone()))

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", fixed_gates={self.fixed_gates}" if self.fixed_gates else "")

    def stacked(self, name: str, layer: int) -> Tensor:
        free = super().stacked(name, layer)
        if not self.fixed_gates:
            return free
        # sigmoid and tanh of infinity are 1 and have derivative 0, so the cell needs no case for a gate that is held.
        value = torch.inf if name == "bias_ih" else 0.0
        held = free.new_full((free.shape[0], self.hidden_size, *free.shape[2:]), value)
        rows = iter(free.split(self.hidden_size, 1))
        return torch.cat([held if gate in self.fixed_gates else next(rows) for gate in get_args(Gate)], 1)
