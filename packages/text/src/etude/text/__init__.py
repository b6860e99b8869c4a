"""Tokenizers: `BPE`, `WordPiece`, `Unigram`, `Words` and `Characters`, written from scratch, and `Pretrained` ones.

All have one interface, that of `etude.text.tokenizer.Tokenizer`. None imports torch or transformers before it needs it.
"""

from etude.text.bpe import BPE
from etude.text.pretrained import Pretrained
from etude.text.tokenizer import Encoding, Tokenizer
from etude.text.unigram import Unigram
from etude.text.wordpiece import WordPiece
from etude.text.words import Characters, Words

__all__ = ["BPE", "Characters", "Encoding", "Pretrained", "Tokenizer", "Unigram", "WordPiece", "Words", "load"]

load = Tokenizer.load
