"""The lines of text files, where only \\n and \\r\\n end a line, and what is not UTF-8 is named by its line."""

from collections.abc import Iterator
from typing import BinaryIO

from etude.errors import UserError


def decoded(name: str, stream: BinaryIO) -> Iterator[str]:
    """The lines of a UTF-8 stream with what ends them, \\n, but without a BOM.

    Raises UserError with the byte and the line; `name` stands for the stream in it.
    """
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            message = f"{name}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise UserError(message) from error
        if number == 1:
            text = text.removeprefix("\ufeff")
            if not text:
                continue
        yield text


def stripped(name: str, stream: BinaryIO) -> Iterator[str]:
    """The same lines without their ends."""
    return (line.removesuffix("\n").removesuffix("\r") for line in decoded(name, stream))
