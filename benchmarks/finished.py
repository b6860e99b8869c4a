"""Adds finished runs to a package's results/runs.csv, of which tables are made.

    python benchmarks/finished.py --command "gauss-vae train best" RUN ... # evaluated: all scores of the test part, too
    python benchmarks/finished.py --command "gauss-vae train best" # says what is there: means over seeds

The package is the first word of the command. The lines of a command replace those of it that are there.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any, TypeVar

from rows import Row, put, rows

from etude.errors import UserError
from etude.train import checkpoint
from etude.train.run import read_config

PACKAGES = Path(__file__).parents[1] / "packages"
C = TypeVar("C")


def row(command: str, run: Path, tried: bool = False) -> dict[str, Any]:
    """What a run folder says, of its test part, too, unless it was only `tried`. Raises UserError if it cannot."""
    if not (run / "result.json").is_file() or not (tried or (run / "test.json").is_file()):
        raise UserError(f"{run} is not finished, or not evaluated: do that first")
    result = json.loads((run / "result.json").read_text("utf-8"))
    start = json.loads((run / "environment.json").read_text("utf-8"))[0]
    scores = {"valid": result["valid"]}
    if not tried:
        scores["test"] = json.loads((run / "test.json").read_text("utf-8"))
    found = {"command": command, "seed": start["seed"], "best_epoch": result["best_epoch"]}
    for part, told in scores.items():
        found |= {f"{part}_{name}": round(x, 6) for name, x in told.items() if isinstance(x, int | float)}
    return found | {"seconds": result["seconds"], "commit": start["git"]}


def restored(run: Path, config: type[C], task: ModuleType, *where: Any) -> tuple[C, Any]:
    """What a run was asked, and what the module `task` of its package makes of its best checkpoint.

    With `where`, a device, that has data and can be scored; without, it predicts.
    """
    parsed, state = read_config(run, config), checkpoint.read(run)
    one = task.restore(parsed, state["assets"], *where)
    checkpoint.fill(one.model, state, run)
    return parsed, one


def chosen(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some of what `row` has found, in this order: what every line starts with, these scores, and what it ends with."""
    return {name: found[name] for name in ("command", "seed", "best_epoch", *names, "seconds", "commit")}


def means(runs: list[Row], command: str) -> list[str]:
    """A line for each score of a command: its mean over the seeds."""
    some = [run for run in runs if run["command"] == command]
    names = [name for name, told in (some[0] if some else {}).items() if told and name.startswith(("valid_", "test_"))]
    return [f"{name}: {mean(float(run[name]) for run in some):.6g} ({len(some)} runs)" for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="that made the runs, as one types it")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    file = PACKAGES / given.command.split()[0] / "results" / "runs.csv"
    if given.runs:
        put(file, [row(given.command, run) for run in given.runs], "command")
    print(*means(rows(file), given.command), sep="\n")


if __name__ == "__main__":
    main()
