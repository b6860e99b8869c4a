"""The tables of imdb-rnn's README, from packages/imdb-rnn/results/runs.csv and tried.csv.

    python benchmarks/imdb_runs.py # prints the tables
    python benchmarks/imdb_runs.py --command "imdb-rnn train best" RUN ... # first adds finished, evaluated runs
    python benchmarks/imdb_runs.py --tried --command "imdb-rnn train best --fit.lr 1e-3" RUN ... # not evaluated

What was tried was compared on validation, and never scored on the test part. `yelp` is the accuracy on the 1,000
sentences of $ETUDE_DATA/yelp/yelp_labelled.txt, which nothing is trained or chosen on.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import finished
import numpy as np
from rows import Row, put, rows

from etude.download import root
from etude.errors import UserError
from imdb_rnn import data, task
from imdb_rnn.config import Config
from imdb_rnn.reading import encode

RESULTS = Path(__file__).parents[1] / "packages/imdb-rnn/results"


def labelled(file: Path) -> tuple[list[str], np.ndarray]:
    """The sentences of a file `text<TAB>0 or 1`, and their labels. Raises UserError if it is something else."""
    if not file.is_file():
        raise UserError(f"there is no file {file}: put the labelled sentences of Yelp there")
    texts, labels = [], []
    for number, line in enumerate(data.read_lines(file), 1):
        text, _, label = line.rpartition("\t")
        if not text or label not in ("0", "1"):
            raise UserError(f"{file}, line {number}: not a sentence, a tab and 0 or 1; repair the line")
        texts.append(text)
        labels.append(int(label))
    return texts, np.array(labels)


def yelp(run: Path) -> float:
    """The accuracy of a run on the labelled sentences."""
    texts, labels = labelled(root() / "yelp" / "yelp_labelled.txt")
    _, found = finished.restored(run, Config, task)
    assert isinstance(found, task.Predictor)
    odds = found.odds(encode(texts, found.tokenizer, found.config.text))
    return float(((odds > 0) == labels).mean())


def row(command: str, run: Path, tried: bool) -> dict[str, Any]:
    """What a run folder says, of the test part unless `tried`. Raises UserError if that is not there yet."""
    found = finished.row(command, run, tried)
    if tried:
        return finished.chosen(found, "valid_accuracy")
    found["yelp_accuracy"] = round(yelp(run), 6)
    return finished.chosen(found, "valid_accuracy", "test_accuracy", "test_f1", "test_loss", "yelp_accuracy")


def told(values: list[float]) -> str:
    """The mean in per cent, and the single values where there are several."""
    middle = f"{100 * mean(values):.2f} %"
    return middle + (f" ({', '.join(f'{100 * value:.2f}' for value in values)})" if len(values) > 1 else "")


def table(runs: list[Row]) -> list[str]:
    """The lines of the table of what was scored on the test part."""
    lines = ["| command | seeds | validation accuracy | test accuracy | Yelp sentences | s per run |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for command in dict.fromkeys(run["command"] for run in runs):
        some = [run for run in runs if run["command"] == command]
        valid, test, other = (
            told([float(run[f"{key}_accuracy"]) for run in some]) for key in ("valid", "test", "yelp")
        )
        seconds = mean(float(run["seconds"]) for run in some)
        seeds = ", ".join(run["seed"] for run in some)
        lines.append(f"| `{command}` | {seeds} | {valid} | {test} | {other} | {seconds:.0f} |")
    return lines


def tried(runs: list[Row]) -> list[str]:
    """The lines of the table of what was tried: its validation part."""
    lines = ["| command | seeds | validation accuracy | best epoch |", "|---|---|---:|---:|"]
    for command in dict.fromkeys(run["command"] for run in runs):
        some = [run for run in runs if run["command"] == command]
        epochs = ", ".join(run["best_epoch"] for run in some)
        seeds = ", ".join(run["seed"] for run in some)
        lines.append(f"| `{command}` | {seeds} | {told([float(run['valid_accuracy']) for run in some])} | {epochs} |")
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
    for name, lines in (("runs.csv", table), ("tried.csv", tried)):
        if (RESULTS / name).is_file():
            print(*lines(rows(RESULTS / name)), "", sep="\n")


if __name__ == "__main__":
    main()
