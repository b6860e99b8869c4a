"""The first task: pictures to a few numbers or bits, and back."""

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_vae import pictures, show, yardsticks
from cifar_vae.book import Codebook
from cifar_vae.config import RESTORING, SIDE, VALUES, Config
from cifar_vae.data import Dataset, marks
from cifar_vae.model import Autoencoder
from etude import draw
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.train.run import Run, now_and_then
from etude.train.step import even_batches
from etude.train.task import Split
from etude.train.totals import Sums, Totals

NOISE = -5  # the stream of the latents that are drawn
BEGIN = 10_000  # training pictures that the start of a model is learnt from
PARTS = {"train": 0, "valid": 1, "test": 2}
AT_ONCE = 500  # pictures that are encoded or decoded together
STEPS = (0.25, 0.5, 1.0, 2.0)  # to which the numbers of an ae are rounded, in their standard deviations
ROUNDED = 2_000  # test pictures for that


class Batch(NamedTuple):
    x: Tensor
    """float32 [B, 3, 32, 32] in [-1, 1]"""
    noise: Tensor
    """standard normal, to draw latents with, float32 [B, P, C]; of other kinds than vae [B, 0]"""
    kl: Tensor
    """weight of the KL term, float32 [B], all the same"""


class Restorer:
    """What predicts: the autoencoder."""

    def __init__(self, config: Config, trained_on: str, seen: Tensor) -> None:
        self.config, self.model = config, Autoencoder(config.model)
        self.trained_on, self.seen = trained_on, seen

    def example(self) -> Tensor:
        """What the model takes, float32 [2, 3, 32, 32] in [-1, 1]: for `export --onnx`."""
        return torch.zeros(2, 3, 32, 32)

    @torch.inference_mode()
    def latents(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, 32, 32] -> float32 [N, P, C] on the CPU: means, or the codes' numbers."""
        where = self.model.mean.device
        return torch.cat([self.latent(some.to(where)).cpu() for some in images.split(AT_ONCE)])

    def latent(self, images: Tensor) -> Tensor:
        return self.model.read(self.model.encode(pictures.plain(images))).latent

    @torch.inference_mode()
    def decoded(self, latents: Tensor) -> Tensor:
        """Latents [N, P, C] -> float32 [N, 3, 32, 32], on the CPU: as the model says it, here and there beyond [-1, 1].

        The errors of `evaluate` are of this; what is shown or written is cut to the range of a picture.
        """
        where = self.model.mean.device
        return torch.cat([self.model.decode(some.to(where)).cpu() for some in latents.split(AT_ONCE)])


class Restoring(Restorer):
    """The Task: an autoencoder, and the pictures that it learns from and is scored on."""

    metric, better = "mse", RESTORING

    def __init__(self, config: Config, data: Dataset, where: torch.device, trained_on: str, seen: Tensor) -> None:
        super().__init__(config, trained_on, seen)
        self.dataset, self.where = data, where
        self.sets = {"train": data.train, "valid": data.valid, "test": data.test}
        self.parts = {name: pictures.on(where, part) for name, part in self.sets.items()}
        self.data, self.summary = words(data), summary(self.model)
        self.shown = draw.shuffled(len(data.valid), 0)[: show.MANY]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {name: fingerprint(part.pictures, part.classes) for name, part in self.sets.items()}

    @cached_property
    def chosen(self) -> Tensor:
        """The marks of the validation part: of `seen`, what a classifier may be chosen by."""
        return torch.from_numpy(np.sort(marks(self.sets["valid"].pictures)))

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        n = len(self.sets[split])
        order = draw.shuffled(n, self.config.fit.seed, epoch) if split == "train" else np.arange(n)
        return even_batches(order, batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        objective, training = self.config.objective, split == "train"
        images = self.parts[split][0][torch.from_numpy(ids).to(self.where)]
        if training:
            images = pictures.varied(images, ids, self.config.data.augment, self.config.fit.seed, epoch)
        noise = torch.zeros(len(ids), 0)
        if self.config.model.kind == "vae":
            uniform = draw.uniform(ids, self.model.size, self.config.fit.seed, NOISE, PARTS[split], epoch).double()
            noise = torch.special.ndtri(uniform + 2**-25).float()[:, None]  # the middle of its cell, neither 0 nor 1
        warm = min(1.0, (epoch - 1) / objective.warmup) if training and objective.warmup else 1.0
        return Batch(pictures.plain(images), noise, torch.full((len(ids),), objective.kl * warm))

    def step(self, batch: Batch) -> Sums:
        """In training sees less than it restores, if it is to denoise. The errors are those of the mean latent."""
        n, training, objective = len(batch.x), self.model.training, self.config.objective
        coded = self.model.encode(self.spoiled(batch.x) if training else batch.x)
        read = self.model.read(coded, batch.noise if coded.log_variance is not None else None)
        restored = self.model.decode(read.latent)
        loss = distance(batch.x, restored, objective.loss)
        sums: Sums = {}
        if coded.log_variance is not None:
            kl = divergence(coded.mean, coded.log_variance)
            loss = loss + batch.kl * kl
            sums["kl_bits"] = (kl.sum() / math.log(2), n)
            if not training:
                sums["mse_sample"] = (squares(batch.x, restored).sum() / (4 * VALUES), n)
                restored = self.model.decode(coded.mean)
        if read.apart is not None:
            loss = loss + objective.commitment * read.apart
        error = squares(batch.x, restored)
        sums |= {"loss": (loss.sum(), n), "mse_image": (error.sum(), n)}
        if training:
            return sums
        sums["square"] = (error.double().square().sum().view(1), n)
        sums["logcosh_image"] = (distance(batch.x, restored, "logcosh").sum(), n)
        if read.codes is not None:
            which, nothing = read.codes.flatten(), torch.zeros(self.config.model.book, device=read.codes.device)
            sums["codes"] = (nothing.scatter_add(0, which, torch.ones_like(which, dtype=torch.float32)), n)
        return sums

    def spoiled(self, x: Tensor) -> Tensor:
        """Pictures with noise, or grey squares, on them (Vincent et al. 2008)."""
        objective = self.config.objective
        if objective.noise:
            x = x + 2 * objective.noise * torch.randn_like(x)
        if objective.mask:
            grid = torch.rand(len(x), 1, SIDE // 4, SIDE // 4, device=x.device) < objective.mask
            x = torch.where(F.interpolate(grid.float(), scale_factor=4.0) > 0.5, 0.0, x)
        return x

    def scores(self, totals: Totals) -> dict[str, float]:
        found = totals.means()
        found["mse"] = found["mse_image"] / (4 * VALUES)
        found["psnr"] = -10 * math.log10(max(found["mse"], 1e-12))
        model = self.config.model
        if "codes" in totals.sums:
            counts = totals.sums["codes"].cpu().numpy()
            bits = yardsticks.entropy(counts)
            found |= {"bits": model.latent * math.log2(model.book), "bits_entropy": model.latent * bits}
            found |= {"perplexity": 2**bits, "used": float((counts > 0).sum())}
        elif "logcosh_image" in totals.sums:
            found["bits"] = found["kl_bits"] if model.kind == "vae" else 32.0 * model.latent
        return found

    def assets(self) -> dict[str, Any]:
        known = {"data": self.trained_on, "seen": self.seen, "chosen": self.chosen}
        return {"task": "restore", "classes": list(self.dataset.classes), **known}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation pictures each time: before training, after epochs 1, 2, 4, 8, ..., and at the end."""
        if not now_and_then(when):
            return
        images = self.parts["valid"][0][torch.from_numpy(self.shown).to(self.where)].cpu()
        latents = self.latents(images)
        restored = self.decoded(latents)
        run.picture("restored", show.pairs(images, restored), step, when)
        everything = self.latents(self.parts["valid"][0][: show.REFERENCE].cpu())
        seed = self.config.fit.seed
        run.picture("samples", show.board(self.decoded(show.samples(self.config.model, everything, seed))), step, when)
        if when != "after":
            return
        run.picture("walks", show.board(self.decoded(show.walks(latents)), show.STEPS), step)
        if self.model.book is None:
            turned = show.turned(latents[0], everything)
            run.picture("one number at a time", show.board(self.decoded(turned), show.STEPS), step)
        else:
            run.picture("codes", show.usage(self.use(everything)), step)
        run.picture("architecture", show.architecture(self.model), step)
        names = [self.dataset.classes[k] for k in self.parts["valid"][1][: show.REFERENCE].tolist()]
        points, thumbnails = everything.flatten(1)[: show.POINTS], self.parts["valid"][0][: show.POINTS]
        run.embedding("latents", points, {"class": names[: show.POINTS]}, step, thumbnails)
        run.graph(self.model, pictures.plain(self.parts["valid"][0][:1]))
        self.show_rates(run, everything, step)

    def use(self, latents: Tensor) -> np.ndarray:
        """How often each code stands in latents [N, P, C]: [K]."""
        book = self.model.book
        assert book is not None
        codes = book.statistics()[1] if isinstance(book, Codebook) else book.at(torch.arange(book.codes))
        codes = codes.to(latents.device)
        which = torch.cat([torch.cdist(some.flatten(0, 1), codes.cpu()).argmin(1) for some in latents.split(AT_ONCE)])
        return np.bincount(which.numpy(), minlength=book.codes)

    def show_rates(self, run: Run, latents: Tensor, step: int) -> None:
        """Error against bits, on the validation part."""
        images = self.parts["valid"][0][: show.REFERENCE].cpu()
        known = yardsticks.known(self.dataset.train.pictures, self.dataset.valid.pictures)
        run.picture("error against bits", show.rates(known, self.points(images, latents)), step)

    def points(self, images: Tensor, latents: Tensor) -> list[tuple[str, float, float, float]]:
        """Where this model stands: name, bits per picture, error per value, its standard error."""
        kind, x = self.config.model.kind, pictures.plain(images)
        if kind == "ae":
            found = rounded(self, x, latents)
            return [(f"ae {self.config.model.latent}, rounded", p["bits"], p["mse"], p["mse_se"]) for p in found]
        name = f"{kind} {self.config.model.latent}"
        if kind == "vae":  # its bits are those of a sample, not of the mean
            name, (latents, bits) = f"{name}, a sample", self.drawn(len(x))
        else:
            bits = self.config.model.latent * math.log2(self.config.model.book)
        error = squares(x, self.decoded(latents)) / (4 * VALUES)
        return [(name, bits, float(error.mean()), float(error.std() / math.sqrt(len(error))))]

    @torch.inference_mode()
    def drawn(self, count: int) -> tuple[Tensor, float]:
        """A sample of q(z | x) for each of the first validation pictures, [N, 1, L], and their mean KL in bits."""
        found, total, where = [], 0.0, self.model.mean.device
        for ids in np.split(np.arange(count), range(AT_ONCE, count, AT_ONCE)):
            batch = self.load("valid", ids, 0)
            coded = self.model.encode(batch.x.to(where))
            assert coded.log_variance is not None
            found.append(self.model.read(coded, batch.noise.to(where)).latent.cpu())
            total += float(divergence(coded.mean, coded.log_variance).sum()) / math.log(2)
        return torch.cat(found), total / count


def words(data: Dataset) -> str:
    sizes = " / ".join(f"{len(part):,}" for part in (data.train, data.valid, data.test))
    what = f"{sizes} pictures to train, validate and test" if len(data.valid) else f"{len(data.test):,} pictures"
    note = f" ({data.note})" if data.note else ""
    return f"{data.name}, {what}, {len(data.classes)} classes{note}"


def summary(model: Autoencoder) -> str:
    maps = f"{model.encoder.width}x{model.side}x{model.side}"
    code = f"{model.size} numbers" if model.places == 1 else f"{model.places} codes of {model.size} numbers"
    of = f", {model.book.codes} codes" if model.book is not None else ""
    return f"{model.kind}: 3x32x32 > {maps} > {code}{of} > {maps} > 3x32x32"


def squares(x: Tensor, y: Tensor) -> Tensor:
    """The sum of squared differences of each picture, [B]; in [-1, 1] it is 4 x 3,072 times the mean in [0, 1]."""
    return (x - y).square().flatten(1).sum(1)


def distance(x: Tensor, y: Tensor, kind: str) -> Tensor:
    """How far pictures in [-1, 1] are apart, float32 [B], as `objective.loss` says."""
    if kind == "logcosh":
        away = (x - y).abs()
        return (away + F.softplus(-2 * away) - math.log(2)).flatten(1).sum(1)
    if kind == "gaussian":
        # The variance that maximises the likelihood is the mean squared error (Rybkin et al. 2021, section 3.2). Here
        # each picture has its own, so that its loss does not depend on the batch that it is in.
        variance = squares(x, y) / VALUES
        return VALUES / 2 * (math.log(2 * math.pi * math.e) + variance.clamp(min=1e-7).log())
    return squares(x, y)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) in nats, [B] (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2))


def rounded(task: Restorer, x: Tensor, latents: Tensor) -> list[dict[str, float]]:
    """What numbers cost and lose if they are rounded, to steps as long as a part of their standard deviation.

    The bits are the entropy of each number by itself, by its frequencies in these very pictures: a little too few, and
    no code is built that has them. Of fewer than ENOUGH pictures they would be far too few, as n pictures show at most
    log2 n bits of a number: nothing is said then. `x`, in [-1, 1], and their latents [N, 1, L].
    """
    if len(x) < yardsticks.ENOUGH:
        return []
    spread, middle, found = latents.std(0), latents.mean(0), []
    for part in STEPS:
        steps = ((latents - middle) / (part * spread).clamp(min=1e-9)).round()
        bits = sum(entropy_of(steps[:, 0, j]) for j in range(steps.shape[2]))
        error = squares(x, task.decoded(steps * part * spread + middle)) / (4 * VALUES)
        se = float(error.std() / math.sqrt(len(error)))
        found.append({"step": part, "bits": bits, "mse": float(error.mean()), "mse_se": se})
    return found


def entropy_of(values: Tensor) -> float:
    _, counts = values.unique(return_counts=True)
    return yardsticks.entropy(counts.double().numpy())


def describe(task: Restoring, totals: Totals) -> tuple[str, dict[str, Any]]:
    """Errors on the test part, beside those of codes that are known exactly."""
    found, n, model = task.scores(totals), len(task.dataset.test), task.config.model
    spread = float(totals.mean("square")) - found["mse_image"] ** 2
    found["mse_se"] = math.sqrt(max(spread, 0) / max(n - 1, 1)) / (4 * VALUES)
    learnt = task.dataset.train.pictures
    known = yardsticks.known(learnt, task.dataset.test.pictures)
    pca, variances = known["pca"], np.array(known["variances"])
    result: dict[str, Any] = dict(found)
    vae = "mse_sample" in found  # of which not the mean but a sample has the bits of the KL term
    lines = [f"{f'{n:,} pictures':<56}{'bits':>9}{'mse in [0, 1]':>15}{'sum in [-1, 1]':>16}{'PSNR':>8}"]

    def line(name: str, error: float, bits: float | None = None) -> None:
        shown = "" if bits is None else f"{bits:,.1f}"
        lines.append(
            f"{name:<56}{shown:>9}{error:>15.5f}{4 * VALUES * error:>16.1f}{-10 * math.log10(error + 1e-12):>8.2f}"
        )

    def of(first: int) -> str:
        """What is said of a line that is not about all pictures."""
        return f" (first {first:,})" if first < n else ""

    said = f"{model.kind} of this run, {model.latent} {'codes' if task.model.book else 'numbers'}"
    line(said + (" (float32)" if model.kind == "ae" else ""), found["mse"], None if vae else found["bits"])
    if vae:
        line("  the same, from a sample of q(z | x)", found["mse_sample"], found["bits"])
    if model.kind == "ae":
        some = task.parts["test"][0][:ROUNDED].cpu()
        result["rounded"] = rounded(task, pictures.plain(some), task.latents(some))
        for point in result["rounded"]:
            line(f"  rounded to {point['step']} of a standard deviation{of(ROUNDED)}", point["mse"], point["bits"])
            peer = yardsticks.at_bits(known["files"], yardsticks.TRANSFORM, point["bits"])
            if peer is not None:
                line(f"    {yardsticks.TRANSFORM}, at as many", peer, point["bits"])
    sizes = sorted({*yardsticks.SIZES, *([model.latent] if task.model.book is None else [])})
    result["pca"] = {str(k): pca[k] for k in sizes if k < min(len(pca), len(learnt))}  # n pictures lie in n - 1
    for k, error in result["pca"].items():
        line(f"PCA, {k} numbers of any precision", error)
    if model.kind != "ae" and len(variances):
        result["gaussian"] = yardsticks.distortion(variances, found["bits"])
        line("Gaussian rate-distortion at as many bits", result["gaussian"], found["bits"])
    transform = (yardsticks.TRANSFORM,) if model.kind != "ae" else ()
    for kind in (*transform, *yardsticks.QUALITIES):
        tried = [p for p in known["files"] if p["format"] == kind]
        if not tried:
            continue
        smallest = min(tried, key=lambda p: p["bits"])
        at = yardsticks.at_bits(known["files"], kind, found["bits"])
        few = of(yardsticks.FEW) if kind in yardsticks.QUALITIES else ""
        if at is None:
            line(f"{kind}, its smallest of those tried{few}", smallest["mse"], smallest["bits"])
        else:
            line(f"{kind} at as many bits{few}", at, found["bits"])
    if known["nearest"] is not None:
        line(f"the nearest training picture{of(yardsticks.FEW)}", known["nearest"])
    if known["apart"] is not None:
        line("another picture, mean", known["apart"])
        line("another picture, median", known["apart_median"])
    result |= {name: known[name] for name in ("nearest", "apart", "apart_median", "files")} | {"pictures": n}
    lines += verdicts(task, found, result)
    return "\n".join(lines), result


def verdicts(task: Restoring, found: dict[str, float], result: dict[str, Any]) -> list[str]:
    """What has to be said of the scores beside the yardsticks, worse ones first."""
    model, learnt = task.config.model, task.dataset.train
    lines = [f"log cosh, sum per picture in [-1, 1]: {found['logcosh_image']:.1f}"]
    if not len(learnt):
        lines.append(f"no PCA: the pictures of {task.trained_on} that the run was trained on are not here")
    elif task.dataset.fitted:
        lines.append(f"PCA and what else is learnt: of the {len(learnt):,} training pictures of {task.dataset.fitted}")
    if task.model.book is None and len(learnt) and (peer := result["pca"].get(str(model.latent))) is None:
        lines.append(f"no PCA with as many numbers: it needs more than the {len(learnt):,} training pictures")
    elif task.model.book is None and len(learnt):
        better = found["mse"] < peer
        lines.append(
            f"{'better' if better else 'WORSE'} than PCA with as many numbers, by {abs(1 - found['mse'] / peer):.1%}"
        )
    if "kl_bits" in found:
        lines.append(f"KL {found['kl_bits']:.1f} bits per picture")
    if "used" in found:
        lines.append(
            f"{found['used']:.0f} of {model.book} codes in use, perplexity {found['perplexity']:.1f}; entropy-coded "
            f"{found['bits_entropy']:.1f} bits per picture"
        )
    return lines


def begun(config: Config, data: Dataset, where: torch.device, seen: Tensor) -> Restoring:
    """The task with its data, and a model that begins where principal components and k-means end."""
    if config.model.kind == "vq" and config.model.codes > len(data.train) * config.model.latent:
        raise UserError(
            f"model.codes {config.model.codes} is more than the {len(data.train):,} training pictures have places: "
            "lower it"
        )
    task = Restoring(config, data, where, data.name, seen)
    task.model.begin(pictures.plain(torch.from_numpy(data.train.pictures[:BEGIN])), config.fit.seed)
    return task
