"""The second task: the class of a picture, told from what a frozen autoencoder says of it."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_vae import pictures, show
from cifar_vae.config import CLASSIFYING, Config, Model, Probe
from cifar_vae.data import Dataset, marks
from cifar_vae.model import Autoencoder
from cifar_vae.restoring import AT_ONCE, NOISE, PARTS, words
from etude import confusion, draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train import checkpoint, run
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split
from etude.train.totals import Sums, Totals

VIEWS, VIEW = 6, -8  # of each training picture, if they are moved; the stream of these moves
FLOOR = 1e-3  # of the largest variance of features: smaller ones count as this
NEIGHBOURS = 10  # of the k-nearest-neighbours probe
TAKEN = 3  # classes that each of the two worst is said to be taken for
REFERENCES = 20_000  # training latents that the other probes learn from, at most


class Start:
    """A frozen autoencoder, and what it was trained on."""

    chosen: Tensor | None = None
    """of `seen`, the marks of what validated it; None where its run did not keep them, and in a classifier's assets"""
    held_out = 0.0
    """which part that was, while its run is at hand"""

    def __init__(self, model: Model, weights: dict[str, Tensor], data: str, seen: Tensor) -> None:
        self.config, self.weights, self.data, self.seen = model, weights, data, seen
        self.model = Autoencoder(model)
        checkpoint.fill(self.model, {"model": weights}, Path("the autoencoder of a classifier"))
        self.model.eval().requires_grad_(False)

    def assets(self) -> dict[str, Any]:
        knobs = {name: list(x) if isinstance(x, tuple) else x for name, x in dataclasses.asdict(self.config).items()}
        return {"model": knobs, "weights": self.weights, "data": self.data, "seen": self.seen}

    @classmethod
    def restored(cls, assets: dict[str, Any]) -> "Start":
        knobs: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in assets["model"].items()}
        return cls(Model(**knobs), assets["weights"], assets["data"], assets["seen"])

    @classmethod
    def of_run(cls, folder: Path) -> "Start":
        """The best checkpoint of a run of an autoencoder. Raises UserError if it is none."""
        config = run.read_config(folder, Config)
        if config.task != "restore":
            raise UserError(f"{folder} is a classifier: model.start takes the run of an autoencoder")
        state = checkpoint.read(folder)
        seen = state["assets"].get("seen")
        if state["assets"].get("task") != "restore" or not isinstance(seen, Tensor):
            raise UserError(f"{folder} is not a run of cifar-vae: model.start takes that of an autoencoder")
        run.refuse_unfinished(folder)
        found = cls(config.model, state["model"], state["assets"]["data"], seen)
        found.chosen, found.held_out = state["assets"].get("chosen"), config.data.held_out
        return found

    @torch.inference_mode()
    def features(self, images: Tensor, what: str, where: torch.device) -> tuple[Tensor, Tensor]:
        """What the probe sees of pictures, uint8 [N, 3, 32, 32]: means, and standard deviations or nothing, [N, D]."""
        self.model.to(where)
        means, spreads = [], []
        for some in images.split(AT_ONCE):
            x = pictures.plain(some.to(where))
            if what == "before":
                means.append(self.model.features(x).float())
                continue
            coded = self.model.encode(x)
            means.append(self.model.read(coded).latent.flatten(1))
            if what == "sample" and coded.log_variance is not None:
                spreads.append((0.5 * coded.log_variance).exp().flatten(1))
        mean = torch.cat(means)
        return mean, torch.cat(spreads) if spreads else torch.zeros(len(mean), 0, device=where)


class Prober(nn.Module):
    """Whitened features, then `depth` hidden layers with ReLU and dropout, then one number for each class."""

    shift: Tensor
    whiten: Tensor

    def __init__(self, config: Probe, inputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(inputs))
        self.register_buffer("whiten", torch.eye(inputs))
        layers: list[nn.Module] = []
        width = inputs
        for _ in range(config.depth):
            layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = config.hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> logits [B, K]."""
        return self.layers(self.white(x))

    def white(self, x: Tensor) -> Tensor:
        """The features in their principal components, each of variance 1, float32 [B, D]."""
        with torch.autocast(x.device.type, enabled=False):
            return (x - self.shift) @ self.whiten

    @torch.no_grad()
    def begin(self, seen: Tensor) -> None:
        """Learns from features [N, D] how to whiten; variances below FLOOR times the largest stay below 1."""
        self.shift.copy_(seen.mean(0))
        centred = seen - self.shift
        values, vectors = torch.linalg.eigh((centred.T @ centred / len(seen)).double())
        floor = max(FLOOR * float(values[-1]), 1e-12)
        self.whiten.copy_(vectors / values.clamp(min=floor).sqrt())


class Classifier:
    """What predicts: the probe, and the autoencoder in front of it, which is kept with it."""

    def __init__(self, config: Config, start: Start, classes: tuple[str, ...]) -> None:
        self.config, self.start, self.classes = config, start, classes
        one = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        size = start.features(one, config.probe.features, torch.device("cpu"))[0].shape[1]
        self.model = Prober(config.probe, size, len(classes))

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, 32, 32] -> [N, K], on the CPU."""
        seen, _ = self.start.features(images, self.config.probe.features, self.model.shift.device)
        return self.model(seen).softmax(1).cpu()


class Classifying(Classifier):
    """The Task: a probe, and the features of the pictures that it learns from and is scored on, found once."""

    metric, better = "accuracy", CLASSIFYING

    def __init__(
        self, config: Config, start: Start, data: Dataset, where: torch.device, trained_on: str, known: Tensor
    ) -> None:
        """`known`: the marks of what the probe itself was trained on or chosen by, in the data `trained_on`."""
        super().__init__(config, start, data.classes)
        self.dataset, self.where, self.trained_on, self.known = data, where, trained_on, known
        self.sets = {"train": data.train, "valid": data.valid, "test": data.test}
        self.features: dict[Split, tuple[Tensor, Tensor]] = {}
        self.labels: dict[Split, Tensor] = {}
        seen = f"{config.probe.features} of {self.model.shift.numel()} numbers"
        probe = f"probe of {config.probe.depth} hidden layers > {len(data.classes)}"
        self.data = words(data)
        self.summary = f"{start.config.kind}, {start.config.latent}: {seen} > {probe}"
        self.shown = draw.shuffled(len(data.valid), 0)[: show.MANY]

    def seen(self, split: Split) -> tuple[Tensor, Tensor]:
        """The features of each view of the pictures of a part: means, and deviations or nothing, [V, N, D]."""
        if split not in self.features:
            images, self.labels[split] = pictures.on(self.where, self.sets[split])
            views = self.views(images) if split == "train" else [images]
            found = [self.start.features(view, self.config.probe.features, self.where) for view in views]
            self.features[split] = (
                torch.stack([mean for mean, _ in found]),
                torch.stack([spread for _, spread in found]),
            )
        return self.features[split]

    def views(self, images: Tensor) -> list[Tensor]:
        """What is learnt from: training pictures as they are; also mirrored; or VIEWS times, mirrored or not and moved.

        The features of each are found once, so that the same few views come again in all epochs.
        """
        how, ids = self.config.data.augment, np.arange(len(images))
        if how == "shift":
            seed = self.config.fit.seed
            return [images, *(pictures.varied(images, ids, how, seed, VIEW, view) for view in range(1, VIEWS))]
        return [images] if how == "none" else [images, images.flip(-1)]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The autoencoder counts where it is learnt from; test parts are compared by their pictures alone."""
        frozen = [weight.cpu() for _, weight in sorted(self.start.weights.items())]
        more: dict[str, list[Tensor]] = {"train": frozen, "valid": frozen, "test": []}
        return {name: fingerprint(part.pictures, part.classes, *more[name]) for name, part in self.sets.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        n = len(self.sets[split])
        order = draw.shuffled(n, self.config.fit.seed, epoch) if split == "train" else np.arange(n)
        return even_batches(order, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """float32 [B, D], int64 [B]; of a training picture the features of one of its views."""
        means, spreads = self.seen(split)
        seed, rows = self.config.fit.seed, torch.from_numpy(ids).to(self.where)
        view = torch.zeros_like(rows)
        if len(means) > 1:
            view = (draw.uniform(ids, 1, seed, epoch)[:, 0] * len(means)).long().to(self.where)
        x = means[view, rows]
        if split == "train" and spreads.numel():
            uniform = draw.uniform(ids, x.shape[1], seed, NOISE, PARTS[split], epoch).double()
            x = x + spreads[view, rows] * torch.special.ndtri(uniform + 2**-25).float().to(self.where)
        return x, self.labels[split][rows]

    def step(self, batch: tuple[Tensor, Tensor]) -> Sums:
        x, labels = batch
        logits = self.model(x).float()
        answers = logits.detach().argmax(1)
        sums: Sums = {
            "loss": (F.cross_entropy(logits, labels, reduction="sum"), len(labels)),
            "accuracy": ((answers == labels).sum(), len(labels)),
        }
        if not self.model.training:
            sums["confusion"] = (confusion.count(labels, answers, len(self.classes)), len(labels))
        return sums

    def scores(self, totals: Totals) -> dict[str, float]:
        found = totals.means()
        if "confusion" in totals.sums:
            found["macro_f1"] = float(confusion.f1(totals.sums["confusion"]).mean())
        return found

    def assets(self) -> dict[str, Any]:
        known = {"data": self.trained_on, "seen": self.known}
        return {"task": "classify", "classes": list(self.classes), "start": self.start.assets(), **known}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation pictures each time; at the end also the confusion matrix and the worst mistakes."""
        part = self.sets["valid"]
        images, labels = torch.from_numpy(part.pictures[self.shown]), part.classes[self.shown]
        run.picture("predictions", self.captioned(images, labels), step, when)
        if when != "after":
            return
        everything, truth = torch.from_numpy(part.pictures), torch.from_numpy(part.classes)
        probabilities = self.probabilities(everything)
        counts = confusion.count(truth, probabilities.argmax(1), len(self.classes))
        run.picture("confusion", confusion.picture(counts, self.classes, "pictures"), step)
        of_truth = probabilities.gather(1, truth[:, None])[:, 0]
        wrong = (probabilities.argmax(1) != truth).nonzero()[:, 0]
        worst = wrong[of_truth[wrong].argsort(stable=True)][: show.MANY]
        if len(worst):
            run.picture("worst mistakes", self.captioned(everything[worst], truth[worst].numpy()), step)
        points = self.seen("valid")[0][0][: show.POINTS].cpu()
        names = [self.classes[k] for k in truth[: show.POINTS].tolist()]
        run.embedding("features", points, {"class": names}, step, everything[: show.POINTS])

    def captioned(self, images: Tensor, labels: np.ndarray) -> Any:
        best, answers = self.probabilities(images).max(1)
        captions = [
            (f"{self.classes[a]} {p:.0%}" + ("" if a == k else f" ≠ {self.classes[k]}"), a == k)
            for a, p, k in zip(answers.tolist(), best.tolist(), labels.tolist(), strict=True)
        ]
        return show.tiles(images, captions)


def refuse_start(config: Config, start: Start, data: Dataset) -> None:
    """Raises UserError for an autoencoder that has no samples to see, or was trained on what would choose the probe."""
    if config.probe.features == "sample" and start.config.kind != "vae":
        raise UserError(
            f"probe.features sample is of a vae: {config.model.start} has model.kind {start.config.kind}, give "
            "--probe.features latent"
        )
    chosen = start.chosen
    if chosen is None:  # of an older run: those of an equal part were, as far as can be told
        chosen = start.seen if start.held_out == config.data.held_out else start.seen[:0]
    valid = marks(data.valid.pictures)
    learnt = np.isin(valid, start.seen.numpy()) & ~np.isin(valid, chosen.numpy())
    if learnt.any():
        raise UserError(
            f"{learnt.sum():,} of the {len(valid):,} pictures that would validate are of those that "
            f"{config.model.start} was trained on: give --data start --data.held-out {start.held_out}, or other --data"
        )


def begun(config: Config, start: Start, data: Dataset, where: torch.device, known: Tensor) -> Classifying:
    """The task with its data, and a probe that knows mean and covariance of what it sees."""
    task = Classifying(config, start, data, where, data.name, known)
    task.model.begin(task.seen("train")[0][0].cpu())
    return task


def describe(task: Classifying, totals: Totals) -> tuple[str, dict[str, Any]]:
    """scikit-learn's report, what the two worst classes are taken for, and two other probes of the same features."""
    from sklearn.metrics import classification_report

    scores, counts = task.scores(totals), totals.sums["confusion"].cpu().long()
    truth, answers = pairs_of(counts)
    report = classification_report(
        truth, answers, labels=range(len(task.classes)), target_names=task.classes, digits=3, zero_division=0
    )
    _, classes = confusion.per_class(counts, task.classes, "pictures")
    lines = [*report.rstrip().splitlines(), ""]
    width = max(map(len, task.classes))
    if len(task.classes) <= 20:
        lines += [
            "confusion matrix, rows are the truth:",
            " " * width + "".join(f"{name[:6]:>7}" for name in task.classes),
        ]
        lines += [
            f"{name:<{width}}" + "".join(f"{k:>7}" for k in row)
            for name, row in zip(task.classes, counts.tolist(), strict=True)
        ]
    together = confusion.f1(counts)
    for k, taken_for in worst(counts).items():
        taken = ", ".join(f"{task.classes[j]} {count}" for j, count in taken_for.items())
        lines.append(f"{task.classes[k]} (F1 {together[k]:.3f}) is taken for {taken or 'nothing else'}")
    others = other_probes(task)
    for name, value in others.items():
        lines.append(f"accuracy of {name} on the same features: {value:.2%}")
    lines.append(f"accuracy {scores['accuracy']:.2%}  macro-F1 {scores['macro_f1']:.2%}  loss {scores['loss']:.4f}")
    found = {**scores, "pictures": int(counts.sum()), "per_class": classes, "confusion": counts.tolist()}
    return "\n".join(lines), found | {"others": others}


def worst(counts: Tensor) -> dict[int, dict[int, int]]:
    """The two classes of lowest F1, and how often each is taken for what, at most TAKEN of these; counts: [K, K]."""
    found = {}
    for k in confusion.f1(counts).argsort(stable=True)[:2].tolist():
        wrong = counts[k].clone()
        wrong[k] = 0
        most = wrong.argsort(descending=True, stable=True)[:TAKEN].tolist()
        found[k] = {j: int(wrong[j]) for j in most if wrong[j]}
    return found


def mistakes(task: Classifying, totals: Totals) -> dict[str, Image.Image]:
    """Test pictures of the two worst classes, in rows by what they are taken for, the surest first."""
    counts, part = totals.sums["confusion"].cpu().long(), task.sets["test"]
    # In the batches in which they were scored, so that no answer is another one.
    batches = task.plan("test", 0, task.config.fit.batch_size)
    found = torch.cat([task.model(task.load("test", ids, 0)[0]).float().softmax(1).cpu() for ids in batches])
    (sure, answers), truth = found.max(1), torch.from_numpy(part.classes)
    together, shown = confusion.f1(counts), {}
    for k, taken_for in worst(counts).items():
        rows = []
        for j, count in taken_for.items():
            which = ((truth == k) & (answers == j)).nonzero()[:, 0]
            which = which[sure[which].argsort(descending=True, stable=True)][: show.ACROSS]
            said = f"taken for\n{task.classes[j]:.16}\n{count:,} of {int(counts[k].sum()):,}"
            rows.append((said, torch.from_numpy(part.pictures)[which], sure[which].tolist()))
        nothing = "" if rows else ": taken for nothing else"
        shown[f"{task.classes[k]}, F1 {together[k]:.3f}{nothing}"] = rows
    return {"test mistakes": show.mistakes(shown)}


def pairs_of(counts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Truths and answers [N] whose counts these are, [K, K]."""
    truths, answers = torch.meshgrid(torch.arange(len(counts)), torch.arange(len(counts)), indexing="ij")
    times = counts.flatten()
    return truths.flatten().repeat_interleave(times).numpy(), answers.flatten().repeat_interleave(times).numpy()


def other_probes(task: Classifying) -> dict[str, float]:
    """Test accuracies of scikit-learn's probes, fitted to at most REFERENCES training pictures as they are.

    None where the training pictures are not at hand, or of one class.
    """
    if len(np.unique(task.sets["train"].classes[:REFERENCES])) < 2:
        return {}
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    x, y = (task.model.white(task.seen(split)[0][0][:REFERENCES]).cpu().numpy() for split in ("train", "test"))
    labels, truth = task.labels["train"].cpu().numpy()[:REFERENCES], task.labels["test"].cpu().numpy()[:REFERENCES]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, probe in (
            ("logistic regression", LogisticRegression(max_iter=300)),
            (f"{NEIGHBOURS} nearest neighbours", KNeighborsClassifier(min(NEIGHBOURS, len(labels)))),
        ):
            found[name] = float((probe.fit(x, labels).predict(y) == truth).mean())
    return found
