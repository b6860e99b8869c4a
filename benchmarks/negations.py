"""Does an LSTM read negations better than convolutions do? Accuracy of reviews with and without one.

    ETUDE_DATA=... uv run --package imdb-rnn python benchmarks/negations.py OUT   # writes results/negations.csv

OUT is the folder of the study `model-search`. A review has a negation if one of the words below stands among those that
were read of it (`text.max-length`, roughly: words are counted here, pieces there). How far it stands from what it
negates is not looked at.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
from forgetting import restored
from rows import write

from etude.study.file import load_of
from etude.study.outcome import fresh, measure
from etude.study.search import found as searched
from imdb_rnn.config import PACKAGE

RESULTS = Path(__file__).parents[1] / "packages/imdb-rnn/results/negations.csv"
NEGATION = re.compile(r"\b(not|no|never|nothing|nobody|none|nor|neither|without|hardly|cannot)\b|n't\b", re.IGNORECASE)


def measured(run: Path) -> list[dict[str, Any]]:
    """A line for the reviews with a negation, and one for those without."""
    parsed, one = restored(run)
    reviews = one.parts.reviews("test")
    right = (one.odds(one.parts.rows("test")) > 0) == reviews.labels
    read = [" ".join(text.split()[: parsed.text.max_length]) for text in reviews.texts]
    has = np.array([bool(NEGATION.search(text)) for text in read])
    about = {"kind": parsed.model.kind, "seed": parsed.fit.seed}
    return [
        about | {"negation": name, "accuracy": float(right[some].mean()), "reviews": int(some.sum())}
        for name, some in (("yes", has), ("no", ~has))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    place = parser.parse_args().out
    asked = searched(load_of(PACKAGE, str(place / "study.yaml")), place)
    best = fresh(asked, [measure(asked, place, trial) for trial in asked.trials()])
    lines = [line for trial in best for line in measured(trial.folder(place))]
    write(RESULTS, lines)
    for kind in dict.fromkeys(line["kind"] for line in lines):
        for name in ("yes", "no"):
            scores = [line["accuracy"] for line in lines if (line["kind"], line["negation"]) == (kind, name)]
            print(f"{kind} {name}: {np.mean(scores):.4f} ({', '.join(f'{score:.4f}' for score in scores)})")


if __name__ == "__main__":
    main()
