"""Which networks train at all: accuracy after a fixed budget over (sigma_w, depth), and the theory's depth of 6 xi_c.

`python benchmarks/trainability.py` trains tanh networks (sigma_b^2 = 0.05) on MNIST, as Schoenholz et al. 2017 do for
their figure 5, all of one depth as one program, and writes packages/grad-flow/results/trainability.csv, a line a run.
Then it prints the table of the README and draws trainability.png beside the file, which `--table` does from that file
alone. A run trains if its test accuracy is above 55 %, half-way between chance and none wrong. The depth at which half
of the runs do is read off between two depths of the grid, on a logarithmic scale; with several learning rates each
setting and depth has the best of them.
"""

import argparse
import csv
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude import draw
from grad_flow.config import SIDES, Model
from grad_flow.data import load
from grad_flow.model import DeepDenseNet
from grad_flow.theory import fixed_point

FILE = Path(__file__).parents[1] / "packages/grad-flow/results/trainability.csv"
SIGMAS = (0.5, 0.75, 1.0, 1.1, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0)
DEPTHS = (4, 6, 8, 11, 16, 23, 32, 45, 64)
SIGMA_B = 0.05**0.5
WIDTH, BATCH, SCORED = 128, 100, 1000
TRAINS = 0.55
Row = dict[str, str]


def train(depth: int, seeds: int, steps: int, lr: float, data: str) -> list[Row]:
    """All networks of this depth, R = seeds x sigmas, as one: their weights are stacked, [R, out, in]."""
    images = load(data, 0)
    runs = [(sigma, seed) for sigma in SIGMAS for seed in range(seeds)]
    models = []
    for sigma, seed in runs:
        torch.manual_seed(seed)
        knobs = Model(depth, WIDTH, "tanh", "sigma", sigma, SIGMA_B)
        models.append(DeepDenseNet(SIDES[data] ** 2, knobs))
    hidden: list[list[Any]] = [list(model.hidden) for model in models]
    layers = [[*(layer.linear for layer in of), model.classify] for of, model in zip(hidden, models, strict=True)]
    weights = [torch.stack([of[n].weight.detach() for of in layers]).requires_grad_() for n in range(depth + 1)]
    biases = [torch.stack([of[n].bias.detach() for of in layers])[:, None].requires_grad_() for n in range(depth + 1)]
    mean, std = images.train.images.float().mean(), images.train.images.float().std()

    def logits(x: Tensor) -> Tensor:
        """[B, s, s] -> [R, B, K]."""
        x = ((x.float() - mean) / std).flatten(1).expand(len(runs), -1, -1)
        for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.mT)
            x = x.tanh() if n < depth else x
        return x

    optimizer = torch.optim.SGD([*weights, *biases], lr, momentum=0.9)
    order = np.concatenate([draw.shuffled(len(images.train.labels), 0, epoch) for epoch in range(1, 3)])
    for step in range(steps):
        ids = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
        found, labels = logits(images.train.images[ids]), images.train.labels[ids]
        loss = F.cross_entropy(found.flatten(0, 1), labels.repeat(len(runs)), reduction="sum") / len(ids)
        optimizer.zero_grad()
        loss.backward()  # of the sum over runs, each of which has its own weights
        optimizer.step()
    with torch.no_grad():
        right = logits(images.test.images[:SCORED]).argmax(2) == images.test.labels[:SCORED]
    about = {"data": data, "width": str(WIDTH), "depth": str(depth), "lr": f"{lr:g}", "steps": str(steps)}
    return [
        about | {"sigma_w": f"{sigma:g}", "seed": str(seed), "accuracy": f"{accuracy:.4f}"}
        for (sigma, seed), accuracy in zip(runs, right.float().mean(1).tolist(), strict=True)
    ]


def rows(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def accuracies(found: list[Row]) -> dict[float, dict[int, list[float]]]:
    """sigma_w -> depth -> the accuracy of each seed, with the learning rate of the highest mean of these seeds."""
    groups: dict[tuple[float, int, float], list[float]] = defaultdict(list)
    for row in found:
        groups[float(row["sigma_w"]), int(row["depth"]), float(row["lr"])].append(float(row["accuracy"]))
    best: dict[float, dict[int, list[float]]] = defaultdict(dict)
    for (sigma, depth, _), values in sorted(groups.items()):
        if np.mean(values) > np.mean(best[sigma].get(depth, [0.0])):
            best[sigma][depth] = values
    return best


def half(of: dict[int, list[float]]) -> float:
    """The depth at which half of the runs train: of the last crossing, between two depths; inf if it lies beyond."""
    depths = sorted(of)
    parts = [float(np.mean(np.array(of[depth]) > TRAINS)) for depth in depths]
    for n in reversed(range(len(depths) - 1)):
        if parts[n] >= 0.5 > parts[n + 1]:
            way = (parts[n] - 0.5) / (parts[n] - parts[n + 1])
            return math.exp((1 - way) * math.log(depths[n]) + way * math.log(depths[n + 1]))
    return math.inf if parts[-1] >= 0.5 else math.nan


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

    best = accuracies(found)
    sigmas, depths = sorted(best), sorted(next(iter(best.values())))
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = np.array([[np.mean(best[sigma][depth]) for sigma in sigmas] for depth in depths])
    image = axes.pcolormesh(range(len(sigmas) + 1), range(len(depths) + 1), shown, cmap="viridis", vmin=0.1, vmax=1)
    where = np.linspace(sigmas[0], sigmas[-1], 200)
    xi = np.array([6 * fixed_point("tanh", float(sigma), SIGMA_B).xi_c for sigma in where])
    across = np.interp(where, sigmas, np.arange(len(sigmas)) + 0.5)
    up = np.interp(np.log(xi), np.log(depths), np.arange(len(depths)) + 0.5)
    up[xi > depths[-1]] = np.nan  # beyond the picture
    axes.plot(across, up, color="white", lw=4)
    axes.plot(across, up, color="black", lw=2, label="6 xi_c, theory")
    halves = [half(best[sigma]) for sigma in sigmas]
    marks = [
        (n + 0.5, np.interp(math.log(d), np.log(depths), np.arange(len(depths)) + 0.5))
        for n, d in enumerate(halves)
        if math.isfinite(d)
    ]
    axes.plot(*np.array(marks).T, "o", color="white", mec="black", ms=7, label="half of the runs train")
    axes.set_xticks(np.arange(len(sigmas)) + 0.5, [f"{sigma:g}" for sigma in sigmas])
    axes.set_yticks(np.arange(len(depths)) + 0.5, list(map(str, depths)))
    axes.set(
        xlabel="sigma_w (standard deviation of the weights x root of their number of inputs)", ylabel="hidden layers"
    )
    axes.set(xlim=(0, len(sigmas)), ylim=(0, len(depths)))
    axes.set_title(
        f"tanh networks of width {found[0]['width']} on {found[0]['data']} after {found[0]['steps']} steps", fontsize=10
    )
    figure.legend(loc="outside lower left", ncols=2, fontsize=9)
    figure.colorbar(image, ax=axes, label="test accuracy, mean over the seeds")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--table", action="store_true", help="only the table and the picture, of the file that is there"
    )
    parser.add_argument("--data", default="mnist", choices=["sample", "mnist", "fashion-mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.01])
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    if not args.table:
        args.out.parent.mkdir(exist_ok=True)
        found: list[Row] = []
        for depth in args.depths:
            for lr in args.lr:
                began = time.perf_counter()
                found += train(depth, args.seeds, args.steps, lr, args.data)
                print(f"depth {depth}, lr {lr:g}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            with args.out.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, found[0].keys(), lineterminator="\n")
                writer.writeheader()
                writer.writerows(found)
    found = rows(args.out)
    print("\n".join(table(found)))
    picture(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
