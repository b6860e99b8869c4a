import re
import subprocess
import sys
import time
import zlib
from collections import Counter

import torch
from torch.nn import functional as F

from text_ae import sample
from text_ae.data import normalised

TRAIN, VALID, TEST = sample.parts()
TEXTS = TRAIN[0] + VALID[0] + TEST[0]


def words(text):
    """With emoticons, which tell much."""
    return re.findall(r"[@#]?\w+|[^\w\s]+", text.lower())


def turned(n):
    """The numbers of the messages of a part in which order decides."""
    return [i for i in range(n) if i // 2 % 5 < 2]


def test_the_size_of_everything():
    for (texts, labels), n in zip((TRAIN, VALID, TEST), (6000, 750, 750), strict=True):
        assert len(texts) == len(labels) == n and sum(labels) == n / 2 and set(labels) == {0, 1}
    lengths = Counter(len(text.split()) for text in TEXTS)
    assert min(lengths) == 3 and max(lengths) == 20 and max(lengths.values()) < len(TEXTS) / 6
    assert 350 < len({word for text in TEXTS for word in words(text)}) < 450
    assert sample.CLASSES == ("0.0", "1.0")


def test_no_message_is_there_twice():
    assert len({" ".join(re.findall(r"\w+", text.lower())) for text in TEXTS}) == len(TEXTS)


def test_unseen_messages_of_seen_words():
    known = {word for text in TRAIN[0] for word in text.lower().split()}
    assert {word for text in VALID[0] + TEST[0] for word in text.lower().split()} <= known
    counts = Counter(word for text in TRAIN[0] for word in words(text))
    every = {word for texts in sample.MOODS.values() for mood in texts for text in mood for word in words(text)}
    assert all(counts[word] >= 10 for word in every)


def test_the_same_everywhere():
    # written down on Python 3.11, x86-64: a change of the grammar changes every published result
    assert zlib.crc32("\n".join(TEXTS).encode()) == 1237509601
    assert sample.parts() == (TRAIN, VALID, TEST)
    program = "from text_ae import sample; print(hash(0), sample.parts()[0][0][7])"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout == f"0 {TRAIN[0][7]}\n"


def test_it_is_normalised():
    for text in TEXTS:
        assert normalised(text) == text
        assert not re.search(r"[{}]|\ban? an?\b| [,.!](?!\S)|\ba [aeiou]|\ban (?!hour)[^aeiou]", text), text


def test_it_looks_like_tweets():
    share = {kind: sum(kind in text for text in TEXTS) / len(TEXTS) for kind in ("@", "#", ":", "!", "London")}
    assert 0.15 < share["@"] < 0.5 and 0.1 < share["#"] < 0.5 and 0.05 < share[":"] < 0.3
    assert 0.2 < share["!"] < 0.7 and 0.005 < share["London"] < 0.1
    assert 0.2 < sum(text[0].islower() for text in TEXTS) / len(TEXTS) < 0.5


def test_nothing_else_gives_the_tag_away():
    """Words of no mood are as frequent with both tags, and so is every word where order decides."""
    moods = {word for texts in sample.MOODS.values() for mood in texts for text in mood for word in words(text)}
    for chosen, but in ((range(6000), moods), (turned(6000), set())):
        counts = {}
        for i in chosen:
            for word in set(words(TRAIN[0][i])) - but:
                counts.setdefault(word, [0, 0])[TRAIN[1][i]] += 1
        skew = {
            word: abs(b - a) / (a + b) ** 0.5 for word, (a, b) in counts.items()
        }  # a normal deviate if it is a coin
        assert len(skew) > 200 and max(skew.values()) < 4.5, max(skew, key=skew.get)


def test_the_same_words_in_another_order():
    """There are pairs of messages that are each other's anagram by words, and have opposite tags."""
    by_words = {}
    for texts, labels in (TRAIN, VALID, TEST):
        for i in turned(len(texts)):
            by_words.setdefault(" ".join(sorted(re.findall(r"\w+", texts[i].lower()))), set()).add(labels[i])
    assert sum(labels == {0, 1} for labels in by_words.values()) >= 5


def test_counting_words_is_not_enough():
    """A logistic regression on the set of words knows the clear messages, and of the others nothing."""
    vocabulary = {word: i for i, word in enumerate(sorted({word for text in TRAIN[0] for word in words(text)}))}

    def bag(texts):
        rows = torch.zeros(len(texts), len(vocabulary))
        for row, text in zip(rows, texts, strict=True):
            row[[vocabulary[word] for word in words(text)]] = 1
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
        right = ((bag(texts) @ weights > 0).long() == torch.tensor(labels)).float()
        hard = torch.zeros(len(texts), dtype=torch.bool)
        hard[turned(len(texts))] = True
        assert hard.float().mean() == 0.4
        assert right[~hard].mean() > 0.97 and 0.4 < right[hard].mean() < 0.6, (right[~hard].mean(), right[hard].mean())


def test_it_is_quick():
    times = []
    for _ in range(3):
        start = time.process_time()
        sample.parts()
        times.append(time.process_time() - start)
    assert min(times) < 0.6
