"""From words to numbers: pieces, shape, beginnings and endings, characters. Everything here is learnt from training.

Each distinct form of a word is looked at once, in Python; what a batch needs is then picked out of arrays.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Self
from unicodedata import category

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etude import text
from etude.errors import UserError
from etude.text.tokenizer import Tokenizer
from lstm_pos.config import Config

RARE, SHARED = 2, 3  # unknown words are what words that come so often at most are; an ending is one that so many share
TOGETHER = 10_000  # forms that are looked at together: what Python needs for more would be a multiple of the result
LONGEST = 24  # characters of a word that are read, the last ones
SHAPES = ("lower", "Title", "UPPER", "MiXed", "123", "a1", "latin", "...", "-", "☺")
AFFIXES: tuple[Callable[[str], str], ...] = (
    *(lambda word, n=n: word[-n:] for n in (1, 2, 3, 4)),
    *(lambda word, n=n: word[:n] for n in (1, 2, 3)),
)


def shape(word: str) -> int:
    """What a word looks like, a number of SHAPES."""
    if not any(map(str.isalnum, word)):
        if any(category(character) in ("So", "Sk", "Sc", "Sm") for character in word):
            return SHAPES.index("☺")
        return SHAPES.index("-" if word in ("-", "–", "—") else "...")
    if any(map(str.isdigit, word)):
        return SHAPES.index("a1" if any(map(str.isalpha, word)) else "123")
    if word.isascii():
        return SHAPES.index("latin")
    if word.islower():
        return SHAPES.index("lower")
    if word.isupper() and len(word) > 1:
        return SHAPES.index("UPPER")
    return SHAPES.index("Title" if word[1:].islower() or len(word) == 1 else "MiXed")


@dataclass(frozen=True)
class Forms:
    """V distinct forms as numbers. Ragged values lie one after another; those of form v are starts[v]:starts[v + 1].

    What `model.features` and `model.dictionary` do not ask for is left out: A or G is 0, no form has characters.
    """

    pieces: np.ndarray  # int64 [P]
    piece_starts: np.ndarray  # int64 [V + 1]
    classes: np.ndarray  # int64 [V] the piece that stands for an unknown word that looks so
    shapes: np.ndarray  # int64 [V]
    dictionary: np.ndarray  # float32 [R, G] what the dictionary says of forms, each answer once
    answers: np.ndarray  # int32 [V] the row of it
    affixes: np.ndarray  # int64 [V, A], 0 for one that training does not know
    characters: np.ndarray  # int64 [C], 1 for one that training does not know
    character_starts: np.ndarray  # int64 [V + 1]

    @property
    def counts(self) -> np.ndarray:
        """How many pieces each form has, int64 [V]."""
        return np.diff(self.piece_starts)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers from each start on, as many as its count, one after another: [N], [N] -> [sum of counts]."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


class Words:
    """Whole words in lower case, the most frequent ones; others by shape and ending, as far as training knows such.

    `vocab`: <pad>, <unk>, then classes of unknown words such as "Title ами", then the words.
    """

    kind = "words"

    def __init__(self, classes: list[str], words: list[str]) -> None:
        self.classes, self.words = classes, words
        self.vocab_size = 2 + len(classes) + len(words)
        self.class_ids = {name: id for id, name in enumerate(classes, 2)}
        self.word_ids = {word: id for id, word in enumerate(words, 2 + len(classes))}

    @classmethod
    def train(cls, counts: Counter[str], size: int) -> Self:
        """From how often each form stands in training. A quarter of the room at most is for classes."""
        lower: Counter[str] = Counter()
        for form, n in counts.items():
            lower[form.lower()] += n
        found: Counter[str] = Counter()
        for form in counts:
            if lower[form.lower()] <= RARE:
                found.update(candidates(form))
        classes = [name for name, n in found.most_common((size - 2) // 4) if n >= SHARED]
        return cls(classes, [word for word, _ in lower.most_common(max(0, size - 2 - len(classes)))])

    def class_of(self, form: str) -> int:
        return next((self.class_ids[name] for name in candidates(form) if name in self.class_ids), 1)

    def pieces(self, forms: Sequence[str]) -> list[list[int]]:
        return [[self.word_ids.get(form.lower()) or self.class_of(form)] for form in forms]

    def state(self) -> dict[str, Any]:
        return {"type": self.kind, "classes": self.classes, "words": self.words}


def candidates(form: str) -> list[str]:
    """The classes that an unknown word may belong to, the narrowest first."""
    look, lower = SHAPES[shape(form)], form.lower()
    return [f"{look} {lower[-n:]}" for n in (3, 2, 1) if n <= len(lower)] + [look]


class Pieces:
    """A tokenizer of `etude.text`, applied to single words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.kind, self.vocab_size = tokenizer, tokenizer.kind, tokenizer.vocab_size

    def pieces(self, forms: Sequence[str]) -> list[list[int]]:
        # They are cut as within a sentence, where a space stands before them; the first word has none.
        encoded = self.tokenizer(["a", *forms], is_split_into_words=True, add_special_tokens=False)
        found: list[list[int]] = [[] for _ in range(len(forms) + 1)]
        for id, word in zip(encoded["input_ids"], encoded.word_ids(), strict=True):
            found[word].append(id)  # type: ignore[index]
        return found[1:]

    def class_of(self, form: str) -> int:  # noqa: ARG002
        return 0  # nothing passes for an unknown word: its pieces are known

    def state(self) -> dict[str, Any]:
        return self.tokenizer.state()


Trained = type[text.BPE | text.WordPiece | text.Unigram]
TRAINED: dict[str, Trained] = {"bpe": text.BPE, "wordpiece": text.WordPiece, "unigram": text.Unigram}


class Encoder:
    """Turns forms into numbers, and remembers which of them training has seen."""

    def __init__(
        self,
        config: Config,
        cutter: Words | Pieces,
        affixes: list[list[str]],
        characters: list[str],
        dictionary: "Dictionary | None",
    ) -> None:
        self.config, self.cutter, self.affixes, self.characters = config, cutter, affixes, characters
        self.dictionary = dictionary
        self.affix_ids = [{affix: id for id, affix in enumerate(known, 1)} for known in affixes]
        self.character_ids = {character: id for id, character in enumerate(characters, 2)}

    @classmethod
    def train(cls, config: Config, counts: Counter[str], sentences: Callable[[], Iterable[str]]) -> Self:
        """From how often each form stands in training, and (for pieces) its sentences, words between spaces."""
        cutter: Words | Pieces
        kind, size = config.text.tokenizer, config.text.vocabulary
        if kind == "words":
            cutter = Words.train(counts, size)
        elif kind == "pretrained":
            cutter = Pieces(text.Pretrained(config.text.pretrained))
        else:
            cutter = Pieces(TRAINED[kind].train(sentences(), size))
        lower = sorted({form.lower() for form in counts})
        affixes = []
        for affix in AFFIXES:
            shared = Counter(map(affix, lower))
            affixes.append([found for found, n in shared.items() if n >= SHARED])
        letters: Counter[str] = Counter()
        for form in counts:
            letters.update(set(form))
        characters = sorted(letter for letter, n in letters.items() if n >= SHARED)
        return cls(config, cutter, affixes, characters, Dictionary.installed() if config.model.dictionary else None)

    def encode(self, forms: Sequence[str]) -> Forms:
        """Raises UserError if the dictionary installed lacks a grammeme."""
        answers: dict[bytes, int] = {}
        blocks = []
        with tqdm(total=len(forms), desc="words", delay=2, disable=not sys.stderr.isatty()) as bar:
            for start in range(0, max(1, len(forms)), TOGETHER):
                blocks.append(self.block(forms[start : start + TOGETHER], answers))
                bar.update(len(blocks[-1]["shapes"]))
        found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        for name in ("piece_starts", "character_starts"):
            found[name] = np.concatenate([[0], np.cumsum(found[name])])
        rows = np.frombuffer(b"".join(answers), np.float32)
        return Forms(**found, dictionary=rows.reshape(max(1, len(answers)), -1))

    def block(self, forms: Sequence[str], answers: dict[bytes, int]) -> dict[str, np.ndarray]:
        """The fields of `Forms` by name, starts as counts; `answers`: what the dictionary says -> its row."""
        features, dictionary = self.config.model.features, self.dictionary
        pieces = [row[: self.config.text.max_length] or [0] for row in self.cutter.pieces(forms)]
        letters: list[list[int]] = [[]] * len(forms)
        if features in ("characters", "both"):
            letters = [[self.character_ids.get(c, 1) for c in form[-LONGEST:]] for form in forms]
        affixes = list(zip(AFFIXES, self.affix_ids, strict=True)) if features in ("endings", "both") else []
        rows = [[ids.get(affix(word), 0) for affix, ids in affixes] for word in map(str.lower, forms)]
        said = [dictionary.look_up(form).tobytes() if dictionary else b"" for form in forms]
        characters, character_starts = packed(letters)
        flat, starts = packed(pieces)
        return {
            "pieces": flat,
            "piece_starts": np.diff(starts),
            "classes": np.array([self.cutter.class_of(form) for form in forms], dtype=np.int64),
            "shapes": np.array([shape(form) for form in forms], dtype=np.int64),
            "answers": np.array([answers.setdefault(x, len(answers)) for x in said], dtype=np.int32),
            "affixes": np.array(rows, dtype=np.int64).reshape(len(forms), len(affixes)),
            "characters": characters,
            "character_starts": np.diff(character_starts),
        }

    def state(self) -> dict[str, Any]:
        dictionary = self.dictionary and {"grammemes": self.dictionary.grammemes, "packages": self.dictionary.packages}
        state = {"pieces": self.cutter.state(), "affixes": self.affixes, "characters": self.characters}
        return {**state, "dictionary": dictionary}

    @classmethod
    def restore(cls, config: Config, state: dict[str, Any]) -> Self:
        """Raises UserError if the tokenizer in it cannot be read."""
        pieces = state["pieces"]
        if pieces.get("type") == Words.kind and "classes" in pieces:
            cutter: Words | Pieces = Words(pieces["classes"], pieces["words"])
        else:
            cutter = Pieces(Tokenizer.from_state(pieces, "the tokenizer in the checkpoint"))
        known = state["dictionary"]
        dictionary = known and Dictionary(known["grammemes"], known["packages"])
        return cls(config, cutter, state["affixes"], state["characters"], dictionary)


class Dictionary:
    """How probable each grammeme of OpenCorpora (NOUN, Surn, gent, plur, ...) is for a form alone.

    Of a word that is not in the dictionary pymorphy3 judges by its ending (Korobov 2015, "Morphological analyzer and
    generator for Russian and Ukrainian languages"). Which grammemes there are, and so what each column of the model's
    input means, is up to the version: a run keeps the names of its columns, and by which `packages` they were known.
    """

    def __init__(self, grammemes: list[str], packages: str) -> None:
        self.grammemes, self.packages = grammemes, packages

    @classmethod
    def installed(cls) -> Self:
        made = cls([], " ".join(f"{name}=={version(name)}" for name in ("pymorphy3", "pymorphy3-dicts-ru")))
        made.grammemes = sorted(made.analyzer.TagClass.KNOWN_GRAMMEMES)
        return made

    @cached_property
    def analyzer(self) -> Any:
        from pymorphy3 import MorphAnalyzer

        analyzer = MorphAnalyzer(lang="ru")
        if unknown := sorted({*self.grammemes} - {*analyzer.TagClass.KNOWN_GRAMMEMES}):
            raise UserError(
                f"this run knows grammemes that the dictionary installed here has not ({', '.join(unknown)}): "
                f"install {self.packages}"
            )
        return analyzer

    @cached_property
    def places(self) -> dict[str, int]:
        return {name: n for n, name in enumerate(self.grammemes)}

    def look_up(self, form: str) -> np.ndarray:
        """float32 [G]. Raises UserError if the dictionary installed lacks a grammeme."""
        found = np.zeros(len(self.places), np.float32)
        for parse in self.analyzer.parse(form):
            for grammeme in parse.tag.grammemes & self.places.keys():  # a newer version may have more
                found[self.places[grammeme]] += parse.score
        return found


def packed(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows one after another, int64, and where each starts (with the end of the last)."""
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return np.fromiter((x for row in rows for x in row), np.int64, starts[-1]), starts


class Morphology:
    """The column FEATS, such as `Case=Nom|Number=Sing`, as one value for each of A attributes; 0 where it has none."""

    def __init__(self, values: dict[str, list[str]]) -> None:
        self.values = values
        self.sizes = [len(known) + 1 for known in values.values()]

    @classmethod
    def train(cls, feats: Iterable[str]) -> Self:
        found: dict[str, list[str]] = defaultdict(list)
        for row in feats:
            for name, value in pairs(row):
                if value not in found[name]:
                    found[name].append(value)
        return cls(dict(sorted(found.items())))

    def encode(self, feats: Iterable[str]) -> Tensor:
        """int64 [F, A]; values that training does not know are 0."""
        places = [{value: n for n, value in enumerate(known, 1)} for known in self.values.values()]
        rows = []
        for row in feats:
            given = dict(pairs(row))
            rows.append([of.get(given.get(name, ""), 0) for name, of in zip(self.values, places, strict=True)])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), len(self.sizes))


def pairs(feats: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (part.partition("=") for part in feats.split("|")) if value]
