"""What `cifar-vae demo` shows: a picture and its restoration, and what some numbers of its latent stand for."""

import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cifar_vae import data, pictures, sample
from cifar_vae.classifying import Classifier
from cifar_vae.config import VALUES
from cifar_vae.restoring import Restorer, squares
from etude.demo.page import NOTHING, Answer, Bars, Demo, Panel, Photo, Pictures, Slider, likeliest, picture, sure

SLIDERS, LIKELIEST = 6, 5
SCENES = 200  # drawn ones, of which the spread of the latent is taken
REACH = 3.0  # standard deviations


def demo(task: Restorer | Classifier) -> Demo:
    if isinstance(task, Classifier):
        return classifying(task)
    numbers = task.model.places * task.model.size
    scenes = torch.from_numpy(sample.drawn("valid", SCENES)[0])
    latents = task.latents(scenes).flatten(1)
    mean, sd = latents.mean(0), latents.std(0)
    moving = strongest(task, mean, sd)

    def restored(image: Image.Image | None) -> Answer:
        """Seen and restored as `predict` does it."""
        if image is None:
            return NOTHING
        seen = torch.from_numpy(data.square(image))[None]
        found = task.decoded(task.latents(seen)).clamp(-1, 1)
        error = float(squares(pictures.plain(seen), found)[0] / (4 * VALUES))
        shown = [("what it sees, 32 × 32", shown_of(pictures.plain(seen)[0])), ("restored", shown_of(found[0]))]
        ratio = -10 * math.log10(max(error, 1e-12))
        return Answer(
            f"PSNR {ratio:.2f} dB", [Pictures("There and back", shown)], f"squared error {error:.5f} per value"
        )

    def moved(image: Image.Image | None, **by: float) -> Answer:
        start = mean if image is None else task.latents(torch.from_numpy(data.square(image))[None]).flatten(1)[0]
        latent = start.clone()
        for number, step in zip(moving, by.values(), strict=True):
            latent[number] += step * sd[number]
        both = task.decoded(torch.stack([start, latent]).view(2, task.model.places, task.model.size))
        shown = [("as it is", shown_of(both[0])), ("with the sliders", shown_of(both[1]))]
        changed = [f"{step:+.1f}" for step in by.values() if step]
        headline = f"{len(changed)} of {numbers:,} numbers moved"
        return Answer(headline, [Pictures("What the numbers stand for", shown)])

    sliders = [Slider(f"n{n}", f"Number {n + 1}", -REACH, REACH, 0.1) for n in moving]
    return Demo(
        "What is left of a picture in a few numbers?",
        f"Give it a picture: it becomes {numbers:,} numbers, and a picture again from these alone.",
        [
            Panel("Restore", [Photo("image", "A picture; its middle square is taken", least=data.LEAST)], restored),
            Panel(
                "Numbers",
                [Photo("image", "A picture, if you like", least=data.LEAST), *sliders],
                moved,
                f"The {len(sliders)} numbers that change the picture most, in standard deviations of {SCENES} drawn "
                "scenes; without a picture it begins with their mean.",
            ),
        ],
        "The higher PSNR is, the more alike they are: it is -10 log10 of the mean squared error of values between "
        "0 and 1, of what the model sees, not of the picture that you gave.",
    )


def strongest(task: Restorer, mean: Tensor, sd: Tensor) -> list[int]:
    """Which numbers of the latent change the picture most, moved by a standard deviation from the mean."""
    shape = (-1, task.model.places, task.model.size)
    most = min(len(mean), 512)  # of a latent of thousands only the first
    moved = mean + torch.diag(sd)[:most]
    apart = (task.decoded(moved.view(shape)) - task.decoded(mean.view(shape))).square().flatten(1).sum(1)
    return sorted(apart.topk(min(SLIDERS, most)).indices.tolist())


def shown_of(image: Tensor) -> str:
    """Of a picture [3, 32, 32] in [-1, 1]."""
    values: Any = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return picture(Image.fromarray(values))


def classifying(task: Classifier) -> Demo:
    def answer(image: Image.Image | None) -> Answer:
        if image is None:
            return NOTHING
        seen = torch.from_numpy(data.square(image))[None]
        bars = likeliest(task.probabilities(seen)[0], task.classes, LIKELIEST)
        shown = Pictures("What it sees", [("32 × 32", shown_of(pictures.plain(seen)[0]))])
        return Answer(bars[0][0], [Bars(f"The likeliest {len(bars)}", bars), shown], sure(bars[0][1]))

    return Demo(
        "What is on the picture?",
        "Give it a picture: it is told from the latent of an autoencoder that never saw a class.",
        [Panel("Picture", [Photo("image", "A picture; its middle square is taken", least=data.LEAST)], answer)],
        f"It knows {len(task.classes)} classes and always names one of them.",
    )
