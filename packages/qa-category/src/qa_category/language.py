"""The second task: a language model on the questions alone, without their categories; see `etude.language.task`."""

from typing import Any

import numpy as np
import torch

from etude.language.task import Script, Speaking, Writer
from etude.text.fingerprints import fingerprints
from etude.text.tokenizer import Tokenizer
from etude.train.task import Split
from qa_category import data, words
from qa_category.config import DATA, Config
from qa_category.data import Dataset, Questions
from qa_category.words import UNK, Vocabulary


def script(config: Config, vocabulary: Vocabulary, tokenizer: Tokenizer | None) -> Script:
    """How questions become tokens: words, or pieces; an unknown one is never written."""
    split, rows = words.splitter(config.text, tokenizer), vocabulary.rows
    names = ["", "", *vocabulary.trained]
    return Script(
        encode=lambda texts: [np.array([rows.get(word, UNK) for word in split(text)], np.int64) for text in texts],
        decode=lambda row: ("" if tokenizer else " ").join(names[id] for id in row),
        tokens=len(names),
        unknown=UNK,
        never=(UNK,),
        noun="question",
    )


def make(config: Config) -> Speaking:
    dataset = data.load(config.data)
    texts = dataset.train.texts
    tokenizer = words.learn(config.text, texts)
    split = words.splitter(config.text, tokenizer)
    vocabulary = Vocabulary.of(config, [split(text) for text in texts])
    seen = torch.from_numpy(np.unique(fingerprints(map(data.identity, texts + dataset.valid.texts))))
    kept = {"vocabulary": vocabulary.state(), "data": config.data.name, "division": config.data.division}
    kept |= {"tokenizer": tokenizer and tokenizer.state(), "seen": seen, "knobs": words.knobs(config)}
    how = script(config, vocabulary, tokenizer)
    return Speaking(config.language, how, kept, parts_of(dataset), dataset.description, config.fit.seed)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None) -> Writer:
    vocabulary, state = Vocabulary.restore(config, assets["vocabulary"]), assets["tokenizer"]
    tokenizer = Tokenizer.from_state(state, "the tokenizer in the checkpoint") if state else None
    how, kept = script(config, vocabulary, tokenizer), {name: x for name, x in assets.items() if name != "task"}
    if where is None:
        return Writer(config.language, how, kept)
    parts, told = to_score(config, assets)
    return Speaking(config.language, how, kept, parts, told, config.fit.seed)


def to_score(config: Config, assets: dict[str, Any]) -> tuple[dict[Split, list[str]], str]:
    """The parts that are to be scored, and the data in words; of other data what the run was not trained on.

    Raises UserError if nothing is left.
    """
    name, seen = config.data.name, assets["seen"].numpy()
    if name in DATA or name == assets["data"]:
        dataset = data.unseen(data.load(config.data), seen)
        if [name, config.data.division] == [assets["data"], assets["division"]]:
            return parts_of(dataset), dataset.description
    else:
        texts = list(dict.fromkeys(question for question, _ in data.read(name)))
        nothing = Questions([], np.zeros(0, np.int64))
        found = Questions(texts, np.zeros(len(texts), np.int64))
        dataset = data.unseen(Dataset(name, (), nothing, nothing, found, []), seen)
    texts = dataset.test.texts
    return {"train": [], "valid": [], "test": texts}, f"{dataset.name}, {len(texts):,} questions{dataset.note}"


def parts_of(dataset: Dataset) -> dict[Split, list[str]]:
    return {"train": dataset.train.texts, "valid": dataset.valid.texts, "test": dataset.test.texts}
