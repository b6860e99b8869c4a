"""Files -> names by language, and their three parts.

The parts are drawn so that each has its tenth of every language, and as many names for every seed.
"""

import shutil
import sys
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from etude import draw, files
from etude.download import fetch, root
from etude.errors import UserError
from etude.text.lines import ended, lines
from names_rnn import sample
from names_rnn.config import Data
from names_rnn.letters import ASCII, Alphabet, fold, tidy

ARCHIVE = "https://download.pytorch.org/tutorial/data.zip"
SPLIT = -1  # the stream that the parts are drawn from; epochs, which draw their order likewise, count from 1
TENTH = 10  # one part in so many is validated on, one tested on
Pair = tuple[str, int]  # a name and the number of its language


@dataclass(frozen=True)
class Names:
    """One part of a data set: N names as the model sees them, and int64 [N], the number of each one's language."""

    names: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    name: str
    """with the protocol, for people"""
    languages: tuple[str, ...]
    alphabet: Alphabet
    train: Names
    valid: Names
    test: Names


def load(config: Data, seed: int, alphabet: Alphabet | None = None) -> Dataset:
    """The parts that `seed` draws; `alphabet`: that of a trained model, else the one that the training part has.

    Protocol `distinct`: of rows that the 57 letters cannot tell apart and that name the same language, one counts for
    each spelling that the model can tell apart, and all that is spelt alike after folding stands in one part. Protocol
    `rows`: every row counts, wherever it falls. Raises UserError for files that are missing or not what they should be.
    """
    name, languages, rows = read(config.name, config.letters)
    if config.protocol == "rows":
        groups = [[row] for row in rows]
    else:
        alike = defaultdict(list)
        for row in dict.fromkeys(rows):
            alike[fold(row[0]).strip() or row[0].strip()].append(row)
        groups = [sorted(group, key=lambda row: (row[1], row[0])) for _, group in sorted(alike.items())]
    parts = [[row for group in part for row in group] for part in divided(groups, seed)]
    for what, part in zip(("training", "validation", "test"), parts, strict=True):
        if missing := set(range(len(languages))) - {label for _, label in part}:
            raise UserError(
                f"{languages[min(missing)]} has too few names, none falls into the {what} part: "
                "each language needs about 20 of its own"
            )
    alphabet = alphabet or Alphabet.of(config.letters, [name for name, _ in parts[0]])
    train, valid, test = (seen(part, alphabet, config.protocol) for part in parts)
    return Dataset(f"{name}, {config.protocol}", languages, alphabet, train, valid, test)


def seen(part: list[Pair], alphabet: Alphabet, protocol: str) -> Names:
    """A part as the model sees it; under the protocol `distinct` each pair once."""
    pairs = [(alphabet.read(name), label) for name, label in part]
    if protocol == "distinct" and alphabet.folded:  # spellings were told apart before
        pairs = list(dict.fromkeys(pairs))
    return Names([name for name, _ in pairs], np.array([label for _, label in pairs], np.int64))


def divided(groups: list[list[Pair]], seed: int) -> tuple[list[list[Pair]], list[list[Pair]], list[list[Pair]]]:
    """Training, validation and test groups: a systematic sample (Madow & Madow 1944) within each set of languages.

    Groups of the same languages stand together, shuffled by the seed, and every tenth is taken: the sizes of the parts
    are the same for every seed.
    """
    strata = defaultdict(list)
    for group in groups:
        strata[tuple(label for _, label in group)].append(group)
    ordered = []
    for number, (_, members) in enumerate(sorted(strata.items())):
        ordered += [members[n] for n in draw.shuffled(len(members), seed, SPLIT, number)]
    test, valid = ordered[TENTH - 1 :: TENTH], ordered[TENTH // 2 - 1 :: TENTH]
    return [group for n, group in enumerate(ordered) if n % TENTH not in (TENTH - 1, TENTH // 2 - 1)], valid, test


def ceiling(*parts: Names) -> float:
    """The accuracy on these parts that no function of the name exceeds: of each name one language can be answered."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for part in parts:
        for name, label in zip(part.names, part.labels.tolist(), strict=True):
            counts[name][label] += 1
    best = sum(max(count.values()) for count in counts.values())
    return best / sum(len(part.names) for part in parts)


def read(name: str, kind: str) -> tuple[str, tuple[str, ...], list[Pair]]:
    """The data set's name, its languages, and all rows in their order."""
    if name == "sample":
        languages, rows = sample.rows()
        return name, languages, rows
    folder = root() / "names" if name == "names" else Path(name)
    if name == "names" and not folder.is_dir():
        unpack(fetch(ARCHIVE, root() / "names.zip", None, "names"), folder)
    if name == "names":
        return name, *read_folder(folder, kind)
    languages, rows = read_folder(folder, kind)
    return folder.name, languages, [(tidy(given), label) for given, label in rows]  # as `predict` sees them


def read_folder(folder: Path, kind: str) -> tuple[tuple[str, ...], list[Pair]]:
    """The languages of a folder of Language.txt, and one name a line; empty lines are passed over.

    A name is all of its line, as the lab has it: there the space after some of the Korean names is a letter.
    Raises UserError if there are less than two languages, a file has no names, or a name none of the letters of `kind`.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give one with a file Language.txt for each language")
    texts = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if len(texts) < 2:
        has = f"has the names of {texts[0].stem} only" if texts else "has no file Language.txt"
        raise UserError(f"{folder} {has}: it takes two languages or more, each in a file of its own")
    rows: list[Pair] = []
    for label, path in enumerate(texts):
        had = len(rows)
        for number, name in enumerate(ended(lines(path, "give a text file, one name a line")), 1):
            if not name.strip():
                continue
            if kind == "ascii" and not fold(name).strip():
                none = f"{path}, line {number}: {name!r} has none of the {len(ASCII)} letters"
                raise UserError(f"{none}: delete the line, or use --data.letters unicode")
            rows.append((name, label))
        if len(rows) == had:
            raise UserError(f"{path} has no names: write one a line, or delete the file")
    return tuple(path.stem for path in texts), rows


def unpack(archive: Path, folder: Path) -> None:
    """The names of PyTorch's archive as a folder, made whole or not at all.

    Nothing else of it is unpacked, wherever it says that it belongs. Raises UserError if it is broken.
    """
    print(f"reading {archive}, once", file=sys.stderr)
    with files.reported(f"{folder} cannot be written", "set ETUDE_DATA to another folder"):
        work = Path(tempfile.mkdtemp(prefix=".names-", dir=folder.parent))
        try:
            made = work / "names"
            made.mkdir()
            for name, content in members(archive).items():
                files.write(made / name, content)
            if not folder.exists():  # else another process was faster, with the same files
                made.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def members(archive: Path) -> dict[str, bytes]:
    """The files names/*.txt of a zip archive, by name."""
    found = {}
    try:
        with zipfile.ZipFile(archive) as whole:
            for member in whole.infolist():
                path = PurePosixPath(member.filename)
                if path.parts[-2:-1] == ("names",) and path.suffix == ".txt" and not path.name.startswith("."):
                    found[path.name] = whole.read(member)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{archive} is broken ({error}): delete it, it will be fetched again") from None
    if not found:
        raise UserError(f"{archive} holds no names/*.txt: delete it, it will be fetched again")
    return found


def sizes(parts: Sequence[Names]) -> str:
    return " / ".join(f"{len(part.names):,}" for part in parts)
