"""Training an autoencoder of pictures against the usual tutorial VAE loop, in one process, in turns.

    uv run --package cifar-vae python benchmarks/cifar.py [--data FOLDER] [flags of cifar-vae train]

The tutorial's side has the form of PyTorch's own VAE example (github.com/pytorch/examples, vae/main.py): a DataLoader
over PIL images with a random mirror image and ToTensor, fp32, the default memory format, Adam, the loss read at every
step. Both sides train the same network on the same pictures with the same batch size, for as many steps. Ours is a step
of `fit`, with its pictures, augmentation, totals and optimiser: in the precision that `auto` takes here, and in fp32,
which compares the loops alone.
"""

import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cifar_vae import restoring, task
from cifar_vae.config import Config
from cifar_vae.model import Autoencoder
from etude import config
from etude.train import device, optim
from etude.train.step import Learner, Step, train_step

STEPS, ROUNDS, WARM = 40, 3, 3


class Pictures(Dataset[torch.Tensor]):
    """What a tutorial does for each picture."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures.transpose(0, 2, 3, 1)
        self.prepare = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, n: int) -> torch.Tensor:
        prepared: torch.Tensor = self.prepare(Image.fromarray(self.pictures[n]))
        return prepared


def tutorial(parsed: Config, pictures: np.ndarray, where: torch.device) -> float:
    """Seconds of STEPS steps."""
    torch.manual_seed(0)
    model = Autoencoder(parsed.model).to(where)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    began = 0.0
    for count, data in enumerate(DataLoader(Pictures(pictures), batch_size=parsed.fit.batch_size, shuffle=True)):
        if count == WARM:
            began = time.perf_counter()
        if count == STEPS + WARM:
            break
        x = data.to(where) * 2 - 1
        optimizer.zero_grad()
        coded = model.encode(x)
        noise = torch.randn_like(coded.mean)
        read = model.read(coded, noise)
        loss = restoring.squares(x, model.decode(read.latent)).sum()
        if coded.log_variance is not None:
            loss = loss + restoring.divergence(coded.mean, coded.log_variance).sum()
        loss.backward()
        loss.item()
        optimizer.step()
    return time.perf_counter() - began


def ours(parsed: Config, one: restoring.Restoring, where: device.Device) -> float:
    """Seconds of STEPS steps."""
    learner = Learner(one, parsed.fit, where)
    one.model.train()
    plan, began = one.plan("train", 1, parsed.fit.batch_size), 0.0
    for number in range(STEPS + WARM):
        if number == WARM:
            began = time.perf_counter()
        lr = optim.learning_rate(parsed.fit, 0.5)
        totals, _ = train_step(learner, Step(1, number, plan[number], lr))
        float(totals.mean("loss"))
    return time.perf_counter() - began


def main() -> None:
    parsed = config.parse(Config, ["--model.kind", "vae", "--fit.epochs", "1", *sys.argv[1:]])
    where = device.choose(parsed.fit)
    one = task.make(parsed, where.where)
    assert isinstance(one, restoring.Restoring)
    count = STEPS * parsed.fit.batch_size
    print(f"{STEPS} steps of {parsed.fit.batch_size} pictures, {where}; {one.summary}")
    sides = {"ours": where, "ours in fp32": replace(where, precision="fp32")}
    times: dict[str, list[float]] = {name: [] for name in (*sides, "tutorial")}
    for number in range(ROUNDS):
        for name, device_of in sides.items():
            times[name].append(ours(parsed, one, device_of))
        times["tutorial"].append(tutorial(parsed, one.dataset.train.pictures, where.where))
        speeds = ", ".join(f"{name} {count / found[-1]:,.0f} pictures/s" for name, found in times.items())
        print(f"round {number + 1}: {speeds}")
    for name in sides:
        ratio = statistics.median(times["tutorial"]) / statistics.median(times[name])
        print(f"{name}: {ratio:.2f} times as fast as the tutorial's loop (median of {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
