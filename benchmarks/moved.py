"""How much runs of cnn-emnist lose where test pictures are moved by some pixels.

    ETUDE_DATA=... uv run --all-packages python benchmarks/moved.py STUDY/SETTING/seed=N ...

The first 2,000 test pictures as they are, and moved by so many pixels to each of the four sides, with the background
behind them: mean accuracy. Adds to packages/cnn-emnist/results/moved.csv.
"""

import sys
from pathlib import Path

import torch
from rows import place_of, put
from torch import Tensor
from torch.nn import functional as F

from cnn_emnist import data
from cnn_emnist.config import PACKAGE
from etude import cli

FILE = Path(__file__).parents[1] / "packages/cnn-emnist/results/moved.csv"
PICTURES, PIXELS = 2000, (0, 1, 2, 4)


def moved(images: Tensor, pixels: int) -> list[Tensor]:
    """uint8 [N, 28, 28], moved to each side by so many pixels; as they are by none."""
    wide = F.pad(images, (pixels,) * 4)
    high, broad = images.shape[1:]
    starts = dict.fromkeys([(pixels, 0), (pixels, 2 * pixels), (0, pixels), (2 * pixels, pixels)])
    return [wide[:, top : top + high, left : left + broad] for top, left in starts]


def main(runs: list[str]) -> None:
    for run in map(Path, runs):
        task = cli.restored(PACKAGE, run)
        part, about = data.load(task.config.data, 0).test, place_of(run)
        images, labels, found = part.images[:PICTURES], part.labels[:PICTURES], []
        for pixels in PIXELS:
            hits = [(task.probabilities(some).argmax(1) == labels).float().mean() for some in moved(images, pixels)]
            found.append(about | {"pixels": pixels, "accuracy": f"{float(torch.stack(hits).mean()):.6g}"})
        put(FILE, found, *about)
        print(run, {row["pixels"]: row["accuracy"] for row in found}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
