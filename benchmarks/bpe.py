"""BPE against Hugging Face `tokenizers`, in one process, in turns, one thread each.

    ETUDE_DATA=... uv run --package etude-core --with tokenizers python benchmarks/bpe.py

Both sides learn 30,000 tokens from the IMDb training texts and then encode them, by a new tokenizer each time: its
caches are empty. Merges and ids are equal (packages/core/tests/test_text.py).
"""

from functools import partial

import subwords  # first: it sets the number of threads of `tokenizers`
import tokenizers
from subwords import SIZE, compare, read
from tokenizers import models, pre_tokenizers, trainers

from etude.text import BPE


def theirs(model: models.BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def training(texts: list[str]) -> float:
    """How many times as fast ours learns."""
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<pad>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return compare(
        "BPE, training",
        lambda: partial(BPE.train, texts, SIZE),
        lambda: partial(theirs(models.BPE()).train_from_iterator, texts, trainer),
    )


def main() -> None:
    texts = read()
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters, median of {subwords.ROUNDS} rounds")
    training(texts)
    bpe = BPE.train(texts, SIZE)
    merges = [tuple(merge.split(" ")) for merge in bpe.merges]
    compare(
        "BPE, encoding",
        lambda: partial(BPE(bpe.vocab, bpe.merges).encode_batch, texts),
        lambda: partial(theirs(models.BPE(bpe.ids, merges)).encode_batch_fast, texts),
    )


if __name__ == "__main__":
    main()
