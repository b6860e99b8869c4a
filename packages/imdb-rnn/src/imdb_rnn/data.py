"""Files -> reviews: the generated sample, the `imdb` folder and the Stanford archive."""

import gzip
import re
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etude import files
from etude.download import fetch, root
from etude.draw import shuffled
from etude.errors import UserError
from etude.text.lines import ended, lines
from imdb_rnn import sample

SPLIT = -1  # the stream that the validation part is drawn from; epochs, which draw their order likewise, count from 0
FULL = "imdb-full"  # the folder of whole reviews, which come with the stars that their writers gave
PARTS = ("train", "test")
CLASSES = ("negative", "positive")  # the files of a part, in the order of their labels
ARCHIVE = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"  # Maas et al. 2011
DIGEST = "md5:7c2ac02c03563afcf9b574c7e56c153a"
MEMBER = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt")
BREAKS = re.compile(r"(?:<br ?/?>)+", re.IGNORECASE)


@dataclass(frozen=True)
class Reviews:
    """One part of a data set: N texts, and int64 [N] labels, 1 = positive."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    name: str
    train: Reviews
    valid: Reviews
    test: Reviews
    description: str  # one line: the size of every part, and how many reviews were left out of training


def load(name: str, division: int, held_out: float = 0.1) -> Dataset:
    """`sample`, `imdb` or `aclimdb`; the last is downloaded first if it is not under `etude.download.root()`.

    The test part is the official one. Training texts that are in it too, or that repeat another one (see `identity`),
    are left out; a share `held_out` of each class of the rest, drawn by `division`, is the validation part: a smaller
    share is part of a larger one. The sample is always the same. Raises UserError for files that are missing
    or not what they should be.
    """
    match name:
        case "sample":
            train, valid, test = (Reviews(texts, np.array(labels)) for texts, labels in sample.parts())
            return Dataset(name, train, valid, test, f"sample, {sizes(train, valid, test)}")
        case "imdb":
            folder = root() / "imdb"
            remedy = f"put train/ and test/, each with {' and '.join(CLASSES)}, in {folder}, or use --data aclimdb"
        case "aclimdb":
            folder = unpacked(root() / "aclimdb")
            remedy = f"delete the folder {folder}, it will be made again"
        case _:
            raise UserError(f"there is no data set {name!r}; choose one of sample, imdb, aclimdb")
    whole, tested = (read_part(folder / part, remedy) for part in PARTS)
    unseen, shared, repeated = without(whole, tested)
    for kind, texts in zip(CLASSES, unseen, strict=True):
        if len(texts) < 2:
            raise UserError(
                f"{folder / 'train' / kind} has {len(texts)} reviews that are not in the test part too, "
                "but training and validation need one each; add some"
            )
    train, valid = (labelled(part) for part in divided(unseen, division, held_out))
    test = labelled(tested)
    out = f"left out of training: {shared} that the test part has too, {repeated} that repeat another"
    return Dataset(name, train, valid, test, f"{name}, {sizes(train, valid, test)} ({out})")


def sizes(*parts: Reviews) -> str:
    return f"{' / '.join(f'{len(part.texts):,}' for part in parts)} reviews to train, validate and test"


def identity(text: str) -> str:
    """What two texts have in common that count as the same: all but white space and capital letters."""
    return " ".join(text.split()).casefold()


def letters(text: str) -> str:
    """By what a language model recognises a text: letters and digits alone, however it is punctuated or spaced."""
    return re.sub(r"[\W_]", "", text).casefold()


def unlabelled(name: str, dataset: Dataset) -> tuple[list[str], int]:
    """The texts that a language model reads: those of training and, with `imdb-full`, of that folder; each once.

    None of them stands in the validation or in the test part, whatever file it is in; and how many texts were left out
    for that. Raises UserError for files that are missing or not what they should be.
    """
    held = {letters(text) for part in (dataset.valid, dataset.test) for text in part.texts}
    found = dataset.train.texts + (read_full(root() / FULL) if name == FULL else [])
    kept: dict[str, str] = {}
    left = 0
    for text in found:
        mark = letters(text)
        if mark in held:
            left += 1
        else:
            kept.setdefault(mark, text)
    return list(kept.values()), left


def read_full(folder: Path) -> list[str]:
    """The texts of all files of `imdb-full`, {train,test}/{positive,negative}.tsv: stars, a tab, the review."""
    texts = []
    for part in PARTS:
        for kind in CLASSES:
            file = folder / part / f"{kind}.tsv"
            if not file.is_file():
                raise UserError(f"there is no file {file}: put it there, or leave --unlabelled out")
            for number, line in enumerate(ended(lines(file, "give a text file, one review a line")), 1):
                stars, tab, text = line.partition("\t")
                if not (tab and stars.isdecimal() and text.strip()):
                    raise UserError(f"{file}, line {number}: not stars, a tab and a review; repair the line")
                texts.append(unquoted(text))
    return texts


def without(whole: list[list[str]], tested: list[list[str]]) -> tuple[list[list[str]], int, int]:
    """The training texts of each class that are not tested, each once; how many were tested, how many repeated."""
    test = {identity(text) for texts in tested for text in texts}
    seen: set[str] = set()
    unseen: list[list[str]] = []
    shared = 0
    for texts in whole:
        unseen.append([])
        for text in texts:
            mark = identity(text)
            if mark in test:
                shared += 1
            elif mark not in seen:
                seen.add(mark)
                unseen[-1].append(text)
    return unseen, shared, sum(map(len, whole)) - shared - len(seen)


def divided(classes: list[list[str]], division: int, held_out: float) -> tuple[list[list[str]], list[list[str]]]:
    """The training and the validation part of each class, in the order of the files."""
    train, valid = [], []
    for label, texts in enumerate(classes):
        order = shuffled(len(texts), division, SPLIT, label)
        held = max(1, int(len(texts) * held_out))
        valid.append([texts[i] for i in np.sort(order[:held])])
        train.append([texts[i] for i in np.sort(order[held:])])
    return train, valid


def labelled(classes: list[list[str]]) -> Reviews:
    texts = [text for part in classes for text in part]
    return Reviews(texts, np.repeat(np.arange(len(classes)), [len(part) for part in classes]))


def read_part(folder: Path, remedy: str) -> list[list[str]]:
    """The reviews of each class, one a line of its file. Raises UserError for a missing or empty file, or review."""
    classes = []
    for kind in CLASSES:
        file = folder / kind
        if not file.is_file():
            raise UserError(f"there is no file {file}; {remedy}")
        texts = read_lines(file)
        if not texts:
            raise UserError(f"{file} is empty, but should hold one review a line; {remedy}")
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise UserError(f"{file}, line {number}: the review is empty; delete the line")
        classes.append(texts)
    return classes


def read_lines(file: Path) -> list[str]:
    """The reviews of a UTF-8 file, one for each line, cleaned; an empty line is an empty review.

    Only \\n and \\r\\n end a line, the last may lack it. Raises UserError with the line if it cannot be read.
    """
    return [unquoted(line) for line in ended(lines(file, "give a text file, one review a line"))]


def unquoted(line: str) -> str:
    """The quoting of a CSV field undone (RFC 4180), `<br />`s a space. A quote inside that is not doubled: no field."""
    if len(line) > 1 and line[0] == line[-1] == '"' and '"' not in (inside := line[1:-1]).replace('""', ""):
        line = inside.replace('""', '"')
    return BREAKS.sub(" ", line)


def quoted(text: str) -> str:
    """The line that `unquoted` makes `text` of, but for the `<br />`s."""
    return '"' + text.replace("\r", " ").replace("\n", " ").replace('"', '""') + '"'


def unpacked(folder: Path) -> Path:
    """The Stanford archive in the form of the `imdb` folder: four files instead of 50,000, made once beside it."""
    reviews = folder / "reviews"
    if reviews.exists():
        return reviews
    archive = fetch(ARCHIVE, folder / "aclImdb_v1.tar.gz", DIGEST, "aclimdb")
    print(f"reading {archive}, once", file=sys.stderr)
    parts = read_archive(archive)
    try:
        with tempfile.TemporaryDirectory(prefix=".reviews-", dir=folder, ignore_cleanup_errors=True) as work:
            made = Path(work) / "reviews"  # not `work` itself, which only its owner may read
            for part, classes in zip(PARTS, parts, strict=True):
                (made / part).mkdir(parents=True)
                for kind, texts in zip(CLASSES, classes, strict=True):
                    with (made / part / kind).open("w", encoding="utf-8", newline="\n") as out:
                        out.writelines(quoted(text) + "\n" for text in texts)
                        out.flush()
                        files.sync(out)
            made.rename(reviews)
    except OSError as error:
        if not reviews.exists():  # else another process was faster, with the same files
            message = f"{reviews} cannot be written ({error.strerror}); set ETUDE_DATA to another folder"
            raise UserError(message) from error
    return reviews


def read_archive(archive: Path) -> list[list[list[str]]]:
    """The texts of [part][class], sorted by the number in their names. Nothing is unpacked to disk, whatever it names.

    Raises UserError if the archive is broken, or lacks a class.
    """
    found: dict[tuple[str, str], dict[int, str]] = {(part, kind): {} for part in PARTS for kind in ("neg", "pos")}
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = MEMBER.fullmatch(member.name)
                    if name and member.isfile() and not member.issparse() and (file := tar.extractfile(member)):
                        found[name[1], name[2]][int(name[3])] = file.read().decode()
            while stream.read(1 << 20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive} is broken ({error}); delete it, it will be fetched again") from error
    for (part, kind), texts in found.items():
        if not texts:
            raise UserError(f"{archive} holds no aclImdb/{part}/{kind}/*.txt; delete it, it will be fetched again")
    return [[[texts[i] for i in sorted(texts)] for texts in (found[part, "neg"], found[part, "pos"])] for part in PARTS]
