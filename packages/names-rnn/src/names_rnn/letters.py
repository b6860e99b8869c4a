"""What a model sees of a name: the 57 letters of the lab, or every letter of Unicode that training showed."""

import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import category, normalize

import numpy as np

from etude.text.lines import clean

ASCII = string.ascii_letters + " .,;'"  # of "NLP From Scratch: Classifying Names with a Character-Level RNN", PyTorch
UNKNOWN = "\ufffd"  # stands for a letter of no known form
CYRILLIC = dict(
    zip(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў",
        "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch  y  e yu ya i yi ye g u".split(" "),
        strict=True,
    )
)
APOSTROPHES = dict.fromkeys("\u2018\u2019\u02bc`\u00b4", "'")  # as telephones and word processors write it
LATIN = APOSTROPHES | CYRILLIC | {letter.upper(): latin.capitalize() for letter, latin in CYRILLIC.items()}


def tidy(name: str) -> str:
    """In one form of Unicode (NFC), without white space around it, with one space for each stretch of it inside."""
    return " ".join(clean(name).split())


def fold(name: str) -> str:
    """A name in the 57 letters: without accents, as in the lab; what has no such form (ß, a hyphen) is left out.

    Cyrillic, which the lab would leave out, is transliterated, and of apostrophes all forms are one.
    """
    latin = "".join(LATIN.get(letter, letter) for letter in normalize("NFC", name))
    return "".join(c for c in normalize("NFD", latin) if category(c) != "Mn" and c in ASCII)


@dataclass(frozen=True)
class Alphabet:
    """The letters that a model knows; 0 is no letter, a letter's id is its place from 1 on."""

    letters: str
    folded: bool
    """names are folded to these letters; else they are read as they are, and one more id stands for unknown letters"""

    @property
    def size(self) -> int:
        """The highest id."""
        return len(self.letters) + (not self.folded)

    @classmethod
    def of(cls, kind: str, names: Iterable[str]) -> "Alphabet":
        """`ascii`: the 57 letters. `unicode`: those of two of these names or more; rarer ones teach what unknown is."""
        if kind == "ascii":
            return cls(ASCII, True)
        counts = Counter(letter for name in names for letter in set(name))
        return cls("".join(sorted(letter for letter, count in counts.items() if count > 1)), False)

    def read(self, name: str) -> str:
        """What is seen of a tidy name: letters of this alphabet and UNKNOWN."""
        if self.folded:
            return fold(name)
        return "".join(self.form(letter) for letter in name)

    def form(self, letter: str) -> str:
        """A letter as it is known: itself, or folded, or UNKNOWN."""
        if letter in self.letters:
            return letter
        plain = fold(letter)
        return plain if (plain or letter in LATIN) and set(plain) <= set(self.letters) else UNKNOWN

    def lost(self, name: str) -> list[str]:
        """The letters of a tidy name that cannot be read, each once; marks, hyphens and digits are no letters."""
        known = Alphabet(ASCII, False) if self.folded else self
        return [c for c in dict.fromkeys(name) if category(c)[0] == "L" and known.form(c) == UNKNOWN]

    def encode(self, names: Iterable[str]) -> list[np.ndarray]:
        """The ids of names as they were `read`, int64."""
        ids = {letter: n for n, letter in enumerate(self.letters, 1)}
        return [np.array([ids.get(letter, self.size) for letter in name], np.int64) for name in names]
