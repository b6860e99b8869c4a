"""The table of names-rnn's README, from packages/names-rnn/results/peers.csv and runs.csv.

    python benchmarks/names_runs.py # prints the table
    python benchmarks/names_runs.py --command "names-rnn train best" RUN ... # first adds finished, evaluated runs

Means with 95 % intervals (Student's t) over seeds, each of which has its own parts.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from etude.errors import UserError

RESULTS = Path(__file__).parents[1] / "packages/names-rnn/results"
AIMS = {
    "names-rnn train --data names": "accuracy >= 76 %",
    "names-rnn train best": "accuracy >= 84.5 %, macro-F1 >= 0.58",
    "names-rnn train lab": "70 % of the training names",
}
Row = dict[str, str]


def rows(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def row(command: str, run: Path) -> dict[str, Any]:
    """What a run folder says. Raises UserError if its run is not finished or not evaluated."""
    if not (run / "result.json").is_file() or not (run / "test.json").is_file():
        raise UserError(f"{run} is not finished, or not evaluated: do that first")
    result, test = (json.loads((run / name).read_text("utf-8")) for name in ("result.json", "test.json"))
    start = json.loads((run / "environment.json").read_text("utf-8"))[0]
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    found = {"command": command, "seed": start["seed"], "best_epoch": result["best_epoch"]}
    found |= {f"valid_{name}": round(result["valid"][name], 6) for name in ("accuracy", "macro_f1")}
    found |= {f"test_{name}": round(test[name], 6) for name in ("accuracy", "macro_f1", "top2", "loss")}
    found["highest_train_accuracy"] = round(max(epoch["train"]["accuracy"] for epoch in epochs), 4)
    return found | {"seconds": result["seconds"], "commit": start["git"]}


def told(values: list[float], factor: float, digits: int, unit: str = "") -> str:
    middle = f"{factor * mean(values):.{digits}f}"
    if len(values) > 1:
        half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
        middle += f" ± {factor * half:.{digits}f}"
    return middle + unit


def table(peers: list[Row], runs: list[Row]) -> list[str]:
    """The lines of the table: protocol `distinct`, test part."""
    lines = ["| command, or peer | seeds | test accuracy | test macro-F1 | truth among the two likeliest | aim |"]
    lines.append("|---|---|---|---|---|---|")
    for name in dict.fromkeys(peer["model"] for peer in peers):
        some = [p for p in peers if (p["model"], p["protocol"], p["part"]) == (name, "distinct", "test")]
        accuracy, f1 = ([float(peer[key]) for peer in some] for key in ("accuracy", "macro_f1"))
        lines.append(f"| {name} | {len(some)} | {told(accuracy, 100, 2, ' %')} | {told(f1, 1, 3)} | | |")
    for command in dict.fromkeys(run["command"] for run in runs):
        some = [run for run in runs if run["command"] == command]
        accuracy, f1, two = ([float(run[f"test_{key}"]) for run in some] for key in ("accuracy", "macro_f1", "top2"))
        numbers = f"**{told(accuracy, 100, 2, ' %')}** | {told(f1, 1, 3)} | {100 * mean(two):.1f} %"
        lines.append(f"| `{command}` | {len(some)} | {numbers} | {AIMS.get(command, '')} |")
    return [*lines, "| no function of the name | | 96.82 % | | | exact |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", help="that made the runs: their rows replace those of it that are there")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    file = RESULTS / "runs.csv"
    if given.runs:
        found = [row(given.command, run) for run in given.runs]
        kept = [line for line in rows(file) if line["command"] != given.command]
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *found])
    print(*table(rows(RESULTS / "peers.csv"), rows(file)), sep="\n")


if __name__ == "__main__":
    main()
