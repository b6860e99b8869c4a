"""The files of results that benchmarks write and tables are made of: CSV, a line a run."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, str]


def rows(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, found: Iterable[Mapping[str, Any]]) -> None:
    """The columns are those of the first line."""
    found = list(found)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, found[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
