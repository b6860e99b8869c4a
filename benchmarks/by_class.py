"""What runs of a study have, class by class, on the test part.

    uv run --all-packages python benchmarks/by_class.py STUDY/SETTING/seed=N ...

Adds to results/by_class.csv of the package that the runs are of, from what `evaluate` kept in their test.json.
"""

import json
import sys
from pathlib import Path

from rows import put

PACKAGES = Path(__file__).parents[1] / "packages"


def main(runs: list[str]) -> None:
    for run in (Path(run).absolute() for run in runs):
        package = json.loads((run / "about.json").read_text("utf-8"))["task"].replace("_", "-")
        study, setting, seed = run.parts[-3:]
        about = {"study": study, "setting": setting, "seed": seed.removeprefix("seed=")}
        for name, scores in json.loads((run / "test.json").read_text("utf-8"))["per_class"].items():
            row = about | {"class": name} | {score: f"{x:.6g}" for score, x in scores.items()}
            put(PACKAGES / package / "results/by_class.csv", [row], *about, "class")


if __name__ == "__main__":
    main(sys.argv[1:])
