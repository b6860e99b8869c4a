"""What all tokenizers share: pre-tokenisation, special tokens, byte fallback, batches, files.

A tokenizer of one's own is a subclass with `kind` and `encode_word`; where a token does not stand for its own letters
also `spelling`, where it needs more than a vocabulary also `more`.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self, TypedDict, Unpack

import numpy as np
import regex

from etude import files
from etude.errors import UserError

FORMAT, VERSION = "etude-tokenizer", 1
SPECIAL = ("pad", "unk", "bos", "eos")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# The pattern of GPT-2 (Radford et al. 2019, encoder.py): a word keeps the space before it, and nothing is lost. `re`
# knows neither \p{L} nor \p{N}, but is twice as fast, so it does the texts that are ASCII.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_split_ascii = re.compile(
    _PATTERN.replace(r"\s\p{L}\p{N}", r"\sA-Za-z0-9").replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"), re.ASCII
).findall
_split_unicode = regex.compile(_PATTERN).findall
_surrogate = re.compile("[\ud800-\udfff]")

CACHED, LONGEST = 1 << 18, 48  # words that are remembered, characters of such a word


def split(text: str) -> list[str]:
    """The pre-tokens of a text; joined they are the text."""
    return _split_ascii(text) if text.isascii() else _split_unicode(text)


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, for what takes UTF-8 only."""
    return text if text.isascii() else _surrogate.sub("\ufffd", text)


class Known(dict[str, tuple[int, ...]]):
    """The ids of words that were encoded before; a new word is encoded when it is looked up."""

    def __init__(self, encode_word: Callable[[str], tuple[int, ...]]) -> None:
        self.encode_word = encode_word

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self.encode_word(word)
        if len(word) <= LONGEST:
            if len(self) >= CACHED:
                self.clear()
            self[word] = ids
        return ids


class Options(TypedDict, total=False):
    """Keyword arguments of every tokenizer and of its `train`; None stands for "no such token"."""

    pad: str | None  # "<pad>": fills up shorter rows
    unk: str | None  # "<unk>": stands for what cannot be spelt
    bos: str | None  # None: before every text
    eos: str | None  # None: after every text
    lowercase: bool  # False: lower the case of texts first; `decode` then gives the lowered text


class FallbackOptions(Options, total=False):
    byte_fallback: bool  # True: spell what is not in the vocabulary in UTF-8 bytes, so that nothing is lost


class Encoding(dict[str, Any]):
    """{"input_ids", "attention_mask"}: for one text lists of int, for several lists of such lists, or int64 tensors."""

    def __init__(self, values: dict[str, Any], words: list[list[int | None]]) -> None:
        super().__init__(values)
        self._words = words

    def word_ids(self, i: int = 0) -> list[int | None]:
        """For each token of text `i` the number of the word that it is a piece of, None for special tokens."""
        return self._words[i]


Encoded = tuple[list[list[int]], list[list[int]], list[list[int | None]]]  # rows of ids, masks, numbers of words


class Tokenizer(ABC):
    """Text to ids and back.

    `vocab[id]` is a token. Special tokens are only ever put in by the tokenizer: a text that says "<pad>" is spelt like
    any other. With byte fallback `decode(encode(text)["input_ids"]) == text` for every str (unless lowercase is asked).
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type["Tokenizer"]]] = {}  # every tokenizer by its `kind`

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            cls.kinds[cls.kind] = cls

    def __init__(self, vocab: Sequence[str], **options: Unpack[FallbackOptions]) -> None:
        """`vocab`: all tokens in the order of their ids, special tokens and the 256 byte tokens (`BYTES`) among them.

        Raises UserError if a token stands twice in it or one of these is missing.
        """
        given: dict[str, Any] = {"pad": "<pad>", "unk": "<unk>", "bos": None, "eos": None, **options}
        self.lowercase: bool = given.pop("lowercase", False)
        self.byte_fallback: bool = given.pop("byte_fallback", True)
        special = {name: token for name, token in given.items() if token is not None}
        if unknown := given.keys() - set(SPECIAL):
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        if not isinstance(vocab, list | tuple) or not all(isinstance(token, str) and token for token in vocab):
            raise UserError("the vocabulary is no list of tokens (strings that are not empty)")
        if len(set(special.values())) < len(special):
            raise UserError(f"two special tokens have the same name ({special}): give each its own")
        self.vocab = list(vocab)
        self.ids = {token: id for id, token in enumerate(self.vocab)}
        if len(self.ids) < len(self.vocab):
            [(twice, _)] = Counter(self.vocab).most_common(1)
            raise UserError(f"the vocabulary has the token {twice!r} twice: remove one, or rename the special token")
        for name, token in special.items():
            if token not in self.ids:
                raise UserError(f"the vocabulary lacks the {name} token {token!r}: add it, or give {name}=None")
        if self.byte_fallback and not self.ids.keys() >= set(BYTES):
            raise UserError(
                "the vocabulary lacks byte tokens (<0x00> to <0xFF>): add them, or give byte_fallback=False"
            )
        if broken := _surrogate.search("".join(self.vocab)):
            raise UserError(f"the vocabulary has a lone surrogate ({broken[0]!r}), which is no text: remove its token")
        self.name_special(special)
        self._special_ids = {self.ids[token] for token in special.values()}
        self._first_byte = [self.ids[token] for token in BYTES] if self.byte_fallback else []
        as_bytes = set(self._first_byte)
        self._spelt = [  # what each id stands for in `decode`
            bytes([int(token[3:5], 16)])
            if id in as_bytes
            else token.encode()
            if id in self._special_ids
            else self.spelling(token)
            for id, token in enumerate(self.vocab)
        ]
        self._known = Known(self.encode_word)

    # -- what a subclass gives

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[Options]) -> Self:
        """Learns a vocabulary of at most `vocab_size` tokens. Raises UserError if too small, or without texts."""

    @abstractmethod
    def encode_word(self, word: str) -> tuple[int, ...]:
        """The ids of one pre-token (as `split` gives them: not empty, its leading space with it), no special tokens."""

    def spelling(self, token: str) -> bytes:
        """The UTF-8 bytes an ordinary token stands for; called while the tokenizer is made, for each token."""
        return token.encode()

    def more(self) -> dict[str, Any]:
        """What the constructor needs besides `vocab` and the options, by argument name: plain lists, str, numbers."""
        return {}

    def spell(self, text: str) -> tuple[int, ...]:
        """The ids of text that is not in the vocabulary: its bytes, or `unk` without byte fallback."""
        if self.byte_fallback:
            return tuple([self._first_byte[byte] for byte in text.encode("utf-8", "surrogatepass")])
        if self.unk_id is None:
            raise UserError(f"{text[:20]!r} is not in the vocabulary: give byte_fallback=True or an unk token")
        return (self.unk_id,)

    # -- vocabulary

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def id_of(self, token: str) -> int:
        """Raises UserError if the vocabulary has no such token."""
        if token not in self.ids:
            raise UserError(f"the vocabulary has no token {token!r}")
        return self.ids[token]

    def name_special(self, special: dict[str, str]) -> None:
        """Notes the special tokens by name, and their ids: None where there is no such token."""
        self.special = special
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (self.ids.get(special.get(name, "")) for name in SPECIAL)

    # -- text to ids

    def _frame(self, add_special_tokens: bool) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        if not add_special_tokens:
            return [], []
        return [id for id in [self.bos_id] if id is not None], [id for id in [self.eos_id] if id is not None]

    def encode_batch(self, texts: Iterable[str], add_special_tokens: bool = False) -> list[list[int]]:
        """The ids of many texts, without masks and words, which take most of the time of a call."""
        before, after = self._frame(add_special_tokens)
        ids = self._known.__getitem__
        return [[*before, *chain.from_iterable(map(ids, self._split(text))), *after] for text in texts]

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        return self(text, add_special_tokens=add_special_tokens)

    def __call__(
        self,
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        padding: bool | Literal["longest", "max_length"] = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
    ) -> Encoding:
        """Encodes a text or a list of texts; the arguments are those of Hugging Face `transformers`.

        With `is_split_into_words` a text is a list of words. They are taken as if a space stood between them, and each
        has at least one token, even an empty one; `word_ids` number them. Without, `word_ids` number the pre-tokens.
        Rows are padded and cut on the right; special tokens are never cut. Tensors have the shape (texts, longest).
        Raises UserError for arguments that cannot be met.
        """
        check_call(padding, truncation, max_length, return_tensors)
        single = is_single(texts, is_split_into_words)
        batch: list[Any] = [texts] if single else list(texts)
        if padding and self.pad_id is None:
            raise UserError("padding needs a pad token, which this tokenizer lacks: train or make it with pad='<pad>'")
        specials = self._specials() if add_special_tokens else 0
        if truncation and max_length is not None and max_length < specials:
            raise UserError(f"max_length={max_length} has no room for the {specials} special tokens: give more")
        encoded: Encoded = ([], [], [])
        if batch:
            how: dict[str, Any] = {"padding": padding, "truncation": truncation, "max_length": max_length}
            encoded = self._encoded(batch, is_split_into_words, add_special_tokens, **how)
        return pack(*encoded, single, return_tensors)

    def _specials(self) -> int:
        """How many special tokens a text gets."""
        return sum(map(len, self._frame(True)))

    def _encoded(
        self, batch: list[Any], split: bool, specials: bool, padding: Any, truncation: bool, max_length: int | None
    ) -> Encoded:
        """Rows of ids, masks and numbers of words for a batch that is not empty, as `__call__` says."""
        before, after = self._frame(specials)
        rows, words = [], []
        for text in map(self._cut_words if split else self._cut, batch):
            ids: list[int] = []
            numbers: list[int | None] = []
            for number, pieces in enumerate(text):
                start = len(ids)
                ids += chain.from_iterable(map(self._known.__getitem__, pieces))
                numbers += [number] * (len(ids) - start)
            if truncation and max_length is not None:
                room = max_length - len(before) - len(after)
                del ids[room:], numbers[room:]
            rows.append([*before, *ids, *after])
            words.append([*[None] * len(before), *numbers, *[None] * len(after)])
        lengths = [len(row) for row in rows]
        if padding and self.pad_id is not None:
            width = max_length if padding == "max_length" and max_length is not None else max(lengths)
            for row, numbers in zip(rows, words, strict=True):
                row += [self.pad_id] * (width - len(row))
                numbers += [None] * (width - len(numbers))
        return rows, [[1] * n + [0] * (len(row) - n) for n, row in zip(lengths, rows, strict=True)], words

    def _split(self, text: str) -> list[str]:
        return split(text.lower() if self.lowercase else text)

    def _cut(self, text: str) -> list[list[str]]:
        return [[word] for word in self._split(text)]

    def _cut_words(self, words: Sequence[str]) -> list[list[str]]:
        """Only the first word has no space before it; it gets one if otherwise nothing were left of it."""
        return [self._split(word if number == 0 and word else " " + word) for number, word in enumerate(words)]

    # -- ids to text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids` (a list, array or tensor) [T]; bytes that are no UTF-8 become U+FFFD.

        Raises UserError if an id is not in the vocabulary, and for rows of ids, which `batch_decode` takes.
        """
        numbers = self._check_ids(ids)
        if skip_special_tokens:
            numbers = [id for id in numbers if id not in self._special_ids]
        text = b"".join([self._spelt[id] for id in numbers])
        try:
            return text.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return text.decode("utf-8", "replace")

    def _check_ids(self, ids: Iterable[int]) -> list[int]:
        values = ids.tolist() if hasattr(ids, "tolist") else ids  # of arrays and tensors
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"{values!r} is no list of ids: decode takes those of one text, batch_decode rows of them")
        numbers = [id.tolist() if hasattr(id, "tolist") else id for id in values]
        for id in numbers:
            if isinstance(id, list | tuple):
                raise UserError("decode takes the ids of one text, not rows of ids: use batch_decode for those")
            if not isinstance(id, int):
                raise UserError(f"{id!r} is no id: ids are whole numbers")
            if not 0 <= id < self.vocab_size:
                raise UserError(f"id {id} is not in the vocabulary, which has {self.vocab_size} tokens")
        return numbers

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """The texts of rows of ids [B, T] or of ragged ones. Raises as `decode`."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    # -- files

    def state(self) -> dict[str, Any]:
        """Everything as plain data (str, bool, numbers, list, dict), for a checkpoint; `from_state` makes it again."""
        return {
            "type": self.kind,
            "special": dict(self.special),
            "lowercase": self.lowercase,
            "byte_fallback": self.byte_fallback,
            **self.more(),
            "vocab": list(self.vocab),
        }

    @classmethod
    def from_state(cls, state: Any, where: str = "the tokenizer") -> Self:
        """The tokenizer of `state()`; `where` stands in errors.

        Raises UserError if the state is not whole or of another type.
        """

        def refuse(reason: str) -> NoReturn:
            raise UserError(f"{where} cannot be read ({reason}): save the tokenizer again")

        if not isinstance(state, dict) or not isinstance(state.get("type"), str):
            refuse("it has no type")
        if state["type"] not in cls.kinds:
            refuse(f"unknown type {state['type']!r}, known are {', '.join(cls.kinds)}")
        kind = cls.kinds[state["type"]]
        if not issubclass(kind, cls):
            refuse(f"a {kind.__name__} tokenizer, not {cls.__name__}")
        try:
            return kind.restore(state)
        except KeyError as error:
            refuse(f"{error} is missing")
        except (UserError, TypeError, ValueError, IndexError, AttributeError) as error:
            refuse(str(error).splitlines()[0])

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """`from_state` for this type, unchecked: the keys of `state` are the arguments of the constructor."""
        arguments = {key: value for key, value in state.items() if key not in ("type", "special")}
        return cls(arguments.pop("vocab"), **arguments, **{name: state["special"].get(name) for name in SPECIAL})

    def save(self, path: str | Path) -> None:
        """Writes a readable JSON file, whole or not at all. Raises UserError if it cannot be written."""
        state = {"format": FORMAT, "version": VERSION, **self.state()}
        files.put(path, (json.dumps(state, ensure_ascii=False, indent=1) + "\n").encode(), "choose another place")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer of a file that `save` wrote; `Tokenizer.load` (also `etude.text.load`) reads every type.

        Raises UserError if the file is missing, broken, of another version or (on a subclass) of another type.
        """
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}: give the file of a saved tokenizer") from None
        except (ValueError, RecursionError):
            raise UserError(f"{path} is no JSON file: give the file of a saved tokenizer, or save it again") from None
        if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
            raise UserError(f"{path} is no tokenizer that was saved here (its format is not {FORMAT!r}): save it again")
        if (version := state.pop("version", None)) != VERSION:
            raise UserError(f"{path} has version {version!r}, but {VERSION} can be read: save the tokenizer again")
        return cls.from_state(state, str(os.fspath(path)))


# -- training


def count_words(texts: Iterable[str], lowercase: bool = False) -> Counter[str]:
    """How often each pre-token (see `split`) stands in the texts.

    Words with lone surrogates, which are no text, are left out. Raises UserError if no words are left.
    """
    if isinstance(texts, str):
        raise UserError("a single text was given to train a tokenizer: give a list of texts")
    words: Counter[str] = Counter()
    for text in texts:
        words.update(split(text.lower() if lowercase else text))
    for word in [word for word in words if not word.isascii() and _surrogate.search(word)]:
        del words[word]
    if not words:
        raise UserError("there is no text to train a tokenizer on: give texts that are not empty")
    return words


def reserved(options: Options | FallbackOptions, byte_fallback: bool = True) -> list[str]:
    """The first tokens of a vocabulary to be trained: the special ones (pad, unk, bos, eos), then the 256 byte tokens.

    `byte_fallback` is what is meant where the options do not say.
    """
    given: dict[str, Any] = {"pad": "<pad>", "unk": "<unk>", **options}
    tokens = [given[name] for name in SPECIAL if given.get(name) is not None]
    return tokens + BYTES if given.get("byte_fallback", byte_fallback) else tokens


def check_size(vocab_size: int, least: int) -> None:
    """Raises UserError if the vocabulary has no room for what must stand in it, `least` tokens."""
    if vocab_size < least:
        raise UserError(f"a vocabulary of {vocab_size} is too small: special tokens and alphabet need at least {least}")


# -- batches


def check_call(padding: Any, truncation: Any, max_length: int | None, return_tensors: Any) -> None:
    """Raises UserError for arguments of a call that contradict each other."""
    if padding not in (False, True, "longest", "max_length"):
        raise UserError(f"padding={padding!r} is unknown: give True, False, 'longest' or 'max_length'")
    if truncation not in (False, True):
        raise UserError(f"truncation={truncation!r} is unknown: give True or False")
    if return_tensors not in (None, "pt", "np"):
        raise UserError(f"return_tensors={return_tensors!r} is unknown: give 'pt', 'np' or None")
    if max_length is None and (truncation or padding == "max_length"):
        raise UserError(f"{'truncation' if truncation else 'padding'} to max_length needs max_length: give it")
    if max_length is not None and max_length < 1:
        raise UserError(f"max_length={max_length} is too small: give at least 1")
    if max_length is not None and not truncation and padding != "max_length":
        raise UserError("max_length does nothing alone: give truncation=True or padding='max_length', too")


def is_single(texts: Any, is_split_into_words: bool) -> bool:
    """Whether `texts` is one text. Raises UserError if words are expected and a str was given."""
    if not is_split_into_words:
        return isinstance(texts, str)
    if isinstance(texts, str):
        raise UserError("is_split_into_words expects a list of words, or a list of such lists, not a str")
    return len(texts) > 0 and isinstance(texts[0], str)


def pack(
    rows: list[list[int]], masks: list[list[int]], words: list[list[int | None]], single: bool, tensors: str | None
) -> Encoding:
    """Raises UserError if tensors are asked of rows that differ in length."""
    columns = {"input_ids": rows, "attention_mask": masks}
    if tensors is None:
        return Encoding({name: column[0] if single else column for name, column in columns.items()}, words)
    if len({len(row) for row in rows}) > 1:
        raise UserError("texts of different lengths make no tensor: give padding=True, and truncation with max_length")
    shape = (len(rows), len(rows[0]) if rows else 0)
    values = {name: np.array(column, dtype=np.int64).reshape(shape) for name, column in columns.items()}
    if tensors == "np":
        return Encoding(values, words)
    import torch

    return Encoding({name: torch.from_numpy(value) for name, value in values.items()}, words)
