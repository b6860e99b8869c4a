"""Pictures for people: samples, reconstructions, latents and, in two dimensions, densities."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from etude import draw
from gauss_vae import likelihood
from gauss_vae.data import Mixture
from gauss_vae.model import VAE

POINTS = 1_500  # examples, and samples, in a picture
ELLIPSES = 40
GRID = 64  # points along each side of a density
SAMPLES = -7  # the stream that a picture's samples are drawn from
BLUE, ORANGE = "#0b5fa5", "#d9580d"  # told apart by colour-blind readers too
TITLE: dict[str, Any] = {"fontsize": 10, "y": 1.0}  # without y Matplotlib lays out all ticks to find a place for it


@torch.inference_mode()
def board(model: VAE, mixture: Mixture, points: np.ndarray, clusters: np.ndarray, seed: int) -> Image.Image:
    """Samples against data, reconstructions with ellipses, latents; for 2 dimensions the true density and the model's.

    `points`, float32 [N, d], are examples, `clusters` [N] where each comes from. More than two dimensions are shown in
    the plane of the points' largest variance.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba_array
    from matplotlib.figure import Figure

    device = model.shift.device
    x = torch.from_numpy(points)
    samples = drawn(model, len(points), seed)
    plane, said = Plane(points), "" if points.shape[1] <= 2 else ", in the data's plane of largest variance"
    wide = mixture.dimension == 2
    figure = Figure(figsize=(13.5, 8.4) if wide else (13.5, 4.5))  # no layout engine: it would take half the time
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2 if wide else 1, 3, squeeze=False)
    figure.subplots_adjust(0.04, 0.06 if wide else 0.12, 0.955, 0.955 if wide else 0.92, wspace=0.24, hspace=0.22)
    colours = to_rgba_array([f"C{k}" for k in range(10)])[clusters % 10]

    flat, made = plane(points), plane(samples)
    a = axes[0, 0]
    shift = 0.0 if points.shape[1] > 1 else 0.15  # one dimension: two lines of points
    a.plot(flat[:, 0], flat[:, 1] + shift, ".", ms=2.5, color=BLUE, alpha=0.5, label="data")
    a.plot(made[:, 0], made[:, 1] - shift, ".", ms=2.5, color=ORANGE, alpha=0.5, label="samples of the model")
    a.set_title("Samples" + said, **TITLE)
    a.legend(loc="best", fontsize=8, markerscale=4)
    low, high = flat.min(0), flat.max(0)
    half = 0.55 * float((high - low).max()) + 1e-6  # a square, so that ellipses have their shape
    window = [(float(middle - half), float(middle + half)) for middle in (low + high) / 2]

    reconstructions(axes[0, 1], model, x[:ELLIPSES].to(device), flat[:ELLIPSES], plane, colours[:ELLIPSES])
    for a in axes[0, :2]:
        a.set(xlim=window[0], ylim=window[1])
    latents(axes[0, 2], model.encode(x.to(device)).mean.cpu().numpy(), clusters, colours)
    if wide:
        densities(figure, axes[1], model, mixture, window)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


class Plane:
    """Projects points [N, d] to the two directions in which `points` vary most; two dimensions stay as they are."""

    def __init__(self, points: np.ndarray) -> None:
        d = points.shape[1]
        self.centre = np.zeros(d)
        self.basis = np.eye(d, 2)
        if d > 2:
            self.centre = points.mean(0, dtype=np.float64)
            self.basis = np.linalg.svd(points - self.centre, full_matrices=False)[2][:2].T

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre) @ self.basis


def drawn(model: VAE, n: int, seed: int) -> np.ndarray:
    """Samples of the model, [n, d]."""
    generator = torch.Generator().manual_seed(draw.key(seed, SAMPLES) >> 1)
    z = torch.randn(n, model.latent, generator=generator)
    noise = torch.randn(n, model.dimension, generator=generator)
    said = model.decode(z.to(model.shift.device))
    factor: Tensor = said.factor().cpu()
    return (said.mean.cpu() + (factor @ noise[..., None])[..., 0]).numpy()


def reconstructions(axes: Any, model: VAE, x: Tensor, flat: np.ndarray, plane: Plane, colours: np.ndarray) -> None:
    """Each example, the decoder's mean at its latent, and the ellipse of two standard deviations around that."""
    from matplotlib.collections import EllipseCollection, LineCollection

    said = model.decode(model.encode(x).mean)
    means = plane(said.mean.cpu().numpy())
    factors = plane.basis.T @ said.factor().cpu().numpy()
    values, vectors = np.linalg.eigh(factors @ factors.mT)
    widths, heights = 4 * np.sqrt(values.clip(min=0)).T
    angles = np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
    looks: list[dict[str, Any]] = [{"fc": colours, "lw": 0, "alpha": 0.06}, {"fc": "none", "ec": colours, "lw": 0.6}]
    for look in looks:
        look |= {"units": "xy", "offsets": means, "offset_transform": axes.transData}
        axes.add_collection(EllipseCollection(widths, heights, angles, **look))
    axes.add_collection(LineCollection(list(np.stack([flat, means], 1)), colors=colours, lw=0.8))
    axes.scatter(*means.T, s=25, c=colours, marker="+", lw=1)
    axes.scatter(*flat.T, s=6, c=colours)
    axes.set_title("Examples (dots), reconstructions (+), ellipses of 2 sd", **TITLE)


def latents(axes: Any, means: np.ndarray, clusters: np.ndarray, colours: np.ndarray) -> None:
    """Posterior means [N, L] by cluster, in the two latent numbers that vary most."""
    if means.shape[1] == 1:
        axes.scatter(means[:, 0], clusters, s=4, c=colours, alpha=0.5, lw=0)
        axes.set(xlabel="latent number 1", ylabel="cluster", yticks=range(clusters.max() + 1))
    else:
        first, second = np.argsort(-means.var(0), kind="stable")[:2]
        axes.scatter(means[:, first], means[:, second], s=4, c=colours, alpha=0.6, lw=0)
        axes.set(xlabel=f"latent number {first + 1}", ylabel=f"latent number {second + 1}")
    axes.set_title("Latent space: mean of q(z | x), by cluster", **TITLE)


def densities(figure: Any, axes: Any, model: VAE, mixture: Mixture, window: list[tuple[float, float]]) -> None:
    """The true density, the model's, and their difference, on one grid and one scale."""
    from matplotlib.colors import PowerNorm

    lines = [np.linspace(*ends, GRID) for ends in window]
    grid = np.stack(np.meshgrid(*lines), -1).reshape(-1, 2).astype(np.float32)
    truth = np.exp(mixture.log_density(grid)).reshape(GRID, GRID)
    x = torch.from_numpy(grid).to(model.shift.device)
    ours = likelihood.rough(model, x).exp().numpy().reshape(GRID, GRID)
    whole: dict[str, Any] = {"origin": "lower", "extent": (*window[0], *window[1]), "aspect": "auto"}
    for a in axes:
        a.set(xticks=[], yticks=[])  # slow to draw, and those of samples and reconstructions: the window is the same
    top = float(truth.max())
    for a, shown, title in ((axes[0], truth, "True density"), (axes[1], ours, "Density of the model")):
        image = a.imshow(shown, norm=PowerNorm(0.5, 0, top), cmap="viridis", **whole)
        a.set_title(title, **TITLE)
    figure.colorbar(image, ax=axes[1], fraction=0.046, pad=0.03)
    image = axes[2].imshow(ours - truth, vmin=-top / 2, vmax=top / 2, cmap="RdBu_r", **whole)
    axes[2].set_title("Model less truth", **TITLE)
    figure.colorbar(image, ax=axes[2], fraction=0.046, pad=0.03)
