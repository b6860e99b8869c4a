"""Pictures of what `fit.watch` measured, from the arrays of watch.npz."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from etude.pictures import blank, drawn

Arrays = Mapping[str, np.ndarray]
MEAN = 100  # steps of a running mean
SHOWN = (0, 1, 10, 100)  # steps whose gradient is drawn against the layers
POINTS = 1000  # of a line, or columns of a map: of more, every n-th is drawn
FEW = 12  # names of layers that there is room for


def pictures(found: Arrays, predicted: Mapping[str, float] | None) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures; `predicted` is what `predicted_gradients` of a task returns, see `by_layer`."""
    if len(found["step"]):
        yield "gradient norm", by_step(found, {"gradient": "L2 norm of the gradient"})
        yield "gradient map", as_map(found)
        yield "gradient by layer", by_layer(found, predicted or {})
        shares = {what: f"share of {what} units" for what in ("dead", "saturated") if np.isfinite(found[what]).any()}
        yield "updates and units", by_step(found, {"update": "update / weights (L2 norms)", **shares})


def running_mean(step: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each of the steps [S] the mean of the finite numbers in y [S] of the last `MEAN` steps."""
    first = np.searchsorted(step, step - MEAN, side="right")
    pairs = np.stack([first, np.arange(1, len(step) + 1)], 1).ravel()
    good = np.isfinite(y)
    sums, counts = (np.add.reduceat(np.append(x, 0.0), pairs)[::2] for x in (np.where(good, y, 0.0), 1.0 * good))
    return np.divide(sums, counts, out=np.full(len(step), np.nan), where=counts > 0)


def colours(count: int) -> Any:
    """Of each layer, dark to light, so that depth shows in grey too."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.9, count))  # yellow does not show on white


def by_step(found: Arrays, shown: Mapping[str, str]) -> Image.Image:
    """Arrays of `found` against the step, a panel each; a line a layer, from dark to light with depth."""
    canvas, panels = blank(8, 0.9 + 3.1 * len(shown), len(shown))
    step = found["step"]
    some = slice(None, None, max(1, len(step) // POINTS))
    for axes, (what, label) in zip(panels, shown.items(), strict=True):
        names = found["activations" if label.startswith("share") else "layers"]
        for name, y, colour in zip(names, found[what].T, colours(len(names)), strict=True):
            axes.plot(step[some], np.where(np.isfinite(y), y, np.nan)[some], color=colour, linewidth=0.4, alpha=0.45)
            axes.plot(step[some], running_mean(step, y)[some], color=colour, linewidth=1.6, label=name)
        if label.startswith("share"):
            axes.set_ylim(-0.03, 1.03)
        elif (found[what] > 0).any():
            axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        legend(canvas, axes, names.tolist())
    panels[0].set_title(f"Single steps (thin), running mean of {MEAN} steps (thick)", fontsize=10)
    panels[-1].set_xlabel("optimiser step, from 0")
    return drawn(canvas)


def legend(canvas: Any, axes: Any, names: Sequence[str]) -> None:
    """Names the lines; where they are many, a bar tells their depth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    if len(names) <= FEW:
        axes.legend(
            fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), title="first layer on top", title_fontsize=7
        )
        return
    scale = ScalarMappable(Normalize(0.5, len(names) + 0.5), ListedColormap(colours(len(names))))
    bar = canvas.figure.colorbar(scale, ax=axes)
    bar.set_label(f"layer\n1: {names[0]}\n{len(names)}: {names[-1]}", fontsize=8)


def as_map(found: Arrays) -> Image.Image:
    """log10 of the gradient norm, layer x step; what is 0 or not finite is hatched."""
    layers, step = found["layers"], found["step"]
    canvas, (axes,) = blank(8, 2.2 + 0.12 * min(len(layers), 32))
    some = slice(None, None, max(1, len(step) // POINTS))
    norms = found["gradient"][some].T
    with np.errstate(divide="ignore"):
        shown = np.ma.masked_invalid(np.log10(np.where(np.isfinite(norms), norms, 0)))
    edges = np.append(step[some], step[-1] + 1)
    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor="0.6")
    mesh = axes.pcolormesh(edges, np.arange(len(layers) + 1) + 0.5, shown, cmap="viridis", rasterized=True)
    canvas.figure.colorbar(mesh, ax=axes, label="log10 of the gradient's L2 norm")
    depth(axes.yaxis, layers.tolist())
    axes.set(xlabel="optimiser step, from 0", ylabel="layer")
    if shown.mask.any():
        axes.set_title("hatched: the gradient is 0 or not finite", fontsize=10)
    return drawn(canvas)


def depth(axis: Any, layers: Sequence[str]) -> None:
    """An axis of layers, by name where there is room, else by number from 1."""
    from matplotlib.ticker import MaxNLocator

    if len(layers) <= FEW:
        axis.set_ticks(range(1, len(layers) + 1), layers, fontsize=7)
    else:
        axis.set_major_locator(MaxNLocator(integer=True))


def by_layer(found: Arrays, predicted: Mapping[str, float]) -> Image.Image:
    """The gradient norm against the layers at some steps; dashed what theory `predicted` for step 0.

    `predicted`: norms at initialisation by the layer. Only their ratios count: the line goes through what was
    measured of the last of these layers. Raises ValueError for the name of no layer.
    """
    layers, steps = list(found["layers"]), list(found["step"])
    canvas, (axes,) = blank(8, 4.5)
    number = np.arange(len(layers)) + 1
    times = [n for n in SHOWN if n in steps]
    for n, marker, line, colour in zip(
        times, "os^D", ("-", "-.", ":", "-"), ("0.0", "0.3", "0.5", "0.65"), strict=False
    ):
        y = found["gradient"][steps.index(n)]
        y = np.where(np.isfinite(y) & (y > 0), y, np.nan)
        axes.plot(number, y, line, marker=marker, markersize=4, color=colour, label=f"measured at step {n}")
    if predicted:
        if unknown := set(predicted) - set(layers):
            raise ValueError(
                f"predicted_gradients names {min(unknown)}, which is no layer: there are {', '.join(layers)}"
            )
        at = sorted(layers.index(name) for name in predicted)
        ratio = np.array([predicted[layers[n]] for n in at])
        measured = found["gradient"][steps.index(0)][at[-1]]
        axes.plot(
            number[at], ratio / ratio[-1] * measured, "--", color="tab:red", linewidth=2, label="predicted for step 0"
        )
    axes.set(yscale="log", xlabel="layer, from the input to the output", ylabel="L2 norm of the gradient")
    depth(axes.xaxis, layers)
    if len(layers) <= FEW:
        axes.tick_params("x", rotation=30)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return drawn(canvas)
