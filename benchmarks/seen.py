"""What is read and what is remembered under names-rnn's protocol `rows`: test rows by what training has of their name.

    ETUDE_DATA=... python benchmarks/seen.py [--command "names-rnn train best --data.protocol rows" RUN ...]

Of each run, into packages/names-rnn/results/seen.csv, how many test rows there are of each kind, and how many of them
are right: the name stands in no training row; in one of the same language; or in some of other languages only.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rows import Row, put, rows, told

from etude.train import checkpoint
from etude.train.run import read_config
from names_rnn import task
from names_rnn.config import Config

FILE = Path(__file__).parents[1] / "packages/names-rnn/results/seen.csv"
NEW, SAME, OTHER = "in no training row", "in one of the same language", "in some of other languages only"


def measured(command: str, run: Path) -> list[dict[str, Any]]:
    parsed, state = read_config(run, Config), checkpoint.read(run)
    one = task.restore(parsed, state["assets"], torch.device("cpu"))
    assert isinstance(one, task.Surnames)
    checkpoint.fill(one.model, state, run)
    known: defaultdict[str, set[int]] = defaultdict(set)
    for name, label in zip(one.parts["train"].names, one.parts["train"].labels.tolist(), strict=True):
        known[name].add(label)
    test, found = one.parts["test"], {kind: [0, 0] for kind in (NEW, SAME, OTHER)}
    answers = one.probabilities(test.names).argmax(1).tolist()
    for name, label, answer in zip(test.names, test.labels.tolist(), answers, strict=True):
        count = found[NEW if name not in known else SAME if label in known[name] else OTHER]
        count[0] += 1
        count[1] += answer == label
    told = {"command": command, "seed": parsed.fit.seed}
    return [{**told, "kind": kind, "rows": n, "right": right} for kind, (n, right) in found.items()]


def table(found: list[Row]) -> list[str]:
    """The lines of the table: a row for each command, a column for each kind."""
    some: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        some.setdefault((row["command"], row["kind"]), []).append(row)
    lines = [
        "| test rows whose name stands | " + " | ".join((NEW, SAME, OTHER)) + " | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    shares = [mean(int(row["rows"]) for row in found if row["kind"] == kind) for kind in (NEW, SAME, OTHER)]
    lines.append(f"| of all | {' | '.join(f'{100 * share / sum(shares):.1f} %' for share in shares)} | |")
    for command in dict.fromkeys(row["command"] for row in found):
        kinds = [some[command, kind] for kind in (NEW, SAME, OTHER)]
        parts = [[int(row["right"]) / int(row["rows"]) for row in kind] for kind in kinds]
        # Two seeds have an interval of no use.
        right = [told(part if len(part) > 2 else [mean(part)], 100, 1, " %") for part in parts]
        lines.append(f"| right: `{command}` | {' | '.join(right)} | {len(kinds[0])} |")
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
