"""Does a plain RNN forget, and an LSTM not? Where in a review a network that answers from its last state looks.

    imdb-rnn study forgetting       # or `train` with the flags in studies/forgetting.yaml
    ETUDE_DATA=... uv run --package imdb-rnn python benchmarks/forgetting.py RUN ...

Of each run, on the test reviews, into packages/imdb-rnn/results/positions.csv:

- `length`: accuracy of reviews of up to so many tokens, and more than the line before;
- `last`, `first`: accuracy where only so many tokens of the end, or of the beginning, are read;
- `gradient`: the mean length of the gradient of a review's loss with respect to the embedding of the token so many
  steps before its end, as a part of that of the last token; of reviews of at least 101 tokens.

Expected, and written before any run: the gradient of the plain RNN falls geometrically, to below a hundredth within 20
tokens of the end, so that it answers from these: reading the last 20 only costs it nothing, and of long reviews it
knows no more than of short ones. The LSTM's gradient falls by less than a factor of ten over 100 tokens,
and each halving of what is read costs it accuracy, whichever end is cut off.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import finished
import numpy as np
import torch
from rows import Row, rows, write

from imdb_rnn import task
from imdb_rnn.config import Config
from imdb_rnn.positions import gradients

RESULTS = Path(__file__).parents[1] / "packages/imdb-rnn/results"
LENGTHS = (60, 90, 120, 150, 1000)
READ = (5, 10, 20, 40, 80, 1000)
BACK = (0, 1, 2, 5, 10, 20, 50, 100)
LONG = 500  # reviews that the gradient is measured on


def restored(run: Path) -> tuple[Config, task.Sentiment]:
    """What a run was asked, and its classifier with its data."""
    parsed, one = finished.restored(run, Config, task, torch.device("cpu"))
    assert isinstance(one, task.Sentiment)
    return parsed, one


def measured(run: Path) -> list[dict[str, Any]]:
    parsed, one = restored(run)
    texts, labels = one.parts.rows("test"), one.parts.reviews("test").labels
    lengths = np.array([len(row) for row in texts])
    right = (one.odds(texts) > 0) == labels
    found: list[tuple[str, int, float, int]] = []
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        some = (low < lengths) & (lengths <= high)
        if some.any():
            found.append(("length", high, float(right[some].mean()), int(some.sum())))
    for most in READ:
        for what, cut in (("last", slice(-most, None)), ("first", slice(most))):
            answers = one.odds([row[cut] for row in texts]) > 0
            found.append((what, most, float((answers == labels).mean()), len(texts)))
    long = np.flatnonzero(lengths > BACK[-1])[:LONG]
    places = [back + 1 for back in BACK]
    slopes = gradients(one.model.eval().readers, [texts[n] for n in long], labels[long], one.pad_id, places)
    found += [("gradient", back, float(slope), len(long)) for back, slope in zip(BACK, slopes / slopes[0], strict=True)]
    names = ("what", "tokens", "value", "reviews")
    return [
        {"kind": parsed.model.kind, "seed": parsed.fit.seed, **dict(zip(names, line, strict=True))} for line in found
    ]


def table(found: list[Row], *whats: str) -> list[str]:
    """The lines of a table of these measures: a row for each number of tokens, a column for each kind of network."""
    kinds = list(dict.fromkeys(row["kind"] for row in found))
    lines = [f"| measure | tokens | {' | '.join(kinds)} |", "|---|---:|" + "---:|" * len(kinds)]
    for what in whats:
        for tokens in dict.fromkeys(row["tokens"] for row in found if row["what"] == what):
            told = []
            for kind in kinds:
                key = (what, tokens, kind)
                values = [float(row["value"]) for row in found if (row["what"], row["tokens"], row["kind"]) == key]
                told.append(f"{mean(values):.2g}" if what == "gradient" else f"{100 * mean(values):.1f} %")
            lines.append(f"| {what} | {tokens} | {' | '.join(told)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    file = RESULTS / "positions.csv"
    if given.runs:
        RESULTS.mkdir(exist_ok=True)
        write(file, [line for run in given.runs for line in measured(run)])
    print(*table(rows(file), "length", "last", "first", "gradient"), sep="\n")


if __name__ == "__main__":
    main()
