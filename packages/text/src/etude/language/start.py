"""What a classifier takes over from a language model of one's own (Howard & Ruder 2018, "ULMFiT")."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from etude.config import dashed
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.language.knobs import Language, Transfer
from etude.layers.beside import learn_beside
from etude.layers.language import Encoder
from etude.layers.pooling import Pool, Pooling
from etude.train import checkpoint
from etude.train.run import refuse_unfinished

T = TypeVar("T")
FALL = 2.6  # how much slower each layer learns than the one above it, where rates are discriminative
POOLING: tuple[Pool, ...] = ("last", "max", "mean")  # "concat pooling"


@dataclass(frozen=True)
class Start:
    """A language model to start from: its sizes, what it was trained on, its assets, at the beginning its weights."""

    language: Language
    assets: dict[str, Any]  # all that its task keeps: how it reads texts; `seen`, `trained`: see `check`
    mark: str  # of its weights, by which a run that goes on knows them again
    weights: dict[str, Tensor] | None  # none for a run that is restored, which has its own

    @classmethod
    def of_run(cls, folder: Path, config: Any, package: str) -> "Start":
        """The best checkpoint of the run of a language model; `config` is the run's, with `task` and `language`.

        Raises UserError if there is none, or if it is the run of a classifier or of another package.
        """
        if config.task != "language":
            raise UserError(f"{folder} is a classifier: model.start takes the run of a language model, train language")
        state = checkpoint.read(folder)
        assets, weights = state["assets"], state["model"]
        if assets.get("task") != "language":
            raise UserError(f"{folder} is not a run of {package}: model.start takes that of train language")
        refuse_unfinished(folder)
        mark = fingerprint(sorted(weights), *(weights[name] for name in sorted(weights)))
        return cls(config.language, assets, mark, weights)

    def kept(self) -> dict[str, Any]:
        """What `restored` needs; how texts are read is kept with the classifier, which reads them alike."""
        kept = {name: self.assets[name] for name in ("seen", "text")}
        return {"language": asdict(self.language), "mark": self.mark, **kept}

    @classmethod
    def restored(cls, kept: dict[str, Any], assets: dict[str, Any]) -> "Start":
        """From what `kept` gave, and the rest of the classifier's assets."""
        own = {name: kept[name] for name in ("seen", "text")}
        return cls(Language(**kept["language"]), assets | own, kept["mark"], None)

    def check(self, held: np.ndarray, what: str, remedy: str, known: str = "seen") -> None:
        """Raises UserError if the language model has read texts that it must not know: their fingerprints, int64 [N].

        `what` they are: "test questions of amazon"; `known`: those that were trained or chosen on, or "trained" alone.
        """
        if read := int(np.isin(held, self.assets[known].numpy()).sum()):
            raise UserError(f"the language model was trained on {read:,} of the {len(held):,} {what}: {remedy}")


def same(asked: T, of_start: T, names: tuple[str, ...], folder: str) -> T:
    """Knobs of text with those `names` as the language model has them, for with others its vocabulary would be another.

    Raises UserError if another value than that, or than the default, was asked for.
    """
    for name in names:
        value, has = getattr(asked, name), getattr(of_start, name)
        if value not in (has, getattr(type(asked), name)):
            raise UserError(
                f"the language model in {folder} has the vocabulary of text.{dashed(name)} {has}, not {value}: "
                "leave the knobs of text out"
            )
    return replace(asked, **{name: getattr(of_start, name) for name in names})  # type: ignore[type-var]


class Reader(nn.Module):
    """The lower part of a language model, and several poolings side by side: ids, lengths -> [B, W].

    What stands after a text is ignored.
    """

    def __init__(
        self,
        start: Start,
        transfer: Transfer,
        tokens: int,
        folder: str,
        pooling: tuple[Pool, ...] = (),
        rate: float = 1.0,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        """`tokens`: of the vocabulary; `folder`: of the language model, for errors; `pooling`: none is `POOLING`.

        `rate`: how fast what is given learns, as a part of the learning rate of all else.
        """
        super().__init__()
        of = start.language
        self.encoder = Encoder(
            tokens, of.embedding, of.units, of.layers, dropout, word_dropout, bidirectional=of.bidirectional
        )
        if transfer != "scratch":
            if start.weights is not None:
                own = {name.removeprefix("encoder."): x for name, x in start.weights.items() if "encoder." in name}
                checkpoint.fill(self.encoder, {"model": own}, Path(folder))
            prepare(self.encoder, transfer, rate)
        read = of.embedding * (1 + of.bidirectional)
        self.pools = nn.ModuleList(Pooling(kind, read, of.bidirectional) for kind in pooling or POOLING)
        self.size = read * len(self.pools)

    def forward(self, ids: Tensor, lengths: Tensor, free: int | None = None, shift: Tensor | None = None) -> Tensor:
        """`free`: how many layers of the language model learn, from the top; None: all. `shift`: see `Encoder.read`."""
        read = self.encoder.read(ids, lengths, free, shift)
        return torch.cat([pool(read, lengths) for pool in self.pools], 1)


def prepare(encoder: Encoder, transfer: Transfer, rate: float) -> None:
    """Lets what is given stay, or learn on beside it."""
    if transfer == "frozen":
        encoder.requires_grad_(False)
        return
    for depth, parts in enumerate(reversed(encoder.parts())):
        for part in parts:
            learn_beside(part, rate * (1 if transfer == "whole" else FALL**-depth))


def free(transfer: Transfer, layers: int, epoch: int) -> int | None:
    """How many of the language model's `layers` learn in an epoch, which count from 1: none, then one more in each."""
    return min(epoch - 1, layers) if transfer == "gradual" and epoch else None
