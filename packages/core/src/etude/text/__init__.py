"""Tokenizers: `BPE`, `WordPiece`, `Unigram`, `Words` and `Characters`, written from scratch, and `Pretrained` ones.

All have one interface, that of `etude.text.tokenizer.Tokenizer`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.text.tokenizer import KINDS, Encoding, Tokenizer

if TYPE_CHECKING:
    from etude.text.bpe import BPE
    from etude.text.pretrained import Pretrained
    from etude.text.unigram import Unigram
    from etude.text.wordpiece import WordPiece
    from etude.text.words import Characters, Words

__all__ = ["BPE", "Characters", "Encoding", "Pretrained", "Tokenizer", "Unigram", "WordPiece", "Words", "load"]

load = Tokenizer.load


def __getattr__(name: str) -> Any:
    """Each tokenizer is imported when it is first asked for."""
    for module, kind in KINDS.values():
        if kind == name:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
