"""Where text comes in: lines of UTF-8 files and of standard input, in one form of Unicode.

What looks the same should be the same: text is in Unicode's normal form C (NFC, UAX #15; compatibility characters stay
as they are), without characters that nobody sees. Only \\n and \\r\\n end a line. What cannot be read is told with its
line.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO
from unicodedata import is_normalized, normalize

import regex

from etude import files
from etude.errors import UserError

# Characters without width or ink (Unicode's default ignorables): soft hyphen, zero-width space, byte-order mark, marks
# of direction. Variant selectors (emoji) and tags (flags) show in what stands before them, and a joiner or non-joiner
# between letters that join (Persian, Hindi) or between emoji: these stay.
UNSEEN = regex.compile(
    r"""[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]
    | [\u200c\u200d] (?! [\p{L}\p{M}\p{Extended_Pictographic}] )
    | (?<! [[\p{L}\p{M}\p{Emoji_Modifier}\p{Extended_Pictographic}\ufe0f\U000e007f]
            --[\p{Latin}\p{Cyrillic}\p{Greek}\p{Armenian}\p{Georgian}\p{Hebrew}\p{Han}\u0300-\u036f]] ) [\u200c\u200d]
    """,
    regex.VERBOSE | regex.V1,
)
CLUSTER = regex.compile(r"\X")  # what people take for a character: nothing is composed across its ends
SURROGATE = re.compile("[\ud800-\udfff]")
UNUSUAL = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
HALVES = "\0\x04"  # of the letters of Latin and Cyrillic in UTF-16, where there is no mark of its bytes' order
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def clean(text: str) -> str:
    """The text in NFC without what is not seen, and with U+FFFD for each lone surrogate, which no file can hold."""
    if text.isascii():
        return text
    if UNUSUAL.search(text):
        text = SURROGATE.sub("\ufffd", UNSEEN.sub("", text))
    return text if is_normalized("NFC", text) else normalize("NFC", text)


def spans(text: str) -> list[tuple[int, int]]:
    """For each character of `clean(text)` where it stands in `text`: from, to."""
    gone = {place for found in UNSEEN.finditer(text) for place in range(*found.span())}
    kept = [place for place in range(len(text)) if place not in gone]
    found: list[tuple[int, int]] = []
    for cluster in CLUSTER.finditer(SURROGATE.sub("\ufffd", "".join(text[place] for place in kept))):
        first, last = kept[cluster.start()], kept[cluster.end() - 1] + 1
        count = len(normalize("NFC", cluster[0]))
        edges = [*(min(first + n, last) for n in range(count)), last]  # letter and marks may be composed, or not
        found += pairwise(edges)
    return found


def decoded(name: str, stream: BinaryIO, as_written: bool = False) -> Iterator[str]:
    """The lines of a UTF-8 stream with what ends them, \\n, but without a BOM; `clean`, or as they are written.

    Raises UserError with the line for what is no text; `name` stands for the stream in it.
    """
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            what = "not UTF-8, but UTF-16" if number == 1 and line.startswith(UTF16) else "not UTF-8"
            wrong = f"byte 0x{line[error.start]:02x} is {what}; save the file as UTF-8"
            raise UserError(f"{name}, line {number}: {wrong}") from error
        if number == 1:
            if len(text) > 7 and sum(map(text.count, HALVES)) > 0.45 * len(text):
                raise UserError(f"{name}, line 1: every other byte is 0 or 4, as in UTF-16; save the file as UTF-8")
            text = text.removeprefix("\ufeff")
            if not text:
                continue
        yield text if as_written else clean(text)


def standard_input() -> BinaryIO:
    """Raises UserError if it is closed."""
    stream = None if sys.stdin is None or files.is_closed(sys.stdin) else sys.stdin.buffer
    if stream is None or stream.closed:
        raise UserError("standard input is closed; pipe something into it, or give a file")
    return stream


def lines(path: str | Path, remedy: str, as_written: bool = False) -> Iterator[str]:
    """What `decoded` gives of a file; "-" is standard input. Raises UserError if it cannot be read, with the remedy."""
    try:
        if str(path) == "-":
            yield from decoded("standard input", standard_input(), as_written)
        else:
            with open(path, "rb") as stream:
                yield from decoded(str(path), stream, as_written)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:  # a path with a NUL character
        raise UserError(f"{str(path)!r} cannot be read ({error}); {remedy}") from error


def ended(lines: Iterable[str]) -> Iterator[str]:
    """The same lines without what ends them, \\n or \\r\\n."""
    return (line.removesuffix("\n").removesuffix("\r") for line in lines)
