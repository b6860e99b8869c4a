"""cnn-emnist as a Task: which image is which class, and what that looks like while it is learnt."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_emnist import distort, frame, show
from cnn_emnist.config import SCORES, SIDE, Config
from cnn_emnist.data import Dataset, Images
from cnn_emnist.data import load as load_data
from cnn_emnist.model import CNN
from etude import confusion, draw, images
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

EPOCH = 7_500  # images an epoch has at least: a smaller set is gone through several times, distorted each time


class Predictor:
    """What predicts: the network, the names of its classes, and the side of the frame around what is read."""

    def __init__(self, config: Config, classes: tuple[str, ...], side: int, spread: frame.Spread) -> None:
        self.config, self.classes, self.side, self.spread = config, classes, side, spread
        views = config.views and config.augment and config.data == "fashion-mnist"
        self.model = CNN(config.model, len(classes), views)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 [B, 28, 28] -> [B, K], on the CPU and in fp32."""
        self.model.eval()
        device = self.model.mean.device
        parts = [self.model(part.to(device) / 255).softmax(1).cpu() for part in images.split(500)]
        return torch.cat(parts)

    def example(self) -> Tensor:
        """What the model takes, float [2, 28, 28] in 0..1: two blank images, for `export --onnx`."""
        return torch.zeros(2, SIDE, SIDE)


class Letters(Predictor):
    """The Task: the network, and the images that it learns from and is scored on."""

    metric, better = "accuracy", SCORES

    def __init__(
        self,
        config: Config,
        classes: tuple[str, ...],
        side: int,
        spread: frame.Spread,
        data: Dataset,
        where: torch.device,
    ) -> None:
        super().__init__(config, classes, side, spread)
        self.where = where
        maps = zip(config.model.plan(), config.model.sizes(), strict=True)
        self.summary = "feature maps " + " > ".join(f"{width}x{size}x{size}" for (width, _), size in maps)
        # The images stay uint8, on the device that trains: 60,000 of them are 47 MB there, and 188 MB as floats.
        parts = {"train": data.train, "valid": data.valid, "test": data.test}
        self.parts = {name: Images(part.images.to(where), part.labels.to(where)) for name, part in parts.items()}
        counts = " / ".join(f"{len(part.labels):,}" for part in self.parts.values())
        self.data = f"{data.name}, {counts} images, {len(classes)} classes"
        pixels = data.train.images
        self.model.mean.fill_(pixels.float().mean() / 255)
        self.model.std.fill_(pixels.float().std() / 255)
        self.shown = draw.shuffled(len(data.valid.labels), config.fit.seed)[: show.TILES]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {name: fingerprint(part.images, part.labels) for name, part in self.parts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        count = len(self.parts[split].labels)
        if split != "train":
            return even_batches(np.arange(count), batch_size)
        times = -(-EPOCH // count) if self.config.augment else 1
        return even_batches(draw.shuffled(times * count, self.config.fit.seed, epoch), batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """float [B, 28, 28] in 0..1, int64 [B]; a training id past the end is the same image, distorted anew."""
        part = self.parts[split]
        rows = torch.from_numpy(ids % len(part.labels)).to(self.where)
        images, labels = part.images[rows], part.labels[rows]
        if split != "train" or not self.config.augment:
            return images / 255, labels
        stream = self.config.fit.seed, epoch
        if self.config.data == "fashion-mnist":
            return distort.clothes(images, ids, *stream, erase=self.config.erase), labels
        return distort.letters(images, ids, *stream), labels

    def step(self, batch: tuple[Tensor, Tensor]) -> Sums:
        images, labels = batch
        training = self.model.training
        logits = self.model(images).float()
        smoothing = self.config.label_smoothing if training else 0.0
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        answers = logits.detach().argmax(1)
        sums: Sums = {"loss": (loss, len(labels)), "accuracy": ((answers == labels).sum(), len(labels))}
        if not training:
            sums["confusion"] = (confusion.count(labels, answers, len(self.classes)), len(labels))
        return sums

    def scores(self, totals: Totals) -> dict[str, float]:
        scores = totals.means()
        if "confusion" in totals.sums:
            scores["macro_f1"] = float(confusion.f1(totals.sums["confusion"]).mean())
        return scores

    def assets(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "side": self.side, "spread": list(self.spread)}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation images each time; at the end also confusion matrix, worst mistakes and graph."""
        part = self.parts["valid"]
        images, labels = part.images[self.shown].cpu(), part.labels[self.shown].cpu()
        board = show.tiles(images, labels, self.probabilities(images), self.classes)
        run.picture("predictions", board, step, when)
        if when != "after":
            return
        images, labels = part.images.cpu(), part.labels.cpu()
        probabilities = self.probabilities(part.images)
        counts = confusion.count(labels, probabilities.argmax(1), len(self.classes))
        run.picture("confusion", confusion.picture(counts, self.classes, "images"), step)
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        wrong = (probabilities.argmax(1) != labels).nonzero()[:, 0]
        worst = wrong[of_truth[wrong].argsort(stable=True)][: show.TILES]
        if len(worst):
            board = show.tiles(images[worst], labels[worst], probabilities[worst], self.classes)
            run.picture("worst mistakes", board, step)
        run.graph(self.model, part.images[:1] / 255)


def make(config: Config, where: torch.device) -> Task:
    data = load_data(config.data, config.fit.seed)
    spread = frame.spread_of(data.train.images, data.valid.images)
    return Letters(config, data.classes, frame.side_of(data.train.images), spread, data, where)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    classes, side = tuple(assets["classes"]), assets["side"]
    low, high = assets.get("spread", (side - 1, side + 1))  # the first runs have none
    if where is None:
        return Predictor(config, classes, side, (low, high))
    data = load_data(config.data, config.fit.seed)
    if classes != data.classes:
        raise UserError(
            f"this run knows the {len(classes)} classes {', '.join(classes[:3])} ..., but {config.data} has the "
            f"{len(data.classes)} classes {', '.join(data.classes[:3])} ...: give another --data"
        )
    return Letters(config, classes, side, (low, high), data, where)


def describe(task: Letters, totals: Totals) -> tuple[str, dict[str, Any]]:
    scores, counts = task.scores(totals), totals.sums["confusion"].cpu()
    lines, classes = confusion.per_class(counts, task.classes, "images")
    lines.append(f"accuracy {scores['accuracy']:.2%}  macro-F1 {scores['macro_f1']:.2%}  loss {scores['loss']:.4f}")
    return "\n".join(lines), {**scores, "images": int(counts.sum()), "per_class": classes}


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """`file name, tab, class, tab, probability` for every file; pictures are framed as the training images were."""
    images = torch.stack([read(Path(name), task.side, task.spread) for name in inputs])
    best, answers = task.probabilities(images).max(1)
    return [
        f"{name}\t{task.classes[k]}\t{p:.4f}"
        for name, k, p in zip(inputs, answers.tolist(), best.tolist(), strict=True)
    ]


def read(file: Path, side: int, spread: frame.Spread) -> Tensor:
    """An image file -> uint8 [28, 28], framed. Raises UserError if it is none or shows nothing."""
    if not os.path.lexists(file):
        raise UserError(f"there is no file {file}")
    try:
        picture = images.load(file, frame.LEAST)
    except images.Broken as error:
        raise UserError(f"{file} cannot be read as an image: {error}") from None
    return frame.frame(picture, side, str(file), spread)
