"""The files of results that benchmarks write and tables are made of: CSV, a line a run; and how they say a mean."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

Row = dict[str, str]


def rows(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def place_of(run: Path) -> Row:
    """Of which study, setting and seed the run of a study is: the columns that name it in a file of runs."""
    study, setting, seed = run.absolute().parts[-3:]
    return {"study": study, "setting": setting, "seed": seed.removeprefix("seed=")}


def results_of(run: Path) -> Path:
    """The folder of committed results of the package that a run is of."""
    package = json.loads((run / "about.json").read_text("utf-8"))["task"].replace("_", "-")
    return Path(__file__).parents[1] / "packages" / package / "results"


def put(file: Path, found: Iterable[Mapping[str, Any]], *of: str) -> None:
    """Writes lines into a file in place of those there that have the values of a new one in the columns `of`.

    Two may do so at once: between reading and writing nobody else does either.
    """
    found = list(found)
    new = {tuple(str(line[column]) for column in of) for line in found}
    file.parent.mkdir(exist_ok=True)
    with FileLock(Path(gettempdir()) / f"etude-{file.parts[-3]}-{file.name}.lock"):
        kept = [line for line in (rows(file) if file.is_file() else []) if tuple(line[c] for c in of) not in new]
        write(file, [*kept, *found])


def write(file: Path, found: Iterable[Mapping[str, Any]]) -> None:
    """The columns are those of all lines, in the order in which they come; what a line lacks is left empty."""
    found = list(found)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, dict.fromkeys(name for line in found for name in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def told(values: list[float], factor: float, digits: int, unit: str = "", shared: float = 0.0) -> str:
    """The mean, and its 95 % interval (Student's t) if there are two values or more.

    `shared`: where each seed draws its own parts of the same data, the size of a test part to that of a training part
    (`Package.redrawn`; Nadeau & Bengio 2003).
    """
    from scipy.stats import t as student

    middle = f"{factor * mean(values):.{digits}f}"
    if len(values) > 1:
        half = student.ppf(0.975, len(values) - 1) * stdev(values) * (1 / len(values) + shared) ** 0.5
        middle += f" ± {factor * half:.{digits}f}"
    return middle + unit
