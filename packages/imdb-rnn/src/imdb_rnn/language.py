"""The second task: a language model on the reviews alone, without their labels; see `etude.language.task`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.errors import UserError
from etude.language.task import Script, Speaking, Writer
from etude.text.fingerprints import fingerprints
from etude.text.tokenizer import Tokenizer
from etude.train.task import Split
from imdb_rnn import data, reading
from imdb_rnn.config import Config
from imdb_rnn.data import Dataset, letters


def script(config: Config, tokenizer: Tokenizer) -> Script:
    """How reviews become tokens; padding, token 0, stands before and behind a text."""
    unknown = tokenizer.id_of("<unk>")
    return Script(
        encode=lambda texts: reading.whole(texts, tokenizer, config.text),
        decode=tokenizer.decode,
        tokens=tokenizer.vocab_size,
        unknown=unknown,
        never=(unknown,),
        noun="review",
    )


def marks(texts: list[str]) -> np.ndarray:
    """By what a language model knows again what it has read: int64 [N]."""
    return fingerprints(map(letters, texts))


def make(config: Config) -> Speaking:
    parts, told = parts_of(config, data.load(config.data, config.division, config.held_out))
    tokenizer = reading.learnt(parts["train"], config.text)
    trained = np.unique(marks(parts["train"]))
    seen = np.union1d(trained, marks(parts["valid"]))
    kept = {"tokenizer": tokenizer.state(), "trained": torch.from_numpy(trained), "seen": torch.from_numpy(seen)}
    kept |= {"data": config.data, "division": config.division, "knobs": reading.knobs(config)}
    return speaking(config, kept, parts, told)


def parts_of(config: Config, dataset: Dataset) -> tuple[dict[Split, list[str]], str]:
    """What is read to train, validate and test, and this in words."""
    texts, left = data.unlabelled(config.unlabelled, dataset)
    valid, test = dataset.valid.texts, dataset.test.texts
    told = f"{config.data}, {len(texts):,} reviews to train"
    told += f", those of {config.unlabelled} among them" if config.unlabelled != "none" else ""
    told += f" (left out: {left:,} that stand in a held-out part), {len(valid):,} to validate, {len(test):,} to test"
    return {"train": texts, "valid": valid, "test": test}, told


def speaking(config: Config, kept: dict[str, Any], parts: dict[Split, list[str]], told: str) -> Speaking:
    tokenizer = Tokenizer.from_state(kept["tokenizer"], "the tokenizer in the checkpoint")
    return Speaking(config.language, script(config, tokenizer), kept, parts, told, config.fit.seed)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None) -> Writer:
    """With the words that the run has learnt, whatever is scored; its training part only if that is the run's own."""
    kept = {name: x for name, x in assets.items() if name != "task"}
    if where is None:
        tokenizer = Tokenizer.from_state(assets["tokenizer"], "the tokenizer in the checkpoint")
        return Writer(config.language, script(config, tokenizer), kept)
    dataset = data.load(config.data, config.division, config.held_out)
    if (config.data, config.division) == (assets["data"], assets["division"]):
        parts, told = parts_of(config, dataset)
        if np.array_equal(np.unique(marks(parts["train"])), assets["trained"].numpy()):
            return speaking(config, kept, parts, told)
    tested = unread(dataset, assets["seen"])
    told = f"{config.data}, {len(tested):,} reviews to test"
    left = len(dataset.test.texts) - len(tested)
    told += f" (left out: {left:,} that the run was trained or chosen on)" if left else ""
    return speaking(config, kept, {"train": [], "valid": [], "test": tested}, told)


def unread(dataset: Dataset, seen: Tensor) -> list[str]:
    """The texts of the test part that a run has not read. Raises UserError if there are none."""
    known = np.isin(marks(dataset.test.texts), seen.numpy())
    found = [text for text, read in zip(dataset.test.texts, known.tolist(), strict=True) if not read]
    if not found:
        raise UserError(f"the test part of {dataset.name} has no review that the run was not trained on: use another")
    return found
