"""What runs of a study had in their last epoch, in training and on validation.

    uv run --all-packages python benchmarks/last_epoch.py STUDY/SETTING/seed=N ...

Adds to results/last_epoch.csv of the package that the runs are of. Training scores are means over the epoch, of the
weights as they were at each step.
"""

import json
import sys
from pathlib import Path

from rows import place_of, put, results_of


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        row = json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
        about = place_of(run)
        scores = {f"{part}_{name}": f"{x:.6g}" for part in ("train", "valid") for name, x in row[part].items()}
        put(results_of(run) / "last_epoch.csv", [about | {"epoch": row["epoch"]} | scores], *about)


if __name__ == "__main__":
    main(sys.argv[1:])
