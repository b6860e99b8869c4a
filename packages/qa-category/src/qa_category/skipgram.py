"""The verb `skipgram`: vectors of words, tuned on questions alone before any classifier sees them."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from etude import files
from etude.arguments import Parser
from etude.config import build
from etude.errors import UserError, not_installed
from etude.package import Package
from qa_category.config import Data, Text

HELP = """Let vectors of words learn on from the training questions of some data, without their categories, and write
all of them into a file for --vectors. A word of the questions that has no vector gets one, if it is frequent enough."""
DECIMALS = 6  # of a number in the file: as the published ones, which the fast reader expects


def parser(package: Package) -> Parser:
    takes = Parser(f"{package.name} skipgram", HELP)
    takes.add_argument("vectors", metavar="VECTORS", help="a file of vectors, or a name, as for --vectors")
    takes.add_argument("out", metavar="OUT.vec", help="the file to write")
    takes.add_argument("--data", default="amazon", help="as for train (amazon); only its training part is read")
    takes.add_argument("--division", type=int, default=0, metavar="N", help="data.division of the classifier (0)")
    takes.add_argument("--most", type=int, default=50_000, metavar="N", help="words that are read of the file (50000)")
    takes.add_argument("--least", type=int, default=2, metavar="N", help="a word without a vector occurs so often (2)")
    takes.add_argument("--window", type=int, default=5, metavar="N", help="words to either side that are said (5)")
    takes.add_argument("--negative", type=int, default=5, metavar="N", help="other words held against each (5)")
    takes.add_argument("--epochs", type=int, default=10, metavar="N", help="times that all questions are read (10)")
    takes.add_argument("--lr", type=float, default=0.025, metavar="X", help="the first learning rate (0.025)")
    takes.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")
    return takes


def main(package: Package, words: list[str], _: str) -> int:
    """Tune vectors on questions: skip-gram with negative sampling (Mikolov et al. 2013), by gensim, on one thread.

    The vectors begin as they are given, what they are held against at 0, and the learning rate falls to 0.
    """
    given = parser(package).parse_intermixed_args(words)
    for name in ("most", "least", "window", "negative", "epochs"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(given, name)}")
    if not 0 < given.lr <= 1:
        raise UserError(f"--lr must be above 0 and at most 1, not {given.lr}")
    if not given.out.endswith(".vec"):
        raise UserError(f"{given.out}: the file to write should end in .vec")
    try:
        from gensim.models import Word2Vec  # noqa: F401
    except ImportError:
        raise not_installed("skipgram", "gensim") from None
    with reported(given.out):
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
    print(tuned(given))
    return 0


def reported(out: str) -> AbstractContextManager[None]:
    """Makes a file that cannot be written the user's matter, in one line."""
    return files.reported(f"{out} cannot be written", "give another file")


def tuned(given: argparse.Namespace) -> str:
    """Writes the file, and says in a line what is in it."""
    import numpy as np
    from gensim.models import Word2Vec

    from qa_category import data, vectors
    from qa_category.words import splitter

    known = vectors.load(given.vectors, given.most)
    split = splitter(Text(), None)
    questions = data.load(build(Data, {"name": given.data, "division": given.division})).train.texts
    rows = [split(question) for question in questions]
    sizes = {"vector_size": known.size, "window": given.window, "negative": given.negative}
    model = Word2Vec(sg=1, workers=1, seed=given.seed, **sizes)

    def row_of(word: str) -> int | None:
        return known.rows.get(word, known.lowered.get(word))

    def rule(word: str, count: int, _least: int) -> int:
        """gensim's words for it: 2, keep; 1, discard."""
        return 2 if row_of(word) is not None or count >= given.least else 1

    model.build_vocab(rows, trim_rule=rule)
    found: list[str] = model.wv.index_to_key
    places = np.array([row_of(word) or 0 for word in found])  # row 0 is padding: no word has it
    old, new = np.flatnonzero(places), np.flatnonzero(places == 0)
    model.wv.vectors[old] = known.table[places[old]]
    model.train(rows, total_examples=len(rows), epochs=given.epochs, start_alpha=given.lr, end_alpha=0.0)
    table = np.array(known.table[1:])
    table[places[old] - 1] = model.wv.vectors[old]
    if not np.isfinite(model.wv.vectors).all():
        raise UserError(f"the vectors are not finite after {given.epochs} epochs: lower --lr")
    lines = [f"{len(table) + len(new)} {known.size}"]
    for word, numbers in [*zip(known.words, table, strict=True), *((found[n], model.wv.vectors[n]) for n in new)]:
        lines.append(" ".join([word, *(f"{x:.{DECIMALS}f}" for x in numbers)]))
    with reported(given.out):
        files.write(Path(given.out), ("\n".join(lines) + "\n").encode())
    return (
        f"{given.out}: {len(table):,} vectors, {len(old):,} of them tuned on {len(rows):,} questions, {len(new):,} new"
    )
