"""Files -> digits and garments: scikit-learn's small digits, and two published sets, which torchvision downloads."""

import gzip
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.download import root
from etude.draw import shuffled
from etude.errors import UserError
from etude.text.lines import lines
from grad_flow.config import CLASSES, SIDES

SPLIT = -1  # the stream that parts are drawn from; epochs, which draw their order likewise, count from 0
HELD = 300  # digits of the sample for validation, and as many for the test
PATIENCE = 30.0  # seconds without a byte before a download is given up
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # the classes in torchvision.datasets
OTHERWISE = {"mnist": "fashion-mnist", "fashion-mnist": "sample"}  # what to use when it cannot be had
DIGITS = tuple("0123456789")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NAMES = {"sample": DIGITS, "mnist": DIGITS, "fashion-mnist": GARMENTS}
BRIGHTEST = {"sample": 16, "mnist": 255, "fashion-mnist": 255}  # of a pixel; 0 is the background


@dataclass(frozen=True)
class Images:
    """One part of a data set: uint8 [N, s, s], 0 is the background, and int64 [N] classes."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, ids: np.ndarray) -> "Images":
        chosen = torch.from_numpy(np.sort(ids))
        return Images(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Images
    valid: Images
    test: Images


def load(name: str, seed: int) -> Dataset:
    """`sample`, `mnist` or `fashion-mnist`; the last two are downloaded first if they are not under `root()`.

    The seed splits the sample's digits into three parts, and 5,000 images for validation off the 60,000 of the others,
    whose test part is the official one.
    """
    if name == "sample":
        digits = sample()
        order = shuffled(len(digits.labels), seed, SPLIT)
        return Dataset(name, digits[order[2 * HELD :]], digits[order[:HELD]], digits[order[HELD : 2 * HELD]])
    whole, test = published(name)
    order = shuffled(len(whole.labels), seed, SPLIT)
    held = len(order) // 12
    return Dataset(name, whole[order[held:]], whole[order[:held]], test)


def sample() -> Images:
    """The 1,797 digits of 8 x 8 pixels, 0 to 16, that come with scikit-learn (Alpaydin & Kaynak 1998)."""
    # Its file alone, as to import sklearn.datasets for `load_digits` takes longer than a small training.
    found = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(found), "rt", encoding="ascii") as file:
        rows = torch.from_numpy(np.loadtxt(file, np.uint8, delimiter=","))
    return Images(rows[:, :-1].reshape(-1, 8, 8).contiguous(), rows[:, -1].long())


def published(name: str) -> tuple[Images, Images]:
    """Training and test part of a published set. Raises UserError that names the file that is not what it should be."""
    folder = root() / KINDS[name] / "raw"
    files = [folder / f"{file}-ubyte" for file in FILES]
    if missing := [file for file in files if not os.path.exists(file)]:
        fetch(name, folder, missing)
    first, second, third, fourth = (read(file) for file in files)
    return whole(files[:2], first, second), whole(files[2:], third, fourth)


def read(file: Path) -> Tensor:
    """An idx file of bytes (http://yann.lecun.com/exdb/mnist): uint8 of the sizes that it declares."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); set ETUDE_DATA to another folder") from error
    dimensions = 3 if "idx3" in file.name else 1
    head = 4 + 4 * dimensions
    first, *sizes = np.frombuffer(content[:head].ljust(head, b"\0"), ">u4").tolist()
    if first != 0x800 + dimensions or len(content) - head != int(np.prod(sizes, dtype=object)) or not sizes[0]:
        raise bad(file, f"is not a whole idx file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}")
    return torch.from_numpy(np.frombuffer(content[head:], np.uint8).reshape(sizes).copy())


def whole(files: list[Path], images: Tensor, labels: Tensor) -> Images:
    """One part, whose images and labels fit each other and the set."""
    side = SIDES["mnist"]
    if images.shape[1:] != (side, side):
        raise bad(files[0], f"holds images of {images.shape[1]}x{images.shape[2]} pixels, not {side}x{side}")
    if len(images) != len(labels):
        raise bad(files[1], f"holds {len(labels)} labels for the {len(images)} images of {files[0].name}")
    if int(labels.max()) >= CLASSES or len(labels.unique()) < 2:
        raise bad(files[1], f"holds labels outside 0..{CLASSES - 1}, or of one class only")
    if len(images) < 12:
        raise bad(files[0], f"holds {len(images)} images, too few for a validation part")
    return Images(images, labels.long())


def bad(file: Path, what: str) -> UserError:
    return UserError(f"{file} {what}; delete it, it will be fetched again")


def fetch(name: str, folder: Path, missing: list[Path]) -> None:
    """Let torchvision download a set, and move the missing files into `folder` once all of it is there and checked.

    It works in a folder of its own beside the data, so what an interruption leaves is never taken for data.
    """
    from torchvision import datasets

    kind: Any = getattr(datasets, KINDS[name])
    print(f"fetching {name} from {kind.mirrors[0]} to {folder}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{KINDS[name]}-", dir=root()))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set ETUDE_DATA to another folder") from error
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torchvision sets none: a silent server would hold us for ever
    try:
        for train in (True, False):  # constructing it also reads it: an archive without the right files ends here
            kind(work, train=train, download=True)
        for file in missing:
            os.replace(work / KINDS[name] / "raw" / file.name, file)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} could not be downloaded ({reason}); try --data {OTHERWISE[name]}") from error
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(work, ignore_errors=True)


def read_rows(path: str, name: str) -> Tensor:
    """The images in a CSV file, a row each, of the pixels of a data set `name`: float32 [N, s, s]; "-" is stdin.

    Blank lines do not count. Raises UserError, naming file and line, for what is no such row.
    """
    where, side, brightest = "standard input" if path == "-" else path, SIDES[name], BRIGHTEST[name]
    rows = []
    for number, line in enumerate(lines(path, "give a CSV file of pixels"), 1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != side**2:
            raise UserError(
                f"{where}, line {number}: {len(cells)} numbers, but an image of this run has {side} x {side} pixels"
            )
        for cell in cells:
            try:
                good = 0 <= float(cell) <= brightest
            except ValueError:
                good = False
            if not good:
                shown = cell.strip()[:40]
                raise UserError(f"{where}, line {number}: {shown!r} is no pixel, a number from 0 to {brightest}")
        rows.append([float(cell) for cell in cells])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, side, side)
