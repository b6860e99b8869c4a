"""What simple rules make of names: the peers of names-rnn, each on the same parts as the network of the same seed.

    ETUDE_DATA=... python benchmarks/names.py --data names --out packages/names-rnn/results/peers.csv

The most frequent language; naive Bayes and logistic regression (scikit-learn) on counts and tf-idf of n-grams of
1 to 4 letters, learnt from the training part; alpha 0.1 and C 10, not tuned. `edges`: the n-grams also see where a name
begins and ends (scikit-learn's char_wb, in lower case). One line a model, seed and part: accuracy and macro-F1.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from names_rnn import data
from names_rnn.config import Data

PLAIN: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 4), "lowercase": False}
EDGES: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (1, 4)}


def logistic(grams: dict[str, Any]) -> Any:
    return make_pipeline(TfidfVectorizer(**grams), LogisticRegression(C=10, max_iter=1000))


PEERS: dict[str, Callable[[], Any]] = {
    "most frequent language": DummyClassifier,
    "naive Bayes": lambda: make_pipeline(CountVectorizer(**PLAIN), MultinomialNB(alpha=0.1)),
    "logistic regression": lambda: logistic(PLAIN),
    "logistic regression, edges": lambda: logistic(EDGES),
}
COLUMNS = ("model", "letters", "protocol", "seed", "part", "accuracy", "macro_f1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--protocol", choices=("distinct", "rows"), default="distinct")
    parser.add_argument("--letters", choices=("ascii", "unicode"), default="ascii")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--out", help="a CSV file, to which is added")
    given = parser.parse_args()
    lines: list[tuple[Any, ...]] = []
    for seed in given.seeds:
        found = data.load(Data(given.data, given.protocol, given.letters), seed)
        for name, make in PEERS.items():
            model = make().fit(found.train.names, found.train.labels)
            for part, names in (("valid", found.valid), ("test", found.test)):
                said = model.predict(names.names)
                accuracy, f1 = np.mean(said == names.labels), f1_score(names.labels, said, average="macro")
                lines.append((name, given.letters, given.protocol, seed, part, round(accuracy, 6), round(f1, 6)))
            print(*lines[-1], file=sys.stderr)
    for name in PEERS:
        for part in ("valid", "test"):
            rows = [line for line in lines if line[0] == name and line[4] == part]
            told = [
                f"{mean(x):.4f} ± {stdev(x) if len(x) > 1 else 0:.4f}" for x in zip(*(r[5:] for r in rows), strict=True)
            ]
            print(f"{name:<28}{part:<7}accuracy {told[0]}  macro-F1 {told[1]}")
    if given.out:
        with open(given.out, "a", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerows([COLUMNS, *lines] if not out.tell() else lines)


if __name__ == "__main__":
    main()
