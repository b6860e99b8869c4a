"""Reviews -> rows of ids."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import regex

from etude import text
from etude.text.lines import clean
from etude.text.tokenizer import Tokenizer
from imdb_rnn.config import Config, Text

TOKENIZERS: dict[str, Callable[[list[str], int], Tokenizer]] = {
    # Without byte fallback an unknown word is one unknown token, not its letters.
    "words": partial(text.Words.train, byte_fallback=False),
    "bpe": text.BPE.train,
    "wordpiece": partial(text.WordPiece.train, byte_fallback=False),
    "unigram": partial(text.Unigram.train, byte_fallback=False),
    "characters": partial(text.Characters.train, byte_fallback=False),
}

LETTER = r"\p{L}\p{N}\p{M}\u200c"  # with the marks on letters, such as vowel signs, and what joins them (Persian)
# As the Penn Treebank writes them: "do n't".
_contraction = regex.compile(rf"([{LETTER}_]) (n't|'(?:s|ve|re|ll|d|m)(?![{LETTER}_]))")
_words = regex.compile(rf"[{LETTER}]+(?:['’][{LETTER}]+)*|[^{LETTER}\s]").findall


def plain(review: str) -> str:
    """Lower case and one space around every word and mark, so that tokenised and ordinary text look alike."""
    return " ".join(_words(_contraction.sub(r"\1\2", clean(review.lower()))))


def prepared(reviews: list[str], config: Text) -> list[str]:
    """Reviews as tokenizers read them."""
    return [" " + plain(review) for review in reviews] if config.plain else reviews


def learnt(reviews: list[str], config: Text) -> Tokenizer:
    """The tokenizer of these reviews."""
    return TOKENIZERS[config.tokenizer](prepared(reviews, config), config.vocabulary)


def whole(reviews: list[str], tokenizer: Tokenizer, config: Text) -> list[np.ndarray]:
    """Ids of every review, at least one: int64 [T] each."""
    unknown = tokenizer.id_of("<unk>")
    return [np.array(row or [unknown], np.int64) for row in tokenizer.encode_batch(prepared(reviews, config))]


def encode(reviews: list[str], tokenizer: Tokenizer, config: Text) -> list[np.ndarray]:
    """The same; of a review longer than `max_length` its first and its last half of that."""
    most, tail = config.max_length, config.max_length // 2
    rows = whole(reviews, tokenizer, config)
    return [row if len(row) <= most else np.concatenate([row[: most - tail], row[len(row) - tail :]]) for row in rows]


def knobs(config: Config) -> dict[str, Any]:
    """What says how reviews are read and divided, by name: it is kept with a run, see `check_kept`."""
    texts = {f"text.{name}": value for name, value in asdict(config.text).items()}
    return {"held_out": config.held_out, "unlabelled": config.unlabelled, **texts}
