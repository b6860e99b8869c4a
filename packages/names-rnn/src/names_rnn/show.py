"""Pictures for people: how sure the model is and how often it is right, and how well each language is told."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from etude.pictures import literal

BINS = 10
BLUE, ORANGE = "#0b5fa5", "#d9580d"  # told apart by colour-blind readers, and in grey by their marks


def calibration(probabilities: Tensor, labels: Tensor) -> Image.Image:
    """[N, K], int64 [N]: of the names that are answered with about a probability, how many are answered right.

    A name counts in the bin of the probability of its answer. The error bar is a binomial standard error; below stands
    how many names fall into each bin, and the expected calibration error (Guo et al. 2017) is in the title.
    """
    sure, answers = (x.numpy() for x in probabilities.max(1))
    right = answers == labels.numpy()
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    seen = np.flatnonzero(counts)
    said, found = (np.bincount(bins, x, BINS)[seen] / counts[seen] for x in (sure, right))
    near = (found * counts[seen] + 1) / (counts[seen] + 2)  # so that a bin of one name is not certain (Laplace)
    error = np.sqrt(near * (1 - near) / counts[seen])
    canvas, (above, below) = sheet(5.2, 5.6, 2, [3, 1])
    above.plot([0, 1], [0, 1], "--", color="0.4", lw=1, label="as sure as it is right")
    above.errorbar(said, found, error, fmt="o-", color=BLUE, capsize=3, label="this model, ± standard error")
    title = f"Calibration, validation part (error {float(counts[seen] @ np.abs(said - found)) / len(sure):.3f})"
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="part of the names answered right", title=title)
    above.legend(loc="upper left", fontsize=8)
    below.bar((np.arange(BINS) + 0.5) / BINS, counts, 0.9 / BINS, color=BLUE)
    below.set(xlim=(0, 1), xlabel="probability of the answer", ylabel="names")
    return drawn(canvas)


def languages(f1: Tensor, counts: Tensor, names: tuple[str, ...]) -> Image.Image:
    """F1 of each language [K] and its names in the validation part, int64 [K]; the most frequent language on top."""
    order = np.argsort(counts.numpy(), kind="stable")
    values = f1.numpy()[order]
    canvas, (axes,) = sheet(6.0, 0.27 * len(names) + 1.4, 1, [1])
    axes.barh(range(len(names)), values, color=BLUE)
    for row, value in enumerate(values):
        axes.text(value + 0.01, row, f"{value:.2f}", va="center", fontsize=7)
    labels = [f"{literal(names[k])} ({int(counts[k]):,})" for k in order]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    mean = float(f1.mean())
    axes.axvline(mean, color=ORANGE, ls="--", lw=1.2, label=f"mean: macro-F1 {mean:.3f}")
    axes.set(xlim=(0, 1.09), xlabel="F1", ylabel="language (names)", title="F1 by language, validation part")
    axes.legend(loc="lower right", fontsize=8)
    return drawn(canvas)


def sheet(width: float, height: float, rows: int, heights: list[int]) -> tuple[Any, list[Any]]:
    """The canvas of a figure of so many inches, and its axes, one above the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=heights)[:, 0]
    return canvas, list(axes)


def drawn(canvas: Any) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
