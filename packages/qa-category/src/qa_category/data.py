"""Files -> questions and their categories: the sample, TREC, Amazon's questions, any CSV file.

Which part a question falls into follows from the question itself, so that it is never in two, and from nothing else:
neither from the order of a file nor from the seed of a run.
"""

import ast
import csv
import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from etude import draw, files
from etude.download import fetch, root
from etude.errors import UserError
from etude.text.fingerprints import fingerprints
from etude.text.lines import clean, lines
from qa_category import sample
from qa_category.config import Data

DIVIDED, LABELLED = -1, -2  # the streams that say which part a question is in, and whether its category is used
TENTH = 0.1  # of the questions is validated on, as much is tested on
TREC = "https://cogcomp.seas.upenn.edu/Data/QA/QC"  # Li & Roth 2002
TRAINING, TEST = "train_5500.label", "TREC_10.label"
MCAULEY = "http://jmcauley.ucsd.edu/data/amazon/qa"  # McAuley & Yang 2016, Wan & McAuley 2016
AMAZON = (
    "Appliances Arts_Crafts_and_Sewing Automotive Baby Beauty Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry "
    "Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care Home_and_Kitchen Industrial_and_Scientific "
    "Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors "
    "Tools_and_Home_Improvement Toys_and_Games Video_Games"
).split()
SINGLE_ONLY = {"Appliances", "Arts_Crafts_and_Sewing", "Industrial_and_Scientific", "Software"}
Row = tuple[str, str]  # a question and its category


@dataclass(frozen=True)
class Questions:
    """One part of a data set: N questions, and int64 [N], the number of each one's category."""

    texts: list[str]
    labels: np.ndarray

    def only(self, kept: np.ndarray) -> "Questions":
        """Those that are kept, bool [N]."""
        return Questions([text for text, keep in zip(self.texts, kept, strict=True) if keep], self.labels[kept])


@dataclass(frozen=True)
class Dataset:
    name: str
    categories: tuple[str, ...]
    train: Questions
    valid: Questions
    test: Questions
    unlabelled: list[str]  # training questions whose category is not used
    note: str = ""  # what was left out

    @property
    def description(self) -> str:
        """One line for people."""
        sizes = " / ".join(f"{len(part.texts):,}" for part in (self.train, self.valid, self.test))
        more = f", {len(self.unlabelled):,} more without their category" if self.unlabelled else ""
        return f"{self.name}, {sizes} questions in {len(self.categories)} categories{more}{self.note}"


def load(config: Data) -> Dataset:
    """The parts of a data set, the same for every seed.

    Of rows with the same question (see `identity`) and category one counts. TREC has its own test part, and the sample
    its own parts; otherwise a tenth of the questions is tested on and a tenth of them validated on.
    Raises UserError for files that are missing or not what they should be, and for a category that a part lacks.
    """
    note = ""
    if config.name == "sample":
        train, valid, test = (Questions(texts, np.array(labels)) for texts, labels in sample.parts())
        categories: tuple[str, ...] = sample.CATEGORIES
    elif config.name == "trec":
        rows, tested = (distinct(read_trec(trec(name), config.fine)) for name in (TRAINING, TEST))
        known = {identity(question) for question, _ in tested}
        kept = [row for row in rows if identity(row[0]) not in known]
        note = f" (left out of training: {len(rows) - len(kept)} that the test part has too)"
        categories = tuple(sorted({category for _, category in rows}))
        u = places(kept, config.division)
        train, valid = (chosen(kept, within, categories) for within in (u >= TENTH, u < TENTH))
        test = chosen(tested, np.ones(len(tested), bool), categories)
    else:
        rows = read(config.name)
        categories = tuple(sorted({category for _, category in rows}))
        u = places(rows, config.division)
        cuts = (u >= 2 * TENTH, (u >= TENTH) & (u < 2 * TENTH), u < TENTH)
        train, valid, test = (chosen(rows, within, categories) for within in cuts)
    if len(categories) < 2:
        raise UserError(f"{config.name} has one category, {''.join(categories)!r}: it takes two or more to tell apart")
    name = config.name if config.name in ("sample", "trec", "amazon") else Path(config.name).name
    whole = Dataset(name, categories, train, valid, test, [], note)
    found = with_labels(whole, config.labels, config.division)
    check(found)
    return found


def whole(name: str, categories: tuple[str, ...]) -> Questions:
    """All distinct questions of a CSV file or folder, whose categories are among those that a model knows.

    Raises UserError for another category.
    """
    rows = read(name)
    if unknown := sorted({category for _, category in rows} - set(categories)):
        raise UserError(
            f"{name} has the category {unknown[0]!r}, which the run was not trained on: "
            f"it knows {', '.join(categories)}"
        )
    return chosen(rows, np.ones(len(rows), bool), categories)


def check(dataset: Dataset) -> None:
    """Raises UserError for a category without a question to train on, and for a part without questions."""
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.categories))
    if (counts == 0).any():
        name = dataset.categories[int(counts.argmin())]
        raise UserError(f"{dataset.name} has no training question of {name!r}: use more data.labels, or more questions")
    for what, part in (("validate", dataset.valid), ("test", dataset.test)):
        if not part.texts:
            raise UserError(f"{dataset.name} has no questions to {what} on: it takes about 30 or more")


def with_labels(dataset: Dataset, share: float, division: int) -> Dataset:
    """The data set with the categories of a share of its training questions: of each category about as large a part.

    A smaller share is part of a larger one, and every category keeps one question.
    """
    if share == 1:
        return dataset
    train = dataset.train
    u = uniform(train.texts, LABELLED, division)
    kept = np.zeros(len(train.texts), bool)
    for label in range(len(dataset.categories)):
        ids = np.flatnonzero(train.labels == label)
        order = ids[np.argsort(u[ids], kind="stable")]
        kept[order[: max(1, round(share * len(ids)))]] = True
    return replace(dataset, train=train.only(kept), unlabelled=train.only(~kept).texts)


def unseen(dataset: Dataset, seen: np.ndarray) -> Dataset:
    """The data set with a test part without questions that a run has `seen`, whose fingerprints, sorted, these are.

    There are such where it is divided otherwise than it was for the run. Raises UserError if no other is left.
    """
    new = ~np.isin(fingerprints(map(identity, dataset.test.texts)), seen)
    if new.all():
        return dataset
    if not new.any():
        raise UserError(f"{dataset.name} has no question that the run was not trained on: give another --data")
    left = f"{dataset.note} (left out: {int((~new).sum()):,} that the run was trained or chosen on)"
    return replace(dataset, test=dataset.test.only(new), note=left)


def identity(question: str) -> str:
    """What two questions have in common that count as the same: all but white space and capital letters."""
    return " ".join(question.split()).casefold()


def uniform(texts: Iterable[str], *stream: int) -> np.ndarray:
    """A number in [0, 1) for each question, which follows from its identity: float64 [N]."""
    return draw.uniform(fingerprints(map(identity, texts)), 1, *stream)[:, 0].double().numpy()


def places(rows: list[Row], division: int) -> np.ndarray:
    return uniform((question for question, _ in rows), DIVIDED, division)


def chosen(rows: list[Row], kept: np.ndarray, categories: tuple[str, ...]) -> Questions:
    ids = {category: id for id, category in enumerate(categories)}
    some = [row for row, keep in zip(rows, kept, strict=True) if keep]
    return Questions([question for question, _ in some], np.array([ids[category] for _, category in some], np.int64))


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first of rows with the same question and category."""
    found: dict[Row, Row] = {}
    for question, category in rows:
        found.setdefault((identity(question), category), (question, category))
    return list(found.values())


def read(name: str) -> list[Row]:
    """The distinct rows of `amazon`, of a CSV file, or of a folder with McAuley's files."""
    if name == "amazon":
        file = root() / "questions" / "amazon.csv"
        if not file.is_file():
            make(file)
        return distinct(read_csv(file))
    if Path(name).is_dir():
        found = sorted(path for path in Path(name).iterdir() if category_of(path))
        if not found:
            raise UserError(
                f"{name} has no file qa_CATEGORY.json.gz: give the folder of McAuley's files, or a CSV file"
            )
        return distinct((question, category_of(path)) for path in found for question in read_literals(path))
    return distinct(read_csv(Path(name)))


# -- CSV


def read_csv(file: Path) -> Iterator[Row]:
    """The rows of a CSV file (RFC 4180, UTF-8) with the columns question and category, in any order, among others."""
    remedy = "give a CSV file with the columns question,category"
    reader = csv.reader(lines(file, remedy), strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        missing = [name for name in ("question", "category") if name not in head]
        if missing:
            raise UserError(f"{file} has no column {missing[0]!r} in its first line; {remedy}")
        twice = [name for name in ("question", "category") if head.count(name) > 1]
        if twice:
            raise UserError(f"{file} has two columns {twice[0]!r}; leave one of them")
        q, c = head.index("question"), head.index("category")
        for row in reader:
            if not row:
                continue
            if len(row) != len(head):
                wrong = f"{len(row)} fields, but the first line has {len(head)}"
                raise UserError(f"{file}, line {reader.line_num}: it has {wrong}; quote a field that holds a comma")
            for name, value in (("question", row[q]), ("category", row[c])):
                if not value.strip():
                    raise UserError(f"{file}, line {reader.line_num}: the {name} is empty; delete the line")
            yield " ".join(row[q].split()), " ".join(row[c].split())
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}; {remedy}") from None


# -- TREC


def trec(name: str) -> Path:
    return fetch(f"{TREC}/{name}", root() / "questions" / "trec" / name, None, f"trec, {name}")


def read_trec(file: Path, fine: bool) -> Iterator[Row]:
    """Lines such as `NUM:date When did Hawaii become a state ?`, Latin-1: the coarse class NUM, or all of NUM:date."""
    with files.reported(f"{file} cannot be read", "delete it, it will be fetched again"):
        content = file.read_bytes().decode("latin-1")
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        category, _, question = clean(line).strip().partition(" ")
        if ":" not in category or not question.strip():
            raise UserError(
                f"{file}, line {number}: it is not CLASS:class and a question; delete it, to be fetched again"
            )
        yield " ".join(question.split()), category if fine else category.partition(":")[0]


# -- Amazon


def category_of(path: Path) -> str:
    """The category that the name of one of McAuley's files says, qa_X.json.gz or QA_X.json.gz; "" for other files."""
    name = path.name
    return name[3:-8] if name.lower().startswith("qa_") and name.endswith(".json.gz") else ""


def make(file: Path) -> None:
    """The CSV file of Amazon's questions, from McAuley's 38 files, which are fetched where they are not there."""
    folder = file.parent / "amazon-original"
    paths = [(f"{MCAULEY}/qa_{name}.json.gz", folder / f"qa_{name}.json.gz") for name in AMAZON]
    paths += [
        (f"{MCAULEY}/icdm/QA_{name}.json.gz", folder / "icdm" / f"QA_{name}.json.gz")
        for name in AMAZON
        if name not in SINGLE_ONLY
    ]
    fetched = [fetch(url, path, None, path.name) for url, path in paths]
    print(f"reading {len(fetched)} files in {folder}, once", file=sys.stderr)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["question", "category"])
    writer.writerows(distinct((question, category_of(path)) for path in fetched for question in read_literals(path)))
    with files.reported(f"{file} cannot be written", "set ETUDE_DATA to another folder"):
        files.write(file, out.getvalue().encode())


def read_literals(file: Path) -> list[str]:
    """The questions of one of McAuley's files: a line is a Python literal, read as one and never run.

    It has a `question`, or `questions` with a `questionText` each. Lines that have neither, or are no literal, are left
    out, and said on standard error. Raises UserError if all are, or if the file cannot be read.
    """
    found: list[str] = []
    wrong: Counter[str] = Counter()
    where: list[int] = []
    try:
        with files.reported(f"{file} cannot be read", "fetch it again"), gzip.open(file) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    found += questions_of(ast.literal_eval(line.decode().strip()))
                except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
                    wrong[files.reason(error)] += 1
                    where.append(number)
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file} is broken ({files.reason(error)}): delete it, to be fetched again") from None
    if where:
        [(most, _)] = wrong.most_common(1)
        told = f"{', '.join(map(str, where[:10]))}{', ...' if len(where) > 10 else ''} ({most})"
        if not found:
            raise UserError(
                f"{file} has no question: line {told}; each line should be a Python literal with a 'question'"
            )
        print(
            f"{file}: {len(where):,} lines are left out, as they are not literals of questions: {told}", file=sys.stderr
        )
    return found


def questions_of(entry: object) -> list[str]:
    """The questions of one line; raises TypeError or KeyError if it is something else."""
    if not isinstance(entry, dict):
        raise TypeError(f"it is a {type(entry).__name__}, not a dict")
    texts = [one["questionText"] for one in entry["questions"]] if "questions" in entry else [entry["question"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a question is not a text")
    return [" ".join(clean(text).split()) for text in texts if text.strip()]


# -- what `predict` reads


def read_lines(name: str) -> list[str]:
    """The questions of a text file, one a line.

    Raises UserError for an empty one, since there is nothing to answer, and for a table of questions and categories.
    """
    found = []
    for number, line in enumerate(lines(name, "give a text file, one question a line"), 1):
        if not line.strip():
            raise UserError(f"{name}, line {number}: the question is empty; delete the line")
        if number == 1 and {"question", "category"} <= {cell.strip() for cell in line.split(",")}:
            raise UserError(f"{name} is a table, not a question a line: evaluate RUN --data {name} scores it")
        found.append(" ".join(line.split()))
    return found
