"""The default training against the loop of the PyTorch tutorials, on Fashion-MNIST, in one process, in turns.

    uv run --package cnn-emnist python benchmarks/tutorial.py

The tutorial's side is its quickstart (https://pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html): a
DataLoader over torchvision's dataset with ToTensor, fp32, the default memory format, an optimiser step per batch. Both
sides train the default network with the same batch size and optimiser. Ours also distorts every image.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from fit import BATCHES, Part, with_fit
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

from cnn_emnist.config import Config
from cnn_emnist.model import CNN
from etude import config
from etude.download import root
from etude.train import device
from etude.train.task import Split

ROUNDS = 3


class Slice(Part):
    """No validation to speak of: a tutorial's epoch is training."""

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        return super().plan(split, epoch, batch_size)[: None if split == "train" else 1]


def tutorial(parsed: Config, where: device.Device) -> float:
    torch.manual_seed(0)
    training_data = datasets.FashionMNIST(root=str(root()), train=True, download=False, transform=ToTensor())
    began = time.perf_counter()
    train_dataloader = DataLoader(training_data, batch_size=parsed.fit.batch_size, shuffle=True)
    model = nn.Sequential(nn.Flatten(1, 2), CNN(parsed.model, 10)).to(where.where)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for batch, (images, labels) in enumerate(train_dataloader):
        if batch == BATCHES:
            break
        X, y = images.to(where.where), labels.to(where.where)
        loss = loss_fn(model(X), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if where.where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(flags: list[str]) -> float:
    """How many times as fast as the tutorial the default training is."""
    parsed = config.parse(Config, ["--data", "fashion-mnist", "--fit.epochs", "1", *flags])
    where = device.choose(parsed.fit)
    print(f"{BATCHES} batches of {parsed.fit.batch_size}, {where}")
    times: list[tuple[float, float]] = []
    with TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            times.append((with_fit(parsed, where, Path(folder) / str(number), Slice), tutorial(parsed, where)))
            images = BATCHES * parsed.fit.batch_size
            print(
                f"round {number + 1}: ours {images / times[-1][0]:,.0f} images/s, tutorial {images / times[-1][1]:,.0f}"
            )
    ratio = statistics.median(b for _, b in times) / statistics.median(a for a, _ in times)
    print(f"the default training is {ratio:.2f} times as fast as the tutorial's loop (median of {ROUNDS} rounds)")
    return ratio


if __name__ == "__main__":
    measure(sys.argv[1:])
