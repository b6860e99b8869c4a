import re
import subprocess
import sys
import time
import zlib

import numpy as np
import torch
from torch.nn import functional as F

from imdb_rnn import sample

TRAIN, VALID, TEST = sample.parts()


def words(text):
    return re.findall(r"\w+", text.lower())


def test_the_size_of_everything():
    for (texts, labels), n in zip((TRAIN, VALID, TEST), (2000, 400, 400), strict=True):
        assert len(texts) == len(labels) == n and sum(labels) == n / 2 and set(labels) == {0, 1}
        lengths = [len(text.split()) for text in texts]
        assert min(lengths) >= 8 and max(lengths) <= 60


def test_no_text_is_there_twice():
    texts = TRAIN[0] + VALID[0] + TEST[0]
    assert len({" ".join(words(text)) for text in texts}) == len(texts)


def test_the_same_everywhere():
    # written down on Python 3.11, x86-64: a change of the grammar changes every published result
    assert zlib.crc32("\n".join(TRAIN[0] + VALID[0] + TEST[0]).encode()) == 1170103139
    assert sample.parts() == (TRAIN, VALID, TEST)
    program = "from imdb_rnn import sample; print(hash(0), sample.parts()[0][0][7])"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout == f"0 {TRAIN[0][7]}\n"


def test_it_is_english():
    for text in TRAIN[0] + VALID[0] + TEST[0]:
        assert re.fullmatch(r"[A-Za-z ,.!]+", text), text
        assert all(sentence[0].isupper() for sentence in re.split(r"(?<=[.!]) ", text)), text
        assert text[-1] in ".!" and "  " not in text and not re.search(r"\ban? an?\b| [,.!]", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_the_test_part_has_names_of_its_own():
    known = {word for texts, _ in (TRAIN, VALID) for text in texts for word in words(text)}
    for name in ("quinn", "lisbon", "violinist", "diary", "musical"):
        assert name not in known and any(name in words(text) for text in TEST[0])
    opinions = {word for moods in sample.MOODS.values() for mood in moods for word in mood}
    assert opinions <= known  # but no word of praise or blame is new
    unseen = [sum(word not in known for word in words(text)) for text in TEST[0]]
    assert 0.3 < np.mean(np.array(unseen) > 0) < 0.95


def test_no_frame_gives_the_class_away():
    """Words that are neither praise nor blame are as frequent in both classes."""
    opinions = {word for moods in sample.MOODS.values() for mood in moods for word in mood}
    counts = {}
    for text, label in zip(*TRAIN, strict=True):
        for word in set(words(text)) - opinions:
            counts.setdefault(word, [0, 0])[label] += 1
    skew = {word: abs(b - a) / (a + b) ** 0.5 for word, (a, b) in counts.items()}  # a normal deviate if it is a coin
    assert len(skew) > 100 and max(skew.values()) < 4, max(skew, key=skew.get)


def test_counting_words_is_not_enough():
    """A logistic regression on the set of words learns something, but order counts."""
    vocabulary = {word: i for i, word in enumerate(sorted({word for text in TRAIN[0] for word in words(text)}))}

    def bag(texts):
        rows = torch.zeros(len(texts), len(vocabulary))
        for row, text in zip(rows, texts, strict=True):
            row[[vocabulary[word] for word in words(text) if word in vocabulary]] = 1
        return rows

    x, y = bag(TRAIN[0]), torch.tensor(TRAIN[1]).float()
    weights = torch.zeros(len(vocabulary), requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=50)

    def loss():
        solver.zero_grad()
        total = F.binary_cross_entropy_with_logits(x @ weights, y) + 1e-3 * (weights**2).sum()
        total.backward()
        return total

    solver.step(loss)
    for texts, labels in (VALID, TEST):
        right = ((bag(texts) @ weights > 0).long() == torch.tensor(labels)).float().mean()
        assert 0.72 < right < 0.88


def test_it_is_quick():
    sample.parts()
    times = []
    for _ in range(3):
        start = time.process_time()
        sample.parts()
        times.append(time.process_time() - start)
    assert min(times) < 0.3
