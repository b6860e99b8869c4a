"""How the errors of single pictures are spread, for autoencoders of cifar-vae: means over the test part of their data.

    ETUDE_DATA=... uv run --package cifar-vae python benchmarks/pictures.py RUN ...

The mean is what `evaluate` calls mse. The geometric mean is what the Gaussian loss minimises, whose variance is one
number for each picture. `best_tenth` and `worst_tenth` are means over the pictures of this run with the least and the
largest errors. Adds to packages/cifar-vae/results/pictures.csv.
"""

import sys
from pathlib import Path

import torch
from rows import put

from cifar_vae import data, pictures
from cifar_vae.config import PACKAGE, VALUES
from cifar_vae.restoring import squares
from etude import cli

FILE = Path(__file__).parents[1] / "packages/cifar-vae/results/pictures.csv"


def errors(run: Path) -> torch.Tensor:
    """Of each test picture, float64 [N], per value in [0, 1]."""
    task = cli.restored(PACKAGE, run)
    task.model.eval()
    images = torch.as_tensor(data.load(task.config.data).test.pictures)
    return squares(task.decoded(task.latents(images)).double(), pictures.plain(images)) / (4 * VALUES)


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        found = errors(run).sort().values
        tenth = len(found) // 10
        spread = {
            "mean": found.mean(),
            "geometric_mean": found.log().mean().exp(),
            "median": found.median(),
            "best_tenth": found[:tenth].mean(),
            "worst_tenth": found[-tenth:].mean(),
        }
        study, setting, seed = run.absolute().parts[-3:]
        about = {"study": study, "setting": setting, "seed": seed.removeprefix("seed=")}
        put(FILE, [about | {name: f"{float(value):.5f}" for name, value in spread.items()}], *about)
        print(run, {name: f"{float(value):.5f}" for name, value in spread.items()}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
