"""Files -> messages: the generated sample, the tweets of Sentiment140, and any CSV file with `tag` and `message`."""

import csv
import html
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path

import numpy as np
from tqdm import tqdm

from etude import files
from etude.config import is_path
from etude.download import fetch, root
from etude.draw import shuffled
from etude.errors import UserError
from etude.text.lines import clean, ended, lines
from text_ae import sample

# the streams that parts and `messages` are drawn from; epochs, which draw their order likewise, count from 0
SPLIT = -1
DRAWN = -2
ARCHIVE = "https://cs.stanford.edu/people/alecmgo/trainingandtestdata.zip"  # Go et al. 2009; no hash is published
MEMBER = "training.1600000.processed.noemoticon.csv"  # latin-1, no header: polarity, id, date, query, user, text
COLUMNS = 6  # of MEMBER
TAGS = {"0": "0.0", "4": "1.0"}  # of MEMBER's polarities; "2" is neutral, and on paper only: MEMBER has none
LONGEST = 10_000  # characters of a message; what is longer is a quote that was not closed, or no message
LINK = "<link>"  # stands for any address on the web

NESTED = 20  # what is unescaped so often and still holds an entity was made to hold them
LONG = re.compile(r"(&#[0-9]{600,};?)")  # the number of no character; from 640 digits on Python may refuse to read it
AMPERSANDS = re.compile(r"&(?:amp;|AMP;)+")
# Control characters but for those that are white space; surrogates, which no file can hold; and U+FFFD, also as its
# UTF-8 looks when read as latin-1, which is how most of them came into Sentiment140.
DROPPED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd\ud800-\udfff]|\u00ef\u00bf\u00bd")
# `www.` must begin a word and go on with one ("Ewww.. no"); the punctuation that ends a sentence is no part of a link.
ADDRESS = re.compile(r"(?:https?://|(?<!\w)www\.(?=\w))(?:\S*[^\s.,:;!?'\")\]}>\u2026])?", re.IGNORECASE)


@dataclass(frozen=True)
class Messages:
    """One part of a data set: N texts and their labels."""

    texts: list[str]
    labels: np.ndarray  # int64 [N], numbers of `Dataset.classes`


@dataclass(frozen=True)
class Dataset:
    name: str
    classes: list[str]  # the tags, sorted
    train: Messages
    valid: Messages
    test: Messages
    description: str  # one line: the size of every part, and how many messages were left out

    def without_tests(self, known: np.ndarray) -> "Dataset":
        """Without the messages of the test part that are `known`, bool [N]. Raises UserError if none would be left."""
        if not known.any():
            return self
        if known.all():
            raise UserError(f"all messages of the test part of {self.name} were trained on; evaluate on other data")
        test = Messages([self.test.texts[i] for i in np.flatnonzero(~known)], self.test.labels[~known])
        told = f"{self.description}; left out of the test part: {known.sum():,} that the run was trained on"
        return replace(self, test=test, description=told)


def load(
    name: str, seed: int, held_out: float = 0.1, normalise: bool = True, messages: int = 0, longest: int = 0
) -> Dataset:
    """`sample`, `twitter` (see `tweets`) or the path of a CSV file (see `read_csv`).

    The texts are `normalised`, or with `normalise` off exactly as they are in the file; the parts hold the same
    messages either way. Of messages that are the same (see `distinct`) the first is kept, so that none is in two
    parts, and those of which `normalised` leaves nothing are left out, as are those that then have more than
    `longest` characters, unless that is 0. Of the rest `messages` are drawn by `seed`, 0 or more than there are for
    all. A share of `held_out` of these, drawn by `seed`, is the validation part, and as many others are the test
    part, at least one each; every part is in the order of the file.

    The sample has parts of its own and is always the same; `longest` leaves out of each of them, and `messages`
    shortens each to its share.

    Raises UserError for a file that is missing or not what it should be, and if a part would be empty.
    """
    match name:
        case "sample":
            return generated(messages, longest)
        case "twitter":
            texts, labels, classes = read_csv(tweets(root() / "twitter"))
        case _ if is_path(name, ".csv"):
            texts, labels, classes = read_csv(Path(name))
        case _:
            raise UserError(f"there is no data set {name!r}; choose sample, twitter, or the path of a CSV file")
    kept, clean, repeated = distinct(texts)
    empty = len(texts) - len(kept) - repeated
    out = f"left out: {repeated:,} repeats, {empty:,} empty after normalising"
    if longest:
        fits = np.array([len(clean[i]) <= longest for i in kept.tolist()], bool)
        out += f", {(~fits).sum():,} of more than {longest} characters"
        kept = kept[fits]
    n = len(kept)
    if n < 3:
        raise UserError(
            f"{name} has {n} distinct messages ({out}), but training, validation and test need one each; add some"
        )
    if 0 < messages < n:
        out = f"drawn from {n:,}; {out}"
        kept = kept[np.sort(shuffled(n, seed, DRAWN)[:messages])]
    train, valid, test = (
        Messages([(clean if normalise else texts)[i] for i in part.tolist()], labels[part])
        for part in divided(name, kept, seed, held_out)
    )
    return Dataset(name, classes, train, valid, test, f"{name}, {sizes(train, valid, test)} ({out})")


def sizes(*parts: Messages) -> str:
    return f"{' / '.join(f'{len(part.texts):,}' for part in parts)} messages to train, validate and test"


def generated(messages: int, longest: int) -> Dataset:
    """The sample; without what has more than `longest` characters; with `messages` as many, the first of each part."""
    train, valid, test = (Messages(texts, np.array(labels, np.int64)) for texts, labels in sample.parts())
    if longest:
        train, valid, test = (short(part, longest) for part in (train, valid, test))
    n = sum(len(part.texts) for part in (train, valid, test))
    if not (train.texts and valid.texts and test.texts):
        raise UserError(
            f"no part of the sample may be empty, but few of its messages have {longest} characters or less"
        )
    if 0 < messages < n:
        if messages < 3:
            raise UserError(few(messages))
        held = max(1, round(messages * len(test.texts) / n))
        train, valid, test = start(train, messages - 2 * held), start(valid, held), start(test, held)
    return Dataset("sample", [*sample.CLASSES], train, valid, test, f"sample, {sizes(train, valid, test)}")


def short(part: Messages, longest: int) -> Messages:
    kept = [i for i, text in enumerate(part.texts) if len(text) <= longest]
    return Messages([part.texts[i] for i in kept], part.labels[kept])


def start(part: Messages, n: int) -> Messages:
    return Messages(part.texts[:n], part.labels[:n])


def few(n: int) -> str:
    return f"{n} messages are too few, training, validation and test need one each; use 3 or more"


def identity(text: str) -> str:
    """What texts have in common that count as the same."""
    return normalised(text).casefold()


def distinct(texts: list[str]) -> tuple[np.ndarray, list[str], int]:
    """Texts that are the same when normalised, but for capital letters, are one, and the first of them is kept.

    Returns which are kept, int64, sorted; all texts normalised; and how many of those that are not empty then repeat
    another. An empty one is not kept.
    """
    clean = [normalised(text) for text in texts]
    numbers: dict[str, int] = {}
    for i, text in enumerate(clean):
        if text:
            numbers.setdefault(text.casefold(), i)
    return np.fromiter(numbers.values(), np.int64), clean, sum(map(bool, clean)) - len(numbers)


def divided(name: str, kept: np.ndarray, seed: int, held_out: float) -> list[np.ndarray]:
    """Training, validation and test part of int64 [N], each in the same order."""
    n = len(kept)
    held = max(1, round(n * held_out))
    if n < 3:
        raise UserError(few(n))
    if n - 2 * held < 1:
        raise UserError(
            f"of the {n} messages of {name}, {held} for validation and as many for the test leave none to train on; "
            "hold out less"
        )
    order = shuffled(n, seed, SPLIT)
    return [kept[np.sort(part)] for part in (order[2 * held :], order[:held], order[held : 2 * held])]


def normalised(text: str) -> str:
    """The text as people saw it: HTML entities are characters, each link is `<link>`, white space is single spaces.

    Entities are unescaped until none is left, as some tweets are escaped twice; a text in which they stand more than
    `NESTED` deep in one another keeps them. Control characters and U+FFFD, which stands for a character that got lost,
    are dropped. Case, names and punctuation stay. What is normalised stays as it is if it is normalised again.
    """
    found, before = text, None
    for _ in range(NESTED):
        if found == before:
            return linked(found)
        before = found  # what is left where something was dropped may be an entity
        if "&" in found:
            parts = LONG.split(AMPERSANDS.sub("&", found))
            found = "".join(part if LONG.fullmatch(part) else html.unescape(part) for part in parts)
        found = dropped(found)
    return linked(dropped(text))


def linked(text: str) -> str:
    return clean(ADDRESS.sub(LINK, text))  # a joiner may have stood before an address


def dropped(text: str) -> str:
    return " ".join(clean(DROPPED.sub("", text)).split())


def read_lines(path: str | Path) -> list[str]:
    """The texts of a UTF-8 file, one for each line; an empty line is an empty text. "-" is standard input.

    Only \\n and \\r\\n end a line, the last may lack it. Raises UserError with the line if it cannot be read.
    """
    return [*ended(lines(path, "give a text file, one text a line"))]


def read_csv(file: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """A UTF-8 CSV file (RFC 4180) -> N messages as they are, int64 [N] labels, and the sorted tags that they number.

    The header names a `tag` and a `message`, in any order and among others. Blank lines are passed over, white space
    around a tag too. Raises UserError with the line, that of the row's beginning, for whatever is wrong with a row.
    """
    texts: list[str] = []
    numbers: list[int] = []
    tags: dict[str, int] = {}
    rows = numbered(file)
    start, header = next(rows, (1, []))
    if not header:
        raise UserError(f"{file} is empty, but should begin with a header that names tag and message")
    for column in ("tag", "message"):
        if header.count(column) != 1:
            raise UserError(
                f"{file}, line {start}: the header has {'two columns' if column in header else 'no column'} "
                f"{column}, but {shown(', '.join(map(repr, header)))}; name one tag and one message"
            )
    tag_at, message_at, width = header.index("tag"), header.index("message"), len(header)
    for start, row in rows:
        if len(row) != width:
            raise UserError(
                f"{file}, line {start}: the row has {len(row)} columns, the header {width}; "
                "put a message that holds commas in quotes"
            )
        tag, message = row[tag_at].strip(), row[message_at]
        if not tag:
            raise UserError(f"{file}, line {start}: the tag is empty; fill it in, or delete the row")
        if not message or message.isspace():
            raise UserError(f"{file}, line {start}: the message is empty; fill it in, or delete the row")
        if len(message) > LONGEST:
            raise UserError(giant(file, start, f"the message has {len(message):,}"))
        texts.append(message)
        numbers.append(tags.setdefault(tag, len(tags)))
    if not texts:
        raise UserError(f"{file} has a header but no row; add some messages")
    classes = sorted(tags)
    rank = {tag: i for i, tag in enumerate(classes)}
    return texts, np.array([rank[tag] for tag in tags])[numbers], classes


def numbered(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each with the line that it begins in, counting from 1."""
    reader = csv.reader(lines(file, "give a CSV file with the columns tag and message"), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            # The limit of a field is for the whole process, so that it is left as it is.
            if "field limit" in str(error):
                raise UserError(giant(file, start, f"a field has more than {csv.field_size_limit():,}")) from error
            why = "a \\r outside of quotes ends no line" if "new-line" in str(error) else f"quotes, {error}"
            raise UserError(
                f"{file}, line {start}: the row cannot be read ({why}); "
                'put fields in quotes, double a quote inside ("")'
            ) from error
        if row is None:
            return
        if any("\0" in field for field in row):
            raise UserError(f"{file}, line {start}: the row holds a NUL byte; save the file as UTF-8 text")
        if row:
            yield start, row


def giant(file: Path, line: int, size: str) -> str:
    return (
        f"{file}, line {line}: {size} characters, a message may have {LONGEST:,}; "
        "shorten it, or close the quote that it begins with"
    )


def shown(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


def tweets(folder: Path) -> Path:
    """`dataset.csv` in this folder, which may be put there by hand; else it is made, once, of the public Sentiment140.

    The archive is fetched to the same folder and stays there, so that what was put there by hand is not deleted; the
    tags are 0.0 (sad) and 1.0 (happy). Raises UserError if it cannot be had, or is broken.
    """
    file = folder / "dataset.csv"
    if file.exists():
        return file
    archive = fetch(ARCHIVE, folder / "trainingandtestdata.zip", None, "twitter")
    print(f"reading {archive}, once", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix=".dataset-", dir=folder, ignore_cleanup_errors=True) as work:
            made = Path(work) / file.name
            with made.open("w", encoding="utf-8", newline="") as out:
                writer = csv.writer(out, lineterminator="\n")
                writer.writerow(("tag", "message"))
                writer.writerows(read_archive(archive))
                out.flush()
                files.sync(out)
            made.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}); set ETUDE_DATA to another folder") from error
    return file


def read_archive(archive: Path) -> Iterator[tuple[str, str]]:
    """Tag and message of each row of Sentiment140's training file, as a stream; rows that are neutral or blank not.

    Raises UserError if the archive is broken or lacks the file; the file's checksum is compared after the last row.
    """
    remedy = "delete it, it will be fetched again"
    try:
        with zipfile.ZipFile(archive) as whole:
            names = [name for name in whole.namelist() if name.rpartition("/")[2] == MEMBER]
            if not names:
                raise UserError(f"{archive} holds no {MEMBER}; {remedy}")
            with (
                whole.open(names[0]) as stream,
                TextIOWrapper(stream, "latin-1", newline="\n") as lines,
                tqdm(
                    total=whole.getinfo(names[0]).file_size,
                    desc="twitter",
                    unit="B",
                    unit_scale=True,
                    disable=not sys.stderr.isatty(),
                ) as bar,
            ):
                for number, row in enumerate(csv.reader(line.replace("\0", "") for line in lines), 1):
                    if number % 1000 == 0:
                        bar.update(stream.tell() - bar.n)
                    if len(row) != COLUMNS or row[0] not in (*TAGS, "2"):
                        raise UserError(f"{archive}, row {number} of {MEMBER} is not a tweet with polarity; {remedy}")
                    if row[0] in TAGS and row[-1].strip():
                        yield TAGS[row[0]], row[-1]
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise UserError(f"{archive} is broken ({error}); {remedy}") from error
