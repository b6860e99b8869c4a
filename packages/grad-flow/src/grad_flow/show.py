"""Pictures for people: how gradients, activations and correlations change from layer to layer."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from grad_flow.flow import Flow
from grad_flow.kernels import Gradients

RIDGES, BINS = 12, 60  # layers whose activations are shown, and the bins of each
BLUE, ORANGE, GREY = "#0b5fa5", "#d9580d", "#777777"  # told apart by colour-blind readers, too, and in print
MARKS: dict[str, Any] = {"ms": 3.5, "lw": 1.2}
TITLE: dict[str, Any] = {"fontsize": 10, "y": 1.0}  # without y Matplotlib lays out all ticks to find a place for it


def board(flow: Flow, predicted: Gradients, correlations: Tensor, two: list[tuple[str, int, int]]) -> Image.Image:
    """Gradients by layer, ridges of activations, correlations of two inputs by depth.

    `predicted` and `correlations` [L + 1, B, B] are the theory's, for the beginning; `two` names pairs of the batch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.2))  # no layout engine: it would take half the time
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(0.055, 0.12, 0.985, 0.93, wspace=0.22)
    norms(axes[0], flow.gradients, predicted)
    ridges(axes[1], flow.activations)
    depth = np.arange(1, len(correlations) + 1)
    for (name, a, b), colour, mark in zip(two, (BLUE, ORANGE), "os", strict=False):
        axes[2].plot(depth, flow.correlations[:, a, b], mark, color=colour, label=name, **MARKS)
        axes[2].plot(depth, correlations[:, a, b], "--", color=colour, label="predicted at the start", lw=1.2)
    axes[2].set(xlabel="layer", ylabel="correlation of pre-activations over units", ylim=(-1.05, 1.05))
    axes[2].set(xticks=spread(len(depth)), yticks=(-1, -0.5, 0, 0.5, 1))
    axes[2].set_title("Two inputs by depth", **TITLE)
    axes[2].legend(fontsize=8, loc="lower left")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def norms(axes: Any, found: Gradients, predicted: Gradients) -> None:
    """The norm of the gradient by weights and by pre-activations, and what the theory says of both at the start."""
    parts = [("weights", found.weights, predicted.weights, BLUE, "o")]
    parts += [("pre-activations", found.signals, predicted.signals, ORANGE, "s")]
    both = np.concatenate([values for _, *both, _, _ in parts for values in both])
    smallest = float(both[both > 0].min(initial=1))
    for name, measured, theory, colour, mark in parts:
        layers = np.arange(1, len(measured) + 1)
        axes.plot(layers, logs(measured, smallest), f"{mark}-", color=colour, label=f"by {name}", **MARKS)
        axes.plot(layers, logs(theory, smallest), "--", color=GREY, lw=1.4, zorder=3)
    axes.plot([], [], "--", color=GREY, label="predicted at the start")
    # Matplotlib's own logarithmic axis takes as long to draw as all the rest.
    low, high = (int(end) for end in (np.floor(logs(both, smallest).min()), np.ceil(logs(both, smallest).max())))
    powers = range(low, high + 1, max(1, (high - low + 3) // 5))
    axes.set_yticks(powers, [f"1e{power}" for power in powers])
    axes.set(
        xticks=spread(len(parts[0][1])), xlabel="layer", ylabel="norm of the gradient of the mean loss (log scale)"
    )
    axes.set_title("Gradient by layer", **TITLE)
    axes.legend(fontsize=8, loc="best" if low == high else "lower right")


def logs(values: np.ndarray, smallest: float) -> np.ndarray:
    return np.log10(np.maximum(values, smallest))


def spread(count: int, most: int = 6) -> list[int]:
    """At most so many of the layers 1 to count, among them the first and the last."""
    return sorted({round(layer) for layer in np.linspace(1, count, min(count, most))})


def ridges(axes: Any, activations: list[Tensor]) -> None:
    """The distribution of the activations of layers spread over the depth, each as high as it can be."""
    chosen = np.unique(np.linspace(0, len(activations) - 1, RIDGES).round().astype(int))
    values = [activations[layer].numpy().ravel() for layer in chosen]
    low, high = min(np.quantile(v, 0.001) for v in values), max(np.quantile(v, 0.999) for v in values)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, BINS + 1)
    for row, found in enumerate(values):
        counts, _ = np.histogram(found, edges)
        height = 0.95 * counts / max(counts.max(), 1)
        middle = (edges[1:] + edges[:-1]) / 2
        colour = (0.04 + 0.5 * row / len(values), 0.37, 0.65 - 0.4 * row / len(values))
        axes.fill_between(middle, row, row + height, color=colour, alpha=0.8, lw=0, zorder=len(values) - row)
    rows = [row - 1 for row in spread(len(chosen))]
    axes.set_yticks(rows, [str(chosen[row] + 1) for row in rows])
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="activation", ylabel="layer", xlim=(low, high), ylim=(0, len(chosen) + 0.1))
    axes.set_title("Activations by layer (share of units and images)", **TITLE)
