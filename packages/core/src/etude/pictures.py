"""Pictures for people that more than one task draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor


def blank(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """A canvas of matplotlib's, in inches, and axes on it, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return FigureCanvasAgg(figure), list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def drawn(canvas: Any) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def confusion(counts: Tensor, classes: Sequence[str], what: str) -> Image.Image:
    """Counts of `what`, int64 [K, K]: rows are the truth, columns the answers. The colour is the part of the row."""
    k = len(classes)
    size = 0.34 if counts.max() < 1000 else 0.44  # inches a cell, wide enough for its number
    canvas, (axes,) = blank(size * k + 2.2, size * k + 1.6)
    parts = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    shown = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for row, column in (counts > 0).nonzero().tolist():
        colour = "white" if parts[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=6)
    rotation = 90 if max(map(len, classes)) > 2 else 0
    axes.set_xticks(range(k), classes, rotation=rotation)
    axes.set_yticks(range(k), classes)
    axes.set(xlabel="read as", ylabel="is", title=f"Confusion matrix, validation part (numbers: {what})")
    canvas.figure.colorbar(shown, ax=axes, label="part of the row", shrink=0.8)
    return drawn(canvas)
