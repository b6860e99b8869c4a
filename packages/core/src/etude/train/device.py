"""Where a run computes and how exactly: device, precision, and the processes of a data-parallel run."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude import torch_private
from etude.config import Fit
from etude.errors import UserError
from etude.train import processes
from etude.train.norm import synchronise_batch_norm

T = TypeVar("T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WHY = {
    ("cuda", "bf16"): "this GPU multiplies it natively",
    ("cuda", "fp16"): "this GPU multiplies no bf16",
    ("mps", "fp32"): "half precision is not offered on Apple GPUs",
    ("cpu", "bf16"): "this CPU multiplies it in AMX",
    ("cpu", "fp32"): "this CPU has no AMX, in which bf16 would be faster",
}
REFUSED = {
    ("mps", "bf16"): "is not offered on Apple GPUs: use fp32 or auto",
    ("mps", "fp16"): "is not offered on Apple GPUs: use fp32 or auto",
    ("cpu", "fp16"): "is for GPUs: on a CPU use bf16, fp32 or auto",
}


@dataclass(frozen=True)
class Device:
    """One process's share of the machine."""

    where: torch.device
    precision: str  # fp32, bf16 or fp16: of matrix products and convolutions; parameters are always fp32
    rank: int = 0  # which of the processes this is; only rank 0 writes
    world: int = 1  # how many processes train together
    threads: int = 0  # of a training step (see `etude.train.threads`); 0: as many as everything else has
    why: str = ""  # why this precision was taken, where nobody asked for it

    @property
    def exact(self) -> torch.device:
        """Where totals are added up in float64, which Apple's GPUs do not have."""
        return torch.device("cpu") if self.where.type == "mps" else self.where

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Computes what is safe to compute in `precision` in it, and the rest in fp32."""
        return torch.autocast(self.where.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    @contextmanager
    def step_threads(self) -> Iterator[None]:
        """What is computed in it, a training step, is computed on `threads` threads."""
        before = torch.get_num_threads()
        if self.threads in (0, before):
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def seed(self, key: int) -> None:
        """Seeds the generators that a step here draws from."""
        if self.where.type == "cpu":  # torch.manual_seed would note it for every other device, for 0.3 ms a step
            torch.default_generator.manual_seed(key)
        else:
            torch.manual_seed(key)

    def generator(self) -> torch.Generator:
        """The one that a step here draws from."""
        cpu = self.where.type == "cpu"
        return torch.default_generator if cpu else torch.cuda.default_generators[self.where.index or 0]

    def scaler(self) -> torch.amp.GradScaler:
        """Scales fp16 losses so that small gradients survive (Micikevicius et al. 2018); does nothing otherwise."""
        return torch.amp.GradScaler(self.where.type, enabled=self.precision == "fp16")

    def place(self, model: nn.Module) -> nn.Module:
        """Moves a model here, kernels channels-last, and makes its batch norm count over all processes.

        Every process has built the same model from the same seed, so nothing needs to be sent.
        """
        model.to(self.where)
        if self.where.type != "mps":  # whose kernels are written for the usual order
            model.to(memory_format=torch.channels_last)
        if self.world > 1:
            synchronise_batch_norm(model)
        return model

    def move(self, batch: Any) -> Any:
        """The batch on this device: a tensor, or a (named) tuple, list or dict of batches; the rest stays."""
        leaves, spec = torch_private.tree_flatten(batch)
        moved = [x.to(self.where, non_blocking=True) if isinstance(x, Tensor) else x for x in leaves]
        return torch_private.tree_unflatten(moved, spec)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replaces every tensor by its sum over all processes, in one message."""
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])  # also makes channels-last gradients dense
        with processes.reaching():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def highest(self, values: Sequence[int]) -> list[int]:
        """For each of some numbers the highest of all processes, on all. Asked of their CPUs: no GPU waits for it."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values)
        with processes.reaching():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, on all."""
        values = [value] * self.world
        if self.world > 1:
            with processes.reaching():
                dist.all_gather_object(values, value)
        return values

    def agree(self, value: T) -> T:
        """The first process's value, on all, who wait for each other."""
        return self.gather(value)[0]

    def name(self) -> str:
        """The hardware in words, for people: "NVIDIA H200", "AMD EPYC (2 threads)"."""
        if self.where.type == "cuda":
            return torch.cuda.get_device_name(self.where)
        if self.where.type == "mps":
            return "Apple GPU"
        return f"{torch.cpu.get_capabilities().get('cpu_name') or 'CPU'} ({torch.get_num_threads()} threads)"

    def peak_memory(self) -> int:
        """The most bytes that this process has held so far: of the GPU's memory, or of the machine's."""
        if self.where.type == "cuda":
            return torch.cuda.max_memory_allocated(self.where)
        now = psutil.Process().memory_info()
        try:
            import resource
        except ImportError:  # Windows
            return getattr(now, "peak_wset", now.rss)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in kB

    @property
    def told(self) -> str:
        """As text, with the reason for its precision."""
        return f"{self} ({self.why})" if self.why else str(self)

    def __str__(self) -> str:
        processes = f", {self.world} processes" if self.world > 1 else ""
        return f"{self.where.type}: {self.name()}, {self.precision}{processes}"


def choose(fit: Fit, began: str = "") -> Device:
    """The device of this process; under torchrun it joins the other processes (gloo on CPU, nccl on GPU).

    `began` is the precision that the run to go on with began in, which auto keeps. Raises UserError when what was asked
    for is not there: there is no silent fall-back.
    """
    world, rank = processes.count_off()
    where = hardware(fit.device, world)
    precision, why = precision_of(fit, where, began)
    if world > 1 and not dist.is_initialized():
        # Gloo beside nccl: what processes tell each other of themselves never waits for a GPU.
        processes.join("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", world, rank)
    return Device(where, precision, rank, world, why=why)


def hardware(asked: str, world: int) -> torch.device:
    """Where this process computes, one of `world`."""
    gpus, apple = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    local = processes.number("LOCAL_RANK", 0, max(gpus, world) - 1, 0)
    kind = asked if asked != "auto" else "cuda" if gpus else "mps" if apple else "cpu"
    if (kind == "cuda" and not gpus) or (kind == "mps" and not apple):
        raise UserError(f"fit.device is {asked}, but PyTorch finds no such device here: use --fit.device auto")
    if kind == "mps" and world > 1:
        raise UserError("several processes cannot share an Apple GPU: give --fit.device cpu, or start one process")
    if kind != "cuda":
        return torch.device(kind)
    if local >= gpus:
        raise UserError(f"LOCAL_RANK is {local}, but there are {gpus} GPUs here: start {gpus} processes a machine")
    where = torch.device("cuda", local)
    torch.cuda.set_device(where)
    torch.backends.cudnn.benchmark = True
    return where


def precision_of(fit: Fit, where: torch.device, began: str) -> tuple[str, str]:
    """What is computed in, and why, where nobody asked for it; `began` as in `choose`."""
    refusal = REFUSED.get((where.type, fit.precision))
    if refusal:
        raise UserError(f"fit.precision {fit.precision} {refusal}")
    if fit.precision != "auto":
        return fit.precision, ""
    precision = best_precision(where)
    why = WHY[where.type, precision]
    if (where.type, began) in REFUSED:
        return precision, f"the run began in {began}, which is not offered here; auto: {why}"
    if began in ("", precision):
        return precision, f"auto: {why}"
    return began, f"as the run began; {precision} would be auto here"


def best_precision(where: torch.device) -> str:
    """The fastest that is safe, which auto takes: bf16 or fp16 where they are multiplied faster than fp32, else fp32.

    CPUs with AVX512-BF16 but no AMX multiply bf16, too, but training in it takes 1.4 times as long as in fp32.
    """
    if where.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(where) >= (8, 0) else "fp16"
    return "bf16" if where.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16") else "fp32"
