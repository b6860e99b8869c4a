"""How the errors of single pictures are spread, for autoencoders of cifar-vae: means over the test part of their data.

    ETUDE_DATA=... uv run --package cifar-vae python benchmarks/pictures.py RUN ...

The mean is what `evaluate` calls mse, but of restored pictures that are cut to the range of pixels, by which it is up
to half a per cent less. The geometric mean is what the Gaussian loss minimises, whose variance is one number for each
picture. `best_tenth` and `worst_tenth` are means over the pictures of this run with the least and the largest errors;
`rim` and `inside` over the pixels less than four from an edge, which `data.augment shift` makes up, and the others.
Adds to packages/cifar-vae/results/pictures.csv.
"""

import sys
from pathlib import Path

import torch
from rows import place_of, put

from cifar_vae import data, pictures
from cifar_vae.config import PACKAGE, VALUES
from cifar_vae.restoring import squares
from etude import cli

FILE = Path(__file__).parents[1] / "packages/cifar-vae/results/pictures.csv"


def errors(run: Path) -> tuple[torch.Tensor, float, float]:
    """Of each test picture, float64 [N], per value in [0, 1]; and means over all of them, of the rim and the inside."""
    task = cli.restored(PACKAGE, run)
    task.model.eval()
    images = torch.as_tensor(data.load(task.config.data).test.pictures)
    restored, images = task.decoded(task.latents(images)).clamp(-1, 1).double(), pictures.plain(images)
    inside = slice(pictures.REACH, -pictures.REACH)
    place = torch.zeros(restored.shape[2:], dtype=torch.bool)
    place[inside, inside] = True
    by_pixel = (restored - images).square().mean((0, 1)) / 4
    return squares(restored, images) / (4 * VALUES), float(by_pixel[~place].mean()), float(by_pixel[place].mean())


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        each, rim, inside = errors(run)
        found = each.sort().values
        tenth = len(found) // 10
        spread = {
            "mean": float(found.mean()),
            "geometric_mean": float(found.log().mean().exp()),
            "median": float(found.median()),
            "best_tenth": float(found[:tenth].mean()),
            "worst_tenth": float(found[-tenth:].mean()),
            "rim": rim,
            "inside": inside,
        }
        about = place_of(run)
        put(FILE, [about | {name: f"{value:.5f}" for name, value in spread.items()}], *about)
        print(run, {name: f"{value:.5f}" for name, value in spread.items()}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
