"""The files of results that benchmarks write and tables are made of: CSV, a line a run; and how they say a mean."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, str]


def rows(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def put(file: Path, command: str, found: Iterable[Mapping[str, Any]]) -> None:
    """Writes lines into a file in place of those of the same `command` that are there."""
    kept = [line for line in rows(file) if line["command"] != command] if file.is_file() else []
    file.parent.mkdir(exist_ok=True)
    write(file, [*kept, *found])


def write(file: Path, found: Iterable[Mapping[str, Any]]) -> None:
    """The columns are those of all lines, in the order in which they come; what a line lacks is left empty."""
    found = list(found)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, dict.fromkeys(name for line in found for name in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def told(values: list[float], factor: float, digits: int, unit: str = "") -> str:
    """The mean, and its 95 % interval (Student's t) if there are two values or more."""
    from scipy.stats import t as student

    middle = f"{factor * mean(values):.{digits}f}"
    if len(values) > 1:
        half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
        middle += f" ± {factor * half:.{digits}f}"
    return middle + unit
