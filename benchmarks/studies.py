"""What a package's README says of its studies: a table and verdicts, from packages/PACKAGE/results/STUDY.csv.

    python benchmarks/studies.py grad-flow

The prose around them is written by hand; `benchmarks/tables.py` puts these lines into README.md, and, in Russian and
without the reasons, which are written in English only, into README.ru.md.
"""

import importlib
import re
import sys
from pathlib import Path

from etude.markdown import literal
from etude.package import Package
from etude.study.file import available, load_of
from etude.study.judge import Verdict
from etude.study.outcome import Outcome, conclude, kept
from etude.study.table import probability, table, verdict_line

PACKAGES = Path(__file__).parents[1] / "packages"
RUSSIAN = {"as expected": "сбылось", "not expected": "опровергнуто", "unclear": "неясно"}
RAN = re.compile(r"run with (.+), where the study has (.+)")
EDGE = re.compile(r"(.+?)=(\S+) is (?:at )?the edge of its range\b.*\((.+)\): widen it")


def package(name: str) -> Package:
    found: Package = importlib.import_module(f"{name.replace('-', '_')}.config").PACKAGE
    return found


def section(package: Package, name: str, *, russian: bool = False) -> list[str]:
    """The lines for one study, whose results.csv is committed. Raises UserError if that is another study's."""
    study = load_of(package, name)
    outcome = conclude(study, kept(study, PACKAGES / package.name / "results" / f"{name}.csv"))
    cells = russian_table(outcome) if russian else table(outcome)
    rows = [[literal(cell) for cell in line] for line in cells]
    rows.insert(1, ["---:"] * len(rows[0]))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    line = russian_verdict if russian else verdict_line
    notes = russian_notes(outcome) if russian else [*outcome.edges, *outcome.problems]
    said = [*(line(verdict, study.metric) for verdict in outcome.verdicts), *notes]
    return [*lines, "", *(f"- {literal(each)}" for each in said)]


def russian_table(outcome: Outcome) -> list[list[str]]:
    """The table with its head in Russian, and commas in what was measured; settings stay as a command takes them."""
    study, (head, *rows) = outcome.study, table(outcome)
    knobs = len(study.compare) + len(study.tune)
    names = [cell.replace(" (tuned)", " (подобрано)") for cell in head[:knobs]]
    names += [f"{study.metric}, тест", "95 % интервал", f"{study.metric}, валидация"]
    names += ["параметры", "с на запуск", "запуски"]
    return [names, *([*row[:knobs], *map(comma, row[knobs:-1]), row[-1].replace(" of ", " из ")] for row in rows)]


def comma(cell: str) -> str:
    """A number, or an interval of two, as it is written in Russian; thousands have a space that does not break."""
    return cell.replace(", ", "; ").replace(",", "\N{NO-BREAK SPACE}").replace(".", ",")


def russian_verdict(verdict: Verdict, metric: str) -> str:
    """Claim, verdict and the numbers behind it."""
    told = []
    if verdict.difference is not None:
        told.append(f"разница {metric} {verdict.difference:+.4f}")
        if verdict.interval is not None:
            told.append(f"95 % интервал от {verdict.interval[0]:+.4f} до {verdict.interval[1]:+.4f}")
        if verdict.claim.relation == "=":
            told.append(f"допуск {verdict.claim.margin:g}")
        if verdict.p is not None:
            told.append(f"p {probability(verdict.p).replace('below', 'меньше')}")
    if verdict.interval is None:
        told.append("интервала нет: по этим запускам разброс неизвестен")
    numbers = [re.sub(r"-(?=\d)", "\N{MINUS SIGN}", re.sub(r"(?<=\d)\.(?=\d)", ",", each)) for each in told]
    return f"{verdict.claim.text}: {RUSSIAN[verdict.verdict]} ({'; '.join(numbers)})"


def russian_notes(outcome: Outcome) -> list[str]:
    """At which settings the best tuned value is an end of its range, and how many runs do not count."""
    found = [EDGE.fullmatch(line) for line in outcome.edges]
    edges = [f"{edge[1]}={edge[2]} ({edge[3]})" for edge in found if edge]
    notes = [f"лучшее из перебранных значений — крайнее, диапазон стоит расширить: {', '.join(edges)}"] if edges else []
    ran = [match for line in outcome.edges if (match := RAN.fullmatch(line))]
    notes += [
        f"запущено с {one[1]}, в самом исследовании — {one[2].replace('the default', 'по умолчанию')}" for one in ran
    ]
    apart = [line for line in outcome.edges if line.endswith("which may count, too")]
    for english, russian in (("commits", "коммитах"), ("machines", "машинах")):
        of = [claims for claims, _, rest in (line.partition(": the two sides") for line in apart) if english in rest]
        told = ", ".join(re.sub(r"(\d+) of (\d+) claims", r"\1 из \2 ожиданий", claims) for claims in of)
        notes += [f"{told}: стороны считались на разных {russian}, это тоже могло сказаться"] if told else []
    failed = sum(bool(run.problem) for run in outcome.runs)
    if failed:
        notes.append(f"не учтено запусков: {failed} из {len(outcome.runs)}; почему, сказано в отчёте")
    if len(edges) + len(apart) + len(ran) < len(outcome.edges) or (outcome.problems and not failed):
        notes.append("есть оговорки, о них сказано в отчёте")
    return notes


def sections(name: str) -> dict[str, list[str]]:
    """By study, of those of this package whose results are committed."""
    there = {file.stem for file in (PACKAGES / name / "results").glob("*.csv")}
    of = package(name)
    return {study: section(of, study) for study in available(of.module) if study in there}


if __name__ == "__main__":
    for study, lines in sections(sys.argv[1]).items():
        print(f"## {study}\n", *lines, "", sep="\n")
