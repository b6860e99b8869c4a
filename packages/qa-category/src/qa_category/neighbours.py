"""The verb `neighbours`: which words have vectors near to those of given words."""

from etude.arguments import Parser
from etude.errors import UserError
from etude.package import Package


def main(package: Package, words: list[str], _: str) -> int:
    """Name the words whose vectors are nearest to those of some words.

    Nearness is the cosine between two vectors; a line for each word, the nearest first.
    """
    parser = Parser(f"{package.name} neighbours", str(main.__doc__).partition("\n")[0])
    parser.add_argument("vectors", metavar="VECTORS", help="a file of vectors, or a name, as for --vectors")
    parser.add_argument("words", metavar="WORD", nargs="+")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="neighbours of each word (5)")
    parser.add_argument("--most", type=int, default=50_000, metavar="N", help="words that are read of the file (50000)")
    given = parser.parse_intermixed_args(words)
    for name in ("count", "most"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(given, name)}")

    import numpy as np

    from qa_category import vectors

    known = vectors.load(given.vectors, given.most)
    table = np.asarray(known.table[1:], np.float32)
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    for word in given.words:
        row = known.rows.get(word, known.lowered.get(word.lower()))
        if row is None:
            raise UserError(
                f"{word!r} is not among the first {len(known.words):,} words of {given.vectors}: give another"
            )
        near = table @ table[row - 1]
        near[row - 1] = -np.inf
        best = np.argsort(-near, kind="stable")[: given.count]
        print(f"{word}\t" + "\t".join(f"{known.words[id]} {near[id]:.3f}" for id in best if near[id] > -np.inf))
    return 0
