"""Makes the tables, the verdicts and the numbers of all READMEs anew, from the result files that are committed.

    uv run nox -s tables                # or, in the workspace's environment: python benchmarks/tables.py
    python benchmarks/tables.py --check # writes nothing, and names what differs

What is made stands between two comments, on lines of their own or within a line, in every README.md and README.ru.md
and in CONTRIBUTING.md and docs/speed.md:

    <!-- made: study cell -->                                        table and verdicts of results/cell.csv
    <!-- made: slopes.table slopes.csv -->                           what benchmarks/slopes.py makes of that
    <!-- made: mean runs.csv test_accuracy .1% "command=train best" -->   of the lines that have this there
    ...
    <!-- end -->

A file is looked for in `results` beside the README, and PACKAGE/FILE in those of that package. In Russian a number
has a comma, and what is made of a study is in Russian, too. What has a decimal point, in a table, and is not made was
noted by hand: the section has to say that there is NO_FILE behind it; `python benchmarks/tables.py --check` (and so CI)
sees to that, too.
"""

import importlib
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import studies
from rows import rows

from etude.study.file import available

ROOT = Path(__file__).parents[1]
MADE = re.compile(r"(<!-- made: ([^\n]+?) -->\n?)(.*?)(\n?<!-- end -->)", re.DOTALL)
NO_FILE = ("no result file", "нет файла результатов")
COUNTS: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "gmean": statistics.geometric_mean,
    "median": statistics.median,
    "least": min,
    "most": max,
}


def documents() -> list[Path]:
    own = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "speed.md"]
    return [*sorted(ROOT.glob("README*.md")), *own, *sorted(ROOT.glob("packages/*/README*.md"))]


def russian(document: Path) -> bool:
    return document.stem.endswith(".ru")


def result(document: Path, name: str) -> Path:
    """The file of results that a document calls so."""
    package, _, file = name.rpartition("/")
    return (ROOT / "packages" / package if package else document.parent) / "results" / file


def number(count: Callable[[list[float]], float], file: Path, column: str, form: str, *only: str) -> str:
    """Of a column, in the lines whose other columns have the values `only` ("seed=0|1"), in the form .3f or .1%."""
    asked = [(key, values.split("|")) for key, _, values in (o.partition("=") for o in only)]
    chosen = [row for row in rows(file) if all(row[key] in values for key, values in asked)]
    return format(count([float(row[column]) for row in chosen]), form).replace("%", " %")


def made(document: Path, told: str) -> str:
    """What the words after `made:` ask for."""
    what, *words = shlex.split(told)
    if what == "study":
        return "\n".join(studies.section(studies.package(document.parent.name), *words, russian=russian(document)))
    if what in COUNTS:
        return number(COUNTS[what], result(document, words[0]), *words[1:])
    module, _, function = what.partition(".")
    given = [rows(result(document, word)) if word.endswith(".csv") else word for word in words]
    lines = getattr(importlib.import_module(module), function)(*given)
    return lines if isinstance(lines, str) else "\n".join(lines)


def remade(document: Path, text: str) -> str:
    """The text of a document with everything made anew. Raises ValueError that says where, if something cannot be."""

    def put(found: re.Match[str]) -> str:
        opening, told, _, closing = found.groups()
        try:
            new = made(document, told)
        except Exception as error:
            raise ValueError(f"{document.relative_to(ROOT)}: {told!r} cannot be made ({error!r})") from error
        inline = not opening.endswith("\n")
        closing = closing if inline else "\n<!-- end -->"
        return f"{opening}{new.replace('.', ',') if inline and russian(document) else new}{closing}"

    if text.count("<!-- made:") != len(MADE.findall(text)) or text.count("<!-- made:") != text.count("<!-- end -->"):
        raise ValueError(f"{document.relative_to(ROOT)}: a comment `made` has no `end`, or the other way round")
    return MADE.sub(put, text)


def unexplained(text: str) -> Iterator[str]:
    """The first lines of tables with decimals that nobody made, in sections that do not say so."""
    rest = re.sub(r"^```.*?^```", "", MADE.sub("", text), flags=re.MULTILINE | re.DOTALL)
    for chapter in re.split(r"^(?=## )", rest, flags=re.MULTILINE):
        beginning, *sections = re.split(r"^(?=### )", chapter, flags=re.MULTILINE)
        for section in (beginning, *sections):
            said = any(words in " ".join(f"{beginning}\n{section}".split()) for words in NO_FILE)
            for table in re.findall(r"(?:^\|.*\n?)+", section, flags=re.MULTILINE):
                if not said and re.search(r"\d[.,]\d+ %|\d\.\d", table):
                    yield table.splitlines()[0]


def forgotten(document: Path, text: str) -> list[str]:
    """The studies whose results are committed, and which the README beside them does not show."""
    files = sorted(document.parent.glob("results/*.csv"))
    asked = available(document.parent.name.replace("-", "_")) if files else []
    return [file.stem for file in files if file.stem in asked and f"<!-- made: study {file.stem} -->" not in text]


def main(check: bool) -> int:
    problems = []
    for document in documents():
        text, name = document.read_text("utf-8"), document.relative_to(ROOT).as_posix()
        try:
            new = remade(document, text)
        except ValueError as error:
            problems.append(str(error))
            continue
        if new != text and check:
            problems.append(f"{name} differs from its result files: `uv run nox -s tables`")
        elif new != text:
            document.write_text(new, "utf-8", newline="\n")
            print(f"made anew: {name}")
        problems += [f"{name} does not say that there is no result file behind {line}" for line in unexplained(new)]
        problems += [f"{name} does not show results/{study}.csv" for study in forgotten(document, new)]
    print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
