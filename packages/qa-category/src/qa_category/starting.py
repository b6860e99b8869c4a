"""A classifier that starts from a language model of one's own (Howard & Ruder 2018, "ULMFiT")."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.layers.beside import learn_beside
from etude.layers.language import BOUNDARY, Encoder
from etude.text.tokenizer import Tokenizer
from etude.train import checkpoint, run
from qa_category.config import Config, Language, Model, Text
from qa_category.model import Dense, Pooled

FALL = 2.6  # how much slower each layer learns than the one above it, where rates are discriminative
POOLING = ("last", "max", "mean")  # "concat pooling"


@dataclasses.dataclass(frozen=True)
class Start:
    """A language model to start from: its words, its sizes, what it was trained on, at the beginning its weights."""

    language: Language
    text: Text
    vocabulary: dict[str, Any]  # the state of its `Vocabulary`
    tokenizer: dict[str, Any] | None
    seen: Tensor  # the sorted fingerprints of the questions that it was trained or chosen on, int64
    mark: str  # of its weights, by which a run that goes on knows them again
    weights: dict[str, Tensor] | None  # none for a run that is restored, which has its own

    @classmethod
    def of_run(cls, folder: Path) -> "Start":
        """The best checkpoint of a run of `train language`. Raises UserError if it is none."""
        config = run.read_config(folder, Config)
        if config.task != "language":
            raise UserError(f"{folder} is a classifier: model.start takes the run of a language model, train language")
        state = checkpoint.read(folder)
        assets, weights = state["assets"], state["model"]
        if assets.get("task") != "language":
            raise UserError(f"{folder} is not a run of qa-category: model.start takes that of train language")
        mark = fingerprint(sorted(weights), *(weights[name] for name in sorted(weights)))
        return cls(
            config.language, config.text, assets["vocabulary"], assets["tokenizer"], assets["seen"], mark, weights
        )

    def assets(self) -> dict[str, Any]:
        """What `restored` needs; vocabulary and tokenizer are kept with the classifier."""
        sizes, text = dataclasses.asdict(self.language), dataclasses.asdict(self.text)
        return {"language": sizes, "text": text, "mark": self.mark, "seen": self.seen}

    @classmethod
    def restored(cls, kept: dict[str, Any], assets: dict[str, Any]) -> "Start":
        """From the `assets` of a classifier, of which `kept` is what `Start.assets` gave."""
        language, text = Language(**kept["language"]), Text(**kept["text"])
        return cls(language, text, assets["vocabulary"], assets["tokenizer"], kept["seen"], kept["mark"], None)

    def meant(self, config: Config) -> Config:
        """The configuration with the language model's way to read text. Raises UserError if another one was asked for.

        For with another splitter the vocabulary would be another one.
        """
        if config.text not in (Text(), self.text):
            asked, has = (dataclasses.asdict(text) for text in (config.text, self.text))
            name = next(name for name in asked if asked[name] != has[name])
            raise UserError(
                f"the language model in {config.model.start} has the vocabulary of text.{name} {has[name]}, not "
                f"{asked[name]}: leave the knobs of text out"
            )
        return dataclasses.replace(config, text=self.text)

    def tokenizer_of(self) -> Tokenizer | None:
        return Tokenizer.from_state(self.tokenizer, "the tokenizer of the language model") if self.tokenizer else None

    def check(self, tested: np.ndarray, name: str) -> None:
        """Raises UserError if the language model has read questions of the test part: their fingerprints, int64 [N]."""
        if known := int(np.isin(tested, self.seen.numpy()).sum()):
            raise UserError(
                f"the language model was trained on {known:,} of the {len(tested):,} test questions of {name}: "
                "give the data and the data.division that it was trained with"
            )


class Started(nn.Module):
    """The lower part of a language model, several poolings side by side, one linear layer.

    ids int64 [B, T], lengths int64 [B] -> logits [B, K]; what stands after a question is ignored.
    """

    def __init__(self, config: Model, start: Start, words: int, categories: int) -> None:
        """`words`: rows of the table of words."""
        super().__init__()
        of = start.language
        self.encoder = Encoder(words, of.embedding, of.units, of.layers, config.dropout, config.word_dropout)
        if config.transfer != "scratch":
            if start.weights is not None:
                own = {name.removeprefix("encoder."): x for name, x in start.weights.items() if "encoder." in name}
                checkpoint.fill(self.encoder, {"model": own}, Path(config.start))
            self.prepare(config)
        self.pool = Pooled(config.pooling or POOLING, of.embedding, False)
        self.dense = Dense(config, self.pool.size)  # which has no layers here: only those of dan
        self.output = nn.Linear(self.dense.size, categories)

    def prepare(self, config: Model) -> None:
        """Lets what is given stay, or learn on beside it."""
        if config.transfer == "frozen":
            self.encoder.requires_grad_(False)
            return
        for depth, part in enumerate(reversed(self.encoder.parts())):
            learn_beside(part, config.rate * (1 if config.transfer == "whole" else FALL**-depth))

    def forward(self, ids: Tensor, lengths: Tensor, free: int | None = None) -> Tensor:
        """`free`: how many layers of the language model learn, from the top; None: all."""
        found: Tensor = self.output(self.vector(ids, lengths, free))
        return found

    def vector(self, ids: Tensor, lengths: Tensor, free: int | None = None) -> Tensor:
        """What is known of a question before the last linear layer, [B, W]."""
        read, _ = self.encoder(F.pad(ids, (1, 0), value=BOUNDARY), lengths + 1, free=free)
        found: Tensor = self.dense(self.pool(read[:, 1:], lengths))  # before the first word nothing is known
        return found


def free(config: Model, layers: int, epoch: int) -> int | None:
    """How many of the language model's `layers` learn in an epoch, which count from 1: none, then one more in each."""
    return min(epoch - 1, layers) if config.transfer == "gradual" and epoch else None
