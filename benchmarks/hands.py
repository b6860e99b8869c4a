"""Letters that other hands have written, as picture files: are they read by a network that never saw such hands?

    ETUDE_DATA=.../letters cnn-emnist train --data emnist-letters --run RUN   # and evaluate RUN
    ETUDE_DATA=... python benchmarks/hands.py --command "cnn-emnist train ..." RUN ...   # adds to results/hands.csv
    python benchmarks/hands.py                                                 # prints the table

The letters are those of $ETUDE_DATA/EMNIST, both parts, of another source than what RUN was trained on, which is for
the caller to see to. Each is written as a PNG file of 40 to 380 pixels, with margins of any width, dark on light or
light on dark, and read as `predict` reads it.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import finished
import numpy as np
import torch
from PIL import Image
from rows import Row, put, rows
from torch import Tensor

from cnn_emnist import data, task
from cnn_emnist.config import Config

RESULTS = Path(__file__).parents[1] / "packages/cnn-emnist/results/hands.csv"


def letters() -> tuple[Tensor, Tensor]:
    """All letters of $ETUDE_DATA/EMNIST: uint8 [N, 28, 28], int64 [N]."""
    found = data.load("emnist-letters", 0)
    parts = found.train, found.valid, found.test
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


def write(letter: Tensor, file: Path, random: np.random.Generator) -> None:
    """A letter as a picture: enlarged, somewhere on a sheet of paper, in either polarity."""
    size = int(random.integers(40, 381))
    ink = Image.fromarray(letter.numpy()).resize((size, size), Image.Resampling.BICUBIC)
    left, top, right, bottom = random.integers(0, 1 + size // 2, 4).tolist()
    sheet = Image.new("L", (left + size + right, top + size + bottom), 0)
    sheet.paste(ink, (left, top))
    (sheet if random.random() < 0.5 else Image.eval(sheet, lambda grey: 255 - grey)).save(file)


def read(run: Path) -> dict[str, object]:
    """What a finished, evaluated run makes of the letters."""
    _, predictor = finished.restored(run, Config, task)
    assert isinstance(predictor, task.Predictor)
    images, labels = letters()
    random = np.random.default_rng(0)
    framed = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "letter.png"
        for letter in images:
            write(letter, file, random)
            framed.append(task.read(file, predictor.side, predictor.spread))
    answers = predictor.probabilities(torch.stack(framed)).argmax(1)
    start = json.loads((run / "environment.json").read_text("utf-8"))[0]
    own = json.loads((run / "test.json").read_text("utf-8"))["accuracy"]
    right = float((answers == labels).double().mean())
    return {"seed": start["seed"], "letters": len(labels), "own": own, "others": right, "commit": start["git"]}


def table(found: list[Row]) -> list[str]:
    lines = ["| command | seeds | letters of its own test part | of other hands, as PNG files |", "|---|---|---:|---:|"]
    for command in dict.fromkeys(row["command"] for row in found):
        some = [row for row in found if row["command"] == command]
        told = []
        for column in ("own", "others"):
            values = [100 * float(row[column]) for row in some]
            told.append(f"{np.mean(values):.1f} % ({', '.join(f'{value:.1f}' for value in values)})")
        lines.append(f"| `{command}` | {', '.join(row['seed'] for row in some)} | {told[0]} | {told[1]} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", help="that made the runs: their lines replace those of it that are there")
    parser.add_argument("runs", nargs="*", type=Path)
    given = parser.parse_args()
    if given.runs:
        put(RESULTS, [{"command": given.command, **read(run)} for run in given.runs], "command")
    print(*table(rows(RESULTS)), sep="\n")


if __name__ == "__main__":
    main()
