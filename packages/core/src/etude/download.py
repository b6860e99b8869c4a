"""Where data sets are kept, and how a published file gets there: fetched once, checked, under its name only when whole.

The transfer is written here, on urllib, and not on pooch: pooch cannot resume, and a downloader of our own plugged into
it would leave it nothing to do but the comparison of two hashes.

No state is kept but the bytes themselves, in `FILE.part`. That they still belong to what the server now has is for the
hash of the whole to say; an ETag would be a second file to keep, and differs between mirrors of the same bytes.
"""

import errno
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from etude.errors import UserError

PATIENCE = 30.0  # seconds without a byte before a download is given up
BLOCK = 1 << 18  # bytes
PARALLEL = 16  # small files that are fetched at a time


def root() -> Path:
    """Where data sets are kept: $ETUDE_DATA, else `etude` in the user's cache folder."""
    if given := os.environ.get("ETUDE_DATA"):
        return at_home(given)
    return cache()


def cache() -> Path:
    """Where is kept what can be made again: `etude` in the user's cache folder, which may be emptied at any time.

    A user without a home folder, as in a container that runs under any user's number, has `cache` in $ETUDE_DATA.
    Raises UserError if that is not set either.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return at_home(given) / "etude"
    try:
        return Path.home() / ".cache" / "etude"
    except RuntimeError:
        if given := os.environ.get("ETUDE_DATA"):
            return at_home(given) / "cache"
        message = "this user has no home folder to keep data in: set ETUDE_DATA to a folder that can be written"
        raise UserError(message) from None


def at_home(given: str) -> Path:
    """A folder that the user gives, ~ being home. Raises UserError if there is no such home."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"{given!r}: there is no such home folder: give the folder's whole path") from None


def fetch_all(files: Sequence[tuple[str, Path]], what: str) -> dict[Path, str]:
    """Every file from its (url, file), several at a time, with one bar; those that are there are not fetched again.

    A file has to have the length that its server says; an interrupted one is gone on with by the next call. What could
    not be had is returned, with the reason; `what` names all of them for a person. Raises UserError if the disk is full
    or cannot be written, and if nothing at all can be had: then it gives up after the first few.
    """
    failed: dict[Path, str] = {}
    had = 0

    def one(url: str, file: Path) -> None:
        fetch(url, file, None, file.name, quiet=True)

    where = os.path.commonpath([file.parent for _, file in files])
    print(f"fetching {len(files):,} {what} to {where}", file=sys.stderr)
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = {pool.submit(one, url, file): (url, file) for url, file in files}
        try:
            for job in tqdm(as_completed(jobs), what, len(jobs), unit="file", disable=not sys.stderr.isatty()):
                url, file = jobs[job]
                error = job.exception()
                if error is None:
                    had += 1
                elif not isinstance(error, UserError) or local(error.__cause__):
                    raise error
                else:
                    failed[file] = reason(error.__cause__ if isinstance(error.__cause__, Exception) else error)
                if not had and len(failed) >= min(len(files), 2 * PARALLEL):
                    raise UserError(
                        f"{what} could not be downloaded, such as {url} ({failed[file]}); "
                        "run it again, or use --data sample"
                    )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def local(error: BaseException | None) -> bool:
    """Whether the fault is on this side, so that no other file would fare better."""
    faults = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    return isinstance(error, OSError) and error.errno in faults


def fetch(url: str, file: Path, digest: str | None, what: str, quiet: bool = False) -> Path:
    """`file`, fetched from `url` first if it is not there; what is there is used as it is, so it may be put by hand.

    `digest` is the file's SHA-256 in hexadecimal, or "md5:" and its MD5; None if nobody published one: then it has to
    have the length that the server says, and whoever reads it checks what is in it. `what` names it for a person. An
    interrupted transfer leaves `file.part`, which the next call goes on with. Processes that want the same file wait
    for the first. It says on stderr what it does, unless it is to be `quiet`.

    Raises UserError if it cannot be had, or is not what `digest` says.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while not file.exists():
            with part.open("ab") as out:
                lock(out, what)
                if not part.exists() or not os.path.samestat(os.fstat(out.fileno()), part.stat()):
                    continue  # while we waited, the lock's holder renamed these bytes to `file`, or threw them away
                if file.exists():  # since the loop looked
                    part.unlink()
                else:
                    if not quiet:
                        print(f"fetching {what} from {url} to {file}", file=sys.stderr)
                    complete(part, out, url, file, digest, what, quiet)
                    part.replace(file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror or error}); set ETUDE_DATA to another folder"
        ) from error
    return file


def lock(out: BinaryIO, what: str) -> None:
    """Wait until no other process has the lock on this file; closing it gives the lock back, and so does a crash."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that fetches {what}", file=sys.stderr)
        fcntl.flock(out, fcntl.LOCK_EX)


def complete(
    part: Path, out: BinaryIO, url: str, file: Path, digest: str | None, what: str, quiet: bool = False
) -> None:
    """Bring `part`, open as `out`, to the whole file; after a UserError nothing is left, or what can be resumed."""
    try:
        while True:
            had = out.seek(0, os.SEEK_END)
            total = transfer(url, out, what, quiet)
            wrong = fault(part, digest, total)
            if not wrong:
                os.fsync(out.fileno())
                return
            out.truncate(0)
            if not had:  # else the first bytes may have been of another version: once more, from the start
                raise HTTPException(wrong)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{what} could not be downloaded from {url} ({reason(error)}); "
            f"run it again, use --data sample, or put the file at {file} by hand"
        ) from error
    finally:
        if not out.seek(0, os.SEEK_END):
            part.unlink(missing_ok=True)


def fault(part: Path, digest: str | None, total: int | None) -> str:
    """What is wrong with what was transferred; "" if it has the `digest` or, without one, the `total` length."""
    if digest is None:
        size = part.stat().st_size
        if total is None:
            return "the server does not say how long it is"
        return "" if size == total else f"it has {size:,} bytes, not {total:,}"
    kind, _, wanted = digest.rpartition(":")
    with part.open("rb") as whole:
        got = hashlib.file_digest(whole, kind or "sha256").hexdigest()
    return "" if got == wanted.lower() else f"its {kind or 'sha256'} is {got}, not {wanted}"


def transfer(url: str, out: BinaryIO, what: str, quiet: bool = False) -> int | None:
    """Append to `out` what the server has after the bytes that are there, or all of it if it only sends all.

    Returns the length of the whole in bytes, if the server says it. The range request is that of RFC 9110, section 14.
    Raises OSError or HTTPException; what came until then is kept.
    """
    have = out.seek(0, os.SEEK_END)
    try:
        answer = urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=PATIENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing follows: it had been interrupted after the last byte
            span = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            return int(span[1]) if span else None
        raise
    with answer:
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if answer.status == 206:
            span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not span or int(span[1]) != have:
                out.truncate(0)
                raise HTTPException("the server sent another part than it was asked for")
            total = total if span[2] == "*" else int(span[2])
        elif have:
            out.truncate(0)
            total = None if total is None else total - have
            have = 0
        off = quiet or not sys.stderr.isatty()
        bar = tqdm(total=total, initial=have, desc=what, unit="B", unit_scale=True, disable=off)
        with bar:
            while block := answer.read1(BLOCK):
                out.write(block)
                have += len(block)
                bar.update(len(block))
    out.flush()
    if total is not None and have < total:
        raise HTTPException(f"it ended after {have:,} of {total:,} bytes")
    return total


def reason(error: Exception) -> str:
    """One line about what went wrong."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError) and isinstance(error.reason, Exception):
        return reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"no byte for {PATIENCE:g} s"
    return " ".join(str(error).split()) or type(error).__name__
