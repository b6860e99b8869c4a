"""From captions to words, and from words to ids.

`words` does in Python what the official evaluation does with Stanford's PTBTokenizer (CoreNLP 3.4.1, Java): tokens of
the Penn Treebank (Marcus et al. 1993), lower case, without punctuation. Where it differs stands in the README.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

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
TOKEN = re.compile(
    rf"""
      \d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s|am|pm)?(?:-\w+)*    # numbers, 1/2, 4:30, 20th, 3-way
    | (?:[a-z]\.){{2,}} | (?:mr|mrs|ms|dr|st|jr|sr|vs)\.(?=\s)    # u.s., a.m.
    | [a-z0-9-]+\.(?:com|org|net)\b
    | (?:{CLITIC})(?!\w)                                    # what is split off the word before it
    | [^\W_]+?(?=n't\b) | can(?=not\b)                      # do n't, can not
    | o'\w+ | \w+(?:['&]\w+)*?(?:[-/]\w+(?:'\w+)*?)*(?={CLITIC}\b)    # the word before it
    | [^\W_]+(?:[-/&'_][^\W_]+)*                            # t-shirt, and/or, at&t
    | \.{{2,}} | -+ | \S                                    # whatever else, a character at a time
    """,
    re.VERBOSE,
)


def words(caption: str) -> list[str]:
    """The tokens of a caption as the metrics compare them."""
    found = []
    for token in TOKEN.findall(caption.translate(PLAIN).lower()):
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
