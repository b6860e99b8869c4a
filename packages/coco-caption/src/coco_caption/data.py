"""Files -> images with captions: the sample, COCO, and any folder in COCO's form."""

import io
import json
import os
import sys
import zipfile
import zlib
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coco_caption import sample
from coco_caption.config import Data
from coco_caption.photos import fetch_all
from coco_caption.words import words
from etude.config import is_path
from etude.download import fetch, root
from etude.draw import shuffled
from etude.errors import UserError
from etude.text.lines import clean

# the streams that parts and `images` are drawn from; epochs, which draw their order likewise, count from 0
SPLIT = -1
DRAWN = -2
MOST = 5_000  # images held out for validation: as many as COCO 2017 has for it
NAMED = 3  # things left out that the line `data` names; more are only counted
ARCHIVE = "http://images.cocodataset.org/annotations/annotations_trainval{}.zip"
MD5 = {"2014": "0a379cfc70b0e71301e0f377548639bd", "2017": "f4bbac642086de4f52a3fdda2de5fa2c"}


@dataclass(frozen=True)
class Captioned:
    """An image and what people said of it."""

    file: Path
    id: int
    captions: tuple[str, ...]
    url: str = ""


@dataclass(frozen=True)
class Dataset:
    name: str
    train: list[Captioned]
    valid: list[Captioned]
    test: list[Captioned]
    notes: list[str]  # what was left out of the annotations, and why

    def without(self, broken: dict[Path, str]) -> "Dataset":
        """Without the images that cannot be read. Raises UserError if a part would be empty that is not now."""
        if not broken:
            return self
        parts: list[list[Captioned]] = []
        for part in (self.train, self.valid, self.test):
            parts.append([image for image in part if image.file not in broken])
            if part and not parts[-1]:
                file = part[0].file
                raise UserError(f"no image of a part of {self.name} can be read, such as {file} ({broken[file]})")
        named = [f"{file} ({why})" for file, why in [*broken.items()][:NAMED]]
        more = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
        note = f"{len(broken):,} images that cannot be read: {', '.join(named)}{more}"
        return Dataset(self.name, parts[0], parts[1], parts[2], [*self.notes, note])

    def __str__(self) -> str:
        sizes = " / ".join(f"{len(part):,}" for part in (self.train, self.valid, self.test))
        captions = sum(len(image.captions) for part in (self.train, self.valid, self.test) for image in part)
        out = f"; left out: {'; '.join(self.notes)}" if self.notes else ""
        return f"{self.name}, {sizes} images to train, validate and test, {captions:,} captions{out}"


def load(data: Data, seed: int) -> Dataset:
    """`sample`, `coco` (its images fetched first if they are not there), or the path of a folder, see `read`.

    `captions_train*` is the training part. Of it `held_out`, drawn by `seed`, are for validation, unless there are both
    `captions_val*` and `captions_test*`; whichever of these is left is the test part; if there is none, as many again
    are drawn for it, and what `images` leaves out is tested, too. Raises UserError for what is missing or not what it
    should be.
    """
    folder = place(data)
    files = annotations(folder, data)
    if "train" not in files:
        raise UserError(f"{folder} has no annotations/captions_train*.json to train on; it can only be evaluated on")
    notes: Counter[str] = Counter()
    parts = {part: read(folder, file, notes) for part, file in files.items()}
    train = whole = parts["train"]
    if 0 < data.images < len(train):
        train = [train[i] for i in np.sort(shuffled(len(train), seed, DRAWN)[: data.images])]
    if "val" in parts and "test" in parts:
        valid, test = parts["val"], parts["test"]
    else:
        held = min(MOST, max(2, round(len(train) * data.held_out)))  # of a single image CIDEr-D is 0
        given = parts.get("val") or parts.get("test")
        order = shuffled(len(train), seed, SPLIT)
        cuts = [held, held if given else 2 * held]
        if len(train) <= cuts[1]:
            raise UserError(f"{files['train']} has {len(train)} images, too few to hold some out; add more")
        valid, _, train = ([train[i] for i in np.sort(part)] for part in np.split(order, cuts))
        used = {image.id for image in (*valid, *train)}
        test = given or [image for image in whole if image.id not in used]  # as `load_test` and `restore` have it
    test = of_coco(test, data, seed)
    found = Dataset(data.name, train, valid, test, told(notes))
    return fetched(found) if data.name == "coco" else found


def load_test(data: Data, seed: int) -> Dataset:
    """The test part alone, of a folder that may have no other: captions_test*, else _val*, else _train*, all of it."""
    folder = place(data)
    files = annotations(folder, data)
    notes: Counter[str] = Counter()
    file = next(files[part] for part in ("test", "val", "train") if part in files)
    test = of_coco(read(folder, file, notes), data, seed)
    found = Dataset(data.name, [], [], test, told(notes))
    return fetched(found) if data.name == "coco" else found


def of_coco(test: list[Captioned], data: Data, seed: int) -> list[Captioned]:
    """COCO's test part is as small as `images` asks for, since each image has to be fetched."""
    count = max(1, data.images // 10)
    if data.name != "coco" or not data.images or count >= len(test):
        return test
    return [test[i] for i in np.sort(shuffled(len(test), seed, DRAWN)[:count])]


def place(data: Data) -> Path:
    """The folder with the annotations, which are fetched first where that can be done."""
    if data.name == "sample":
        return sample.folder()
    if data.name == "coco":
        return coco(data.year)
    if Path(data.name).is_dir():
        return Path(data.name)
    if is_path(data.name):
        raise UserError(f"there is no folder {data.name}; give one that holds annotations/captions_train*.json")
    raise UserError(f"there is no data set {data.name!r}; choose sample, coco, or the path of a folder in COCO's form")


def annotations(folder: Path, data: Data) -> dict[str, Path]:
    """The annotation file of each part. Raises UserError if there is none, or more than one for a part."""
    found: dict[str, Path] = {}
    year = data.year if data.name == "coco" else ""
    for part in ("train", "val", "test"):
        files = sorted((folder / "annotations").glob(f"captions_{part}{year}*.json"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"{folder}/annotations has several files for one part ({names}); leave one of them there")
        if files:
            found[part] = files[0]
    if not found:
        raise UserError(f"{folder} has no annotations/captions_train*.json, _val*.json or _test*.json")
    return found


def told(notes: Counter[str]) -> list[str]:
    return [f"{count:,} {what}" for what, count in notes.items() if count]


# ------------------------------------------------------------------------------------------------------ COCO's format


def read(folder: Path, file: Path, notes: Counter[str]) -> list[Captioned]:
    """The images of an annotation file that have captions, in the order of the file.

    Counts in `notes` what is left out: annotations of no image, empty captions, repeats, images without captions.
    Raises UserError, naming the place, for what is not in COCO's form, or ambiguous.
    """
    from pycocotools.coco import COCO

    content = checked(file, notes)
    with redirect_stdout(io.StringIO()):  # it tells of its progress
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    where = Finder(folder, file.stem.removeprefix("captions_"))
    found: dict[Path, Captioned] = {}
    for id, image in coco.imgs.items():
        captions = tuple(clean(annotation["caption"]) for annotation in coco.imgToAnns[id])
        if not captions:
            notes["images without captions"] += 1
            continue
        path = where(image["file_name"])
        if path in found:  # an entry a caption: else one picture would be trained on and chosen by
            notes["entries of an image that has one, whose captions were put together"] += 1
            captions = tuple(dict.fromkeys((*found[path].captions, *captions)))
            found[path] = replace(found[path], captions=captions)
        else:
            found[path] = Captioned(path, id, captions, str(image.get("coco_url") or ""))
    if not found:
        raise UserError(f"{file} has no image with a caption")
    return list(found.values())


def checked(file: Path, notes: Counter[str]) -> dict[str, Any]:
    """The content of an annotation file, once it is sure that pycocotools reads out of it what is in it."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a JSON file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not in COCO's form: it should hold an object with images and annotations")
    forms: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str},
        "annotations": {"image_id": int, "caption": str},
    }
    for name, needs in forms.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            raise UserError(f"{file} is not in COCO's form: it has no list {name!r}")
        for number, entry in enumerate(entries):
            for key, kind in needs.items():
                if not isinstance(entry, dict) or type(entry.get(key)) is not kind:
                    what = {int: "a whole number", str: "a text"}[kind]
                    raise UserError(f"{file} is not in COCO's form: {name}[{number}] needs {key!r}, {what}")
    images: dict[int, dict[str, Any]] = {}
    for image in content["images"]:
        before = images.setdefault(image["id"], image)
        if before is not image:
            if before["file_name"] != image["file_name"]:
                raise UserError(
                    f"{file} has two images with the id {image['id']}, {before['file_name']} and {image['file_name']}: "
                    "whose captions are whose cannot be known; give them ids of their own"
                )
            notes["images listed twice"] += 1
    kept: list[dict[str, Any]] = []
    seen: set[tuple[Any, int, str]] = set()
    for annotation in content["annotations"]:
        same = (annotation.get("id"), annotation["image_id"], annotation["caption"])
        if annotation["image_id"] not in images:
            notes["annotations of no image"] += 1
        elif not words(annotation["caption"]):
            notes["captions without a word"] += 1
        elif same in seen and same[0] is not None:
            notes["annotations listed twice"] += 1
        else:
            seen.add(same)
            kept.append(annotation | {"id": len(kept) + 1})  # two different ones may have had the same
    return content | {"images": list(images.values()), "annotations": kept}


class Finder:
    """Where the image files of a part are: in the folder of its name, or in another one beside the annotations.

    But not in that of another part, whose images are others, whatever they are called. A name with folders is looked
    for with them, in each of these places; what bears its last part alone is another.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part = folder, part
        first = [folder / part, folder / "images" / part, folder / "images", folder / "Images", folder]
        parts = {file.stem.removeprefix("captions_") for file in (folder / "annotations").glob("captions_*.json")}
        apart = {"annotations", *parts} - {part}
        others = [other for other in folder.iterdir() if other.is_dir() and other.name not in apart]
        self.first = [place for place in first if place.is_dir()]
        self.others = [place for place in sorted(others) if place not in first]
        self.names: dict[Path, set[str]] = {}

    def __call__(self, name: str) -> Path:
        """The path of an image file; if it is nowhere, or in several of the other folders, where it should be.

        That is below `folder`, whatever the name says, as it may be fetched to there.
        """
        if "/" in name and os.path.exists(self.folder / name):
            return self.folder / name
        name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
        for place in self.first:
            if self.has(place, name):
                return place / name
        found = [place for place in self.others if self.has(place, name)]
        if len(found) == 1:
            return found[0] / name
        return self.folder / name if "/" in name else self.folder / self.part / name

    def has(self, place: Path, name: str) -> bool:
        if "/" in name:
            return os.path.exists(place / name)  # False for what can be no name
        if place not in self.names:
            with os.scandir(place) as entries:
                self.names[place] = {entry.name for entry in entries}
        return name in self.names[place]


# ---------------------------------------------------------------------------------------------------------------- COCO


def coco(year: str) -> Path:
    """The folder `coco` among the data, with COCO's captions of that year, fetched if they are missing."""
    folder = root() / "coco"
    names = [f"annotations/captions_{part}{year}.json" for part in ("train", "val")]
    if all((folder / name).is_file() for name in names):
        return folder
    archive = fetch(
        *(ARCHIVE.format(year), folder / f"annotations_trainval{year}.zip", f"md5:{MD5[year]}"),
        f"COCO's annotations of {year}",
    )
    try:
        (folder / "annotations").mkdir(exist_ok=True)
        with zipfile.ZipFile(archive) as whole:
            for name in names:
                work = folder / f"{name}.part"
                work.write_bytes(whole.read(name))
                work.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set ETUDE_DATA to another folder") from error
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise UserError(f"{archive} is not COCO's archive ({error}); delete it, it will be fetched again") from error
    return folder


def fetched(dataset: Dataset) -> Dataset:
    """COCO with the image files there; what cannot be had is left out, counted and named."""
    wanted = [image for part in (dataset.train, dataset.valid, dataset.test) for image in part]
    missing = {image.file: image.url for image in wanted if not image.file.exists()}
    files = [(url, file) for file, url in missing.items() if url.startswith(("http://", "https://"))]
    homeless = dict.fromkeys(missing.keys() - {file for _, file in files}, "it has no coco_url")
    failed = homeless | (fetch_all(files, "images of COCO") if files else {})
    for file, why in [*failed.items()][:NAMED]:
        print(f"{file.name} is left out: {why}", file=sys.stderr)
    if len(failed) > NAMED:
        print(f"so are {len(failed) - NAMED:,} others", file=sys.stderr)
    return dataset.without(failed)
