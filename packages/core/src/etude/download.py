"""Where data sets are kept, and how a published file gets there: fetched once, checked, under its name only when whole.

An interrupted transfer leaves its bytes in `FILE.part`. Whether they are of what the server now has, the hash of the
whole tells. Where nobody published one, what the server said of its version (RFC 9110, section 8.8) is kept in
`FILE.part.version` and sent as `If-Range`; if it said nothing, all is sent again.
"""

import errno
import hashlib
import os
import re
import string
import sys
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from tqdm import tqdm

from etude import files
from etude.errors import UserError

PATIENCE = 30.0  # seconds without a byte before a download is given up
BLOCK = 1 << 18  # bytes
BEGINNINGS = {".zip": b"PK", ".gz": b"\x1f\x8b", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".png": b"\x89PNG"}


def root() -> Path:
    """Where data sets are kept: $ETUDE_DATA, else `cache`. Both raise UserError if the environment names no folder."""
    given = os.environ.get("ETUDE_DATA")
    if given == "":
        raise UserError("the environment variable ETUDE_DATA is empty: set it to the folder of the data, or unset it")
    return cache() if given is None else at_home(given)


def cache() -> Path:
    """Where is kept what can be made again: `etude` in the user's cache folder, which may be emptied at any time.

    A user without a home folder, as in a container that runs under any user's number, has `cache` in $ETUDE_DATA.
    """
    given = os.environ.get("XDG_CACHE_HOME") or "~/.cache"  # empty is unset: XDG Base Directory Specification
    if not os.path.isabs(given) and not given.startswith("~"):
        raise UserError(f"the variable XDG_CACHE_HOME is {given!r}, no absolute path: make it one or unset it")
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
        remedy = "set HOME, or ETUDE_DATA and XDG_CACHE_HOME to absolute paths"
        raise UserError(f"there is no home folder here for {path!r}: {remedy}") from None


def local(error: BaseException | None) -> bool:
    """Whether the fault is on this side, so that no other file would fare better."""
    faults = (*files.FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)
    return isinstance(error, OSError) and error.errno in faults


def fetch(url: str, file: Path, digest: str | None, what: str, quiet: bool = False) -> Path:
    """`file`, fetched from `url` first if it is not there; what is there is used as it is, so it may be put by hand.

    `digest` is the file's SHA-256 in hexadecimal, or "md5:" and its MD5; None if nobody published one: then it has to
    have the length that the server says and begin as a file of its name does, and whoever reads it checks the rest.
    `what` names it in messages. Processes that want the same file wait for the first. Raises UserError.
    """
    with files.reported(f"{file} cannot be written", "set ETUDE_DATA to another folder"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with files.alone(Path(f"{file}.lock"), f"waiting for another process that fetches {what}"):
                if not file.exists():  # now that we have waited
                    if not quiet:
                        print(f"fetching {what} from {url} to {file}", file=sys.stderr)
                    complete(url, file, digest, what, quiet or not sys.stderr.isatty())
    return file


def complete(url: str, file: Path, digest: str | None, what: str, quiet: bool) -> None:
    """Makes the file from what there is of it and what the server has; leaves nothing else but what can be resumed."""
    part, version = Path(f"{file}.part"), Path(f"{file}.part.version")
    try:
        with part.open("ab") as out:
            if digest is None and not version.exists():
                out.truncate(0)  # nobody could say of which version these bytes are
            while True:
                had = out.seek(0, os.SEEK_END)
                total = transfer(url, out, None if digest else version, what, quiet)
                wrong = fault(part, file.suffix.lower(), digest, total)
                if not wrong:
                    break
                out.truncate(0)
                if not had:  # else the first bytes may have been of another version: once more, from the start
                    raise HTTPException(wrong)
            files.sync(out)
        part.replace(file)
        version.unlink(missing_ok=True)
    except (OSError, HTTPException) as error:
        if local(error):
            raise
        remedy = f"run it again, use --data sample, or put the file at {file} by hand"
        raise UserError(f"{what} could not be downloaded from {url} ({reason(error)}); {remedy}") from error
    finally:
        if part.is_file() and not part.stat().st_size:
            part.unlink()
            version.unlink(missing_ok=True)


def fault(part: Path, ending: str, digest: str | None, total: int | None) -> str:
    """What is wrong with what was transferred; "" if it has its digest or, without one, seems whole."""
    with part.open("rb") as content:
        begins = content.read(1000)
    if not begins:
        return "the answer is empty"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)\b", begins, re.IGNORECASE):
        return "the server sent an HTML page: open the address in a browser, the network may want you to log in"
    if digest:
        kind, _, wanted = digest.rpartition(":")
        with part.open("rb") as content:
            got = hashlib.file_digest(content, kind or "sha256").hexdigest()
        return "" if got == wanted.lower() else f"its {kind or 'sha256'} is {got}, not {wanted}"
    if total is None:
        return "the server does not say how long it is"
    if (size := part.stat().st_size) != total:
        return f"it has {size:,} bytes, not {total:,}"
    fits = begins.startswith(BEGINNINGS.get(ending, b"")) and (ending != ".zip" or zipfile.is_zipfile(part))
    return "" if fits else f"what the server sent is not a {ending} file"


def ask(url: str, headers: dict[str, str]) -> Any:
    """The answer of the server, open; one that says that the range asked for is past the end (416) is an answer too."""
    try:
        return urlopen(Request(quote(url.strip(), safe=string.punctuation), headers=headers), timeout=PATIENCE)
    except HTTPError as error:
        if error.code == 416 and headers:
            return error
        error.close()
        raise
    except ValueError as error:
        raise HTTPException(f"it is not an address: {error}") from None


def transfer(url: str, out: BinaryIO, version: Path | None, what: str, quiet: bool) -> int | None:
    """Appends to `out` what the server has after the bytes that are there (RFC 9110, section 14), or all of it anew.

    With `version`, the file of their ETag, only if they are of the version that the server now has. Returns the length
    of the whole in bytes, if the server says it. Raises OSError or HTTPException; what came until then is kept.
    """
    have = out.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if version and have:
        headers["If-Range"] = version.read_text("latin-1")
    with ask(url, headers) as answer:
        length, now = answer.headers.get("Content-Length", ""), answer.headers.get("ETag", "")
        if have and answer.status == 200:
            have = out.truncate(0)
        elif now != headers.get("If-Range", now):  # to which it was deaf
            out.truncate(0)
            return transfer(url, out, version, what, quiet)
        total = have + int(length) if length.isdecimal() else None
        span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 416:  # nothing follows: it had been interrupted after the last byte
            return int(span[2]) if span else None
        if answer.status == 206:
            if not span or span[1] != str(have):
                out.truncate(0)
                raise HTTPException("the server sent another part than the one requested")
            total = int(span[2])
        coded = answer.headers.get("Content-Encoding", "identity")
        if version and coded != "identity" and ".gz." not in version.name:
            raise HTTPException(f"the server sent it encoded as {coded}, which was not requested")
        if version and not have:
            version.unlink(missing_ok=True)
            if now.startswith('"'):  # a strong one: RFC 9110, section 8.8.3
                version.write_text(now, "latin-1")
        with tqdm(total=total, initial=have, desc=what, unit="B", unit_scale=True, disable=quiet) as bar:
            while block := answer.read1(BLOCK):
                out.write(block)
                bar.update(len(block))
    out.flush()
    if total is not None and out.tell() < total:
        raise HTTPException(f"it ended after {out.tell():,} of {total:,} bytes")
    return total


def reason(error: Exception) -> str:
    """One line about what went wrong."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError) and isinstance(error.reason, Exception):
        return reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"nothing was received for {PATIENCE:g} s"
    return files.reason(error) + ": set https_proxy to http://USER:PASSWORD@HOST:PORT" * ("407" in str(error))
