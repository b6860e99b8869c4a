"""The peer of qa-category: logistic regression on tf-idf of words and pairs, with 1, 10 and 100 % of the labels.

    python benchmarks/questions.py --data amazon        # writes packages/qa-category/results/peers.csv

It reads what the networks read: the same parts, labels and words (Treebank, lower case). How long n-grams are and how
much weights cost is chosen on validation, by macro-F1; the test part is scored once, with what was chosen.
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from etude.train.evidence import blocks, pseudo_values
from qa_category import data
from qa_category.config import Data, Text
from qa_category.words import splitter

LABELS = (0.01, 0.1, 1.0)
PLACE = Path(__file__).parents[1] / "packages/qa-category/results/peers.csv"


def macro_f1(truth: np.ndarray, answers: np.ndarray) -> float:
    return float(f1_score(truth, answers, average="macro"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="amazon", help="as `train --data` (default amazon)")
    parser.add_argument("--out", type=Path, default=PLACE, help="where the lines go")
    given = parser.parse_args()
    split = splitter(Text(), None)
    lines = [["labels", "questions", "longest", "c", "valid_macro_f1", "test_macro_f1", "test_accuracy", "test_error"]]
    for labels in LABELS:
        dataset = data.load(Data(given.data, labels=labels))
        train, valid, test = dataset.train, dataset.valid, dataset.test
        found: list[tuple[float, int, float, np.ndarray]] = []
        for longest in (1, 2):
            tfidf = TfidfVectorizer(
                ngram_range=(1, longest), sublinear_tf=True, tokenizer=split, token_pattern=None, lowercase=False
            )
            known, asked, tested = tfidf.fit_transform(train.texts), *map(tfidf.transform, (valid.texts, test.texts))
            for c in (1.0, 3.0, 10.0, 30.0, 100.0):
                model = LogisticRegression(C=c, max_iter=1000).fit(known, train.labels)
                found.append((macro_f1(valid.labels, model.predict(asked)), longest, c, model.predict(tested)))
        best, longest, c, answers = max(found, key=lambda one: one[0])
        whole = macro_f1(test.labels, answers)
        # The error of the test questions, as a study has it: by the jackknife over blocks (`etude.train.evidence`).
        rest = [np.setdiff1d(np.arange(len(answers)), block) for block in blocks(np.arange(len(answers)))]
        values = pseudo_values(whole, [macro_f1(test.labels[ids], answers[ids]) for ids in rest])
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        right = float((answers == test.labels).mean())
        scores = [f"{x:.6f}" for x in (best, whole, right, error)]
        lines.append([str(labels), str(len(train.texts)), str(longest), f"{c:g}", *scores])
        print(", ".join(f"{name} {value}" for name, value in zip(lines[0], lines[-1], strict=True)), flush=True)
    given.out.parent.mkdir(exist_ok=True)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


if __name__ == "__main__":
    main()
