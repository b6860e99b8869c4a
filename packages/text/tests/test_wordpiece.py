import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from etude.errors import UserError
from etude.text import Tokenizer, WordPiece
from etude.text.tokenizer import BYTES, count_words, split
from etude.text.wordpiece import is_inside

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEXTS = ["the cat sat on the mat", "the cats' mats, the hats!", "a cat hated that hat; it's the cat's"] * 3
ODD = [
    "",
    " ",
    "  two  spaces  ",
    "\n\ttabs\r\n and\x0blines \n",
    "\0",
    "😀 👩‍👩‍👧 grinning",
    "他们说中文。",
    "e\u0301\u0302 ä ﬁ",
    "\ud83d lone \udc00\ud83d",
    "literal ▁ ▁▁the ▁cat",
    "## ##at ### a##at ##! ###!",
    "<pad> <unk> <0x41> <0x00>",
    "the" * 100,
    "the\u00a0cat\u3000sat\u200bon",
]


def same_as_theirs(tokenizer):
    """Hugging Face's WordPiece with the same vocabulary, which splits texts as we do."""
    theirs = tokenizers.Tokenizer(models.WordPiece(tokenizer.ids, unk_token="<unk>"))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT2), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)]
    )
    return theirs


def merged_slowly(texts, size, tokens):
    """Counts all pairs anew for every merge."""
    words = [(count, word.replace(" ", "▁")) for word, count in count_words(texts).items()]
    rows = [(count, [word[0], *["##" + letter for letter in word[1:]]]) for count, word in words]
    vocab = sorted({letter for _, word in words for letter in word})
    vocab += sorted({token for _, row in rows for token in row[1:]})
    while len(tokens) + len(vocab) < size:
        pairs = Counter()
        for count, row in rows:
            for pair in pairwise(row):
                pairs[pair] += count
        joined = {(a, b): a + b[2:] for a, b in pairs}
        pairs = {pair: n for pair, n in pairs.items() if is_inside(pair[0]) or not is_inside(joined[pair])}
        if not pairs:
            break
        a, b = best = min(pairs, key=lambda pair: (-pairs[pair], vocab.index(pair[0]), vocab.index(pair[1])))
        for _, row in rows:
            at = 0
            while at < len(row) - 1:
                if row[at] == a and row[at + 1] == b:
                    row[at : at + 2] = [joined[best]]
                at += 1
        if joined[best] not in vocab:
            vocab.append(joined[best])
    return tokens + vocab


def random_texts(letters, seed, texts=60, longest=60):
    draw = random.Random(seed)
    return ["".join(draw.choices(letters, k=draw.randrange(longest))) for _ in range(texts)]


@pytest.mark.parametrize("seed", range(4))
def test_training_equals_counting_anew_for_every_merge(seed):
    texts = random_texts("aab b#!", seed)
    tokenizer = WordPiece.train(texts, 400)
    assert tokenizer.vocab == merged_slowly(texts, 400, ["<pad>", "<unk>", *BYTES])
    assert WordPiece.train(reversed(texts), 400).vocab == tokenizer.vocab


def test_training_finds_common_words():
    vocab = WordPiece.train(TEXTS, 320).vocab
    assert vocab[:2] == ["<pad>", "<unk>"] and vocab[2:258] == BYTES
    assert {"▁the", "▁cat", "▁mat", "##at"} <= set(vocab)
    assert WordPiece.train(TEXTS, 310).vocab == vocab[:310]


def test_longest_match_first():
    tokenizer = WordPiece(["<unk>", "▁un", "▁una", "##aff", "##able", "##ff"], pad=None, byte_fallback=False)
    assert tokenizer.encode_batch([" unaffable", " unable"]) == [[2, 5, 4], [0]]  # greedy: after "una" no "##ble" fits
    assert tokenizer.decode([1, 3, 4]) == " unaffable"


def test_unknown_characters_become_bytes_and_the_rest_of_the_word_stays():
    tokenizer = WordPiece([*BYTES, "a", "##b", "##ab"], pad=None, unk=None)
    assert tokenizer.encode_word("aéab") == (256, 0xC3, 0xA9, 258)
    assert tokenizer.encode_word("a" + "b" * 99) == (256, *[257] * 99)
    assert tokenizer.encode_word("a" + "b" * 100) == (0x61, *[0x62] * 100)  # longer than BERT's limit


@pytest.mark.parametrize("text", ODD)
def test_nothing_is_lost(text):
    for tokenizer in (WordPiece.train(TEXTS, 320), WordPiece.train(["## #### ##! ▁ a##"], 300)):
        assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text


def test_nothing_is_lost_in_random_texts():
    letters = ["a", "t", "the", " ", "  ", "#", "▁", "\0", "é", "中", "😀", "\u0301", "\ud800", "\n", "'s", "1"]
    tokenizer = WordPiece.train([*TEXTS, "中é# ## #1"], 340)
    texts = random_texts(letters, 0, 500)
    assert tokenizer.batch_decode(tokenizer.encode_batch(texts)) == texts


def test_a_million_characters_without_a_space():
    text = "the\ud800cat" * 125_000 + "▁" * 10
    tokenizer = WordPiece.train(TEXTS, 320)
    assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text
    learnt = WordPiece.train(["thecat" * 170_000], 320)
    assert learnt.decode(learnt.encode(text)["input_ids"]) == text
    assert any("thecat" in token for token in learnt.vocab)


@pytest.mark.parametrize("seed", range(3))
def test_same_ids_as_hugging_face(seed):
    letters = ["a", "b", "ab", "c", " ", " ", "!", "\n", "7", "é", "'s", "  ", "x" * 101]
    tokenizer = WordPiece.train(random_texts(letters[:-3], seed), 150, byte_fallback=False)
    known = WordPiece([token for token in tokenizer.vocab if token not in ("##c", "é")], byte_fallback=False)
    for ours in (tokenizer, known):
        texts = random_texts(letters, seed + 10, 300)
        assert ours.encode_batch(texts) == [row.ids for row in same_as_theirs(ours).encode_batch(texts)]


def test_reload_gives_the_same(tmp_path):
    tokenizer = WordPiece.train(TEXTS, 320, eos="</s>", lowercase=True)
    tokenizer.save("tokenizer.json")
    again = Tokenizer.load("tokenizer.json")
    assert type(again) is WordPiece and again.state() == tokenizer.state()
    assert again.encode("The hat 😀") == tokenizer.encode("The hat 😀")
    assert "▁cat" in Path("tokenizer.json").read_text("utf-8")


def test_tokens_that_would_be_read_as_others_are_not_learnt():
    tokenizer = WordPiece.train(["##ab!\n##ab!\n##!", "_\n_\n_ !_"], 330, pad="_")
    names = [tokenizer.vocab[id] for id in tokenizer.encode_word("##!")]
    assert "##" in tokenizer.vocab and names == ["##", "##!"]
    assert tokenizer.encode_word("_") == tokenizer.spell("_")  # "_" is the pad token


def test_a_small_vocabulary_is_refused_with_the_smallest_size():
    with pytest.raises(UserError, match="need at least (\\d+)") as error:
        WordPiece.train(TEXTS, 100)
    least = int(str(error.value).rsplit(" ", 1)[1])
    assert WordPiece.train(TEXTS, least).vocab_size == least
    with pytest.raises(UserError, match=f"need at least {least}"):
        WordPiece.train(TEXTS, least - 1)


@pytest.mark.parametrize("texts", [[], [""], ["▁▁"], "one text", ["\ud800"]])
def test_training_without_texts_is_refused(texts):
    with pytest.raises(UserError, match="text"):
        WordPiece.train(texts)


@pytest.mark.real_data
def test_same_ids_as_hugging_face_on_imdb():
    folder = Path(os.environ["ETUDE_DATA"]) / "imdb" / "train"
    lines = [
        line
        for name in ("positive", "negative")
        for line in (folder / name).read_text("utf-8").rstrip("\n").split("\n")
    ]
    texts = [line[1:-1].replace('""', '"') if line.startswith('"') else line for line in lines]
    trained = WordPiece.train(texts)
    assert trained.vocab_size == 30_000
    assert trained.batch_decode(trained.encode_batch(texts)) == texts
    ours = WordPiece(trained.vocab, byte_fallback=False)
    # Hugging Face takes "##" at the beginning of a word for the mark of a piece inside a word.
    texts = [text for text in texts if not any(word.startswith("##") for word in split(text))]
    assert len(texts) > 0.999 * len(lines)
    theirs = same_as_theirs(ours).encode_batch_fast(texts)
    assert ours.encode_batch(texts) == [row.ids for row in theirs]
