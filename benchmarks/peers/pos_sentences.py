"""The sentences as rows of ids, as a user of plain Python makes them: 0 is padding, 1 an unknown word.

A word that is not in the vocabulary passes for one of the classes in it, by its last letters.
"""

import os
import random
from collections import Counter
from pathlib import Path

WORDS, RARE = 8_000, 2


def read():
    words, tags = [], []
    for line in Path(os.environ["ETUDE_DATA"], "sentences.conllu").read_text("utf-8").splitlines():
        if line.strip():
            _, word, _, tag, *_ = line.split("\t")
            words.append(word)
            tags.append(tag)
        else:
            yield words, tags
            words, tags = [], []


def endings(word):
    return ["*" + word.lower()[-n:] for n in (3, 2, 1)]


def shape(word):
    return word[0].isupper() + 2 * word.isupper() + 4 * any(map(str.isdigit, word)) + (not word.isalnum())


def load():
    """The training and the validation part, each a list of (words, shapes, tags), and how many tags there are."""
    sentences = list(read())
    random.shuffle(sentences)
    held = len(sentences) // 10
    valid, train = sentences[:held], sentences[2 * held :]  # as many are left for a test
    counts = Counter(word.lower() for words, _ in train for word in words)
    rare = Counter(end for word, n in counts.items() if n <= RARE for end in endings(word))
    classes = [end for end, n in rare.most_common(WORDS // 4) if n > RARE]
    kept = classes + [word for word, _ in counts.most_common(WORDS - 2 - len(classes))]
    vocabulary = {word: id for id, word in enumerate(kept, start=2)}
    known = sorted({tag for _, tags in train for tag in tags})

    def id_of(word):
        return next((vocabulary[name] for name in [word.lower(), *endings(word)] if name in vocabulary), 1)

    def encoded(part):
        return [([*map(id_of, words)], [*map(shape, words)], [*map(known.index, tags)]) for words, tags in part]

    return encoded(train), encoded(valid), len(known)
