"""How the processes of a data-parallel run find each other, by what torchrun puts into the environment, and reach each
other. A wrong environment, and a process that is not there, are told in one line.
"""

import atexit
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from etude.errors import UserError
from etude.files import reason

PATIENCE = 300  # seconds that the first processes wait for the last


def number(name: str, least: int, most: int, default: int) -> int:
    """A whole number from the environment. Raises UserError if it is none, or not in `least` .. `most`."""
    text = os.environ.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not least <= int(text) <= most:
        wrong = f"the environment variable {name} is {text!r}, not a whole number from {least} to {most}"
        raise UserError(f"{wrong}: unset it, or start several processes with torchrun, which sets it")
    return int(text)


def count_off() -> tuple[int, int]:
    """How many processes train together, and which of them this is (from 0). Raises UserError if that is unclear."""
    world = number("WORLD_SIZE", 1, 10**6, 1)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if world > 1 else ():
        if not os.environ.get(name):
            wrong = f"the environment variable WORLD_SIZE is {world}, but {name} is not set"
            raise UserError(f"{wrong}: unset WORLD_SIZE, or start the processes with torchrun, which sets both")
    return world, number("RANK", 0, world - 1, 0)


def join(backend: str, world: int, rank: int) -> None:
    """Meets the other processes, until this one ends. Raises UserError if some do not come in `PATIENCE` seconds."""
    from torch.distributed.rendezvous import rendezvous  # which PyTorch may have been built without

    place = f"{os.environ['MASTER_ADDR']}:{number('MASTER_PORT', 1, 65535, 1)}"
    try:
        store, rank, world = next(rendezvous("env://", rank, world, timeout=timedelta(seconds=PATIENCE)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        wrong = f"process {rank} of {world} did not meet the others at {place} within {PATIENCE} s ({reason(error)})"
        raise UserError(f"{wrong}: start all {world} with one MASTER_ADDR and MASTER_PORT, or use torchrun") from None
    atexit.register(dist.destroy_process_group)


@contextmanager
def reaching() -> Iterator[None]:
    """Around what waits for the other processes. Raises UserError if one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        wrong = f"another process of this run cannot be reached any more ({reason(error)})"
        raise UserError(f"{wrong}: what it said last tells why; then start all again") from None
