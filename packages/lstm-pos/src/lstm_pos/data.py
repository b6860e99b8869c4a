"""Files -> sentences: any CoNLL-U file is read once into a few arrays, which are mapped into memory from then on."""

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from etude import download
from etude.download import fetch, root
from etude.draw import shuffled
from etude.errors import UserError
from lstm_pos import conllu, sample

NERUS = "https://storage.yandexcloud.net/natasha-nerus/data/nerus_lenta.conllu.gz"  # about 2 GB; no hash is published
FORMAT = 1  # of the files in the cache; another number makes what is there stale
HASHED = 1 << 22  # entries of an array, or of a table, that are hashed together
SPLIT = -1  # the stream that the parts are drawn from; epochs, which draw their order likewise, count from 0
ARRAYS: dict[str, np.dtype[Any]] = {  # the files of a corpus that are arrays
    "word_ids": np.dtype("<i4"),
    "tag_ids": np.dtype("u1"),
    "feat_ids": np.dtype("<i4"),
    "sentences": np.dtype("<i8"),
    "documents": np.dtype("<i8"),
}
TABLES = ("words", "tags", "feats")  # and those that are text, an entry a line


@dataclass(frozen=True)
class Corpus:
    """One file: T tokens in S sentences in D documents, none of them empty. The arrays are read-only, on disk."""

    words: list[str]  # the distinct forms, in the order of their first appearance; so are tags and feats
    tags: list[str]
    feats: list[str]  # as they stand in the file, `Case=Nom|Number=Sing`; `_` for none
    word_ids: np.ndarray  # int32 [T], numbers of `words`
    tag_ids: np.ndarray  # uint8 [T]
    feat_ids: np.ndarray  # int32 [T]
    sentences: np.ndarray  # int64 [S + 1]: sentence i is tokens sentences[i] to sentences[i + 1]
    documents: np.ndarray  # int64 [D + 1]: document i is sentences documents[i] to documents[i + 1]

    def sentence(self, i: int) -> tuple[list[str], list[str]]:
        """The words and the tags of sentence `i`."""
        part = slice(self.sentences[i], self.sentences[i + 1])
        return [self.words[n] for n in self.word_ids[part]], [self.tags[n] for n in self.tag_ids[part]]


@dataclass(frozen=True)
class Dataset:
    name: str
    corpus: Corpus
    train: np.ndarray  # int64, sorted: the numbers of the sentences
    valid: np.ndarray
    test: np.ndarray
    description: str  # one line: the size of every part


def load(name: str, seed: int, documents: int = 0, held_out: float = 0.1) -> Dataset:
    """`sample`, `nerus` or the path of a CoNLL-U file, plain or compressed by gzip.

    Only the first `documents` are used, 0 uses all. A share of `held_out` of them, drawn by `seed`, is the validation
    part, and as many others the test part, at least one each. What a document is, `conllu.Reader` says. Raises
    UserError for files that are missing or not what they should be.
    """
    return divided(name, read(name, documents), seed, held_out)


def read(name: str, documents: int = 0) -> Corpus:
    """All sentences of what `load` takes, or of its first `documents`. Raises UserError as `load` does."""
    match name:
        case "sample":
            return read_here("sample", BytesIO(sample.text()), documents)
        case "nerus":
            file = fetch(NERUS, root() / "nerus" / "nerus_lenta.conllu.gz", None, "nerus")
            return read_whole(file, documents)
        case _ if os.path.lexists(name) or "/" in name or ".conllu" in name:
            return read_whole(name, documents)
        case _:
            raise UserError(f"there is no data set {name!r}; choose sample, nerus, or the path of a CoNLL-U file")


def first(corpus: Corpus, documents: int) -> Corpus:
    """The first `documents` of a corpus, 0 for all, as they would have been read alone."""
    if not 0 < documents < len(corpus.documents) - 1:
        return corpus
    sentences = int(corpus.documents[documents])
    tokens = int(corpus.sentences[sentences])
    words, tags, feats = corpus.word_ids[:tokens], corpus.tag_ids[:tokens], corpus.feat_ids[:tokens]
    return Corpus(  # numbers are given in the order of first appearance
        corpus.words[: int(words.max()) + 1],
        corpus.tags[: int(tags.max()) + 1],
        corpus.feats[: int(feats.max()) + 1],
        words,
        tags,
        feats,
        corpus.sentences[: sentences + 1],
        corpus.documents[: documents + 1],
    )


def fingerprint(corpus: Corpus) -> dict[str, Any]:
    """What tells a corpus from others, wherever its file lies: how many documents, sentences and words it has, and a
    hash of them and of their tags. The column FEATS does not count: no part and no score depends on it.
    """
    found = hashlib.blake2b(digest_size=16)
    for name in ("word_ids", "tag_ids", "sentences", "documents"):
        array = getattr(corpus, name)
        found.update(f"{name} {len(array)}\n".encode())
        for start in range(0, len(array), HASHED):  # mapped into memory, it may be larger than that
            found.update(np.ascontiguousarray(array[start : start + HASHED], ARRAYS[name]).data)
    for name in ("words", "tags"):
        table = getattr(corpus, name)
        found.update(f"{name} {len(table)}\n".encode())
        for start in range(0, len(table), HASHED):
            found.update("".join(f"{entry}\n" for entry in table[start : start + HASHED]).encode())
    return {
        "documents": len(corpus.documents) - 1,
        "sentences": len(corpus.sentences) - 1,
        "words": len(corpus.word_ids),
        "hash": found.hexdigest(),
    }


def divided(name: str, corpus: Corpus, seed: int, held_out: float) -> Dataset:
    """The parts, drawn by document: a document repeats its words, so that its sentences must not be in two parts."""
    n = len(corpus.documents) - 1
    held = max(1, round(n * held_out))
    if n < 3:
        raise UserError(
            f"{name} has {n} documents, but training, validation and test need one each; "
            "begin documents by lines `# newdoc`, or use more"
        )
    if n - 2 * held < 1:
        raise UserError(
            f"of the {n} documents of {name}, {held} for validation and as many for the test leave none to train on; "
            "hold out less"
        )
    order = shuffled(n, seed, SPLIT)
    part_of = np.zeros(n, np.int8)
    part_of[order[:held]] = 1
    part_of[order[held : 2 * held]] = 2
    part_of = np.repeat(part_of, np.diff(corpus.documents))  # now of each sentence
    lengths = np.diff(corpus.sentences)
    train, valid, test = parts = [np.flatnonzero(part_of == part) for part in range(3)]
    sentences = " / ".join(f"{len(part):,}" for part in parts)
    words = " / ".join(f"{lengths[part].sum():,}" for part in parts)
    description = f"{name}, {sentences} sentences ({words} words) to train, validate and test"
    return Dataset(name, corpus, train, valid, test, description)


def read_here(name: str, file: BinaryIO, documents: int = 0, tagged: bool = True) -> Corpus:
    """CoNLL-U, plain or compressed by gzip, as `conllu.Reader` takes it; the arrays stay in memory, nothing is written.

    `name` stands for the file in errors.
    """
    reader = conllu.Reader(name, documents, tagged)
    pieces = list(arrays(reader, conllu.plain(file)))
    fields: dict[str, Any] = {name: np.concatenate([piece[name] for piece in pieces]) for name in ARRAYS}
    return Corpus(**fields, **tables(reader))


def arrays(reader: conllu.Reader, stream: "BinaryIO | conllu.Unpacked") -> Iterator[dict[str, np.ndarray]]:
    """Pieces of the arrays of a corpus, by their names."""
    tokens = sentences = 0
    for chunk in reader.chunks(stream):
        ends = np.cumsum(chunk.lengths)
        yield {
            "word_ids": chunk.word_ids,
            "tag_ids": chunk.tag_ids,
            "feat_ids": chunk.feat_ids,
            "sentences": tokens + ends - chunk.lengths,  # here they begin
            "documents": sentences + np.flatnonzero(chunk.firsts),
        }
        tokens += int(ends[-1])
        sentences += len(ends)
    nothing = {name: np.zeros(0, kind) for name, kind in ARRAYS.items()}
    yield nothing | {"sentences": np.array([tokens]), "documents": np.array([sentences])}


def tables(reader: conllu.Reader) -> dict[str, Any]:
    return {name: [content.decode() for content in getattr(reader, name)] for name in TABLES}


def read_whole(path: str | Path, documents: int = 0) -> Corpus:
    """Any CoNLL-U file, plain or compressed by gzip, its first `documents`, 0 for all.

    The first time, it is read into `cache()`; a process that finds another one doing so waits. Raises UserError for
    what is wrong with the file, or if the cache cannot be written.
    """
    try:
        path = Path(path).resolve(strict=True)
        while True:
            whole = place(path, documents)
            if not whole.exists():
                ingest(path, whole, documents)
            try:
                return opened(whole)
            except FileNotFoundError:
                if whole.exists():  # else `path` was changed just now, and another process read it
                    raise UserError(f"{whole} is not complete; delete the folder, it will be made again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a CoNLL-U file") from error


def cache() -> Path:
    """Where read files are kept: not under `etude.download.root()`, which may be somebody else's, read-only."""
    return download.cache() / "lstm-pos"


def place(path: Path, documents: int) -> Path:
    """The folder for what is in this file now: `FILE-VERSION-DOCUMENTS`."""
    state = path.stat()
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    version = hashlib.sha256(repr((FORMAT, state.st_size, state.st_mtime_ns)).encode()).hexdigest()[:16]
    return cache() / f"{name}-{version}-{documents or 'all'}"


def ingest(path: Path, whole: Path, documents: int) -> None:
    """Read `path` into the folder `whole`, which is there with all its files or not at all, wherever this is killed."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a CoNLL-U file") from error
    part = cache() / ".part"  # of the process that holds the lock: when we hold it, it is what a killed process left
    try:
        with source, alone():
            if whole.exists():  # since we waited
                return
            shutil.rmtree(part, ignore_errors=True)
            try:
                part.mkdir()
                fill(part, path, source, documents)
                if place(path, documents) != whole:
                    raise UserError(f"{path} was changed while it was read; run it again")
                part.rename(whole)
                sync(cache())
            finally:
                shutil.rmtree(part, ignore_errors=True)
            name, version, _ = whole.name.split("-")
            for other in cache().glob(f"{name}-*"):
                if other.name.split("-")[1] != version:  # of what `path` was before it was changed
                    shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{cache()} cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from error


@contextmanager
def alone() -> Iterator[None]:
    """No other process is in here at the same time; the lock of one that crashed is gone with it."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process that reads a CoNLL-U file", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fill(part: Path, path: Path, source: BinaryIO, documents: int) -> None:
    """Write the files of a corpus into the folder `part`, piece by piece; nothing is held but the tables."""
    print(f"reading {path}, once", file=sys.stderr)
    size = path.stat().st_size
    reader = conllu.Reader(str(path), documents)
    with (
        ExitStack() as stack,
        tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
    ):
        files = {name: stack.enter_context((part / name).open("wb")) for name in (*ARRAYS, *TABLES)}
        words = 0
        for piece in arrays(reader, conllu.plain(source)):
            for name, kind in ARRAYS.items():
                files[name].write(piece[name].astype(kind, copy=False).data)
            words += len(piece["word_ids"])
            bar.set_postfix_str(f"{words / (bar.format_dict['elapsed'] + 1e-9):,.0f} words/s", refresh=False)
            bar.update(source.tell() - bar.n)
        for name, table in tables(reader).items():
            files[name].write("\n".join(table).encode())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    sync(part)


def sync(folder: Path) -> None:
    """The names in the folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def opened(whole: Path) -> Corpus:
    fields: dict[str, Any] = {name: (whole / name).read_bytes().decode().split("\n") for name in TABLES}
    fields |= {name: np.memmap(whole / name, kind, "r") for name, kind in ARRAYS.items()}
    return Corpus(**fields)
