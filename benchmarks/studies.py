"""What a package's README says of its studies: a table and verdicts, from packages/PACKAGE/results/STUDY.csv.

    python benchmarks/studies.py grad-flow

The prose around them is written by hand; `benchmarks/tables.py` puts these lines into the README.
"""

import importlib
import sys
from pathlib import Path

from etude.markdown import literal
from etude.package import Package
from etude.study.file import available, load
from etude.study.outcome import conclude, kept
from etude.study.table import table, verdict_line

PACKAGES = Path(__file__).parents[1] / "packages"


def package(name: str) -> Package:
    found: Package = importlib.import_module(f"{name.replace('-', '_')}.config").PACKAGE
    return found


def section(package: Package, name: str) -> list[str]:
    """The lines for one study, whose results.csv is committed. Raises UserError if that is another study's."""
    study = load(name, package.module, package.scores)
    outcome = conclude(study, kept(study, PACKAGES / package.name / "results" / f"{name}.csv"))
    rows = [[literal(cell) for cell in line] for line in table(outcome)]
    rows.insert(1, ["---:"] * len(rows[0]))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    said = [*(verdict_line(verdict, study.metric) for verdict in outcome.verdicts), *outcome.edges, *outcome.problems]
    return [*lines, "", *(f"- {literal(line)}" for line in said)]


def sections(name: str) -> dict[str, list[str]]:
    """By study, of those of this package whose results are committed."""
    there = {file.stem for file in (PACKAGES / name / "results").glob("*.csv")}
    of = package(name)
    return {study: section(of, study) for study in available(of.module) if study in there}


if __name__ == "__main__":
    for study, lines in sections(sys.argv[1]).items():
        print(f"## {study}\n", *lines, "", sep="\n")
