"""What the encoder sees in each image, computed once and kept: half precision, memory-mapped, known by content.

A folder for each (backbone, weights, preprocessing, kind) holds `features.bin`, a row for each image, and
`index.sqlite`, which says which image a row is of, by the hash of the file's bytes. A row is written before it is
listed, so that whatever a crash leaves is either whole or not there; the next start goes on behind it.
"""

import errno
import hashlib
import json
import sqlite3
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from coco_caption import images
from coco_caption.encoder import Encoder
from etude import download
from etude import files as disk
from etude.errors import UserError

TOGETHER = 32  # images that are encoded at once; twice as many are in memory


class Features:
    """The features of some images, and which of them are broken."""

    def __init__(self, rows: np.ndarray, stored: np.ndarray, digests: list[bytes], broken: dict[int, str]) -> None:
        self.rows = rows  # int64 [N]: the row of each image in `stored`, -1 for a broken one
        self.stored = stored  # float16 [rows, ...], memory-mapped
        self.digests = digests  # of each image's file, and of others; b"" for one that cannot be read
        self.broken = broken  # number of the image -> what is wrong with it

    def __getitem__(self, numbers: np.ndarray) -> Tensor:
        """float16 [B, C] or [B, cells, C] of the images with these numbers."""
        rows = self.rows[numbers]
        order = np.argsort(rows, kind="stable")  # the disk is read in one direction
        found = np.empty((len(rows), *self.stored.shape[1:]), np.float16)
        found[order] = self.stored[rows[order]]
        return torch.from_numpy(found)


def features(
    files: Sequence[Path], encoder: Encoder, spatial: bool, cache: str = "", others: Sequence[Path] = ()
) -> Features:
    """The features of the images in `files`; those that are not kept yet are computed first.

    Of `others` only the digests are found, which stand behind those of `files`.
    Memory stays bounded, whatever the number of images. A file that is no image is left out, and named. Processes that
    want the same features wait for the first. Raises UserError if the cache cannot be written.
    """
    place = download.at_home(cache) if cache else download.cache() / "features"
    said = {"backbone": encoder.backbone, "weights": encoder.digest, "preprocessing": asdict(encoder.preprocess)}
    said["kind"] = "map" if spatial else "mean"
    name = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    folder = place / f"{encoder.backbone}-{said['kind']}-{name}"
    shape = (encoder.grid[0] * encoder.grid[1], encoder.channels) if spatial else (encoder.channels,)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("ab") as lock:
            disk.lock(lock, f"waiting for another process that encodes images ({folder})")
            disk.write(folder / "what.json", (json.dumps(said, indent=1) + "\n").encode())
            with Index(folder / "index.sqlite") as index:
                rows, digests, broken = complete(files, index, folder / "features.bin", encoder, spatial, shape)
                digests += identify(others, index)[0]
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.ENOSPC or "full" in str(error):
            why = f"the disk is full ({why}); what is encoded already is kept"
        raise UserError(
            f"features cannot be kept in {folder}: {why}: free some space there, or give --encoder.cache another folder"
        ) from None
    stored = np.empty((0, *shape), np.float16)
    if max(rows, default=-1) >= 0:
        stored = np.memmap(folder / "features.bin", np.float16, "r").reshape(-1, *shape)
    return Features(np.array(rows, np.int64), stored, digests, broken)


class Index:
    """Which row is of which image, and of which file a hash is known without reading it again."""

    def __init__(self, file: Path) -> None:
        self.base = sqlite3.connect(file, timeout=60)
        self.base.execute("create table if not exists rows (digest blob primary key, row integer)")
        self.base.execute("create table if not exists files (path text primary key, stamp text, digest blob)")

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.base.close()

    def rows(self) -> dict[bytes, int]:
        return dict(self.base.execute("select digest, row from rows"))

    def files(self) -> dict[str, tuple[str, bytes]]:
        return {path: (stamp, digest) for path, stamp, digest in self.base.execute("select * from files")}

    def know(self, files: Sequence[tuple[str, str, bytes]]) -> None:
        with self.base:
            self.base.executemany("insert or replace into files values (?, ?, ?)", files)

    def add(self, rows: Sequence[tuple[bytes, int]]) -> None:
        with self.base:
            self.base.executemany("insert into rows values (?, ?)", rows)


def complete(
    files: Sequence[Path], index: Index, store: Path, encoder: Encoder, spatial: bool, shape: tuple[int, ...]
) -> tuple[list[int], list[bytes], dict[int, str]]:
    """Encodes what is missing; every image's row (-1: broken), its digest, and what is wrong with the broken ones."""
    digests, broken = identify(files, index)
    rows = index.rows()
    size = 2 * int(np.prod(shape))
    have = store.stat().st_size // size if store.exists() else 0
    if lost := [digest for digest, row in rows.items() if row >= have]:  # listed and not there: not by us
        for digest in lost:
            del rows[digest]
        with index.base:
            index.base.executemany("delete from rows where digest = ?", [(digest,) for digest in lost])
    wanted: dict[bytes, int] = {}
    for number, digest in enumerate(digests):
        if digest and digest not in rows:
            wanted.setdefault(digest, number)
    if wanted:
        told = f"encoding {len(wanted):,} images with {encoder.backbone}"
        if not sys.stderr.isatty():
            print(told, file=sys.stderr)
        free = 1 + max(rows.values(), default=-1)
        failed: dict[bytes, str] = {}
        with store.open("ab") as out:
            out.truncate(free * size)  # what a crash left behind the last row that is listed
            bar = tqdm(total=len(wanted), desc=told, unit="image", disable=not sys.stderr.isatty())
            with bar:
                for group in encoded(wanted, files, encoder, spatial):
                    added = []
                    for digest, result in group:
                        if isinstance(result, str):
                            failed[digest] = result
                        else:
                            out.write(result.numpy().tobytes())
                            added.append((digest, free))
                            free += 1
                    out.flush()
                    disk.sync(out)
                    index.add(added)
                    rows.update(added)
                    bar.update(len(group))
        for number, digest in enumerate(digests):
            if digest in failed:
                broken[number] = failed[digest]
    return [rows.get(digest, -1) for digest in digests], digests, broken


def identify(files: Sequence[Path], index: Index) -> tuple[list[bytes], dict[int, str]]:
    """The hash of every file's bytes; of a file that is as large and as old as it was, without reading it."""
    known = index.files()
    digests: list[bytes] = []
    new: list[tuple[str, str, bytes]] = []
    broken: dict[int, str] = {}
    for number, file in enumerate(files):
        path = str(file.absolute())
        try:
            status = file.stat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # to read a pipe would be to wait
                raise OSError(errno.EINVAL, "it is no regular file")
            stamp = f"{status.st_size} {status.st_mtime_ns}"
            was, digest = known.get(path, ("", b""))
            if was != stamp:
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").digest()
                new.append((path, stamp, digest))
        except (OSError, ValueError) as error:  # ValueError: a name that holds NUL
            broken[number], digest = getattr(error, "strerror", None) or str(error), b""
        digests.append(digest)
        if len(new) >= 1000:
            index.know(new)
            new.clear()
    index.know(new)
    return digests, broken


def encoded(
    wanted: dict[bytes, int], files: Sequence[Path], encoder: Encoder, spatial: bool
) -> Iterator[list[tuple[bytes, Tensor | str]]]:
    """The features of every image, or what is wrong with it, a group at a time; the next is read meanwhile."""

    def read(number: int) -> Tensor | str:
        try:
            return encoder.preprocess(images.read(files[number]))
        except images.Broken as error:
            return str(error)

    left = iter(wanted.items())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:

        def start() -> list[tuple[bytes, Future[Tensor | str]]]:
            return [(digest, pool.submit(read, number)) for digest, number in islice(left, TOGETHER)]

        following = start()
        while following:
            group, following = following, start()
            found = [(digest, future.result()) for digest, future in group]
            good = [result for _, result in found if isinstance(result, Tensor)]
            seen = iter(encoder(good, spatial) if good else ())
            yield [(digest, next(seen) if isinstance(result, Tensor) else result) for digest, result in found]
