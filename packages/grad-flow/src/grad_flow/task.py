"""grad-flow as a Task: a dense network, and what theory says of its gradients before the first step."""

from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import confusion, draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals
from grad_flow import kernels, show
from grad_flow.config import CLASSES, SCORES, SIDES, Config
from grad_flow.data import BRIGHTEST, NAMES, Dataset, Images, read_rows
from grad_flow.data import load as load_data
from grad_flow.flow import measure
from grad_flow.kernels import Gradients, factor
from grad_flow.model import DeepDenseNet, network
from grad_flow.theory import fixed_point, norm_factor

SHOWN = 128  # training images of which gradients, activations and correlations are measured
# Images of which the first step's gradient is predicted: of fewer at a time the variance that batch norm divides by is
# now and then so small that few units make the gradient, unlike theory's many; of more the prediction takes long.
LEAST, MOST = 8, 256
# Beyond so much of sigma_w^2 x depth / width, networks with residual connections have a factor that is at least 2 %
# above the theory of infinite width, unless activations are bounded or normalised: `benchmarks/slopes.py --narrow`.
NARROW = 1 / 32
GROWING = ("relu", "leaky-relu", "gelu", "selu")


class Predictor:
    """What predicts: the network, for images of one data set, and what was measured of it before its first step."""

    def __init__(self, config: Config, name: str) -> None:
        self.config, self.name = config, name
        self.model = DeepDenseNet(SIDES[name] ** 2, config.model)
        self.values, self.classes = f"0..{BRIGHTEST[name]}", NAMES[name]  # for who takes an exported model

    def example(self) -> Tensor:
        """What the model takes, pixels as they are, float [2, s, s] in `values`: for `export --onnx`."""
        side = SIDES[self.name]
        return torch.zeros(2, side, side)


class Dense(Predictor):
    """The Task: the network, and the images that it learns from and is scored on."""

    metric, better = "accuracy", SCORES

    def __init__(self, config: Config, data: Dataset, where: torch.device, start: Gradients | None = None) -> None:
        """`start`: the gradients measured before the first step; None where this is before it."""
        super().__init__(config, data.name)
        self.where = where
        self.summary = " > ".join(map(str, config.model.sizes(SIDES[data.name] ** 2)))
        # The images stay uint8, on the device that trains: 60,000 of them are 47 MB there, and 188 MB as floats.
        parts = {"train": data.train, "valid": data.valid, "test": data.test}
        self.parts = {name: Images(part.images.to(where), part.labels.to(where)) for name, part in parts.items()}
        counts = " / ".join(f"{len(part.labels):,}" for part in self.parts.values())
        self.data = f"{data.name}, {counts} images, {CLASSES} classes"
        pixels = data.train.images.float()
        self.model.mean.fill_(pixels.mean())
        self.model.std.fill_(pixels.std())
        self.few = Images(data.train.images[:SHOWN], data.train.labels[:SHOWN])
        start = start or measure(self.model, self.few.images.float(), self.few.labels).gradients
        # In one array, as runs of a stack may differ in arrays, but an array of one number is a number to them.
        self.norms = np.concatenate([start.weights, start.signals])

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {name: fingerprint(part.images, part.labels) for name, part in self.parts.items()}

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        count = len(self.parts[split].labels)
        order = draw.shuffled(count, self.config.fit.seed, epoch) if split == "train" else np.arange(count)
        return even_batches(order, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """float [B, s, s], int64 [B]."""
        rows, part = torch.from_numpy(ids).to(self.where), self.parts[split]
        return part.images[rows].float(), part.labels[rows]

    def step(self, batch: tuple[Tensor, Tensor]) -> Sums:
        images, labels = batch
        logs = self.model(images)
        n, answers = len(labels), logs.detach().argmax(1)
        sums: Sums = {
            "loss": (F.nll_loss(logs, labels, reduction="sum"), n),
            "accuracy": ((answers == labels).sum(), n),
        }
        if not self.model.training:
            sums["confusion"] = (confusion.count(labels, answers, CLASSES), n)
        return sums

    def scores(self, totals: Totals) -> dict[str, float]:
        return totals.means()

    def assets(self) -> dict[str, Any]:
        start = {name: found.tolist() for name, found in asdict(self.start).items()}
        return {"name": self.name, "seed": self.config.fit.seed, "start": start}

    @property
    def start(self) -> Gradients:
        """What was measured before the first step."""
        return self.divided(self.norms)

    def divided(self, norms: np.ndarray) -> Gradients:
        weights = self.config.model.depth + 1
        return Gradients(norms[:weights], norms[weights:])

    # -- theory

    @cached_property
    def theory(self) -> tuple[np.ndarray, Tensor]:
        """Predicted before the first step, for the images that are measured: `norms`, and correlations [L + 1, B, B].

        The way itself is not kept: with batch norm it takes megabytes for each layer.
        """
        way = kernels.walk(self.network, self.entering(self.few.images))
        found = kernels.gradients(self.network, way, self.few.labels)
        return np.concatenate([found.weights, found.signals]), way.correlations()

    @property
    def predicted(self) -> Gradients:
        return self.divided(self.theory[0])

    @property
    def network(self) -> kernels.Network:
        return network(SIDES[self.name] ** 2, self.config.model)

    def entering(self, images: Tensor) -> Tensor:
        """Images [B, s, s] as they enter the first layer, on the CPU."""
        mean, std = self.model.mean.cpu(), self.model.std.cpu()
        return ((images.cpu() - mean) / std).flatten(1)

    def predicted_gradients(self) -> dict[str, float]:
        """For every weight matrix the norm of its gradient in the first step, relative to that of the last."""
        return self.first_step

    @cached_property
    def first_step(self) -> dict[str, float]:
        """The same, of the very batch and the pieces of it of which batch norm takes its means.

        Empty where there is no prediction, see `LEAST` and `MOST`.
        """
        fit = self.config.fit
        ids = self.plan("train", 1, fit.batch_size)[0]
        pieces = min(fit.accumulate, max(1, len(ids) // 2))  # as `micro_batches` of core has it
        if len(ids) > MOST or (self.config.model.norm == "batch" and len(ids) // pieces < LEAST):
            return {}
        images, labels = self.load("train", ids, 1)
        way = kernels.walk(self.network, self.entering(images), pieces)
        norms = kernels.gradients(self.network, way, labels.cpu()).weights
        names = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        return dict(zip(names, (norms / norms[-1]).tolist(), strict=True))

    # -- pictures

    def show(self, run: Run, when: str, step: int) -> None:
        """Gradients, activations and correlations of the same training images, before the first step and at the end."""
        if when.startswith("epoch"):
            return
        images, labels = self.few.images.float().to(self.where), self.few.labels.to(self.where)
        flow = measure(self.model, images, labels)
        run.picture("flow", show.board(flow, self.predicted, self.theory[1], self.two()), step, when)

    def two(self) -> list[tuple[str, int, int]]:
        """Two images of one class, and two of two, among those that are measured."""
        labels = self.few.labels
        found = []
        for name, good in (("the same class", labels == labels[0]), ("different classes", labels != labels[0])):
            if len(others := [n for n in good.nonzero()[:, 0].tolist() if n]):
                found.append((name, 0, others[0]))
        return found


def make(config: Config, where: torch.device) -> Task:
    return Dense(config, load_data(config.data, config.fit.seed), where)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    name = assets["name"]
    if where is None:
        return Predictor(config, name)
    if SIDES[config.data] != SIDES[name] or NAMES[config.data] != NAMES[name]:
        raise UserError(
            f"this run knows the classes and pixels of {name}, not those of {config.data}: give another --data"
        )
    if config.data == name == "sample" and config.fit.seed != assets.get("seed", config.fit.seed):
        raise UserError(
            f"this run was trained on the sample as seed {assets['seed']} divides it; what {config.fit.seed} calls its "
            "test part has images that it was trained on: evaluate without --fit.seed"
        )
    return Dense(
        config,
        load_data(config.data, config.fit.seed),
        where,
        Gradients(**{name: np.array(found) for name, found in assets["start"].items()}),
    )


def describe(task: Dense, totals: Totals) -> tuple[str, dict[str, Any]]:
    """Scores; and the factors by which gradients changed per layer before the first step, measured and predicted."""
    scores, counts = task.scores(totals), totals.sums["confusion"].cpu()
    lines, classes = confusion.per_class(counts, task.classes, "images")
    images, commonest = int(counts.sum()), int(task.parts["train"].labels.bincount().argmax())
    lines.append(f"accuracy {scores['accuracy']:.2%}  loss {scores['loss']:.4f}")
    found = factors(task, task.start)
    lines.append("before the first step, the norm of the gradient changed per layer, on its way back, by a factor of")
    for name, of in (("signal", "by pre-activations"), ("weight", "by weights of hidden layers")):
        if found[f"{name}_factor"] is not None:
            lines.append(f"  {found[f'{name}_factor']:.4f} {of}, predicted {found[f'{name}_factor_predicted']:.4f}")
    if found["fixed_point"] is not None:
        batches = " and for large batches" * (task.config.model.norm == "batch")
        lines.append(f"  in an infinitely deep network{batches}, predicted {found['fixed_point']:.4f}")
    if (narrow := narrowness(task)) > NARROW:
        lines.append(
            "  but what is predicted is for infinite width, and this network is too narrow for that: with residual "
            "connections and no norm it is 2 % too small, or more, where sigma_w^2 x depth / width is above "
            f"{NARROW:.2f}, and here it is {narrow:.2f}"
        )
    majority = int(counts[commonest].sum()) / images
    return "\n".join(lines), {**scores, "majority": majority, **found, "images": images, "per_class": classes}


def narrowness(task: Dense) -> float:
    """sigma_w^2 x depth / width where residual connections let a network leave the theory, see `NARROW`; else 0."""
    model = task.config.model
    if not (model.residual and model.norm == "none" and model.activation in GROWING and model.depth > 1):
        return 0.0
    return task.network.laws[1][0] ** 2 * model.depth / model.width


def factors(task: Dense, start: Gradients) -> dict[str, float | None]:
    """See `describe`; None where there are too few layers, and with residual connections, where nothing is fixed."""
    predicted, config = task.predicted, task.config.model
    found: dict[str, float | None] = {}
    # The first matrix has another number of inputs, the last another of outputs.
    for name, ours, theirs in (
        ("signal", start.signals, predicted.signals),
        ("weight", start.weights[1:-1], predicted.weights[1:-1]),
    ):
        values = factor(ours), factor(theirs)
        found[f"{name}_factor"], found[f"{name}_factor_predicted"] = (x if np.isfinite(x) else None for x in values)
    found["fixed_point"] = None
    if not config.residual and config.depth > 1:
        sigmas = task.network.laws[1]
        if config.norm == "none":
            found["fixed_point"] = fixed_point(config.activation, *sigmas, config.dropout).factor
        else:
            found["fixed_point"] = norm_factor(config.activation, config.norm, *sigmas, config.dropout)
    return found


def predict(task: Predictor, inputs: list[str]) -> list[str]:
    """For each row of the CSV files ("-": standard input), an image: class, tab, probability."""
    images = torch.cat([read_rows(name, task.name) for name in inputs])
    if not len(images):
        return []
    best, answers = task.model(images.to(task.model.mean.device)).exp().max(1)
    return [f"{task.classes[k]}\t{p:.4f}" for k, p in zip(answers.tolist(), best.tolist(), strict=True)]
