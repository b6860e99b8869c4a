"""What runs of a study have, class by class, on the test part.

    uv run --all-packages python benchmarks/by_class.py STUDY/SETTING/seed=N ...

Adds to results/by_class.csv of the package that the runs are of, from what `evaluate` kept in their test.json.
"""

import json
import sys
from pathlib import Path

from rows import place_of, put, results_of


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        about, of_test = place_of(run), json.loads((run / "test.json").read_text("utf-8"))
        found = [
            about | {"class": name} | {score: f"{x:.6g}" for score, x in scores.items()}
            for name, scores in of_test["per_class"].items()
        ]
        put(results_of(run) / "by_class.csv", found, *about)


if __name__ == "__main__":
    main(sys.argv[1:])
