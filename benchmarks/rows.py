"""The files of results that benchmarks write and tables are made of: CSV, a line a run."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
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
