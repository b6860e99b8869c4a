"""Files -> images: the embedded sample and three published sets, all 28x28 grey images, white on black and upright."""

import gzip
import os
import shutil
import socket
import sys
import tempfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_emnist import sample
from cnn_emnist.config import SIDE as SIZE
from etude.download import root
from etude.draw import shuffled
from etude.errors import UserError

SPLIT = -1  # the stream that the validation part is drawn from; epochs, which draw their order likewise, count from 0
PATIENCE = 30.0  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class Images:
    """One part of a data set: uint8 [N, 28, 28], upright, white ink on black, and int64 [N] classes."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    name: str
    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images


@dataclass(frozen=True)
class Source:
    """A published set, as torchvision knows it: the idx files it unpacks, and how to read them."""

    kind: str  # the class in torchvision.datasets, and the folder under the root
    parts: tuple[str, str]  # file names of the training and the test part, {} for what they hold
    classes: tuple[str, ...]
    first: int  # the label of the first class in the files
    transposed: bool
    valid: int  # one in so many training images becomes a validation image
    otherwise: str  # what to use when it cannot be had


GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGITS = tuple("0123456789")
LETTERS = tuple(ascii_uppercase)
PLAIN = ("train-{}-ubyte", "t10k-{}-ubyte")
SOURCES = {
    "emnist-letters": Source(
        "EMNIST",
        ("emnist-letters-train-{}-ubyte", "emnist-letters-test-{}-ubyte"),
        LETTERS,
        1,
        True,
        10,
        "fashion-mnist",
    ),
    "fashion-mnist": Source("FashionMNIST", PLAIN, GARMENTS, 0, False, 12, "sample"),
    "mnist": Source("MNIST", PLAIN, DIGITS, 0, False, 12, "fashion-mnist"),
}


def load(name: str, seed: int) -> Dataset:
    """`sample`, `emnist-letters`, `fashion-mnist` or `mnist`; downloaded first if it is not under `root()`.

    The test part is the official one. The validation part is split off the training part by `seed`: one image in 10 for
    EMNIST, 5,000 of 60,000 for the others. The sample's parts are different typefaces, whatever the seed.
    """
    if name == "sample":
        return Dataset(name, LETTERS, *(Images(*part) for part in sample.parts()))
    if name not in SOURCES:
        raise UserError(f"there is no data set {name!r}; choose one of sample, {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = root() / source.kind / "raw"
    files = [[part.format(what) for what in ("images-idx3", "labels-idx1")] for part in source.parts]
    if missing := [file for pair in files for file in pair if not os.path.exists(found(folder / file))]:
        fetch(name, folder, missing)
    whole, test = (read(folder / images, folder / labels, source) for images, labels in files)
    if len(whole.labels.unique()) < 2:
        raise bad(folder / files[0][1], "holds labels of one class only")
    order = shuffled(len(whole.labels), seed, SPLIT)
    held = len(order) // source.valid
    if held == 0:
        raise bad(folder / files[0][0], f"holds {len(order)} images, too few for a validation part")
    valid, train = (torch.from_numpy(np.sort(part)) for part in (order[:held], order[held:]))
    return Dataset(
        name,
        source.classes,
        Images(whole.images[train], whole.labels[train]),
        Images(whole.images[valid], whole.labels[valid]),
        test,
    )


def read(images: Path, labels: Path, source: Source) -> Images:
    """One part from its two idx files; raises UserError that names the file that is not what it should be."""
    images, labels = found(images), found(labels)
    (count, *shape), pixels = arrays(images, 3)
    if shape != [SIZE, SIZE]:
        raise bad(images, f"holds images of {shape[0]}x{shape[1]} pixels, not {SIZE}x{SIZE}")
    (named,), classes = arrays(labels, 1)
    if named != count:
        raise bad(labels, f"holds {named} labels for the {count} images of {images.name}")
    classes = classes.long() - source.first
    if not ((classes >= 0) & (classes < len(source.classes))).all():
        last = source.first + len(source.classes) - 1
        raise bad(labels, f"holds labels outside {source.first}..{last}")
    return Images(pixels.transpose(1, 2).contiguous() if source.transposed else pixels, classes)


def found(file: Path) -> Path:
    """This file, or where it may have been put by hand as it is published: compressed, and of EMNIST in a folder more.

    The file itself if there is none of these.
    """
    packed = (file.with_name(f"{file.name}.gz"), file.parent / "gzip" / f"{file.name}.gz")
    return next((place for place in (file, *packed) if place.exists()), file)


def arrays(file: Path, dimensions: int) -> tuple[list[int], Tensor]:
    """An idx file of bytes (http://yann.lecun.com/exdb/mnist): the sizes that it declares, and uint8 of these sizes.

    Raises UserError if it is not whole.
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise bad(file, f"is not a complete gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); set ETUDE_DATA to another folder") from error
    head = 4 + 4 * dimensions
    if len(content[:head]) % 4:
        raise bad(file, "is too short")
    first, *sizes = np.frombuffer(content[:head], ">u4").tolist() or [0]
    if first != 0x800 + dimensions:
        raise bad(file, f"is not an idx file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}")
    values = np.frombuffer(content[head:], np.uint8)
    if len(sizes) < dimensions or len(values) != int(np.prod(sizes, dtype=object)):
        raise bad(file, f"is {len(content)} bytes long, which is not what it declares")
    if not sizes[0]:
        raise bad(file, "is empty")
    return sizes, torch.from_numpy(values.reshape(sizes).copy())


def bad(file: Path, what: str) -> UserError:
    return UserError(f"{file} {what}; delete it, it will be fetched again")


def fetch(name: str, folder: Path, missing: list[str]) -> None:
    """Let torchvision download a set, and move the missing files into `folder` once all of it is there and checked.

    It works in a folder of its own beside the data, so what an interruption leaves is never taken for data.
    """
    from torchvision import datasets

    source = SOURCES[name]
    kind: Any = getattr(datasets, source.kind)
    place = getattr(kind, "url", None) or kind.mirrors[0]
    options = {"split": "letters"} if source.kind == "EMNIST" else {}
    print(f"fetching {name} from {place} to {folder}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{source.kind}-", dir=root()))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set ETUDE_DATA to another folder") from error
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torchvision sets none: a silent server would hold us for ever
    try:
        for train in (True, False):  # constructing it also reads it: an archive without the right files ends here
            kind(work, train=train, download=True, **options)
        for file in missing:
            os.replace(work / source.kind / "raw" / file, folder / file)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        others = " or ".join(f"--data {other}" for other in dict.fromkeys((source.otherwise, "sample")))
        raise UserError(f"{name} could not be downloaded ({reason}); try {others}, which needs no network") from error
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(work, ignore_errors=True)
