"""Gradients at initialisation: what the theory of grad-flow predicts, and what networks have.

`python benchmarks/slopes.py` draws networks anew for every setting and seed, measures the norm of the gradient by layer
before the first step, fits the line through its logarithm, and writes packages/grad-flow/results/slopes.csv, a line a
network, and profiles.csv, a line a layer. Then it prints the table of the README and draws docs/first.png and
docs/grad-flow.png, which `--table` does from these files alone. No training.

The images are 128 of the training part, the same for all networks, so a seed is another network only. `signal` is the
gradient by pre-activations (all units and images one vector), over all hidden layers: what theory calls the factor.
`weight` is the gradient by weights, as an optimiser sees it, over the matrices between hidden layers. `fixed_point` is
the factor of an infinitely deep network; `_predicted` is that of this depth and these images.

`--narrow` asks where residual connections make a network too narrow for the theory, writes narrow.csv beside them, a
line a network, and prints how far the factor is off, and how much larger the first layer's gradient is than predicted.
"""

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rows import Row, rows, write

from grad_flow import flow, kernels, task
from grad_flow.config import Config, Model
from grad_flow.data import load
from grad_flow.model import DeepDenseNet

ROOT = Path(__file__).parents[1]
RESULTS, PICTURE = ROOT / "packages/grad-flow/results", ROOT / "docs/grad-flow.png"
FIRST = ROOT / "docs/first.png"
DEPTH = 12  # hidden layers
SIZES = ((4, 64), (4, 256), (12, 64), (12, 256), (12, 1024), (24, 256))  # depth and width of those that may be narrow
NETWORKS = 32  # of each of these
LIMITS = (0.05, 0.02)  # how far from the theory a factor may be, in narrower networks and from 2,048 units on
Measured = list[kernels.Gradients]
SIGMA_B = 0.05**0.5  # of Schoenholz et al. 2017
# name -> knobs of the model
SHOWN = (
    "sigmoid, torch's default",
    "GELU, torch's default",
    "ReLU, torch's default",
    "tanh, torch's default",
    "ReLU, He",
    "tanh, sigma_w 2",
    "ReLU, batch norm",
)
SETTINGS: dict[str, dict[str, object]] = {
    "sigmoid, torch's default": {"activation": "sigmoid"},
    "tanh, torch's default": {"activation": "tanh"},
    "ReLU, torch's default": {"activation": "relu"},
    "GELU, torch's default": {"activation": "gelu"},
    "SELU, torch's default": {"activation": "selu"},
    "ReLU, He": {"activation": "relu", "initialisation": "he"},
    "tanh, orthogonal": {"activation": "tanh", "initialisation": "orthogonal"},
    "tanh, sigma_w 1.3": {"activation": "tanh", "initialisation": "sigma", "sigma_w": 1.3, "sigma_b": SIGMA_B},
    "tanh, sigma_w 2": {"activation": "tanh", "initialisation": "sigma", "sigma_w": 2.0, "sigma_b": SIGMA_B},
    "sigmoid, sigma_w 10": {"activation": "sigmoid", "initialisation": "sigma", "sigma_w": 10.0},
    "ReLU, He, dropout 0.2": {"activation": "relu", "initialisation": "he", "dropout": 0.2},
    "ReLU, batch norm": {"activation": "relu", "norm": "batch"},
    "tanh, batch norm": {"activation": "tanh", "norm": "batch"},
    "sigmoid, batch norm": {"activation": "sigmoid", "norm": "batch"},
    "tanh, layer norm": {"activation": "tanh", "norm": "layer"},
    "ReLU, residual": {"activation": "relu", "residual": True},
    "sigmoid, residual": {"activation": "sigmoid", "residual": True},
}
NARROW: dict[str, dict[str, object]] = {
    "ReLU, He, residual": {"activation": "relu", "initialisation": "he", "residual": True},
    "ReLU, orthogonal, residual": {"activation": "relu", "initialisation": "orthogonal", "residual": True},
    "ReLU, torch's default, residual": {"activation": "relu", "residual": True},
    "GELU, He, residual": {"activation": "gelu", "initialisation": "he", "residual": True},
    "SELU, He, residual": {"activation": "selu", "initialisation": "he", "residual": True},
    "tanh, He, residual": {"activation": "tanh", "initialisation": "he", "residual": True},
    "sigmoid, He, residual": {"activation": "sigmoid", "initialisation": "he", "residual": True},
    "ReLU, He, residual, layer norm": {"activation": "relu", "initialisation": "he", "residual": True, "norm": "layer"},
    "ReLU, He, residual, batch norm": {"activation": "relu", "initialisation": "he", "residual": True, "norm": "batch"},
}


def networks_of(knobs: dict[str, object], depth: int, width: int, seeds: int, data: str) -> tuple[task.Dense, Measured]:
    """A task, which predicts, and the gradients of networks of its knobs, one a seed."""
    cfg = Config(data=data, model=Model(depth=depth, width=width, **knobs))  # type: ignore[arg-type]
    one = task.Dense(cfg, load(data, 0), torch.device("cpu"))
    images, labels = one.few.images.float(), one.few.labels
    norms = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = DeepDenseNet(images[0].numel(), cfg.model)
        model.mean.copy_(one.model.mean)
        model.std.copy_(one.model.std)
        norms.append(flow.measure(model, images, labels).gradients)
    return one, norms


def narrow(name: str, depth: int, width: int, seeds: int, data: str) -> list[Row]:
    """Networks with residual connections: their factor and the predicted one; the first layer's gradient over it."""
    one, norms = networks_of(NARROW[name], depth, width, seeds, data)
    about = {"setting": name, "depth": str(depth), "width": str(width), "data": data}
    about |= {"narrowness": f"{one.network.laws[1][0] ** 2 * depth / width:.3g}"}
    theirs = kernels.factor(one.predicted.signals)
    found = []
    for seed, got in enumerate(norms):
        numbers = {"signal_factor": kernels.factor(got.signals), "signal_factor_predicted": theirs}
        numbers |= {"first": got.weights[0] / one.predicted.weights[0]}
        found.append(about | {"seed": str(seed)} | {key: f"{x:.5g}" for key, x in numbers.items()})
    return found


def narrow_table(found: list[Row]) -> list[str]:
    """Markdown: a line a setting, depth and width; geometric means over the seeds, the factor's with an interval."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in found:
        groups[row["setting"], row["depth"], row["width"], row["narrowness"]].append(row)
    lines = [
        "| network | depth | width | σ² depth / width | predicted | measured | 95 % interval | ratio | first layer |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for key, group in groups.items():
        logs = np.log([float(row["signal_factor"]) for row in group])
        middle, half, theirs = logs.mean(), interval(logs), float(group[0]["signal_factor_predicted"])
        first = math.exp(np.mean([math.log(float(row["first"])) for row in group]))
        lines.append(
            f"| {' | '.join(key)} | {theirs:.4f} | {math.exp(middle):.4f} | {math.exp(middle - half):.4f} to "
            f"{math.exp(middle + half):.4f} | {math.exp(middle) / theirs:.3f} | {first:.2f} times |"
        )
    return lines


def measured(name: str, width: int, seeds: int, data: str) -> tuple[list[Row], list[Row]]:
    """Networks of a setting, one a seed: their factors, beside those that are predicted; and their norms by layer."""
    one, norms = networks_of(SETTINGS[name], DEPTH, width, seeds, data)
    networks = []
    about = {"setting": name, "width": str(width), "depth": str(DEPTH), "data": data}
    for seed, got in enumerate(norms):
        found = {key: "" if value is None else f"{value:.6g}" for key, value in task.factors(one, got).items()}
        networks.append(about | {"seed": str(seed)} | found)
    layers = []
    for of in ("signals", "weights"):
        logs = np.log([getattr(found, of) for found in norms])
        for layer, predicted in enumerate(getattr(one.predicted, of)):
            middle, half = logs[:, layer].mean(), interval(logs[:, layer])
            numbers = {"predicted": predicted, "measured": math.exp(middle)}
            numbers |= {"low": math.exp(middle - half), "high": math.exp(middle + half)}
            layers.append(about | {"of": of, "layer": str(layer + 1)} | {key: f"{x:.5g}" for key, x in numbers.items()})
    return networks, layers


def interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of Student's t for the mean of values [n]."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf


def table(found: list[Row]) -> list[str]:
    """Markdown: a line a setting, width and kind of gradient, in the order of the rows.

    Measured is the geometric mean over the seeds, with a 95 % interval of Student's t for its logarithm.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row["width"], row["setting"]].append(row)
    lines = [
        "| network | width | gradient by | infinite depth | predicted | measured | 95 % interval | ratio | inside? "
        "| verdict |",
        "|---|---:|---|---:|---:|---:|---|---:|---|---|",
    ]
    for (width, setting), group in groups.items():
        limit = LIMITS[int(width) >= 2048]
        for of, what in (("signal", "units"), ("weight", "weights")):
            logs, predicted = (
                np.log([float(row[f"{of}_factor"]) for row in group]),
                float(group[0][f"{of}_factor_predicted"]),
            )
            middle = logs.mean()
            half = interval(logs)
            ratio = math.exp(middle) / predicted
            deep = group[0]["fixed_point"] if of == "signal" else ""
            lines.append(
                f"| {setting} | {width} | {what} | {f'{float(deep):.4f}' if deep else '–'} | {predicted:.4f} | "
                f"{math.exp(middle):.4f} | {math.exp(middle - half):.4f} to {math.exp(middle + half):.4f} | "
                f"{ratio:.4f} | {'yes' if abs(middle - math.log(predicted)) <= half else 'no'} | "
                f"{'within' if abs(ratio - 1) <= limit else 'beyond'} {limit:.0%} |"
            )
    return lines


def profile(found: list[Row], name: str, of: str) -> list[np.ndarray]:
    """Of a setting, at width 512, by layer: its number, the gradient predicted, measured, and its interval's ends.

    All are divided by what is predicted of the last layer, so that all lines end at 1.
    """
    chosen = [r for r in found if (r["setting"], r["of"], r["width"]) == (name, of, "512")]
    last = float(chosen[-1]["predicted"])
    values = [np.array([float(r[k]) for r in chosen]) / last for k in ("predicted", "measured", "low", "high")]
    return [np.array([int(r["layer"]) for r in chosen]), *values]


def picture(found: list[Row], file: Path) -> None:
    """The theory's lines, and what networks of width 512 have: the gradient by pre-activations, and by weights."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, of, what in zip(
        figure.subplots(1, 2), ("signals", "weights"), ("pre-activations", "weights"), strict=True
    ):
        for number, name in enumerate(SHOWN):
            layer, predicted, middle, low, high = profile(found, name, of)
            axes.plot(layer, predicted, "-", color=f"C{number}", lw=1.3, zorder=1)
            axes.errorbar(
                layer,
                middle,
                [middle - low, high - middle],
                fmt="osD^v<>"[number],
                color=f"C{number}",
                ms=4.5,
                capsize=2,
                lw=1,
                label=name,
            )
        axes.set(yscale="log", xlabel="layer", xticks=range(1, DEPTH + 2, 2))
        axes.set(ylabel=f"gradient by {what}, last layer = 1 (log scale)")
    axes.legend(fontsize=8)
    figure.suptitle(
        "Before the first step: lines are theory, points are networks (width 512, 64 seeds, 95 % interval)", fontsize=11
    )
    figure.savefig(file, dpi=110, metadata={"Software": None})


def first(found: list[Row], file: Path) -> None:
    """The gradient by pre-activations as the first screen of the root README shows it, to be read on a phone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, name in enumerate(name for name in SHOWN if "sigma_w" not in name):
        layer, predicted, middle, *_ = profile(found, name, "signals")
        axes.plot(layer, predicted, "-", color=f"C{number}", lw=2, zorder=1)
        axes.plot(layer, middle, "osD^v<>"[number], color=f"C{number}", ms=9)
        told = name.removesuffix(", torch's default")
        where = (1.0, float(predicted[0]))
        axes.annotate(
            told, where, (-12, 0), textcoords="offset points", ha="right", va="center", color=f"C{number}", fontsize=16
        )
    axes.set(yscale="log", xlim=(-4.6, DEPTH + 0.5), xticks=range(1, DEPTH + 1, 2))
    axes.set_xlabel("layer", fontsize=16)
    axes.set_title("Gradient left in each layer, last = 1.\nLines: theory. Points: networks.", fontsize=17, loc="left")
    axes.tick_params(labelsize=14)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=100, metadata={"Software": None})


def narrowed(file: Path, data: str) -> list[Row]:
    """All of NARROW at one depth and two widths, its first at all of SIZES; what is found is written as it comes."""
    found: list[Row] = []
    for number, name in enumerate(NARROW):
        for depth, width in SIZES if number == 0 else SIZES[2:4]:
            found += narrow(name, depth, width, NETWORKS, data)
            write(file, found)
            print(f"{name} {depth} {width}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="only table and picture, of the files that are there")
    parser.add_argument("--narrow", action="store_true", help="only narrow networks with residual connections")
    parser.add_argument("--data", default="sample", choices=["sample", "mnist", "fashion-mnist"])
    parser.add_argument("--seeds", type=int, nargs=2, default=[64, 16], help="networks of width 512, and of 2048")
    args = parser.parse_args()
    files = [RESULTS / "slopes.csv", RESULTS / "profiles.csv"]
    if args.narrow:
        print("\n".join(narrow_table(narrowed(RESULTS / "narrow.csv", args.data))))
        return
    if not args.table:
        RESULTS.mkdir(exist_ok=True)
        found: tuple[list[Row], list[Row]] = ([], [])
        for width, seeds in zip((512, 2048), args.seeds, strict=True):
            for name in SETTINGS:
                for file, before, new in zip(files, found, measured(name, width, seeds, args.data), strict=True):
                    before += new
                    write(file, before)
                print(f"{width} {name}", file=sys.stderr, flush=True)
    print("\n".join(table(rows(files[0]))))
    picture(rows(files[1]), PICTURE)
    first(rows(files[1]), FIRST)


if __name__ == "__main__":
    main()
