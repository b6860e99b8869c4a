import json
import math
import os
import random
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import Regex, models, pre_tokenizers

from etude.errors import UserError
from etude.text import Tokenizer, Unigram, unigram
from etude.text.tokenizer import BYTES

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEXTS = ["the cat sat on the mat", "the cats' mats, the hats!", "a cat hated that hat; it's the cat's"] * 3
WORDS = {"abab": 5, "abcab": 3, " bab": 4, "cabba": 2, "c": 1, " abcabcab": 2, "bbbbbb": 3}
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
    "<pad> <unk> <0x41> <0x00>",
    "thecat" * 100,
    "the\u00a0cat\u3000sat\u200bon",
]


def same_as_theirs(tokenizer):
    """Hugging Face's Unigram with the same vocabulary and scores, which splits texts as we do."""
    scored = list(zip(tokenizer.vocab, tokenizer.scores, strict=True))
    model = models.Unigram(scored, tokenizer.unk_id, byte_fallback=tokenizer.byte_fallback)
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT2), "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)]
    )
    return theirs


def random_texts(letters, seed, texts=60, longest=60):
    draw = random.Random(seed)
    return ["".join(draw.choices(letters, k=draw.randrange(longest))) for _ in range(texts)]


def all_cuts(word):
    """Every way to cut a word."""
    for many in range(len(word)):
        for places in combinations(range(1, len(word)), many):
            bounds = [0, *places, len(word)]
            yield [word[a:b] for a, b in pairwise(bounds)]


def cuts_into(word, scores):
    """(score, pieces) for every way to cut a word into pieces that are known."""
    return [
        (sum(scores[piece] for piece in cut), cut) for cut in all_cuts(word) if all(piece in scores for piece in cut)
    ]


def random_scores(seed):
    """A lattice of WORDS with about half of the substrings, and their scores, also by name."""
    draw = np.random.default_rng(seed)
    lattice, found = unigram.substrings(WORDS)
    lengths = np.array([len(text) for text in found.texts])
    alive = (lengths == 1) | (draw.random(len(lengths)) < 0.5)
    weights = np.where(alive, draw.random(len(lengths)) ** 2, 0)
    scores = np.where(alive, np.log(weights / weights.sum(), where=alive, out=np.zeros(len(weights))), -np.inf)
    named = {text: score for text, score in zip(found.texts, scores, strict=True) if score > -np.inf}
    return lattice.only(alive), found, scores, named


def by_name(found, values):
    return {text: value for text, value in zip(found.texts, values, strict=True) if value}


def test_substrings_are_counted():
    counts = Counter()
    for word, many in WORDS.items():
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                counts[word[start:end]] += many
    _, found = unigram.substrings(WORDS)
    assert dict(zip(found.texts, found.counts, strict=True)) == {
        text: many for text, many in counts.items() if many >= 2 or len(text) == 1
    }
    for text, number in [(text, found.texts.index(text)) for text in ("abc", " abcab")]:
        n = len(text)
        column = number - found.first[n]
        halves = [
            (found.texts[a], found.texts[b])
            for a, b in zip(found.left[n][:, column], found.right[n][:, column], strict=True)
        ]
        assert halves == [(text[: n - k], text[n - k :]) for k in range(1, n)]


@pytest.mark.parametrize("seed", range(4))
def test_expected_counts_equal_the_sum_over_all_cuts(seed):
    lattice, found, scores, named = random_scores(seed)
    counts, likelihood = Counter(), 0.0
    for word, many in WORDS.items():
        cuts = cuts_into(word, named)
        total = sum(math.exp(score) for score, _ in cuts)
        likelihood += many * math.log(total)
        for score, cut in cuts:
            for piece in cut:
                counts[piece] += many * math.exp(score) / total
    ours, log_likelihood = unigram.expect(lattice, scores)
    assert by_name(found, ours) == pytest.approx(counts)
    assert log_likelihood == pytest.approx(likelihood)


@pytest.mark.parametrize("seed", range(4))
def test_best_cuts_equal_the_best_of_all_cuts(seed):
    lattice, found, scores, named = random_scores(seed)
    counts = Counter()
    for word, many in WORDS.items():
        for piece in max(cuts_into(word, named))[1]:
            counts[piece] += many
    assert by_name(found, unigram.viterbi(lattice, scores)) == counts


@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_those_of_the_second_best_cut(seed):
    lattice, found, scores, named = random_scores(seed)
    counts = by_name(found, unigram.viterbi(lattice, scores))
    total = sum(counts.values())
    loss, used = unigram.losses(lattice, found, scores)
    assert np.flatnonzero(used).size
    for piece, score in named.items():
        number = found.texts.index(piece)
        others = [(other, cut) for other, cut in cuts_into(piece, named) if len(cut) > 1]
        best, cut = max(others, default=(-math.inf, []))
        assert used[number] == (piece in counts and score >= best)
        if used[number] and others:
            own = counts[piece]
            larger = math.log(total + own * (len(cut) - 1))
            without = sum(math.log(counts.get(part, 0) + own) - larger for part in cut)
            assert loss[number] == pytest.approx(own * (math.log(own / total) - without))


def test_likelihood_does_not_fall():
    lattice, _, scores, _ = random_scores(0)
    likelihoods = []
    for _ in range(30):
        counts, likelihood = unigram.expect(lattice, scores)
        likelihoods.append(likelihood)
        scores = np.log(counts / counts.sum(), where=counts > 0, out=np.full(len(counts), -np.inf))  # EM, no prior
    assert np.all(np.diff(likelihoods) > -1e-9) and likelihoods[-1] > likelihoods[0] + 1


def test_digamma_is_pytorchs():
    x = np.geomspace(0.01, 1e9, 1000)
    np.testing.assert_allclose(unigram.digamma(x), torch.special.digamma(torch.from_numpy(x)), rtol=1e-9, atol=1e-9)


def test_long_words_do_not_underflow():
    words = {"".join(random.Random(0).choices("abcdefgh", k=64)): 1, "z": 10**300}
    lattice, found = unigram.substrings(words)
    scores = unigram.maximise(found.counts)
    counts, likelihood = unigram.expect(lattice, scores)
    assert math.isfinite(likelihood) and likelihood < -10_000
    assert counts @ [len(text) for text in found.texts] == pytest.approx(64 + 10**300)


@pytest.mark.parametrize("seed", range(5))
def test_encoding_equals_the_best_of_all_cuts(seed):
    """Scores are multiples of 1/2, so that many cuts are equally good: the last piece decides, then the one before."""
    draw = random.Random(seed)
    pieces = sorted({"".join(draw.choices("ab", k=draw.randrange(1, 5))) for _ in range(12)} | {"a", "b"})
    vocab = [(piece, -draw.randrange(7) / 2) for piece in pieces]
    tokenizer = Unigram(vocab, pad=None, unk=None, byte_fallback=False)
    for word in {"".join(draw.choices("ab", k=draw.randrange(1, 10))) for _ in range(50)}:
        _, best = max(cuts_into(word, dict(vocab)), key=lambda row: (row[0], [len(part) for part in reversed(row[1])]))
        assert [tokenizer.vocab[id] for id in tokenizer.encode_word(word)] == best


def test_training_finds_common_words():
    texts = TEXTS * 20
    tokenizer = Unigram.train(texts, 284)
    assert tokenizer.vocab_size == 284
    assert tokenizer.vocab[:2] == ["<pad>", "<unk>"] and tokenizer.vocab[2:258] == BYTES
    assert {"▁the", "▁cat", *"thecatsonmd,;!'▁"} <= set(tokenizer.vocab)
    assert Unigram.train(reversed(texts), 284).state() == tokenizer.state()
    assert sum(map(math.exp, tokenizer.scores[258:])) <= 1 + 1e-9
    assert tokenizer.scores[258:] == sorted(tokenizer.scores[258:], reverse=True)


@pytest.mark.parametrize("text", ODD)
def test_nothing_is_lost(text):
    tokenizer = Unigram.train(TEXTS, 290)
    assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text


def test_nothing_is_lost_in_random_texts():
    letters = ["a", "t", "the", " ", "  ", "#", "▁", "\0", "é", "中", "😀", "\u0301", "\ud800", "\n", "'s", "1"]
    tokenizer = Unigram.train([*TEXTS, "中é# ## #1"], 300)
    texts = random_texts(letters, 0, 500)
    assert tokenizer.batch_decode(tokenizer.encode_batch(texts)) == texts


def test_a_million_characters_without_a_space():
    text = "the\ud800cat" * 125_000 + "▁" * 10
    tokenizer = Unigram.train(TEXTS, 290)
    assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text
    long = "".join(random.Random(0).choices(["the", "cat", "sat", "down"], k=30_000))
    learnt = Unigram.train([long], 400)
    assert learnt.batch_decode(learnt.encode_batch([long, text])) == [long, text]
    assert len(learnt.encode(long)["input_ids"]) < len(long) / 6


@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_same_ids_as_hugging_face(seed, byte_fallback):
    letters = ["a", "b", "ab", "c", " ", " ", "!", "\n", "7", "é", "😀", "'s", "  ", "x" * 101]
    trained = Unigram.train(random_texts(letters[:-5], seed), 300)
    rows = list(zip(trained.vocab, trained.scores, strict=True))
    vocab = [row for row in rows if row[0] not in "cé" or row[1] == 0]  # characters that only longer pieces have
    ours = Unigram(vocab, byte_fallback=byte_fallback)
    texts = random_texts(letters, seed + 10, 300)
    assert ours.encode_batch(texts) == [row.ids for row in same_as_theirs(ours).encode_batch(texts)]


def test_a_run_of_unknown_characters_is_one_unk():
    tokenizer = Unigram([("<unk>", 0), ("a", -1), ("▁a", -1)], pad=None, byte_fallback=False)
    assert tokenizer.encode_batch(["aéäa", " a▁a", " 😀a"]) == [[1, 0, 1], [2, 0, 1], [0, 1]]


def test_reload_gives_the_same(tmp_path):
    tokenizer = Unigram.train(TEXTS, 300, eos="</s>", lowercase=True)
    tokenizer.save("tokenizer.json")
    again = Tokenizer.load("tokenizer.json")
    assert type(again) is Unigram and again.state() == tokenizer.state()
    assert again.encode("The hat 😀") == tokenizer.encode("The hat 😀")
    assert json.loads(Path("tokenizer.json").read_text("utf-8"))["vocab"][0] == ["<pad>", 0.0]


def test_special_tokens_are_not_learnt_twice():
    tokenizer = Unigram.train([*TEXTS, "the _ a_b"], 300, pad="_", unk="▁the")
    assert tokenizer.vocab[:2] == ["_", "▁the"]
    assert tokenizer.encode_word("_") == tokenizer.spell("_")
    assert tokenizer.decode(tokenizer.encode("the _")["input_ids"]) == "the _"


def test_a_small_vocabulary_is_refused_with_the_smallest_size():
    with pytest.raises(UserError, match="need at least (\\d+)") as error:
        Unigram.train(TEXTS, 0)
    least = int(str(error.value).rsplit(" ", 1)[1])
    assert Unigram.train(TEXTS, least).vocab_size == least
    with pytest.raises(UserError, match=f"need at least {least}"):
        Unigram.train(TEXTS, least - 1)


@pytest.mark.parametrize("texts", [[], [""], ["▁▁"], "one text", ["\ud800"]])
def test_training_without_texts_is_refused(texts):
    with pytest.raises(UserError, match="text"):
        Unigram.train(texts)


@pytest.mark.parametrize(
    ("vocab", "reason"),
    [
        (["a", "b"], "pairs"),
        ([("a", 0.5)], "'a' has the score 0.5"),
        ([("a", math.nan)], "nan"),
        ([("a", "-1")], "'-1'"),
        ([("a", -1), ("a", -2)], "'a' twice"),
    ],
)
def test_a_wrong_vocabulary_is_refused(vocab, reason):
    with pytest.raises(UserError, match=reason):
        Unigram(vocab, pad=None, unk=None, byte_fallback=False)


def test_a_file_without_scores_is_refused(tmp_path):
    tokenizer = Unigram.train(TEXTS, 300)
    state = tokenizer.state()
    with pytest.raises(UserError, match="pairs"):
        Tokenizer.from_state({**state, "vocab": tokenizer.vocab})


@pytest.mark.real_data
def test_same_ids_as_hugging_face_on_imdb():
    folder = Path(os.environ["ETUDE_DATA"]) / "imdb" / "train"
    lines = [
        line
        for name in ("positive", "negative")
        for line in (folder / name).read_text("utf-8").rstrip("\n").split("\n")
    ]
    texts = [line[1:-1].replace('""', '"') if line.startswith('"') else line for line in lines]
    ours = Unigram.train(texts)
    assert ours.vocab_size == 30_000
    rows = ours.encode_batch(texts)
    assert ours.batch_decode(rows) == texts
    assert rows == [row.ids for row in same_as_theirs(ours).encode_batch_fast(texts)]
