"""What the greys of a picture say, without any shape: of letters and of garments.

    ETUDE_DATA=... uv run --package cnn-emnist python benchmarks/greys.py emnist-letters|fashion-mnist ...

Logistic regression (scikit-learn) on how many pixels have each of 16 greys, in the whole picture and in each of 3 x 3
places, which are what a network of `study kernel-size` and `study fashion-kernel-size` with kernels of one pixel has
left after its three poolings. Trained on the training part, scored on the test part. Adds to
packages/cnn-emnist/results/greys.csv, a row a data set and a number of places.
"""

import sys
from pathlib import Path

import numpy as np
from rows import put
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cnn_emnist.data import Dataset, load

FILE = Path(__file__).parents[1] / "packages/cnn-emnist/results/greys.csv"
GREYS = 16


def greys(images: Tensor, side: int) -> np.ndarray:
    """uint8 [N, 28, 28] -> how many pixels have each grey in each of side x side places, [N, side * side * GREYS]."""
    level = images.long() * GREYS // 256
    places = [place for rows in level.tensor_split(side, 1) for place in rows.tensor_split(side, 2)]
    return np.stack([(place == grey).sum((1, 2)).numpy() for place in places for grey in range(GREYS)], 1)


def accuracy(data: Dataset, side: int) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(greys(data.train.images, side), data.train.labels.numpy())
    return float(model.score(greys(data.test.images, side), data.test.labels.numpy()))


def main(names: list[str]) -> None:
    for name in names:
        data = load(name, 0)
        for side in (1, 3):
            found = {"data": name, "places": side**2, "test_accuracy": f"{accuracy(data, side):.4f}"}
            print(found)
            put(FILE, [found], "data", "places")


if __name__ == "__main__":
    main(sys.argv[1:])
