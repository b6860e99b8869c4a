"""Names with no download: ten invented languages, each a small grammar of syllables.

A name is one to three syllables, each an onset, a vowel and a coda, then an ending; each piece is drawn from a list, in
which it may stand more than once. Neighbours share most of their lists (Arvan and Belgar, Coral and Dunesh, Ilmar and
Jorun), so that no rule is always right, and since the lists are known so is the rule that errs least.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from etude.text.grammar import numbers

ONCE = 18610210  # the stream that everything is drawn from, once and for all


@dataclass(frozen=True)
class Grammar:
    count: int
    """rows in the sample, repeated names included"""
    lengths: tuple[int, ...]
    """a number of syllables is drawn from these"""
    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    codas: tuple[str, ...]
    endings: tuple[str, ...]

    def name(self, draws: Iterator[float]) -> str:
        def one(choices: Sequence[str]) -> str:
            return choices[int(next(draws) * len(choices))]

        length = self.lengths[int(next(draws) * len(self.lengths))]
        syllables = [one(part) for _ in range(length) for part in (self.onsets, self.vowels, self.codas)]
        return ("".join(syllables) + one(self.endings)).capitalize()

    def probability(self, name: str) -> float:
        """Of drawing this name: the sum over all ways to take it apart, by dynamic programming over its letters."""
        name, total = name.lower(), 0.0
        reached = {0: 1.0}  # how many letters -> the probability of having written them
        for length in range(1, max(self.lengths) + 1):
            for part in (self.onsets, self.vowels, self.codas):
                reached = written(name, reached, part)
            whole = written(name, reached, self.endings).get(len(name), 0.0)
            total += self.lengths.count(length) / len(self.lengths) * whole
        return total


def written(name: str, reached: dict[int, float], choices: Sequence[str]) -> dict[int, float]:
    """Where one comes to in the name from where one is, by writing one of the choices, and with what probability."""
    after: dict[int, float] = {}
    for at, probability in reached.items():
        for choice in choices:
            if name.startswith(choice, at):
                end = at + len(choice)
                after[end] = after.get(end, 0.0) + probability / len(choices)
    return after


def pieces(text: str) -> tuple[str, ...]:
    """Pieces between spaces; _ is the empty one, and `a*3` stands for three times a."""
    found: list[str] = []
    for piece in text.split():
        letters, _, times = piece.partition("*")
        found += ["" if letters == "_" else letters] * int(times or 1)
    return tuple(found)


def grammar(count: int, lengths: tuple[int, ...], *lists: str) -> Grammar:
    return Grammar(count, lengths, *map(pieces, lists))


GRAMMARS = {
    "Arvan": grammar(900, (1, 2, 2), "b d g k r v st v*2", "a*3 e i o", "_*3 n r l", "ov in sky ev enko"),
    "Belgar": grammar(250, (1, 2, 2), "b d g k r v st h c*2", "a e*2 i o u", "_*3 n r k", "ov ek ik a sky ina"),
    "Coral": grammar(400, (1, 2), "b c d f g l m p r v t", "a e i o*2", "_*4 n r s l", "i o ini etti elli a"),
    "Dunesh": grammar(200, (1, 2), "b c d f g l m p r s t", "a e i o u", "_*4 n r s l", "ez es os a o ado"),
    "Estmark": grammar(
        350,
        (1, 1, 2),
        "b br d f fr h k l m sch st w",
        "a e ei i o u ie",
        "_ ck l ll n r rt ss t",
        "er mann _ _ berg ke",
    ),
    "Fenwick": grammar(
        500, (1, 1, 2), "b br d f h k l m s st w wh th", "a e ea i o oo", "_ ck l ll n r t ss", "er ton _ _ ley son s"
    ),
    "Goshi": grammar(300, (2, 3), "_ h k m n r s sh t y", "a*2 i*2 u o e", "_*9 n", "_*3 ta da moto"),
    "Hanlu": grammar(120, (1,), "ch h k l m n s sh t x y zh", "a e i o u ao ia ai", "_*2 n ng", "_"),
    "Ilmar": grammar(150, (1,), "ch h k l m n s sh t p y", "a e i o u ae oo eo", "_ n ng k m", "_"),
    "Jorun": grammar(130, (1, 2), "b d h k m n r s sh f q", "a*3 i u", "_*2 l m n r h", "_ _ i ani ad"),
}


def rows() -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The languages, and a row for every name that was drawn, with the number of its language; always the same."""
    found = []
    for label, grammar in enumerate(GRAMMARS.values()):
        draws = numbers(ONCE, label)
        found += [(grammar.name(draws), label) for _ in range(grammar.count)]
    return tuple(GRAMMARS), found


def best(name: str) -> int:
    """The language from which a row with this name most probably comes, by Bayes' rule."""
    weights = [grammar.count * grammar.probability(name) for grammar in GRAMMARS.values()]
    return max(range(len(weights)), key=weights.__getitem__)
