"""Pictures of 32 x 32 pixels with classes: drawn here, published, or in a folder."""

import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cifar_vae import batches, sample
from cifar_vae.config import PUBLISHED, SIDE, VALUES, Data
from etude import draw, files, images
from etude.config import is_path
from etude.download import fetch, root
from etude.errors import UserError

SPLIT, SUBSET = -1, -2  # the streams of what is drawn once, for all seeds
VALID = 5_000  # pictures that validate, at most
LEAST = 16 * SIDE  # pixels of the short side that a photo is read with
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
TRAINING = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


@dataclass(frozen=True)
class Part:
    """Pictures, uint8 [N, 3, 32, 32], and their classes, int64 [N]."""

    pictures: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, rows: np.ndarray) -> "Part":
        return Part(self.pictures[rows], self.classes[rows])


@dataclass(frozen=True)
class Dataset:
    name: str
    classes: tuple[str, ...]
    train: Part
    valid: Part
    test: Part
    note: str = ""
    """what a reader should know, for the line `data`"""
    fitted: str = ""
    """the data that the training part is of, where it is not that of the test part but stands beside it"""


@dataclass(frozen=True)
class Source:
    """A published set, as torchvision knows it."""

    kind: str  # the class in torchvision.datasets
    folder: str
    training: tuple[str, ...]
    test: str
    meta: str
    names: str  # the key of the names of classes
    labels: str
    classes: int


CIFAR10 = Source("CIFAR10", "cifar-10-batches-py", TRAINING, "test_batch", "batches.meta", "label_names", "labels", 10)
CIFAR100 = Source("CIFAR100", "cifar-100-python", ("train",), "test", "meta", "fine_label_names", "fine_labels", 100)
SOURCES = dict(zip(PUBLISHED, (CIFAR10, CIFAR100), strict=True))


def load(data: Data, may_fetch: bool = True, learnt: np.ndarray | None = None) -> Dataset:
    """The pictures that `data` names; a published set is downloaded first if it is not under `root()`.

    The test part is the official one, of a folder of pictures a tenth; the validation part is split off the training
    part. All of it is the same for every seed. `learnt`: for a run that is to be scored, the marks of what it was
    trained on or chosen by (see `seen`); of a folder of other pictures all are the test part. Raises UserError if it
    cannot be had.
    """
    if data.name == "sample":
        train, valid, test = (Part(*sample.drawn(*of)) for of in (("train", data.images), ("valid",), ("test",)))
        return Dataset("sample", sample.CLASSES, train, valid, test)
    if data.name in SOURCES:
        source = SOURCES[data.name]
        return published(data.name, root() / source.folder, source, data, may_fetch)
    if not is_path(data.name):
        raise UserError(
            f"there is no data set {data.name!r}: choose sample, {', '.join(SOURCES)}, or the path of a folder"
        )
    folder = Path(data.name)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one of one folder of pictures for each class")
    for source in SOURCES.values():
        place = folder if folder.name == source.folder else folder / source.folder
        if place.is_dir():
            return published(str(folder), place, source, data)
    return of_folder(folder, data, learnt)


def published(name: str, folder: Path, source: Source, data: Data, may_fetch: bool = False) -> Dataset:
    """A set in its published files. Of the training files those that are there are read, in their order."""
    if may_fetch and not folder.is_dir():
        download(name, folder, source)
    training = [folder / file for file in source.training if (folder / file).exists()]
    if not training or not (folder / source.test).exists():
        raise UserError(f"{folder} has no {source.training[0]} or no {source.test}: delete it, or put the files there")
    classes = batches.names(folder / source.meta, source.names)
    if len(classes) != source.classes:
        raise batches.bad(folder / source.meta, f"names {len(classes)} classes, not {source.classes}")
    found = [batches.part(file, source.labels, source.classes) for file in training]
    whole = Part(np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found]))
    test = Part(*batches.part(folder / source.test, source.labels, source.classes))
    official = (50_000, 10_000)
    note = "" if (len(whole), len(test)) == official else f"not whole: of {official[0]:,} + {official[1]:,} pictures"
    train, valid = split(whole, data, name)
    return Dataset(name, classes, train, valid, test, note)


def split(whole: Part, data: Data, name: str) -> tuple[Part, Part]:
    """Training and validation part of what is not the test part."""
    order = draw.shuffled(len(whole), SPLIT)
    held = min(VALID, int(len(whole) * data.held_out))
    if held < 2 or len(whole) - held < 2:
        raise UserError(f"{name} has {len(whole)} pictures to train and validate with, too few: add some")
    return few(whole.at(np.sort(order[held:])), data.images), whole.at(np.sort(order[:held]))


def few(part: Part, count: int) -> Part:
    """So many of a part's pictures, drawn; all of them for 0."""
    if not count or count >= len(part):
        return part
    return part.at(np.sort(draw.shuffled(len(part), SUBSET)[:count]))


def download(name: str, folder: Path, source: Source) -> None:
    """Fetches the archive from where torchvision has it, checks its md5, and unpacks it under its name when whole."""
    from torchvision import datasets

    kind: Any = getattr(datasets, source.kind)
    archive = fetch(kind.url, root() / kind.filename, f"md5:{kind.tgz_md5}", name)
    wanted = {*source.training, source.test, source.meta}
    with files.reported(f"{folder} cannot be written", "set ETUDE_DATA to another folder"):
        work = Path(tempfile.mkdtemp(prefix=f".{source.folder}-", dir=root()))
        try:
            with tarfile.open(archive) as packed:
                for member in packed:
                    file = member.name.rpartition("/")[2]
                    if file in wanted and member.isfile() and (content := packed.extractfile(member)):
                        with content, (work / file).open("wb") as out:
                            shutil.copyfileobj(content, out)
            os.replace(work, folder)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise UserError(f"{archive} cannot be unpacked ({files.reason(error)}): delete it and try again") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def of_folder(folder: Path, data: Data, learnt: np.ndarray | None = None) -> Dataset:
    """One folder of image files for each class: a tenth of the pictures is the test part, drawn once.

    Every part is in an order that is drawn, so that the first pictures of it are of all classes. For a run that has
    `learnt` from other pictures all are the test part, and nothing is in the other two: its own pictures it knows by
    what is in them, wherever they lie now.
    """
    whole = pictures_of(folder)
    if learnt is None:
        return in_parts(whole, data)
    with suppress(UserError):  # too few for three parts are another's, or have changed
        own = in_parts(whole, data)
        if np.isin(seen(own), learnt).all():
            return own
    return whole


def in_parts(whole: Dataset, data: Data) -> Dataset:
    """A test part alone, in three parts. Raises UserError if there are too few pictures."""
    kept = whole.test
    if len(kept) < 10:
        raise UserError(f"{whole.name} has {len(kept)} different pictures, too few for three parts: add some")
    tested = max(2, len(kept) // 10)
    train, valid = split(kept.at(np.arange(tested, len(kept))), data, whole.name)
    return replace(whole, train=train, valid=valid, test=kept.at(np.arange(tested)))


def pictures_of(folder: Path) -> Dataset:
    """All pictures of a folder, in an order that is drawn, as a test part, and nothing in the other two.

    Pictures that are the same at 32 x 32 pixels count once, so that none is in two parts.
    """
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    listed = [(path.name, [file for file in sorted(path.rglob("*")) if is_picture(file)]) for path in found]
    listed = [(name, inside) for name, inside in listed if inside]
    if len(listed) < 2:
        raise UserError(
            f"{folder} has pictures of {len(listed)} classes: it needs a folder for each, two or more, such as "
            f"{folder.name}/cat/1.png"
        )
    pictures = np.stack([read(file) for _, inside in listed for file in inside])
    classes = np.concatenate([np.full(len(inside), k) for k, (_, inside) in enumerate(listed)])
    _, first = np.unique(marks(pictures), return_index=True)
    kept = Part(pictures, classes).at(np.sort(first)[draw.shuffled(len(first), SPLIT, SPLIT)])
    twice = len(classes) - len(kept)
    note = f"{twice:,} that are there twice left out" if twice else ""
    nothing = kept.at(np.arange(0))
    return Dataset(str(folder), tuple(name for name, _ in listed), nothing, nothing, kept, note)


def is_picture(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


def read(file: Path) -> np.ndarray:
    """An image file of any size -> uint8 [3, 32, 32], see `square`. Raises UserError."""
    try:
        return square(images.load(file, LEAST))
    except images.Broken as error:
        raise UserError(f"{file} cannot be read as an image: {error}") from None


def square(picture: Image.Image) -> np.ndarray:
    """A picture -> uint8 [3, 32, 32]: its middle square, averaged down or interpolated. Transparency lies on white.

    Raises images.Broken for values that may be of any scale.
    """
    if picture.mode in "IF":
        values = np.nan_to_num(np.asarray(picture, np.float32), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        if low < -0.2 or high > 65535:
            raise images.Broken(f"its values go from {low:g} to {high:g}: save it with 8 bits")
        # What is white is a guess; of a float picture that was resized a little more than 1.
        most = 1.0 if picture.mode == "F" and high <= 1.2 else 255.0 if high <= 255 else 65535.0
        picture = Image.fromarray((values.clip(0, most) * (255 / most)).round().astype(np.uint8))
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def seen(found: Dataset) -> np.ndarray:
    """The marks of all that a run with these data is trained on or chosen by, sorted, int64 [N]."""
    return np.sort(marks(np.concatenate([found.train.pictures, found.valid.pictures])))


def marks(pictures: np.ndarray) -> np.ndarray:
    """A number for the content of each picture [N, 3, 32, 32], int64 [N]; by it a picture is known again."""
    words = np.ascontiguousarray(pictures).reshape(len(pictures), VALUES).view(np.uint64)
    found = np.zeros(len(pictures), np.uint64)
    for column in range(words.shape[1]):
        found = draw.mix((found + words[:, column]) * draw.GOLDEN + np.uint64(column))
    return found.view(np.int64)
