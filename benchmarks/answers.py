"""How long the demos take to answer where they take longest: the most that their pages accept, or a telephone's photo.

    uv run --all-packages python benchmarks/answers.py

Without the browser and its request, medians. grad-flow: the deepest and widest network that can be chosen, one that was
not drawn before each time, for each initialisation. imdb-rnn: a review of 5,000 characters, read by a network of the
size that preset `best` has, and what each word speaks for, which the page asks for later. cifar-vae and cnn-emnist: a
JPEG of 12 million pixels. These three are trained here for an epoch on the sample, as times do not depend on how well.
"""

import base64
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from etude import cli
from etude.demo.page import Demo
from grad_flow.config import Model
from grad_flow.demo import INITIALISATIONS, WIDTHS, demo
from imdb_rnn.demo import LONGEST

DEPTH, TIMES = 40, 15
LANGUAGE = "--language.embedding 256 --language.layers 1 --language.bidirectional"  # as the preset `language` has them
TRAINED = {
    "imdb-rnn": f"train language --data sample {LANGUAGE} --fit.epochs 1 --run language\n"
    "train best --data sample --model.start language --model.adversarial 0 --fit.epochs 1 --run run",
    "cifar-vae": "train --fit.epochs 1 --run run",
    "cnn-emnist": "train --data sample --fit.epochs 1 --run run",
}


def median(asked: Callable[[], Any]) -> float:
    """Seconds that it takes, the first time left out."""
    took = []
    for _ in range(TIMES + 1):
        before = time.perf_counter()
        asked()
        took.append(time.perf_counter() - before)
    return statistics.median(took[1:])


def flow() -> float:
    """The longest of all initialisations."""
    task: Any = SimpleNamespace(config=SimpleNamespace(model=Model()))
    (panel,) = demo(task).panels
    took = {}
    for initialisation in INITIALISATIONS:
        numbers = map(partial(panel.answer, DEPTH, WIDTHS[-1], "relu", initialisation, 1.4), range(TIMES + 1))
        took[initialisation] = median(partial(next, numbers))
        print(f"{1e3 * took[initialisation]:5.0f} ms  {initialisation}, {DEPTH} layers of {WIDTHS[-1]}")
    return max(took.values())


def trained(name: str) -> Demo:
    """The page of a run of this task, which is trained first."""
    module = name.replace("-", "_")
    with TemporaryDirectory() as folder:
        for words in TRAINED[name].splitlines():
            subprocess.run([sys.executable, "-m", module, *words.split()], cwd=folder, check=True, capture_output=True)
        task = cli.restored(import_module(f"{module}.config").PACKAGE, Path(folder, "run"))
    page: Demo = import_module(f"{module}.demo").demo(task)
    return page


def review() -> tuple[float, float]:
    """The answer to the longest review, and what comes later."""
    (panel,) = trained("imdb-rnn").panels
    text = ("the plot is dull and i did not like it but the actors are superb . " * LONGEST)[:LONGEST]
    later = panel.answer(text).later
    assert later is not None
    took = median(partial(panel.answer, text)), median(later)
    for what, seconds in zip(("the answer", "and later what each word speaks for"), took, strict=True):
        print(f"{1e3 * seconds:5.0f} ms  imdb-rnn, {LONGEST:,} characters: {what}")
    return took


def photo() -> str:
    """A JPEG of 4,000 x 3,000 pixels in base64: something dark on paper that is unevenly lit, with a camera's noise."""
    draw = np.random.default_rng(0)
    sheet = Image.new("L", (4000, 3000), 225)
    sheet.paste(60, (1500, 900, 1800, 2100))
    sheet.paste(60, (1500, 900, 2500, 1150))
    light = np.asarray(sheet.filter(ImageFilter.GaussianBlur(4)), np.float32) - np.linspace(0, 40, 4000)
    pixels = light[..., None] + draw.normal(0, 5, (3000, 4000, 3))
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode()


def pictures() -> dict[str, float]:
    """From what the page sends to the answer."""
    sent, took = photo(), {}
    for name, number in (("cifar-vae", 0), ("cnn-emnist", 1)):
        panel = trained(name).panels[number]
        took[name] = median(partial(panel.answered, {"image": sent}))
        print(f"{1e3 * took[name]:5.0f} ms  {name}, a JPEG of 12 million pixels ({len(sent) * 3 // 4 / 1e6:.1f} MB)")
    return took


def measure() -> dict[str, float]:
    """Prints what each takes; returns the seconds."""
    print(f"{torch.get_num_threads()} threads")
    found = {"demo": flow()}
    found["demo-review"], found["demo-words"] = review()
    return found | {f"demo-{name}": seconds for name, seconds in pictures().items()}


if __name__ == "__main__":
    measure()
