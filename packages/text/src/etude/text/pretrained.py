"""The tokenizers of Hugging Face `transformers` behind the interface of our own."""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, Unpack

from etude.download import root
from etude.errors import UserError, not_installed
from etude.text.tokenizer import Encoded, Options, Tokenizer, without_surrogates


class Pretrained(Tokenizer):
    """A tokenizer from the hub or a folder, for instance `Pretrained("sentence-transformers/LaBSE")`.

    It encodes as `transformers` does: it may normalise, `decode` need not give the text back, and a text that says
    "[SEP]" gets that special token. `bos` and `eos` are its cls and sep tokens where it has no others. A lone surrogate
    is read as U+FFFD. `state` and `save` hold all its files: neither hub nor folder is needed again.
    """

    kind = "pretrained"

    def __init__(self, name_or_path: str | Path) -> None:
        """A name, which is no path, is looked for in $ETUDE_DATA/tokenizers by its last part first, then on the hub.

        Raises UserError if `transformers` is not installed or has no such tokenizer, or a slow one only.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError:
            raise not_installed("a pretrained tokenizer", "transformers") from None
        folder = Path(name_or_path)
        if not folder.is_dir() and not str(name_or_path).startswith(("~", ".", os.sep)):
            folder = root() / "tokenizers" / folder.name
        here = folder.is_dir()
        try:
            self._hf: Any = AutoTokenizer.from_pretrained(folder if here else name_or_path, local_files_only=here)
        except Exception as error:  # the hub, the network and each file format raise errors of their own
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(
                f"no tokenizer {str(name_or_path)!r} ({reason}): give a name on the hub or a folder with tokenizer.json"
            ) from None
        hf = self._hf
        if not hf.is_fast:
            raise UserError(f"{name_or_path} has no tokenizer.json: choose a tokenizer that has a fast version")
        names = {
            "pad": hf.pad_token,
            "unk": hf.unk_token,
            "bos": hf.bos_token or hf.cls_token,
            "eos": hf.eos_token or hf.sep_token,
        }
        self.ids = hf.get_vocab()
        self.name_special({name: token for name, token in names.items() if token is not None})
        self.vocab = [hf.convert_ids_to_tokens(id) or "" for id in range(max(self.ids.values(), default=-1) + 1)]
        self.lowercase = self.byte_fallback = False  # what it does about these is in its own files

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30_000, **options: Unpack[Options]) -> Self:  # noqa: ARG003
        raise UserError("a pretrained tokenizer is not trained: give Pretrained its name or folder")

    def encode_word(self, word: str) -> tuple[int, ...]:
        return tuple(self.encode_batch([word])[0])

    def encode_batch(self, texts: Iterable[str], add_special_tokens: bool = False) -> list[list[int]]:
        texts = [without_surrogates(text) for text in texts]
        return self._hf(texts, add_special_tokens=add_special_tokens, verbose=False)["input_ids"] if texts else []

    def _specials(self) -> int:
        return self._hf.num_special_tokens_to_add()

    def _encoded(
        self, batch: list[Any], split: bool, specials: bool, padding: Any, truncation: bool, max_length: int | None
    ) -> Encoded:
        """The sides of padding and truncation are those of the pretrained tokenizer."""
        if split:
            batch = self._keep_words([[without_surrogates(word) for word in words] for words in batch])
        else:
            batch = [without_surrogates(text) for text in batch]
        encoded = self._hf(
            batch,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=specials,
            is_split_into_words=split,
            return_attention_mask=True,
            verbose=False,
        )
        words = [encoded.word_ids(i) for i in range(len(batch))]
        return encoded["input_ids"], encoded["attention_mask"], words

    def _keep_words(self, batch: list[list[str]]) -> list[list[str]]:
        """Puts `unk` for words that would have no token (empty, or normalised away) and so lose their label."""
        encoded = self._hf(batch, is_split_into_words=True, add_special_tokens=False, verbose=False)
        kept = []
        for i, words in enumerate(batch):
            with_tokens = set(encoded.word_ids(i))
            if len(with_tokens) < len(words) and self.unk_id is None:
                raise UserError(
                    f"a word of text {i} has no tokens, and this tokenizer has no unk token: remove the word"
                )
            kept.append([word if n in with_tokens else self.special["unk"] for n, word in enumerate(words)])
        return kept

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        return self._hf.decode(self._check_ids(ids), skip_special_tokens, clean_up_tokenization_spaces=False)

    def state(self) -> dict[str, Any]:
        with TemporaryDirectory() as folder:
            self._hf.save_pretrained(folder)
            files = [file for file in sorted(Path(folder).iterdir()) if file.suffix in (".json", ".txt", ".jinja")]
            return {"type": self.kind, "files": {file.name: file.read_text(encoding="utf-8") for file in files}}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        with TemporaryDirectory() as folder:
            for name, text in state["files"].items():
                (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
            return cls(folder)
