"""WordPiece (Schuster & Nakajima 2012; Devlin et al. 2019): a word is cut from the left into the longest pieces known.

The vocabulary comes from merging pairs of neighbours, as in Hugging Face's trainer: the pair that stands most often in
the texts becomes a piece. Schuster & Nakajima take the pair that raises the likelihood of the texts most. The score
count(ab) / (count(a) count(b)) that is often given for that is not it: the likelihood grows with count(ab) times the
logarithm of that quotient. By the quotient alone, rare characters that meet once or twice win over every common word.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Self, Unpack

from etude.errors import UserError
from etude.text.bpe import count_pairs, join
from etude.text.tokenizer import FallbackOptions, Tokenizer, check_size, count_words, reserved

SPACE = "▁"  # how a space is written in a vocabulary
INSIDE = "##"  # what a piece begins with that does not begin a word
LIMIT = 100  # characters of a word, as in BERT


class WordPiece(Tokenizer):
    """Cuts each word from the left, each time by the longest piece of the vocabulary that fits (greedy).

    Where no piece fits, byte fallback spells one character in bytes; without it the whole word becomes one `unk`, as in
    BERT. Words longer than 100 characters are not cut at all: they are spelt in bytes, or `unk`. Given the same
    vocabulary and without byte fallback these are the ids of `tokenizers.models.WordPiece`, except that "▁" in a text
    is never taken for a space, nor "##" at the beginning of a word for the mark of a piece inside a word.
    """

    kind = "wordpiece"

    def __init__(self, vocab: Sequence[str], **options: Unpack[FallbackOptions]) -> None:
        """`vocab`: all tokens in the order of their ids, special and byte tokens among them.

        "▁" stands for a space; a token that begins with "##" and is longer than that stands inside a word.
        """
        super().__init__(vocab, **options)
        apart = {*self._special_ids, *self._first_byte}
        self._begin: dict[str, int] = {}
        self._inside: dict[str, int] = {}
        for id, token in enumerate(self.vocab):
            if id not in apart and " " not in token:
                piece = token.replace(SPACE, " ")
                if is_inside(token):
                    self._inside[piece.removeprefix(INSIDE)] = id
                else:
                    self._begin[piece] = id
        self._longest = max(map(len, [*self._begin, *self._inside]), default=0)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[FallbackOptions]) -> Self:
        """Learns pieces by merging the most frequent pair, until there are `vocab_size` tokens or no pairs are left.

        The vocabulary begins with all characters of the texts and, with "##", those that stand inside a word, each in
        the order of code points. Of equally frequent pairs the one wins whose first part, then whose second part, came
        into the vocabulary earlier. Words with "▁" are left out; words longer than 100 characters are cut there.
        Raises UserError if `vocab_size` has no room for the characters, or without texts.
        """
        words = count_spaced(texts, options.get("lowercase", False))
        return cls(learn(words, vocab_size, reserved(options)), **options)

    def encode_word(self, word: str) -> tuple[int, ...]:
        n = len(word)
        if n > LIMIT:
            return self.spell(word)
        ids: list[int] = []
        pieces, start = self._begin, 0
        while start < n:
            for end in range(min(start + self._longest, n), start, -1):
                id = pieces.get(word[start:end])
                if id is not None:
                    ids.append(id)
                    break
            else:
                if not self.byte_fallback:
                    return self.spell(word)
                end = start + 1
                ids += self.spell(word[start])
            pieces, start = self._inside, end
        return tuple(ids)

    def spelling(self, token: str) -> bytes:
        return (token.removeprefix(INSIDE) if is_inside(token) else token).replace(SPACE, " ").encode()


def is_inside(token: str) -> bool:
    return token.startswith(INSIDE) and token != INSIDE


def count_spaced(texts: Iterable[str], lowercase: bool) -> Counter[str]:
    """`count_words` without words that have the mark of a space. Raises UserError if no words are left."""
    words = count_words(texts, lowercase)
    for word in [word for word in words if SPACE in word]:
        del words[word]
    if not words:
        raise UserError(f"there is no text to train a tokenizer on: every word has the character {SPACE!r}")
    return words


def learn(words: Counter[str], size: int, tokens: list[str]) -> list[str]:
    """`tokens`, the alphabet, and as many merged pieces as there is room for: `size` in all.

    Words are kept as in `etude.text.bpe`: a str of one character per symbol, chr(number + 1), between two chr(0).
    """
    parts: Counter[str] = Counter()
    for word, count in sorted(words.items()):
        for begin in range(0, len(word), LIMIT):
            parts[word[begin : begin + LIMIT].replace(" ", SPACE)] += count
    symbols = [*sorted(set().union(*parts)), *sorted({INSIDE + letter for part in parts for letter in part[1:]})]
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    taken = set(tokens)
    vocab = [*tokens, *(symbol for symbol in symbols if symbol not in taken)]
    check_size(size, len(vocab))

    begins = {ord(letter): chr(numbers[letter] + 1) for letter in symbols if not is_inside(letter)}
    insides = {ord(symbol[-1]): chr(number + 1) for symbol, number in numbers.items() if is_inside(symbol)}
    rows = [f"\0{part[0].translate(begins)}{part[1:].translate(insides)}\0" for part in parts]
    frequency = list(parts.values())
    total, places = count_pairs(rows, frequency)
    # Counts on the heap may have fallen since; then they are put back as they are now.
    heap = [(-count, pair) for pair, count in total.items()]
    heapify(heap)
    while len(vocab) < size and heap:
        count, pair = heappop(heap)
        if total[pair] != -count:
            if 0 < total[pair] < -count:
                heappush(heap, (-total[pair], pair))
            continue
        first, second = (symbols[ord(character) - 1] for character in pair)
        symbol = first + second.removeprefix(INSIDE)
        if symbol in taken or (is_inside(symbol) and not is_inside(first)):
            continue  # it would be read as another token
        if symbol not in numbers:  # two pairs can make the same piece
            numbers[symbol] = len(symbols)
            symbols.append(symbol)
            vocab.append(symbol)
        born = join(pair, chr(numbers[symbol] + 1), places.pop(pair), rows, frequency, total)
        total[pair] = 0
        for pair, more in born.items():
            places.setdefault(pair, []).extend(more)
            heappush(heap, (-total[pair], pair))
    return vocab
