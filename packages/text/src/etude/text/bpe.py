"""Byte pair encoding on bytes (Sennrich et al. 2016; on bytes: Radford et al. 2019, GPT-2)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import repeat
from operator import add
from typing import Any, Self, Unpack

from etude.errors import UserError
from etude.text.tokenizer import Options, Tokenizer, check_size, count_words, reserved

# Every byte has a letter that can be seen, as in GPT-2: its own, or one from U+0100 on (a space is "Ġ").
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
LETTER = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(0x100 + n) for n, byte in enumerate(_HIDDEN)}
BYTE = {letter: byte for byte, letter in LETTER.items()}
ALPHABET = sorted(BYTE)

PIECE = 1024  # bytes: longer words are learnt from in pieces, see `train`
NEVER = 1 << 31


class BPE(Tokenizer):
    """Starts from bytes and joins pairs of tokens, in the order in which the pairs were learnt.

    Any text is made of bytes, so there is no byte fallback, and `unk` is never used.
    """

    kind = "bpe"

    def __init__(self, vocab: Sequence[str], merges: Sequence[str], **options: Unpack[Options]) -> None:
        """`vocab`: special tokens, the 256 letters of `ALPHABET` and joined tokens; `merges`: "left right", best first.

        Raises UserError if a letter or a token of a merge is missing.
        """
        super().__init__(vocab, **options, byte_fallback=False)
        ordinary = self.ids.keys() - set(self.special.values())
        if missing := [letter for letter in ALPHABET if letter not in ordinary]:
            raise UserError(f"the vocabulary lacks letters of the byte alphabet: {' '.join(missing[:5])}")
        if not isinstance(merges, list | tuple) or not all(isinstance(merge, str) for merge in merges):
            raise UserError("the merges are no list of strings such as 'Ġ t'")
        self.merges = list(merges)
        # While it is being encoded a word is a str of one character per token, chr(id): such strings are cut, joined
        # and looked up faster than lists of int.
        self._ranks: dict[str, int] = {}
        self._joined: list[str] = []
        for rank, merge in enumerate(self.merges):
            left, _, right = merge.partition(" ")
            if not {left, right, left + right} <= ordinary:
                raise UserError(f"merge {rank} ({merge!r}) is no pair of tokens that make a token of the vocabulary")
            self._ranks[chr(self.ids[left]) + chr(self.ids[right])] = rank
            self._joined.append(chr(self.ids[left + right]))
        self._letters = {byte: chr(self.ids[letter]) for byte, letter in LETTER.items()}

    def spelling(self, token: str) -> bytes:
        if not BYTE.keys() >= set(token):
            raise UserError(f"token {token!r} is neither special nor made of the letters that stand for bytes")
        return bytes([BYTE[letter] for letter in token])

    def more(self) -> dict[str, Any]:
        return {"merges": list(self.merges)}

    def state(self) -> dict[str, Any]:
        return {key: value for key, value in super().state().items() if key != "byte_fallback"}

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Joins the pair of lowest rank, of several the leftmost, until no pair is known.

        In O(n log n): tokens in a linked list, pairs in a heap; what is outdated there is known by its rank.
        """
        letters = word.encode("utf-8", "surrogatepass").decode("latin-1").translate(self._letters)
        rank_of, tokens, end = self._ranks.get, [*letters], len(letters)
        following, before = list(range(1, end + 1)), list(range(-1, end - 1))
        pairs = map(rank_of, map(add, letters, letters[1:]), repeat(NEVER))
        heap = [(rank, at) for at, rank in enumerate(pairs) if rank < NEVER]
        heapify(heap)
        while heap:
            rank, at = heappop(heap)
            right = following[at]
            if right == end or rank_of(tokens[at] + tokens[right]) != rank:  # a joined-away token is ""
                continue
            tokens[at], tokens[right] = self._joined[rank], ""
            following[at] = after = following[right]
            if after < end:
                before[after] = at
                if (rank := rank_of(tokens[at] + tokens[after], NEVER)) < NEVER:
                    heappush(heap, (rank, at))
            if at and (rank := rank_of(tokens[before[at]] + tokens[at], NEVER)) < NEVER:
                heappush(heap, (rank, before[at]))
        return tuple(map(ord, "".join(tokens)))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[Options]) -> Self:
        """Learns merges until the vocabulary has `vocab_size` tokens or no pair is left.

        Same merges and ids as the `BpeTrainer` of Hugging Face `tokenizers` with the pre-tokenizer
        `ByteLevel(add_prefix_space=False)` and the initial alphabet of `ByteLevel`. Its rules: ids go to special
        tokens, then to the alphabet in the order of its letters, then to tokens as they are made. The most frequent
        pair is joined, of equally frequent ones that with the smaller ids (left before right). Pairs that make the
        same text share an id, and the rank of a pair that is joined twice is the later one.

        Words of more than 1,024 bytes are learnt from in pieces of that length (this alone differs), so that the time
        stays proportional to the text where there are no spaces. Raises UserError as `Tokenizer.train` says.
        """
        vocab = reserved(options, byte_fallback=False)
        check_size(vocab_size, len(vocab) + len(ALPHABET))
        counts = count_words(texts, options.get("lowercase", False))
        vocab += ALPHABET
        return cls(vocab, _learn(counts, vocab, vocab_size), **options)


def _learn(counts: Counter[str], vocab: list[str], vocab_size: int) -> list[str]:
    """Extends `vocab`, which ends in the alphabet, and gives the merges.

    A word is a str of one character per token, chr(id + 1), between two chr(0): `str.partition` finds a pair faster
    than any loop, and characters sort as ids do.
    """
    pieces: Counter[bytes] = Counter()
    for word, count in counts.items():
        text = word.encode()
        for start in range(0, len(text), PIECE):
            pieces[text[start : start + PIECE]] += count
    ids = {letter: len(vocab) - len(ALPHABET) + n for n, letter in enumerate(ALPHABET)}
    letters = {byte: chr(ids[letter] + 1) for byte, letter in LETTER.items()}
    words = [f"\0{piece.decode('latin-1').translate(letters)}\0" for piece in pieces]
    frequency = list(pieces.values())
    total, places = count_pairs(words, frequency)
    # Counts in the heap may have changed since; then a pair is put back with its count of now.
    heap = [(-count, pair, places[pair]) for pair, count in total.items()]
    heapify(heap)
    merges: dict[str, None] = {}
    while heap and len(vocab) < vocab_size:
        count, pair, inside = heappop(heap)
        if total[pair] != -count:
            born = {pair: inside}
        else:
            left, right = (vocab[ord(character) - 1] for character in pair)
            id = ids.setdefault(left + right, len(vocab))
            if id == len(vocab):
                vocab.append(left + right)
            merges.pop(f"{left} {right}", None)  # joined before: the later rank counts
            merges[f"{left} {right}"] = None
            born = join(pair, chr(id + 1), inside, words, frequency, total)
        for pair, inside in born.items():
            if total[pair] > 0:
                heappush(heap, (-total[pair], pair, inside))
    return list(merges)


def count_pairs(words: list[str], frequency: list[int]) -> tuple[Counter[str], dict[str, list[int]]]:
    """How often each pair of neighbours stands in the words, and in which (where it stands twice, named twice)."""
    total: Counter[str] = Counter()
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(words):
        for pair in map(add, word[1:-1], word[2:-1]):
            total[pair] += frequency[place]
            places[pair].append(place)
    return total, places


def join(
    pair: str, new: str, places: list[int], words: list[str], frequency: list[int], total: Counter[str]
) -> dict[str, list[int]]:
    """Writes `new` for `pair` in the words at `places`, counts anew, and gives the pairs that arise, with their words.

    As in `tokenizers`, the count of the pair itself stays: it matters if other merges bring the pair back.
    """
    before: defaultdict[str, list[int]] = defaultdict(list)  # token on the left of the pair: words
    after: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        head, found, tail = words[place].partition(pair)
        while found:
            before[head[-1]].append(place)
            after[tail[0]].append(place)
            middle, found, tail = tail.partition(pair)
            head += new + middle
        words[place] = head
    before.pop("\0", None)
    after.pop("\0", None)
    left, right = pair[0], pair[1]
    count_of = frequency.__getitem__
    born: dict[str, list[int]] = {}
    for token, inside in before.items():
        count = sum(map(count_of, inside))
        total[token + left] -= count
        total[token + new] += count
        born[token + new] = inside
    for token, inside in after.items():
        count = sum(map(count_of, inside))
        total[right + token] -= count
        total[new + token] += count
        born[new + token] = born.get(new + token, []) + inside
    return born
