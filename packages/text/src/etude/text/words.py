"""Whole words, and single characters: the two ends between which the other tokenizers lie."""

from collections import Counter
from collections.abc import Iterable
from typing import Self, Unpack

from etude.text.tokenizer import FallbackOptions, Tokenizer, check_size, count_words, reserved


def most_frequent(counts: Counter[str], vocab_size: int, options: FallbackOptions) -> list[str]:
    """Special and byte tokens, then what is counted most; of what is as frequent the first in code point order."""
    tokens = reserved(options)
    check_size(vocab_size, len(tokens) + 1)
    room = vocab_size - len(tokens)
    return tokens + sorted(counts.keys() - set(tokens), key=lambda token: (-counts[token], token))[:room]


class Words(Tokenizer):
    """The most frequent pre-tokens, each with the space before it; all others are spelt in bytes, or `unk`."""

    kind = "words"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[FallbackOptions]) -> Self:
        return cls(most_frequent(count_words(texts, options.get("lowercase", False)), vocab_size, options), **options)

    def encode_word(self, word: str) -> tuple[int, ...]:
        id = self.ids.get(word)
        return self.spell(word) if id is None or id in self._special_ids else (id,)


class Characters(Tokenizer):
    """The most frequent characters (code points); all others are spelt in bytes, or `unk`."""

    kind = "characters"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[FallbackOptions]) -> Self:
        counts: Counter[str] = Counter()
        for word, count in count_words(texts, options.get("lowercase", False)).items():
            for character in word:
                counts[character] += count
        return cls(most_frequent(counts, vocab_size, options), **options)

    def encode_word(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for character in word:
            id = self.ids.get(character)
            ids += self.spell(character) if id is None or id in self._special_ids else (id,)
        return tuple(ids)
