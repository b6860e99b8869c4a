"""WordPiece and Unigram against Hugging Face `tokenizers`, in one process, in turns, one thread each.

    ETUDE_DATA=... uv run --package etude-core --with tokenizers python benchmarks/subwords.py

Both sides split the IMDb training texts ($ETUDE_DATA/imdb/train) alike, learn 30,000 tokens from them, and encode them
with the same vocabulary, by a new tokenizer each time: its caches are empty. Seconds are those of the processor, so
that what else runs on the machine does not count.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # before `tokenizers` reads it

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from etude.text import Unigram, WordPiece

SIZE, ROUNDS = 30_000, 5
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read() -> list[str]:
    lines: list[str] = []
    for name in ("positive", "negative"):
        lines += (Path(os.environ["ETUDE_DATA"]) / "imdb" / "train" / name).read_text("utf-8").rstrip("\n").split("\n")
    return [line[1:-1].replace('""', '"') if line.startswith('"') else line for line in lines]


def theirs(model: Any) -> Any:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT2), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)]
    )
    return tokenizer


def compare(name: str, ours: Callable[[], Callable[[], Any]], others: Callable[[], Callable[[], Any]]) -> float:
    """How many times as fast ours is; each side is called for what is to be timed."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for make, seconds in zip((ours, others), times, strict=True):
            run = make()
            began = time.process_time()
            run()
            seconds.append(time.process_time() - began)
    own, other = map(statistics.median, times)
    print(f"{name:20} ours {own:5.2f} s, tokenizers {other:5.2f} s, {other / own:.2f} times as fast", flush=True)
    return other / own


def main() -> None:
    texts = read()
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters, median of {ROUNDS} rounds")
    options: dict[str, Any] = {"vocab_size": SIZE - 256, "special_tokens": ["<pad>", "<unk>"], "show_progress": False}
    pieces, unigrams = trainers.WordPieceTrainer(**options), trainers.UnigramTrainer(**options, unk_token="<unk>")
    compare(
        "WordPiece, training",
        lambda: partial(WordPiece.train, texts, SIZE),
        lambda: partial(theirs(models.WordPiece(unk_token="<unk>")).train_from_iterator, texts, pieces),
    )
    compare(
        "Unigram, training",
        lambda: partial(Unigram.train, texts, SIZE),
        lambda: partial(theirs(models.Unigram()).train_from_iterator, texts, unigrams),
    )
    wordpiece, unigram = WordPiece.train(texts, SIZE), Unigram.train(texts, SIZE)
    scored = list(zip(unigram.vocab, unigram.scores, strict=True))
    compare(
        "WordPiece, encoding",
        lambda: partial(WordPiece(wordpiece.vocab).encode_batch, texts),
        lambda: partial(theirs(models.WordPiece(wordpiece.ids, unk_token="<unk>")).encode_batch_fast, texts),
    )
    compare(
        "Unigram, encoding",
        lambda: partial(Unigram(scored).encode_batch, texts),
        lambda: partial(theirs(models.Unigram(scored, 1, byte_fallback=True)).encode_batch_fast, texts),
    )


if __name__ == "__main__":
    main()
