"""How much runs of cnn-emnist lose where test pictures are moved by some pixels.

    ETUDE_DATA=... uv run --all-packages python benchmarks/moved.py STUDY/SETTING/seed=N ...

The first 2,000 test pictures as they are, and moved by so many pixels to each of the four sides, with the background
behind them: mean accuracy. Adds to packages/cnn-emnist/results/moved.csv.
"""

import sys
from pathlib import Path

import torch
from rows import put
from torch import Tensor
from torch.nn import functional as F

from cnn_emnist import data
from cnn_emnist.config import PACKAGE
from etude import cli

FILE = Path(__file__).parents[1] / "packages/cnn-emnist/results/moved.csv"
PICTURES, PIXELS = 2000, (0, 1, 2, 4)


def moved(images: Tensor, pixels: int) -> list[Tensor]:
    """Float [N, H, W], moved to each side by so many pixels; as they are by none."""
    wide = F.pad(images, (pixels,) * 4)
    high, broad = images.shape[1:]
    starts = dict.fromkeys([(pixels, 0), (pixels, 2 * pixels), (0, pixels), (2 * pixels, pixels)])
    return [wide[:, top : top + high, left : left + broad] for top, left in starts]


def main(runs: list[str]) -> None:
    for run in (Path(run).absolute() for run in runs):
        task = cli.restored(PACKAGE, run)
        task.model.eval()
        part = data.load(task.config.data, 0).test
        images, labels = torch.as_tensor(part.images[:PICTURES]), torch.as_tensor(part.labels[:PICTURES])
        study, setting, seed = run.parts[-3:]
        about = {"study": study, "setting": setting, "seed": seed.removeprefix("seed=")}
        for pixels in PIXELS:
            hits = [(task.probabilities(some).argmax(1) == labels).float().mean() for some in moved(images, pixels)]
            row = about | {"pixels": pixels, "accuracy": f"{float(torch.stack(hits).mean()):.6g}"}
            put(FILE, [row], *about, "pixels")
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
