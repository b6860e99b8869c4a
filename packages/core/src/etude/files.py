"""Files as users and runs need them written and read, and the standard streams.

A regular file is replaced by renaming, so that it holds either the old or the new content, whenever the machine stops.
What else a path may name, such as a link, a pipe or a device, stays what it is and is written through. What a file
system does not offer (syncing a folder, locks) is done without; any other failure is told.
"""

import codecs
import errno
import io
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from etude.errors import UserError

# How a file system says that it does not offer something: shared folders of virtual machines, old CIFS, some FUSE.
ABSENT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(file: Path, data: bytes | memoryview, before: Path | None = None) -> None:
    """Writes a file so that after a crash at any moment either the old or the new content is there, never a mixture.

    With `before` the old file is kept under that name. It keeps its permissions, and a link its place. Raises OSError.
    """
    try:
        old = file.stat()
    except FileNotFoundError:
        old = None
    if old and (not stat.S_ISREG(old.st_mode) or file.parts[:2] in (("/", "dev"), ("/", "proc"))):  # /dev/stdout
        return through(file, data)
    if old and not os.access(file, os.W_OK):  # which renaming over it would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    target = Path(os.path.realpath(file)) if file.is_symlink() else file
    # Short, as the file's own name may be as long as a name can be; random, as threads may write the same file.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as out:
            if old:
                with suppress(OSError, AttributeError):  # a file system, or Windows, without owners
                    os.chown(temporary, old.st_uid, old.st_gid)
                with suppress(OSError):
                    temporary.chmod(stat.S_IMODE(old.st_mode))
            out.write(data)
            sync(out)
        if before and old:
            target.replace(before)
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return sync_folder(target.parent)


def through(file: Path, data: bytes | memoryview) -> None:
    """Adds to what is there, such as a pipe: what stands in it is not cut off."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Unsaid, ValueError):
            stream.flush()  # what was said before comes before it, if this is the same stream
    with file.open("ab") as out:
        out.write(data)
        sync(out)


def sync(out: IO[Any]) -> None:
    """Makes sure that what was written survives a power failure, where that can be made sure."""
    out.flush()
    with offered():
        os.fsync(out.fileno())


def sync_folder(folder: Path) -> None:
    """The names in a folder survive a power failure, where that can be made sure: Windows opens no folder."""
    with offered():
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def offered() -> Iterator[None]:
    """Does without what a file system does not offer."""
    try:
        yield
    except OSError as error:
        if error.errno not in ABSENT:
            raise


def put(out: str | Path, content: bytes, remedy: str = "give --out a file in a folder that exists") -> None:
    """Writes what the user asked for, whole or not at all, to their path; "-" is standard output. Raises UserError."""
    if str(out) == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    with reported(f"cannot write {str(out)!r}", remedy):
        write(given(out), content)


@contextmanager
def reported(attempt: str, remedy: str) -> Iterator[None]:
    """Makes an OSError a UserError: `attempt`, such as "cannot write the report", what was wrong, then the remedy."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) not in attempt else ""
        raise UserError(f"{attempt}: {why(error)}{where}; {remedy}") from error


def why(error: OSError) -> str:
    """What was wrong with a file, in words, without its name."""
    words = {
        errno.EEXIST: "it is not a folder",
        errno.ENOENT: "there is no such folder",
        errno.ENOTDIR: "what should be its folder is a file",
        errno.EISDIR: "it is a folder",
        errno.ENAMETOOLONG: "its name is too long",
        errno.EPIPE: "its reader has gone",
        errno.ELOOP: "its links go in a circle",
    }
    return words.get(error.errno or 0) or error.strerror or reason(error)


def given(path: str | Path) -> Path:
    """A path that the user gave. Raises UserError for what can be the name of nothing."""
    text = os.fspath(path)
    wrong = "" if text.strip() else "give the name of a file or folder"
    try:
        os.lstat(text)
    except ValueError:
        wrong = "no name can contain one of its characters"
    except OSError as error:
        wrong = "it is too long; give a shorter one" if error.errno == errno.ENAMETOOLONG else wrong
    if wrong:
        raise UserError(f"{shortened(text)!r} is not a path: {wrong}")
    return Path(text)


def is_address(text: str) -> bool:
    """Whether this is an address, such as s3://bucket/folder, and not a path, as C://folder is."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def lock(stream: IO[Any], wait: str = "") -> None:
    """Holds an open file against other processes, until it is closed; where there are no locks, a line says so.

    Raises BlockingIOError if another process holds it; with `wait` it says that instead, and waits.
    """
    import filelock  # its own imports take longer than `--help`

    try:
        if not filelock.lock_descriptor(stream.fileno(), blocking=False):
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), stream.name)
            print(wait, file=sys.stderr)
            filelock.lock_descriptor(stream.fileno())
    except OSError as error:
        if error.errno not in (*ABSENT, errno.ENOLCK):
            raise
        print(f"{stream.name}: there are no locks here: see that no other process works in its folder", file=sys.stderr)


@contextmanager
def alone(claim: Path, wait: str) -> Iterator[None]:
    """Nobody else is in here at the same time with this `claim`, a file that is made for it and removed afterwards."""
    while True:
        with claim.open("ab") as held:
            lock(held, wait)
            if not claim.exists() or not os.path.samestat(os.fstat(held.fileno()), claim.stat()):
                continue  # while we waited, its holder removed it
            try:
                yield
            finally:
                if os.name == "nt":
                    held.close()  # only then can it be removed, unless another waits for it, who will do so
                with suppress(PermissionError):
                    claim.unlink(missing_ok=True)
            return


def read_json(file: Path, kind: type[dict[str, Any]] | type[list[Any]], remedy: str, needs: Mapping[str, Any]) -> Any:
    """A JSON file of a run folder, None if it is not there: an object that has what it `needs`, or a list of such.

    `needs`: the types of its keys. Raises UserError, with `remedy`, if it is anything else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it is not a JSON {'object' if kind is dict else 'list'}")
        for one in found if isinstance(found, list) else [found]:
            if not isinstance(one, dict):
                raise ValueError("it is not a list of objects")
            if lacks := next((key for key, types in needs.items() if not isinstance(one.get(key), types)), None):
                raise ValueError(f"it lacks {lacks!r}, or has it in another form")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({reason(error)}): {remedy}") from None
    return found


def reason(error: BaseException) -> str:
    """An error of any library in one line of at most 200 characters, without the calls in C++ that torch adds."""
    return shortened(" ".join(str(error).partition("Exception raised from")[0].split()) or type(error).__name__)


def shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def encode(text: str) -> bytes:
    """UTF-8; what can be none is the byte that it stands for in a file's name, else a backslash and digits."""
    return text.encode("utf-8", register())


def register() -> str:
    """The name of a handler of errors with which any text can be encoded, and what it was can be seen."""

    def handle(error: UnicodeError) -> tuple[str | bytes, int]:
        try:
            return codecs.lookup_error("surrogateescape")(error)
        except UnicodeError:
            return codecs.backslashreplace_errors(error)

    codecs.register_error("etude", handle)
    return "etude"


class Unsaid(Exception):
    """A standard stream could not be written: the reader has gone, the disk is full. No OSError, to be no file's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.gone = error.errno in (errno.EPIPE, errno.EINVAL)  # the latter on Windows


class Said(io.FileIO):
    """A standard stream or log, which raises Unsaid if it cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise Unsaid(error) from None


def mend_streams() -> None:
    """Lets the standard streams take any character, and raise Unsaid for what cannot be written.

    Those that this process was started without it is given: else a file that is opened later would be stream 1 or 2.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
        empty = Path(os.devnull)
        sys.stdin = sys.stdin or empty.open(encoding="utf-8")
        sys.stdout = sys.stdout or empty.open("w", encoding="utf-8")
        sys.stderr = sys.stderr or empty.open("w", encoding="utf-8")
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        raw = getattr(stream.buffer, "raw", stream.buffer)  # with `python -u` there is no buffer between
        if isinstance(raw, io.FileIO) and not isinstance(raw, Said) and raw.fileno() == number:
            buffer = io.BufferedWriter(Said(number, "wb", closefd=False))
            lines = stream.line_buffering or stream.write_through
            stream = io.TextIOWrapper(buffer, stream.encoding, line_buffering=lines)
            setattr(sys, name, stream)
        stream.reconfigure(errors=register())


def is_closed(stream: TextIO) -> bool:
    """Whether this process was started without the stream, so that nobody reads what is written there."""
    return str(getattr(stream, "name", "")) == os.devnull


def give_up_what_is_unsaid() -> None:
    """Nothing more goes to a stream that does not take what waits; else Python would try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (Unsaid, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, "wb") as empty:
                os.dup2(empty.fileno(), stream.fileno())


def open_log(file: Path) -> TextIO:
    """A log, to be added to; every write is out when it returns, or raises Unsaid."""
    return io.TextIOWrapper(Said(file, "ab"), "utf-8", register(), write_through=True)
