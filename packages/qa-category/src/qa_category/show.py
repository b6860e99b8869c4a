"""A picture for people: how long questions are, and where they are cut off."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from etude import pictures

PERCENTILES = (50, 90, 95, 99)


def lengths(counts: Sequence[int], longest: int) -> Image.Image:
    """How many training questions have how many words; `longest`: what follows that many words is not read."""
    canvas, (axes,) = pictures.blank(6.0, 3.4)
    values = np.asarray(counts)
    axes.hist(values, bins=np.arange(0.5, values.max() + 1.5, max(1, values.max() // 50)), color="#0b5fa5")
    for percent in PERCENTILES:
        at = float(np.percentile(values, percent))
        axes.axvline(at, color="#d9580d", ls="--", lw=1)
        axes.text(
            at, 0.98, f" {percent} %: {at:.0f}", transform=axes.get_xaxis_transform(), rotation=90, va="top", fontsize=7
        )
    axes.set(xlabel=f"words that are read (at most {longest})", ylabel="questions", title="Length, training part")
    return pictures.drawn(canvas)
