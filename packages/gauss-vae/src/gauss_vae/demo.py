"""What `gauss-vae demo` shows: the plane with the density that was learnt, and a point of it restored."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from etude.demo.page import NOTHING, Answer, Chart, Curve, Demo, Lines, Panel, Plane, Text, picture
from gauss_vae import data, likelihood
from gauss_vae.task import SCORING, Predictor, sampled_words, words_of

SIDE, SHOWN = 64, 320  # points of the plane along each axis; pixels of its picture
REACH = 3.2  # standard deviations of the data
FAR = 3.0  # from there on it is said that there were hardly any
CIRCLE = np.linspace(0, 2 * np.pi, 73)
DEEP = ((252, 252, 250), (158, 202, 225), (49, 130, 189), (8, 48, 107))  # from nothing to the highest density


def demo(task: Predictor) -> Demo:
    dimension = task.model.dimension
    kept: likelihood.Kept = {}

    def guess(x: Tensor) -> str:
        """A word of doubt about points [1, d] that lie far from the data."""
        away = float(((x - task.model.shift) / task.model.scale).abs().max())
        return f": a guess, {away:,.0f} standard deviations away from its data" if away > FAR else ""

    def told(x: Tensor) -> tuple[str, str, Tensor, Tensor]:
        """Log-density in words and what its error is, if it has one; mean [d] and factor [d, d] of what is restored.

        The density is that of `predict`, if that is known after a blink.
        """
        samples, seed = task.config.importance, task.config.fit.seed
        found = likelihood.best(task.model, x, samples, seed, SCORING, kept=kept, most=likelihood.FEW)
        density, error = float(found.log_density[0]), float(found.error[0])
        with torch.inference_mode():
            said = task.model.decode(task.model.encode(x).mean)
        if not math.isfinite(density):
            words, why = words_of(density), ""
        elif isinstance(found, likelihood.Sampled):
            effective = float(found.effective[0])
            words, why = sampled_words(density, error, effective), " (± the standard error of sampling)"
            if effective < likelihood.FEWEST:
                why = " (so few samples decide that there is no error to give)"
        elif error < likelihood.ENOUGH:
            words, why = words_of(density), ""
        else:
            words, why = f"{density:.6g} ± {error:.2g}", " (from a coarse grid; `predict` takes a finer one)"
        return words, why, said.mean[0].cpu(), said.factor()[0].cpu()

    def row(text: str) -> Answer:
        if not text.strip():
            return NOTHING
        numbers = list(data.parsed("the text", [" ".join(text.splitlines())], dimension))
        x = torch.tensor(numbers).to(task.model.shift.device)
        density, why, mean, factor = told(x)
        sds = factor.square().sum(-1).sqrt()
        pairs = zip(mean.tolist(), sds.tolist(), strict=True)
        lines = [(str(n), f"{m:.4g} ± {sd:.2g}") for n, (m, sd) in enumerate(pairs, 1)]
        parts = [Lines("Restored, mean ± standard deviation", lines)]
        return Answer(density, parts, f"log-density, in nats{why}{guess(x)}")

    def point(at: tuple[float, float]) -> Answer:
        x = torch.tensor([at]).to(task.model.shift.device)
        density, why, mean, factor = told(x)
        round_it = np.stack([np.cos(CIRCLE), np.sin(CIRCLE)])
        middle = float(mean[0]), float(mean[1])
        curves = [Curve("the point", [at], "crosses"), Curve("restored, the mean of p(x | z)", [middle], "dots")]
        for size, style in ((1, "line"), (2, "dashes")):
            ellipse = mean.numpy()[:, None] + size * (factor.numpy() @ round_it)
            name = f"{size} standard deviation{'s' * (size > 1)} of it"
            curves.append(Curve(name, [(float(x), float(y)) for x, y in ellipse.T], style))
        chart = Chart("The point and what is restored of it", "x", "y", curves, equal=True, span=window(task))
        return Answer(f"log p = {density}", [chart], f"nats, by the model{why}{guess(x)}")

    panels = [Panel("Numbers", [Text("text", f"{dimension} numbers, with commas between", example(task), 2_000)], row)]
    if dimension == 2:
        span = window(task)
        (left, right), (bottom, top) = span
        middle = (left + right) / 2, (bottom + top) / 2
        plane = Plane("at", "A point of the plane", span, learnt(task, span), middle)
        panels.insert(
            0, Panel("Plane", [plane], point, "The darker, the denser: the density that the model has learnt.")
        )
    return Demo(
        "How likely is this point?",
        "Choose a point: the model says its density, and restores it from its latent.",
        panels,
        "log p is the natural logarithm of the density: one nat more is 2.7 times as dense. Restored is what the model "
        "makes of the point's latent alone. Where there were no data it extrapolates: its density there is a guess.",
    )


def example(task: Predictor) -> str:
    """A row of numbers to begin with: the mean of the data."""
    return ", ".join(f"{x:.2f}" for x in task.model.shift.tolist())


def window(task: Predictor) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of the plane that is shown: left and right, bottom and top."""
    pairs = zip(task.model.shift.tolist(), task.model.scale.tolist(), strict=True)
    x, y = ((mean - REACH * sd, mean + REACH * sd) for mean, sd in pairs)
    return x, y


def learnt(task: Predictor, span: tuple[tuple[float, float], tuple[float, float]]) -> str:
    """The density that the model has learnt over the plane, as a picture."""
    (left, right), (bottom, top) = span
    x, y = torch.meshgrid(torch.linspace(left, right, SIDE), torch.linspace(top, bottom, SIDE), indexing="xy")
    points = torch.stack([x, y], -1).view(-1, 2).to(task.model.shift.device)
    density = likelihood.rough(task.model, points).exp().view(SIDE, SIDE).numpy()
    part = np.sqrt(density / max(density.max(), 1e-300))  # so that the thin parts are seen, too
    channels = [np.interp(part, np.linspace(0, 1, len(DEEP)), channel) for channel in zip(*DEEP, strict=True)]
    image = Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
    return picture(image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC))
