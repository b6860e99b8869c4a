"""The tagger to beat: a conditional random field (Lafferty et al. 2001) on words, endings and shapes.

    ETUDE_DATA=... uv run --all-packages python benchmarks/crf.py [--test FILE.conllu ...] [--seed 0]

Trained as lstm-pos trains, on the training part of the NERUS file, it is scored on the validation part; trained on all
of the file, on every --test FILE. L-BFGS, 100 iterations, c1 0.1, c2 0.05 (sklearn-crfsuite).
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sklearn_crfsuite

from lstm_pos import data
from lstm_pos.data import Corpus
from lstm_pos.forms import SHAPES, shape

Sentence = tuple[list[str], list[str]]


def features(words: Sequence[str]) -> list[dict[str, str | bool]]:
    """Of every word its form, shape, endings and beginnings, and the forms and endings two words around it."""
    rows = []
    for i, word in enumerate(words):
        lower = word.lower()
        row: dict[str, str | bool] = {"word": lower, "shape": SHAPES[shape(word)], "first": i == 0}
        row |= {f"ending {n}": lower[-n:] for n in (1, 2, 3, 4)} | {f"beginning {n}": lower[:n] for n in (1, 2, 3)}
        for away in (-2, -1, 1, 2):
            if 0 <= i + away < len(words):
                other = words[i + away].lower()
                row |= {f"{away} word": other, f"{away} ending 3": other[-3:], f"{away} ending 2": other[-2:]}
            else:
                row[f"{away} edge"] = True
        rows.append(row)
    return rows


def trained(sentences: Iterable[Sentence]) -> sklearn_crfsuite.CRF:
    words, tags = zip(*sentences, strict=True)
    crf = sklearn_crfsuite.CRF(c1=0.1, c2=0.05, max_iterations=100, all_possible_transitions=True)
    return crf.fit([features(sentence) for sentence in words], tags)


def accuracy(crf: sklearn_crfsuite.CRF, sentences: Iterable[Sentence]) -> float:
    words, tags = zip(*sentences, strict=True)
    found = crf.predict([features(sentence) for sentence in words])
    pairs = [a == b for row, truth in zip(found, tags, strict=True) for a, b in zip(row, truth, strict=True)]
    return sum(pairs) / len(pairs)


def of(corpus: Corpus, numbers: Iterable[int]) -> list[Sentence]:
    return [corpus.sentence(int(n)) for n in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="nerus")
    parser.add_argument("--test", nargs="*", default=[], type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    dataset = data.load(asked.data, asked.seed)
    corpus = dataset.corpus
    crf = trained(of(corpus, dataset.train))
    print(f"{dataset.description}\nseed {asked.seed}, validation part: {accuracy(crf, of(corpus, dataset.valid)):.2%}")
    if asked.test:
        crf = trained(of(corpus, np.arange(len(corpus.sentences) - 1)))
        for file in asked.test:
            other = data.read(str(file))
            print(f"trained on all, {file}: {accuracy(crf, of(other, range(len(other.sentences) - 1))):.2%}")


if __name__ == "__main__":
    main()
