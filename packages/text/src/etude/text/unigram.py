"""The unigram language model (Kudo 2018, "Subword Regularization"): each token has a probability, and a word is cut
into the tokens whose product is largest.

Training follows sentencepiece (`unigram_model_trainer.cc`), on words with their counts instead of on texts:

1. The seed vocabulary: all substrings of words that stand at least twice in the texts, `LONGEST` characters at most; of
   them those with the largest count times length, `SEEDS` for each piece wanted (sentencepiece: a million in all).
2. Two rounds of EM. E: the expected count of each piece over all ways to cut each word, by forward-backward. M: the log
   probability becomes digamma(count) - digamma(total), which is variational Bayes with a Dirichlet prior that goes to 0
   (Liang & Klein 2007, "Structured Bayesian Nonparametric Models with Variational Inference", section 3.3); pieces with
   an expected count below 0.5 go.
3. Pruning: without a piece its occurrences would be cut in the second best way. The loss of likelihood is reckoned for
   each piece, and the pieces with the smallest go: a quarter of all, then back to 2. until a tenth more than wanted are
   left. Of these the most probable stay. Single characters stay always, so that every word can be cut.

Words longer than `CUT` characters (texts without spaces) are cut into parts first: the work grows linearly with the
length of the texts, and not at all with how often a word is repeated.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from math import inf, isfinite
from typing import Any, NamedTuple, Self, Unpack

import numpy as np
import numpy.typing as npt

from etude.errors import UserError
from etude.text.tokenizer import FallbackOptions, Tokenizer, check_size, reserved
from etude.text.wordpiece import SPACE, count_spaced

LONGEST, SEEDS, CUT = 16, 32, 64  # characters of a piece, seeds for each piece wanted, characters of a word
ROUNDS, FEWEST, SHRINK, SPARE = 2, 0.5, 0.75, 1.1  # of EM; the least expected count; what pruning leaves
PENALTY = 10.0  # how much worse than the worst piece is a character outside the vocabulary, as in sentencepiece

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Trie = dict[str, tuple[float, "Trie"]]


class Unigram(Tokenizer):
    """Cuts each word into its most probable pieces, by Viterbi's algorithm.

    Of equally probable cuts the one whose last piece is longer wins, then the one whose second last is longer, and so
    on. A character that is no piece costs 10 more than the worst token of the vocabulary; it is spelt in bytes, or
    without byte fallback a run of such characters is one `unk`. Given the same scores these are the ids of
    `tokenizers.models.Unigram`, except that "▁" in a text is never taken for a space.
    """

    kind = "unigram"

    def __init__(self, vocab: Sequence[tuple[str, float]], **options: Unpack[FallbackOptions]) -> None:
        """`vocab`: (token, its natural log-probability) in the order of ids; in tokens "▁" stands for a space.

        The special tokens and the 256 byte tokens are among them, usually with a score of 0. Raises UserError if one is
        missing, a token stands twice or a score is no log-probability.
        """
        if not all(isinstance(row, list | tuple) and len(row) == 2 for row in vocab):
            raise UserError("the vocabulary is no list of pairs (token, score)")
        super().__init__([token for token, _ in vocab], **options)
        for token, score in vocab:
            if not isinstance(score, int | float) or not isfinite(score) or score > 0:
                raise UserError(f"the token {token!r} has the score {score!r}: a log-probability is at most 0")
        self.scores = [float(score) for _, score in vocab]
        self._unknown = min(self.scores, default=0.0) - PENALTY
        apart = {*self._special_ids, *self._first_byte}
        self._numbers = {
            token.replace(SPACE, " "): id for id, token in enumerate(self.vocab) if id not in apart and " " not in token
        }
        self._longest = max(map(len, self._numbers), default=0)
        self._letters = {piece for piece in self._numbers if len(piece) == 1}
        # A trie: letter -> (score of the piece that ends here or -inf, what may follow).
        self._trie: Trie = {}
        for piece in sorted(self._numbers):  # beginnings come before what they begin
            branch = self._trie
            for letter in piece[:-1]:
                branch = branch.setdefault(letter, (-inf, {}))[1]
            branch[piece[-1]] = (self.scores[self._numbers[piece]], {})

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[FallbackOptions]) -> Self:
        """Learns the pieces of `texts` (see the module) and their log-probabilities: the same texts, the same result.

        All characters of the texts are in the vocabulary, except "▁": words with it are left out. Raises UserError if
        `vocab_size` has no room for the characters, or without texts.
        """
        words = count_spaced(texts, options.get("lowercase", False))
        first = reserved(options)
        check_size(vocab_size, len(first) + len(set().union(*words)))
        pieces = [(piece.replace(" ", SPACE), score) for piece, score in learn(words, vocab_size - len(first))]
        taken = set(first)
        return cls([*((token, 0.0) for token in first), *(row for row in pieces if row[0] not in taken)], **options)

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Viterbi: O(length of the word * length of the longest piece)."""
        n, longest = len(word), self._longest
        best = [-inf] * (n + 1)  # the score of the best way to cut the text up to here
        best[0] = 0.0
        begin = [0] * (n + 1)  # where its last piece begins
        for start in range(n):
            here = best[start]
            if here <= best[n]:  # no score is above 0, so that nothing from here can be better
                continue
            branch, end = self._trie, start
            for letter in word[start : start + longest]:
                if letter not in branch:
                    break
                score, branch = branch[letter]
                score += here
                end += 1
                if score > best[end]:
                    best[end] = score
                    begin[end] = start
            if word[start] not in self._letters and here + self._unknown > best[start + 1]:
                best[start + 1] = here + self._unknown
                begin[start + 1] = start
        ids: list[int] = []  # from the last to the first
        id_of, end = self._numbers.get, n
        while end:
            start = begin[end]
            id = id_of(word[start:end])
            if id is not None:
                ids.append(id)
            else:
                while start and word[begin[start] : start] not in self._numbers:
                    start = begin[start]
                ids += reversed(self.spell(word[start:end]))
            end = start
        return tuple(reversed(ids))

    def spelling(self, token: str) -> bytes:
        return token.replace(SPACE, " ").encode()

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "vocab": [[token, score] for token, score in zip(self.vocab, self.scores, strict=True)],
        }


# -- training


class Lattice(NamedTuple):
    """All ways to cut all words: an edge is a piece that leads from node to node, a node is a place in a word.

    The words stand in the order of falling length and the nodes in that of (place, word), so that word w has place t at
    `place[t] + w` and all places t are neighbours: the words are gone through side by side. Edges are sorted by their
    end, then by their start. A piece is the number of a substring.
    """

    weight: Floats  # (words): how often a word stands in the texts
    final: Ints  # (words): the node where it ends
    place: list[int]  # (longest word + 2): the first node of each place, the number of nodes at last
    start: Ints  # (edges)
    end: Ints  # (edges)
    piece: Ints  # (edges)

    def only(self, alive: Bools) -> "Lattice":
        """The same words with the pieces that are `alive`."""
        stay = alive[self.piece]
        return self._replace(start=self.start[stay], end=self.end[stay], piece=self.piece[stay])

    def steps(self) -> list[tuple[slice, slice, Ints]]:
        """For each place but the first its nodes, the edges that end there, and where among these a node's begin."""
        bounds = np.concatenate([[0], np.cumsum(np.bincount(self.end, minlength=self.place[-1]))])
        return [
            (slice(a, b), slice(bounds[a], bounds[b]), bounds[a:b] - bounds[a]) for a, b in pairwise(self.place[1:])
        ]


class Substrings(NamedTuple):
    """The substrings of the words, in the order of length, then of their characters.

    `left[n]` and `right[n]`, shape (n - 1, substrings of length n), have the numbers of both halves of each substring
    of length n >= 2 when it is cut before its last k characters, k = 1 .. n - 1.
    """

    texts: list[str]
    counts: Floats
    first: list[int]  # (longest + 2): the first one of each length, the number of all at last
    left: list[Ints]
    right: list[Ints]


def learn(words: dict[str, int], size: int) -> list[tuple[str, float]]:
    """The `size` best pieces (all characters among them) with their log-probabilities, best first."""
    lattice, found = substrings(words)
    numbers = np.arange(len(found.texts))
    single = numbers < found.first[2]

    def best(values: Floats, among: Bools, how_many: int) -> Bools:
        """The single characters, and as many of the others as there is room for."""
        order = np.lexsort((numbers, -values, ~among, ~single))
        chosen = np.zeros(len(numbers), bool)
        chosen[order[:how_many]] = True
        return chosen & among | single

    values = found.counts * [len(text) for text in found.texts]
    alive = best(values, values > 0, SEEDS * size)
    scores = np.where(alive, np.log(values / values[alive].sum()), -inf)
    lattice = lattice.only(alive)
    enough = int(SPARE * size)
    while True:
        for _ in range(ROUNDS):
            counts, _ = expect(lattice, scores)
            alive &= (counts >= FEWEST) | single
            scores = maximise(np.where(alive, np.maximum(counts, FEWEST), 0.0))
            lattice = lattice.only(alive)
        many = int(alive.sum())
        if many <= max(enough, found.first[2]):
            break
        alive = best(*losses(lattice, found, scores), max(enough, int(SHRINK * many)))
        scores = np.where(alive, scores, -inf)
        lattice = lattice.only(alive)
    alive = best(scores, alive, size)
    rows = [(found.texts[number], float(scores[number])) for number in np.flatnonzero(alive)]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def substrings(words: dict[str, int]) -> tuple[Lattice, Substrings]:
    """The characters of `words` (word -> count), what stands in them twice, and all ways to cut them into these."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for begin in range(0, len(word), CUT):
            parts[word[begin : begin + CUT]] += count
    texts = sorted(parts, key=lambda part: (-len(part), part))
    weight = np.array([parts[text] for text in texts], float)
    lengths = np.array([len(text) for text in texts])
    longest = min(LONGEST, int(lengths[0]))
    reach = np.array([(lengths >= t).sum() for t in range(lengths[0] + 1)])  # how many words have a place t
    place = np.concatenate([[0], np.cumsum(reach)])
    at = np.repeat(np.arange(len(reach)), reach)  # (nodes): place
    word = np.arange(place[-1]) - place[at]  # (nodes)

    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    alphabet, letters = np.unique(codes, return_inverse=True)
    inside = at < lengths[word]  # nodes with a letter to their right
    letter = np.full(len(at), -1)
    letter[inside] = letters[(np.cumsum(lengths) - lengths)[word[inside]] + at[inside]]

    # numbers[n][node]: which substring of n characters begins there, -1 if none that counts.
    numbers = [np.full(len(at), -1), letter]
    counts = [np.bincount(letter[inside], weight[word[inside]])]
    names = [[chr(code) for code in alphabet]]
    first = [0, 0, len(alphabet)]
    left, right = [np.empty((0, 0), int)] * 2, [np.empty((0, 0), int)] * 2
    nodes = np.flatnonzero(inside)
    for n in range(2, longest + 1):
        nodes = nodes[at[nodes] + n <= lengths[word[nodes]]]
        last = letter[place[at[nodes] + n - 1] + word[nodes]]
        _, example, kinds = np.unique(
            numbers[n - 1][nodes] * len(alphabet) + last, return_index=True, return_inverse=True
        )
        total = np.bincount(kinds, weight[word[nodes]], len(example))
        often = total >= 2
        renumbered = np.where(often, first[n] + np.cumsum(often) - 1, -1)
        numbers.append(np.full(len(at), -1))
        numbers[n][nodes] = renumbered[kinds]
        example, nodes = nodes[example[often]], nodes[often[kinds]]
        cuts = [(numbers[n - k][example], numbers[k][place[at[example] + n - k] + word[example]]) for k in range(1, n)]
        left.append(np.stack([a for a, _ in cuts]))
        right.append(np.stack([b for _, b in cuts]))
        counts.append(total[often])
        names.append([texts[w][t : t + n] for w, t in zip(word[example], at[example], strict=True)])
        first.append(first[n] + len(example))

    ending = np.full((len(at), longest), -1)  # what ends at each node, the longest first
    for column, n in enumerate(range(longest, 0, -1)):
        nodes = np.flatnonzero(at >= n)
        ending[nodes, column] = numbers[n][place[at[nodes] - n] + word[nodes]]
    end, columns = np.nonzero(ending >= 0)
    start = place[at[end] - longest + columns] + word[end]
    final = place[lengths] + np.arange(len(texts))
    lattice = Lattice(weight, final, place.tolist(), start, end, ending[end, columns])
    return lattice, Substrings([*chain.from_iterable(names)], np.concatenate(counts), first, left, right)


def expect(lattice: Lattice, scores: Floats) -> tuple[Floats, float]:
    """The E step: the expected count of each piece over all ways to cut, and the log-likelihood of the words.

    `scores` are log-probabilities, shape (substrings). The sums go forwards in logarithms. Backwards, what flows into a
    node is divided among the edges that end there in proportion to their part of its sum.
    """
    sums = np.zeros(lattice.place[-1])
    share = scores[lattice.piece]
    steps = lattice.steps()
    for nodes, edges, begins in steps:
        values = sums[lattice.start[edges]] + share[edges]
        owner = lattice.end[edges] - nodes.start
        top = np.maximum.reduceat(values, begins)
        values = np.exp(values - top[owner])
        total = np.add.reduceat(values, begins)
        sums[nodes] = top + np.log(total)
        share[edges] = values / total[owner]
    flow = np.zeros(lattice.place[-1])
    flow[lattice.final] = lattice.weight
    for t, (_, edges, _) in reversed(list(enumerate(steps, 1))):
        share[edges] *= flow[lattice.end[edges]]
        low = lattice.place[max(t - LONGEST, 0)]
        into = np.bincount(lattice.start[edges] - low, share[edges])
        flow[low : low + len(into)] += into
    return np.bincount(lattice.piece, share, len(scores)).astype(float), float(lattice.weight @ sums[lattice.final])


def maximise(counts: Floats) -> Floats:
    """The M step: log-probabilities from expected counts; -inf where there are none."""
    scores = np.full(len(counts), -inf)
    some = counts > 0
    scores[some] = digamma(counts[some]) - digamma(counts.sum(keepdims=True))
    return scores


def digamma(x: Floats) -> Floats:
    """The derivative of log gamma(x), x > 0: recurrence up to 7, then a series (Abramowitz & Stegun 6.3.18)."""
    x, result = x.copy(), np.zeros_like(x)
    while (small := x < 7).any():
        result[small] -= 1 / x[small]
        x[small] += 1
    square = x**-2
    return result + np.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))


def viterbi(lattice: Lattice, scores: Floats) -> Floats:
    """How often each piece stands in the texts when every word is cut in the most probable way."""
    values = scores[lattice.piece]
    sums = np.zeros(lattice.place[-1])
    choice = np.zeros(lattice.place[-1], int)
    for nodes, edges, begins in lattice.steps():
        values[edges] += sums[lattice.start[edges]]
        sums[nodes] = np.maximum.reduceat(values[edges], begins)
        hits = np.flatnonzero(values[edges] == sums[lattice.end[edges]])[::-1] + edges.start
        choice[lattice.end[hits]] = hits  # the first edge of a node is written last: of equals the longest piece
    counts = np.zeros(len(scores))
    node, weight = lattice.final, lattice.weight
    while len(node):
        edge = choice[node]
        counts += np.bincount(lattice.piece[edge], weight, len(scores))
        inside = lattice.start[edge] >= lattice.place[1]
        node, weight = lattice.start[edge][inside], weight[inside]
    return counts


def losses(lattice: Lattice, found: Substrings, scores: Floats) -> tuple[Floats, Bools]:
    """For each piece how much log-likelihood goes with it, and whether it is used at all.

    As in sentencepiece: a piece is not used if another cut of it is more probable or if it stands in no best cut of a
    word. Without it the pieces of its second best cut take over its count.
    """
    best, other = scores.copy(), np.full(len(scores), -inf)  # of each substring: the best cut, the best of two or more
    left, right = np.zeros(len(scores), int), np.zeros(len(scores), int)  # where `other` is cut last
    for n in range(2, len(found.left)):
        rows = slice(found.first[n], found.first[n + 1])
        cuts = best[found.left[n]] + scores[found.right[n]]
        choice = cuts.argmax(0)[None]
        other[rows] = np.take_along_axis(cuts, choice, 0)[0]
        left[rows] = np.take_along_axis(found.left[n], choice, 0)[0]
        right[rows] = np.take_along_axis(found.right[n], choice, 0)[0]
        best[rows] = np.maximum(scores[rows], other[rows])

    counts = viterbi(lattice, scores)
    used = (counts > 0) & (scores >= other)
    pieces = np.flatnonzero(used & (other > -inf))
    own = counts[pieces]
    logs = np.log(counts[right[pieces]] + own)
    parts = np.ones(len(pieces))
    rest, remaining = left[pieces], np.arange(len(pieces))
    while len(remaining):
        whole = scores[rest] >= other[rest]
        logs[remaining] += np.log(counts[np.where(whole, rest, right[rest])] + own[remaining])
        parts[remaining] += 1
        rest, remaining = left[rest][~whole], remaining[~whole]
    total = counts.sum()
    loss = np.zeros(len(scores))
    loss[pieces] = own * (np.log(own / total) - (logs - parts * np.log(total + own * (parts - 1))))
    return loss, used
