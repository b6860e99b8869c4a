"""The tables of names-rnn's README, from packages/names-rnn/results/peers.csv, runs.csv and tried.csv.

    python benchmarks/names_runs.py # prints the tables
    python benchmarks/names_runs.py --command "names-rnn train best" RUN ... # first adds finished, evaluated runs
    python benchmarks/names_runs.py --tried --command "names-rnn train best --model.ngrams 0" RUN ... # not evaluated

Means with 95 % intervals (Student's t) over seeds, each of which draws its own parts of the same names, so that they
are wider than of independent parts (Nadeau & Bengio 2003, see `etude.study.judge`). What was tried was compared on
validation, and never scored on the test part.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import finished
from rows import Row, put, rows
from rows import told as of_independent

from names_rnn.config import PACKAGE

RESULTS = Path(__file__).parents[1] / "packages/names-rnn/results"
BEST, PEER = "names-rnn train best", "logistic regression, edges"
ROWS = "--data.protocol rows"
told = partial(of_independent, shared=PACKAGE.redrawn)
PLAIN = f"{BEST} {ROWS} --logit-adjustment 0"
LEFT_OUT = f"{PLAIN} --model.letter-dropout 0.2 --fit.epochs 24"
AIMS = {
    "names-rnn train --data names": "accuracy >= 76 %",
    BEST: "accuracy >= 84.5 %, macro-F1 >= 0.58",
    "names-rnn train lab": "70 % in training",
    f"{BEST} {ROWS}": "accuracy >= 86 %",
    LEFT_OUT: "accuracy >= 86 %",
}


def row(command: str, run: Path, tried: bool) -> dict[str, Any]:
    """What a run folder says, of the test part unless `tried`. Raises UserError if that is not there yet."""
    found = finished.row(command, run, tried)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    found["highest_train_accuracy"] = round(max(epoch["train"]["accuracy"] for epoch in epochs), 4)
    test = [] if tried else [f"test_{name}" for name in ("accuracy", "macro_f1", "top2", "loss")]
    return finished.chosen(found, "valid_accuracy", "valid_macro_f1", *test, "highest_train_accuracy")


def table(peers: list[Row], runs: list[Row], protocol: str = "distinct") -> list[str]:
    """The lines of the table of a protocol: its test part."""
    lines = ["| command, or peer | seeds | test accuracy | test macro-F1 | truth among the two likeliest | "]
    lines[0] += "highest accuracy of an epoch in training | aim |"
    lines.append("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(peer["model"] for peer in peers):
        some = [p for p in peers if (p["model"], p["protocol"], p["part"]) == (name, protocol, "test")]
        accuracy, f1 = ([float(peer[key]) for peer in some] for key in ("accuracy", "macro_f1"))
        lines.append(f"| {name} | {len(some)} | {told(accuracy, 100, 2, ' %')} | {told(f1, 1, 3)} | | | |")
    for command in dict.fromkeys(run["command"] for run in runs if (ROWS in run["command"]) == (protocol == "rows")):
        some = [run for run in runs if run["command"] == command]
        accuracy, f1, two = ([float(run[f"test_{key}"]) for run in some] for key in ("accuracy", "macro_f1", "top2"))
        train = mean(float(run["highest_train_accuracy"]) for run in some)
        numbers = (
            f"**{told(accuracy, 100, 2, ' %')}** | {told(f1, 1, 3)} | {100 * mean(two):.1f} % | {100 * train:.1f} %"
        )
        lines.append(f"| `{command}` | {len(some)} | {numbers} | {AIMS.get(command, '')} |")
    most = {"distinct": "96.82 %", "rows": "97.14 %"}[protocol]
    return [*lines, f"| no function of the name | | {most} | | | | exact |"]


def over(runs: list[Row], seeds: str) -> str:
    """What `best` has over these seeds alone, "0,1,2"."""
    some = [run for run in runs if run["command"] == BEST and run["seed"] in seeds.split(",")]
    accuracy, f1 = ([float(run[f"test_{key}"]) for run in some] for key in ("accuracy", "macro_f1"))
    return f"{told(accuracy, 100, 2, ' %')} and {told(f1, 1, 3)} in macro-F1"


def ahead(peers: list[Row], runs: list[Row], protocol: str = "distinct") -> str:
    """How far `best` is ahead of the strongest peer, seed by seed: of the same parts, so in a narrower interval."""
    best = {run["seed"]: run for run in runs if run["command"] == BEST + (f" {ROWS}" if protocol == "rows" else "")}
    kind = (PEER, protocol, "test")
    peer = {p["seed"]: p for p in peers if (p["model"], p["protocol"], p["part"]) == kind and p["seed"] in best}
    accuracy, f1 = (
        [float(best[seed][f"test_{key}"]) - float(peer[seed][key]) for seed in best] for key in ("accuracy", "macro_f1")
    )
    return f"On the same parts `best` is ahead by {told(accuracy, 100, 2)} points, and by {told(f1, 1, 3)} in macro-F1"


def left_out(runs: list[Row]) -> str:
    """What leaving out letters in training is worth under `rows`, seed by seed."""
    plain, other = (
        {r["seed"]: float(r["test_accuracy"]) for r in runs if r["command"] == command} for command in (PLAIN, LEFT_OUT)
    )
    return f"{told([other[seed] - plain[seed] for seed in plain], 100, 2)} points"


def tried(runs: list[Row]) -> list[str]:
    """The lines of the table of what was tried: its validation part."""
    lines = ["| command | seeds | validation accuracy | validation macro-F1 |", "|---|---|---|---|"]
    for command in dict.fromkeys(run["command"] for run in runs):
        some = [run for run in runs if run["command"] == command]
        accuracy, f1 = ([float(run[f"valid_{key}"]) for run in some] for key in ("accuracy", "macro_f1"))
        lines.append(f"| `{command}` | {len(some)} | {told(accuracy, 100, 2, ' %')} | {told(f1, 1, 3)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", help="that made the runs: their rows replace those of it that are there")
    parser.add_argument("--tried", action="store_true", help="the runs were made to choose, and are not evaluated")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    file = RESULTS / ("tried.csv" if given.tried else "runs.csv")
    if given.runs:
        put(file, [row(given.command, run, given.tried) for run in given.runs], "command")
    peers, runs, others = (rows(RESULTS / name) for name in ("peers.csv", "runs.csv", "tried.csv"))
    for protocol in ("distinct", "rows"):
        print(*table(peers, runs, protocol), "", ahead(peers, runs, protocol), "", sep="\n")
    print(over(runs, "0,1,2,3,4"), over(runs, "9,10,11,12,13"), "", sep="\n")
    print(*tried(others), sep="\n")


if __name__ == "__main__":
    main()
