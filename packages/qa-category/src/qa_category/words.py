"""Questions -> rows of ids: splitters, and a vocabulary in which a word that training never had may have a vector."""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import numpy as np
import regex
import scipy.sparse

from etude import text
from etude.text.tokenizer import Tokenizer
from qa_category import vectors
from qa_category.config import Config, Text
from qa_category.vectors import Vectors

PAD, UNK = 0, 1  # rows of the table
PIECES: dict[str, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": text.BPE.train,
    # Without byte fallback a character that training lacks is one unknown piece, not its bytes.
    "wordpiece": partial(text.WordPiece.train, byte_fallback=False),
    "unigram": partial(text.Unigram.train, byte_fallback=False),
}
Splitter = Callable[[str], list[str]]
SPACE = re.compile("[\u0120\u2581]")  # how pieces of bpe and unigram write the space before them

# ---------------------------------------------------------------------------------------------------------- splitters

_wordpunct = regex.compile(r"\w+|[^\w\s]+").findall
# The Penn Treebank's sed script (MacIntyre 1995), in the order of nltk's TreebankWordTokenizer: what to find, and put.
_TREEBANK = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^\"", r"``"),
        (r"(``)", r" \1 "),
        (r"([ \(\[{<])(\"|\'{2})", r"\1 `` "),
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.\.\.", r" ... "),
        (r"[;@#$%&]", r" \g<0> "),
        (r"([^\.])(\.)([\]\)}>\"\']*)\s*$", r"\1 \2\3 "),
        (r"[?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[\]\[\(\)\{\}\<\>]", r" \g<0> "),
        (r"--", r" -- "),
    )
]
_ENDINGS = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"''", " '' "),
        (r'"', " '' "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(?#X)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)(?#X)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim)(?#X)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon)(?#X)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(?#X)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(lem)(?#X)(me)\b", r" \1 \2 "),
        (r"(?i)\b(more)(?#X)('n)\b", r" \1 \2 "),
        (r"(?i)\b(wan)(?#X)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(?#X)(is)\b", r" \1 \2 "),
        (r"(?i) ('t)(?#X)(was)\b", r" \1 \2 "),
    )
]


def spaces(question: str) -> list[str]:
    """Words as they stand between white space."""
    return question.split()


def wordpunct(question: str) -> list[str]:
    """Runs of letters, digits and _, and runs of what is neither: nltk's `wordpunct_tokenize`."""
    found: list[str] = _wordpunct(question)
    return found


def treebank(question: str) -> list[str]:
    """Words and marks as the Penn Treebank has them ("do n't"): nltk's `TreebankWordTokenizer`."""
    for pattern, new in _TREEBANK:
        question = pattern.sub(new, question)
    question = f" {question} "
    for pattern, new in _ENDINGS:
        question = pattern.sub(new, question)
    return question.split()


SPLITTERS: dict[str, Splitter] = {"spaces": spaces, "wordpunct": wordpunct, "treebank": treebank}


def splitter(config: Text, tokenizer: Tokenizer | None) -> Splitter:
    """What makes words, or pieces, of a question; `tokenizer`: that which `learn` has learnt."""
    if tokenizer is None:
        split, cut = SPLITTERS[config.splitter], config.lowercase
        return (lambda question: split(question.lower())) if cut else split

    def pieces(question: str) -> list[str]:
        text = " " + (question.lower() if config.lowercase else question)
        return [SPACE.sub(" ", tokenizer.vocab[id]) for id in tokenizer.encode_batch([text])[0]]

    return pieces


def learn(config: Text, questions: Iterable[str]) -> Tokenizer | None:
    """The tokenizer of pieces, from the training questions; None for a splitter, which needs none."""
    if config.splitter not in PIECES:
        return None
    texts = (" " + (question.lower() if config.lowercase else question) for question in questions)
    return PIECES[config.splitter](list(texts), config.pieces)


def knobs(config: Config) -> dict[str, Any]:
    """What says how questions are read and which are trained on, by name: it is kept with a run, see `check_kept`."""
    texts = {f"text.{name}": value for name, value in asdict(config.text).items()}
    return {"data.labels": config.data.labels, "model.unknown": config.model.unknown, **texts}


def bare(word: str) -> str:
    """A word or piece as vectors and letters know it, without the mark of where it stands."""
    return word.strip().removeprefix("##") or word


# --------------------------------------------------------------------------------------------------- letters -> vectors

SHORTEST, LONGEST = 3, 5  # letters of an n-gram, edges counted
BUCKETS = 1 << 14  # n-grams are hashed into these (Weinberger et al. 2009)
FITTED = 20_000  # words that the regression is fitted on, the most frequent
RIDGE = 0.1  # how much a weight of an n-gram costs: of 0.01 ... 1 the best on held-out words of GloVe
STEPS = 40  # of the conjugate gradient


def ngrams(word: str) -> list[int]:
    """The buckets of the n-grams of a word and of the whole of it, as in fastText (Bojanowski et al. 2017)."""
    framed = f"<{word}>"
    grams = {framed[i : i + n] for n in range(SHORTEST, LONGEST + 1) for i in range(len(framed) - n + 1)} | {framed}
    return sorted(zlib.crc32(gram.encode("utf-8", "surrogatepass")) % BUCKETS for gram in grams)


def spelt(words: list[str]) -> scipy.sparse.csr_matrix:
    """What part each bucket has in each word: sparse float32 [N, BUCKETS], rows add up to 1."""
    rows = [ngrams(word) for word in words]
    counts = np.array([len(row) for row in rows])
    columns = np.fromiter((bucket for row in rows for bucket in row), np.int64, int(counts.sum()))
    values = np.repeat(1 / counts, counts).astype(np.float32)
    return scipy.sparse.csr_matrix((values, columns, np.concatenate([[0], counts.cumsum()])), (len(words), BUCKETS))


def fit(words: list[str], table: np.ndarray) -> np.ndarray:
    """Weights G, float32 [BUCKETS, D], so that `spelt(words) @ G` is near to the vectors `table` [N, D].

    Ridge regression, min |X G - Y|^2 + RIDGE |G|^2, by conjugate gradients on the normal equations, each column of its
    own (Hestenes & Stiefel 1952). The penalty is on n-grams; rows of X add up to 1.
    """
    x = spelt(words)
    right = x.T @ table
    weights = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    squares = (residual**2).sum(0)
    for _ in range(STEPS):
        image = x.T @ (x @ direction) + RIDGE * direction
        step = squares / np.maximum((direction * image).sum(0), 1e-30)
        weights += step * direction
        residual -= step * image
        after = (residual**2).sum(0)
        direction = residual + after / np.maximum(squares, 1e-30) * direction
        squares = after
    return weights.astype(np.float32)


@lru_cache(maxsize=1)
def pretrained(name: str, most: int, letters: bool) -> tuple[Vectors, np.ndarray]:
    """The vectors, and the weights of their letters, none (with 0 rows) if they are not asked for."""
    found = vectors.load(name, most)
    some = found.words[:FITTED]
    weights = (
        fit(some, np.asarray(found.table[1 : len(some) + 1], np.float32)) if letters else np.zeros((0, found.size))
    )
    return found, weights.astype(np.float32)


# --------------------------------------------------------------------------------------------------------- vocabulary


class Vocabulary:
    """Words and their rows in the table of the model, of which some are added when they are first met.

    Row 0 is padding, row 1 the unknown word; then come the words that training has, whose rows can be learnt; then,
    where there are vectors, any word that has one, by the file or by its letters. Without, all others are unknown.
    """

    def __init__(self, config: Config, trained: list[str], given: Vectors | None, letters: np.ndarray) -> None:
        """`trained`: the words of the training part; `letters`: the weights of n-grams, or none, with no rows."""
        self.config, self.trained, self.given, self.letters = config, trained, given, letters
        self.rows = {word: row for row, word in enumerate(trained, UNK + 1)}
        self.known = {} if given is None else given.lowered if config.text.lowercase else given.rows
        self.mean = np.zeros(0, np.float32) if given is None else given.table[1:].mean(0)
        self.added: list[np.ndarray] = []

    @classmethod
    def of(cls, config: Config, questions: list[list[str]]) -> "Vocabulary":
        """That of split training questions, with the vectors that the configuration names."""
        given, letters = None, np.zeros((0, 0), np.float32)
        if config.vectors != "none":
            given, letters = pretrained(config.vectors, config.vectors_most, config.model.unknown == "ngrams")
        counts = Counter(word for question in questions for word in question)
        empty = cls(config, [], given, letters)
        kept = [word for word, n in counts.items() if n >= config.text.least or bare(word) in empty.known]
        return cls(config, sorted(kept, key=lambda word: (-counts[word], word)), given, letters)

    def vector(self, word: str) -> np.ndarray | None:
        """Of a word that has one, in the file or by its letters: float32 [D]."""
        if self.given is None:
            return None
        row = self.known.get(bare(word))
        if row is not None:
            return np.asarray(self.given.table[row], np.float32)
        if len(self.letters):
            return np.asarray(spelt([bare(word)]) @ self.letters, np.float32)[0]
        return None

    def table(self) -> np.ndarray:
        """The vectors of padding, the unknown word and training's words: float32 [2 + N, D]; without vectors D is 0."""
        if self.given is None:
            return np.zeros((len(self.trained) + 2, 0), np.float32)
        unknown = self.unknown()
        found = [np.zeros_like(unknown), unknown]
        found += [unknown if (vector := self.vector(word)) is None else vector for word in self.trained]
        return np.stack(found)

    def rows_of_training(self) -> dict[str, int]:
        """The words that training has, without marks, where there are no vectors."""
        return {bare(word): row for row, word in enumerate(self.trained, UNK + 1)}

    def unknown(self) -> np.ndarray:
        return self.mean if self.config.model.unknown == "mean" else np.zeros_like(self.mean)

    def encode(self, question: list[str]) -> np.ndarray:
        """Ids of a split question, at least one: int64 [T]. Words that have a vector get a row, see `take`."""
        row = []
        for word in question[: self.config.text.max_length]:
            id = self.rows.get(word)
            if id is None:
                vector, id = self.vector(word), UNK
                if vector is not None:
                    id = len(self.trained) + 2 + self.count
                    self.count += 1
                    self.added.append(vector)
                self.rows[word] = id
            row.append(id)
        return np.array(row or [UNK], np.int64)

    count = 0  # words that were added, those included that `take` has given away

    def take(self) -> np.ndarray | None:
        """The vectors of words that were added since it was last called, in the order of their rows: float32 [N, D]."""
        found, self.added = self.added, []
        return np.stack(found) if found else None

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data."""
        import torch

        state: dict[str, Any] = {"trained": self.trained, "letters": torch.from_numpy(self.letters)}
        if self.given is not None:
            state["words"] = self.given.words
            state["table"] = torch.from_numpy(np.array(self.given.table, np.float32))
        return state

    @classmethod
    def restore(cls, config: Config, state: dict[str, Any]) -> "Vocabulary":
        given = Vectors(state["words"], state["table"].numpy()) if "words" in state else None
        return cls(config, state["trained"], given, state["letters"].numpy())


def unknown(questions: Iterable[list[str]], known: dict[str, int]) -> tuple[float, list[str]]:
    """The part of the words that have no vector, and which they are, each once, the most frequent first."""
    counts = Counter(word for question in questions for word in question)
    without = Counter({word: n for word, n in counts.items() if bare(word) not in known})
    return without.total() / max(1, counts.total()), [word for word, _ in without.most_common()]
