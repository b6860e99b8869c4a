import numpy as np
import pytest
from nltk.tokenize import TreebankWordTokenizer, wordpunct_tokenize

from etude import config
from qa_category import data, words
from qa_category.config import Config, Data
from qa_category.vectors import Vectors
from qa_category.words import PAD, UNK, Vocabulary

HARD = [
    "Don't you think they'll say it's OK?", 'He said "yes" (twice), didn\'t he?',
    "It costs $3.50, or 3,000 at 5:30 -- why?",
    "I cannot; gonna... wanna go, 'tis the U.S. e.g. Mr. Smith.", "'quoted' words' end", "", "  ",
    "a.b@c.de #1 50% & more",
    "James' book, the '90s; rock'n'roll, y'all've", "Who's \"it\"?", "[x] {y} <z>", "can't WON'T I'M",
]  # fmt: skip


def made(*flags):
    return config.parse(Config, list(flags))


@pytest.mark.parametrize("questions", [HARD, data.load(Data()).valid.texts])
def test_words_are_those_of_nltk(questions):
    for question in questions:
        assert words.treebank(question) == TreebankWordTokenizer().tokenize(question)
        assert words.wordpunct(question) == wordpunct_tokenize(question)
        assert words.spaces(question) == question.split()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_pieces_make_up_the_question(kind):
    settings = made("--text.splitter", kind, "--text.pieces", "700").text
    texts = data.load(Data()).train.texts[:300]
    split = words.splitter(settings, words.learn(settings, texts))
    for text in texts[:20]:
        assert "".join(map(words.bare, split(text))).replace(" ", "") == text.lower().replace(" ", "")


def test_letters_are_fitted_by_ridge_regression():
    draws = np.random.default_rng(0)
    names = [f"{a}{b}ing" for a in ("walk", "talk", "sing", "br") for b in ("", "s", "er", "ab", "un")]
    table = draws.normal(size=(len(names), 4)).astype(np.float32)
    x = words.spelt(names).toarray().astype(np.float64)
    np.testing.assert_allclose(x.sum(1), 1, rtol=1e-5)
    used = np.flatnonzero(x.any(0))
    x = x[:, used]
    expected = np.linalg.solve(x.T @ x + words.RIDGE * np.eye(len(used)), x.T @ table)
    found = words.fit(names, table)
    np.testing.assert_allclose(found[used], expected, atol=1e-3)
    assert not found[np.setdiff1d(np.arange(words.BUCKETS), used)].any()


def vocabulary(*flags, letters=None):
    settings = made("--vectors", "v.txt", "--model.embeddings", "frozen", *flags)
    table = np.array([[0, 0], [1, 2], [3, 4], [5, 6]], np.float32)
    given = Vectors(["The", "tea", "the"], table)
    return Vocabulary(settings, ["tea", "odd"], given, np.zeros((0, 2), np.float32) if letters is None else letters)


def test_a_word_that_training_lacks_gets_the_row_of_its_own_vector():
    one = vocabulary("--model.unknown", "mean")
    np.testing.assert_array_equal(one.table(), [[0, 0], [3, 4], [3, 4], [3, 4]])  # pad, unknown, tea, odd
    assert one.encode(["tea", "the", "what", "odd", "the"]).tolist() == [2, 4, UNK, 3, 4]
    np.testing.assert_array_equal(one.take(), [[1, 2]])  # that of The, which comes first
    assert one.take() is None
    assert one.encode(["tea"] * 200).tolist() == [2] * 100 and one.encode([]).tolist() == [UNK] and PAD == 0
    other = vocabulary("--text.no-lowercase", "--model.unknown", "zero")
    assert other.encode(["the", "The", "THE"]).tolist() == [4, 5, UNK]
    np.testing.assert_array_equal(other.take(), [[5, 6], [1, 2]])


def test_a_word_without_a_vector_is_spelt():
    letters = np.random.default_rng(0).normal(size=(words.BUCKETS, 2)).astype(np.float32)
    one = vocabulary(letters=letters)
    assert one.encode(["what"]).tolist() == [4]
    expected = np.mean([letters[bucket] for bucket in words.ngrams("what")], 0)
    np.testing.assert_allclose(one.take()[0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        one.table()[3], np.mean([letters[bucket] for bucket in words.ngrams("odd")], 0), rtol=1e-5
    )


def test_rare_words_without_a_vector_are_unknown():
    one = Vocabulary.of(made(), [["a", "b", "a"], ["c", "b"]])
    assert one.trained == ["a", "b"] and one.encode(["a", "c", "d"]).tolist() == [2, UNK, UNK]
    assert one.table().shape == (4, 0)


def test_what_is_unknown_is_counted():
    part, names = words.unknown([["tea", "is", "is"], ["the", "odd", "odd", "odd"]], {"tea": 1, "the": 2})
    assert part == 5 / 7 and names == ["odd", "is"]
