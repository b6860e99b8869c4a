"""How many words of questions have no vector, by how a question is cut into words; and what letters say of a word.

    python benchmarks/unknown_words.py --data trec --vectors glove.6B.50d

For each splitter, in lower case and as written: the part of the words without a vector, how many different ones, and
thousands of questions a second. Pieces are learnt from the same questions. Then, for words that the regression was not
fitted on, the mean cosine between their vectors and what their letters say, beside that with the mean vector.
"""

import argparse
import time

import numpy as np

from qa_category import data, vectors, words
from qa_category.config import Data, Text

HELD_OUT = 2_000  # words after those that the regression is fitted on


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(norms, 1e-12)).mean())


def main() -> None:
    takes = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    takes.add_argument("--data", default="sample")
    takes.add_argument("--vectors", required=True)
    takes.add_argument("--most", type=int, default=50_000)
    takes.add_argument("--pieces", action="store_true", help="also bpe, wordpiece and unigram, which take longer")
    given = takes.parse_args()
    dataset, known = data.load(Data(given.data)), vectors.load(given.vectors, given.most)
    texts = dataset.train.texts
    print(f"{len(texts):,} training questions of {given.data}; {len(known.words):,} words of {given.vectors}")
    print("| splitter | case | words | without a vector | different ones | thousand questions/s |")
    print("|---" * 6 + "|")
    for kind in ("spaces", "wordpunct", "treebank", *(words.PIECES if given.pieces else ())):
        for lower in (True, False):
            config = Text(splitter=kind, lowercase=lower)
            split = words.splitter(config, words.learn(config, texts))
            start = time.perf_counter()
            found = [split(text) for text in texts]
            speed = len(texts) / (time.perf_counter() - start) / 1000
            part, names = words.unknown(found, known.lowered if lower else known.rows)
            case = "lower" if lower else "as written"
            print(f"| {kind} | {case} | {sum(map(len, found)):,} | {part:.2%} | {len(names):,} | {speed:.1f} |")
    table = np.asarray(known.table[1:])
    fitted = min(words.FITTED, len(table) - HELD_OUT)
    held, truth = known.words[fitted : fitted + HELD_OUT], table[fitted : fitted + HELD_OUT]
    said = words.spelt(held) @ words.fit(known.words[:fitted], table[:fitted])
    mean = np.broadcast_to(table[:fitted].mean(0), truth.shape)
    print(f"cosine with the vector of {len(held):,} words held out: letters {cosine(said, truth):.3f}, ", end="")
    print(f"the mean vector {cosine(mean, truth):.3f}")


if __name__ == "__main__":
    main()
