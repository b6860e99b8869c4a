"""What is read and what is remembered under names-rnn's protocol `rows`: test rows by what training has of their name.

    ETUDE_DATA=... python benchmarks/seen.py --command "names-rnn train best --data.protocol rows" RUN ...

Without any it prints the table of the README.

Of each run, into packages/names-rnn/results/seen.csv, how many test rows there are of each kind, and how many of them
are right: the name stands in no training row; in one of the same language; or in some of other languages only.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import finished
import torch
from names_runs import told
from rows import Row, put, rows

from names_rnn import task
from names_rnn.config import Config

FILE = Path(__file__).parents[1] / "packages/names-rnn/results/seen.csv"
NEW, SAME, OTHER = "in no training row", "in one of the same language", "in some of other languages only"


def measured(command: str, run: Path) -> list[dict[str, Any]]:
    parsed, one = finished.restored(run, Config, task, torch.device("cpu"))
    assert isinstance(one, task.Surnames)
    known: defaultdict[str, set[int]] = defaultdict(set)
    for name, label in zip(one.parts["train"].names, one.parts["train"].labels.tolist(), strict=True):
        known[name].add(label)
    test, found = one.parts["test"], {kind: [0, 0] for kind in (NEW, SAME, OTHER)}
    answers = one.probabilities(test.names).argmax(1).tolist()
    for name, label, answer in zip(test.names, test.labels.tolist(), answers, strict=True):
        count = found[NEW if name not in known else SAME if label in known[name] else OTHER]
        count[0] += 1
        count[1] += answer == label
    of = {"command": command, "seed": parsed.fit.seed}
    return [{**of, "kind": kind, "rows": n, "right": right} for kind, (n, right) in found.items()]


def table(found: list[Row]) -> list[str]:
    """The lines of the table: a row for each command, a column for each kind."""
    lines = [
        "| test rows whose name stands | " + " | ".join((NEW, SAME, OTHER)) + " | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    shares = [mean(int(row["rows"]) for row in found if row["kind"] == kind) for kind in (NEW, SAME, OTHER)]
    lines.append(f"| of all | {' | '.join(f'{100 * share / sum(shares):.1f} %' for share in shares)} | |")
    for command in dict.fromkeys(row["command"] for row in found):
        some = [row for row in found if row["command"] == command]
        right = [[int(r["right"]) / int(r["rows"]) for r in some if r["kind"] == kind] for kind in (NEW, SAME, OTHER)]
        cells = " | ".join(told(part, 100, 1, " %") for part in right)
        lines.append(f"| right: `{command}` | {cells} | {len(right[0])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", help="that made the runs: their rows replace those of it that are there")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    if given.runs:
        put(FILE, [row for run in given.runs for row in measured(given.command, run)], "command")
    print(*table(rows(FILE)), sep="\n")


if __name__ == "__main__":
    main()
