"""A classifier that starts from a language model of one's own; see `etude.language.start`."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from etude.language import start
from etude.language.start import Start
from etude.text.tokenizer import Tokenizer
from etude.train import run
from qa_category.config import Config, Model, Text
from qa_category.model import Dense

# The knobs of text that a language model's words follow from; how much of a question is read is the classifier's own.
OF_VOCABULARY = tuple(field.name for field in dataclasses.fields(Text) if field.name != "max_length")


def begun(config: Config) -> Start:
    """The language model that a classifier begins as. Raises UserError if it is none."""
    folder = Path(config.model.start)
    of = run.read_config(folder, Config)
    found = Start.of_run(folder, of, "qa-category")
    found.assets["text"] = dataclasses.asdict(of.text)
    return found


def as_read(config: Config, begin: Start) -> Config:
    """The configuration with the language model's way to read text. Raises UserError if another one was asked for."""
    has = Text(**begin.assets["text"])
    return dataclasses.replace(config, text=start.same(config.text, has, OF_VOCABULARY, config.model.start))


def tokenizer_of(begin: Start) -> Tokenizer | None:
    state = begin.assets["tokenizer"]
    return Tokenizer.from_state(state, "the tokenizer of the language model") if state else None


class Started(nn.Module):
    """The lower part of a language model, several poolings side by side, one linear layer.

    ids int64 [B, T], lengths int64 [B] -> logits [B, K]; what stands after a question is ignored. `free`: how many
    layers of the language model learn, from the top; None: all. `shift` [B, T, E] is added to the embeddings.
    """

    def __init__(self, config: Model, begin: Start, words: int, categories: int) -> None:
        """`words`: rows of the table of words."""
        super().__init__()
        how: dict[str, Any] = {"rate": config.rate, "dropout": config.dropout, "word_dropout": config.word_dropout}
        self.body = start.Reader(begin, config.transfer, words, config.start, config.pooling, **how)
        self.dense = Dense(config, self.body.size)  # which has no layers here: only those of dan
        self.output = nn.Linear(self.dense.size, categories)

    def forward(self, ids: Tensor, lengths: Tensor, free: int | None = None, shift: Tensor | None = None) -> Tensor:
        found: Tensor = self.output(self.vector(ids, lengths, free, shift))
        return found

    @property
    def embedding(self) -> nn.Embedding:
        return self.body.encoder.embedding

    def vector(self, ids: Tensor, lengths: Tensor, free: int | None = None, shift: Tensor | None = None) -> Tensor:
        """What is known of a question before the last linear layer, [B, W]."""
        found: Tensor = self.dense(self.body(ids, lengths, free, shift))
        return found
