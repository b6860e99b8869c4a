"""Where data sets are kept, and how a published file gets there: fetched once, checked, under its name only when whole.

The transfer is written here, on urllib, and not on pooch: pooch cannot resume, and a downloader of our own plugged into
it would leave it nothing to do but the comparison of two hashes.

An interrupted transfer leaves its bytes in `FILE.part`. That they still belong to what the server now has is for the
hash of the whole to say. Where nobody published one, the server has to: what it said of its version (RFC 9110, section
8.8) is kept in `FILE.part.version` and sent as `If-Range`. A server that says nothing sends all of it again.
"""

import errno
import hashlib
import os
import re
import string
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from etude import files
from etude.errors import UserError

PATIENCE = 30.0  # seconds without a byte before a download is given up
BLOCK = 1 << 18  # bytes
PARALLEL = 16  # small files that are fetched at a time
BEGINNINGS = {  # of what is in a file of this name
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\0",),
    ".jpg": (b"\xff\xd8",),
    ".jpeg": (b"\xff\xd8",),
    ".png": (b"\x89PNG",),
}


def root() -> Path:
    """Where data sets are kept: $ETUDE_DATA, else `etude` in the user's cache folder.

    Raises UserError, as `cache` does, if the environment names no folder.
    """
    given = os.environ.get("ETUDE_DATA")
    if given is None:
        return cache()
    if not given:
        raise UserError("the environment variable ETUDE_DATA is empty: set it to the folder of the data, or unset it")
    return at_home(given)


def cache() -> Path:
    """Where is kept what can be made again: `etude` in the user's cache folder, which may be emptied at any time.

    A user without a home folder, as in a container that runs under any user's number, has `cache` in $ETUDE_DATA.
    """
    given = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # empty is unset: XDG Base Directory Specification
    if not os.path.isabs(given) and not given.startswith("~"):
        raise UserError(
            f"the environment variable XDG_CACHE_HOME is {given!r}, no absolute path: make it one, or unset it"
        )
    try:
        return at_home(given) / "etude"
    except UserError:
        if data := os.environ.get("ETUDE_DATA"):
            return at_home(data) / "cache"
        raise


def at_home(path: str) -> Path:
    """The path with ~ as the home folder that it stands for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"there is no home folder here for {path!r}: set HOME, or ETUDE_DATA (for data) and XDG_CACHE_HOME (for "
            "what is made of them) to folders with an absolute path"
        ) from None


def fetch_all(wanted: Sequence[tuple[str, Path]], what: str) -> dict[Path, str]:
    """Every file from its (url, file), several at a time, with one bar; those that are there are not fetched again.

    A file has to have the length that its server says; an interrupted one is gone on with by the next call. What could
    not be had is returned, with the reason; `what` names all of them for a person. Raises UserError if the disk is full
    or cannot be written, and if nothing at all can be had: then it gives up after the first few.
    """
    failed: dict[Path, str] = {}
    had = 0

    def one(url: str, file: Path) -> None:
        fetch(url, file, None, file.name, quiet=True)

    where = os.path.commonpath([file.parent for _, file in wanted])
    print(f"fetching {len(wanted):,} {what} to {where}", file=sys.stderr)
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = {pool.submit(one, url, file): (url, file) for url, file in wanted}
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
                if not had and len(failed) >= min(len(wanted), 2 * PARALLEL):
                    raise UserError(
                        f"{what} could not be downloaded, such as {url} ({failed[file]}); "
                        "run it again, or use --data sample"
                    )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def local(error: BaseException | None) -> bool:
    """Whether the fault is on this side, so that no other file would fare better."""
    faults = (*files.FULL, errno.EROFS, errno.EACCES, errno.EPERM)
    return isinstance(error, OSError) and error.errno in faults


def fetch(url: str, file: Path, digest: str | None, what: str, quiet: bool = False) -> Path:
    """`file`, fetched from `url` first if it is not there; what is there is used as it is, so it may be put by hand.

    `digest` is the file's SHA-256 in hexadecimal, or "md5:" and its MD5; None if nobody published one: then it has to
    have the length that the server says and begin as a file of its name does, and whoever reads it checks the rest.
    `what` names it for a person. An interrupted transfer leaves `file.part`, which the next call goes on with.
    Processes that want the same file wait for the first. It says on stderr what it does, unless it is to be `quiet`.

    Raises UserError if it cannot be had, or is not what `digest` says.
    """
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while not file.exists():
            with part.open("ab") as out:
                files.lock(out, f"waiting for another process that fetches {what}")
                if not part.exists() or not os.path.samestat(os.fstat(out.fileno()), part.stat()):
                    continue  # while we waited, the lock's holder renamed these bytes to `file`, or threw them away
                if file.exists():  # since the loop looked
                    part.unlink()
                else:
                    if not quiet:
                        print(f"fetching {what} from {url} to {file}", file=sys.stderr)
                    complete(part, out, url, file, digest, what, quiet)
                    part.replace(file)
                    version_of(part).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({files.why(error)}); set ETUDE_DATA to another folder") from error
    return file


def version_of(part: Path) -> Path:
    """Where is kept what the server said of the version of these bytes."""
    return part.with_name(part.name + ".version")


def complete(
    part: Path, out: BinaryIO, url: str, file: Path, digest: str | None, what: str, quiet: bool = False
) -> None:
    """Bring `part`, open as `out`, to the whole file; after a UserError nothing is left, or what can be resumed."""
    try:
        while True:
            if digest is None and not version_of(part).exists():
                out.truncate(0)  # of which version these bytes are, nobody could say
            had = out.seek(0, os.SEEK_END)
            total = transfer(url, part, out, what, digest is None, quiet)
            wrong = fault(part, file, digest, total)
            if not wrong:
                files.sync(out)
                return
            out.truncate(0)
            if not had:  # else the first bytes may have been of another version: once more, from the start
                raise HTTPException(wrong)
    except (OSError, HTTPException) as error:
        if local(error):
            raise
        raise UserError(
            f"{what} could not be downloaded from {url} ({reason(error)}); "
            f"run it again, use --data sample, or put the file at {file} by hand"
        ) from error
    finally:
        if not out.seek(0, os.SEEK_END):
            part.unlink(missing_ok=True)
            version_of(part).unlink(missing_ok=True)


def fault(part: Path, file: Path, digest: str | None, total: int | None) -> str:
    """What is wrong with what was transferred for `file`; "" if it has the `digest` or, without one, seems whole."""
    size = part.stat().st_size
    with part.open("rb") as content:
        begins = content.read(1000)
    if not size:
        return "the answer is empty"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)\b", begins, re.IGNORECASE):
        return "what came is a page of HTML: look at it in a browser, perhaps a network wants you to log in"
    if digest is None:
        if total is None:
            return "the server does not say how long it is"
        if size != total:
            return f"it has {size:,} bytes, not {total:,}"
        ending = file.suffix.lower()
        fits = begins.startswith(BEGINNINGS.get(ending, b"")) and (ending != ".zip" or zipfile.is_zipfile(part))
        return "" if fits else f"what came is no {ending} file"
    kind, _, wanted = digest.rpartition(":")
    with part.open("rb") as whole:
        got = hashlib.file_digest(whole, kind or "sha256").hexdigest()
    return "" if got == wanted.lower() else f"its {kind or 'sha256'} is {got}, not {wanted}"


def ascii_address(url: str) -> str:
    """An address as people write it (an IRI, RFC 3987) as the network takes it: ASCII. Raises HTTPException."""
    try:
        parts = urlsplit(url.strip())
        user, at, host = parts.netloc.rpartition("@")
        name, colon, port = host.partition(":") if "[" not in host else (host, "", "")
        place = f"{quote(user, safe=string.punctuation)}{at}{name.encode('idna').decode()}{colon}{port}"
        path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
        return parts._replace(netloc=place, path=path, query=query, fragment="").geturl()
    except ValueError as error:  # of which those about encodings are
        raise HTTPException(f"it is no address: {error}") from None


def said_version(headers: Message) -> str:
    """What the headers say of the version, as `If-Range` may repeat it; "" if that is nothing that could be relied on.

    RFC 9110, sections 8.8 and 13.1.5: an ETag that is not weak, else a date of change that lies before that of the
    answer by so much that a second change would show.
    """
    tag, changed = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if tag.startswith('"'):
        return tag
    try:
        sure = (parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(changed)).total_seconds() >= 1
    except (ValueError, TypeError):
        return ""
    return changed if sure else ""


def transfer(url: str, part: Path, out: BinaryIO, what: str, careful: bool, quiet: bool = False) -> int | None:
    """Append to `out`, which is `part`, what the server has after the bytes that are there, or all of it anew.

    `careful`: only if they are of the version that the server now has. Returns the length of the whole in bytes, if the
    server says it. The range request is that of RFC 9110, section 14.
    Raises OSError or HTTPException; what came until then is kept.
    """
    have = out.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={have}-"} if have else {}
    version = version_of(part).read_text("latin-1") if have and careful else ""
    if version:
        headers["If-Range"] = version
    try:
        answer = urlopen(Request(ascii_address(url), headers=headers), timeout=PATIENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing follows: it had been interrupted after the last byte
            if is_other(version, error.headers):
                out.truncate(0)
                return transfer(url, part, out, what, careful, quiet)
            span = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            return int(span[1]) if span else None
        raise
    except ValueError as error:
        raise HTTPException(f"it is no address: {error}") from None
    with answer:
        coded = answer.headers.get("Content-Encoding", "identity")
        if careful and coded != "identity" and not part.name.endswith((".gz.part", ".tgz.part")):
            raise HTTPException(f"the server sent it coded as {coded}, which it was not asked for")
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if answer.status == 206:
            span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not span or int(span[1]) != have:
                out.truncate(0)
                raise HTTPException("the server sent another part than it was asked for")
            if is_other(version, answer.headers):
                out.truncate(0)
                return transfer(url, part, out, what, careful, quiet)
            total = total if span[2] == "*" else int(span[2])
        elif have:
            out.truncate(0)
            total = None if total is None else total - have
            have = 0
        if careful and not have:
            keep_version(part, said_version(answer.headers))
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


def keep_version(part: Path, version: str) -> None:
    if version:
        version_of(part).write_text(version, "latin-1")
    else:
        version_of(part).unlink(missing_ok=True)


def is_other(version: str, headers: Message) -> bool:
    """Whether the server, deaf to `If-Range`, would go on with another version than that of the bytes here."""
    return bool(version and (now := said_version(headers)) and now != version)


def reason(error: Exception) -> str:
    """One line about what went wrong."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError) and isinstance(error.reason, Exception):
        return reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"no byte for {PATIENCE:g} s"
    if "407" in str(error):
        return f"{error}: set https_proxy to http://USER:PASSWORD@HOST:PORT"
    return " ".join(str(error).split()) or type(error).__name__
