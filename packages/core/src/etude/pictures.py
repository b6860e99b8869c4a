"""Canvases of matplotlib's, and the pictures that are drawn on them; and many small pictures as one."""

import io
import math
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

LARGEST = 8192  # pixels a side of a sprite: of a larger one TensorBoard's projector shows an error instead


def blank(width: float, height: float, panels: int = 1) -> tuple[Any, list[Any]]:
    """A canvas of matplotlib's, in inches, and axes on it, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return FigureCanvasAgg(figure), list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def literal(name: str) -> str:
    """What somebody else has called something, such as "$5_$", as it is written: matplotlib would read a formula."""
    return name.replace("$", r"\$")


def drawn(canvas: Any) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def png(picture: Image.Image) -> bytes:
    """A picture in colours as the content of a PNG file."""
    out = io.BytesIO()
    picture.convert("RGB").save(out, "PNG")
    return out.getvalue()


def sprite(thumbnails: Tensor) -> Image.Image:
    """Thumbnails, uint8 [N, 3, H, W], row by row in a grid with as many rows as columns, black where there are none.

    TensorBoard's projector finds the thumbnail of a point so. Raises ValueError if the grid exceeds LARGEST.
    """
    n, _, height, width = thumbnails.shape
    side = math.ceil(math.sqrt(n))
    if side * max(height, width) > LARGEST:
        raise ValueError(f"{n:,} thumbnails of {width} x {height} pixels make more than {LARGEST:,} pixels a side")
    cells = thumbnails.new_zeros(side * side, height, width, 3)
    cells[:n] = thumbnails.permute(0, 2, 3, 1)
    rows = cells.view(side, side, height, width, 3).transpose(1, 2)
    return Image.fromarray(rows.reshape(side * height, side * width, 3).cpu().numpy())
