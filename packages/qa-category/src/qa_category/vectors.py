"""Files of pretrained word vectors -> words and a table: .vec, .txt, either of them gzipped or zipped.

A file is read once, as a stream, and kept as a memory-mapped array in `etude.download.cache()`.
"""

import gzip
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from tqdm import tqdm

from etude import files
from etude.config import is_path
from etude.download import cache, fetch, root
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.text.lines import clean

ENDINGS = (".vec", ".txt", ".gz", ".zip")
PUBLISHED = {  # by name: the archive, and the file in it
    "wiki-news-300d-1M.vec": "https://dl.fbaipublicfiles.com/fasttext/vectors-english/wiki-news-300d-1M.vec.zip",
    **{f"glove.6B.{size}d": "https://nlp.stanford.edu/data/glove.6B.zip" for size in (50, 100, 200, 300)},
}
BLOCK = 1 << 16  # bytes that are read at once: what is made of them fits into a core's own memory
THREADS = 2  # that work on blocks
FIRST = 100  # lines by which the length of the vectors is known, where no header says it
PADDING = b"0" * 8  # in front of a block, so that eight bytes can be read before the end of any number


@dataclass(frozen=True)
class Vectors:
    """N words and their vectors, float32 [1 + N, D]: row 0 is padding, all zero; row i + 1 is that of words[i]."""

    words: list[str]
    table: np.ndarray

    @property
    def size(self) -> int:
        """D, numbers a vector."""
        return int(self.table.shape[1])

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word; of a word that stands twice the first, which is that of the more frequent."""
        return {word: row for row, word in reversed(list(enumerate(self.words, 1)))}

    @cached_property
    def lowered(self) -> dict[str, int]:
        """The same by words in lower case: of "The" and "the" the one that comes first."""
        return {word.lower(): row for row, word in reversed(list(enumerate(self.words, 1)))}


def load(name: str, most: int) -> Vectors:
    """The first `most` words of a file: a path, or a name as in `$ETUDE_DATA/vectors/NAME.txt` or `PUBLISHED`.

    Raises UserError for a file that is missing or not what it should be.
    """
    path, member = find(name, most)
    with files.reported(f"{path} cannot be read", "give --vectors a file of word vectors"):
        stat = path.stat()
    known = fingerprint([str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns), str(most), member])
    folder = cache() / "vectors" / known
    with files.reported(f"{folder} cannot be written", "set XDG_CACHE_HOME to another folder"):
        if not folder.is_dir():
            keep(read(path, most, member), folder)
        words = (folder / "words.txt").read_text("utf-8").split("\n")
        return Vectors(words, np.load(folder / "table.npy", mmap_mode="r"))


def find(name: str, most: int) -> tuple[Path, str]:
    """The file that a name stands for, fetched if it is published and not there; and the file wanted in an archive.

    An excerpt NAME.topNk.txt, the first N thousand words of NAME, is as good as the whole if no more are asked for.
    """
    folder = root() / "vectors"
    if is_path(name, *ENDINGS) and (Path(name).is_file() or (not (folder / name).exists() and name not in PUBLISHED)):
        return files.given(name), ""
    for ending in ("", ".txt", ".vec", ".txt.gz", ".vec.gz", ".txt.zip", ".vec.zip", ".zip"):
        if (path := folder / f"{name}{ending}").is_file():
            return path, ""
    for path in sorted(folder.glob(f"{escape(name)}.top*k.txt")):
        thousands = path.name.removeprefix(f"{name}.top").removesuffix("k.txt")
        if thousands.isdecimal() and 1000 * int(thousands) >= most:
            return path, ""
    if name not in PUBLISHED:
        raise UserError(
            f"there are no vectors {name!r}: give the path of a file, or one of {', '.join(sorted(PUBLISHED))}; "
            f"other names are looked for in {folder}"
        )
    url = PUBLISHED[name]
    return fetch(url, folder / url.rpartition("/")[2], None, name), f"{name.removesuffix('.vec')}."


def keep(vectors: Vectors, folder: Path) -> None:
    """Writes the table and its words into a folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".vectors-", dir=folder.parent))
    try:
        made = work / "made"  # not `work` itself, which only its owner may read
        made.mkdir()
        np.save(made / "table.npy", vectors.table)
        files.write(made / "words.txt", "\n".join(vectors.words).encode())
        if not folder.exists():  # else another process was faster, with the same file
            made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def opened(path: Path, member: str = "") -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked. Of a zip archive the only file of vectors, or that whose name begins so."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as stream:
            yield cast(BinaryIO, stream)
    elif path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            names = [
                name for name in archive.namelist() if name.endswith((".txt", ".vec")) and not name.startswith("__")
            ]
            names = [name for name in names if name.rpartition("/")[2].startswith(member)]
            if len(names) != 1:
                has = f"has {', '.join(names)}" if names else "has no .txt and no .vec"
                raise UserError(f"{path} {has}: unpack it, and give one file of vectors")
            with archive.open(names[0]) as inner:
                yield cast(BinaryIO, inner)
    else:
        with path.open("rb") as plain:
            yield plain


def read(path: Path, most: int, member: str = "") -> Vectors:
    """The first `most` words of a file, in their order. Raises UserError with the line for what is wrong in it."""
    remedy = "give --vectors a file of word vectors"
    try:
        with files.reported(f"{path} cannot be read", remedy), opened(path, member) as stream:
            return Reader(path, stream, most).read()
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is broken ({files.reason(error)}); {remedy}") from None


class Reader:
    """One pass over a stream of vectors."""

    def __init__(self, path: Path, stream: BinaryIO, most: int) -> None:
        self.path, self.stream, self.most = path, stream, most
        first = [line.removesuffix(b"\n") for line in islice(stream, FIRST)]
        head = first[0].split() if first else []
        self.said = int(head[0]) if len(head) == 2 and all(part.isdigit() for part in head) else 0
        self.line = 1 if self.said else 0  # how many have been read
        self.first = first[self.line :]
        counts = [len(line.split()) for line in self.first]
        self.size = int(head[1]) if self.said else min(counts, default=0) - 1
        if self.size < 1 or not self.first:
            raise UserError(f"{path} has no vectors: each line should be a word and its numbers, with spaces between")
        self.whole = not any(is_number(x, False) for line in self.first for x in line.split()[-self.size :])

    def read(self) -> Vectors:
        words: list[str] = []
        tables = [np.zeros((1, self.size), np.float32)]
        told = "" if self.said == 0 else f" of {self.said:,}"
        with tqdm(desc=f"{self.path.name}{told}", unit=" words", disable=not sys.stderr.isatty()) as bar:
            for found, table in self.tables():
                words += found
                tables.append(table)
                bar.update(len(found))
        if self.said and len(words) < min(self.said, self.most):
            raise UserError(f"{self.path} ends after {len(words):,} of {self.said:,} words: get the whole file")
        return Vectors(words, np.concatenate(tables))

    def tables(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Words and vectors of block after block; NumPy works on some in threads while others are read."""
        waiting: deque[Future[tuple[list[str], np.ndarray]]] = deque()
        block, left = self.first, self.most
        with ThreadPoolExecutor(THREADS) as pool:
            while (block and left > 0) or waiting:
                while block and left > 0 and len(waiting) < 2 * THREADS:
                    block = block[:left]
                    waiting.append(pool.submit(self.parsed, block, self.line + 1))
                    self.line, left = self.line + len(block), left - len(block)
                    block = self.lines()
                yield waiting.popleft().result()

    def lines(self) -> list[bytes]:
        """Some more lines, without what ends them; none at the end. Faster than to ask for each."""
        block = self.stream.read(BLOCK)
        block += self.stream.readline()
        return block.removesuffix(b"\n").split(b"\n") if block else []

    def parsed(self, lines: list[bytes], first: int) -> tuple[list[str], np.ndarray]:
        """The words of some lines, of which `first` is the number of the first, and their vectors, float32 [N, D]."""
        parts = [line.partition(b" ") for line in lines]
        body = b"\n".join(rest for _, _, rest in parts) + b"\n"
        if lines[0].endswith((b"\r", b" ")):  # and so, most likely, the others
            body = body.replace(b"\r\n", b"\n").replace(b" \n", b"\n")
        table = decimals(body, self.size)
        if table is None or len(table) != len(lines):  # one by one: slower, but any number, and it knows the line
            rows = [self.row(line, number) for number, line in enumerate(lines, first)]
            words, table = [word for word, _ in rows], np.array([numbers for _, numbers in rows])
        else:
            words = [self.word(word, number) for number, (word, _, _) in enumerate(parts, first)]
        with np.errstate(over="ignore"):
            small = table.astype(np.float32)
        if not np.isfinite(small).all():
            bad = int(np.flatnonzero(~np.isfinite(small).all(1))[0])
            raise UserError(f"{self.path}, line {first + bad}: {words[bad]!r} has {NOT_FINITE}")
        return words, small

    def word(self, word: bytes, number: int) -> str:
        try:
            return clean(word.decode())
        except UnicodeDecodeError as error:
            wrong = f"byte 0x{word[error.start]:02x} is not UTF-8"
            raise UserError(f"{self.path}, line {number}: {wrong}; save the file as UTF-8") from None

    def row(self, line: bytes, number: int) -> tuple[str, list[float]]:
        """A word, in which there may be spaces, and its D numbers."""
        there = f"{self.path}, line {number}"
        word, *numbers = line.strip().rsplit(None, self.size) or [b""]
        if not word:
            raise UserError(f"{there}: the line is empty; delete it")
        try:
            found = [float(x) for x in numbers]
        except ValueError as error:
            raise UserError(f"{there}: {files.reason(error)}; each word should have {self.size} numbers") from None
        if len(found) < self.size or (len(word.split()) > 1 and is_number(word.split()[-1], self.whole)):
            surplus = takewhile(lambda x: is_number(x, self.whole), reversed(word.split()[1:]))
            has = len(found) + len(list(surplus))
            raise UserError(f"{there}: the vector has {has} numbers, others have {self.size}; get the whole file")
        return self.word(word, number), found


NOT_FINITE = "a number that is not finite; get another file"


def is_number(text: bytes, whole: bool) -> bool:
    """Whether it is a number as vectors have them: where they are not `whole` it has a point or an exponent.

    There a word with spaces, such as "windows 95", may end in a whole number.
    """
    try:
        return (whole or b"." in text or b"e" in text.lower()) and bool(np.isfinite(float(text)))
    except ValueError:
        return False


def decimals(body: bytes, columns: int) -> np.ndarray | None:
    """Lines of plain decimals as a table, float64 [N, columns], each number as float() reads it; None if it cannot be.

    A plain decimal is [-]W.F with 1 to 7 digits in W and 1 to 8 in F; there is one space between two, \\n ends a line.
    Its digits are 15 at most, so that both sides of (W F) / 10^len(F) are exact and the division rounds once, as
    float() does (Clinger 1990). Eight digits at a time become a number with three multiplications (Lemire, "Quickly
    parsing eight digits", 2018).
    """
    text = np.frombuffer(PADDING + body, np.uint8)
    marks = np.flatnonzero((text <= 32) | (text == 46))
    count = len(marks) // 2
    if not count or len(marks) % 2 or count % columns:
        return None
    dots, ends = marks[0::2].copy(), marks[1::2].copy()  # which lie one beside the other: faster than to step over
    low = np.count_nonzero(text < 48)  # points, what ends a number, and signs
    lines = np.count_nonzero(text == 10) * columns == count and bool((text[ends[columns - 1 :: columns]] == 10).all())
    if not lines or np.count_nonzero(text == 46) != count or (text.take(dots) != 46).any():
        return None
    if np.count_nonzero(text == 32) != count - count // columns:  # tabs
        return None
    before = np.empty_like(ends)
    before[0] = len(PADDING) - 1
    before[1:] = ends[:-1]
    negative = text.take(before + 1) == 45
    wholes, fractions = dots - before - 1 - negative, ends - dots - 1
    if wholes.min() < 1 or wholes.max() > 7 or fractions.min() < 1 or fractions.max() > 8:
        return None
    if low != 2 * count + np.count_nonzero(negative) or text.max() > 57:
        return None
    found = text.take(dots - 1) - 48.0 if wholes.max() == 1 else digits(text, dots, wholes)
    found *= TENS.take(fractions)
    found += digits(text, ends, fractions)
    found /= SIGNED.take(fractions + 9 * negative)
    return found.reshape(-1, columns)


TENS = 10.0 ** np.arange(9)
SIGNED = np.concatenate([TENS, -TENS])
SHIFTS = {size: (8 * size - 8 * np.arange(size + 1)).astype(f"u{size}") for size in (4, 8)}
# Of two numbers beside each other, of so many bits, the first times 10, 100 or 10,000 and the second are added up.
ROUNDS = (((1 << 8) * 10 + 1, 8, 0x00FF00FF00FF00FF), ((1 << 16) * 100 + 1, 16, 0x0000FFFF0000FFFF))
LAST_ROUND = ((1 << 32) * 10_000 + 1, 32, 0x00000000FFFFFFFF)


def digits(text: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The whole numbers that stand before `ends` [N], of 1 to 8 digits each: float64 [N]."""
    size = 4 if counts.max() <= 4 else 8  # bytes that are looked at: the last digit is the highest
    found = np.ndarray((len(text) - size + 1,), f"<u{size}", text, strides=(1,))[ends - size]
    u, all_bits = found.dtype.type, (1 << 8 * size) - 1
    shift = SHIFTS[size].take(counts)
    found >>= shift  # what stands before the digits goes, and becomes 0
    found <<= shift
    found &= u(0x0F0F0F0F0F0F0F0F & all_bits)
    for factor, bits, mask in ROUNDS if size == 4 else (*ROUNDS, LAST_ROUND):
        found *= u(factor)
        found >>= u(bits)
        found &= u(mask & all_bits)
    return found.astype(np.float64)
