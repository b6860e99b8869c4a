"""From captions to words, and from words to ids.

`words` does in Python what the official evaluation does with Stanford's PTBTokenizer (CoreNLP 3.4.1, Java): tokens of
the Penn Treebank (Marcus et al. 1993), lower case, without punctuation. Where it differs stands in the README.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from etude.text.lines import clean

END, UNKNOWN = 0, 1  # ids; END also begins a caption, and fills up rows
SPECIAL = ("<end>", "<unk>")

# What pycocoevalcap removes, in the lower case that the tokenizer gives: brackets stay, as "-lrb-" is not in its list.
PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
PLAIN = str.maketrans(
    {
        "\ufe0f": "",
        "\u200d": "",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
    }
)
CLITIC = r"(?:n't|'(?:s|m|d|re|ve|ll))"
LETTER = r"\p{L}\p{N}\p{M}\u200c"  # with the marks on letters, such as vowel signs, and what joins them (Persian)
END_OF_WORD = rf"(?![_{LETTER}])"
# What stands before a clitic is looked for so far and no further: else a long row of marks would take for ever.
BEFORE = rf"[_{LETTER}]{{1,64}}(?:['&][_{LETTER}]+){{0,8}}?(?:[-/][_{LETTER}]{{1,64}}(?:'[_{LETTER}]+){{0,8}}?){{0,16}}"
TOKEN = regex.compile(
    rf"""
      \d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s|am|pm)?(?:-[_{LETTER}]+)*    # numbers, 1/2, 4:30, 20th, 3-way
    | (?:[a-z]\.){{2,}} | (?:mr|mrs|ms|dr|st|jr|sr|vs)\.(?=\s)    # u.s., a.m.
    | [a-z0-9-]{{1,64}}\.(?:com|org|net)\b
    | (?:{CLITIC}){END_OF_WORD}                              # what is split off the word before it
    | [{LETTER}]+?(?=n't{END_OF_WORD}) | can(?=not{END_OF_WORD})    # do n't, can not
    | o'[_{LETTER}]+ | {BEFORE}(?={CLITIC}{END_OF_WORD})     # the word before it
    | [{LETTER}]+(?:[-/&'_][{LETTER}]+)*                     # t-shirt, and/or, at&t
    | \.{{2,}} | -+ | \S                                    # whatever else, a character at a time
    """,
    regex.VERBOSE,
)


def words(caption: str) -> list[str]:
    """The tokens of a caption as the metrics compare them, in NFC."""
    found = []
    for token in TOKEN.findall(clean(caption.translate(PLAIN).lower())):
        if token not in PUNCTUATION and token.strip(".-'\""):
            found.append(BRACKETS.get(token, token))
    return found


class Vocabulary:
    """The words that captions are told in; all others are UNKNOWN."""

    def __init__(self, known: Sequence[str]) -> None:
        """`known`: the words from id 2 on."""
        self.words = [*SPECIAL, *known]
        self.ids = {word: n for n, word in enumerate(self.words)}

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]], threshold: int) -> "Vocabulary":
        """The words that occur at least `threshold` times, most frequent first, equals in alphabetical order."""
        counts = Counter(word for caption in captions for word in caption)
        kept = [word for word, count in counts.items() if count >= threshold]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: Sequence[str]) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in caption]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption up to its END, words parted by spaces."""
        found = []
        for n in ids:
            if n == END:
                break
            found.append(self.words[n])
        return " ".join(found)
