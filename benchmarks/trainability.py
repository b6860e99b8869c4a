"""Which networks train at all: accuracy after a fixed budget over (sigma_w, depth), and the theory's depth of 6 xi_c.

`python benchmarks/trainability.py` trains tanh networks (sigma_b^2 = 0.05) on 1,000 images of MNIST, in the manner of
figure 5 of Schoenholz et al. 2017, all of one depth as one program, and writes
packages/grad-flow/results/trainability.csv, a line a run. Then it prints the table of the README and draws
trainability.png beside the file, which `--table` does from that file alone.

A run trains if in the end it reads more than 55 %, half-way between chance and all, of the images that it learns from:
the question is whether a gradient can move it, not whether what it learns holds elsewhere. Where no network of a
sigma_w trains, deeper ones are not tried; then the depth in the middle between the last at which half of the runs train
and the next one is tried, and the depth at which half do is read off between two, on a logarithmic scale.
"""

import argparse
import math
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, rows, write
from torch import Tensor
from torch.nn import functional as F

from etude import draw
from grad_flow.config import SIDES, Model
from grad_flow.data import load
from grad_flow.model import DeepDenseNet
from grad_flow.theory import fixed_point

FILE = Path(__file__).parents[1] / "packages/grad-flow/results/trainability.csv"
SIGMAS = (0.5, 0.75, 1.0, 1.1, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0)
DEPTHS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)
SIGMA_B = 0.05**0.5
WIDTH, BATCH, IMAGES = 128, 100, 1000
TRAINS = 0.55


def train(depth: int, sigmas: list[float], seeds: int, steps: int, lr: float, data: str) -> list[Row]:
    """All networks of this depth, R = seeds x sigmas, as one: their weights are stacked, [R, out, in]."""
    part = load(data, 0).train[np.arange(IMAGES)]
    runs = [(sigma, seed) for sigma in sigmas for seed in range(1, seeds + 1)]
    models = []
    for sigma, seed in runs:
        torch.manual_seed(seed)
        knobs = Model(depth, WIDTH, "tanh", "sigma", sigma, SIGMA_B)
        models.append(DeepDenseNet(SIDES[data] ** 2, knobs))
    hidden: list[list[Any]] = [list(model.hidden) for model in models]
    layers = [[*(layer.linear for layer in of), model.classify] for of, model in zip(hidden, models, strict=True)]
    weights = [torch.stack([of[n].weight.detach() for of in layers]).requires_grad_() for n in range(depth + 1)]
    biases = [torch.stack([of[n].bias.detach() for of in layers])[:, None].requires_grad_() for n in range(depth + 1)]
    mean, std = part.images.float().mean(), part.images.float().std()

    def logits(x: Tensor) -> Tensor:
        """[B, s, s] -> [R, B, K]."""
        x = ((x.float() - mean) / std).flatten(1).expand(len(runs), -1, -1)
        for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.mT)
            x = x.tanh() if n < depth else x
        return x

    optimizer = torch.optim.SGD([*weights, *biases], lr, momentum=0.9)
    order = np.concatenate([draw.shuffled(IMAGES, 0, 1 + n) for n in range(steps * BATCH // IMAGES)])
    for step in range(steps):
        ids = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
        found, labels = logits(part.images[ids]), part.labels[ids]
        loss = F.cross_entropy(found.flatten(0, 1), labels.repeat(len(runs)), reduction="sum") / len(ids)
        optimizer.zero_grad()
        loss.backward()  # of the sum over runs, each of which has its own weights
        optimizer.step()
    with torch.no_grad():
        right = logits(part.images).argmax(2) == part.labels
    print(f"depth {depth}: sigma_w {', '.join(f'{sigma:g}' for sigma in sigmas)}", file=sys.stderr, flush=True)
    about = {"data": data, "width": str(WIDTH), "depth": str(depth), "lr": f"{lr:g}", "steps": str(steps)}
    return [
        about | {"sigma_w": f"{sigma:g}", "seed": str(seed), "accuracy": f"{accuracy:.4f}"}
        for (sigma, seed), accuracy in zip(runs, right.float().mean(1).tolist(), strict=True)
    ]


def merged(found: list[Row], new: list[Row]) -> list[Row]:
    """Both, without those of `found` that were trained anew. Raises ValueError if they had different budgets."""
    every = {tuple(row[key] for key in ("sigma_w", "depth", "seed")): row for row in [*found, *new]}
    if len({(row["data"], row["width"], row["lr"], row["steps"]) for row in every.values()}) != 1:
        raise ValueError("the file has runs of another budget: give another --out")
    return list(every.values())


def accuracies(found: list[Row]) -> dict[float, dict[int, list[float]]]:
    """sigma_w -> depth -> the accuracy of each seed."""
    groups: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        groups[float(row["sigma_w"])][int(row["depth"])].append(float(row["accuracy"]))
    return groups


def last_crossing(of: dict[int, list[float]]) -> tuple[int, int, float]:
    """The last depth at which half of the runs train, the next one, and how far from one to the other half do, 0 to 1.

    Raises ValueError if there is none.
    """
    depths = sorted(of)
    parts = [float(np.mean(np.array(of[depth]) > TRAINS)) for depth in depths]
    for n in reversed(range(len(depths) - 1)):
        if parts[n] >= 0.5 > parts[n + 1]:
            return depths[n], depths[n + 1], (parts[n] - 0.5) / (parts[n] - parts[n + 1])
    raise ValueError("half of the runs train at all depths, or at none")


def half(of: dict[int, list[float]]) -> float:
    """The depth at which half of the runs train; inf if it lies beyond all that were tried, NaN if below."""
    try:
        low, high, way = last_crossing(of)
    except ValueError:
        return math.inf if np.mean(np.array(of[max(of)]) > TRAINS) >= 0.5 else math.nan
    return math.exp((1 - way) * math.log(low) + way * math.log(high))


def middles(found: list[Row]) -> dict[int, list[float]]:
    """Depths half-way between the two next to the last crossing, and for which sigma_w."""
    chosen: dict[int, list[float]] = defaultdict(list)
    for sigma, of in accuracies(found).items():
        with suppress(ValueError):
            low, high, _ = last_crossing(of)
            chosen[round(math.sqrt(low * high))].append(sigma)
    return chosen


def table(found: list[Row]) -> list[str]:
    lines = [
        "| sigma_w | xi_c | 6 xi_c | half of the runs train at depth | ratio | within 1.5? |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    deepest = max(int(row["depth"]) for row in found)
    for sigma, of in sorted(accuracies(found).items()):
        xi = fixed_point("tanh", sigma, SIGMA_B).xi_c
        depth = half(of)
        if math.isfinite(depth):
            told = f"{depth:.1f} | {depth / (6 * xi):.2f} | {'yes' if 1 / 1.5 <= depth / (6 * xi) <= 1.5 else 'no'}"
        else:
            told = f"beyond {deepest} | – | –" if math.isinf(depth) else "at none | – | no"
        lines.append(f"| {sigma:g} | {xi:.2f} | {6 * xi:.1f} | {told} |")
    return lines


def picture(found: list[Row], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = accuracies(found)
    sigmas, depths = sorted(groups), sorted({int(row["depth"]) for row in found})
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bottom, top = depths[0] / 1.2, depths[-1] * 1.2
    for n, sigma in enumerate(sigmas):  # each column has depths of its own, and a cell reaches half-way to the next
        tried = sorted(groups[sigma])
        edges = [bottom, *(math.sqrt(a * b) for a, b in pairwise(tried)), min(top, tried[-1] * 1.2)]
        cells = [[float(np.mean(groups[sigma][depth]))] for depth in tried]
        image = axes.pcolormesh([n, n + 1], edges, cells, cmap="viridis", vmin=0.1, vmax=1)
    where = np.linspace(sigmas[0], sigmas[-1], 500)
    xi = np.array([6 * fixed_point("tanh", float(sigma), SIGMA_B).xi_c for sigma in where])
    xi[xi > top] = np.nan  # beyond the picture
    across = np.interp(where, sigmas, np.arange(len(sigmas)) + 0.5)
    axes.plot(across, xi, color="white", lw=4)
    axes.plot(across, xi, color="black", lw=2, label="6 xi_c, theory")
    halves = [(n + 0.5, half(groups[sigma])) for n, sigma in enumerate(sigmas)]
    marks = [(x, depth) for x, depth in halves if math.isfinite(depth)]
    axes.plot(*np.array(marks).T, "o", color="white", mec="black", ms=7, label="half of the runs train")
    axes.set_xticks(np.arange(len(sigmas)) + 0.5, [f"{sigma:g}" for sigma in sigmas])
    axes.set(yscale="log", xlim=(0, len(sigmas)), ylim=(bottom, top))
    axes.set_yticks(DEPTHS, list(map(str, DEPTHS)))
    axes.minorticks_off()
    axes.set(
        xlabel="sigma_w (standard deviation of the weights x root of their number of inputs)",
        ylabel="hidden layers (log scale)",
    )
    axes.set_title(
        f"tanh networks of width {found[0]['width']}, {IMAGES:,} images of {found[0]['data']}, after "
        f"{found[0]['steps']} steps (white: not tried)",
        fontsize=10,
    )
    figure.legend(loc="outside lower left", ncols=2, fontsize=9)
    figure.colorbar(image, ax=axes, label="accuracy on the images that are learnt, mean over the seeds")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--table", action="store_true", help="only the table and the picture, of the file that is there"
    )
    parser.add_argument("--data", default="mnist", choices=["sample", "mnist", "fashion-mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.0003)
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="these alone: others in the file stay")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    if not args.table:
        args.out.parent.mkdir(exist_ok=True)
        found = rows(args.out) if args.sigmas != SIGMAS else []
        sigmas = list(args.sigmas)
        for depth in sorted(args.depths):
            if not sigmas:
                break
            found = merged(found, new := train(depth, sigmas, args.seeds, args.steps, args.lr, args.data))
            write(args.out, found)
            sigmas = [sigma for sigma, of in accuracies(new).items() if max(of[depth]) > TRAINS]
        for depth, sigmas in sorted(middles(found).items() if args.sigmas == SIGMAS else ()):
            found = merged(found, train(depth, sigmas, args.seeds, args.steps, args.lr, args.data))
            write(args.out, found)
    found = rows(args.out)
    print("\n".join(table(found)))
    picture(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
