"""CoNLL-U, read fast and written: https://universaldependencies.org/format.html

A file is read in blocks of a MB or so that end with an empty line. numpy finds the tabs and line ends of a block and
checks its form as a whole; Python only looks up its forms, tags and features. A block in which anything
is not plain goes through `slowly`, line by line, which gives the same numbers, or the error with its line.

Of a line the columns ID, FORM, UPOS and FEATS are read; the bytes of the others, and of comments, are not judged.
"""

import re
import zlib
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import BinaryIO

import numpy as np

from etude.errors import UserError
from etude.text.lines import UTF16, clean

BLOCK = 1 << 20  # bytes of text that are read at a time: the arrays of a block stay in the processor's cache
LONGEST = 1 << 26  # bytes without an empty line after which this is no CoNLL-U file
COLUMNS = 10
KNOWN = 1 << 18  # different lines that are remembered; the memory for more would grow with the file
PACKED = 1 << 17  # bytes of a compressed file that are read at once
TAB, LF, HASH, ZERO, SPACE = b"\t\n#0 "
NEWDOC = re.compile(rb"#[ \t]*newdoc(?:\s|$)")
NUMBER = re.compile(rb"[1-9][0-9]{0,8}")
RANGE = re.compile(rb"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})")  # a multiword token
EMPTY = re.compile(rb"(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")  # an empty node
MAX_TAGS = 255  # a tag's number is a uint8


@dataclass(frozen=True)
class Chunk:
    """The T words and S sentences of one block."""

    word_ids: np.ndarray  # int32 [T]
    tag_ids: np.ndarray  # uint8 [T]
    feat_ids: np.ndarray  # int32 [T]
    lengths: np.ndarray  # int64 [S], words of each sentence
    firsts: np.ndarray  # bool [S], true where a document begins


def ahead(stream: "BinaryIO | Unpacked") -> Generator[bytes]:
    """What `read` gives, the next of it read in a thread meanwhile: zlib does not hold the interpreter.

    Close it: its thread ends with it, and should not be left to the garbage collector to wait for.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(stream.read, BLOCK)
        while data := coming.result():
            coming = pool.submit(stream.read, BLOCK)
            yield data


class Malformed(Exception):
    """What is wrong with a line, and the remedy; where it is, is added by who knows."""


class Table(dict[bytes, int]):
    """What stands in a column -> the number of its text, in the order of first appearance.

    What looks the same is the same (`etude.text.lines.clean`), unless texts are to stay `as_written`.
    """

    def __init__(self, as_written: bool = False) -> None:
        super().__init__()
        self.as_written = as_written

    def __missing__(self, content: bytes) -> int:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8") from error
        self.judge(content)
        plain = text if self.as_written else clean(text) or text  # a word that nobody sees is one all the same
        if plain != text:
            return self[plain.encode()]
        self[content] = len(self)
        return self[content]

    def judge(self, content: bytes) -> None:
        if not content:
            raise Malformed("column FORM is empty; write the word there")


class Tags(Table):
    def __init__(self, needed: bool) -> None:
        super().__init__()
        self.needed = needed  # every word has to have one

    def judge(self, content: bytes) -> None:
        if not content or (content == b"_" and self.needed):
            raise Malformed("the word has no tag in column UPOS; tag it, or leave its sentence out")
        if len(self) == MAX_TAGS:
            raise Malformed(f"more than {MAX_TAGS} different tags in column UPOS; is it the right column?")


class Feats(Table):
    def judge(self, content: bytes) -> None:
        if not content:
            raise Malformed("column FEATS is empty; write _ where nothing is known")


class Lines(dict[bytes, int]):
    """The columns FORM to FEATS, as they stand side by side -> a number; by that those of form, tag and feats."""

    def __init__(self, words: Table, tags: Tags, feats: Feats) -> None:
        super().__init__()
        self.tables = words, tags, feats
        self.words, self.tags, self.feats = array("i"), array("B"), array("i")

    def __missing__(self, columns: bytes) -> int:
        form, _, tag, _, feats = columns.split(b"\t")
        words, tags, all_feats = self.tables
        numbers = tags[tag], all_feats[feats], words[form]
        self.tags.append(numbers[0])
        self.feats.append(numbers[1])
        self.words.append(numbers[2])
        self[columns] = len(self)
        return self[columns]


class Reader:
    """Reads one file; the tables grow with every chunk.

    A comment `# newdoc` begins a document at the next sentence. Before the first one, and so in a file without any,
    every sentence is a document of its own. Multiword tokens and empty nodes are left out: what remains are the
    syntactic words, numbered 1, 2, ... in each sentence.
    """

    def __init__(self, where: str, documents: int = 0, tagged: bool = True) -> None:
        """`where` names the file in errors; reading stops after so many `documents`, 0 reads all.

        Unless they are `tagged`, words may have `_` in column UPOS, and stay as they are written.
        """
        self.where = where
        self.wanted = documents
        self.words, self.tags, self.feats = Table(as_written=not tagged), Tags(tagged), Feats()
        self.lines = Lines(self.words, self.tags, self.feats)
        self.line = 1  # number of the next block's first line
        self.begun = 0  # documents
        self.named = False  # a `# newdoc` has been seen
        self.opening = False  # ... after the last sentence
        self.over = False  # all documents that were asked for are there

    def chunks(self, stream: "BinaryIO | Unpacked") -> Iterator[Chunk]:
        """The text of `stream` (UTF-8; a BOM and CRLF are taken off), in pieces. Raises UserError."""
        with closing(ahead(stream)) as reading:
            for block in self.blocks(reading):
                chunk = self.fast(block) or self.slowly(block)
                if len(chunk.lengths):
                    yield chunk
                if self.over:
                    return
        if not self.begun:
            raise UserError(f"{self.where} holds no sentence; give a CoNLL-U file")

    def blocks(self, reading: Iterator[bytes]) -> Iterator[bytes]:
        """Whole sentences, each with its empty line; lines end in LF. The block's size is about `BLOCK`."""
        have: list[bytes] = []  # what no empty line has ended yet
        held = b""  # a CR at the end: whether it belongs to a line end, the next bytes say
        first, size = True, 0
        while True:
            try:
                data = next(reading, b"")
            except (OSError, EOFError, zlib.error) as error:
                line = self.line + sum(piece.count(b"\n") for piece in have)
                raise UserError(
                    f"{self.where}, after line {line}: it cannot be read on ({error}); get the file again"
                ) from error
            if not data:
                break
            data = held + (data.removeprefix(b"\xef\xbb\xbf") if first else data)
            if first and data.startswith(UTF16):
                raise UserError(
                    f"{self.where}, line 1: byte 0x{data[0]:02x} is not UTF-8, but UTF-16; save the file as UTF-8"
                )
            first = False
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)]
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n")
            if have and have[-1].endswith(b"\n"):  # an empty line may lie across the seam
                data, size = b"\n" + data, size - 1
                have[-1] = have[-1][:-1]
            end = data.rfind(b"\n\n") + 2
            if end > 1:
                yield b"".join([*have, data[:end]])
                have, size = [], 0
                data = data[end:]
            have.append(data)
            size += len(data)
            if size > LONGEST:
                line, text = self.line, b"".join(have)
                self.slowly(text[: text.rfind(b"\n") + 1] or text)  # which knows what is wrong, as a rule
                raise UserError(
                    f"{self.where}, line {line}: no empty line in the next {size >> 20} MB; give a CoNLL-U file"
                )
        if text := b"".join([*have, held]):
            yield text.removesuffix(b"\r") + b"\n\n"

    def fast(self, block: bytes) -> Chunk | None:
        """A block in which all is plain; None, with nothing counted, if anything is not."""
        if len(self.lines) > KNOWN:
            self.lines = Lines(self.words, self.tags, self.feats)
        text = np.frombuffer(block, np.uint8)
        marks = np.flatnonzero(text <= LF)
        kinds = text[marks]
        ends, tabs = marks[kinds == LF], marks[kinds == TAB]
        starts = np.concatenate([[0], ends[:-1] + 1])
        comment = text[starts] == HASH
        blank = starts == ends
        rows = np.flatnonzero(~(comment | blank))
        if len(tabs) != len(rows) * (COLUMNS - 1) or not len(rows):
            return None
        tabs = tabs.reshape(-1, COLUMNS - 1)
        starts_of, ends_of = starts[rows], ends[rows]
        if (tabs[:, 0] <= starts_of).any() or (tabs[:, -1] >= ends_of).any():
            return None  # or some of the tabs are in other lines
        begin = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # the first word of each sentence
        lengths = np.diff(begin, append=len(rows))
        if not blank[rows[begin] + lengths].all():  # the line after each sentence
            return None
        if not numbered(text, starts_of, tabs[:, 0], np.arange(1, len(rows) + 1) - np.repeat(begin, lengths)):
            return None
        opened = np.searchsorted(rows[begin], self.newdocs(block, text, starts[comment], np.flatnonzero(comment)))
        firsts = np.zeros(len(begin) + 1, bool)  # the last: a document that begins with the next block
        firsts[opened] = True
        firsts[0] |= self.opening
        if not self.named:
            firsts[: opened[0] if len(opened) else len(begin)] = True
        kept = len(begin)
        if self.wanted and self.begun + firsts[:-1].sum() > self.wanted:
            kept = int(np.flatnonzero(firsts)[self.wanted - self.begun])
        n = int(lengths[:kept].sum())
        try:
            between = zip((tabs[:n, 0] + 1).tolist(), tabs[:n, 5].tolist(), strict=True)
            numbers = np.fromiter(map(self.lines.__getitem__, [block[a:b] for a, b in between]), np.int32, n)
        except Malformed:
            return None
        self.line += len(ends)
        self.named |= len(opened) > 0
        self.opening = bool(firsts[-1])
        self.begun += int(firsts[:kept].sum())
        self.over = kept < len(begin)
        of = self.lines
        words, tags, feats = (np.frombuffer(x, x.typecode)[numbers] for x in (of.words, of.tags, of.feats))
        return Chunk(words, tags, feats, lengths[:kept], firsts[:kept])

    def newdocs(self, block: bytes, text: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The numbers of the lines, of those in `rows` that begin at `starts`, that begin a document."""
        second, third = (text[np.minimum(starts + i, len(text) - 1)] for i in (1, 2))
        maybe = (second == ord("n")) | (third == ord("n")) | (third == SPACE) | (second == TAB) | (third == TAB)
        found = [NEWDOC.match(block, start) is not None for start in starts[maybe].tolist()]
        return rows[maybe][np.array(found, bool)]

    def slowly(self, block: bytes) -> Chunk:
        """Any block, line by line. Raises UserError with the number of the line."""
        words: list[int] = []
        tags: list[int] = []
        feats: list[int] = []
        lengths: list[int] = []
        firsts: list[bool] = []
        length = upto = nodes = 0  # words of this sentence; end of the last range; empty nodes after this word
        inside = starting = False
        for line, content in enumerate(block.split(b"\n"), self.line):
            try:
                if not content:
                    if inside and not length:
                        raise Malformed("the sentence has no word; delete it")
                    if upto > length:
                        raise Malformed(f"the sentence ends before word {upto} of its last multiword token; mend it")
                    if inside:
                        lengths.append(length)
                    inside, length, upto = False, 0, 0
                    continue
                if content[0] == HASH:
                    if inside:
                        raise Malformed("a comment inside of a sentence; put an empty line before it")
                    if NEWDOC.match(content):
                        self.named = self.opening = True
                    continue
                if not inside:
                    starting = self.opening or not self.named
                    if starting and self.begun == self.wanted > 0:
                        self.over = True
                        break
                    inside, nodes = True, 0
                columns = content.split(b"\t")
                if len(columns) != COLUMNS:
                    raise Malformed(f"{len(columns)} columns instead of {COLUMNS}; separate them by single tabs")
                number, form = columns[:2]
                if not form:
                    raise Malformed("column FORM is empty; write the word there")
                if (span := RANGE.fullmatch(number)) and int(span[1]) == length + 1 > upto and int(span[2]) > length:
                    upto = int(span[2])
                    continue
                if (node := EMPTY.fullmatch(number)) and int(node[1]) == length and int(node[2]) == nodes + 1:
                    nodes += 1
                    continue
                if not NUMBER.fullmatch(number) or int(number) != length + 1:
                    raise Malformed(
                        f"the ID is {number[:20].decode(errors='replace')!r}, but word {length + 1} is due; "
                        "number the words from 1, and end a sentence with an empty line"
                    )
                tag, feat = self.tags[columns[3]], self.feats[columns[5]]
                word = self.words[form]
            except Malformed as error:
                raise UserError(f"{self.where}, line {line}: {error}") from error
            words.append(word)
            tags.append(tag)
            feats.append(feat)
            length += 1
            nodes = 0
            if length == 1:
                firsts.append(starting)
                self.begun += starting
                self.opening = False
        self.line = line
        numbers = np.array(words, np.int32), np.array(tags, np.uint8), np.array(feats, np.int32)
        return Chunk(*numbers, np.array(lengths, np.int64), np.array(firsts, bool))


def numbered(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether the bytes of `text` from each start to each end are the digits of each wanted number (>= 1)."""
    lengths = ends - starts
    if lengths.max() > 6 or (text[starts] == ZERO).any():
        return False
    value = np.zeros(len(starts), np.int64)
    for i in range(int(lengths.max())):
        more = np.flatnonzero(lengths > i) if i else slice(None)
        digit = text[starts[more] + i] - np.uint8(ZERO)  # wraps around: no digit gives more than 9
        if (digit > 9).any():
            return False
        value[more] = value[more] * 10 + digit
    return bool((value == wanted).all())


class Unpacked:
    """The text of a gzip file of any number of members; their lengths and CRCs are checked.

    gzip.GzipFile unpacks 8 KB at a time and takes the interpreter back after each, which it gets late where another
    thread is at work.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.rest, self.inside = file, b"", False

    def read(self, _: int) -> bytes:
        """Some more of it, about 1 MB; nothing at the end. Raises EOFError or zlib.error if the file is broken."""
        while data := self.rest or self.file.read(PACKED):
            if not self.inside:
                self.rest = b""
                data = data.lstrip(b"\0")  # which may fill up the space between members
                if not data:
                    continue
                self.member, self.inside = zlib.decompressobj(zlib.MAX_WBITS | 16), True
            text = self.member.decompress(data)
            self.rest, self.inside = self.member.unused_data, not self.member.eof
            if text:
                return text
        if self.inside:
            raise EOFError("the compressed file ends too early")
        return b""


def plain(file: BinaryIO) -> "BinaryIO | Unpacked":
    """The text of a file opened for reading, which may be compressed by gzip, whatever its name."""
    magic = file.read(2)
    file.seek(0)
    return Unpacked(file) if magic == b"\x1f\x8b" else file


def retagged(file: BinaryIO, tags: Iterable[str]) -> Iterator[str]:
    """The lines of a file, without their line ends, with other tags in column UPOS, one for each word in turn.

    Nothing else is changed. The file has to be one that `Reader` takes; bytes that are not UTF-8 become U+FFFD.
    """
    following = iter(tags)
    with closing(ahead(plain(file))) as reading:
        for block in Reader("").blocks(reading):
            for line in (block.rstrip(b"\n").decode("utf-8", "replace") + "\n").split("\n"):
                columns = line.split("\t")
                if NUMBER.fullmatch(columns[0].encode()) and len(columns) == COLUMNS:
                    columns[3] = next(following)
                yield "\t".join(columns)


def write(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]], texts: Iterable[str] | None = None, first: int = 1
) -> Iterator[str]:
    """The lines, without their line ends, of (words, tags) of each sentence; what is not known is `_`.

    The sentences are numbered from `first`. With the text of each sentence, in which its words stand in this order,
    SpaceAfter=No says where no space follows; else the words are joined by spaces. Tabs and line ends become spaces.
    Raises ValueError for what cannot be written.
    """
    pairs = zip(sentences, repeat(None)) if texts is None else zip(sentences, texts, strict=True)
    for number, ((words, tags), text) in enumerate(pairs, first):
        forms = [flat(word) for word in words]
        whole = " ".join(forms) if text is None else flat(text)
        yield f"# sent_id = {number}"
        yield f"# text = {whole.strip()}"
        at = 0
        for i, (form, tag) in enumerate(zip(forms, tags, strict=True), 1):
            if not form or tag in ("", "_"):
                raise ValueError(f"sentence {number}: word {i} is {form!r} with tag {tag!r}")
            at = whole.index(form, at) + len(form)
            apart = at == len(whole) or whole[at].isspace()
            yield "\t".join([str(i), form, "_", tag, *"_____", "_" if apart else "SpaceAfter=No"])
        yield ""


def flat(text: str) -> str:
    return re.sub(r"[\t\n\r]", " ", text)
