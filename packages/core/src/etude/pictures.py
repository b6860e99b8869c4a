"""Canvases of matplotlib's, and the pictures that are drawn on them."""

from typing import Any

import numpy as np
from PIL import Image


def blank(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """A canvas of matplotlib's, in inches, and axes on it, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return FigureCanvasAgg(figure), list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def drawn(canvas: Any) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
