"""Two checks of grad-flow: why tanh with sigma_w = 4 learns more than with 3, and why ReLUs with He's weights differ.

`python benchmarks/whys.py` trains a network of `study exploding` at 3 and one at 4 (seed 0, lr 0.03) with
`--fit.watch`, draws 40 networks of 16 layers of ReLUs for each of three settings, and writes
packages/grad-flow/results/whys.csv, which has the numbers that the README names.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rows import Row, write

from grad_flow import flow
from grad_flow.__main__ import main as grad_flow
from grad_flow.config import Model
from grad_flow.data import load
from grad_flow.model import DeepDenseNet

FILE = Path(__file__).parents[1] / "packages/grad-flow/results/whys.csv"
STEPS = (0, 1, 5, 20)
LAYERS = (1, 16)
NETWORKS = 40


def explosion(sigma_w: int) -> list[Row]:
    """How far each of the first steps moves the first layer, relative to its norm, and how many units saturate."""
    with TemporaryDirectory() as folder:
        flags = "--model.activation tanh --model.initialisation sigma --model.sigma-b 0.2236 --model.depth 32 "
        flags += (
            f"--model.width 64 --fit.optimizer sgd --fit.epochs 20 --fit.lr 0.03 --fit.watch --model.sigma-w {sigma_w}"
        )
        if grad_flow(["train", *flags.split(), "--run", f"{folder}/run"]):
            raise SystemExit(1)
        with np.load(f"{folder}/run/watch.npz") as found:
            update, saturated = found["update"], found["saturated"]
    rows = []
    for step in STEPS:
        numbers = {"update of layer 1": update[step, 0]}
        numbers |= {f"saturated in layer {layer}": saturated[step, layer - 1] for layer in LAYERS}
        about = {"check": "explosion", "setting": f"sigma_w {sigma_w}", "step": str(step)}
        rows += [about | {"quantity": name, "value": f"{value:.4g}"} for name, value in numbers.items()]
    return rows


def spread(initialisation: str, width: int) -> list[Row]:
    """Over networks, of the logarithm: the first layer's part of the gradient, and the last matrix's gradient."""
    part = load("sample", 0).train
    images, labels = part.images[:128].float(), part.labels[:128]
    ratios, last = [], []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        model = DeepDenseNet(64, Model(depth=16, width=width, activation="relu", initialisation=initialisation))  # type: ignore[arg-type]
        model.mean.fill_(images.mean())
        model.std.fill_(images.std())
        found = flow.measure(model, images, labels).gradients
        ratios.append(np.log(found.signals[0] / found.signals[-1]))
        last.append(np.log(found.weights[-1]))
    about = {"check": "spread", "setting": f"{initialisation}, width {width}", "step": "0"}
    numbers = {"first / last, mean": np.mean(ratios), "first / last": np.std(ratios), "last matrix": np.std(last)}
    return [about | {"quantity": name, "value": f"{value:.4g}"} for name, value in numbers.items()]


if __name__ == "__main__":
    found = explosion(3) + explosion(4) + spread("he", 64) + spread("lecun", 64) + spread("he", 256)
    write(FILE, found)
    print(FILE.read_text("utf-8"), end="")
