"""Checkpoints: written whole, read without running code, and put back into a model.

A state is plain data: dicts, lists, numbers, texts and tensors. `loop.save` gathers it, `loop.begin` puts it back.
"""

import copy
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from etude import files
from etude.errors import UserError

State = dict[str, Any]


def compact(state: Any) -> Any:
    """The state with every view copied: in a file it would drag along all that it is a view of."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone() if state.untyped_storage().nbytes() > state.nbytes else state
    if isinstance(state, dict):
        found = copy.copy(state)  # a state dict has versions of its modules on it
        found.update((key, compact(value)) for key, value in state.items())
        return found
    return type(state)(map(compact, state)) if isinstance(state, list | tuple) else state


class Damaged(Exception):
    """A checkpoint that was cut short or overwritten."""


def load(file: Path) -> State:
    """Reads a checkpoint onto the CPU; nothing in it can run code (`weights_only`).

    Raises Damaged if it is not whole (every record's CRC-32 is checked), UserError if it holds more than data.
    """
    try:
        with zipfile.ZipFile(file) as records:
            if broken := records.testzip():
                raise ValueError(f"its record {broken}")
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}, not a state")
    except pickle.UnpicklingError:
        why = "it holds more than tensors and numbers, loading it could run code"
        raise UserError(f"{file} is refused: {why}") from None
    except Exception as error:  # whatever zipfile, pickle and torch make of bytes that are not theirs
        raise Damaged(f"{file} is damaged ({files.reason(error)})") from None
    return state


def read(folder: Path, name: str = "best") -> State:
    """The best (or last) checkpoint of a run. Raises UserError if there is none or it cannot be read."""
    file = folder / "checkpoints" / f"{name}.pt"
    if not os.path.exists(file):
        raise UserError(f"{folder} has no checkpoints/{name}.pt: it is no run folder, or its first epoch is not over")
    try:
        state = load(file)
    except Damaged as error:
        raise UserError(f"{error}: train again, or put a copy of the file there") from None
    if lacking := {"model", "assets"} - state.keys():
        raise UserError(f"{file} is no checkpoint (it has no {min(lacking)}): train again, or put a copy of it there")
    return state


def newest(run: Path, tell: bool) -> State | None:
    """The newest readable last.pt of a run, None before the first; with `tell` says so if the newest was damaged.

    Raises UserError if there are checkpoints but none can be read: starting over would overwrite what is left.
    """
    damage = ""
    for file in filter(os.path.lexists, (run / "checkpoints/last.pt", run / "checkpoints/last.prev.pt")):
        try:
            state = load(file)
        except Damaged as error:
            damage = damage or str(error)
            continue
        if damage and tell:
            print(f"{damage}: going on from the checkpoint before it", file=sys.stderr)
        return state
    if damage:
        raise UserError(f"{damage}, and there is no other: put a copy there, or give --run another folder")
    return None


def fill(model: torch.nn.Module, state: State, where: Path) -> None:
    """Gives a model the weights of a checkpoint of the run `where`. Raises UserError if they do not fit."""
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint in {where} does not fit this configuration ({reason})") from None
