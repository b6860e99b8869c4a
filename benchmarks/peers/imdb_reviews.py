"""The reviews as rows of ids, as a user of plain Python makes them: 0 is padding, 1 an unknown word."""

import os
import random
import re
from collections import Counter
from pathlib import Path

WORDS = 20_000


def read():
    for label, name in enumerate(("negative", "positive")):
        for line in Path(os.environ["ETUDE_DATA"], "imdb", "train", name).read_text("utf-8").splitlines():
            yield re.findall(r"[\w']+|[^\w\s]", line.lower()), label


def load():
    """The training and the validation part, each a list of (ids, label)."""
    reviews = list(read())
    random.shuffle(reviews)
    held = len(reviews) // 10
    counts = Counter(word for words, _ in reviews[held:] for word in words)
    vocabulary = {word: id for id, (word, _) in enumerate(counts.most_common(WORDS - 2), start=2)}
    encoded = [([vocabulary.get(word, 1) for word in words], label) for words, label in reviews]
    return encoded[held:], encoded[:held]
