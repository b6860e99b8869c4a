"""Texts made up by a grammar: the embedded data of tasks that need no download.

In a rule `{symbol}` stands for one of the symbol's texts, drawn anew each time; one with a capital letter stays the
same all through a text. A text has one of two moods; `+` after a symbol keeps it, `-` turns it around.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import count

import numpy as np

from etude.draw import uniform

SYMBOL = re.compile(r"\{(\w+)([+-]?)\}")
Rules = Mapping[str, tuple[str, ...]]  # of each symbol its texts
Moods = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]  # ... for mood 0 and for mood 1


def numbers(*parts: int) -> Iterator[float]:
    """Numbers in [0, 1) without end; `parts` name the stream."""
    for block in count():
        yield from uniform(np.arange(block * 1000, block * 1000 + 1000), 32, *parts).flatten().tolist()


def written(symbol: str, mood: int, rules: Rules, moods: Moods, draws: Iterator[float]) -> str:
    """One text of `symbol`, which is a key of `rules` or `moods`; nothing is said twice if there is something else."""
    fixed: dict[str, str] = {}
    used: set[str] = set()

    def write(symbol: str, mood: int) -> str:
        if symbol in fixed:
            return fixed[symbol]
        choices = moods[symbol][mood] if symbol in moods else rules[symbol]
        choices = tuple(choice for choice in choices if choice not in used) or choices
        chosen = choices[int(next(draws) * len(choices))]
        used.add(chosen)
        text = SYMBOL.sub(lambda found: write(found[1], 1 - mood if found[2] == "-" else mood), chosen)
        if symbol[0].isupper():
            fixed[symbol] = text
        return text

    return re.sub(r"\ba (?=[aeiou])", "an ", write(symbol, mood))
