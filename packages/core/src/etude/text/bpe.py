"""Byte pair encoding on bytes (Sennrich et al. 2016; on bytes: Radford et al. 2019, GPT-2)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import repeat
from operator import add
from typing import Any, Self, Unpack

import numpy as np

from etude.errors import UserError
from etude.text.tokenizer import Options, Tokenizer, check_size, collector_paused, count_words, reserved

# Every byte has a letter that can be seen, as in GPT-2: its own, or one from U+0100 on (a space is "Ġ").
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
LETTER = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(0x100 + n) for n, byte in enumerate(_HIDDEN)}
BYTE = {letter: byte for byte, letter in LETTER.items()}
ALPHABET = sorted(BYTE)

LONG = 512  # bytes: from here on encoding takes a heap
PIECE = 1024  # bytes: longer words are learnt from in pieces, see `train`
FEW = 100  # words: below, one at a time is faster
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
        self._byte_ranks = np.full((256, 256), NEVER)
        for rank, merge in enumerate(self.merges):
            left, _, right = merge.partition(" ")
            if not {left, right, left + right} <= ordinary:
                raise UserError(f"merge {rank} ({merge!r}) is no pair of tokens that make a token of the vocabulary")
            self._ranks[chr(self.ids[left]) + chr(self.ids[right])] = rank
            self._joined.append(chr(self.ids[left + right]))
            if len(left) == len(right) == 1:
                self._byte_ranks[BYTE[left], BYTE[right]] = rank
        # The same as arrays, for many words at once; one more pair, larger than all, ends every search.
        self._byte_ranks[0xFF, :] = self._byte_ranks[:, 0xFF] = NEVER  # it stands between the words
        self._byte_ids = np.array([self.ids[LETTER[byte]] for byte in range(256)])
        self._joined_ids = np.array([ord(token) for token in self._joined], dtype=np.int64)
        pairs = np.array([*(ord(pair[0]) * (len(vocab) + 1) + ord(pair[1]) for pair in self._ranks), 1 << 62])
        order = np.argsort(pairs)
        self._pairs, self._pair_ranks = pairs[order], np.array([*self._ranks.values(), NEVER])[order]
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
        """Joins the pair of lowest rank, of several the leftmost, until no pair is known."""
        letters = word.encode("utf-8", "surrogatepass").decode("latin-1").translate(self._letters)
        if len(letters) > LONG:
            return self._encode_long(letters)
        rank_of, joined, tokens = self._ranks.get, self._joined, [*letters, ""]
        ranks = [*map(rank_of, map(add, letters, letters[1:]), repeat(NEVER)), NEVER]  # of each token with the next
        while (best := min(ranks)) < NEVER:
            at = ranks.index(best)
            tokens[at] = token = joined[best]
            del tokens[at + 1], ranks[at]
            ranks[at] = rank_of(token + tokens[at + 1], NEVER)
            if at:
                ranks[at - 1] = rank_of(tokens[at - 1] + token, NEVER)
        return tuple(map(ord, "".join(tokens)))

    def encode_words(self, words: Sequence[str]) -> Iterable[tuple[int, ...]]:
        """`encode_word` for all words side by side: in each round every word joins its best pair."""
        texts = [word.encode("utf-8", "surrogatepass") for word in words]
        if len(texts) < FEW or max(map(len, texts)) > LONG:
            return map(self.encode_word, words)
        # All words one after the other, each with `end` behind it, and the rank of each token with the next.
        end = len(self.vocab)
        letters = np.frombuffer(b"\xff".join([*texts, b""]), dtype=np.uint8)  # no UTF-8 has the byte FF
        ids = np.where(letters == 0xFF, end, self._byte_ids[letters])
        ranks = self._byte_ranks[letters, np.append(letters[1:], 0xFF)]
        numbers = np.arange(len(texts))
        lengths = np.array([len(text) + 1 for text in texts])
        results: list[tuple[int, ...]] = [()] * len(texts)
        while len(numbers):
            first = np.cumsum(lengths) - lengths
            best = np.minimum.reduceat(ranks, first)
            if (over := best == NEVER).any():
                gone = np.repeat(over, lengths)
                flat, start = ids[gone].tolist(), 0
                for number, length in zip(numbers[over].tolist(), lengths[over].tolist(), strict=True):
                    results[number] = tuple(flat[start : start + length - 1])
                    start += length
                ids, ranks = ids[~gone], ranks[~gone]
                numbers, lengths, best = numbers[~over], lengths[~over], best[~over]
                first = np.cumsum(lengths) - lengths
            at = np.flatnonzero(ranks == np.repeat(best, lengths))
            at = at[np.searchsorted(at, first)]  # the leftmost of each word
            ids[at] = self._joined_ids[best]
            stay = np.ones(len(ids), dtype=bool)
            stay[at + 1] = False
            ids, ranks, lengths = ids[stay], ranks[stay], lengths - 1
            at -= np.arange(len(at))
            for left in (at, at - 1):  # -1 is an `end`, too
                pairs = ids[left] * (end + 1) + ids[left + 1]
                found = np.searchsorted(self._pairs, pairs)
                ranks[left] = np.where(self._pairs[found] == pairs, self._pair_ranks[found], NEVER)
        return results

    def _encode_long(self, letters: str) -> tuple[int, ...]:
        """The same in O(n log n): tokens in a linked list, pairs in a heap; what is outdated is known by its rank."""
        rank_of, tokens = self._ranks.get, list(letters)
        end = len(tokens)
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


@collector_paused()
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
    total, born = _count_pairs(list(pieces), frequency, letters)

    # Pairs wait in a list for each count, with the words they stand in. Only the list of the highest count is kept as a
    # heap: most pairs are so rare that their turn never comes. A pair whose count has changed by then moves on.
    waiting: defaultdict[int, list[tuple[str, list[int]]]] = defaultdict(list)
    top = 0
    merges: dict[str, None] = {}
    while True:
        for pair, places in born.items():
            count = total[pair]
            if count == top:
                heappush(waiting[top], (pair, places))
            elif count > 0:
                waiting[count].append((pair, places))
                top = max(top, count)
        while top and not waiting.get(top):
            top -= 1
            heapify(waiting.get(top, []))
        if not top or len(vocab) >= vocab_size:
            return list(merges)
        pair, places = heappop(waiting[top])
        if total[pair] != top:
            born = {pair: places}
            continue
        left, right = (vocab[ord(character) - 1] for character in pair)
        id = ids.setdefault(left + right, len(vocab))
        if id == len(vocab):
            vocab.append(left + right)
        merges.pop(f"{left} {right}", None)  # joined before: the later rank counts
        merges[f"{left} {right}"] = None
        born = join(pair, chr(id + 1), places, words, frequency, total)


def _count_pairs(
    pieces: list[bytes], frequency: list[int], letters: dict[int, str]
) -> tuple[Counter[str], dict[str, list[int]]]:
    """How often each pair of bytes stands in the pieces, and in which."""
    lengths = np.array([len(piece) for piece in pieces])
    number = np.repeat(np.arange(len(pieces)), lengths)
    text = np.frombuffer(b"".join(pieces), dtype=np.uint8).astype(np.uint16)
    inside = np.flatnonzero(number[1:] == number[:-1])
    pairs, number = text[inside] * 256 + text[inside + 1], number[inside]
    counts = np.zeros(1 << 16, dtype=np.int64)
    np.add.at(counts, pairs, np.array(frequency)[number])
    number = number[np.argsort(pairs, kind="stable")]
    ends = np.bincount(pairs, minlength=1 << 16).cumsum()
    total: Counter[str] = Counter()
    where = {}
    for pair in np.flatnonzero(counts).tolist():
        name = letters[pair >> 8] + letters[pair & 255]
        total[name] = int(counts[pair])
        where[name] = number[ends[pair - 1] if pair else 0 : ends[pair]].tolist()
    return total, where


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
