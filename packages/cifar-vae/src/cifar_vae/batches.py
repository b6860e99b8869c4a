"""The published files of CIFAR, which are Python pickles, read without running anything that stands in them.

A pickle is a program: it may name any function and call it. These name five, by which NumPy's arrays and Python's bytes
are made, and get harmless ones of ours instead, which only keep what they are given. Anything else is refused.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_vae.config import SIDE, VALUES
from etude import files
from etude.errors import UserError


class Refused(Exception):
    """A pickle that asks for more than arrays, numbers and texts."""


class Kept:
    """Stands for an array, or for the type of its numbers: the arguments that it was to be made with, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def as_bytes(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in the old protocol."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("it encodes what is no text of bytes")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): Kept,
    ("numpy._core.multiarray", "_reconstruct"): Kept,
    ("numpy", "ndarray"): Kept,
    ("numpy", "dtype"): Kept,
    ("_codecs", "encode"): as_bytes,
}


class Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise Refused(f"it asks for {module}.{name}, and could run code")
        return ALLOWED[module, name]


def load(file: Path) -> dict[str, Any]:
    """The dictionary in a published file, its keys as text; arrays are `Kept`. Raises UserError."""
    try:
        with file.open("rb") as content:
            found = Reader(content, encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({files.why(error)}): set ETUDE_DATA to another folder") from None
    except Refused as error:
        raise bad(file, f"is refused: {files.reason(error)}") from None
    except Exception as error:  # whatever pickle makes of bytes that are not its own
        raise bad(file, f"is damaged ({files.reason(error)})") from None
    if not isinstance(found, dict):
        raise bad(file, f"holds a {type(found).__name__}, not a dictionary")
    return {plain(key): value for key, value in found.items()}


def part(file: Path, key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, uint8 [N, 3, 32, 32], and their classes, int64 [N], out of a published file. Raises UserError.

    https://www.cs.toronto.edu/~kriz/cifar.html: "data" is uint8 [N, 3072], red, then green, then blue, row by row;
    `key`, "labels" or "fine_labels", is a list of N numbers from 0.
    """
    found = load(file)
    for needed in ("data", key):
        if needed not in found:
            raise bad(file, f"has no {needed!r}")
    pixels, labels = array(found["data"]), found[key]
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != VALUES or not len(pixels):
        raise bad(file, f"holds no rows of {VALUES:,} bytes")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels) or len(labels) != len(pixels):
        raise bad(file, f"has no class for each of its {len(pixels):,} pictures")
    if min(labels) < 0 or max(labels) >= classes:
        raise bad(file, f"has classes outside 0..{classes - 1}")
    return pixels.reshape(-1, 3, SIDE, SIDE), np.array(labels, np.int64)


def names(file: Path, key: str) -> tuple[str, ...]:
    """The names of the classes, "label_names" or "fine_label_names". Raises UserError."""
    found = load(file).get(key)
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(name, str | bytes) for name in found):
        raise bad(file, f"has no list of names under {key!r}")
    if len(set(found)) < len(found):
        raise bad(file, "names two classes alike")
    return tuple(plain(name) for name in found)


def array(kept: Any) -> np.ndarray | None:
    """The array of bytes that a pickle meant; None if it meant anything else."""
    try:
        _, shape, kind, by_column, content = kept.state
        sizes = tuple(int(size) for size in shape)
        if kind.arguments[0] not in ("u1", b"u1", "|u1", b"|u1") or by_column or min(sizes) < 0:
            return None
        return np.frombuffer(content, np.uint8).reshape(sizes).copy()
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


def plain(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def bad(file: Path, what: str) -> UserError:
    return UserError(f"{file} {what}: put a whole copy of it there, or delete its folder to have it downloaded")
